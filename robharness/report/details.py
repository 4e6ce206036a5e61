"""Records of a report's details: calibration, accuracy per class, distances, provenance, gallery."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robharness.statistics.intervals import Interval
from robharness.text import sized

MOST_CLASSES = 10
"""The largest number of classes whose accuracies a report lists per cell."""
MIN_CONFIDENCES = 100
"""Examples of a cell from which on tables and figures show its calibration: of fewer, the ECE is mostly chance."""
MIN_PER_CLASS = 5
"""Mean number of examples per class from which on tables and figures show a cell's accuracy per class."""


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """The examples whose confidence lies in (low, high], and in [0, high] for the first bin.

    confidence, accuracy: means over the n examples, as fractions; None if n is 0.
    interval: of the accuracy.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The confidences of a cell's predictions, the largest probability of each, beside their accuracy.

    n: the number of examples whose confidence is stored.
    ece: expected calibration error over the bins, a fraction.
    confidence: the mean confidence.
    confidence_when_wrong: the mean confidence of wrong predictions; None if there are none.
    bins: of equal width.
    """

    n: int
    ece: float
    confidence: float
    confidence_when_wrong: float | None
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """The accuracy on the n examples of one class, with an interval that holds for all classes together."""

    label: int
    n: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class ClassNumbers:
    """The accuracies of a cell per class.

    classes: the number of classes with examples.
    lowest: the classes with the lowest accuracies, at most `MOST_CLASSES`, the lowest first.
    worst: the lowest accuracy of a class.
    worst_interval: 95 % confidence interval of the lowest accuracy of all classes: it holds for a minimum.
    """

    classes: int
    lowest: tuple[ClassAccuracy, ...]
    worst: float
    worst_interval: Interval


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A provenance that outcomes of these cells share: versions, device, threads, plugins and so on.

    facts: as the store keeps them, with a dict per plugin.
    cells: the keys of the cells.
    """

    facts: dict[str, Any]
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GapClosed:
    """Fraction of the suite's `gap` that a model, or the mean of its runs, closes.

    runs: the number of complete runs, of that one of the three models with the smallest share of complete runs.
    asked: the number of that model's runs in the suite.
    closed: fraction of the gap, 0 at the start model, 1 at the end model. None if their accuracies are equal.
    interval: over runs; over examples if each of the three models has one run. None for one run beside several, and for
        too few.
    printed: the fraction as in the paper's Table 4, from relative drops rounded to whole percentages.
    """

    model: str
    perturbation: str
    runs: int
    asked: int
    closed: float | None
    interval: Interval | None
    printed: float | None


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Relative improvement of a model, or of the mean of its runs, over its base in the suite's `gain`.

    runs: the number of complete runs, of that one of the two models with the smaller share of complete runs.
    asked: the number of that model's runs in the suite.
    gain: (accuracy - accuracy of the base) / accuracy of the base, a fraction. None with a reason.
    interval: over runs; over examples if both models have one run. None for one run beside several, and for too few.
    reason: why there is no gain: the base's accuracy is 0, or may be 0; empty if there is one.
    """

    model: str
    base: str
    perturbation: str
    runs: int
    asked: int
    gain: float | None
    interval: Interval | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class GainSummary:
    """The median of a model's gains over the attacks, or the mean of all gains of all models.

    statistic: "median" or "mean".
    model: None for all models.
    value: a fraction; None without gains.
    gains: the number of gains that it is of.
    asked: the number of gains that the suite asks for.
    """

    statistic: str
    model: str | None
    value: float | None
    gains: int
    asked: int


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published number.

    source: the publication; empty if the suite does not name it.
    value: an accuracy as a fraction, or the value of a metric.
    """

    source: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The sizes of the smallest perturbations that an attack found to make a model's predictions wrong.

    n: the number of examples.
    found: the number of examples with such a perturbation; its size is 0 if the clean input is wrong already.
    median: half of all examples are wrong within this distance; None if fewer are wrong at any.
    quartiles: the same for a quarter and for three quarters of the examples.
    curve: (eps, accuracy) at up to 101 steps, from all examples right to all those wrong that the attack found.
    area: the mean accuracy over all budgets from 0 to `area_until`: the area under the whole curve, as a fraction.
    area_until: a budget, the same for all models of the attack.
    """

    n: int
    found: int
    median: float | None
    interval: Interval
    quartiles: tuple[float | None, float | None]
    curve: tuple[tuple[float, float], ...]
    area: float | None = None
    area_until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Movement:
    """The distance by which an attack moved the features of examples.

    note: the attack's name of the distance.
    n: the number of examples.
    mean: over these examples.
    interval: Student's interval for the mean; None for one example.
    """

    note: str
    n: int
    mean: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The success on a model of an attack that is crafted on other models, among examples that it fooled there.

    attack: its name without its source.
    surrogates: labels of the models that it is crafted on; several are an ensemble.
    n: the number of examples that the model and all surrogates get right clean, and all surrogates wrong under the
        attack; 0 for a model that is a surrogate itself.
    rate: the share of these that the model gets wrong under the attack; None without any.
    interval: of the rate.
    asymmetry: the rate minus that of the way back: of the same attack, crafted on the model and judged by the one
        surrogate. None without either rate, and for ensembles.
    asymmetry_interval: paired by example.
    """

    attack: str
    surrogates: tuple[str, ...]
    n: int = 0
    rate: float | None = None
    interval: Interval | None = None
    asymmetry: float | None = None
    asymmetry_interval: Interval | None = None

    @property
    def source(self) -> str:
        """The labels of the surrogates, joined by "+"."""
        return "+".join(self.surrogates)


@dataclass(frozen=True, kw_only=True)
class GalleryExample:
    """A perturbed example, computed again from the key of its cell.

    example: its id.
    label: the true class.
    clean_prediction, clean_confidence, prediction, confidence: of the clean and of the perturbed input, as computed
        for these images; a confidence is NaN if a logit is not finite.
    margin: of the perturbed input, the true logit minus the largest other one.
    fooled: whether the prediction is right clean and wrong perturbed.
    clean, perturbation_image, perturbed: images as PNG files; the perturbation is magnified around grey.
    magnification: the factor of the perturbation, equal for all models and examples of one perturbation.
    size: the norm of the perturbation; None for corruptions and for examples that were not attacked.
    """

    model: str
    perturbation: str
    kind: str
    key: str
    example: str
    label: int
    clean_prediction: int
    clean_confidence: float
    prediction: int
    confidence: float
    margin: float
    fooled: bool
    clean: bytes = field(repr=False)
    perturbation_image: bytes = field(repr=False)
    perturbed: bytes = field(repr=False)
    magnification: float
    size: float | None


@dataclass(frozen=True, kw_only=True)
class PluginFigure:
    """A figure that a plugin drew of these results, such as a map of features.

    name: of its file.
    title: the name as words.
    media_type: of an image, "image/png" or "image/svg+xml"; empty if the figure is left out.
    content: the file; empty if the figure is left out.
    left_out: the reason why a page cannot show the figure; else empty.
    """

    name: str
    title: str
    media_type: str
    content: bytes = field(repr=False)
    left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class Optimality:
    """Local optimality of an attack without a budget on a model, beside the other such attacks of its norm.

    n: the number of examples that all of these attacks have, on all models.
    value: 1 if the attack found the best distance of every example; None if no attack within the budget of passes
        found any.
    interval: bootstrap over examples, up to the same budget eps_0.
    passes: mean number of forward and of backward passes per example, added up; None if it is not known.
    is_recorded: whether the passes were counted in the run, or else declared by the attack.
    is_within: whether the passes are at most 2,000; if not, the attack counts for no best distance.
    """

    n: int
    value: float | None
    interval: Interval | None
    passes: float | None
    is_recorded: bool
    is_within: bool


@dataclass(frozen=True, kw_only=True)
class BestDistances:
    """The smallest distance of each example that any attack within the budget of passes found, under one norm.

    n: the number of examples.
    attacks: the number of attacks whose distances count.
    asked: the number of attacks of the norm without a budget in the suite.
    found: the number of examples with a distance; it is 0 if the clean input is wrong already.
    until: eps_0, the largest of these distances; None if there is none above 0.
    area: the mean accuracy over all budgets from 0 to `until`: AUREC over eps_0, as a fraction.
    curve: (eps, accuracy) as in the distances of an attack.
    """

    model: str
    norm: str
    n: int
    attacks: int
    asked: int
    found: int
    until: float | None
    area: float | None
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class GlobalOptimality:
    """Global optimality of an attack without a budget: the mean of its local optimality over models.

    n: the number of examples, the same of all models.
    models: the number of models with a local optimality.
    asked: the number of models in the suite.
    interval: bootstrap over examples, for these models.
    passes: mean over the models; None if they are not known for one of them.
    is_within: whether the passes are at most 2,000 on every model.
    """

    perturbation: str
    norm: str
    n: int
    models: int
    asked: int
    value: float | None
    interval: Interval | None
    passes: float | None
    is_within: bool


def with_unit(norm: str, unit: str) -> str:
    """Return the name of a norm or measure with the unit of its sizes if it has one, such as "l0, in values"."""
    return f"{norm}, in {unit}" if unit else norm


def worst_case_name(norm: str, eps: str, unit: str) -> str:
    """Return the name of a worst case in tables, such as "worst case l0 ≤ 100 values"."""
    return f"worst case {norm} ≤ {sized(eps, unit)}"
