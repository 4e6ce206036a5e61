"""Progress on standard error: a live table, lines, or nothing. `python -m robharness.cli.progress` shows a demo."""

from __future__ import annotations

import time
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from robharness import specs
from robharness.display.grid import ASCII, UNICODE
from robharness.display.lines import Line, live_lines
from robharness.display.screen import Screen
from robharness.display.training import format_progress
from robharness.display.units import unit_line
from robharness.engine.progress import RunProgress
from robharness.engine.units import Unit
from robharness.findings import Finding
from robharness.planning.cells import Cell
from robharness.store.failures import Failure
from robharness.store.spans import Span
from robharness.text import COMMAND_LENGTH, counted, printable, sentence, styled

Style = Literal["auto", "rich", "plain", "none"]
PLAIN_SECONDS = 5.0
"""Time between two lines of the plain display about a training or an export; failures are shown at once."""
UNIT_SECONDS = 1.0
"""Duration from which on each unit has a line of its own in the plain display; shorter units share lines."""
STYLES = {"error": "red", "warning": "yellow", "note": ""}


class ProgressDisplay:
    """A listener of runs and trainings that shows their progress.

    style: "rich" for a table or a bar, "plain" for lines, "none", or "auto": rich on a terminal, else plain.
    console: standard error by default.
    """

    def __init__(self, style: Style = "auto", console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        can_redraw = self.console.is_terminal and not self.console.is_dumb_terminal
        self.style = style if style != "auto" else ("rich" if can_redraw else "plain")
        self._progress: RunProgress | None = None
        self._screen: Screen | None = None
        self._shorter: list[Unit] = []
        self._work = self._done = 0
        self._started = self._last = 0.0
        self._noun = "examples"
        self._bar: Progress | None = None

    # --- runs --------------------------------------------------------------------------------------------------

    def follow(self, progress: RunProgress) -> None:
        self._progress = progress

    def started(self, work: int, cells: int) -> None:
        if work == 0:
            self.message("nothing to compute: all outcomes are stored")
            return
        self.message(f"{counted(cells, 'cell', 'cells')} to compute, {work} examples in all")
        self._last = time.monotonic()
        if self.style == "rich" and self._progress is not None and self.console.is_terminal:
            self._screen = Screen(self.console, self._lines)

    def _lines(self, width: int, height: int) -> list[Line]:
        assert self._progress is not None
        return live_lines(self._progress, width, height, UNICODE if _has_symbols(self.console) else ASCII)

    def cell_done(self, cell: Cell, span: Span, failure: Failure | None) -> None:
        if failure is not None:
            self.message(f"failed: {cell.name}: {failure}", "red")

    def unit_done(self, unit: Unit, seconds: float) -> None:
        if self.style == "plain":
            self._shorter.append(unit)
            if max(seconds, time.monotonic() - self._last) >= UNIT_SECONDS:
                self._show_unit()

    def _show_unit(self) -> None:
        """Show the last finished unit, and count those before it that have no line."""
        if self._shorter and self._progress is not None:
            self.message(unit_line(self._progress, self._shorter[-1], len(self._shorter) - 1))
            self._shorter, self._last = [], time.monotonic()

    # --- exports -----------------------------------------------------------------------------------------------

    def begin(self, work: int, noun: str, message: str) -> None:
        """Start a display.

        work: number of items in all.
        noun: of the items, e.g. "images".
        message: a line to show first.
        """
        self._work, self._noun, self._started = work, noun, time.monotonic()
        self.message(message)
        if self.style == "rich":
            columns = (_description(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._bar.add_task(noun, total=work)

    def advance(self, done: int, name: str) -> None:
        """Add items that are done.

        done: number of items since the last call.
        name: of the current item.
        """
        self._done += done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, description=printable(name))
        elif self.style == "plain" and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            left = (self._last - self._started) / max(1, self._done) * (self._work - self._done)
            self.message(f"{self._done}/{self._work} {self._noun}, {left:.0f} s left; {name}")

    # --- trainings ---------------------------------------------------------------------------------------------

    def trained(self, label: str, progress: specs.Progress) -> None:
        """Show the progress of the training of the model with this label."""
        text = f"{printable(label)}: {format_progress(progress)}"
        if self.style == "rich":
            if self._bar is None:
                columns = (_description(), BarColumn(), MofNCompleteColumn())
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
                self._bar.add_task(text, total=progress.epochs)
            self._bar.update(self._bar.task_ids[0], completed=progress.epoch, description=text)
        elif self.style == "plain" and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            self.message(text)

    # --- downloads ---------------------------------------------------------------------------------------------

    def fetching(self, name: str, done: int, total: int | None) -> None:
        """Show that this many bytes of a file are there, of this many if that is known."""
        from rich.filesize import decimal

        if self.style == "rich":
            if self._bar is None:
                columns = (_description(), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
                self._bar.add_task(printable(name), total=total, completed=done)
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, description=printable(name))
        elif self.style == "plain" and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            self.message(f"{name}: {decimal(done)}{'' if total is None else f' of {decimal(total)}'}")

    # --- messages ----------------------------------------------------------------------------------------------

    def found(self, finding: Finding) -> None:
        self.message(f"{finding.severity}: {finding}", STYLES[finding.severity])

    def message(self, message: str, style: str = "") -> None:
        """Show a message in one line, above the table."""
        if self.style != "none":
            line = styled(sentence(message), style, limit=COMMAND_LENGTH)
            (self._screen or self.console).print(line, soft_wrap=True)

    def finished(self) -> None:
        if self._screen is not None:
            self._screen.stop()
        if self._bar is not None:
            self._bar.stop()
        self._show_unit()
        self._progress = self._screen = self._bar = None
        self._work = self._done = 0
        self._last = 0.0


def _has_symbols(console: Console) -> bool:
    """Return whether the encoding of the console has the symbols of the live view."""
    try:
        "".join(vars(UNICODE).values()).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _description() -> TextColumn:
    """Return the column of the current cell or model, whose name is no markup."""
    return TextColumn("{task.description}", markup=False)


if __name__ == "__main__":
    from robharness.display.demo import simulated_run

    display = ProgressDisplay()
    simulated, steps = simulated_run(models=3, perturbations=12)
    display.follow(simulated)
    display.started(work=simulated.work, cells=len(simulated.cells))
    try:
        for seconds in steps:
            time.sleep(seconds / 10)
    finally:
        display.finished()
