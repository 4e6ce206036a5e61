"""The models of a comparison: pairs of labels, and labels that the runs of several seeds share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from robharness.comparison.records import Side
from robharness.comparison.requests import Request
from robharness.comparison.runs import runs_of
from robharness.errors import UserError, did_you_mean, nearest_word
from robharness.text import printable

NAMED = 10
"""The number of labels that a message names."""


class Models(NamedTuple):
    """The models that are compared.

    pairs: labels before and after whose outcomes are compared by example.
    runs: labels before and after of which one at least is shared by runs; means over runs are compared.
    """

    pairs: tuple[tuple[str, str], ...]
    runs: tuple[tuple[str, str], ...]


def chosen(before: Side, after: Side, request: Request) -> Models:
    """Return the models that a comparison is of: those that are asked for, or else all labels that both sides have.

    Runs are paired with the runs of the same seed, or all with a single model.
    Raises UserError if a label does not exist, or if there is nothing to compare.
    """
    if request.models is not None:
        first, second = request.models
        _require(first, before, 0, before, after, request)
        _require(second, after, 1, before, after, request)
        if before is after and first == second:
            again = request.again(models=_proposed(after, first))
            raise UserError(f"'{printable(first)}' is compared with itself. Try: {again}")
        return _models(before, after, [(first, second)])
    shared_before, shared_after = _shared(before), _shared(after)
    both = [label for label in before.labels if label in after.labels]
    pairs = tuple((label, label) for label in both)
    runs = tuple((label, label) for label in shared_before if label in shared_after)
    if not pairs and not runs:
        names = f"{printable(before.name)} has {_listed(before)}, {printable(after.name)} has {_listed(after)}"
        if not before.labels or not after.labels:
            empty = before if not before.labels else after
            raise UserError(f"{printable(empty.name)} has no models. Try: robharness report")
        raise UserError(
            f"no label is on both sides: {names}. Try: {request.again(models=(before.labels[0], after.labels[0]))}"
        )
    return Models(pairs, runs)


def known_labels(side: Side) -> list[str]:
    """Return the labels of a side, those that runs share first."""
    return [*_shared(side), *side.labels]


def _shared(side: Side) -> list[str]:
    return list(dict.fromkeys(side.run_of[label] for label in side.labels if label in side.run_of))


def _models(before: Side, after: Side, asked: Sequence[tuple[str, str]]) -> Models:
    pairs: list[tuple[str, str]] = []
    runs = []
    for first, second in asked:
        firsts, seconds = runs_of(before, first), runs_of(after, second)
        if firsts == [first] and seconds == [second]:
            pairs.append((first, second))
            continue
        runs.append((first, second))
        if firsts == [first] or seconds == [second]:
            pairs += [(one, other) for one in firsts for other in seconds]
        else:
            seeds = {label.removeprefix(second): label for label in seconds}
            pairs += [(label, seeds[seed]) for label in firsts if (seed := label.removeprefix(first)) in seeds]
    return Models(tuple(pairs), tuple(runs))


def _require(label: str, side: Side, at: int, before: Side, after: Side, request: Request) -> None:
    known = known_labels(side)
    if label in known:
        return
    models = list(request.models or ("", ""))
    free = [each for each in known if before is not after or each != models[1 - at]]
    if not free:
        raise UserError(
            f"{printable(side.name)} has no model '{printable(label)}'; its only model is {_listed(side)}. "
            f"Try: {request.help}"
        )
    models[at] = nearest_word(label, free) or next((each for each in free if each != models[1 - at]), free[0])
    labels = did_you_mean(label, free) or f"; it has {_listed(side)}."
    raise UserError(
        f"{printable(side.name)} has no model '{printable(label)}'{labels} Try: "
        f"{request.again(models=(models[0], models[1]))}"
    )


def _proposed(after: Side, first: str) -> tuple[str, str]:
    """Return a pair of labels that can be compared."""
    others = [label for label in after.labels if label != first] or after.labels
    return first, others[0]


def _listed(side: Side) -> str:
    labels = known_labels(side)
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(map(printable, labels[:NAMED])) + more
