"""Pairs of an example and a target as rows of one batch, by example, the likeliest target first.

Pairs fill passes even if few examples are active. The result of an example depends on its own pairs only.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from robharness import ExampleRNG
from robharness_attacks.params import Norm

PASSES = 2
"""Number of passes that the pairs of a run fill, or the batch's own number if that is larger. More would take more
memory, fewer would leave a larger share of the last pass idle."""


def runs(done: Tensor, targets: int, restarts: int, rows: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the indices of the examples of each run, and the number of its restart; no run is empty.

    done: (N,) bool, into which the runs write whether an example's search has ended.
    targets: per example.
    restarts: per example.
    rows: of a pass.
    """
    pairs = rows * max(PASSES, ceil(len(done) / rows))
    for group in torch.split((~done).nonzero().flatten(), max(1, pairs // targets)):
        for restart in range(restarts):
            active = group[~done[group]]
            if len(active) > 0:
                yield active, restart


def start_draws(rng: ExampleRNG, targets: int, restart: int, like: Tensor, norm: Norm) -> Tensor:
    """Draw the starts of the pairs of these examples, (N * targets, n): uniform in [-1, 1) under linf, else normal.

    like: gives shape and type.
    """
    size, names = like.shape[1:], [f"start {turn} {restart}" for turn in range(targets)]
    drawn = [2 * rng.uniform(name, size) - 1 if norm == "linf" else rng.normal(name, size) for name in names]
    return torch.stack(drawn, 1).flatten(0, 1).to(like.dtype)


def first_of_each(examples: Tensor, keys: Tensor) -> Tensor:
    """Return the index of the pair with the smallest key of each example; of equal keys the first; NaN comes last.

    examples, keys: (P,), one per pair.
    """
    order = keys.sort(stable=True).indices
    examples, by_example = examples[order].sort(stable=True)
    is_first = torch.ones_like(examples, dtype=torch.bool)
    is_first[1:] = examples[1:] != examples[:-1]
    return order[by_example[is_first]]
