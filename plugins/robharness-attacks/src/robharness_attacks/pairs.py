"""Pairs of an example and a target, as rows of one batch: example by example, the likeliest target first.

So passes are full even where few examples are left. What an example gets depends on its own pairs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from robharness import ExampleRNG
from robharness_attacks.params import Norm

PASSES = 2
"""How many passes the pairs of a run fill, or as many as the batch itself would: more take more memory than that, fewer
leave more of the last one idle."""


def runs(done: Tensor, targets: int, restarts: int, rows: int) -> Iterator[tuple[Tensor, int]]:
    """The indices of the examples of each run, and which restart it is; no run is empty.

    done: (N,) bool, into which the runs write whose search is over. rows: of a pass.
    """
    pairs = rows * max(PASSES, ceil(len(done) / rows))
    for group in torch.split((~done).nonzero().flatten(), max(1, pairs // targets)):
        for restart in range(restarts):
            left = group[~done[group]]
            if len(left) > 0:
                yield left, restart


def start_draws(rng: ExampleRNG, targets: int, restart: int, like: Tensor, norm: Norm) -> Tensor:
    """What the pairs of these examples start from, as `like`, (N * targets, n): uniform in [-1, 1), or else normal."""
    size, names = like.shape[1:], [f"start {turn} {restart}" for turn in range(targets)]
    drawn = [2 * rng.uniform(name, size) - 1 if norm == "linf" else rng.normal(name, size) for name in names]
    return torch.stack(drawn, 1).flatten(0, 1).to(like.dtype)


def first_of_each(examples: Tensor, keys: Tensor) -> Tensor:
    """Of each example's pairs the one with the smallest key, as indices; of equals the first; NaN comes last.

    examples, keys: (P,), one per pair.
    """
    order = keys.sort(stable=True).indices
    examples, by_example = examples[order].sort(stable=True)
    is_first = torch.ones_like(examples, dtype=torch.bool)
    is_first[1:] = examples[1:] != examples[:-1]
    return order[by_example[is_first]]
