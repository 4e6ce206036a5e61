"""Pixel by pixel the attacks of Foolbox and torchattacks, which climb plain cross-entropy.

Where they differ from ours, on purpose:
Foolbox's SparseL1DescentAttack gives a pixel its full share though the box has room for less, and the rest is lost.
Its projection takes one entry too many into its sum, leaves the ball, and is the ball's alone; the box cuts afterwards.
It also moves rows that are inside the ball when another row of the batch is outside.
torchattacks' PGDL2 divides gradients of the batch's mean loss by their length + 1e-10: tiny gradients make short steps.
"""

from __future__ import annotations

import copy

import eagerpy as ep
import foolbox
import pytest
import torch
import torchattacks

from robharness import Budget, Classifier
from robharness_attacks.norms import project

EPS = {"linf": 0.1, "l2": 1.5, "l1": 6.0}
FOOLBOX_FAST = {"linf": foolbox.attacks.LinfFastGradientAttack, "l2": foolbox.attacks.L2FastGradientAttack}
FOOLBOX_PGD = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD, "l1": foolbox.attacks.L1PGD}
FAST = [("linf", "excess"), ("linf", "cross-entropy"), ("l2", "excess"), ("l2", "cross-entropy")]
PGD = [*FAST, ("l1", "cross-entropy")]
LAST = {"keep": "last", "random_start": False}


@pytest.fixture(scope="module")
def case(conv_net, uniform, batch_of):
    """A network and a batch in float64; the classes are those that the network sees, or others."""
    net = conv_net().double().eval()
    x = uniform(5, 20, 3, 8, 8).double()
    labels = (net(x).argmax(1) + (torch.arange(20) % 4 == 0)) % 5
    return net, batch_of(x, labels)


def run(peer, net, batch, eps, criterion=None):
    return peer.run(foolbox.PyTorchModel(net, bounds=(0, 1)), batch.x, criterion or batch.labels, epsilon=eps)


def close(result, peer):
    torch.testing.assert_close(result.x, peer, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("norm", "objective"), FAST)
def test_fgsm_is_foolbox(attack, case, norm, objective):
    net, batch = case
    peer = run(FOOLBOX_FAST[norm](), net, batch, EPS[norm])
    close(attack("fgsm", net, batch, EPS[norm], norm=norm, objective=objective), peer)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize(("norm", "objective"), PGD)
def test_pgd_is_foolbox_at_every_step(attack, case, norm, objective, steps):
    net, batch = case
    peer = run(FOOLBOX_PGD[norm](rel_stepsize=0.15, steps=steps, random_start=False), net, batch, EPS[norm])
    options = {"norm": norm, "objective": objective, "steps": steps, "rel_step": Budget("0.15"), **LAST}
    result = attack("pgd-dense" if norm == "l1" else "pgd", net, batch, EPS[norm], **options)
    close(result, peer)
    assert float((result.x - batch.x).abs().max()) > 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_pgd_is_foolbox(attack, case, norm):
    net, batch = case
    rows = batch.labels != 3
    part = batch.select(rows)
    criterion = foolbox.criteria.TargetedMisclassification(torch.full_like(part.labels, 3))
    peer = run(FOOLBOX_PGD[norm](rel_stepsize=0.15, steps=10, random_start=False), net, part, EPS[norm], criterion)
    options = {"norm": norm, "objective": "cross-entropy", "steps": 10, "rel_step": Budget("0.15"), **LAST}
    result = attack("pgd", net, batch, EPS[norm], target=3, **options)
    torch.testing.assert_close(result.x[rows], peer, atol=1e-6, rtol=0)
    assert torch.equal(result.x[~rows], batch.x[~rows])


class OntoBoth(foolbox.attacks.SparseL1DescentAttack):
    """Foolbox's, with a projection onto ball and box."""

    def project(self, x, x0, epsilon):
        return type(x)(project(x.raw, x0.raw, epsilon, "l1"))


@pytest.mark.parametrize("sparsity", ["0.99", "0.9", "0.5", "0"])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_sparse_steps_are_foolbox_where_pixels_have_room_for_their_share(attack, case, batch_of, sparsity, steps):
    net, batch = case
    inner = batch_of(0.4 + 0.2 * batch.x, batch.labels)
    options = {"norm": "l1", "objective": "cross-entropy", "steps": steps, "sparsity": Budget(sparsity), **LAST}
    for eps, peer in ((2.0, foolbox.attacks.SparseL1DescentAttack), (0.3, OntoBoth)):  # never and often projected
        peer = peer(rel_stepsize=None, abs_stepsize=0.04, steps=steps, quantile=float(sparsity))
        result = attack("pgd", net, inner, eps, abs_step=Budget("0.04"), **options)
        close(result, run(peer, net, inner, eps))
        assert float((result.x - inner.x).abs().max()) > 0


def test_the_l1_projection_of_foolbox_is_no_reference():
    """It leaves the ball, and what it does to a row depends on the others; where this fails, it is one now."""
    peer = foolbox.attacks.SparseL1DescentAttack()
    x = torch.tensor([[0.6, 0.5, 0.3], [0.2, 0.1, 0.1]])
    both, alone = (peer.project(ep.astensor(part), ep.astensor(torch.zeros_like(part)), 1.0).raw for part in (x, x[1:]))
    assert float(both[0].sum()) > 1.001
    assert torch.equal(alone, x[1:])
    assert not torch.equal(both[1:], alone)
    torch.testing.assert_close(project(x, 0 * x, 1.0, "l1")[0].sum(), torch.tensor(1.0))
    assert torch.equal(project(x, 0 * x, 1.0, "l1")[1:], x[1:])


@pytest.mark.parametrize("objective", ["excess", "cross-entropy"])
def test_fgsm_is_torchattacks(attack, case, objective):
    net, batch = case
    peer = torchattacks.FGSM(net, eps=EPS["linf"])(batch.x, batch.labels)
    close(attack("fgsm", net, batch, EPS["linf"], objective=objective), peer)


@pytest.mark.parametrize("objective", ["excess", "cross-entropy"])
def test_pgd_is_torchattacks(attack, case, objective):
    net, batch = case
    options = {"objective": objective, "steps": 20, "abs_step": Budget("0.015"), **LAST}
    peer = torchattacks.PGD(net, eps=EPS["linf"], alpha=0.015, steps=20, random_start=False)(batch.x, batch.labels)
    close(attack("pgd", net, batch, EPS["linf"], **options), peer)


def test_pgd_l2_is_torchattacks_where_gradients_are_not_tiny(attack, case, scaled):
    net, batch = case
    options = {"norm": "l2", "objective": "cross-entropy", "steps": 10, "abs_step": Budget("0.2"), **LAST}

    def apart(net):
        plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # it asks for gradients that are so
        peer = torchattacks.PGDL2(plain, eps=1.5, alpha=0.2, steps=10, random_start=False, eps_for_division=1e-10)
        ours = attack("pgd", net, batch, 1.5, **options).x
        return float((peer(batch.x, batch.labels) - ours).abs().max())

    assert apart(net) < 1e-6
    assert apart(scaled(net, 30.0)) > 1e-2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_in_float32_single_pixels_may_differ_and_verdicts_hardly(attack, digits, batch_of, norm):
    net, x, labels = digits
    batch = batch_of(x, labels)
    eps = {"linf": 0.06, "l2": 0.4}[norm]
    peer = run(FOOLBOX_FAST[norm](), net, batch, eps)
    ours = attack("fgsm", net, batch, eps, rows=64, norm=norm, objective="cross-entropy").x
    assert float(((ours - peer).abs() <= 1e-6).float().mean()) >= 0.999
    model = Classifier(net, batch_size=64)
    right = model.decisions(ours) == labels
    assert 0.2 < float(right.float().mean()) < 0.95
    assert float((right == (model.decisions(peer) == labels)).float().mean()) >= 0.99
