"""Checks of units: budgets against the range of inputs, and accuracies in percent against fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from robharness.specs.budget import Budget
from robharness.suite import yaml
from robharness.suite.fields import FieldReader
from robharness.suite.records import Publication
from robharness.suite.resolved import Model, Perturbation

GREY_LEVELS = 255


def budgets(
    reader: FieldReader,
    suite: dict[str, Any],
    models: Sequence[tuple[yaml.Path, Model]],
    perturbations: Sequence[tuple[yaml.Path, Perturbation]],
) -> None:
    """Check that no budget is larger than the largest perturbation of its norm between two inputs in [0, 1]."""
    sizes = [_input_values(model) for _, model in models]
    n, places = max(sizes, default=0), _Places(suite)
    for path, perturbation in perturbations:
        eps, norm = perturbation.eps, perturbation.norm
        if eps is None or norm is None or not sizes:
            continue
        is_beyond = {"linf": eps > 1, "l2": eps * eps > n, "l1": eps > n}[norm]
        if is_beyond:
            reader.error(places.of(path, eps), _sentence(eps, norm, n))


def _input_values(model: Model) -> int:
    """Return the number of values of an input that an attack may change, with all clips of a video."""
    clips = model.entry.spec.clips
    shape: tuple[int, ...] = model.entry.spec.input.shape
    return math.prod(shape) * (clips.per_video if clips else 1)


def _sentence(eps: Budget, norm: str, n: int) -> str:
    if norm == "linf":
        levels = f"; did you mean {eps}/{GREY_LEVELS}?" if eps <= GREY_LEVELS and "/" not in str(eps) else ""
        return f"eps {eps} under linf is more than the whole range of a pixel, [0, 1]{levels}"
    most = f"{math.sqrt(n):.4g}" if norm == "l2" else str(n)
    scaled = Fraction(eps) / GREY_LEVELS
    fits = scaled * scaled <= n if norm == "l2" else scaled <= n
    levels = f"; did you mean {eps}/{GREY_LEVELS}?" if fits and "/" not in str(eps) else ""
    return f"eps {eps} under {norm} is more than the distance of any two inputs of {n} values in [0, 1], {most}{levels}"


class _Places:
    """The paths of budgets, which may be items of a list."""

    def __init__(self, suite: dict[str, Any]) -> None:
        self.suite = suite
        self.indices: dict[Any, dict[Budget, int]] = {}

    def of(self, path: yaml.Path, eps: Budget) -> yaml.Path:
        """Return the path of a budget of an attack."""
        written = self.suite["attacks"][path[1]].get("eps")
        if not isinstance(written, list):
            return (*path, "eps")
        if path not in self.indices:
            self.indices[path] = {Budget(written[at]): at for at in reversed(range(len(written)))}
        return (*path, "eps", self.indices[path].get(eps, 0))


def percentages(
    reader: FieldReader,
    models: Sequence[tuple[yaml.Path, Model]],
    publications: Sequence[tuple[yaml.Path, Publication]],
    metrics: Sequence[str],
) -> None:
    """Check that accuracies in percent are no fractions, and no more than 100.

    publications: the published numbers by source, each with its path.
    metrics: names of metrics, whose numbers have units of their own.
    """
    for path, model in models:
        least = model.clean_at_least
        if least is not None and 0 < least <= 1:
            reader.error((*path, "clean_at_least"), _fraction(least))
    for path, publication in publications:
        for label, numbers in publication.numbers.items():
            for name, value in numbers.items():
                if name in metrics:
                    continue
                if not 0 <= value <= 100:
                    sentence = f"{value:g} is no accuracy in percent, which is in [0, 100]"
                    reader.error((*path, label, name), sentence)
                elif name == "clean" and 0 < value <= 1:
                    reader.error((*path, label, name), _fraction(value))


def _fraction(value: float) -> str:
    return f"{value:g} means {value:g} %, since accuracies are in percent; did you mean {100 * value:g}?"
