"""Pixel by pixel the attacks of Foolbox and torchattacks, which climb plain cross-entropy."""

from __future__ import annotations

import foolbox
import pytest
import torch
import torchattacks

from robharness import Budget

EPS = {"linf": 0.1, "l2": 1.5}
FOOLBOX_FAST = {"linf": foolbox.attacks.LinfFastGradientAttack, "l2": foolbox.attacks.L2FastGradientAttack}
FOOLBOX_PGD = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}
LAST = {"keep": "last", "random_start": False}


@pytest.fixture(scope="module")
def case(conv_net, uniform, batch_of):
    """A network and a batch in float64; the classes are those that the network sees, or others."""
    net = conv_net().double().eval()
    x = uniform(5, 20, 3, 8, 8).double()
    labels = (net(x).argmax(1) + (torch.arange(20) % 4 == 0)) % 5
    return net, batch_of(x, labels)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_foolbox(attack, case, norm):
    net, batch = case
    peer = FOOLBOX_FAST[norm]().run(foolbox.PyTorchModel(net, bounds=(0, 1)), batch.x, batch.labels, epsilon=EPS[norm])
    torch.testing.assert_close(attack("fgsm", net, batch, EPS[norm], norm=norm).x, peer, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_foolbox_at_every_step(attack, case, norm, steps):
    net, batch = case
    pgd = FOOLBOX_PGD[norm](rel_stepsize=0.15, steps=steps, random_start=False)
    peer = pgd.run(foolbox.PyTorchModel(net, bounds=(0, 1)), batch.x, batch.labels, epsilon=EPS[norm])
    result = attack("pgd", net, batch, EPS[norm], norm=norm, steps=steps, rel_step=Budget("0.15"), **LAST)
    torch.testing.assert_close(result.x, peer, atol=1e-6, rtol=0)
    assert float((result.x - batch.x).abs().max()) > 0.01


def test_fgsm_is_torchattacks(attack, case):
    net, batch = case
    peer = torchattacks.FGSM(net, eps=EPS["linf"])(batch.x, batch.labels)
    torch.testing.assert_close(attack("fgsm", net, batch, EPS["linf"]).x, peer, atol=1e-6, rtol=0)


def test_pgd_is_torchattacks(attack, case):
    net, batch = case
    peer = torchattacks.PGD(net, eps=EPS["linf"], alpha=0.015, steps=20, random_start=False)(batch.x, batch.labels)
    result = attack("pgd", net, batch, EPS["linf"], steps=20, abs_step=Budget("0.015"), **LAST)
    torch.testing.assert_close(result.x, peer, atol=1e-6, rtol=0)
