"""Figures of features, as PNG and SVG: heat maps of class distances, t-SNE, and density on the sphere.

A figure shows all models of the suite side by side on one scale. The same features give the same file, byte by byte:
seeds are fixed, and no date is written.
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
MAX_EXAMPLES = 2000
"""Number of examples in t-SNE and the density: the first in the suite's order, which is as good as random."""
PERPLEXITY = 30
WIDTH = 0.1
"""Width of the density's kernel, as an angle in radians and as a distance in the plane."""
GRID, ANGLES = 120, 360
"""Points per side of the density's map, and angles of its curve."""
SIDE, COLUMNS = 3.6, 4
"""Side of a panel in inches, and number of models in a row."""
_STYLE: Any = {"svg.hashsalt": "robharness", "svg.fonttype": "path", "font.size": 9.0, "figure.dpi": 100.0}


def draw(results: Results, folder: Path) -> Iterator[Path]:
    """Draw the three figures of all models whose features are stored, as PNG and SVG. Yields the files.

    Of models that differ only in their seed, the first is shown. A figure that needs more examples is left out.

    folder: an existing folder.
    """
    features = {}
    for label in shown([model for model in results.suite.models if model.label in results.labels]):
        try:
            features[label] = results.features(label)
        except ValueError:  # no features yet; the report says so beside the metrics
            continue
    distances = {}
    for label, each in features.items():
        try:
            distances[label] = class_distances(each.values, each.labels)
        except ValueError:  # classes of one example
            continue
    if distances:
        yield from save(heat_maps(distances), folder / "class-distances")
    selected = {label: first_examples(each) for label, each in features.items() if len(each.labels) > 3}
    if selected:
        yield from save(tsne(selected), folder / "tsne")
        yield from save(hypersphere(selected), folder / "hypersphere")


def shown(models: Sequence[Any]) -> list[str]:
    """Return the labels of a suite's models, and of models that differ only in their seed the first label."""
    first: dict[str, str] = {}
    for model in models:
        first.setdefault(model.run_of or model.label, model.label)
    return list(first.values())


def save(figure: Figure, path: Path) -> Iterator[Path]:
    """Write the figure to path.png and path.svg; the same figure gives the same bytes."""
    with matplotlib.rc_context(_STYLE):
        FigureCanvasAgg(figure)
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": "robharness"})):
            file = path.with_name(f"{path.name}.{ending}")
            figure.savefig(file, format=ending, metadata=metadata)
            yield file


def heat_maps(distances: Mapping[str, ClassDistances]) -> Figure:
    """Draw mean distances by pairs of classes, a map per model with its ratio as title, on one colour scale.

    distances: by label of the model.

    Source: the paper's Figure 3.
    """
    figure, axes = _panels(len(distances))
    low = min(float(np.nanmin(each.matrix)) for each in distances.values())
    high = max(float(np.nanmax(each.matrix)) for each in distances.values())
    with matplotlib.rc_context(_STYLE):
        for axis, (label, each) in zip(axes[0], distances.items(), strict=True):
            image = axis.imshow(each.matrix, vmin=low, vmax=high, cmap="viridis")
            axis.set_title(f"{label}\ninter-/intra-class distance {each.ratio:.2f}")
            if len(each.classes) <= 20:
                axis.set_xticks(range(len(each.classes)), each.classes)
                axis.set_yticks(range(len(each.classes)), each.classes)
            axis.set_xlabel("class")
        figure.colorbar(image, ax=list(axes[0]), label="mean distance of unit features", shrink=0.8)
    return figure


def tsne(features: Mapping[str, Features]) -> Figure:
    """Draw the features of each model in the plane by t-SNE, coloured by class.

    features: by label of the model, each of at least 4 examples.
    """
    figure, axes = _panels(len(features))
    classes = np.unique(np.concatenate([each.labels for each in features.values()]))
    with matplotlib.rc_context(_STYLE):
        for axis, (label, each) in zip(axes[0], features.items(), strict=True):
            points = embed(each.values)
            axis.scatter(points[:, 0], points[:, 1], c=_colours(each.labels, classes), s=8, linewidths=0)
            axis.set_title(f"{label}\nt-SNE of {len(points)} examples")
            axis.set_xticks([])
            axis.set_yticks([])
        if len(classes) <= 20:
            colours = _colours(classes, classes)
            dots = [Line2D([], [], marker="o", linestyle="", markersize=4, color=colour) for colour in colours]
            figure.legend(dots, classes, loc="outside right center", title="class")
    return figure


def embed(values: Any) -> Floats:
    """Embed the directions of features in the plane by t-SNE, (N, 2); a fixed seed and one thread make it repeatable.

    values: (N, D), N at least 4.

    Source: van der Maaten and Hinton 2008; computed by openTSNE with exact neighbours.
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
    """Draw the density of features on the sphere, projected to their principal plane: as a map, and by angle.

    A map's title gives the share of the squared norm in the plane. All models have the same scales.

    features: by label of the model.

    Source: after Wang and Isola 2020, Figure 3, whose features have two dimensions.
    """
    figure, axes = _panels(len(features), rows=2)
    projections = {label: on_circle(each.values) for label, each in features.items()}
    maps = {label: density_map(points) for label, (points, _) in projections.items()}
    curves = {label: angular_density(points) for label, (points, _) in projections.items()}
    highest_map, highest_curve = (max(float(each.max()) for each in some.values()) for some in (maps, curves))
    angles = np.linspace(-np.pi, np.pi, ANGLES)
    with matplotlib.rc_context(_STYLE):
        for column, (label, (_, share)) in enumerate(projections.items()):
            above, below = axes[0][column], axes[1][column]
            above.imshow(
                maps[label], origin="lower", extent=(-1.3, 1.3, -1.3, 1.3), vmin=0, vmax=highest_map, cmap="magma"
            )
            above.set_title(f"{label}\n{100 * share:.0f} % of squared norm in plane")
            above.set_xticks([])
            above.set_yticks([])
            below.plot(angles, curves[label], color="C0")
            below.axhline(1 / (2 * np.pi), color="0.6", linewidth=0.8, linestyle="--")
            below.set_ylim(0, 1.05 * highest_curve)
            below.set_xlabel("angle in the plane (radians); dashed: uniform")
    return figure


def on_circle(values: Any) -> tuple[Floats, float]:
    """Project unit features to the circle. Returns points (N, 2) and the share of squared norm in their plane.

    The plane is that of the two principal directions, without centring, so that the sphere's centre stays the circle's.
    Projections are scaled to length 1. Features of two dimensions are only rotated.

    values: (N, D).
    """
    points = unit(values)
    if points.shape[1] < 2:
        points = np.hstack([points, np.zeros((len(points), 1))])
    _, sizes, directions = np.linalg.svd(points, full_matrices=False)
    flat = points @ directions[:2].T
    flat *= np.where(flat.sum(0) < 0, -1, 1)  # most points at angle 0, away from the ends of the curve
    return unit(flat), float((sizes[:2] ** 2).sum() / (sizes**2).sum())


def density_map(points: Floats) -> Floats:
    """Return the density of points (N, 2) by Gaussian kernels, (GRID, GRID), the second coordinate along the rows."""
    line = np.linspace(-1.3, 1.3, GRID)
    across, up = (np.exp(-((line[:, None] - points[:, axis]) ** 2) / (2 * WIDTH**2)) for axis in (0, 1))
    density: Floats = up @ across.T / (len(points) * 2 * np.pi * WIDTH**2)
    return density


def angular_density(points: Floats) -> Floats:
    """Return the density of angles by von Mises kernels, (ANGLES,); its integral over the circle is 1."""
    angles = np.linspace(-np.pi, np.pi, ANGLES)
    concentration = 1 / WIDTH**2
    cosines = np.cos(angles[:, None] - np.arctan2(points[:, 1], points[:, 0]))
    kernels = np.exp(concentration * (cosines - 1))
    density: Floats = kernels.mean(1) / (2 * np.pi * np.i0(concentration) * np.exp(-concentration))
    return density


def _panels(models: int, rows: int = 1) -> tuple[Figure, Any]:
    """Make a figure with panels for each model. Returns the figure and its axes, (rows, models).

    models: their number, of which at most `COLUMNS` are side by side.
    rows: panels per model.
    """
    across, down = min(models, COLUMNS), -(-models // COLUMNS)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(SIDE * across + 0.6, SIDE * rows * down), layout="constrained")
        grid = figure.subplots(rows * down, across, squeeze=False)
        for axis in grid[-rows:, (models - 1) % COLUMNS + 1 :].flat:
            axis.remove()
        axes = [[grid[at // COLUMNS * rows + row, at % COLUMNS] for at in range(models)] for row in range(rows)]
        return figure, axes


def _colours(labels: Any, classes: Any) -> Floats:
    """Return a colour per example by its class, (N, 4), the same in every panel.

    labels: (N,).
    classes: of all panels, in ascending order.
    """
    name = "tab10" if len(classes) <= 10 else "tab20" if len(classes) <= 20 else "hsv"
    number = np.searchsorted(classes, labels)
    return np.asarray(matplotlib.colormaps[name](number / len(classes) if name == "hsv" else number), np.float64)


def first_examples(features: Features, count: int = MAX_EXAMPLES) -> Features:
    """Return the features of the first examples in the suite's order."""
    return features.at(features.positions[:count])
