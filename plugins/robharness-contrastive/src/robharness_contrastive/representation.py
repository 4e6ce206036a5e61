"""Measures of features on the unit sphere: uniformity, alignment, class distances, purity and margins.

Features are (N, D) arrays of any norm. All functions use their directions, f / |f|, in float64. Pairs are computed in
blocks of rows, so that memory grows with N and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BLOCK = 2**22
"""Pairwise distances that are computed together: 32 MB."""


def unit(features: npt.ArrayLike) -> Floats:
    """Scale features (N, D) to length 1, in float64; zero vectors stay zero."""
    values = np.asarray(features, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)


def alignment(features: npt.ArrayLike, others: npt.ArrayLike, alpha: float = 2) -> Floats:
    """Return the distance between two views of each example, |u - v| ** alpha, (N,); their mean is the alignment.

    0 is perfectly aligned; with alpha 2, values are in [0, 4].

    features, others: (N, D), of the same examples in the same order.
    alpha: exponent; 2 as in the paper's experiments.

    Source: Wang and Isola 2020, section 4.1.
    """
    distances: Floats = np.linalg.norm(unit(features) - unit(others), axis=1) ** alpha
    return distances


def uniformity(features: npt.ArrayLike, t: float = 2, *, block: int = BLOCK) -> float:
    """Return the uniformity of features on the sphere: log of the mean of exp(-t |u - v|²) over pairs of examples.

    It is 0 if all features are the same point, and about -2t if they spread over many dimensions, where |u - v|² is 2.

    features: (N, D).
    t: of the Gaussian potential; 2 as in the paper's experiments.
    block: pairs that are computed together.

    Raises ValueError for fewer than 2 examples. Source: Wang and Isola 2020, section 4.1.
    """
    points = unit(features)
    n = len(points)
    if n < 2:
        raise ValueError(f"uniformity needs pairs of examples, but the number of examples is {n}")
    total = sum(float(np.exp(-t * squares).sum()) for _, squares in _squares(points, block))
    return float(np.log((total - n) / (n * (n - 1))))  # without pairs of an example with itself


@dataclass(frozen=True, kw_only=True)
class ClassDistances:
    """Mean distances between examples by pairs of classes.

    classes: (C,), labels in ascending order.
    counts: (C,), number of examples of each class.
    matrix: (C, C), in [0, 2]. The diagonal has distances within a class without pairs of an example with itself, and
        NaN for a class of one example.
    """

    classes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    matrix: Floats

    @property
    def intra(self) -> Floats:
        """Mean distance within each class, (C,)."""
        return np.diag(self.matrix).copy()

    @property
    def inter(self) -> Floats:
        """Mean over the other classes of the distance from each class, (C,)."""
        others = self.matrix.copy()
        np.fill_diagonal(others, 0)
        mean: Floats = others.sum(1) / (len(others) - 1)
        return mean

    @property
    def ratio(self) -> float:
        """Mean distance between classes divided by that within; 1 if classes are no clusters. Source: its Figure 3."""
        return float(self.inter.mean() / np.nanmean(self.intra))

    @property
    def ratios(self) -> Floats:
        """Distance from each class to the others divided by that within, (C,); NaN for a class of one example."""
        ratios: Floats = self.inter / self.intra
        return ratios


def class_distances(features: npt.ArrayLike, labels: npt.ArrayLike, *, block: int = BLOCK) -> ClassDistances:
    """Return mean Euclidean distances between unit features by pairs of classes.

    features: (N, D).
    labels: (N,).
    block: pairs that are computed together.

    Raises ValueError for fewer than 2 classes, or if no class has 2 examples.
    Source: the paper's appendix G. It does not say which distances it means; we take Euclidean distances of unit
    features, without pairs of an example with itself.
    """
    given = np.asarray(labels, np.int64)
    order = np.argsort(given, kind="stable")
    classes, starts, counts = np.unique(given[order], return_index=True, return_counts=True)
    if len(classes) < 2 or counts.max() < 2:
        raise ValueError(
            f"class distances need at least 2 classes, and 2 examples of one of them; there are {len(given)} "
            f"examples of {len(classes)} classes"
        )
    sums = np.zeros((len(classes), len(classes)))
    number = np.repeat(np.arange(len(classes)), counts)
    for rows, squares in _squares(unit(features)[order], block):
        by_class = np.add.reduceat(np.sqrt(squares), starts, axis=1)
        np.add.at(sums, number[rows], by_class)
    pairs = np.outer(counts, counts).astype(np.float64)
    np.fill_diagonal(pairs, counts * (counts - 1))
    with np.errstate(invalid="ignore"):
        matrix = np.where(pairs > 0, sums / np.where(pairs > 0, pairs, 1), np.nan)
    return ClassDistances(classes=classes, counts=counts, matrix=(matrix + matrix.T) / 2)


def neighbourhood_purity(features: npt.ArrayLike, labels: npt.ArrayLike, k: int = 10, *, block: int = BLOCK) -> Floats:
    """Return the share of each example's k nearest neighbours that have its class, (N,), in [0, 1].

    features: (N, D); neighbours are nearest by direction.
    labels: (N,).
    k: number of neighbours. If several are equally far at the k-th place, any of them may count.
    block: pairs that are computed together.

    Raises ValueError for fewer than k + 1 examples.
    """
    given, points = np.asarray(labels), unit(features)
    if len(points) <= k:
        raise ValueError(f"purity of {k} neighbours needs {k + 1} examples, and there are {len(points)}")
    purity = np.empty(len(points))
    for rows, squares in _squares(points, block):
        squares[np.arange(len(rows)), rows] = np.inf
        nearest = np.argpartition(squares, k - 1, axis=1)[:, :k]
        purity[rows] = (given[nearest] == given[rows][:, None]).mean(1)
    return purity


def margins(features: npt.ArrayLike, boundary: npt.ArrayLike) -> Floats:
    """Return distances of unit features from the decision boundary of a linear probe, (N,).

    Feature and distance are divided by the feature's length r. For a probe z = W f + b on f = r u, this replaces b by
    b / r, which does not change the decision. The result is NaN for a feature of length 0.

    features: (N, D).
    boundary: (N,), distances in feature space, `robharness.Features.boundary`; negative if the probe is wrong.

    Source: the margin that false negatives reduce by the paper's Lemma 3.1.
    """
    lengths = np.linalg.norm(np.asarray(features, np.float64), axis=1)
    scaled: Floats = np.asarray(boundary, np.float64) / np.where(lengths > 0, lengths, np.nan)
    return scaled


def _squares(points: Floats, block: int) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Yield indices of rows and their squared distances to all points, (rows, N); 0 for a row and itself."""
    n = len(points)
    lengths = (points * points).sum(1)
    step = max(1, block // max(1, n))
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        squares = lengths[rows][:, None] + lengths - 2 * points[rows] @ points.T
        np.maximum(squares, 0, out=squares)
        squares[np.arange(len(rows)), rows] = 0
        yield rows, squares
