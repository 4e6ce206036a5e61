"""Table values as text, for the renderers that write text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from robharness.report.values import Kind, Note, Number, Value
from robharness.statistics import Interval, drop_text
from robharness.text import printable

NO_NUMBER = "–"


def format_value(value: Value) -> tuple[str, tuple[str, ...]]:
    """Return the number, such as "38.20 ↓50%" or "1.33 ± 0.05", and its intervals and notes, one a line."""
    text, lines = _number(value), [_interval(value, each) for each in _intervals(value)]
    if value.drop is not None:
        text += f" ↓{_number(value.drop)}"
        lines += [f"↓{_interval(value.drop, each)}" for each in _intervals(value.drop)]
    lines += [_p(value)] if value.p is not None else []
    return text, (*lines, *map(format_note, (*value.details, *value.notes)))


class Parts(NamedTuple):
    """The parts of a number on one line, such as ("38.2", "[35.1, 41.4]", "", "↓50%", "[46, 54]", "p 0.031").

    A part that is absent is empty.
    """

    number: str
    interval: str = ""
    corruption_interval: str = ""
    drop: str = ""
    drop_interval: str = ""
    p: str = ""

    @property
    def without_intervals(self) -> Parts:
        return Parts(self.number, drop=self.drop, p=self.p)


def format_parts(value: Value) -> Parts:
    """Return the parts of a number on one line."""
    drop = value.drop
    return Parts(
        number=_number(value),
        interval=_interval(value, value.interval),
        corruption_interval=_interval(value, value.corruption_interval),
        drop="" if drop is None else f"↓{_number(drop)}",
        drop_interval="" if drop is None else _interval(drop, drop.interval),
        p=_p(value),
    )


def format_number(number: float, kind: Kind, digits: int) -> str:
    """Return one number: fractions in percent, drops as whole percentages with halves upwards."""
    if kind == "drop":
        return drop_text(number)
    if kind == "points":
        return format_difference(number, "percentage", digits)
    if kind == "p":
        return format_p(number)
    if kind in ("percentage", "gap", "gain"):
        return f"{100 * number:.{digits}f}"
    return f"{number:.{digits}f}" if kind in ("slope", "count") else f"{number:.{digits}g}"


def format_note(note: Note) -> str:
    """Return the words and numbers of a note, such as "1.20 to 1.41 without one"."""
    return " ".join(part if isinstance(part, str) else _noted(part) for part in note)


def labelled_note(note: Note) -> tuple[str, str]:
    """Return the words that a note begins or ends with, and the rest, such as ("without one", "1.20 to 1.41")."""
    first, *_, last = note
    if isinstance(first, str):
        return first, format_note(note[1:])
    return (last, format_note(note[:-1])) if isinstance(last, str) else ("", format_note(note))


def _noted(number: Number) -> str:
    if number.value is None:
        return "?"
    if number.is_difference:
        return f"({format_difference(number.value, number.kind, number.digits)})"
    return format_number(number.value, number.kind, number.digits)


def format_difference(difference: float, kind: Kind, digits: int) -> str:
    """Return a difference of two numbers with its sign, such as "+1.2" or "-0.3"; a 0 has no sign."""
    text = format_number(abs(difference), kind, digits)
    return f"{'' if not text.strip('0.') else '+' if difference > 0 else '-'}{text}"


def format_p(p: float) -> str:
    """Return a p value with two significant digits, such as "0.031"; below 0.0001 as "<0.0001"."""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 1e-3 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _p(value: Value) -> str:
    return "" if value.p is None else f"p {format_p(value.p)}"


def _number(value: Value) -> str:
    if value.words:
        return printable(value.words)
    if value.number is None:
        return NO_NUMBER
    text = format_number(value.number, value.kind, value.digits)
    if value.deviation is not None:
        # a deviation has no sign of percent, no halves upwards, and no sign of a difference
        kind: Kind = "percentage" if value.kind in ("drop", "points") else value.kind
        text += f" ± {format_number(value.deviation, kind, value.digits)}"
    return f"{text}*" if value.few_examples else text


def _intervals(value: Value) -> Iterable[Interval]:
    return (interval for interval in (value.interval, value.corruption_interval) if interval is not None)


def _interval(value: Value, interval: Interval | None) -> str:
    if interval is None:
        return ""
    if value.kind == "gap" and not math.isfinite(interval.low):
        return "no gap?"
    return f"[{', '.join(_bound(bound, value.kind, value.interval_digits) for bound in interval)}]"


def _bound(bound: float, kind: Kind, digits: int) -> str:
    if math.isnan(bound):
        return "?"
    if kind in ("distance", "metric"):
        return f"{bound:.{digits}g}"
    scaled = bound if kind == "slope" else 100 * bound
    return f"{round(scaled, digits) + 0.0:.{digits}f}"  # without the sign of -0.0
