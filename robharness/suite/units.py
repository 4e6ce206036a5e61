"""Checks of units: budgets against the range of inputs, and accuracies in percent against fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from robharness.plugins.calls import plugin_code
from robharness.specs.budget import Budget
from robharness.specs.measures import Measure
from robharness.suite import yaml
from robharness.suite.fields import FieldReader, sentence_of
from robharness.suite.records import Publication
from robharness.suite.resolved import Model, Perturbation

GREY_LEVELS = 255


def budgets(
    reader: FieldReader,
    suite: dict[str, Any],
    models: Sequence[tuple[yaml.Path, Model]],
    perturbations: Sequence[tuple[yaml.Path, Perturbation]],
) -> None:
    """Check that budgets of counts are whole numbers, and none exceeds the largest perturbation of a model's input."""
    places = _Places(suite)
    for path, perturbation in perturbations:
        eps, measure = perturbation.eps, perturbation.measure
        if eps is None or measure is None:
            continue
        if measure.is_count and eps.denominator != 1:
            counted = measure.unit or "something"
            sentence = f"eps {eps} under {measure.name} is no whole number, but {measure.name} counts {counted}"
            reader.error(places.of(path, eps), sentence)
            continue
        shapes = [_input_shape(model) for _, model in models]
        try:
            largest = {shape: size for shape in shapes if (size := _largest(measure, shape)) is not None}
        except Exception as error:  # a plugin's function may raise anything
            origin = f"{perturbation.entry.name} ({perturbation.entry.origin})"
            reader.error(path, f"{origin}: its measure '{measure.name}': {sentence_of(error)}")
            continue
        if largest and float(eps) > max(largest.values()):
            shape = max(largest, key=lambda shape: largest[shape])
            reader.error(places.of(path, eps), _sentence(eps, measure, largest[shape], math.prod(shape)))


def _input_shape(model: Model) -> tuple[int, ...]:
    """Return the shape of an input that an attack may change, with all clips of a video."""
    clips, (channels, *sides) = model.entry.spec.clips, model.entry.spec.input.shape
    return channels, sides[0] * (clips.per_video if clips else 1), *sides[1:]


def _largest(measure: Measure, shape: tuple[int, ...]) -> float | None:
    """Return the largest size of a perturbation, or None if it is not known. May raise whatever a plugin raises."""
    if measure.largest is None:
        return None
    with plugin_code():
        largest = measure.largest(shape)
        return None if largest is None else float(largest)


def _sentence(eps: Budget, measure: Measure, largest: float, n: int) -> str:
    fits = not measure.is_count and Fraction(eps) / GREY_LEVELS <= largest
    levels = f"; did you mean {eps}/{GREY_LEVELS}?" if fits and "/" not in str(eps) else ""
    if measure.name == "linf":
        return f"eps {eps} under linf is more than the whole range of a pixel, [0, 1]{levels}"
    pairs, most = f"any two inputs of {n} values in [0, 1]", measure.sized(f"{largest:.4g}")
    return f"eps {eps} under {measure.name} is more than the distance of {pairs}, {most}{levels}"


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
