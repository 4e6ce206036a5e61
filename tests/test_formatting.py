"""Values of tables as text: numbers, intervals, deviations, drops and notes."""

from math import inf, nan

import pytest

from robharness.report.renderers.formatting import format_note, format_number, format_value
from robharness.report.values import Number, Value, part_of
from robharness.statistics import Interval


@pytest.mark.parametrize(
    ("number", "kind", "digits", "text"),
    [
        (0.8749, "percentage", 1, "87.5"),
        (0.8749, "gap", 0, "87"),
        (0.125, "drop", 3, "13%"),  # halves upwards, whatever the digits
        (-0.04, "drop", 0, "-4%"),
        (0.8521, "slope", 3, "0.852"),
        (1234.0, "count", 0, "1234"),
        (0.012346, "distance", 4, "0.01235"),
        (1234.5, "metric", 2, "1.2e+03"),
    ],
)
def test_a_number_has_the_digits_of_its_kind(number, kind, digits, text):
    assert format_number(number, kind, digits) == text


@pytest.mark.parametrize(
    ("value", "text", "lines"),
    [
        (Value(), "–", ()),
        (Value(number=0.5, digits=1, interval=Interval(0.4, 0.61), interval_digits=1), "50.0", ("[40.0, 61.0]",)),
        (Value(number=0.5, interval=Interval(-0.0001, nan)), "50", ("[0, ?]",)),  # without the sign of -0.0
        (Value(number=1.2, kind="slope", digits=2, interval=Interval(-0.001, 2.5), interval_digits=2,
               corruption_interval=Interval(1, 1.5), few_examples=True),
         "1.20*", ("[0.00, 2.50]", "[1.00, 1.50]")),
        (Value(number=0.5, kind="gap", interval=Interval(-inf, inf)), "50", ("no gap?",)),
        (Value(number=3.25, kind="metric", digits=3, interval=Interval(-0.00012, 12345.0), interval_digits=2),
         "3.25", ("[-0.00012, 1.2e+04]",)),
        (Value(number=1.333, kind="slope", digits=2, deviation=0.0512), "1.33 ± 0.05", ()),
        (Value(number=0.38, digits=2, drop=Value(number=0.5, kind="drop", interval=Interval(0.1, 0.9))),
         "38.00 ↓50%", ("↓[10, 90]",)),
        # the deviation of a drop has neither a sign of percent nor halves upwards
        (Value(number=0.5, kind="drop", deviation=0.025), "50% ± 2", ()),
        (Value(number=0.5, notes=(("published", Number(0.761, "percentage", 1)), ("of", Number(None)))),
         "50", ("published 76.1", "of ?")),
    ],
)  # fmt: skip
def test_a_value_is_a_text_and_lines_below_it(value, text, lines):
    assert format_value(value) == (text, lines)


def test_a_part_is_noted_unless_it_is_the_whole():
    assert [format_note(note) for note in part_of(4, 5, "corruptions")] == ["4 of 5 corruptions"]
    assert part_of(5, 5, "corruptions") == ()
