"""Objectives against explicit formulas on small batches, and on two processes against one."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robharness_contrastive import losses
from robharness_contrastive.objectives import (
    Context,
    CrossEntropy,
    InfoNCE,
    Learner,
    MoCoObjective,
    SimSiamObjective,
    SwAVObjective,
    TrainingStep,
    spread,
    supcon,
)
from robharness_contrastive.options import MoCo, SimCLR, SimSiam, SupCon, SwAV
from robharness_contrastive.processes import world
from robharness_contrastive.removal import Removal

HERE = Path(__file__).parent
B, WIDTH, CLASSES = 8, 6, 4
CONTEXT = Context(examples=64, classes=CLASSES, batch=B, epochs=10, shape=(1, 4, 4))
LABELS = torch.arange(B) % CLASSES


def training_step(epoch=0, epochs=10, step=0, steps=100):
    return TrainingStep(epoch=epoch, epochs=epochs, step=step, steps=steps, batch=B)


def views(seed=0, n=2):
    draws = np.random.default_rng(seed)
    return [torch.from_numpy(draws.random((B, 1, 4, 4))).float() for _ in range(n)]


def encoder():
    torch.manual_seed(3)  # noqa: TID251 (initial weights)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH), nn.Tanh())


# --- losses ---


def test_cross_entropy_is_torchs():
    learner = Learner(encoder(), CrossEntropy(None, WIDTH, CONTEXT))
    loss = learner(views(n=1), LABELS, training_step())
    logits = learner.objective.head(learner.encoder(views(n=1)[0]))
    torch.testing.assert_close(loss.value, F.cross_entropy(logits, LABELS))
    assert learner.objective.start == pytest.approx(math.log(CLASSES))


@pytest.mark.parametrize("scale", [1.0, 0.5 / 0.07])
def test_simclr_is_ntxent_of_projections_times_its_scale(scale):
    learner = Learner(encoder(), InfoNCE(SimCLR(loss_scale=scale), WIDTH, CONTEXT))
    loss = learner(views(), LABELS, training_step())
    z = F.normalize(learner.objective.projection(torch.cat([learner.encoder(view) for view in views()])), dim=1)
    names, itself = torch.arange(B).repeat(2), torch.arange(2 * B)
    expected = scale * losses.contrastive(z @ z.T / 0.5, losses.pairs(names, names, itself)).mean()
    torch.testing.assert_close(loss.value, expected)
    assert learner.objective.floor < float(loss.value.detach())


def test_supcon_counts_all_of_a_class_as_positives():
    learner = Learner(encoder(), supcon(SupCon(), WIDTH, CONTEXT))
    loss = learner(views(), LABELS, training_step())
    z = F.normalize(learner.objective.projection(torch.cat([learner.encoder(view) for view in views()])), dim=1)
    names, itself = LABELS.repeat(2), torch.arange(2 * B)
    expected = losses.contrastive(z @ z.T / 0.5, losses.pairs(names, names, itself)).mean()
    torch.testing.assert_close(loss.value, expected)


@pytest.mark.parametrize("strategy", ["frequency", "precision", "recall"])
def test_removal_follows_its_schedule_and_counts_false_negatives(strategy):
    options = Removal(strategy=strategy)
    learner = Learner(encoder(), InfoNCE(SimCLR(removal=options), WIDTH, CONTEXT))
    plain = Learner(encoder(), InfoNCE(SimCLR(), WIDTH, CONTEXT))
    plain.load_state_dict(learner.state_dict())
    for epoch in range(10):
        loss = learner(views(), LABELS, training_step(epoch))
        k = options.count(epoch, 10, B, CLASSES)
        assert float(loss.notes["removed"]) == min(k, 2 * B - 3)
        assert 0 <= float(loss.notes["removed_false"]) <= min(k, 2 * (B // CLASSES - 1))
        without = plain(views(), LABELS, training_step(epoch)).value
        assert (float(loss.value) < float(without)) if k else torch.equal(loss.value, without)


def test_the_oracle_removes_true_false_negatives_alone():
    learner = Learner(encoder(), InfoNCE(SimCLR(removal=Removal(strategy="oracle")), WIDTH, CONTEXT))
    notes = learner(views(), LABELS, training_step()).notes
    assert float(notes["removed"]) == float(notes["removed_false"]) == 2 * (B // CLASSES - 1)


@pytest.mark.parametrize("strategy", ["oracle", "frequency"])
def test_nothing_is_removed_during_the_warm_up(strategy):
    options = Removal(strategy=strategy, warmup=0.3)
    learner = Learner(encoder(), InfoNCE(SimCLR(removal=options), WIDTH, CONTEXT))
    plain = Learner(encoder(), InfoNCE(SimCLR(), WIDTH, CONTEXT))
    plain.load_state_dict(learner.state_dict())
    for epoch in range(10):
        loss, without = (each(views(), LABELS, training_step(epoch)) for each in (learner, plain))
        assert (float(loss.notes["removed"]) == 0) is (epoch < 3) is torch.equal(loss.value, without.value)


def test_swavs_codes_share_the_prototypes_evenly():
    """lightly's Sinkhorn codes have the marginals, and equal the paper's iterations written out."""
    from lightly.loss.swav_loss import sinkhorn

    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 8))).float() / 10
    codes = sinkhorn(scores, iterations=50, epsilon=0.05, gather_distributed=False)
    torch.testing.assert_close(codes.sum(1), torch.ones(64))
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 8.0), rtol=1e-3, atol=1e-3)
    plain = (scores.double() / 0.05).exp().T
    for _ in range(3):
        plain /= plain.sum(1, keepdim=True)
        plain /= plain.sum(0, keepdim=True)
    three = sinkhorn(scores, iterations=3, epsilon=0.05, gather_distributed=False)
    torch.testing.assert_close(three.double(), plain.T, rtol=1e-4, atol=1e-6)


def test_swav_predicts_each_views_codes_from_the_other():
    from lightly.loss.swav_loss import sinkhorn

    learner = Learner(encoder(), SwAVObjective(SwAV(prototypes=5, temperature=0.2), WIDTH, CONTEXT))
    value = learner(views(), LABELS, training_step()).value
    prototypes = learner.objective.prototypes.weight
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(5))
    features = torch.cat([learner.encoder(view) for view in views()])
    scores = (F.normalize(learner.objective.projection(features), dim=1) @ prototypes.T).chunk(2)
    expected = 0
    for own, other in (scores, scores[::-1]):
        codes = sinkhorn(own.detach(), iterations=3, epsilon=0.05, gather_distributed=False)
        expected = expected - (codes * (other / 0.2).log_softmax(1)).sum(1).mean() / 2
    torch.testing.assert_close(value, expected)


def test_swavs_prototypes_are_frozen_at_first_and_may_be_one_per_image():
    objective = SwAVObjective(SwAV(prototypes="instances", frozen=0.1), WIDTH, CONTEXT)
    assert objective.prototypes.weight.shape[0] == 64
    learner = Learner(encoder(), objective)
    for step, moves in ((0, False), (9, False), (10, True)):
        learner(views(), LABELS, training_step(step=step)).value.backward()
        objective.before_step(training_step(step=step))
        assert (objective.prototypes.weight.grad is not None) is moves


def test_mocos_keys_follow_and_queue_up():
    objective = MoCoObjective(MoCo(queue=20, inertia=0.9), WIDTH, CONTEXT)
    learner = Learner(encoder(), objective)
    keys = copy.deepcopy(objective.keys.state_dict())
    queue = objective.queue.clone()
    loss = learner(views(), LABELS, training_step())
    q = F.normalize(objective.projection(learner.encoder(views()[0])), dim=1)
    k = F.normalize(objective.keys(views()[1]), dim=1).detach()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.2
    torch.testing.assert_close(loss.value, F.cross_entropy(logits, torch.zeros(B, dtype=torch.long)))
    loss.value.backward()
    assert all(value.grad is None for value in objective.keys.parameters())
    with torch.no_grad():
        for value in learner.encoder.parameters():
            value.add_(1)
    objective.after_step(learner.encoder)
    torch.testing.assert_close(objective.queue, torch.cat([k, queue])[:20])
    for name, value in objective.keys.state_dict().items():
        if name.startswith("0."):
            torch.testing.assert_close(value, keys[name] + 0.1)
    before = objective.queue.clone()
    learner(views(), LABELS, training_step())
    newest = F.normalize(objective.keys(views()[1]), dim=1).detach()
    objective.after_step(learner.encoder)
    torch.testing.assert_close(objective.queue, torch.cat([newest, before])[:20])


def test_simsiams_target_gets_no_gradient():
    learner = Learner(encoder(), SimSiamObjective(SimSiam(projection=(8, 6), prediction=4), WIDTH, CONTEXT))
    objective = learner.objective
    value = learner(views(), LABELS, training_step()).value
    objective.eval().train()
    z = [objective.projection(learner.encoder(view)) for view in views()]
    p = [objective.prediction(each) for each in z]
    expected = -(F.cosine_similarity(p[0], z[1].detach()).mean() + F.cosine_similarity(p[1], z[0].detach()).mean()) / 2
    torch.testing.assert_close(value, expected)
    assert -1 <= float(value.detach()) <= 1


def test_spread_is_0_for_one_point_and_1_for_all_directions():
    point = F.normalize(torch.ones(50, 8), dim=1)
    assert float(spread(point)) == pytest.approx(0, abs=1e-3)
    around = torch.eye(8).repeat(6, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(24)[:, None]
    assert float(spread(around)) == pytest.approx(1)


# --- two processes ---


def test_two_processes_learn_the_same_as_one(tmp_path):
    """Loss, gradients and buffers agree to 1e-6 in float64."""
    sys.path.insert(0, str(HERE))
    try:
        import processes
    finally:
        sys.path.remove(str(HERE))
    names, path = list(processes.MADE), tmp_path / "two.pt"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(HERE / "processes.py"), str(path)]
    done = subprocess.run(
        [sys.executable, *words, *names], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = torch.load(path)
    kind = torch.get_default_dtype()
    try:
        alone = {name: processes.learned(name) for name in names}
    finally:
        torch.set_default_dtype(kind)
    for name in names:
        assert together[name].keys() == alone[name].keys() and len(alone[name]) > 4
        for key, value in alone[name].items():
            torch.testing.assert_close(together[name][key], value, rtol=1e-6, atol=1e-9, msg=f"{name}: {key}")
    assert world() == 1
