"""Clips of videos, (N, C, T, H, W): pixelwise equality with the libraries' attacks, and refused inputs."""

from __future__ import annotations

import inspect

import foolbox
import pyautoattack
import pytest
import torch
import torchattacks

from robharness import InputSpec
from robharness_bridges import PyautoattackParams, TorchattacksParams, robharness_attacks

SPECS = {spec.name: spec for spec in robharness_attacks()}
SHAPE = (3, 2, 6, 6)
CLIP, STACKED = InputSpec(kind="video", shape=SHAPE), (3, 12, 6)
EPS = {"linf": 0.2, "l2": 1.0, "l1": 5.0}
SEED = 5


class Unstacked(torch.nn.Module):
    """A video network behind images whose frames are below each other."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, x):
        return self.net(x.view(-1, *SHAPE))


@pytest.fixture
def case(random_net, uniform):
    net, x = random_net(*SHAPE), uniform(2, 4, *SHAPE)
    return net, x, net(x).argmax(1)


def seeded(call):
    torch.manual_seed(SEED)  # noqa: TID251 (as the core seeds for attacks that draw globally)
    return call()


@pytest.mark.parametrize(("name", "norm", "options", "takes_clips"), [
    ("PGD", "linf", {"steps": 4}, True),
    ("MIFGSM", "linf", {"steps": 4}, True),
    ("FAB", "l2", {"steps": 4, "n_classes": 5}, True),
    ("PGDL2", "l2", {"steps": 4, "alpha": 0.3}, False),
    ("APGD", "linf", {"steps": 10, "seed": SEED}, False),
    ("APGDT", "l2", {"steps": 10, "n_classes": 5, "seed": SEED}, False),
    ("PGDRS", "linf", {"steps": 3, "noise_batch_size": 2}, False),
    ("Jitter", "linf", {"steps": 3}, False),
])  # fmt: skip
def test_torchattacks(attack, case, name, norm, options, takes_clips):
    """The results are the library's own on the clips, or on images of stacked frames if it takes no clips."""
    net, x, labels = case
    cls, own = getattr(torchattacks, name), {"norm": {"linf": "Linf", "l2": "L2"}[norm], "n_classes": 5}
    known = inspect.signature(cls).parameters
    direct = {**{key: value for key, value in own.items() if key in known}, **options}
    if "seed" in known:
        direct["seed"] = SEED
    peer = cls(Unstacked(net) if not takes_clips else net, eps=EPS[norm], **direct)
    if not takes_clips:
        with pytest.raises((RuntimeError, ValueError)):
            cls(net, eps=EPS[norm], **direct)(x, labels)
    expected = seeded(lambda: peer(x if takes_clips else x.view(-1, *STACKED), labels)).view(-1, *SHAPE)
    named = {"name": name, "norm": norm, "options": options}
    result = seeded(lambda: attack("torchattacks", net, x, labels, EPS[norm], rows=4, **named))
    assert torch.equal(result, expected)
    assert float((result - x).abs().max()) > 0.02


@pytest.mark.parametrize(("name", "norm", "options"), [
    ("L2PGD", "l2", {"steps": 3}),
    ("SaltAndPepperNoiseAttack", "l2", {"steps": 20}),
    ("LInfFMNAttack", "linf", {"steps": 20}),
    ("HopSkipJumpAttack", "l2", {"steps": 2, "max_gradient_eval_steps": 50}),
])  # fmt: skip
def test_foolbox(attack, case, name, norm, options):
    net, x, labels = case
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    own = {"channel_axis": 1} if name == "SaltAndPepperNoiseAttack" else {}
    expected = seeded(lambda: getattr(foolbox.attacks, name)(**own, **options)(peer, x, labels, epsilons=EPS[norm])[1])
    named = {"name": name, "norm": norm, "options": options}
    result = seeded(lambda: attack("foolbox", net, x, labels, EPS[norm], rows=4, **named))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("norm", "attacks"), [("linf", ("apgd-ce",)), ("l1", ("apgd-dlr",)), ("l2", ("fab",))])
def test_pyautoattack(attack, case, norm, attacks):
    net, x, labels = case
    peer = pyautoattack.AutoAttack(
        net, norm=norm.capitalize(), eps=EPS[norm], seed=SEED, version="custom", attacks=list(attacks)
    )
    expected = seeded(lambda: peer.run_standard_evaluation(x, labels, batch_size=4)[0])
    result = seeded(lambda: attack("pyautoattack", net, x, labels, EPS[norm], rows=4, norm=norm, attacks=attacks))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    assert not torch.equal(result, x)


def test_videos_have_their_channels_last_in_memory(attack, case):
    net, x, labels = case
    strided = x.movedim(1, -1).contiguous().movedim(-1, 1)
    params = {"name": "PGDL2", "norm": "l2", "options": {"steps": 3}}
    one, other = (
        seeded(lambda x=x: attack("torchattacks", net, x, labels, 1.0, rows=4, **params)) for x in (x, strided)
    )
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert not strided.is_contiguous()


def test_square_of_pyautoattack_is_refused():
    for params in ({}, {"version": "plus"}, {"attacks": ("apgd-ce", "square")}):
        reason = SPECS["pyautoattack"].refuses(PyautoattackParams(**params), CLIP)
        assert reason == "square of pyautoattack takes images only, since it changes square windows of pixels"
    for params in ({"version": "rand"}, {"attacks": ("fab", "apgd-ce")}):
        assert not SPECS["pyautoattack"].refuses(PyautoattackParams(**params), CLIP)


@pytest.mark.parametrize(("shape", "named", "reason"), [
    ((1, 8, 8), {"name": "TIFGSM"}, "TIFGSM of torchattacks takes three channels, and they have 1"),
    ((3, 8, 8), {"name": "TIFGSM"}, ""),
    ((3, 8, 6), {"name": "Square", "norm": "l2"},
     "Square of torchattacks fails in l2 on images that are not square, and they have 8 x 6 pixels"),
    ((3, 8, 6), {"name": "Square"}, ""),
])  # fmt: skip
def test_other_inputs(attack, random_net, uniform, shape, named, reason):
    params = {**named, "options": {"n_queries": 100} if named["name"] == "Square" else {}}
    assert SPECS["torchattacks"].refuses(TorchattacksParams(**params), InputSpec(shape=shape)) == reason
    net, x = random_net(*shape), uniform(4, 4, *shape)

    def run():
        return attack("torchattacks", net, x, net(x).argmax(1), 0.3, rows=4, **params)

    if reason:
        with pytest.raises(RuntimeError):
            run()
    else:
        assert not torch.equal(run(), x)
