"""Records of a comparison: two sides, which are models in stores or baselines, and the differences of their cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from robharness.comparison.ratios import Ratio
from robharness.findings import Finding
from robharness.report.paired import Outcomes, exact_test
from robharness.statistics import Interval
from robharness.text import counted, printable

Kind = Literal["clean", "attack", "corruption"]
LEVEL = 0.05
"""The probability of any false "significant" among the cells of a comparison."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MeasuredCell(Outcomes):
    """The outcomes of one cell, as a store or a baseline has them.

    model: the label.
    data: the name of the data set and its split.
    perturbation: "clean", or the name, such as "fgsm(linf, 1/255)".
    title: the perturbation's name without its budget or severity.
    norm, eps, severity, group: as far as the perturbation has them, in the form of a report.
    key: the hash of the cell's identity.
    conditions: the hash of the identity without the model; empty if it is not known.
    n_expected: the number of examples of the plan.
    failures: why others are missing.
    environments: each distinct provenance of the outcomes; empty in a baseline.
    identity: everything that can change an outcome, as plain data; empty in a baseline.
    count: "robust" if an example must be right clean as well.
    unit: of eps and of sizes; empty if they have none, or if a baseline does not say it.
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
    conditions: str
    n_expected: int
    failures: tuple[str, ...] = ()
    environments: tuple[Mapping[str, Any], ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    count: Literal["all", "robust"] = "all"
    unit: str = ""

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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Side:
    """One of the two sides of a comparison.

    name: in messages, such as "quickstart@1f0c in .robharness" or "before.json".
    suite: the name of the suite.
    cells: in the suite's order, without cells of features and without attacks that have no budget.
    ids: the ids of examples by position, as far as they are known: None for a position, empty for a baseline.
    order: the hash of the ids of all examples of the data set in its fixed order; empty if it is not known.
    n: the number of examples per cell.
    run_of: label of a run -> the label that runs with other seeds share with it.
    findings: about the store.
    clusters: part of an id that all examples of a cluster share, a regular expression; None if examples are
        independent.
    benchmarks: ratios of benchmarks by their names; None if none were read.
    protocols: label -> the protocol of the model's classifier, as far as it is known; empty for a baseline.
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
    protocols: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The models' labels, in the suite's order."""
        return list(dict.fromkeys(cell.model for cell in self.cells))

    @cached_property
    def by_name(self) -> dict[tuple[str, str], MeasuredCell]:
        """The cells by label and perturbation."""
        return {(cell.model, cell.perturbation): cell for cell in self.cells}


def pair_name(other: str, model: str) -> str:
    """Return the labels before and after as one name, a single label if they are equal."""
    return model if other == model else f"{other} → {model}"


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
    conditions: whether data, perturbation and precision are the same on both sides.
    count: "robust" if an example must be right clean as well.
    complete: whether both sides have all examples of their plans.
    unit: of eps; empty if it has none.
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
    conditions: Literal["same", "changed", "unknown"] = "same"
    count: Literal["all", "robust"] = "all"
    complete: bool = True
    unit: str = ""

    @property
    def name(self) -> str:
        """The labels and the perturbation."""
        return f"{pair_name(self.other, self.model)} · {self.perturbation}"

    @property
    def is_significant(self) -> bool:
        """Whether the accuracies differ significantly at `LEVEL`, adjusted for all cells of the comparison."""
        return self.p_holm is not None and self.p_holm <= LEVEL

    @property
    def is_clustered(self) -> bool:
        """Whether examples are in clusters of more than one."""
        return self.units < self.n

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
        pairs, cells = counted(len(self.pairs), "pair", "pairs"), counted(len(self.cells), "cell", "cells")
        return (
            f"<Comparison of {sides}: {pairs} of models, {cells}, n = {self.n}; {len(self.significant)} differ "
            "significantly>"
        )

    @property
    def is_complete(self) -> bool:
        """Whether both sides have all cells of the compared models, with all examples of their plans."""
        are_runs = all((r.runs_before, r.runs_after) == (r.asked_before, r.asked_after) for r in self.runs)
        return are_runs and not (self.only_before or self.only_after) and all(cell.complete for cell in self.cells)

    @property
    def significant(self) -> tuple[CellDifference, ...]:
        """The cells whose accuracies differ significantly."""
        return tuple(cell for cell in self.cells if cell.is_significant)

    @property
    def test(self) -> str:
        """The name of the tests of all cells together."""
        return f"{exact_test(any(cell.is_clustered for cell in self.cells))}, adjusted by Holm for all cells together"
