"""Sides of a comparison that nobody measured."""

from dataclasses import replace

import numpy as np

from robharness.comparison.records import MeasuredCell, Side
from robharness.planning.identity import text_key
from robharness.store.spans import span_positions

ORDER = text_key("order")


def cell(perturbation="clean", right=(True, False, True), model="Net", **changes):
    """A complete cell with these outcomes; keyword arguments change its fields."""
    right = np.asarray(right, bool)
    hashed = [text_key(ascii(text)) for text in (f"{model} {perturbation}", perturbation)]  # of any text
    facts = {
        "model": model,
        "data": "toys/pixels/test",
        "perturbation": perturbation,
        "title": perturbation.partition("(")[0],
        "kind": "clean" if perturbation == "clean" else "attack",
        "norm": None if perturbation == "clean" else "linf",
        "eps": None if perturbation == "clean" else "1/8",
        "key": hashed[0],
        "conditions": hashed[1],
        "n_expected": len(right),
        "positions": span_positions(0, len(right)),
        "right": right,
    }
    return MeasuredCell(**facts | changes)


def side(*cells, **changes):
    """A side with these cells; keyword arguments change its fields."""
    facts = {"name": "a side", "suite": "toys", "cells": cells, "order": ORDER}
    facts["n"] = max((each.n_expected for each in cells), default=0)
    return Side(**facts | changes)


def counted(perturbation, n, lost, gained, model="Net", kept=0):
    """A cell before and after: of n examples, so many are right only before, only after, and both before and after."""
    before, after = np.zeros(n, bool), np.zeros(n, bool)
    before[:lost] = True
    after[lost : lost + gained] = True
    before[lost + gained : lost + gained + kept] = after[lost + gained : lost + gained + kept] = True
    return cell(perturbation, before, model), cell(perturbation, after, model)


def other(measured, **changes):
    """Return a cell with changed fields."""
    return replace(measured, **changes)


def with_ids(found):
    """Return a side with the ids "id-0", "id-1" and so on, in place of a hash of all ids."""
    return replace(found, ids=tuple(f"id-{number}" for number in range(found.n)), order="")


def drawn(models, perturbations=("clean", "sign(linf, 1/8)"), n=60, seed=0, **changes):
    """A side, with ids, of models that are right with these probabilities, halved under attacks.

    A model of the same seed and a larger probability is right wherever one of a smaller probability is.
    """
    cells = []
    for at, perturbation in enumerate(perturbations):
        draws = np.random.default_rng([seed, at]).random(n)
        for model, rate in models.items():
            cells.append(cell(perturbation, draws < (rate if perturbation == "clean" else rate / 2), model))
    return with_ids(side(*cells, **{"name": "before"} | changes))


def with_cells(found, **changes):
    """Return a side whose cells all have these changed fields."""
    return replace(found, cells=tuple(other(each, **changes) for each in found.cells))
