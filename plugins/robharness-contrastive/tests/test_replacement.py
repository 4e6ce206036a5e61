"""Replacement of removed negatives: closed forms, numbers of terms, expectations, and training with each of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robharness import UserError
from robharness_contrastive import artefact, data, loop, losses, params
from robharness_contrastive.contrast import Contrast, split_reserve
from robharness_contrastive.objectives import Context, InfoNCE, Learner, TrainingStep
from robharness_contrastive.options import SimCLR
from robharness_contrastive.removal import Removal
from robharness_contrastive.replacement import injected, multiplicities, replaced

B, D, CLASSES = 6, 4, 3
CONTEXT = Context(examples=64, classes=CLASSES, batch=B, epochs=10, shape=(1, 4, 4))
LABELS = torch.arange(B) % CLASSES
STEP = TrainingStep(epoch=9, epochs=10, step=90, steps=100, batch=B)


def unit_rows(n, seed=0):
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D))), dim=1)


def contrast(**options):
    return Contrast(0.5, Removal(**options), CLASSES, context=CONTEXT, width=D).double()


def matrix(*rows):
    """Similarities whose exponentials are these numbers."""
    return torch.tensor(rows, dtype=torch.float64).log()


# Two anchors and four candidates: the first one is the positive, and each anchor loses its second candidate.
SIMILARITY = matrix([2, 8, 1, 3], [5, 7, 2, 2])
PAIRS = losses.Pairs(
    torch.tensor([[True, False, False, False]] * 2), torch.tensor([[False, True, True, True]] * 2)
)  # fmt: skip
REMOVED = torch.tensor([[False, True, False, False], [False, True, False, False]])


def value(*words, **options):
    return losses.contrastive(*replaced(SIMILARITY, PAIRS, REMOVED, *words, **options)).exp().tolist()


def test_reweighting_by_hand():
    """Three negatives less one: the other two count 3/2."""
    assert value() == pytest.approx([(2 + 1.5 * (1 + 3)) / 2, (5 + 1.5 * (2 + 2)) / 5], abs=1e-12)


def test_spare_rows_by_hand():
    """The first of two spare rows takes the place; the second one does not enter."""
    spare = matrix([6, 100], [9, 100])
    assert value(1, spare) == pytest.approx([(2 + 6 + 1 + 3) / 2, (5 + 9 + 2 + 2) / 5], abs=1e-12)


def test_spare_rows_that_an_anchor_may_not_use_by_hand():
    """The first anchor may use the second row alone; the other one may use none, and its negatives count 3/2."""
    usable = torch.tensor([[False, True], [False, False]])
    assert value(1, matrix([100, 6], [100, 100]), usable=usable) == pytest.approx([12 / 2, (5 + 6) / 5], abs=1e-12)


def test_spare_rows_are_used_again_if_there_are_too_few():
    slots = torch.tensor([[0, 5], [3, 1]])
    usable = torch.tensor([[True, True, False], [False, True, True]])
    expected = [[[0, 0, 0], [3, 2, 0]], [[0, 2, 1], [0, 1, 0]]]
    assert multiplicities(slots, usable).tolist() == expected
    assert multiplicities(slots, torch.zeros(1, 3, dtype=torch.bool)).sum() == 0


# --- numbers of terms ---


@pytest.mark.parametrize("views", [(0, 1), (0, 1, 0)])
@pytest.mark.parametrize("unit", ["view", "instance"])
@pytest.mark.parametrize(("way", "strategy"), [
    *((way, strategy) for way in ("reweight", "oversample", "queue") for strategy in ("frequency", "recall")),
    ("reweight", "oracle"), ("oversample", "oracle"),
])  # fmt: skip
def test_the_number_of_negatives_stays(way, strategy, unit, views):
    """If all cosines are 1, the loss is the logarithm of the number of terms."""
    point = F.normalize(torch.ones(1, D, dtype=torch.float64), dim=1)
    z, step = unit_rows(2 * B), replace(STEP, epoch=0)
    made = contrast(replace=way, strategy=strategy, unit=unit)
    reserve = point.expand(len(views) * made.reserve, D) if way == "oversample" else None
    assert (made.reserve > 0) is (way == "oversample")
    for filled in range(2):
        removed = made.choose(z, LABELS, step, reserve=torch.arange(made.reserve) if reserve is not None else None)
        assert int(removed.mask.sum(1).min()) >= (2 if unit == "instance" else 1)
        found = made.loss(point.expand(len(views) * B, D), LABELS, removed, views=views, reserve=reserve)
        terms = len(views) * B - 1
        assert found.tolist() == pytest.approx([math.log(terms)] * len(found), abs=1e-12), filled
        plain = contrast(strategy=strategy, unit=unit)
        fewer = plain.loss(point.expand(len(views) * B, D), LABELS, removed, views=views)
        assert (fewer < math.log(terms) - 0.05).all()
        made.remember(point.expand(2 * B, D))  # the queue is filled in the second turn


def test_an_instance_gets_all_views_of_its_substitute():
    """Rows of both views of the k first images of the reserve enter, and no other row does."""
    made = contrast(replace="oversample", strategy="frequency", unit="instance")
    z, spare = unit_rows(2 * B), unit_rows(2 * made.reserve, 1)
    assert made.reserve == 2
    removed = made.choose(z, LABELS, STEP)
    found = made.loss(z, LABELS, removed, reserve=spare)
    for row in range(2 * B):
        kept = [other for other in range(2 * B) if other % B != row % B and not removed.mask[row, other]]
        assert len(kept) == 2 * (B - 1 - 2)
        terms = [*(z[row] @ z[other] for other in (*kept, (row + B) % (2 * B))), *(z[row] @ each for each in spare)]
        expected = torch.stack(terms).div(0.5).logsumexp(0) - z[row] @ z[(row + B) % (2 * B)] / 0.5
        torch.testing.assert_close(found[row], expected)


def test_a_slot_of_a_view_gets_a_row_of_that_view():
    made = contrast(replace="oversample", strategy="frequency")
    z = unit_rows(2 * B)
    removed = made.choose(z, LABELS, STEP)
    slots = torch.stack([half.sum(1) for half in removed.mask.chunk(2, 1)], 1)
    assert set(slots.sum(1).tolist()) == {2} and {0, 1, 2} == set(slots.flatten().tolist())
    spare = unit_rows(4, 2).requires_grad_(True)
    for row in range(2 * B):
        [moved] = torch.autograd.grad(made.loss(z, LABELS, removed, reserve=spare)[row], spare)
        enters = (moved.abs().sum(1) > 0).view(2, 2).tolist()
        assert enters == [[position < int(count) for position in range(2)] for count in slots[row]]


def test_the_oracle_gets_substitutes_of_other_classes():
    made = contrast(replace="oversample", strategy="oracle")
    z, spare = unit_rows(2 * B), unit_rows(2 * 2, 3).requires_grad_(True)
    classes = torch.tensor([0, 1])
    removed = made.choose(z, LABELS, STEP, reserve=classes)
    for row in range(2 * B):
        [moved] = torch.autograd.grad(made.loss(z, LABELS, removed, reserve=spare)[row], spare)
        enters = (moved.abs().sum(1) > 0).view(2, 2).any(0)
        assert not enters[classes == LABELS[row % B]].any() and enters.any()


def test_missing_projections_of_the_reserve_are_an_error():
    made = contrast(replace="oversample", strategy="frequency")
    z = unit_rows(2 * B)
    with pytest.raises(ValueError, match="needs the projections of the reserve"):
        made.loss(z, LABELS, made.choose(z, LABELS, STEP))


def test_an_oracle_with_a_queue_is_refused():
    with pytest.raises(ValueError, match=r"the queue has no classes.*Try: `replace: oversample`"):
        Removal(strategy="oracle", replace="queue")


@pytest.mark.parametrize("spare", [None, 1])
def test_weights_have_the_precision_of_float32_under_bfloat16(spare):
    """Numbers of negatives above 256 are not rounded to the 8 bits of bfloat16."""
    size, k = 2046, 257
    negatives = torch.tensor([[False] + [True] * size])
    removed = torch.tensor([[False] * (size + 1 - k) + [True] * k])
    similarity = torch.zeros(1, size + 1, dtype=torch.bfloat16)
    rows = None if spare is None else torch.zeros(1, spare, dtype=torch.bfloat16)
    _, pairs, log_weights = replaced(similarity, losses.Pairs(~negatives, negatives), removed, 1, rows)
    assert float(log_weights.double().exp()[pairs.negatives].sum()) == pytest.approx(size, rel=1e-6)
    _, pairs, log_weights = injected(similarity, losses.Pairs(~negatives, negatives), removed, 0.3)
    weights = log_weights.double().exp()
    assert float(weights[removed].sum()) == pytest.approx(0.3 * size, rel=1e-6)
    assert float(weights[pairs.negatives].sum()) == pytest.approx(size, rel=1e-6)


# --- expectation ---


def test_reweighting_is_resampling_in_expectation():
    """Substitutes drawn from the negatives that are left: the mean of the sums is the reweighted sum."""
    draws = np.random.default_rng(0)
    kept, k, positive = np.exp(draws.normal(size=20)), 7, 2.0
    sums = positive + kept.sum() + draws.choice(kept, (200_000, k)).sum(1)
    scores = torch.tensor([[positive, *kept, *np.full(k, 50.0)]], dtype=torch.float64).log()
    is_negative = torch.tensor([[False] + [True] * 27])
    removed = torch.tensor([[False] * 21 + [True] * k])
    found = losses.contrastive(*replaced(scores, losses.Pairs(~is_negative, is_negative), removed)).exp() * positive
    assert float(found) == pytest.approx(sums.mean(), abs=4 * sums.std() / math.sqrt(len(sums)))
    assert float(found) == pytest.approx(positive + kept.sum() * 27 / 20, abs=1e-9)


# --- the queue ---


def test_the_queue_has_the_newest_images_and_gives_no_gradient():
    made = contrast(replace="queue", strategy="frequency", unit="instance")
    assert made.queue.shape == (2, 2, D) and int(made.filled) == 0
    first, second = unit_rows(2, 5).requires_grad_(True), unit_rows(2 * B, 6).requires_grad_(True)
    made.remember(first)
    assert int(made.filled) == 1 and torch.equal(made.queue[:, 0], first) and not made.queue[:, 1].any()
    made.remember(second)
    assert int(made.filled) == 2 and torch.equal(made.queue, second.view(2, B, D)[:, :2])
    z = unit_rows(2 * B)
    removed = made.choose(z, LABELS, STEP)
    found = made.loss(z.requires_grad_(True), LABELS, removed)
    same = contrast(replace="oversample", strategy="frequency", unit="instance")
    torch.testing.assert_close(found, same.loss(z, LABELS, removed, reserve=made.queue.flatten(0, 1)))
    assert torch.autograd.grad(found.sum(), second, allow_unused=True) == (None,)


def test_an_empty_queue_reweights():
    made, other = (contrast(replace=way, strategy="frequency") for way in ("queue", "reweight"))
    z = unit_rows(2 * B)
    removed = made.choose(z, LABELS, STEP)
    torch.testing.assert_close(made.loss(z, LABELS, removed), other.loss(z, LABELS, removed))
    made.remember(z)
    assert not torch.allclose(made.loss(z, LABELS, removed), other.loss(z, LABELS, removed))


# --- objectives and training ---


def test_a_reserve_changes_neither_the_anchors_nor_their_choice():
    """Views end with the reserve; the objective's loss is that of the parts."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh())
    learner = Learner(net, InfoNCE(SimCLR(removal=Removal(strategy="frequency", replace="oversample")), 5, CONTEXT))
    reserve = learner.objective.reserve
    assert reserve == 2
    views = [torch.from_numpy(np.random.default_rng(view).random((B + reserve, 1, 4, 4))).float() for view in range(2)]
    loss = learner(views, torch.cat([LABELS, torch.tensor([0, 1])]), STEP)
    z = F.normalize(learner.objective.projection(net(torch.cat(views))), dim=1)
    own, spare = split_reserve(z, reserve, 2)
    assert torch.equal(own, torch.cat([z[:B], z[B + reserve : -reserve]]))
    plain = Contrast(0.5, Removal(strategy="frequency"), CLASSES)
    removed = plain.choose(own, LABELS, STEP)
    assert torch.equal(loss.notes["removed"], removed.notes["removed"])
    expected = learner.objective.contrast.loss(own, LABELS, removed, reserve=spare).mean()
    torch.testing.assert_close(loss.value, expected)


BARS = {"data": "bars/bars", "input": (1, 16, 16), "labels": "bars", "classes": 4, "epochs": 3, "batch": 32,
        "augmentation": "digits", "probe": None}  # fmt: skip


def recipe(**options):
    return params.SimCLR(**BARS, removal=Removal(strategy="frequency", **options))


@pytest.mark.parametrize("way", ["reweight", "oversample", "queue"])
def test_a_training_with_replacement_resumes_to_the_same_weights(job, way):
    whole, again = job(recipe(replace=way), "whole"), job(recipe(replace=way), "again")
    loop.train(whole)

    def save_and_stop(*words):
        artefact.save_checkpoint(*words)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop.train(again, save=save_and_stop)
    loop.train(again)
    files = [each.folder / artefact.WEIGHTS for each in (whole, again)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_reserve_is_drawn_anew_from_outside_the_batch(job):
    """Batches are those of a training without replacement, in their order; every step has another reserve."""
    seen = {}

    def recording(name):
        def make(source, *words):
            views = data.augmented_views(source, *words)

            def recorded(rows, step):
                seen[name].append(rows)
                return views(rows, step)

            return recorded

        return make

    for name in ("none", "oversample"):
        seen[name] = []
        loop.train(job(recipe(replace=name), name), make_views=recording(name))
    assert len(seen["none"]) == 15
    for plain, more in zip(seen["none"], seen["oversample"], strict=True):
        assert torch.equal(more[:32], plain) and len(more) == 40
        assert len(set(more.tolist())) == 40
    reserves = [tuple(rows[32:].tolist()) for rows in seen["oversample"]]
    assert len(set(reserves)) == 15
    assert len({row for rows in reserves for row in rows}) > 60


def test_too_few_examples_for_a_reserve_are_an_error(job):
    wrong = params.SimCLR(**{**BARS, "batch": 160}, removal=Removal(strategy="frequency", replace="oversample"))
    with pytest.raises(UserError, match=r"needs 40 examples beside its batch of 160, but there are 160. Try: `batch"):
        loop.train(job(wrong))
