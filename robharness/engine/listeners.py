"""Listeners that show the progress of runs and trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from robharness.engine.progress import RunProgress
from robharness.engine.units import Unit
from robharness.findings import Finding
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


@runtime_checkable
class ProgressListener(RunListener, Protocol):
    """A listener that also gets accuracies, units and findings.

    A listener without these methods gets findings as messages, such as "warning: a worker died".
    """

    def follow(self, progress: RunProgress) -> None:
        """Get the progress of the run, before `started`. It is up to date whenever it is read, from any thread."""

    def unit_done(self, unit: Unit, seconds: float) -> None:
        """Show that a worker has finished a unit, or a part of it, in this time."""

    def found(self, finding: Finding) -> None:
        """Show a finding of the plan or the run."""


class Silent:
    """A listener that shows nothing; a subclass shows what it overrides."""

    def follow(self, progress: Any) -> None: ...

    def started(self, work: int, cells: int) -> None: ...

    def cell_done(self, cell: Any, span: Any, failure: Any) -> None: ...

    def unit_done(self, unit: Any, seconds: float) -> None: ...

    def trained(self, label: str, progress: Any) -> None: ...

    def fetching(self, name: str, done: int, total: int | None) -> None: ...

    def found(self, finding: Finding) -> None:
        self.message(f"{finding.severity}: {finding}")

    def message(self, message: str) -> None: ...

    def finished(self) -> None: ...


CellObserver = Callable[[Cell], Iterable[Finding]]
"""A function that is called with a cell that is stored for another span; it returns findings."""


def unobserved(cell: Cell) -> Iterable[Finding]:
    """Return no findings: a run that nothing observes."""
    return ()


def show_finding(listener: RunListener, finding: Finding) -> None:
    """Show a finding, as a message if the listener has no method `found`."""
    if isinstance(listener, ProgressListener):
        listener.found(finding)
    else:
        listener.message(f"{finding.severity}: {finding}")
