"""Summary of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from robharness.store.failures import Failure


@dataclass
class Speed:
    """What computing a model took so far. model: its name; passes: of `rows` rows; seconds: of all processes together.

    waited: seconds that the model waited for data.
    """

    model: str
    rows: int
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass
class Summary:
    """What a run did. computed: cells times examples; interrupted: by Ctrl-C; speed: by label."""

    computed: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    finished: bool = False
    seconds: float = 0.0
    speed: dict[str, Speed] = field(default_factory=dict)
