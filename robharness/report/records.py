"""The records of a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robharness.audit.records import ModelAudit
from robharness.findings import Finding, named_examples, sentences
from robharness.planning.names import labels_by_value
from robharness.report.details import (
    MIN_CONFIDENCES,
    MIN_PER_CLASS,
    BestDistances,
    Calibration,
    ClassNumbers,
    Distances,
    Environment,
    Gain,
    GainSummary,
    GalleryExample,
    GapClosed,
    GlobalOptimality,
    Movement,
    Optimality,
    PluginFigure,
    Published,
    Transfer,
    worst_case_name,
)
from robharness.specs.records import MetricResult
from robharness.statistics.intervals import Interval
from robharness.store.passes import Passes
from robharness.text import printable


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """Means and sample standard deviations over runs, as fractions; None if undefined, as deviations of one run are.

    model: the label that the runs share.
    runs: the number of runs with all their examples.
    asked: the number of runs in the suite.
    relative_drop: the mean over runs, each relative to the run's own clean accuracy.
    """

    model: str
    perturbation: str
    runs: int
    asked: int
    accuracy: float | None
    accuracy_deviation: float | None
    robust_accuracy: float | None
    robust_accuracy_deviation: float | None
    relative_drop: float | None
    relative_drop_deviation: float | None


@dataclass(frozen=True, kw_only=True)
class MeanAccuracy:
    """Mean of a model's accuracies under corruptions: of a group, at a severity, or (None, None) of them all.

    n: examples that all of these corruptions have.
    corruptions: the number of corruptions with outcomes, each severity counted.
    asked: their number in the suite.
    interval: bootstrap over examples.
    """

    model: str
    group: str | None
    severity: int | None
    n: int
    corruptions: int
    asked: int
    accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class SlopeNumbers:
    """Slope of a model's corruption drops on the reference's; of a group, at a severity, or (None, None) of them all.

    n: examples that all of these corruptions have.
    corruptions: the number of corruptions with outcomes, each severity counted.
    asked: their number in the suite.
    interval: over examples.
    corruption_interval: over corruptions.
    without: corruption -> the slope with that corruption left out.
    few_examples: whether n is too small for a reliable slope.
    """

    model: str
    reference: str
    group: str | None
    severity: int | None
    n: int
    corruptions: int
    asked: int
    slope: float | None
    interval: Interval | None
    corruption_interval: Interval | None
    without: dict[str, float] = field(default_factory=dict)
    few_examples: bool


@dataclass(frozen=True, kw_only=True)
class CorruptionErrors:
    """A model's errors under the corruptions of one set, over all their severities.

    corruptions: the name of the set: the full names of its corruptions up to their last slash.
    name: "mCE" only with a published table; with a model of the suite, or no baseline, the number has another name.
    error: the mean over the corruptions, a fraction.
    relative: the mean of the errors that the corruptions add to the clean error, relative to the baseline's.
    by_corruption: the errors of which `error` is the mean.
    lacks: the reason why it is no mCE although the suite names a published table; else empty.
    """

    model: str
    corruptions: str
    name: str
    baseline: str | None
    n: int
    error: float | None
    interval: Interval | None
    relative: float | None
    relative_interval: Interval | None
    by_corruption: dict[str, float | None]
    lacks: str


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Accuracies and relative drop of a cell or a worst case, as fractions; None if undefined.

    accuracy: over all examples, each of them perturbed.
    robust_accuracy: the share of examples that are right both clean and perturbed.
    relative_drop: from the clean accuracy to `accuracy`, or to `robust_accuracy` if only right examples were attacked.
    """

    n: int
    accuracy: float | None = None
    interval: Interval | None = None
    robust_accuracy: float | None = None
    robust_interval: Interval | None = None
    relative_drop: float | None = None
    relative_drop_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class CellNumbers:
    """A cell and its numbers.

    notes: totals of the attack's numeric notes.
    alarms: the notes to warn of.
    published: the published accuracies, by source.
    components: member of an ensemble -> the number of examples that it made wrong.
    success: the share of examples predicted as the target of a targeted attack, of those that have a target.
    accuracy_8bit: the accuracy if the perturbed inputs are rounded to 256 levels.
    distances: of an attack without a budget.
    optimality: of an attack without a budget beside others.
    movement: of an attack on features.
    passes: per attacked example; None if the store has none.
    cost: passes per example that the attack declares, if no example leaves early; None for other cells.
    fit_passes: of the attack's fit, in all, once for all examples; None without a fit, and if the store has none.
    transfer: of an attack that is crafted on other models.
    title: the perturbation's name without its budget or severity; "clean" for the clean cell.
    calibration: None if the store has no confidences.
    classes: None without outcomes.
    unit: of eps; empty if it has none.
    """

    model: str
    data: str
    kind: str
    perturbation: str
    norm: str | None
    eps: str | None
    severity: int | None
    group: str | None
    numbers: Numbers
    complete: bool
    key: str
    not_numbers: int = 0
    unreadable: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    components: dict[str, int] = field(default_factory=dict)
    success: float | None = None
    accuracy_8bit: float | None = None
    distances: Distances | None = None
    optimality: Optimality | None = None
    movement: Movement | None = None
    passes: Passes | None = None
    cost: Passes | None = None
    fit_passes: Passes | None = None
    title: str = ""
    calibration: Calibration | None = None
    classes: ClassNumbers | None = None
    unit: str = ""
    transfer: Transfer | None = None

    @property
    def is_unbounded(self) -> bool:
        """Whether it is of an attack without a budget, which searches for the smallest perturbation."""
        return self.kind == "attack" and self.eps is None

    @property
    def shows_calibration(self) -> bool:
        """Whether enough examples have a confidence for tables and figures of calibration."""
        return self.calibration is not None and self.calibration.n >= MIN_CONFIDENCES

    @property
    def shows_classes(self) -> bool:
        """Whether there are several classes, with enough examples for tables and figures of the worst class."""
        found = self.classes
        return found is not None and found.classes > 1 and self.numbers.n >= MIN_PER_CLASS * found.classes


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """Accuracy under all attacks of one norm or measure with a budget up to eps: right means right under each attack.

    attacks: the number of attacks with outcomes; if it is below `asked`, the accuracy is too high.
    asked: the number of such attacks in the suite.
    unit: of eps; empty if it has none.
    """

    model: str
    norm: str
    eps: str
    attacks: int
    asked: int
    numbers: Numbers
    unit: str = ""

    @property
    def name(self) -> str:
        """The name of its row in tables."""
        return worst_case_name(self.norm, self.eps, self.unit)


@dataclass(frozen=True, kw_only=True)
class DifferenceNumbers:
    """Difference of a model from the reference under one perturbation; numbers are fractions, None if undefined.

    model: the label, or the one that runs share.
    reference: the label, or the one that runs share.
    kind: "clean", "attack", "corruption" or "worst case".
    n: the number of examples that both have.
    units: the number of clusters of these examples, or n if they are independent; None for runs.
    difference: the model's accuracy minus the reference's; of robust accuracies if only right examples were attacked.
    interval: of the difference, paired by example; None for runs.
    lost, gained: the number of examples that only the reference, and only the model, has right.
    p: of the exact McNemar test, with clusters by their signs; None for runs and for worst cases.
    p_holm: adjusted for all cells of the report with a p.
    drop_difference: the model's relative drop minus the reference's.
    drop_interval: of the difference of the drops, paired by example.
    runs: the numbers of complete runs of the model and of the reference, whose means are compared; None if neither has
        several seeds.
    deviation, drop_deviation: sample standard deviations over runs, of the model's numbers and of the reference's; of
        both, they are added as those of independent numbers.
    """

    model: str
    reference: str
    kind: str
    perturbation: str
    n: int
    difference: float
    units: int | None = None
    interval: Interval | None = None
    lost: int | None = None
    gained: int | None = None
    p: float | None = None
    p_holm: float | None = None
    drop_difference: float | None = None
    drop_interval: Interval | None = None
    runs: tuple[int, int] | None = None
    deviation: float | None = None
    drop_deviation: float | None = None

    @property
    def is_clustered(self) -> bool:
        """Whether examples are in clusters of more than one."""
        return self.units is not None and self.units < self.n


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """The content of a report on a suite's results.

    findings: errors, warnings on how to read the numbers, and notes.
    pixels: label -> the way of a pixel from the data to the model.
    protocols: label -> the protocol by which the model's classifier was fitted, for models that declare one.
    settings: values of the suite that `--set`, or `overrides` in Python, changed, as KEY=VALUE.
    metrics: name -> label -> the measured value.
    gain: label of a model -> the label of its base, if the suite asks for gains.
    published_metrics: name -> label -> the published values, by source.
    published_sources: the sources of published numbers, in the suite's order.
    run_of: label of a run -> the label that runs with other seeds share with it.
    runs: means and deviations over such runs.
    optimalities: of attacks without a budget, over all models.
    best_distances: of each model, under each norm, over several attacks without a budget.
    differences: of every other model from the reference, on the same examples; empty without a reference.
    answer: the result in words, the main sentence first.
    command: the command that computes what is missing.
    environments: each distinct provenance of the outcomes.
    identities: key of each cell -> everything that can change its outcomes.
    retrieval: whether models tell examples apart instead of classes, so that accuracy is retrieval.
    audits: the checks of each model, if the suite asks for an audit.
    gallery: examples, if they were computed again for this report.
    plugin_figures: figures of plugins, if they were drawn for this report.
    """

    suite: str
    title: str
    data: str
    n: int
    compat: str
    reference: str | None
    count: str
    complete: bool
    models: tuple[str, ...]
    cells: tuple[CellNumbers, ...]
    worst_cases: tuple[WorstCase, ...]
    corruption_means: tuple[MeanAccuracy, ...]
    slopes: tuple[SlopeNumbers, ...]
    corruption_errors: tuple[CorruptionErrors, ...]
    gap: tuple[str, str] | None
    gaps_closed: tuple[GapClosed, ...]
    gain: dict[str, str] | None
    gains: tuple[Gain, ...]
    gain_summaries: tuple[GainSummary, ...]
    metrics: dict[str, dict[str, MetricResult]]
    published_metrics: dict[str, dict[str, tuple[Published, ...]]]
    published_sources: tuple[str, ...]
    findings: tuple[Finding, ...]
    pixels: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    run_of: dict[str, str] = field(default_factory=dict)
    runs: tuple[RunNumbers, ...] = ()
    optimalities: tuple[GlobalOptimality, ...] = ()
    best_distances: tuple[BestDistances, ...] = ()
    differences: tuple[DifferenceNumbers, ...] = ()
    answer: tuple[str, ...] = ()
    command: str = ""
    environments: tuple[Environment, ...] = ()
    identities: dict[str, dict[str, Any]] = field(default_factory=dict)
    retrieval: bool = False
    gallery: tuple[GalleryExample, ...] = ()
    plugin_figures: tuple[PluginFigure, ...] = ()
    settings: tuple[str, ...] = ()
    audits: tuple[ModelAudit, ...] = ()

    def __repr__(self) -> str:
        complete = sum(cell.complete for cell in self.cells)
        return (
            f"<Report of {printable(self.suite)}: {named_examples(self.models)}; "
            f"{complete} of {len(self.cells)} cells complete, {self.n} examples each, {len(self.findings)} findings>"
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """The findings that are errors, as sentences."""
        return sentences(self.findings, "error")

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings that are warnings, as sentences."""
        return sentences(self.findings, "warning")

    @property
    def notes(self) -> tuple[str, ...]:
        """The findings that are notes, as sentences."""
        return sentences(self.findings, "note")

    @property
    def columns(self) -> dict[str, list[str]]:
        """Column of a table -> the labels in it: one model, or its runs."""
        found: dict[str, list[str]] = {}
        for model in self.models:
            found.setdefault(self.run_of.get(model, model), []).append(model)
        return found

    @property
    def labels_by_protocol(self) -> dict[str, str]:
        """Protocol -> the labels in tables of its models; no labels if all models have it."""
        found = labels_by_value({label: self.protocols.get(models[0], "") for label, models in self.columns.items()})
        return {protocol: labels for protocol, labels in found.items() if protocol}

    @property
    def measure(self) -> str:
        """The share of examples that the models have right, in a word."""
        return "retrieval" if self.retrieval else "accuracy"

    def expected_runs(self, label: str) -> int:
        """Return the number of the suite's runs that share this label."""
        return list(self.run_of.values()).count(label)
