"""Examples of two sides: whether those at equal positions are the same ones, and else their match by ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robharness.comparison.records import MeasuredCell, Side
from robharness.errors import UserError
from robharness.findings import Finding, finding
from robharness.text import printable


def aligned(before: Side, after: Side) -> tuple[Side, Side, tuple[Finding, ...]]:
    """Return both sides with the same examples at equal positions, and findings on how that is known.

    Ids are compared where both sides have them, else the hashes of all ids, else the conditions of cells, which contain
    a hash of the data. Examples in other places are matched by their ids if one side has all ids of the other.
    Raises UserError for other examples.
    """
    if before is after:
        return before, after, ()
    if before.ids and after.ids:
        if all(one == other for one, other in zip(before.ids, after.ids, strict=False) if one and other):
            return before, after, ()
        return _matched(before, after)
    if before.order and after.order:
        if before.order == after.order:
            return before, after, ()
        raise _other_examples(before, after, "the hashes of their ids differ")
    if _conditions(before) & _conditions(after):
        return before, after, ()
    message = (
        "the ids of the examples are not known on both sides, so that equal positions are taken for equal examples"
    )
    return before, after, (finding("examples-not-known", message, hint="check that both have the same data"),)


def _conditions(side: Side) -> set[str]:
    return {cell.conditions for cell in side.cells if cell.conditions}


def _matched(before: Side, after: Side) -> tuple[Side, Side, tuple[Finding, ...]]:
    """Return both sides with the positions of the side after replaced by those that its ids have before."""
    places = {id: position for position, id in enumerate(before.ids) if id is not None}
    known = [id for id in after.ids if id is not None]
    common = [id for id in known if id in places]
    if len(places) < len([*filter(None, before.ids)]) or len(set(known)) < len(known):
        raise _other_examples(before, after, "ids occur more than once, and stand at other positions")
    if not common or len(common) < min(len(places), len(known)):
        shared = f"{len(common)} ids of {len(places)} before and {len(known)} after are on both sides"
        raise _other_examples(before, after, shared)
    end = iter(range(len(before.ids), len(before.ids) + len(after.ids)))
    moved = np.array([next(end) if id not in places else places[id] for id in after.ids], np.int64)
    ids = [*before.ids, *[None] * len(after.ids)]
    for position, id in zip(moved.tolist(), after.ids, strict=True):
        ids[position] = id or ids[position]
    message = (
        "the sides have their examples in another order, or other ones beside the common ones; they are matched by id"
    )
    found = finding("examples-matched", message)
    cells = tuple(_moved(cell, moved) for cell in after.cells)
    return before, replace(after, ids=tuple(ids), cells=cells), (found,)


def _moved(cell: MeasuredCell, moved: np.ndarray) -> MeasuredCell:
    positions = moved[cell.positions]
    order = np.argsort(positions)
    return replace(cell, positions=positions[order], right=cell.right[order])


def _other_examples(before: Side, after: Side, reason: str) -> UserError:
    names = " and ".join(map(printable, (before.name, after.name)))
    return UserError(
        f"{names} are results on different examples, which cannot be compared one by one: {reason}. "
        "Try: robharness report, which lists suites with their data"
    )
