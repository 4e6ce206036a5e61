"""Pixelwise equality with the libraries' attacks, called directly on the network."""

from __future__ import annotations

import sys

import foolbox
import pyautoattack
import pytest
import torch
import torchattacks

SEED = 7
EPS = {"linf": 0.2, "l2": 1.5, "l1": 4.0}
WRITTEN = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@pytest.fixture(scope="module")
def case(digits):
    """A network and 16 examples, one of them with a wrong label."""
    net, x, labels = digits
    labels = labels[:16].clone()
    labels[3] = (labels[3] + 1) % 10
    return net, x[:16], labels


def seeded(call):
    torch.manual_seed(SEED)  # noqa: TID251 (as the core seeds for attacks that draw globally)
    return call()


@pytest.mark.parametrize(("name", "norm", "options"), [
    ("FGSM", "linf", {}),
    ("LinfPGD", "linf", {"steps": 5}),
    ("L2PGD", "l2", {"steps": 5, "rel_stepsize": 0.3, "random_start": False}),
    ("SparseL1DescentAttack", "l1", {"steps": 5}),
    ("L2DeepFoolAttack", "l2", {}),
    ("LInfFMNAttack", "linf", {"steps": 20}),
    ("L2AdditiveGaussianNoiseAttack", "l2", {}),
])  # fmt: skip
def test_foolbox(attack, case, name, norm, options):
    net, x, labels = case
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    expected = seeded(lambda: getattr(foolbox.attacks, name)(**options)(peer, x, labels, epsilons=EPS[norm])[1])
    result = seeded(lambda: attack("foolbox", net, x, labels, EPS[norm], name=name, norm=norm, options=options))
    assert torch.equal(result, expected.clamp(0, 1))
    assert float((result - x).abs().max()) > 0.05


def test_foolbox_attacks_with_a_norm_from_the_suite(attack, case):
    net, x, labels = case
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    blend = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(distance=foolbox.distances.l1, steps=20)
    jump = foolbox.attacks.HopSkipJumpAttack(constraint="linf", steps=2, max_gradient_eval_steps=200)
    for bridge, norm, options in [
        (blend, "l1", {"steps": 20}),
        (jump, "linf", {"steps": 2, "max_gradient_eval_steps": 200}),
    ]:
        name = type(bridge).__name__
        expected = seeded(lambda bridge=bridge, norm=norm: bridge(peer, x, labels, epsilons=EPS[norm])[1])
        params = {"name": name, "norm": norm, "options": options}
        result = seeded(lambda norm=norm, params=params: attack("foolbox", net, x, labels, EPS[norm], **params))
        torch.testing.assert_close(result, expected.clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "norm"), [("L2DeepFoolAttack", "l2"), ("LInfFMNAttack", "linf")])
def test_foolbox_without_a_budget(attack, case, name, norm):
    net, x, labels = case
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    expected = getattr(foolbox.attacks, name)()(peer, x, labels, epsilons=None)[1]
    assert torch.equal(attack("foolbox", net, x, labels, float("inf"), name=name, norm=norm), expected.clamp(0, 1))


@pytest.mark.parametrize(("name", "norm", "options", "direct"), [
    ("FGSM", "linf", {}, {}),
    ("PGD", "linf", {"alpha": "2/255", "steps": 5}, {"alpha": 2 / 255, "steps": 5}),
    ("PGDL2", "l2", {"steps": 5, "alpha": 0.3}, {"steps": 5, "alpha": 0.3}),
    ("APGD", "l2", {"loss": "dlr", "seed": 3}, {"norm": "L2", "loss": "dlr", "seed": 3}),
    ("APGDT", "linf", {"steps": 4}, {"norm": "Linf", "steps": 4, "seed": SEED}),
    ("Square", "l2", {"n_queries": 200}, {"norm": "L2", "n_queries": 200, "seed": SEED}),
])  # fmt: skip
def test_torchattacks(attack, case, name, norm, options, direct):
    net, x, labels = case
    expected = seeded(lambda: getattr(torchattacks, name)(net, eps=EPS[norm], **direct)(x, labels))
    result = seeded(lambda: attack("torchattacks", net, x, labels, EPS[norm], name=name, norm=norm, options=options))
    assert torch.equal(result, expected)
    assert float((result - x).abs().max()) > 0.05


def test_torchattacks_gets_the_number_of_classes(attack, random_net, uniform):
    net, x = random_net(1, 8, 8, classes=4), uniform(1, 16, 1, 8, 8)
    labels = net(x).argmax(1)
    peer = torchattacks.APGDT(net, eps=0.01, steps=3, n_classes=4, seed=SEED)
    expected = seeded(lambda: peer(x, labels))
    result = seeded(lambda: attack("torchattacks", net, x, labels, 0.01, name="APGDT", options={"steps": 3}))
    assert torch.equal(result, expected)


@pytest.mark.parametrize(("norm", "eps", "params"), [
    ("linf", 0.15, {"attacks": ("apgd-ce",)}),
    ("l1", 8.0, {"attacks": ("apgd-dlr",)}),
    ("l2", 3.0, {"attacks": ("fab-t",)}),
    ("linf", 0.4, {}),
])  # fmt: skip
def test_pyautoattack(attack, case, norm, eps, params):
    net, x, labels = case
    kind = {"version": "custom", "attacks": list(params["attacks"])} if "attacks" in params else params
    peer = pyautoattack.AutoAttack(net, norm=WRITTEN[norm], eps=eps, seed=SEED, **kind)
    expected = seeded(lambda: peer.run_standard_evaluation(x, labels, batch_size=16)[0])
    result = seeded(lambda: attack("pyautoattack", net, x, labels, eps, norm=norm, **params))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    assert float((net(result).argmax(1) != labels).float().mean()) > 0.5
    assert torch.equal(result[3], x[3]), "an example that is misclassified without an attack is not changed"


def test_autoattack_keeps_the_trace_function(attack, case):
    net, x, labels = case
    seen = []

    def tracer(frame, event, argument):
        seen.append(event)

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        attack("pyautoattack", net, x[:2], labels[:2], 0.3, attacks=("apgd-ce",))
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("family", ["foolbox", "torchattacks"])
def test_the_seed_decides(attack, case, family):
    net, x, labels = case

    def run(seed):
        torch.manual_seed(seed)  # noqa: TID251 (as the core seeds for attacks that draw globally)
        return attack(family, net, x, labels, 0.1, name="PGD", options={"steps": 1})

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
