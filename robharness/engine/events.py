"""Events that workers send to the scheduler: plain data that passes between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robharness.store.failures import Failure
from robharness.store.spans import Span


@dataclass(frozen=True, kw_only=True)
class ModelLoaded:
    """A model is loaded. state: the hash of its parameters and buffers; values: of one input; rows: of a pass.

    provenance: how its outcomes are made here, that of the cells' own plugins left out.
    """

    state: str
    rows: int
    values: int
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelLoadFailed:
    """A model cannot be loaded. by: whose fault it is, as in `errors.Violation`."""

    error: str
    by: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class CellStarted:
    """A cell is in hand."""

    key: str


@dataclass(frozen=True, kw_only=True)
class CellFinished:
    """A cell is stored for a span, or has failed."""

    key: str
    span: Span
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class BatchSizeReduced:
    """Memory was too small for `before` rows per pass; now they are `rows`."""

    before: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class UnitFinished:
    """A unit is over. waited: seconds for data; passes: of the model since it was loaded."""

    seconds: float
    waited: float
    passes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class WorkerDied:
    """The process is gone. how: e.g. "signal 9 (SIGKILL)"."""

    how: str


@dataclass(frozen=True, kw_only=True)
class WorkerFailed:
    """The process met what it cannot go on from. is_bug: of robharness; else the user can mend it."""

    error: str
    is_bug: bool


Event = (
    ModelLoaded
    | ModelLoadFailed
    | CellStarted
    | CellFinished
    | BatchSizeReduced
    | UnitFinished
    | WorkerDied
    | WorkerFailed
)
