"""Removal of false negatives: numbers against tables of all epochs, choices against a search by sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness_contrastive.losses import pairs
from robharness_contrastive.options import Replacement
from robharness_contrastive.removal import Removal, nearest, oracle

B = 9
INSTANCES = torch.arange(B).repeat(2)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 1]).repeat(2)


def similarities(seed):
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(2 * B, 5)))
    return z @ z.T


def counts(epochs=1000, batch=1024, classes=10, **options):
    return [Removal(**options).count(epoch, epochs, batch, classes) for epoch in range(epochs)]


# --- numbers ---


def test_precision_is_one_more_every_hundred_epochs():
    assert counts(strategy="precision") == [rung for rung in range(10) for _ in range(100)]


def test_recall_is_half_the_batch_and_a_sixteenth_less_every_seventyfive_epochs():
    table = [value for value in (512, 448, 384, 320, 256, 192, 128, 64) for _ in range(75)]
    assert counts(strategy="recall") == table + [0] * 400


def test_frequency_is_a_class_share_of_the_batch():
    assert set(counts(strategy="frequency")) == {102}
    assert set(counts(strategy="frequency", classes=100)) == {10}
    assert set(counts(strategy="frequency", batch=256)) == {26}


def test_other_strategies_have_no_count():
    assert set(counts(strategy="none")) == set(counts(strategy="oracle")) == {0}


@pytest.mark.parametrize("epochs", [7, 40, 200, 1000])
def test_other_lengths_scale_the_schedule(epochs):
    """An epoch has the number of the paper's epoch at the same share of training."""
    for strategy in ("precision", "recall"):
        full = counts(strategy=strategy)
        assert counts(epochs, strategy=strategy) == [full[epoch * 1000 // epochs] for epoch in range(epochs)]


def test_precision_may_end_at_a_share_of_the_batch():
    rungs = counts(40, batch=256, strategy="precision", most=0.2)
    assert rungs[0] == 0 and rungs[-1] == round(0.2 * 256) and rungs == sorted(rungs) and len(set(rungs)) == 10


def test_recall_may_begin_at_a_share_of_the_batch():
    """Half of the batch is the paper's; other shares fall in the same eight steps."""
    assert counts(strategy="recall", most=0.5) == counts(strategy="recall")
    steps = counts(batch=256, strategy="recall", most=0.125)
    assert steps == [value for value in (32, 28, 24, 20, 16, 12, 8, 4) for _ in range(75)] + [0] * 400


def test_frequency_may_be_another_share_of_the_batch():
    assert set(counts(batch=256, strategy="frequency", most=0.05)) == {13}


@pytest.mark.parametrize("options", [
    {"strategy": "frequency"}, {"strategy": "precision", "most": 0.2}, {"strategy": "recall"},
])  # fmt: skip
@pytest.mark.parametrize(("warmup", "first"), [(0.2, 8), (0.5, 20), (0.01, 0)])
def test_a_warm_up_delays_the_whole_schedule(options, warmup, first):
    """Nothing is removed at first; then the schedule is that of a training of the epochs that are left."""
    found = counts(40, batch=256, warmup=warmup, **options)
    assert found == [0] * first + counts(40 - first, batch=256, **options)
    assert [Removal(**options, warmup=warmup).is_waiting(epoch, 40) for epoch in range(40)] == [
        epoch < first for epoch in range(40)
    ]


@pytest.mark.parametrize(("wrong", "why"), [
    ({"strategy": "precision", "most": 0}, r"most=0 must be a share of the batch"),
    ({"strategy": "recall", "most": 1.5}, r"most=1.5 must be a share of the batch"),
    ({"strategy": "oracle", "most": 0.5}, r"`most` needs the strategy frequency, precision or recall, not oracle"),
    ({"most": 0.5}, r"`most` needs the strategy frequency, precision or recall, not none"),
    ({"warmup": 0.2}, r"`warmup` needs a strategy, and with `strategy: none` no negative is removed"),
    ({"replace": "queue"}, r"`replace` needs a strategy, and with `strategy: none` no negative is removed"),
    ({"strategy": "recall", "warmup": 1.0}, r"warmup=1.0 must be a share of the training"),
    ({"strategy": "recall", "warmup": -0.1}, r"warmup=-0.1 must be a share of the training"),
])  # fmt: skip
def test_invalid_schedules_are_refused(wrong, why):
    with pytest.raises(ValueError, match=why):
        Removal(**wrong)


@pytest.mark.parametrize("options", [
    {"strategy": "frequency"}, {"strategy": "precision"}, {"strategy": "precision", "most": 0.2},
    {"strategy": "recall", "most": 0.25, "warmup": 0.2},
])  # fmt: skip
def test_replacements_suffice_for_the_largest_count(options):
    largest = max(counts(40, batch=256, **options))
    assert largest > 0
    for way, expected in (("none", 0), ("reweight", 0), ("oversample", largest), ("queue", largest)):
        assert Removal(**options, replace=way).spare(40, 256, 10) == expected
    assert Removal(strategy="oracle", replace="oversample").spare(40, 256, 10) == 26
    assert Replacement().spare(40, 256, 10) == 0


# --- choices ---


@pytest.mark.parametrize("k", [1, 4, 11])
def test_the_nearest_are_those_that_sorting_finds(k):
    similarity, negatives = similarities(0), pairs(INSTANCES, INSTANCES, torch.arange(2 * B)).negatives
    found = nearest(similarity, negatives, k)
    for row in range(2 * B):
        others = [column for column in range(2 * B) if column % B != row % B]
        expected = sorted(others, key=lambda column: -float(similarity[row, column]))[:k]
        assert found[row].nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("k", [1, 3])
def test_all_views_of_an_instance_are_removed(k):
    similarity, negatives = similarities(1), pairs(INSTANCES, INSTANCES, torch.arange(2 * B)).negatives
    found = nearest(similarity, negatives, k, unit="instance")
    for row in range(2 * B):
        best = {other: max(float(similarity[row, other]), float(similarity[row, other + B])) for other in range(B)}
        del best[row % B]
        expected = sorted(best, key=lambda other: -best[other])[:k]
        assert found[row].nonzero().flatten().tolist() == sorted(expected + [other + B for other in expected])


@pytest.mark.parametrize("unit", ["view", "instance"])
@pytest.mark.parametrize("k", [0, 2 * B - 2, 1000])
def test_at_least_one_negative_stays(k, unit):
    similarity, negatives = similarities(2), pairs(INSTANCES, INSTANCES, torch.arange(2 * B)).negatives
    found = nearest(similarity, negatives, k, unit=unit)
    left = (negatives & ~found).sum(1)
    assert not (found & ~negatives).any()
    assert (left == (2 * B - 2 if k == 0 else 1 if unit == "view" else 2)).all()


def test_the_oracle_removes_the_anchors_class_and_nothing_else():
    itself = torch.arange(2 * B)
    negatives, false = pairs(INSTANCES, INSTANCES, itself).negatives, CLASSES[:, None] == CLASSES[None]
    assert torch.equal(oracle(similarities(3), negatives, false), negatives & false)


def test_the_oracle_leaves_the_least_similar_where_all_are_of_one_class():
    itself, similarity = torch.arange(2 * B), similarities(4)
    negatives = pairs(INSTANCES, INSTANCES, itself).negatives
    found = oracle(similarity, negatives, torch.ones_like(negatives))
    left = negatives & ~found
    assert (left.sum(1) == 1).all()
    expected = similarity.masked_fill(~negatives, torch.inf).argmin(1)
    assert torch.equal(left.int().argmax(1), expected)
