"""Listeners that show the progress of runs and trainings."""

from __future__ import annotations

from typing import Any, Protocol

from robharness.planning.cells import Cell
from robharness.specs.sources import Progress
from robharness.store.failures import Failure
from robharness.store.spans import Span


class TrainingListener(Protocol):
    """A listener to the progress of trainings."""

    def trained(self, label: str, progress: Progress) -> None:
        """Show the progress of training the model with this label."""

    def message(self, message: str) -> None:
        """Show a sentence, such as a warning."""

    def finished(self) -> None:
        """Remove the progress display: the run or training has ended."""


class RunListener(TrainingListener, Protocol):
    """A listener to the progress of a run, and of the trainings before it."""

    def started(self, work: int, cells: int) -> None:
        """Begin to show progress.

        work: the number of missing outcomes, cells times examples.
        cells: the number of cells that miss any.
        """

    def cell_done(self, cell: Cell, span: Span, failure: Failure | None) -> None:
        """Show that a cell is computed for a span of positions, or has failed for it."""


class Silent:
    """A listener that shows nothing."""

    def started(self, work: int, cells: int) -> None: ...

    def cell_done(self, cell: Any, span: Any, failure: Any) -> None: ...

    def trained(self, label: str, progress: Any) -> None: ...

    def message(self, message: str) -> None: ...

    def finished(self) -> None: ...
