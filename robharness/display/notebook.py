"""Listeners of the Python functions: a table in a notebook, and findings as Python warnings everywhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from html import escape
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from robharness.display import texts
from robharness.display.grid import latest
from robharness.display.lines import live_lines
from robharness.display.screen import Refresher
from robharness.display.training import format_progress
from robharness.engine.listeners import Silent
from robharness.engine.progress import CellProgress, RunProgress
from robharness.errors import RobharnessWarning
from robharness.findings import Finding
from robharness.specs.sources import Progress
from robharness.text import TITLE_LENGTH, printable, sentence

REFRESH_SECONDS = 0.5
"""The least time between two updates of a notebook."""
COUNTDOWN_SECONDS = 5.0
"""The time after which an update shows the time left alone."""
MAX_NAMES, MAX_LABELS = 30, 12
"""The most perturbations and models in the table; those that changed last are shown."""
SHELL = "ZMQInteractiveShell"
"""The class of IPython's shell in a Jupyter kernel."""
CELL = "text-align:right;padding:1px 12px;white-space:nowrap"


class PythonWarnings(Silent):
    """A listener that shows no progress, and keeps findings until `warn` turns them into Python warnings."""

    def __init__(self) -> None:
        self._findings: dict[Finding, None] = {}
        self._failures: dict[str, str] = {}  # by name of the cell

    def found(self, finding: Finding) -> None:
        self._findings[finding] = None

    def cell_done(self, cell: Any, span: Any, failure: Any) -> None:
        if failure is not None:
            self._failures.setdefault(cell.name, f"{cell.name}: {failure}")

    def warn(self) -> None:
        """Raise a RobharnessWarning per finding that is a warning or an error, and one for all cells that failed.

        The warnings name the line outside of this package that has called one of its functions.
        """
        messages = [str(each) for each in self._findings if each.severity != "note"]
        if self._failures:
            count = "1 cell failed" if len(self._failures) == 1 else f"{len(self._failures)} cells failed, such as"
            messages.append(f"{count}: {next(iter(self._failures.values()))}".replace("such as:", "such as"))
        self._findings, self._failures = {}, {}
        for message in dict.fromkeys(messages):
            warnings.warn(sentence(message), RobharnessWarning, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """Return the level, from the function that calls this one, of the first frame outside of this package.

    Frames of `contextlib` are those of this package's context managers.
    """
    inside = (f"{Path(__file__).parents[1]}{os.sep}", contextlib.__file__)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


class NotebookDisplay(PythonWarnings):
    """A listener that shows progress in a Jupyter notebook: one output, which later states replace."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: RunProgress | None = None
        self._refresher: Refresher | None = None
        self._handle: Any = None
        self._message = ""
        self._changes, self._shown = -1, 0.0

    def follow(self, progress: RunProgress) -> None:
        self._progress = progress

    def started(self, work: int, cells: int) -> None:
        if work:
            self._update()
            self._refresher = Refresher(self._update, REFRESH_SECONDS)

    def trained(self, label: str, progress: Progress) -> None:
        if time.monotonic() - self._shown >= REFRESH_SECONDS:
            text = f"{printable(label)}: {format_progress(progress)}"
            self._publish(f"<div>{escape(text)}</div>", text)

    def fetching(self, name: str, done: int, total: int | None) -> None:
        if time.monotonic() - self._shown >= REFRESH_SECONDS:
            text = f"{printable(name)}: {decimal(done)}{'' if total is None else f' of {decimal(total)}'}"
            self._publish(f"<div>{escape(text)}</div>", text)

    def found(self, finding: Finding) -> None:
        super().found(finding)
        if finding.severity != "note":
            self._message = sentence(f"{finding.severity}: {finding}")

    def message(self, message: str) -> None:
        self._message = sentence(message)

    def finished(self) -> None:
        if self._refresher is not None and self._progress is not None:
            self._refresher.stop()
            parts = (texts.computed(self._progress), texts.failures(self._progress))
            text = ", ".join(part for part in parts if part) + f", in {texts.duration(self._progress.seconds)}"
            self._publish(f"<div>{escape(text)}</div>", text)
        self._progress = self._refresher = self._handle = None
        self._changes, self._shown, self._message = -1, 0.0, ""

    def _update(self) -> None:
        """Show the table, if it has changed."""
        progress, now = self._progress, time.monotonic()
        if progress is None or (progress.changes == self._changes and now - self._shown < COUNTDOWN_SECONDS):
            return
        self._changes = progress.changes
        plain = ["".join(piece.text for piece in line).rstrip() for line in live_lines(progress, 100, MAX_NAMES)]
        self._publish(table(progress, self._message), "\n".join([*plain, *([self._message] if self._message else [])]))

    def _publish(self, html: str, plain: str) -> None:
        self._shown = time.monotonic()
        data = {"text/html": html, "text/plain": plain}
        if self._handle is not None:
            self._handle.update(data, raw=True)
            return
        display = sys.modules["IPython"].display.display  # loaded, since its shell runs
        self._handle = display(data, raw=True, display_id=True)


def table(progress: RunProgress, message: str = "") -> str:
    """Return the state of a run as HTML: a bar, the speed, the time left, and the accuracies so far.

    message: the last message.
    """
    parts = (
        f"{100 * progress.fraction:.0f} %",
        texts.computed(progress),
        texts.speed(progress),
        texts.time_left(progress),
    )
    head = " &nbsp; ".join(escape(part) for part in parts if part)
    failed = f' &nbsp; <b style="color:#b00020">{texts.failures(progress)}</b>' if progress.failures else ""
    labels, names = latest(progress, 0, MAX_LABELS), latest(progress, 1, MAX_NAMES)
    heading = "".join(f'<th style="{CELL}">{_text(label)}</th>' for label in labels)
    rows = "".join(
        f'<tr><th style="text-align:left">{_text(name)}</th>'
        + "".join(_entry(progress.cells.get((label, name))) for label in labels)
        + "</tr>"
        for name in names
    )
    more = [progress.last_failure and f"last failure: {progress.last_failure}", message]
    notes = "".join(f"<div>{_text(each)}</div>" for each in more if each)
    return (
        f'<div><progress value="{progress.fraction:.3f}" max="1"></progress> {head}{failed}</div>'
        f"<table><thead><tr><th>accuracy so far [95 %]</th>{heading}</tr></thead><tbody>{rows}</tbody></table>{notes}"
    )


def _entry(cell: CellProgress | None) -> str:
    if cell is None or not cell.n:
        text = "" if cell is None else "failed" if cell.failures else "…" if cell.workers else "-"
    else:
        count = "" if cell.n == cell.expected else f" <small>{cell.n} of {cell.expected}</small>"
        text = f"{texts.accuracy(cell)}{count}{' failed' if cell.failures else ''}"
    return f'<td style="{CELL}">{text}</td>'


def _text(text: str) -> str:
    return escape(printable(text, TITLE_LENGTH))


def in_notebook() -> bool:
    """Return whether this process is a Jupyter kernel. IPython is not imported for that."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython is not None else None
    return any(each.__name__ == SHELL for each in type(shell).__mro__)


def default_listener() -> PythonWarnings:
    """Return the listener of Python functions that get none: progress in a notebook alone, Python warnings always."""
    return NotebookDisplay() if in_notebook() else PythonWarnings()
