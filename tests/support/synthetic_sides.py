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
    facts = {
        "model": model,
        "data": "toys/pixels/test",
        "perturbation": perturbation,
        "title": perturbation.partition("(")[0],
        "kind": "clean" if perturbation == "clean" else "attack",
        "norm": None if perturbation == "clean" else "linf",
        "eps": None if perturbation == "clean" else "1/8",
        "key": text_key(f"{model} {perturbation}"),
        "protocol": text_key(perturbation),
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
    """The same cell with other fields."""
    return replace(measured, **changes)
