"""A region at the end of a terminal's text that is redrawn in place, below the messages."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment
from rich.style import Style

from robharness.display.lines import Line

REFRESH_SECONDS = 0.25
"""The least time between two redrawings."""
MAX_CPU = 0.005
"""The most seconds of CPU time per second for redrawing; a slow one is repeated less often."""

_STEERING = [(ControlType.CURSOR_UP, 0)]
"""Marks a segment as a sequence for the terminal, which rich writes as it is and leaves out of other streams."""


class Refresher:
    """Calls a function every now and then in a thread of its own.

    seconds: the least time between two calls.
    """

    def __init__(self, draw: Callable[[], None], seconds: float = REFRESH_SECONDS) -> None:
        self._draw, self._seconds = draw, seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make no further call; wait for the current one."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _loop(self) -> None:
        pause = self._seconds
        while not self._stopping.wait(pause):
            begun = time.thread_time()
            self._draw()
            pause = max(self._seconds, (time.thread_time() - begun) / MAX_CPU)


class Screen(RenderHook):
    """A region that shows lines below all that the console prints, until `stop` removes it.

    Meanwhile the cursor is hidden, and what is printed on `sys.stdout` and `sys.stderr` appears above the region. A
    SIGTERM that would end the process shows the cursor first.
    lines: returns the lines to show, for the most columns and lines that there is room for.
    """

    def __init__(self, console: Console, lines: Callable[[int, int], list[Line]]) -> None:
        self._console, self._lines = console, lines
        self._widths: list[int] = []  # of the lines that are shown
        self._lock = threading.RLock()
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (cast(Any, FileProxy(console, stream)) for stream in self._streams)
        self._is_shown = True
        self._process = os.getpid()
        self._takes_sigterm = (
            threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._takes_sigterm:
            signal.signal(signal.SIGTERM, self._end)
        console.show_cursor(False)
        console.push_render_hook(self)
        self.refresh()
        self._refresher = Refresher(self.refresh)

    def refresh(self) -> None:
        """Redraw the lines."""
        with self._lock:
            if self._is_shown:
                self._console.print(Control(), soft_wrap=True)

    def print(self, renderable: ConsoleRenderable, soft_wrap: bool = True) -> None:
        """Print something above the lines."""
        with self._lock:
            self._console.print(renderable, soft_wrap=soft_wrap)

    def stop(self) -> None:
        """Remove the lines and show the cursor."""
        self._refresher.stop()
        with self._lock:
            self._is_shown = False
            self._console.print(Control(), soft_wrap=True)
            self._console.pop_render_hook()
            self._console.show_cursor(True)
            sys.stdout, sys.stderr = self._streams
        if self._takes_sigterm and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _end(self, number: int, frame: Any) -> None:
        """Show the cursor and end by the signal. A handler of SIGTERM; forks of the process inherit it."""
        if os.getpid() == self._process:
            with suppress(OSError, ValueError):  # ValueError: the console's file is closed, or no file of the system
                os.write(self._console.file.fileno(), b"\x1b[?7h\x1b[?25h\n")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Put what the console prints in place of the lines, and the lines below it. A hook of rich."""
        with self._lock:
            size = self._console.size
            up = self._lines_up(max(1, size.width))
            width, height = size.width - 1, size.height - 1  # the last column may wrap, the last line scroll
            lines = self._lines(width, height) if self._is_shown and min(width, height) > 0 else []
            self._widths = [sum(cell_len(piece.text) for piece in line) for line in lines]
        is_redrawn = all(isinstance(each, Control) for each in renderables)
        top = "\r" + (f"\x1b[{up}A" if up else "")
        if is_redrawn:
            return [_Segments([_steering(top), *_drawn(lines, self._console), _steering("\x1b[J")])]
        return [_Segments([_steering(f"{top}\x1b[J")]), *renderables, _Segments(_drawn(lines, self._console))]

    def _lines_up(self, width: int) -> int:
        """Return the number of lines from the first one that is shown to the cursor.

        A terminal that has become narrower has broken the lines that are wider than it is now.
        """
        return max(0, sum(max(1, -(-each // width)) for each in self._widths) - 1)


class _Segments:
    """Segments as something that rich prints."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self._segments = list(segments)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        return self._segments


def _steering(text: str) -> Segment:
    return Segment(text, None, cast(Any, _STEERING))


def _drawn(lines: list[Line], console: Console) -> list[Segment]:
    """Return lines that overwrite what stood there. The terminal breaks none, should it take a character for wider."""
    if not lines:
        return []
    found = [_steering("\x1b[?7l")]
    for at, line in enumerate(lines):
        found += [Segment("\n")] if at else []
        found += [Segment(piece.text, _style(piece.style)) for piece in line]
        found.append(_steering("\x1b[K"))
    return [*found, _steering("\x1b[?7h")]


@lru_cache(maxsize=64)
def _style(name: str) -> Style | None:
    return Style.parse(name) if name else None
