"""Text and numbers of a page: foreign text as one line of visible characters, numbers with their full precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup, escape

from robharness.report.renderers.formatting import (
    NO_NUMBER,
    format_difference,
    format_note,
    format_parts,
    format_value,
)
from robharness.report.values import Note, Number, Value
from robharness.statistics import Interval
from robharness.text import COMMAND_LENGTH, SENTENCE_LENGTH, TITLE_LENGTH, printable, sentence

MOST_ITEMS = 1000
"""The largest number of items of a foreign list or mapping that a page shows."""
DEEPEST = 8
"""Levels of foreign lists and mappings that a page shows; deeper ones are shown as text."""


class Shown(str):
    """Text that is printable already."""

    __slots__ = ()


def shown(value: Any) -> Any:
    """Return what a template shows in place of a value: foreign text is made printable, whatever the template says."""
    if value is None:
        return ""
    return value if isinstance(value, Shown | Markup | int | float) else Shown(printable(value, TITLE_LENGTH))


def as_sentence(text: object) -> Shown:
    """Return a message as one line, with the command at its end whole."""
    return Shown(sentence(text))


def as_command(text: object) -> Shown:
    return Shown(printable(text, COMMAND_LENGTH))


def plain(value: Any, depth: int = 0) -> Any:
    """Return foreign data as JSON has them: printable texts, finite numbers, lists and mappings within bounds."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping) and depth < DEEPEST:
        items = [(printable(key), plain(each, depth + 1)) for key, each in list(value.items())[:MOST_ITEMS]]
        more = len(value) - len(items)
        return dict(items) | ({"…": f"{more} more"} if more else {})
    if isinstance(value, list | tuple | set | frozenset) and depth < DEEPEST:
        items = [plain(each, depth + 1) for each in list(value)[:MOST_ITEMS]]
        more = len(value) - len(items)
        return [*items, f"… {more} more"] if more else items
    return printable(value, SENTENCE_LENGTH)


# --- numbers --------------------------------------------------------------------------------------------------------


def data(number: float | None, interval: Iterable[float] | None = None) -> Markup:
    """Return attributes with a number and the ends of its interval in full precision."""
    pairs = [("value", number)] if number is not None else []
    pairs += zip(("low", "high"), interval, strict=True) if interval is not None else []
    return Markup("".join(f' data-{name}="{_exact(value)}"' for name, value in pairs if value is not None))


def entry(value: Value, rows: Mapping[str, int]) -> Markup:
    """Return an entry of a table: the number, its drop, p, their intervals and notes.

    rows: key of a cell -> its row in the table of all cells, which the number links to.
    """
    found = format_parts(value)
    is_linked = value.key in rows and value.number is not None
    parts = [f'<a href="#c{rows[value.key]}">{found.number}</a>' if is_linked else found.number]
    if value.drop is not None:
        parts.append(f'<span class="drop"{_of(value.drop)}>{found.drop}</span>')
    parts += [] if value.p is None else [f'<span class="p"{_p(value)}>{_whole(found.p)}</span>']
    intervals = [found.interval, f"↓{found.drop_interval}" if found.drop_interval else ""]
    small = [" ".join(_whole(each) for each in intervals if each)]
    if value.corruption_interval is not None:
        small.append(f"<span{data(None, value.corruption_interval)}>{_whole(found.corruption_interval)}</span>")
    small += [_note(note) for note in (*value.details, *value.notes)]
    return Markup(
        f"<td{_of(value)}>{' '.join(parts)}{''.join(f'<small>{each}</small>' for each in small if each)}</td>"
    )


def signed(difference: float, value: Value) -> Markup:
    """Return a difference with its sign, as a number of the same kind as a value."""
    text = format_difference(difference, value.kind, value.digits)
    return Markup(f'<span class="difference" data-value="{_exact(difference)}">{text}</span>')


def number_entry(number: float | None, kind: Any, digits: int, interval: Interval | None = None) -> Markup:
    """Return an entry of a number with its interval beside it."""
    return beside(Value(number=number, kind=kind, digits=digits, interval=interval, interval_digits=digits))


def beside(value: Value) -> Markup:
    """Return an entry of a value with its interval beside it."""
    if value.number is None:
        return Markup(f"<td>{NO_NUMBER}</td>")
    text, intervals = format_value(value)
    return Markup(f"<td{_of(value)}>{text}{''.join(f' <i>{_whole(each)}</i>' for each in intervals)}</td>")


def _of(value: Value) -> Markup:
    return data(value.number, value.interval)


def _p(value: Value) -> Markup:
    return Markup(f' data-p="{_exact(value.p)}"') if value.p is not None else Markup()


def _exact(number: float) -> str:
    """Return a number as JavaScript reads it."""
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return repr(float(number)).replace("nan", "NaN")


def _whole(interval: str) -> str:
    """Return an interval that no line breaks."""
    return interval.replace(" ", "\u00a0")


def _note(note: Note) -> str:
    """Return a note with its numbers in full precision."""
    parts = []
    for part in note:
        text = escape(shown(format_note((part,))))
        if isinstance(part, Number):
            kind = Markup(' class="difference"') if part.is_difference else ""
            text = Markup(f"<span{kind}{data(part.value)}>{text}</span>")
        parts.append(text)
    return " ".join(parts)
