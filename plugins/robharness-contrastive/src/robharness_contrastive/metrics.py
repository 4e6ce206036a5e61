"""Measures of a representation as metrics of a suite, and its pictures; NumPy and Matplotlib load when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robharness import MetricResult, MetricSpec, hookimpl

if TYPE_CHECKING:
    import numpy as np

    from robharness import Results

NEIGHBOURS = 10
"""Of each example, for the purity of its neighbourhood."""


@hookimpl
def robharness_metrics() -> Iterator[MetricSpec]:
    features: frozenset[Literal["features"]] = frozenset({"features"})
    yield MetricSpec(
        name="alignment",
        summary="Squared distance of unit features, an example to its corrupted versions",
        compute=_Each(alignment),
        needs=frozenset({"views"}),
    )
    yield MetricSpec(
        name="uniformity",
        summary="Log mean Gaussian potential of unit features, t = 2; lower is more even",
        compute=_Each(uniformity),
        needs=features,
    )
    yield MetricSpec(
        name="inter-intra",
        summary="Mean distance of unit features between classes over that within",
        compute=_Each(inter_intra),
        needs=features,
    )
    yield MetricSpec(
        name="purity",
        summary=f"Share of the {NEIGHBOURS} nearest features that are of the same class",
        compute=_Each(purity),
        needs=features,
    )
    yield MetricSpec(
        name="margin",
        summary="Median distance of unit features from the boundary of the linear head",
        compute=_Each(margin),
        needs=features,
    )
    yield MetricSpec(
        name="input-margin",
        summary="Median l2 distance of inputs from the nearest mistake found",
        compute=_Each(input_margin),
        needs=frozenset({"distances"}),
    )


@hookimpl
def robharness_figures(results: Results, folder: Path) -> Iterator[Path]:
    if results.suite.needs & {"features", "views"}:
        from robharness_contrastive import pictures

        yield from pictures.draw(results, folder)


class _Each:
    """A measure of one model as a metric: of every model, or why there is none."""

    def __init__(self, measure: Callable[[Results, str], MetricResult]) -> None:
        self.measure = measure

    def __call__(self, results: Results) -> dict[str, MetricResult]:
        return {label: self._of(results, label) for label in results.labels}

    def _of(self, results: Results, label: str) -> MetricResult:
        try:
            return self.measure(results, label)
        except ValueError as error:  # too few examples, no features yet
            return MetricResult(value=nan, unavailable_reason=str(error))


def alignment(results: Results, label: str) -> MetricResult:
    """The mean over all corruptions and examples; by corruption and by class, too."""
    import numpy as np

    from robharness_contrastive import representation

    clean, by_view, distances, labels = results.features(label), {}, [], []
    for name, view in results.views(label).items():
        common = np.intersect1d(clean.positions, view.positions, assume_unique=True)
        one, other = clean.at(common), view.at(common)
        found = representation.alignment(one.values, other.values)
        by_view[name] = found.mean()
        distances.append(found)
        labels.append(one.labels)
    if not distances:
        raise ValueError("there are no features of corrupted examples yet; type: robharness run SUITE")
    every = np.concatenate(distances)
    return MetricResult(
        value=float(np.mean(list(by_view.values()))),
        details={"n": len(clean.labels), "by_view": by_view, "by_class": _by_class(every, np.concatenate(labels))},
    )


def uniformity(results: Results, label: str) -> MetricResult:
    """Of all examples; and of those of each class, where it has two."""
    from robharness_contrastive import representation

    found = results.features(label)
    rows = {each: found.values[found.labels == each] for each in sorted(set(found.labels.tolist()))}
    by_class = {str(each): representation.uniformity(some) for each, some in rows.items() if len(some) > 1}
    value = representation.uniformity(found.values)
    return MetricResult(value=value, details={"n": len(found.labels), "by_class": by_class})


def inter_intra(results: Results, label: str) -> MetricResult:
    """The ratio of the means, and the mean of the classes' ratios; the matrix of mean distances."""
    import numpy as np

    from robharness_contrastive import representation

    features = results.features(label)
    found = representation.class_distances(features.values, features.labels)
    return MetricResult(
        value=found.ratio,
        details={
            "n": len(features.labels),
            "mean_of_ratios": np.nanmean(found.ratios),
            "by_class": dict(zip(map(str, found.classes), found.ratios, strict=True)),
            "classes": found.classes,
            "matrix": found.matrix,
        },
    )


def purity(results: Results, label: str) -> MetricResult:
    from robharness_contrastive import representation

    features = results.features(label)
    found = representation.neighbourhood_purity(features.values, features.labels, NEIGHBOURS)
    by_class = _by_class(found, features.labels)
    return MetricResult(
        value=float(found.mean()), details={"n": len(found), "neighbours": NEIGHBOURS, "by_class": by_class}
    )


def margin(results: Results, label: str) -> MetricResult:
    """Distances from the boundary are below 0 where the model is wrong."""
    import numpy as np

    from robharness_contrastive import representation

    features = results.features(label)
    found = representation.margins(features.values, features.boundary)
    if np.isnan(found).all():
        raise ValueError("what lies behind its features is not linear, and so has no distance from a boundary")
    there = ~np.isnan(found)
    return _quartiles(found[there], features.labels[there])


def input_margin(results: Results, label: str) -> MetricResult:
    """0 where the clean input is wrong already; of several attacks the nearest mistake counts, for each example."""
    import numpy as np

    attacks = [cell for cell in results.of(label, "attack") if cell.n and _measures_l2(cell)]
    if not attacks:
        raise ValueError("no attack in the l2 norm without `eps` has outcomes yet; type: robharness run SUITE")
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
    """The median; quartiles, and the median of each class. Values are among those given, inf included."""
    import numpy as np

    def share(some: np.ndarray, at: float) -> float:
        return float(np.quantile(some, at, method="inverted_cdf"))

    by_class = {str(each): share(values[labels == each], 0.5) for each in np.unique(labels)}
    quartiles = [share(values, 0.25), share(values, 0.75)]
    return MetricResult(
        value=share(values, 0.5), details={"n": len(values), "quartiles": quartiles, "by_class": by_class}
    )


def _by_class(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The mean over the examples of each class."""
    import numpy as np

    return {str(each): float(values[labels == each].mean()) for each in np.unique(labels)}
