"""Lines, JSON and tables on standard output, in the terminal's encoding, with escapes for what a terminal acts on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from robharness.findings import named_examples
from robharness.streams import results
from robharness.text import json_text, lines, sentence

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str, *, err: bool = False) -> None:
    """Print one line on standard output or standard error, whatever names the text quotes."""
    _write(sentence(text), err=err)


def echo_lines(text: str, *, err: bool = False) -> None:
    """Print text of several lines, none of which quotes text of others that might have lines of its own."""
    _write(lines(text), err=err)


def _write(text: str, *, err: bool = False) -> None:
    """Print text; click.echo itself writes UTF-8 to streams of ASCII, beside the replacement characters of tables."""
    click.echo(text, file=sys.stderr if err else results())


def results_console() -> Console:
    """Return a console of rich that prints tables on standard output."""
    from rich.console import Console

    return Console(file=results())


def echo_rows(rows: Iterable[Sequence[str]]) -> None:
    """Print a line per row, however long and without columns of spaces, for a pipe or a file.

    Needs no rich, which takes longer than most lists themselves.
    """
    for row in rows:
        echo_lines("   ".join(row).rstrip())


def echo_json(value: Any, *, indent: int | None = 1) -> None:
    """Print a value, or JSON text, as JSON, with escapes such as \\u00b7 if standard output cannot encode the text."""
    text = value if isinstance(value, str) else json_text(value, indent)
    _write((text if is_encodable(text) else escaped(text)).removesuffix("\n"))


def escaped(text: str) -> str:
    """Return the same JSON with ASCII escapes in place of all other characters, which JSON has in texts alone."""
    return re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)


def is_encodable(text: str) -> bool:
    """Return whether the encoding of standard output has all characters of a text."""
    try:
        text.encode(getattr(results(), "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def unreadable_text(ids: Sequence[str]) -> str:
    """Return "; 2 examples cannot be read: a, b", or an empty text if there are none."""
    return f"; {len(ids)} examples cannot be read: {named_examples(ids)}" if ids else ""


def duration(seconds: float) -> str:
    """Return a time in words, such as "12 min"."""
    words = f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else words
