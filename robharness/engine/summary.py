"""The summary of a run, which its record in the store shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from robharness.findings import Finding
from robharness.store.failures import Failure


@dataclass
class Speed:
    """The passes and the time of one model.

    model: its full name.
    rows: examples per pass.
    forward, backward: the number of passes.
    seconds: of all workers together.
    waited: seconds of these in which the model waited for data.
    """

    model: str
    rows: int
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass
class Summary:
    """The work of a run.

    computed: the number of outcomes, cells times examples.
    interrupted: whether Ctrl-C ended the run.
    finished: whether the run came to its end, by Ctrl-C or by itself.
    seconds: of wall-clock time.
    speed: by label of the model.
    """

    computed: int = 0
    failures: list[Failure] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    interrupted: bool = False
    finished: bool = False
    seconds: float = 0.0
    speed: dict[str, Speed] = field(default_factory=dict)
