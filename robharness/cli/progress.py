"""Progress on standard error: rich bars, plain lines, or nothing. `python -m robharness.cli.progress` shows a demo."""

from __future__ import annotations

import time
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robharness import specs
from robharness.planning.cells import Cell
from robharness.store.failures import Failure
from robharness.store.spans import Span
from robharness.text import COMMAND_LENGTH, printable, sentence, styled

Style = Literal["auto", "rich", "plain", "none"]
PLAIN_SECONDS = 5.0
"""Time between two lines of the plain display; failures are shown at once."""


class ProgressDisplay:
    """A listener of runs and trainings that shows their progress.

    style: "rich" for a bar, "plain" for a line every few seconds, "none", or "auto": rich on a terminal, else plain.
    console: standard error by default.
    """

    def __init__(self, style: Style = "auto", console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.style = style if style != "auto" else ("rich" if self.console.is_terminal else "plain")
        self._work = self._done = 0
        self._started = self._last = 0.0
        self._noun = "examples"
        self._bar: Progress | None = None

    def started(self, work: int, cells: int) -> None:
        if work == 0:
            self.message("nothing to compute: all outcomes are stored")
            return
        self.begin(work, "examples", f"{cells} cells to compute, {work} examples in all")

    def cell_done(self, cell: Cell, span: Span, failure: Failure | None) -> None:
        if failure is not None:
            self.message(f"failed: {cell.name}: {failure}")
        self.advance(span[1] - span[0], cell.name, short=f"{cell.model.label} {cell.short_name}")

    def begin(self, work: int, noun: str, message: str) -> None:
        """Start a display.

        work: number of items in all.
        noun: of the items, e.g. "examples".
        message: a line to show first.
        """
        self._work, self._noun, self._started = work, noun, time.monotonic()
        self.message(message)
        if self.style == "rich":
            columns = (_description(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._bar.add_task(noun, total=work)

    def advance(self, done: int, name: str, short: str = "") -> None:
        """Add items that are done.

        done: number of items since the last call.
        name: of the current cell, for a line.
        short: the same for a bar.
        """
        self._done += done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, description=printable(short or name))
        elif self.style == "plain" and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            left = (self._last - self._started) / max(1, self._done) * (self._work - self._done)
            self.message(f"{self._done}/{self._work} {self._noun}, {left:.0f} s left; {name}")

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

    def message(self, message: str) -> None:
        if self.style != "none":
            self.console.print(styled(sentence(message), limit=COMMAND_LENGTH), soft_wrap=True)

    def finished(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._work = self._done = 0
        self._last = 0.0


def _description() -> TextColumn:
    """Return the column of the current cell or model, whose name is no markup."""
    return TextColumn("{task.description}", markup=False)


def format_progress(progress: specs.Progress) -> str:
    """Return "epoch 3 of 10, loss 2.31 (4.16 at first, at least 1.05), 512 images/s, 40 s left"."""
    rate = f"{progress.rate:.0f}" if progress.rate >= 10 else f"{progress.rate:.2g}"
    least = "" if progress.floor is None else f", at least {progress.floor:.4g}"
    return (
        f"epoch {progress.epoch} of {progress.epochs}, loss {progress.loss:.4g} "
        f"({progress.start:.4g} at first{least}), {rate} images/s, {progress.left:.0f} s left"
    )


if __name__ == "__main__":
    from types import SimpleNamespace
    from typing import Any, cast

    display = ProgressDisplay("rich")
    display.started(work=400, cells=20)
    for index in range(20):
        demo: Any = SimpleNamespace(model=SimpleNamespace(label="Demo"), short_name=f"fgsm(linf, {index}/255)", name="")
        time.sleep(0.1)
        display.cell_done(cast(Cell, demo), (0, 20), None)
    display.finished()
    for epoch in range(20):
        time.sleep(0.1)
        loss, rate = 4.2 - epoch / 10, 512.0
        display.trained(
            "Demo",
            specs.Progress(epoch=epoch, epochs=20, loss=loss, start=4.2, floor=1.0, rate=rate, left=2 - epoch / 10),
        )
    display.finished()
