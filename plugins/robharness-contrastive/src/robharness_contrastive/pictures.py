"""Pictures of representations, as PNG and SVG: heat maps of class distances, t-SNE, density on the sphere.

One picture shows all models of the suite, side by side and on one scale, and is the same file, byte by byte, whenever
it is drawn from the same features: seeds are fixed, and no date is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robharness_contrastive.representation import ClassDistances, Floats, class_distances, unit

if TYPE_CHECKING:
    from robharness import Features, Results

SEED = 0
MOST = 2000
"""Examples that t-SNE and the density show, the first in the suite's order, which is as good as random."""
PERPLEXITY = 30
WIDTH = 0.1
"""Of the density's kernel, as an angle in radians and as a distance in the plane."""
GRID, ANGLES = 120, 360
SIDE, ABREAST = 3.6, 4
"""Inches of a panel, and how many models stand side by side."""
_STYLE: Any = {"svg.hashsalt": "robharness", "svg.fonttype": "path", "font.size": 9.0, "figure.dpi": 100.0}


def draw(results: Results, folder: Path) -> Iterator[Path]:
    """The three pictures, each as PNG and SVG, of all models whose features are stored; yields the files.

    Of models that differ in their seed alone, the first is shown. folder: must be there. A picture that there are too
    few examples for is left out.
    """
    features = {}
    for label in shown([model for model in results.suite.models if model.label in results.labels]):
        try:
            features[label] = results.features(label)
        except ValueError:  # none yet; the report says so where the metrics are
            continue
    distances = {}
    for label, each in features.items():
        try:
            distances[label] = class_distances(each.values, each.labels)
        except ValueError:  # classes of one example
            continue
    if distances:
        yield from save(heat_maps(distances), folder / "class-distances")
    some = {label: _first(each) for label, each in features.items() if len(each.labels) > 3}
    if some:
        yield from save(tsne(some), folder / "tsne")
        yield from save(hypersphere(some), folder / "hypersphere")


def shown(models: Sequence[Any]) -> list[str]:
    """The labels of a suite's models, of runs the first's."""
    first: dict[str, str] = {}
    for model in models:
        first.setdefault(model.run_of or model.label, model.label)
    return list(first.values())


def save(figure: Figure, path: Path) -> Iterator[Path]:
    """Write the figure to path.png and path.svg; the same figure makes the same bytes."""
    with matplotlib.rc_context(_STYLE):
        FigureCanvasAgg(figure)
        for ending, facts in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": "robharness"})):
            file = path.with_name(f"{path.name}.{ending}")
            figure.savefig(file, format=ending, metadata=facts)
            yield file


def heat_maps(distances: Mapping[str, ClassDistances]) -> Figure:
    """Mean distances by pairs of classes, a map per model, on one colour scale; the ratio stands above.

    distances: by label. Source: the paper's Figure 3.
    """
    figure, axes = _panels(len(distances))
    low = min(float(np.nanmin(each.matrix)) for each in distances.values())
    high = max(float(np.nanmax(each.matrix)) for each in distances.values())
    with matplotlib.rc_context(_STYLE):
        for place, (label, each) in zip(axes[0], distances.items(), strict=True):
            image = place.imshow(each.matrix, vmin=low, vmax=high, cmap="viridis")
            place.set_title(f"{label}\ninter over intra {each.ratio:.2f}")
            if len(each.classes) <= 20:
                place.set_xticks(range(len(each.classes)), each.classes)
                place.set_yticks(range(len(each.classes)), each.classes)
            place.set_xlabel("class")
        figure.colorbar(image, ax=list(axes[0]), label="mean distance of unit features", shrink=0.8)
    return figure


def tsne(features: Mapping[str, Features]) -> Figure:
    """The features of each model in the plane by t-SNE, coloured by class. features: by label, at least 4 examples."""
    figure, axes = _panels(len(features))
    classes = np.unique(np.concatenate([each.labels for each in features.values()]))
    with matplotlib.rc_context(_STYLE):
        for place, (label, each) in zip(axes[0], features.items(), strict=True):
            at = embedded(each.values)
            place.scatter(at[:, 0], at[:, 1], c=_colours(each.labels, classes), s=8, linewidths=0)
            place.set_title(f"{label}\nt-SNE of {len(at)} examples")
            place.set_xticks([])
            place.set_yticks([])
        if len(classes) <= 20:
            shown = _colours(classes, classes)
            dots = [Line2D([], [], marker="o", linestyle="", markersize=4, color=colour) for colour in shown]
            figure.legend(dots, classes, loc="outside right center", title="class")
    return figure


def embedded(values: Any) -> Floats:
    """Where t-SNE puts the directions of features (N, D), in the plane, (N, 2). N: at least 4.

    Seed, exact neighbours and one thread fixed. Source: van der Maaten and Hinton 2008; openTSNE computes it.
    """
    from openTSNE import TSNE

    n = len(values)
    embedding = TSNE(
        perplexity=min(PERPLEXITY, (n - 1) / 3),
        initialization="pca" if np.ptp(values, axis=0).any() else "random",
        neighbors="exact",
        negative_gradient_method="bh",
        random_state=SEED,
        n_jobs=1,
    ).fit(unit(values))
    return np.asarray(embedding, np.float64)


def hypersphere(features: Mapping[str, Features]) -> Figure:
    """How densely features lie on the sphere, in the plane that holds the most of them: a map, and a line by angle.

    Above each map stands how much of the squared length the plane holds. All models have the same scales.
    features: by label. Source: after Wang and Isola 2020, Figure 3, whose features have two dimensions.
    """
    figure, axes = _panels(len(features), rows=2)
    seen = {label: on_circle(each.values) for label, each in features.items()}
    maps = {label: _map(points) for label, (points, _) in seen.items()}
    lines = {label: _by_angle(points) for label, (points, _) in seen.items()}
    highest, steepest = (max(float(each.max()) for each in some.values()) for some in (maps, lines))
    turns = np.linspace(-np.pi, np.pi, ANGLES)
    with matplotlib.rc_context(_STYLE):
        for column, (label, (_, held)) in enumerate(seen.items()):
            above, below = axes[0][column], axes[1][column]
            above.imshow(maps[label], origin="lower", extent=(-1.3, 1.3, -1.3, 1.3), vmin=0, vmax=highest, cmap="magma")
            above.set_title(f"{label}\nthe plane holds {100 * held:.0f} %")
            above.set_xticks([])
            above.set_yticks([])
            below.plot(turns, lines[label], color="C0")
            below.axhline(1 / (2 * np.pi), color="0.6", linewidth=0.8, linestyle="--")
            below.set_ylim(0, 1.05 * steepest)
            below.set_xlabel("angle in the plane; dashed: even")
    return figure


def on_circle(values: Any) -> tuple[Floats, float]:
    """Directions of features (N, D) as points of the circle, (N, 2), and how much of their squared length is kept.

    They are projected onto the two directions that hold the most of it (of the directions as they are, not centred: the
    middle of the sphere stays the middle), then brought to length 1. Features of two dimensions are only turned.
    """
    points = unit(values)
    if points.shape[1] < 2:
        points = np.hstack([points, np.zeros((len(points), 1))])
    _, sizes, directions = np.linalg.svd(points, full_matrices=False)
    flat = points @ directions[:2].T
    flat *= np.where(flat.sum(0) < 0, -1, 1)  # most of them at angle 0, and not where the line is cut
    return unit(flat), float((sizes[:2] ** 2).sum() / (sizes**2).sum())


def _map(points: Floats) -> Floats:
    """Density of points (N, 2) in the plane by Gaussian kernels, (GRID, GRID), the second coordinate upwards."""
    line = np.linspace(-1.3, 1.3, GRID)
    across, up = (np.exp(-((line[:, None] - points[:, axis]) ** 2) / (2 * WIDTH**2)) for axis in (0, 1))
    density: Floats = up @ across.T / (len(points) * 2 * np.pi * WIDTH**2)
    return density


def _by_angle(points: Floats) -> Floats:
    """Density of angles by von Mises kernels, (ANGLES,); its integral over the circle is 1."""
    turns = np.linspace(-np.pi, np.pi, ANGLES)
    width = 1 / WIDTH**2
    apart = np.cos(turns[:, None] - np.arctan2(points[:, 1], points[:, 0]))
    density: Floats = np.exp(width * (apart - 1)).mean(1) / (2 * np.pi * np.i0(width) * np.exp(-width))
    return density


def _panels(models: int, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of so many models, at most `ABREAST` side by side, of so many panels each; its axes, (rows, models)."""
    across, down = min(models, ABREAST), -(-models // ABREAST)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(SIDE * across + 0.6, SIDE * rows * down), layout="constrained")
        grid = figure.subplots(rows * down, across, squeeze=False)
        for place in grid[-rows:, (models - 1) % ABREAST + 1 :].flat:
            place.remove()
        axes = [[grid[at // ABREAST * rows + row, at % ABREAST] for at in range(models)] for row in range(rows)]
        return figure, axes


def _colours(labels: Any, classes: Any) -> Floats:
    """A colour per example by its class, (N, 4), the same one in every panel. classes: of all panels, ascending."""
    name = "tab10" if len(classes) <= 10 else "tab20" if len(classes) <= 20 else "hsv"
    number = np.searchsorted(classes, labels)
    return np.asarray(matplotlib.colormaps[name](number / len(classes) if name == "hsv" else number), np.float64)


def _first(features: Features) -> Features:
    return features.at(features.positions[:MOST])
