"""Records of a check: the verdicts on cells and on ratios of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from robharness.comparison.baseline import BaselineUpdate
from robharness.comparison.records import CellDifference
from robharness.errors import ExitCode
from robharness.findings import Finding
from robharness.statistics import Interval
from robharness.text import printable

Verdict = Literal["regressed", "passed", "improved", "new", "missing", "failed", "incompatible"]
VERDICTS: Mapping[Verdict, str] = {
    "regressed": "the accuracy fell by more than the tolerance, and significantly",
    "passed": "no significant fall by more than the tolerance",
    "improved": "the accuracy rose by more than the tolerance, and significantly",
    "new": "the baseline does not have the cell",
    "missing": "the suite does not have the cell, or some of its examples have no outcomes",
    "failed": "the cell failed",
    "incompatible": "the data, the perturbation or the precision are not those of the baseline",
}
"""Verdicts on a cell, in the order in which a reader wants them, with their meaning."""
NO_PASS: tuple[Verdict, ...] = ("regressed", "missing", "failed", "incompatible")
"""The verdicts with which a check does not pass."""


@dataclass(frozen=True, kw_only=True)
class CellCheck:
    """The verdict on a cell.

    name: the label and the perturbation.
    reason: a sentence on the verdict; empty if it passed.
    before, after: accuracies, fractions: on the common examples, or else on those of each side; None without any.
    difference: from the baseline; None if there are no common examples.
    p_holm: of the one-sided test against "the accuracy did not fall", adjusted for all cells of the check.
    smallest_fall: the smallest fall, a fraction, that this check finds with a probability of 90 % at this n and
        discordance; inf if it finds none, None without a difference.
    """

    name: str
    model: str
    perturbation: str
    verdict: Verdict
    reason: str = ""
    before: float | None = None
    after: float | None = None
    difference: CellDifference | None = None
    p_holm: float | None = None
    smallest_fall: float | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkCheck:
    """The verdict on a ratio of a benchmark.

    name: of the benchmark and the ratio.
    before, after: the ratios; None if one side lacks it.
    spread_before, spread_after: their own spread, low and high.
    """

    name: str
    verdict: Verdict
    reason: str = ""
    before: float | None = None
    spread_before: Interval | None = None
    after: float | None = None
    spread_after: Interval | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class CheckReport:
    """The verdicts on all cells of a suite against a baseline.

    baseline: its name, in messages.
    n: the largest number of examples that a cell and its baseline have in common.
    n_baseline: the number of examples per cell of the baseline.
    tolerance: the fall, a fraction, up to which a cell passes.
    alpha: the level of the tests of all cells together.
    findings: errors, such as a clean accuracy below `clean_at_least`, warnings and notes.
    settings: values that were set in the suite, as KEY=VALUE.
    accept: the command that accepts the present results as the baseline; empty if they cannot be one.
    update: the baseline that was written after this check, so that the verdicts are accepted; None if none was asked
        for.
    """

    suite: str
    title: str
    baseline: str
    n: int
    n_baseline: int
    tolerance: float
    alpha: float
    cells: tuple[CellCheck, ...]
    benchmarks: tuple[BenchmarkCheck, ...] = ()
    findings: tuple[Finding, ...] = ()
    settings: tuple[str, ...] = ()
    accept: str = ""
    update: BaselineUpdate | None = None

    def __repr__(self) -> str:
        counts = [f"{len(found)} {verdict}" for verdict in VERDICTS if (found := self.of(verdict))]
        sides = f"{printable(self.suite)} against {printable(self.baseline)}"
        return f"<CheckReport of {sides}: {', '.join(counts) or 'no cells'}; exit code {int(self.exit_code)}>"

    def of(self, *verdicts: Verdict) -> tuple[CellCheck | BenchmarkCheck, ...]:
        """The cells and benchmarks with one of these verdicts."""
        every: tuple[CellCheck | BenchmarkCheck, ...] = (*self.cells, *self.benchmarks)
        return tuple(each for each in every if each.verdict in verdicts)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors, without those on failed cells, whose verdicts say the same."""
        repeated = {"cell-failed"} if any(cell.verdict == "failed" for cell in self.cells) else set()
        return tuple(each for each in self.findings if each.severity == "error" and each.code not in repeated)

    @property
    def clusters(self) -> int:
        """The largest number of clusters that the compared examples of a cell form; 0 if they are independent."""
        differences = (cell.difference for cell in self.cells if cell.difference is not None)
        return max((each.units for each in differences if each.is_clustered), default=0)

    @property
    def exit_code(self) -> ExitCode:
        """1 if anything regressed, else 3 if cells failed or are missing, else 4 if any is incompatible, else 0.

        With an update, 0 if the baseline was written, else 3.
        """
        if self.update is not None:
            return ExitCode.INCOMPLETE if self.update.refused else ExitCode.FINE
        if self.of("regressed"):
            return ExitCode.REGRESSION
        if self.of("missing", "failed") or any(each.severity == "error" for each in self.findings):
            return ExitCode.INCOMPLETE
        return ExitCode.BASELINE if self.of("incompatible") else ExitCode.FINE
