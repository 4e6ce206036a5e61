"""Listeners that are told about the progress of runs and trainings."""

from __future__ import annotations

from typing import Any, Protocol

from robharness.planning.cells import Cell
from robharness.specs.sources import Progress
from robharness.store.failures import Failure
from robharness.store.spans import Span


class TrainingListener(Protocol):
    """What is told of a training's progress."""

    def trained(self, label: str, progress: Progress) -> None:
        """How far the training of the model with this label is."""

    def message(self, message: str) -> None: ...

    def finished(self) -> None: ...


class RunListener(TrainingListener, Protocol):
    """What is told of a run's progress, and of the trainings before it."""

    def started(self, work: int, cells: int) -> None:
        """work: cells times examples that are missing, in so many cells."""

    def cell_done(self, cell: Cell, span: Span, failure: Failure | None) -> None: ...


class Silent:
    """A listener that says nothing."""

    def started(self, work: int, cells: int) -> None: ...

    def cell_done(self, cell: Any, span: Any, failure: Any) -> None: ...

    def trained(self, label: str, progress: Any) -> None: ...

    def message(self, message: str) -> None: ...

    def finished(self) -> None: ...
