"""Optimality of attacks that search for the smallest perturbation, as AttackBench measures it.

Source: Cina, Rony, Pintor, Demetrio, Demontis, Biggio, Ben Ayed and Roli 2025, AttackBench, AAAI 39:2600, and the code
of its authors, https://github.com/attackbench/AttackBench. Equations have the numbers of the paper.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from robharness.statistics.intervals import Floats, UndefinedNumber, ratio
from robharness.statistics.paired import resampled_means


def optimality_limit(best: npt.ArrayLike) -> float:
    """Return eps_0, up to which areas reach: the smallest budget at which the best attack leaves no example right.

    best: the smallest distance of each example that any attack found, (n,); 0 if its clean input is wrong, inf if no
        attack found one.
    Of examples without any distance, no budget leaves none right. They are then left out, so that eps_0 is the largest
    distance that was found, as in the authors' code.
    Raises UndefinedNumber if no example has a distance above 0.
    """
    distances = np.asarray(best, np.float64)
    limit = float(distances[np.isfinite(distances)].max(initial=0))
    if not limit:
        raise UndefinedNumber("No attack found a perturbation, so there is no budget to integrate up to.")
    return limit


def local_optimality(distances: npt.ArrayLike, best: npt.ArrayLike, until: float) -> Floats:
    """Return the local optimality of attacks on a model, (attacks,): 1 for an attack that is never worse than the best.

    distances: of the smallest perturbations that each attack found, (attacks, n), in the form of `best`.
    best: the smallest distance of each example, (n,), as for `optimality_limit`.
    until: eps_0.

    The robustness evaluation curve of an attack is the accuracy rho_a(eps), the share of examples with a distance above
    eps. Equation 4: AUREC_a = integral of rho_a over eps from 0 to eps_0. Equation 5, with the clean accuracy rho and
    the best attack a*::

        xi = (rho eps_0 - AUREC_a) / (rho eps_0 - AUREC_a*)

    An attack that finds nothing up to eps_0 has 0. It is above 1 only if the attack has smaller distances than `best`;
    the authors' code then returns 1. Curves are step functions, so that an example with the distance d adds
    min(d, eps_0) / n to the area: the ratio is that of two sums over examples, of eps_0 - min(d, eps_0). nan if `best`
    has no example below eps_0.
    """
    gains = _gains(distances, best, until)
    return ratio(gains[:-1].sum(axis=1), gains[-1].sum())


def resampled_local_optimality(
    distances: npt.ArrayLike,
    best: npt.ArrayLike,
    until: float,
    *,
    clusters: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Floats:
    """Return `local_optimality` in bootstrap resamples of the examples, (resamples, attacks); nan if it is undefined.

    clusters: the number of each example's cluster, (n,) int; None if examples are independent.
    The limit eps_0 is that of all examples: the bootstrap does not hold for a largest value (Bickel and Freedman 1981,
    Annals of Statistics 9:1196). Resamples of several models on the same examples are the same ones, so that numbers
    of models may be averaged in each resample, as global optimality does.
    """
    gains = _gains(distances, best, until) / until
    means = resampled_means(gains, clusters=clusters, resamples=resamples, seed=seed)
    return ratio(means[:, :-1], means[:, -1:])


def _gains(distances: npt.ArrayLike, best: npt.ArrayLike, until: float) -> Floats:
    """Return the part of each example in rho eps_0 - AUREC, times n, for the attacks and, last, for the best one.

    An example that is wrong without an attack, with a best distance of 0, has no part: it is neither in rho nor in the
    area.
    """
    if not 0 < until < math.inf:
        raise UndefinedNumber(f"A budget to integrate up to is above 0 and finite, unlike {until}.")
    found = np.vstack([np.asarray(distances, np.float64), np.asarray(best, np.float64)])
    gains: Floats = np.where(found[-1] > 0, until - np.minimum(found, until), 0.0)
    return gains
