"""Sides of comparisons whose outcomes are given, without any store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from robharness.comparison.records import MeasuredCell, Side


def measured(model: str, perturbation: str, right: Sequence[bool], **facts: object) -> MeasuredCell:
    """Return a cell with outcomes at the first positions, or at those of `positions`."""
    attack = perturbation != "clean"
    fields = {
        "data": "toys/pixels/test", "title": perturbation.partition("(")[0], "kind": "attack" if attack else "clean",
        "norm": "linf" if attack else None, "eps": "1/8" if attack else None, "key": "0" * 24, "protocol": perturbation,
        "n_expected": len(right), "positions": np.arange(len(right)),
    }  # fmt: skip
    return MeasuredCell(model=model, perturbation=perturbation, right=np.array(right, bool), **fields | facts)


def side(cells: Sequence[MeasuredCell], name: str = "before", **facts: object) -> Side:
    """Return a side with ids "id-0", "id-1" and so on."""
    n = max((cell.n_expected for cell in cells), default=0)
    fields = {"suite": "toys", "n": n, "ids": tuple(f"id-{number}" for number in range(n))}
    return Side(name=name, cells=tuple(cells), **fields | facts)


def drawn(models: Mapping[str, float], perturbations: Sequence[str] = ("clean", "sign(linf, 1/8)"), n: int = 60,
          seed: int = 0, name: str = "before", **facts: object) -> Side:  # fmt: skip
    """Return a side of models that are right with these probabilities, halved under attacks.

    A model of the same seed and a larger probability is right wherever one of a smaller probability is.
    """
    cells = []
    for at, perturbation in enumerate(perturbations):
        draws = np.random.default_rng([seed, at]).random(n)
        for model, rate in models.items():
            cells.append(measured(model, perturbation, draws < (rate if perturbation == "clean" else rate / 2)))
    return side(cells, name, **facts)


def with_cells(found: Side, **facts: object) -> Side:
    """Return the same side with other facts of all its cells."""
    return replace(found, cells=tuple(replace(cell, **facts) for cell in found.cells))
