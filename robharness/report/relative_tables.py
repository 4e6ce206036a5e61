"""Tables of accuracies relative to those of other models: gaps closed, and gains."""

from __future__ import annotations

from collections.abc import Sequence

from robharness.report.details import Gain, GainSummary, GapClosed
from robharness.report.records import Report
from robharness.report.rows import NO_VALUE, model_table
from robharness.report.values import Row, Table, Value, part_of

_BRACKETS = "in brackets 95 % confidence intervals, over runs or, for single models, over examples"


def gaps_closed(report: Report) -> Table | None:
    """Return the table of gaps closed: perturbations as rows, models as columns; None without any."""
    if report.gap is None or not report.gaps_closed:
        return None
    columns = list(dict.fromkeys(gap.model for gap in report.gaps_closed))
    found = {(gap.perturbation, gap.model): gap for gap in report.gaps_closed}
    rows = [Row(name, tuple(_gap_closed(found.get((name, column))) for column in columns))
            for name in dict.fromkeys(gap.perturbation for gap in report.gaps_closed)]  # fmt: skip
    caption = f"fraction of the accuracy gap from {report.gap[0]} to {report.gap[1]} that is closed, in %"
    brackets = f"{_BRACKETS}; no gap?: the gap may be zero"
    return model_table("Gap closed", report, rows, caption, brackets, columns)


def _gap_closed(gap: GapClosed | None) -> Value:
    if gap is None or gap.closed is None:
        return NO_VALUE
    return Value(number=gap.closed, kind="gap", interval=gap.interval, notes=part_of(gap.runs, gap.asked, "runs"))


def gains(report: Report) -> Table | None:
    """Return the table of gains: attacks as rows with their median below, models as columns; None without any."""
    if not report.gains:
        return None
    columns = list(dict.fromkeys(gain.model for gain in report.gains))
    found = {(gain.perturbation, gain.model): gain for gain in report.gains}
    rows: list[Row | None] = [
        Row(name, tuple(_gain(found.get((name, column))) for column in columns))
        for name in dict.fromkeys(gain.perturbation for gain in report.gains)
    ]
    medians = {each.model: each for each in report.gain_summaries if each.statistic == "median"}
    rows += [None, Row("median", tuple(_median(medians.get(column)) for column in columns))]
    caption = f"{gain_in_words(report, columns)}, in %{mean_in_words(report)}"
    return model_table("Gain", report, rows, caption, _BRACKETS, columns)


def gain_in_words(report: Report, columns: Sequence[str]) -> str:
    """Describe the gains of these models, each with its base."""
    base_of, bases = {gain.model: gain.base for gain in report.gains}, dict[str, list[str]]()
    for column in columns:
        bases.setdefault(base_of[column], []).append(column)
    over = "; ".join(f"{', '.join(models)} over {base}" for base, models in bases.items())
    return f"relative improvement of the attacked accuracy ({over})"


def mean_in_words(report: Report) -> str:
    """Return the mean of all gains as a part of a caption; empty if there are none."""
    for each in report.gain_summaries:
        if each.statistic == "mean" and each.value is not None:
            count = f"all {each.gains}" if each.gains == each.asked else f"{each.gains} of {each.asked}"
            return f"; mean of {count} gains {100 * each.value:.{GAIN_DIGITS}f}"
    return ""


GAIN_DIGITS = 1
"""Digits of a gain in percent after the decimal point, as in the paper's Table 5."""


def _gain(gain: Gain | None) -> Value:
    if gain is None:
        return NO_VALUE
    notes = part_of(gain.runs, gain.asked, "runs")
    if gain.gain is None:
        return Value(words=gain.reason, kind="gain", notes=notes)
    return Value(number=gain.gain, kind="gain", digits=GAIN_DIGITS, interval=gain.interval,
                 interval_digits=GAIN_DIGITS, notes=notes)  # fmt: skip


def _median(summary: GainSummary | None) -> Value:
    if summary is None or summary.value is None:
        return NO_VALUE
    notes = part_of(summary.gains, summary.asked, "gains")
    return Value(number=summary.value, kind="gain", digits=GAIN_DIGITS, notes=notes)
