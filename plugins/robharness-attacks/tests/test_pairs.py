"""Pairs of an example and a target: the examples of each run, and the best pair against a second implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness_attacks.pairs import first_of_each, runs


def test_the_first_of_each_has_the_smallest_key_and_of_equals_the_lowest_index():
    draws = np.random.default_rng(0)
    examples, keys = np.sort(draws.integers(0, 20, 100)), draws.integers(0, 3, 100).astype(np.float32)
    keys[::7] = np.nan
    found = first_of_each(torch.from_numpy(examples), torch.from_numpy(keys)).tolist()
    ranked = [(np.isnan(key), key, index) for index, key in enumerate(keys)]
    assert found == [min(ranked[i] for i in np.flatnonzero(examples == one))[2] for one in np.unique(examples)]


@pytest.mark.parametrize("targets", [1, 9, 100])
def test_every_example_runs_as_often_as_needed_with_few_pairs_at_a_time(targets):
    done = torch.arange(50) % 5 == 0
    seen = []
    for examples, restart in runs(done, targets, 3, rows=8):
        assert len(examples) * targets <= 56 or len(examples) == 1  # seven passes, as for the batch
        seen += [(one, restart) for one in examples.tolist()]
        done[examples[examples % 2 == 0]] = True  # at once
    assert sorted(seen) == [
        (one, restart) for one in range(50) if one % 5 for restart in range(1 if one % 2 == 0 else 3)
    ]
    assert not list(runs(torch.ones(4, dtype=torch.bool), targets, 3, rows=8))
