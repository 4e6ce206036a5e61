"""Events that workers send to the scheduler: plain data that passes between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robharness.store.failures import Failure
from robharness.store.spans import Span


@dataclass(frozen=True, kw_only=True)
class ModelLoaded:
    """A model is loaded and probed.

    state: hash of its parameters and buffers.
    batch_size: examples per pass.
    input_values: float32 values per example.
    provenance: of its outcomes in this worker, without that of the cells' own plugins.
    """

    state: str
    batch_size: int
    input_values: int
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelLoadFailed:
    """A model cannot be loaded.

    by, refutes: as in `errors.ContractViolation`.
    """

    error: str
    by: str
    refutes: str = ""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class CellStarted:
    """A cell of the current unit is being computed."""

    key: str


@dataclass(frozen=True, kw_only=True)
class CellFinished:
    """A cell is stored for a span, or has failed.

    failure: None if it is stored.
    right: the number of examples of the span whose prediction is the label; None if it is not known.
    seconds: of computation; 0 if they are not known.
    """

    key: str
    span: Span
    failure: Failure | None
    right: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BatchSizeReduced:
    """Memory was too small for `before` examples per pass; later passes have `after`."""

    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class UnitFinished:
    """A unit is finished, or was ended by `Worker.stop`.

    seconds: for the whole unit.
    waited: seconds of these without data to compute on.
    passes: of this unit, by kind, "forward" and "backward".
    """

    seconds: float
    waited: float
    passes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class WorkerWaits:
    """A worker has no place to compute yet. Its command goes on as soon as it has one.

    why: e.g. "no node has 1 free core".
    """

    why: str


@dataclass(frozen=True, kw_only=True)
class WorkerDied:
    """A worker is gone.

    how: e.g. "signal 9 (SIGKILL)".
    with_machine: whether its whole machine is gone, so that neither its unit nor its model can be the cause.
    """

    how: str
    with_machine: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkerFailed:
    """A worker met an error that ends it.

    error: a sentence; the whole traceback if `is_bug`.
    is_bug: whether the error is unexpected, and not one that the user can correct.
    """

    error: str
    is_bug: bool

    def unexpected_error(self) -> RuntimeError:
        """Return the error of another process as one of this process, with its traceback as a note."""
        error = RuntimeError(f"in a worker process: {self.error.strip().splitlines()[-1]}")
        error.add_note(self.error)
        return error


Event = (
    ModelLoaded
    | ModelLoadFailed
    | CellStarted
    | CellFinished
    | BatchSizeReduced
    | UnitFinished
    | WorkerWaits
    | WorkerDied
    | WorkerFailed
)
