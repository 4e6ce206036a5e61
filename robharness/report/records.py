"""The records of a report."""

from __future__ import annotations

from dataclasses import dataclass, field

from robharness.findings import Finding, sentences
from robharness.specs.records import MetricResult
from robharness.statistics.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """Means and sample standard deviations over runs, as fractions; None where there is no such number.

    model: the label that the runs share. runs: how many have all their examples, of `asked`. A relative drop is each
    run's own, against its own clean accuracy; with one run there is no deviation.
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
class GapClosed:
    """Of a model, or of the mean of its runs, on the way that the suite's `gap` says.

    runs: how many are complete, of `asked`; of the three, those with the smallest share. closed: 0 is where the way
    begins, 1 where it ends; None where there is no way. interval: over runs, or, where the suite has one of each, over
    examples; None of one beside several, and of too few. printed: as the paper's Table 4 has it, from relative drops
    rounded to whole percentages.
    """

    model: str
    perturbation: str
    runs: int
    asked: int
    closed: float | None
    interval: Interval | None
    printed: float | None


@dataclass(frozen=True, kw_only=True)
class MeanAccuracy:
    """Mean of a model's accuracies under corruptions: of a group, at a severity, or (None, None) of them all.

    n: examples that all of them have. corruptions: how many there are, a severity each, of `asked`. interval: bootstrap
    over examples.
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

    interval: over examples; corruption_interval: over corruptions. few_examples: fewer than the metric asks for.
    corruptions: how many there are, a severity each, of `asked`. without: corruption -> the slope with it left out.
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
    """A model's errors under the corruptions of one set (what names of plugins share), over all their severities.

    name: "mCE" by a published table alone; relative to a model of the suite, or to nothing, it is another number and
    has another name. error: the mean over the corruptions, a fraction. relative: of what the corruptions add to the
    clean error. by_corruption: the errors that `error` is the mean of. lacks: why it is no mCE where a table is asked
    for.
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
    """Accuracies and the drop of one thing, as fractions; None where there is no such number.

    accuracy: over all examples, each of them perturbed. robust_accuracy: right clean and perturbed.
    relative_drop: of `accuracy` against the clean one; of `robust_accuracy` where only right examples were attacked.
    """

    n: int
    accuracy: float | None = None
    interval: Interval | None = None
    robust_accuracy: float | None = None
    robust_interval: Interval | None = None
    relative_drop: float | None = None
    relative_drop_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The smallest perturbations that change a model's mind, as far as an attack found them.

    n: examples. found: for how many there is one; it is 0 where the clean input is wrong already. median: half of all
    examples are wrong within it, None where fewer are; quartiles: a quarter and three quarters of them.
    curve: (eps, accuracy) at 101 steps from all right to all wrong that were found.
    """

    n: int
    found: int
    median: float | None
    interval: Interval
    quartiles: tuple[float | None, float | None]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class CellNumbers:
    """A cell and its numbers. notes: totals of the attack's numeric notes; alarms: those to warn of; expected: the
    published accuracy, a fraction.

    components: how many examples each member of an ensemble broke. success: the share that a targeted attack brought
    to its class, of those for which it wanted one. accuracy_8bit: what is right when the perturbed inputs are rounded
    to 256 levels. distances: of an attack without a budget.
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
    expected: float | None = None
    components: dict[str, int] = field(default_factory=dict)
    success: float | None = None
    accuracy_8bit: float | None = None
    distances: Distances | None = None


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """Right under every attack of this norm with a budget up to eps, since all of them stay in that ball.

    attacks: how many there are, of `asked`; with fewer, the model looks more robust than it is.
    """

    model: str
    norm: str
    eps: str
    attacks: int
    asked: int
    numbers: Numbers


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is shown of a suite's results. findings: what a reader must know beside the numbers.

    metrics, expected_metrics: name -> label -> what was measured, and published.
    run_of: label of a run -> the label that runs with other seeds share with it. runs: their spread.
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
    metrics: dict[str, dict[str, MetricResult]]
    expected_metrics: dict[str, dict[str, float]]
    expected_source: str
    findings: tuple[Finding, ...]
    run_of: dict[str, str] = field(default_factory=dict)
    runs: tuple[RunNumbers, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """The findings that are errors, as sentences."""
        return sentences(self.findings, "error")

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings that are warnings, as sentences."""
        return sentences(self.findings, "warning")

    @property
    def columns(self) -> dict[str, list[str]]:
        """The columns of a table, and the models that stand in each: one, or the runs of one."""
        found: dict[str, list[str]] = {}
        for model in self.models:
            found.setdefault(self.run_of.get(model, model), []).append(model)
        return found

    def expected_runs(self, label: str) -> int:
        """How many runs the suite has of the label that they share."""
        return list(self.run_of.values()).count(label)


def source_of(report: Report) -> str:
    """What was measured, in words: the data, how many of them, and whether they were encoded first."""
    encoded = ", encoded as the files of ImageNet-C (JPEG 85)" if report.compat == "imagenet-c" else ""
    return f"{report.data}, {report.n} examples per cell{encoded}"
