"""What features look like on the unit sphere: how even, how aligned, how far apart classes are, how near the boundary.

Features are (N, D) arrays of any length; all functions look at their directions, f / |f|, in float64. Pairs are taken
in blocks of rows, so that memory grows with N and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BLOCK = 2**22
"""Distances at once: 32 MB."""


def unit(features: npt.ArrayLike) -> Floats:
    """Features (N, D) as vectors of length 1, float64; a vector of zeros stays one."""
    values = np.asarray(features, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)


def alignment(features: npt.ArrayLike, others: npt.ArrayLike, alpha: float = 2) -> Floats:
    """How far each example's features are from those of another view of it: |u - v| ** alpha, (N,); 0 is aligned.

    features, others: (N, D), row by row of the same examples. For alpha 2 in [0, 4]. The mean is the alignment.
    Source: Wang and Isola 2020, section 4.1; alpha 2 as in their experiments.
    """
    distances: Floats = np.linalg.norm(unit(features) - unit(others), axis=1) ** alpha
    return distances


def uniformity(features: npt.ArrayLike, t: float = 2) -> float:
    """How evenly features (N, D) lie on the sphere: log of the mean of exp(-t |u - v|²) over pairs of examples.

    0 where all are one point, down to about -2t where they are spread over many dimensions (|u - v|² is 2 then).
    Raises ValueError for fewer than 2 examples. Source: Wang and Isola 2020, section 4.1; t 2 as in their experiments.
    """
    points = unit(features)
    n = len(points)
    if n < 2:
        raise ValueError(f"uniformity is of pairs of examples, and there is {n} example")
    total = sum(float(np.exp(-t * squares).sum()) for _, squares in _squares(points))
    return float(np.log((total - n) / (n * (n - 1))))  # without the pairs of an example with itself


@dataclass(frozen=True, kw_only=True)
class ClassDistances:
    """Mean distances between examples, class by class.

    classes: (C,) labels, ascending. counts: (C,) examples of each. matrix: (C, C), in [0, 2]; the diagonal is within a
    class, pairs of an example with itself left out, NaN for a class of one.
    """

    classes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    matrix: Floats

    @property
    def intra(self) -> Floats:
        """Within each class, (C,)."""
        return np.diag(self.matrix).copy()

    @property
    def inter(self) -> Floats:
        """From each class to the others, (C,): the mean over these."""
        others = self.matrix.copy()
        np.fill_diagonal(others, 0)
        mean: Floats = others.sum(1) / (len(others) - 1)
        return mean

    @property
    def ratio(self) -> float:
        """The mean off the diagonal over the mean on it; 1 where classes are no clusters. Source: its Figure 3."""
        return float(self.inter.mean() / np.nanmean(self.intra))

    @property
    def ratios(self) -> Floats:
        """Of each class: how far the others are over how far its own are, (C,); NaN for a class of one."""
        found: Floats = self.inter / self.intra
        return found


def class_distances(features: npt.ArrayLike, labels: npt.ArrayLike) -> ClassDistances:
    """Mean Euclidean distances between the directions of examples, by pairs of classes.

    features: (N, D). labels: (N,). Raises ValueError for fewer than 2 classes, or where no class has 2 examples.
    Source: the paper's appendix G, which leaves open of what; we take unit features, Euclidean distances, no example
    with itself.
    """
    given = np.asarray(labels, np.int64)
    order = np.argsort(given, kind="stable")
    classes, starts, counts = np.unique(given[order], return_index=True, return_counts=True)
    if len(classes) < 2 or counts.max() < 2:
        raise ValueError(
            f"distances within and between classes need 2 classes and 2 examples of one; there are {len(given)} "
            f"examples of {len(classes)} classes"
        )
    sums = np.zeros((len(classes), len(classes)))
    number = np.repeat(np.arange(len(classes)), counts)
    for rows, squares in _squares(unit(features)[order]):
        by_class = np.add.reduceat(np.sqrt(squares), starts, axis=1)
        np.add.at(sums, number[rows], by_class)
    pairs = np.outer(counts, counts).astype(np.float64)
    np.fill_diagonal(pairs, counts * (counts - 1))
    with np.errstate(invalid="ignore"):
        matrix = np.where(pairs > 0, sums / np.where(pairs > 0, pairs, 1), np.nan)
    return ClassDistances(classes=classes, counts=counts, matrix=(matrix + matrix.T) / 2)


def neighbourhood_purity(features: npt.ArrayLike, labels: npt.ArrayLike, k: int = 10) -> Floats:
    """Which share of each example's k nearest neighbours is of its own class, (N,), in [0, 1].

    features: (N, D); nearest by direction. labels: (N,). Of neighbours equally far that the k-th place divides, any may
    count. Raises ValueError where there are no k others.
    """
    given, points = np.asarray(labels), unit(features)
    if len(points) <= k:
        raise ValueError(f"{k} neighbours of an example need {k + 1} examples, and there are {len(points)}")
    purity = np.empty(len(points))
    for rows, squares in _squares(points):
        squares[np.arange(len(rows)), rows] = np.inf
        nearest = np.argpartition(squares, k - 1, axis=1)[:, :k]
        purity[rows] = (given[nearest] == given[rows][:, None]).mean(1)
    return purity


def margins(features: npt.ArrayLike, boundary: npt.ArrayLike) -> Floats:
    """How far examples are from where a linear probe changes its mind, as seen on the unit sphere, (N,).

    features: (N, D). boundary: (N,), the distance in features, `robharness.Features.boundary`; below 0 where the probe
    is wrong. Both are scaled so that the feature has length 1: of a probe z = W f + b on f = r u, b counts as b / r,
    which leaves its decision as it is. A feature of length 0 has none, NaN.
    Source: what the paper's Lemma 3.1 says false negatives make smaller.
    """
    lengths = np.linalg.norm(np.asarray(features, np.float64), axis=1)
    scaled: Floats = np.asarray(boundary, np.float64) / np.where(lengths > 0, lengths, np.nan)
    return scaled


def _squares(points: Floats) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Squared distances of some rows to all points, (rows, N), and which rows; 0 of a row to itself."""
    n = len(points)
    lengths = (points * points).sum(1)
    step = max(1, BLOCK // max(1, n))
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        squares = lengths[rows][:, None] + lengths - 2 * points[rows] @ points.T
        np.maximum(squares, 0, out=squares)
        squares[np.arange(len(rows)), rows] = 0
        yield rows, squares
