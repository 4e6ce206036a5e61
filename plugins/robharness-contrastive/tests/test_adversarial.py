"""RoCL and ACL against plain scripts of their formulas; the instance-wise attack and BatchNorm with two branches."""

from __future__ import annotations

import copy
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robharness_contrastive import adversarial, attack, dual, networks, options
from robharness_contrastive.augment import Draws
from robharness_contrastive.data import seed_of
from robharness_contrastive.objectives import Context, InfoNCE, Learner, TrainingStep, unit
from robharness_contrastive.removal import Removal
from robharness_contrastive.steps import Augmentation, Digits

PLAIN = runpy.run_path(str(Path(__file__).with_name("plain.py")))
B, WIDTH, CLASSES = 6, 5, 2
CONTEXT = Context(examples=60, classes=CLASSES, batch=B, epochs=20, shape=(1, 6, 6))
ROWS = np.array([3, 50, 12, 7, 31, 8])
LABELS = torch.arange(B) % CLASSES
ATTACK = {"eps": 0.1, "steps": 3, "rel_step": 0.3}
REMOVALS = {
    "none": (Removal(), 0),
    "frequency": (Removal(strategy="frequency"), B // CLASSES),
    "oversample": (Removal(strategy="frequency", replace="oversample"), B // CLASSES),
}
RESERVE = {"oversample": 3}
"""Images beside the batch: as many as an anchor loses negatives."""
LR = 0.1


def at(epoch=0, reserve=0):
    rows = np.concatenate([ROWS, 40 + np.arange(reserve)])
    return TrainingStep(epoch=epoch, epochs=20, step=10 * epoch, steps=200, batch=B, seed=5, rows=rows)


def views(reserve=0):
    draws = np.random.default_rng(5 * reserve)  # no two images have equal projections, as dead units may give them
    return [torch.from_numpy(draws.random((B + reserve, 1, 6, 6))) for _ in range(2)]


def start_of(number, step):
    """The random start of a view, float64 (B, 1, 6, 6), with the reserve if the step has one."""
    noise = Draws(seed_of(5, "attack", step.step, number), step.rows).uniform("start", 36)
    return ((2 * noise - 1) * 0.1).view(-1, 1, 6, 6).double()


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def encoder():
    torch.manual_seed(3)  # noqa: TID251 (initial weights)
    trunk = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, WIDTH)
    )
    trunk[1].running_mean.normal_(0, 0.1), trunk[1].running_var.uniform_(0.05, 0.1)
    trunk[4].weight.data *= 3
    return trunk


def norm_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items() if value.ndim}


def net_of(trunk):
    """The network as the dictionary that the plain script takes."""
    norms = [norm_of(each) for each in trunk[1].bn_list] if isinstance(trunk[1], dual.DualBatchNorm) else None
    found = {"conv": trunk[0].weight, "linear": trunk[4].weight, "bias": trunk[4].bias}
    found = {name: value.detach().clone() for name, value in found.items()}
    return found | ({"norms": norms} if norms else {"norm": norm_of(trunk[1])})


def head_of(head):
    if isinstance(head, networks.BatchNormHead):
        found = {"w1": head.fc1.weight, "b1": head.fc1.bias, "w2": head.fc2.weight}
        norms = {f"norms{n}": [norm_of(each) for each in getattr(head, f"bn{n}").bn_list] for n in (1, 2)}
    else:
        found, norms = {"w1": head[0].weight, "b1": head[0].bias, "w2": head[2].weight, "b2": head[2].bias}, {}
    return {name: value.detach().clone() for name, value in found.items()} | norms


def leaves(tree):
    """Weights of a network as it was given to the plain script, by their path."""
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, torch.Tensor):
            yield (name,), value
        else:
            yield from (((name, *rest), leaf) for rest, leaf in leaves(value))


def step_plainly(trees, loss):
    """Make one step of SGD on the weights of the trees, in place. Returns the loss."""
    weights = [value for tree in trees for path, value in leaves(tree) if "running" not in str(path[-1])]
    for value in weights:
        value.requires_grad_()
    value = loss()
    for weight, gradient in zip(weights, torch.autograd.grad(value, weights), strict=True):
        weight.data -= LR * gradient
    return value.detach()


def step_of(learner, step):
    reserve = len(step.rows) - B
    assert learner.objective.reserve == reserve
    loss = learner(views(reserve), torch.cat([LABELS, torch.arange(reserve) % CLASSES]), step)
    loss.value.backward()
    learner.objective.before_step(step)
    for value in learner.parameters():
        if value.requires_grad:
            value.data -= LR * value.grad
    return loss


def assert_alike(found, expected):
    found, expected = dict(leaves(found)), dict(leaves(expected))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-9, atol=1e-12, msg=str(name))


# --- a step of each algorithm ---


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("removal", REMOVALS)
def test_a_step_of_rocl_is_that_of_its_formulas(removal, detached):
    strategy, k = REMOVALS[removal]
    params = options.RoCL(**ATTACK, projection=(7, 4), removal=strategy, weight=0.3, detached=detached)
    learner = Learner(encoder(), adversarial.RoCL(params, WIDTH, CONTEXT))
    net, head = net_of(learner.encoder), head_of(learner.objective.projection)
    reserve = RESERVE.get(removal, 0)
    hyper = {"eps": 0.1, "step": 0.03, "steps": 3, "k": k, "weight": 0.3, "detached": detached, "reserve": reserve}
    start = start_of(0, at())  # the reserve is not attacked
    expected = step_plainly([net, head], lambda: PLAIN["rocl"](net, head, views(reserve), start, **hyper))
    loss = step_of(learner, at(0, reserve))
    torch.testing.assert_close(loss.value.detach(), expected)
    assert_alike(net_of(learner.encoder), net)
    assert_alike(head_of(learner.objective.projection), head)
    assert loss.notes["attack_end"] > loss.notes["attack_start"] + 0.01
    parts = loss.notes["loss_views"] + 0.3 * loss.notes["loss_adversarial"]
    torch.testing.assert_close(parts, expected)
    assert float(loss.notes.get("removed", 0)) == k


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_step_of_acl_is_that_of_its_formulas(removal):
    strategy, k = REMOVALS[removal]
    params = options.ACL(**ATTACK, projection=(7, 4), removal=strategy)
    learner = Learner(dual.with_branches(encoder()), adversarial.ACL(params, WIDTH, CONTEXT))
    net, head = net_of(learner.encoder), head_of(learner.objective.projection)
    reserve = RESERVE.get(removal, 0)
    starts = [start_of(number, at(0, reserve)) for number in range(2)]
    hyper = {"eps": 0.1, "step": 0.03, "steps": 3, "k": k, "reserve": reserve}
    expected = step_plainly([net, head], lambda: PLAIN["acl"](net, head, views(reserve), starts, **hyper))
    loss = step_of(learner, at(0, reserve))
    torch.testing.assert_close(loss.value.detach(), expected)
    assert_alike(net_of(learner.encoder), net)
    assert_alike(head_of(learner.objective.projection), head)
    assert loss.notes["attack_end"] > loss.notes["attack_start"] + 0.005
    assert float(loss.notes.get("removed", 0)) == k


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_step_of_dynacl_is_that_of_its_formulas(removal):
    """A late step, in which the momentum encoder and the weight of the adversarial stream have moved."""
    strategy, k = REMOVALS[removal]
    params = options.DynACL(**ATTACK, projection=(7, 4), removal=strategy, period=2, rise=0.8, inertia=0.75)
    learner = Learner(dual.with_branches(encoder()), adversarial.DynACL(params, WIDTH, CONTEXT))
    for value in learner.objective.keys.parameters():
        value.data += 0.1 * torch.from_numpy(np.random.default_rng(value.numel()).normal(size=value.shape))
    own = net_of(learner.encoder), head_of(learner.objective.projection)
    keys = net_of(learner.objective.keys[0]), head_of(learner.objective.keys[1])
    before = [{path: value.clone() for path, value in leaves(tree)} for tree in (*own, *keys)]
    reserve = RESERVE.get(removal, 0)
    step = at(12, reserve)
    weight = 1 + 0.8 * 12 / 20  # epochs are counted from 1: 13 // 2 * 2 = 12 have passed
    hyper = {"eps": 0.1, "step": 0.03, "steps": 3, "k": k, "weight": weight, "keys": keys, "reserve": reserve}
    starts = [start_of(number, step) for number in range(2)]
    expected = step_plainly(own, lambda: PLAIN["acl"](*own, views(reserve), starts, **hyper))
    for tree, old_own, old_key in zip(keys, before[:2], before[2:], strict=True):
        for path, value in leaves(tree):
            if "running" not in str(path[-1]):
                value.copy_(0.75 * old_key[path] + 0.25 * old_own[path])
    loss = step_of(learner, step)
    torch.testing.assert_close(loss.value.detach(), expected)
    assert float(loss.notes["weight"]) == pytest.approx(weight)
    for module, tree in ((learner.encoder, own[0]), (learner.objective.keys[0], keys[0])):
        assert_alike(net_of(module), tree)
    for module, tree in ((learner.objective.projection, own[1]), (learner.objective.keys[1], keys[1])):
        assert_alike(head_of(module), tree)


@pytest.mark.parametrize("kind", ["rocl", "acl"])
def test_a_queue_remembers_the_views_of_its_loss(kind):
    """The clean views of the last forward pass; in ACL's adversarial stream, those that the attack has moved."""
    removal = Removal(strategy="frequency", replace="queue")
    params = (options.RoCL if kind == "rocl" else options.ACL)(**ATTACK, projection=(7, 4), removal=removal)
    made = (adversarial.RoCL if kind == "rocl" else adversarial.ACL)(params, WIDTH, CONTEXT)
    learner = Learner(encoder() if kind == "rocl" else dual.with_branches(encoder()), made)
    outputs = []
    made.projection.register_forward_hook(lambda module, given, output: outputs.append(unit(output.detach())))
    step_of(learner, at())
    parts = outputs[-1].split(B)
    if kind == "rocl":
        expected = [(made.contrast, torch.stack(parts[:2]))]
    else:
        expected = [(made.clean, torch.stack(outputs[0].split(B))), (made.adversarial, torch.stack(parts))]
        assert not torch.allclose(expected[0][1], expected[1][1])
    for contrast, rows in expected:
        size = contrast.queue.shape[1]
        assert size == B // CLASSES == contrast.filled
        torch.testing.assert_close(contrast.queue, rows[:, :size])


def test_dynacls_schedule_is_its_codes():
    """Written from train_DynACL.py: epochs from 1 to E, `reload` where epoch % 50 == 1."""
    made = adversarial.DynACL(options.DynACL(), WIDTH, replace(CONTEXT, epochs=1000))
    for epoch in range(1, 1001):
        if epoch % 50 == 1:
            strength = 1 - (epoch - 1) / 1000
        assert made.strength(epoch - 1) == pytest.approx(strength)
        assert made.weight(epoch - 1) == pytest.approx(min(1.0 + (epoch // 50) * (50 / 1000) * (2 / 3), 2))
    short = adversarial.DynACL(options.DynACL(), WIDTH, replace(CONTEXT, epochs=20))
    assert [short.strength(epoch) for epoch in (0, 1, 19)] == pytest.approx([1, 0.95, 0.05])


def test_a_weaker_augmentation_is_dynacls():
    made = Augmentation(scale=(0.1, 1.0)).at(0.4)
    assert made.scale == pytest.approx((1 - 0.9 * 0.4, 1.0)) and made.flip == 0.5
    assert (made.jitter, made.grey) == pytest.approx((0.8 * 0.4, 0.2 * 0.4))
    assert (made.brightness, made.contrast, made.saturation, made.hue) == pytest.approx((0.16, 0.16, 0.16, 0.04))
    digits = Digits()
    assert digits.at(1) is digits and digits.at(0.5).rotation == 10 and isinstance(digits.at(0.5), Digits)


# --- the attack ---


def rocl_attack(steps=5, seed=5, rows=ROWS, x=None):
    net = nn.Sequential(encoder(), nn.Linear(WIDTH, 4)).train()
    first, second = views()

    def loss(found):
        z = unit(net(torch.cat([found[0], second])))
        return (z[: len(z) // 2] * z[len(z) // 2 :]).sum(1).neg()

    made = options.Attacked(eps=0.05, steps=steps, rel_step=0.4)
    step = replace(at(), seed=seed, rows=rows)
    return net, loss, attack.attack(loss, [first if x is None else x], made, step, [net])


def test_the_attack_raises_the_loss_within_its_ball_and_the_image():
    _, loss, found = rocl_attack()
    first = views()[0]
    (moved,) = found.views
    assert (moved - first).abs().max() <= 0.05 + 1e-12 and (moved - first).abs().max() > 0.049
    assert moved.min() >= 0 and moved.max() <= 1 and not moved.requires_grad
    start, end = found.notes["attack_start"], found.notes["attack_end"]
    assert end > start + 0.01
    net, loss, _ = rocl_attack()
    net.eval()
    torch.testing.assert_close(loss([moved]).mean(), end)


def test_the_attack_leaves_networks_as_they_were():
    net, loss, _ = rocl_attack()
    net.zero_grad()
    net[0][1].eval()  # a mode of its own, as a frozen part has it
    net(torch.cat(views())).sum().backward()
    state, gradients = copy.deepcopy(net.state_dict()), [value.grad.clone() for value in net.parameters()]
    attack.attack(loss, views()[:1], options.Attacked(), at(), [net])
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(a.grad, b) for a, b in zip(net.parameters(), gradients, strict=True))
    assert net.training and net[0].training and not net[0][1].training


def test_the_start_is_drawn_by_seed_step_and_example():
    first = views()[0]
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    start = attack._start(first, 0.1, at(), 0)
    assert start.abs().max() <= 0.1 and start.min() < -0.09 and start.max() > 0.09
    assert torch.equal(start[order], attack._start(first[order], 0.1, replace(at(), rows=ROWS[order.numpy()]), 0))
    for other in (replace(at(), seed=6), at(1), replace(at(), rows=ROWS + 1)):
        assert not torch.equal(start, attack._start(first, 0.1, other, 0))
    assert not torch.equal(start, attack._start(first, 0.1, at(), 1))


# --- BatchNorm with two branches ---


def test_branches_keep_their_statistics_apart():
    net = dual.with_branches(encoder())
    before = copy.deepcopy(net.state_dict())
    x = torch.cat(views())
    for branch, other in ((0, 1), (1, 0)):
        net.load_state_dict(before)
        with dual.using(branch, net):
            net.train()(x).sum().backward()
        after = net.state_dict()
        for name, value in after.items():
            if f"bn_list.{other}" in name:
                assert torch.equal(value, before[name])
        assert not torch.equal(after[f"1.bn_list.{branch}.running_mean"], before[f"1.bn_list.{branch}.running_mean"])
        assert net[1].bn_list[other].weight.grad is None
        net.zero_grad()


def test_branches_have_acls_keys_and_give_the_network_back():
    plain, net = encoder().eval(), dual.with_branches(encoder().eval(), dual.ADVERSARIAL)
    assert {key for key in net.state_dict() if key.startswith("1.")} == {
        f"1.bn_list.{branch}.{name}" for branch in (0, 1)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }  # fmt: skip
    x = views()[0]
    assert torch.equal(net(x), plain(x))
    net[1].bn_list[1].bias.data += 1
    with dual.using(dual.CLEAN, net):
        assert torch.equal(net(x), plain(x))
    moved = net(x)
    assert not torch.equal(moved, plain(x))
    single = dual.without_branches(net)
    assert torch.equal(single(x), moved) and single.state_dict().keys() == plain.state_dict().keys()


class Shared(nn.Module):
    """A network whose BatchNorm stands at two places, as a third party may have it."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.BatchNorm2d(1)
        self.nothing = None

    def forward(self, x):
        return self.second(self.first(x) ** 2)


def test_a_batch_norm_at_two_places_stays_one():
    net = dual.with_branches(Shared())
    assert isinstance(net.first, dual.DualBatchNorm) and net.first is net.second
    assert isinstance(dual.with_branches(nn.BatchNorm2d(1)), dual.DualBatchNorm)
    single = dual.without_branches(net)
    assert isinstance(single.first, nn.BatchNorm2d) and single.first is single.second


@pytest.mark.parametrize(("kind", "changed", "why"), [
    (options.RoCL, {"eps": 0}, "RoCL: eps=0 must be above 0"),
    (options.RoCL, {"weight": -1}, "RoCL: weight=-1 must be at least 0"),
    (options.ACL, {"steps": 0}, "ACL: steps=0 must be above 0"),
    (options.DynACL, {"inertia": 1}, "DynACL: inertia=1 must be at least 0 and below 1"),
    (options.DynACL, {"period": 0}, "DynACL: period=0 must be above 0"),
    (options.ACL, {"projection": ()}, r"ACL: projection=\[\] must be widths above 0"),
    (options.RoCL, {"projection": (0, 3)}, r"RoCL: projection=\[0, 3\] must be widths above 0"),
    (options.ACL, {"rel_step": -1}, "ACL: rel_step=-1 must be above 0"),
])  # fmt: skip
def test_bad_options_are_refused(kind, changed, why):
    with pytest.raises(ValueError, match=why):
        kind(**changed)


# --- waiting for the device ---


class Waits(TorchDispatchMode):
    """Refuses copies between CPU and device that wait. The device is "meta", where a tensor's value is an error."""

    def __torch_dispatch__(self, function, types, words=(), options=None):
        options = options or {}
        found = function(*words, **options)
        places = {value.device.type for value in tree_leaves((words, found)) if isinstance(value, torch.Tensor)}
        assert len(places) < 2 or options.get("non_blocking"), function
        return found


class NoNumbers(TorchFunctionMode):
    """Refuses tensors that are made of numbers, which are copied to the device."""

    def __torch_function__(self, function, types, words=(), options=None):
        assert function not in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        return function(*words, **(options or {}))


@pytest.mark.parametrize("replace", ["none", "oversample", "reweight", "queue"])
@pytest.mark.parametrize("strategy", ["frequency", "oracle"])
@pytest.mark.parametrize("name", ["simclr", "rocl", "acl", "dynacl"])
def test_no_step_waits_for_the_device(name, strategy, replace):
    if (strategy, replace) == ("oracle", "queue"):
        return
    kind, made = {
        "simclr": (options.SimCLR, InfoNCE), "rocl": (options.RoCL, adversarial.RoCL),
        "acl": (options.ACL, adversarial.ACL), "dynacl": (options.DynACL, adversarial.DynACL),
    }[name]  # fmt: skip
    given = kind(projection=(7, 4), removal=Removal(strategy=strategy, replace=replace))
    trunk = encoder() if name in ("simclr", "rocl") else dual.with_branches(encoder())
    learner = Learner(trunk, made(given, WIDTH, CONTEXT)).to("meta")
    count = B + learner.objective.reserve
    seen = [torch.zeros(count, 1, 6, 6, device="meta") for _ in range(2)]
    labels = torch.zeros(count, dtype=torch.int64, device="meta")
    step = at()
    step.rows = np.arange(count)
    with Waits(), NoNumbers():
        loss = learner(seen, labels, step)
        loss.value.backward()
    assert all(note.device.type == "meta" for note in loss.notes.values())
