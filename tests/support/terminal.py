"""A terminal as text: what a program has written, as a user sees it, and a process that runs in one."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

from rich.cells import cell_len

SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")


class Terminal:
    """A terminal of the given size that knows the sequences which a live view needs, and refuses others.

    frames: the whole text after each redrawing, which ends with the return of automatic line breaks.
    """

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.rows, self.x, self.y = [[]], 0, 0
        self.is_cursor_visible, self.breaks_lines = True, True
        self.frames = []

    def feed(self, text):
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = SEQUENCE.match(text, at)
                assert found, f"unknown sequence {text[at : at + 10]!r}"
                self._sequence(*found.groups())
                at = found.end()
            else:
                self._character(text[at])
                at += 1

    def _sequence(self, private, number, letter):
        match private, number, letter:
            case "?", "25", "l" | "h":
                self.is_cursor_visible = letter == "h"
            case "?", "7", "l" | "h":
                self.breaks_lines = letter == "h"
                if letter == "h":
                    self.frames.append(self.text)
            case "", _, "A":
                self.y = max(0, self.y - int(number or 1), len(self.rows) - self.height)
            case "", "", "K":
                del self.rows[self.y][self.x :]
            case "", "" | "0", "J":
                del self.rows[self.y][self.x :], self.rows[self.y + 1 :]
            case "", _, "m":
                pass
            case _:
                raise AssertionError(f"unknown sequence {private}{number}{letter}")

    def _character(self, character):
        if character == "\r":
            self.x = 0
        elif character == "\n":
            self.x, self.y = 0, self.y + 1
            if self.y == len(self.rows):
                self.rows.append([])
        else:
            width = cell_len(character)
            if self.x + width > self.width:
                assert self.breaks_lines, f"a redrawn line has more than {self.width} columns: {self.row(self.y)}"
                self._character("\n")
            row = self.rows[self.y]
            row += [" "] * (self.x - len(row))
            row[self.x : self.x + width] = [character, *[""] * (width - 1)] if width else [row[-1] + character]
            self.x += width

    def resize(self, width):
        """Change the width; longer lines are broken, as most terminals do."""
        rows, y = [], 0
        for number, row in enumerate(self.rows):
            pieces = [row[at : at + width] for at in range(0, max(1, len(row)), width)]
            rows += pieces
            if number == self.y:
                y = len(rows) - 1
        self.rows, self.y, self.x, self.width = rows, y, min(self.x, width - 1), width

    def row(self, number):
        return "".join(self.rows[number]).rstrip()

    @property
    def text(self):
        return "\n".join(self.row(number) for number in range(len(self.rows))).rstrip("\n")


class TerminalProcess:
    """A process whose standard error is a terminal. `terminal` shows what it wrote by the last `read`."""

    def __init__(self, command, width, height, **environment):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
        variables |= {"TERM": "xterm-256color", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=variables, text=True
        )
        os.close(theirs)
        self.terminal, self._ours, self._rest = Terminal(width, height), ours, b""

    def read(self, until=lambda terminal: False, timeout=120):
        """Read until a condition holds, or the process has closed the terminal."""
        deadline = time.monotonic() + timeout
        while not until(self.terminal) and time.monotonic() < deadline:
            if not select.select([self._ours], [], [], 0.2)[0]:
                continue
            try:
                content = os.read(self._ours, 65536)
            except OSError:  # as Linux says that nobody has the terminal open any more
                content = b""
            if not content:
                return
            # whole sequences and characters alone
            content = self._rest + content
            end = max(content.rfind(b"\n"), content.rfind(b"h"), content.rfind(b"J")) + 1
            self._rest = content[end:]
            self.terminal.feed(content[:end].decode())

    def finish(self, timeout=120):
        """Read what is left; give the exit code and standard output."""
        self.read(timeout=timeout)
        stdout, _ = self.process.communicate(timeout=timeout)
        self.terminal.feed(self._rest.decode())
        return self.process.returncode, stdout

    def close(self):
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)
