"""Records of a comparison and of a check: two sides, their differences, and verdicts on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from robharness.errors import ExitCode
from robharness.findings import Finding
from robharness.statistics import Interval
from robharness.text import printable

Kind = Literal["clean", "attack", "corruption"]
LEVEL = 0.05
"""The probability of any false "significant" among the cells of a comparison."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MeasuredCell:
    """The outcomes of one cell, as a store or a baseline has them.

    model: the label.
    data: the name of the data set and its split.
    perturbation: "clean", or the name, such as "fgsm(linf, 1/255)".
    title: the perturbation's name without its budget or severity.
    norm, eps, severity, group: as far as the perturbation has them, in the form of a report.
    key: the hash of the cell's identity.
    protocol: the hash of the identity without the model; empty if it is not known.
    n_expected: the number of examples of the plan.
    positions: of the n examples with outcomes in the fixed order of the data set, ascending, (n,) int64.
    right: whether each counts as right, (n,) bool: in a cell that counts robust examples, clean and perturbed.
    failures: why others are missing.
    environments: each distinct provenance of the outcomes; empty in a baseline.
    identity: everything that can change an outcome, as plain data; empty in a baseline.
    count: "robust" if an example must be right clean as well.
    """

    model: str
    data: str
    perturbation: str
    title: str
    kind: Kind
    norm: str | None = None
    eps: str | None = None
    severity: int | None = None
    group: str | None = None
    key: str
    protocol: str
    n_expected: int
    positions: np.ndarray
    right: np.ndarray
    failures: tuple[str, ...] = ()
    environments: tuple[Mapping[str, Any], ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    count: Literal["all", "robust"] = "all"

    @property
    def name(self) -> str:
        """The label and the perturbation, by which the cells of two sides belong together."""
        return f"{self.model} · {self.perturbation}"

    @property
    def n(self) -> int:
        return len(self.positions)

    @property
    def is_complete(self) -> bool:
        return self.n == self.n_expected


Better = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of timings that a benchmark measured within one run.

    spread: of the ratio within this run; it contains the ratio.
    better: the direction that is an improvement.
    Raises ValueError for a ratio that is not positive, or outside its spread.
    """

    ratio: float
    spread: Interval
    better: Better = "lower"

    def __post_init__(self) -> None:
        if not (0 < self.spread.low <= self.ratio <= self.spread.high < math.inf):
            raise ValueError("it is not positive, or not between `low` and `high`")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Side:
    """One of the two sides of a comparison.

    name: in messages, such as "quickstart@1f0c in .robharness" or "before.json".
    suite: the name of the suite.
    cells: in the suite's order, without cells of features.
    ids: the ids of examples by position, as far as they are known: None for a position, empty for a baseline.
    order: the hash of the ids of all examples of the data set in its fixed order; empty if it is not known.
    n: the number of examples per cell.
    run_of: label of a run -> the label that runs with other seeds share with it.
    findings: about the store.
    clusters: part of an id that all examples of a cluster share, a regular expression; None if examples are
        independent.
    benchmarks: ratios of benchmarks by their names; None if none were read.
    """

    name: str
    suite: str
    cells: tuple[MeasuredCell, ...]
    ids: tuple[str | None, ...] = ()
    order: str = ""
    n: int
    run_of: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    clusters: str | None = None
    benchmarks: Mapping[str, Ratio] | None = None

    @property
    def labels(self) -> list[str]:
        """The models' labels, in the suite's order."""
        return list(dict.fromkeys(cell.model for cell in self.cells))

    @cached_property
    def by_name(self) -> dict[tuple[str, str], MeasuredCell]:
        """The cells by label and perturbation."""
        return {(cell.model, cell.perturbation): cell for cell in self.cells}


@dataclass(frozen=True, kw_only=True)
class CellDifference:
    """A cell on both sides, on the examples that both have.

    model: its label, that of the side after if they differ.
    other: the label of the side before.
    n: the number of examples that both have.
    n_before, n_after: the number that each has.
    before, after: accuracies on the common examples, fractions; None without any.
    difference: after - before.
    interval: of the difference.
    lost, gained: the number of examples that are right only before, and only after.
    units: the number of clusters, or n if examples are independent.
    design_effect: the variance of the difference over that of as many independent examples, at least 1.
    p: of the exact two-sided test; p_holm: adjusted for all cells of the comparison.
    p_fall: of the exact one-sided test against "the accuracy did not fall".
    drop_before, drop_after: relative drops on the common examples of both cells and their clean ones; None for clean
        cells, and if undefined.
    drop_difference: after - before, a fraction, with its interval.
    lost_ids, gained_ids: the first changed examples of each kind, by id, or by "position N" if ids are not known.
    protocol: whether data, perturbation and precision are the same on both sides.
    count: "robust" if an example must be right clean as well.
    complete: whether both sides have all examples of their plans.
    """

    model: str
    other: str
    perturbation: str
    title: str
    kind: Kind
    norm: str | None
    eps: str | None
    severity: int | None
    group: str | None
    n: int
    n_before: int
    n_after: int
    before: float | None = None
    after: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    lost: int = 0
    gained: int = 0
    units: int = 0
    design_effect: float = 1.0
    p: float | None = None
    p_holm: float | None = None
    p_fall: float | None = None
    drop_before: float | None = None
    drop_after: float | None = None
    drop_difference: float | None = None
    drop_interval: Interval | None = None
    lost_ids: tuple[str, ...] = ()
    gained_ids: tuple[str, ...] = ()
    protocol: Literal["same", "changed", "unknown"] = "same"
    count: Literal["all", "robust"] = "all"
    complete: bool = True

    @property
    def name(self) -> str:
        """The labels and the perturbation."""
        model = self.model if self.model == self.other else f"{self.other} → {self.model}"
        return f"{model} · {self.perturbation}"

    @property
    def changed(self) -> str:
        """The numbers of lost and gained examples in words, such as "-3 +1"."""
        return f"-{self.lost} +{self.gained}" if self.lost or self.gained else "0"

    @property
    def discordance(self) -> float | None:
        """The share of the common examples that changed."""
        return (self.lost + self.gained) / self.n if self.n else None


@dataclass(frozen=True, kw_only=True)
class RunsDifference:
    """The difference of the means over runs, trainings that differ in their seed alone.

    model: the label that the runs share.
    n: the number of examples that both sides have, each by one of its runs at least.
    runs_before, runs_after: the number of runs with outcomes on all of them.
    asked_before, asked_after: the number of runs of the suites.
    before, after: mean accuracies; with sample standard deviations over runs, None for one run.
    interval: of the difference of the means over runs (Welch); None with fewer than two runs on a side, and if the
        runs of neither side differ.
    """

    model: str
    other: str
    perturbation: str
    n: int
    runs_before: int
    runs_after: int
    asked_before: int
    asked_after: int
    before: float | None
    before_deviation: float | None
    after: float | None
    after_deviation: float | None
    difference: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Two sides, and the differences of their cells.

    before, after: the names of the sides.
    data: the data set and its split, of the side after.
    pairs: the labels that are compared, of the side before and of the side after.
    n: the largest number of examples that a cell has on both sides.
    n_before, n_after: the number of examples per cell that each side has in its plan.
    cells: cells that both sides have.
    only_before, only_after: the names of cells of the compared models that one side alone has.
    runs: means over runs, for models with several seeds.
    run_of: label of a run -> the label that runs with other seeds share with it, of both sides.
    clusters: the regular expression of clusters, if they are used.
    findings: what a reader must know, such as other examples or another environment.
    """

    title: str
    before: str
    after: str
    pairs: tuple[tuple[str, str], ...]
    n: int
    cells: tuple[CellDifference, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    runs: tuple[RunsDifference, ...] = ()
    run_of: Mapping[str, str] = field(default_factory=dict)
    clusters: str | None = None
    findings: tuple[Finding, ...] = ()
    data: str = ""
    n_before: int = 0
    n_after: int = 0

    def __repr__(self) -> str:
        sides = " and ".join(map(printable, dict.fromkeys((self.before, self.after))))
        pairs = f"{len(self.pairs)} pair{'s' * (len(self.pairs) != 1)} of models"
        return (
            f"<Comparison of {sides}: {pairs}, {len(self.cells)} cells, n = {self.n}; {len(self.significant)} differ "
            "significantly>"
        )

    @property
    def is_complete(self) -> bool:
        """Whether both sides have all cells of the compared models, with all examples of their plans."""
        are_runs = all((r.runs_before, r.runs_after) == (r.asked_before, r.asked_after) for r in self.runs)
        return are_runs and not (self.only_before or self.only_after) and all(cell.complete for cell in self.cells)

    @property
    def significant(self) -> tuple[CellDifference, ...]:
        """The cells whose accuracies differ significantly at `LEVEL`, adjusted for all cells of the comparison."""
        return tuple(cell for cell in self.cells if cell.p_holm is not None and cell.p_holm <= LEVEL)


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


@dataclass(frozen=True, kw_only=True)
class BaselineUpdate:
    """A baseline that was to be written.

    path: of the file, as it was given.
    refused: why it was not written; empty if it was.
    is_written: whether the file has other bytes than before.
    added, removed, changed: the names of cells; changed ones have other outcomes, or another key or protocol.
    benchmarks: the names of ratios of benchmarks that were added, removed or changed.
    """

    path: str
    refused: str = ""
    is_written: bool = False
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class CheckReport:
    """The verdicts on all cells of a suite against a baseline.

    baseline: its name, in messages.
    n: the largest number of examples that a cell and its baseline have in common.
    n_baseline: the number of examples per cell of the baseline.
    tolerance: the fall, a fraction, up to which a cell passes.
    alpha: the level of the tests of all cells together.
    findings: errors, such as a clean accuracy below `clean_at_least`, warnings and notes.
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
        told = {"cell-failed"} if any(cell.verdict == "failed" for cell in self.cells) else set()
        return tuple(each for each in self.findings if each.severity == "error" and each.code not in told)

    @property
    def clusters(self) -> int:
        """The largest number of clusters that the compared examples of a cell form; 0 if they are independent."""
        differences = (cell.difference for cell in self.cells if cell.difference is not None)
        return max((each.units for each in differences if each.units < each.n), default=0)

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
