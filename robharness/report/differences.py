"""Differences of every model from the suite's reference, paired by example, or of means over runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from robharness import statistics
from robharness.report.paired import Outcomes, clean_outcomes, cluster_of_each, drop_difference, outcomes_of
from robharness.report.records import CellNumbers, DifferenceNumbers
from robharness.report.runs import spread
from robharness.report.worst_cases import worst_outcomes
from robharness.store.results import Results
from robharness.store.spans import common_positions


def differences(results: Results, cells: Sequence[CellNumbers]) -> tuple[DifferenceNumbers, ...]:
    """Return the differences from the reference; none without a reference.

    cells: the numbers of the same results, for means over runs.
    Attacks without a budget are left out, because their accuracies are those that are left after the whole search.
    """
    suite = results.outline.suite
    reference = next((model.run_of or model.label for model in suite.models if model.reference), None)
    columns: dict[str, list[str]] = {}
    runs = {model.label for model in suite.models if model.run_of is not None}
    for model in suite.models:
        if model.label in results.labels:
            columns.setdefault(model.run_of or model.label, []).append(model.label)
    if reference not in columns:
        return ()
    clusters = cluster_of_each(results)
    found: list[DifferenceNumbers] = []
    for column, labels in columns.items():
        if column == reference:
            continue
        if runs.isdisjoint([*labels, *columns[reference]]):
            found += _paired(results, labels[0], reference, clusters)
        else:
            found += _over_runs(cells, column, labels, reference, columns[reference])
    return _adjusted(found)


def _adjusted(found: Sequence[DifferenceNumbers]) -> tuple[DifferenceNumbers, ...]:
    """Return the differences with p values adjusted for all of them."""
    adjusted = iter(statistics.holm([each.p for each in found if each.p is not None]).tolist())
    return tuple(each if each.p is None else replace(each, p_holm=next(adjusted)) for each in found)


# --- single models --------------------------------------------------------------------------------------------------


def _paired(results: Results, label: str, reference: str, clusters: np.ndarray | None) -> Iterator[DifferenceNumbers]:
    for kind in ("clean", "attack", "corruption"):
        base = {each.cell.short_name: each for each in results.of(reference, kind) if each.n}
        for own in results.of(label, kind):
            other = base.get(own.cell.short_name)
            if other is not None and own.n and not own.is_unbounded:
                pair = outcomes_of(results, other), outcomes_of(results, own)
                yield from _compared(results, label, reference, kind, own.cell.short_name, pair, clusters)
        if kind == "attack":
            yield from _worst_cases(results, label, reference, clusters)


def _worst_cases(
    results: Results, label: str, reference: str, clusters: np.ndarray | None
) -> Iterator[DifferenceNumbers]:
    """Yield the differences of worst cases that include all attacks of both models."""
    base = {each.name: each for each in worst_outcomes(results, reference)}
    for own in worst_outcomes(results, label):
        other = base.get(own.name)
        if other is None or own.attacks < own.asked or other.attacks < other.asked:
            continue
        pair: tuple[Outcomes, Outcomes] = other, own
        if results.outline.suite.count == "robust":
            pair = (other.and_also(clean_outcomes(results, reference)), own.and_also(clean_outcomes(results, label)))
        for each in _compared(results, label, reference, "worst case", own.name, pair, clusters):
            yield replace(each, p=None)


def _compared(
    results: Results,
    label: str,
    reference: str,
    kind: str,
    name: str,
    pair: tuple[Outcomes, Outcomes],
    clusters: np.ndarray | None,
) -> Iterator[DifferenceNumbers]:
    """Yield the difference of the outcomes of the reference and of the model; nothing without common examples."""
    before, after = pair
    positions = common_positions([before.positions, after.positions])
    if not len(positions):
        return
    numbers = None if clusters is None else clusters[positions]
    paired = statistics.paired_difference(before.at(positions), after.at(positions), numbers)
    cleans = clean_outcomes(results, reference), clean_outcomes(results, label)
    drops = None if kind == "clean" else drop_difference(before, after, cleans, clusters)
    yield DifferenceNumbers(
        model=label,
        reference=reference,
        kind=kind,
        perturbation=name,
        n=paired.n,
        units=paired.units,
        difference=paired.difference,
        interval=paired.interval,
        lost=paired.lost,
        gained=paired.gained,
        p=paired.p,
        drop_difference=drops and drops.difference,
        drop_interval=drops and drops.interval,
    )


# --- runs over seeds ------------------------------------------------------------------------------------------------


def _over_runs(
    cells: Sequence[CellNumbers], label: str, models: Sequence[str], reference: str, references: Sequence[str]
) -> Iterator[DifferenceNumbers]:
    """Yield the differences of the means over complete runs, or of a single model, which is a run alone."""
    complete: dict[str, dict[str, CellNumbers]] = {}
    for cell in cells:
        if cell.complete and not cell.is_unbounded:
            complete.setdefault(cell.perturbation, {})[cell.model] = cell
    for name, by_model in complete.items():
        own, base = ([by_model[each] for each in some if each in by_model] for some in (models, references))
        accuracy, deviation = _difference([_accuracies(some) for some in (own, base)])
        drop, drop_deviation = _difference([[cell.numbers.relative_drop for cell in some] for some in (own, base)])
        if accuracy is not None:
            yield DifferenceNumbers(
                model=label,
                reference=reference,
                kind=own[0].kind,
                perturbation=name,
                n=own[0].numbers.n,
                difference=accuracy,
                drop_difference=drop,
                runs=(len(own), len(base)),
                deviation=deviation,
                drop_deviation=drop_deviation,
            )


def _accuracies(cells: Sequence[CellNumbers]) -> list[float | None]:
    found = [cell.numbers for cell in cells]
    return [each.robust_accuracy if each.accuracy is None else each.accuracy for each in found]


def _difference(numbers: Sequence[Sequence[float | None]]) -> tuple[float | None, float | None]:
    """Return the difference of two means, the first minus the other, and its deviation.

    The deviation is None if neither side has two numbers; a single number adds nothing to it.
    """
    (mean, deviation), (other, other_deviation) = map(spread, numbers)
    if mean is None or other is None:
        return None, None
    known = [each for each in (deviation, other_deviation) if each is not None]
    return mean - other, math.hypot(*known) if known else None
