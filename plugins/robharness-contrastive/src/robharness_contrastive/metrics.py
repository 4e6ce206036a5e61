"""Metrics and figures of features, as hooks of a suite. NumPy and Matplotlib are imported when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robharness import MetricResult, MetricSpec, UserError, hookimpl

if TYPE_CHECKING:
    import numpy as np

    from robharness import Results

NEIGHBOURS = 10
"""Nearest neighbours of each example that count for purity."""


@hookimpl
def robharness_metrics() -> Iterator[MetricSpec]:
    features: frozenset[Literal["features"]] = frozenset({"features"})
    yield MetricSpec(
        name="alignment",
        summary="Squared distance of unit features between an example and its corrupted versions",
        compute=_PerModel(alignment),
        needs=frozenset({"views"}),
    )
    yield MetricSpec(
        name="uniformity",
        summary="Log mean Gaussian potential of unit features, t = 2; lower is more even",
        compute=_PerModel(uniformity),
        needs=features,
    )
    yield MetricSpec(
        name="inter-intra",
        summary="Mean distance of unit features between classes, divided by that within classes",
        compute=_PerModel(inter_intra),
        needs=features,
    )
    yield MetricSpec(
        name="purity",
        summary=f"Share of the {NEIGHBOURS} nearest neighbours in feature space that have the same class",
        compute=_PerModel(purity),
        needs=features,
    )
    yield MetricSpec(
        name="margin",
        summary="Median distance of unit features from the decision boundary of the linear head",
        compute=_PerModel(margin),
        needs=features,
    )
    yield MetricSpec(
        name="input-margin",
        summary="Median l2 distance of inputs from the nearest misclassified input found",
        compute=_PerModel(input_margin),
        needs=frozenset({"distances"}),
    )


@hookimpl
def robharness_figures(results: Results, folder: Path) -> Iterator[Path]:
    if results.suite.needs & {"features", "views"}:
        from robharness_contrastive import figures

        yield from figures.draw(results, folder)


class _PerModel:
    """Apply a measure of one model to every model. A ValueError becomes the reason why a value is missing."""

    def __init__(self, measure: Callable[[Results, str], MetricResult]) -> None:
        self.measure = measure

    def __call__(self, results: Results) -> dict[str, MetricResult]:
        return {label: self._measure(results, label) for label in results.labels}

    def _measure(self, results: Results, label: str) -> MetricResult:
        try:
            return self.measure(results, label)
        except ValueError as error:  # too few examples, no features yet
            return MetricResult(value=nan, unavailable_reason=str(error))


def alignment(results: Results, label: str) -> MetricResult:
    """Return the mean over corruptions and examples. Details: by corruption and by class."""
    import numpy as np

    from robharness_contrastive import representation

    clean, by_view, distances, labels = results.features(label), {}, [], []
    for name, view in results.views(label).items():
        common = np.intersect1d(clean.positions, view.positions, assume_unique=True)
        original, corrupted = clean.at(common), view.at(common)
        squares = representation.alignment(original.values, corrupted.values)
        by_view[name] = squares.mean()
        distances.append(squares)
        labels.append(original.labels)
    if not distances:
        raise UserError(f"the store has no features of corrupted examples yet. Try: {results.plan.command('run')}")
    all_distances = np.concatenate(distances)
    return MetricResult(
        value=float(np.mean(list(by_view.values()))),
        details={
            "n": len(clean.labels),
            "by_view": by_view,
            "by_class": _by_class(all_distances, np.concatenate(labels)),
        },
    )


def uniformity(results: Results, label: str) -> MetricResult:
    """Return the uniformity over all examples. Details: by class, for classes of at least 2 examples."""
    from robharness_contrastive import representation

    features = results.features(label)
    groups = {each: features.values[features.labels == each] for each in sorted(set(features.labels.tolist()))}
    by_class = {str(each): representation.uniformity(group) for each, group in groups.items() if len(group) > 1}
    value = representation.uniformity(features.values)
    return MetricResult(value=value, details={"n": len(features.labels), "by_class": by_class})


def inter_intra(results: Results, label: str) -> MetricResult:
    """Return the ratio of the mean distances. Details: the classes' ratios, their mean, and the matrix of distances."""
    import numpy as np

    from robharness_contrastive import representation

    features = results.features(label)
    distances = representation.class_distances(features.values, features.labels)
    return MetricResult(
        value=distances.ratio,
        details={
            "n": len(features.labels),
            "mean_of_ratios": np.nanmean(distances.ratios),
            "by_class": dict(zip(map(str, distances.classes), distances.ratios, strict=True)),
            "classes": distances.classes,
            "matrix": distances.matrix,
        },
    )


def purity(results: Results, label: str) -> MetricResult:
    """Return the mean purity of the examples' neighbourhoods. Details: by class."""
    from robharness_contrastive import representation

    features = results.features(label)
    shares = representation.neighbourhood_purity(features.values, features.labels, NEIGHBOURS)
    by_class = _by_class(shares, features.labels)
    return MetricResult(
        value=float(shares.mean()), details={"n": len(shares), "neighbours": NEIGHBOURS, "by_class": by_class}
    )


def margin(results: Results, label: str) -> MetricResult:
    """Return the median distance from the decision boundary; a misclassified example has a negative distance."""
    import numpy as np

    from robharness_contrastive import representation

    features = results.features(label)
    distances = representation.margins(features.values, features.boundary)
    if np.isnan(distances).all():
        raise ValueError("the head on its features is not linear, so the distance from the boundary is unknown")
    is_known = ~np.isnan(distances)
    return _quartiles(distances[is_known], features.labels[is_known])


def input_margin(results: Results, label: str) -> MetricResult:
    """Return the median distance to the nearest misclassified input that any attack found, 0 for a clean error."""
    import numpy as np

    attacks = [cell for cell in results.of(label, "attack") if cell.n and _measures_l2(cell)]
    if not attacks:
        raise UserError(
            "the store has no outcomes of an attack in the l2 norm without `eps` yet. "
            f"Try: {results.plan.command('run')}"
        )
    common = attacks[0].positions
    for cell in attacks[1:]:
        common = np.intersect1d(common, cell.positions, assume_unique=True)
    rows = [np.searchsorted(cell.positions, common) for cell in attacks]
    nearest = np.min([cell.distances[row] for cell, row in zip(attacks, rows, strict=True)], axis=0)
    return _quartiles(nearest, np.asarray(attacks[0].columns["label"])[rows[0]])


def _measures_l2(cell: Any) -> bool:
    perturbation = cell.cell.perturbation
    return bool(perturbation.norm == "l2" and perturbation.eps is None)


def _quartiles(values: np.ndarray, labels: np.ndarray) -> MetricResult:
    """Return the median. Details: quartiles, and the median of each class. All are given values, which may be inf."""
    import numpy as np

    def quantile(some: np.ndarray, share: float) -> float:
        return float(np.quantile(some, share, method="inverted_cdf"))

    by_class = {str(each): quantile(values[labels == each], 0.5) for each in np.unique(labels)}
    quartiles = [quantile(values, 0.25), quantile(values, 0.75)]
    return MetricResult(
        value=quantile(values, 0.5), details={"n": len(values), "quartiles": quartiles, "by_class": by_class}
    )


def _by_class(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the mean value of each class."""
    import numpy as np

    return {str(each): float(values[labels == each].mean()) for each in np.unique(labels)}
