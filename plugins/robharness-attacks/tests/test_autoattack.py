"""The lists of AutoAttack, held against the authors' own settings; what its members do is tested where they are."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyautoattack
import pytest
import torch

from robharness import Classifier, ExampleRNG
from robharness.planning.identity import draw_address
from robharness_attacks import _cost_of_autoattack
from robharness_attacks.autoattack import members, parts
from robharness_attacks.autopgd import APGD
from robharness_attacks.params import APGDParams, AutoAttackParams
from robharness_attacks.targets import targets_of

VERSIONS = [("standard", "linf"), ("standard", "l2"), ("standard", "l1"),
            ("plus", "linf"), ("plus", "l2"), ("rand", "linf"), ("rand", "l2")]  # fmt: skip


@pytest.fixture
def authors():
    def build(version, norm):
        name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
        return pyautoattack.AutoAttack(torch.nn.Identity(), version=version, norm=name, eps=0.1)

    return build


@pytest.mark.parametrize(("version", "norm"), VERSIONS)
def test_the_authors_settings(authors, version, norm):
    theirs, ours = authors(version, norm), parts(AutoAttackParams(version=version, norm=norm))
    assert list(ours) == theirs.attacks_to_run
    for name in ("apgd-ce", "apgd-dlr"):
        if name in ours:
            part, peer = ours[name], theirs.apgd
            assert (part.steps, part.restarts, part.draws) == (peer.n_iter, peer.n_restarts, peer.eot_iter)
            assert (part.larger_eps, float(part.rho), part.targets) == (peer.use_largereps, peer.thr_decr, 0)
            assert str(part.objective) == {"apgd-ce": "excess", "apgd-dlr": "dlr"}[name]
    if "apgd-t" in ours:
        part, peer = ours["apgd-t"], theirs.apgd_targeted
        assert (part.targets, part.restarts, part.steps) == (peer.n_target_classes, peer.n_restarts, peer.n_iter)
        assert (part.larger_eps, str(part.objective)) == (peer.use_largereps, "dlr")
    for name in ("fab", "fab-t"):
        if name in ours:
            part, peer = ours[name], theirs.fab
            assert (part.steps, float(part.alpha_max), float(part.eta), float(part.beta)) == (
                peer.n_iter, peer.alpha_max, peer.eta, peer.beta)  # fmt: skip
            assert part.targets == (0 if name == "fab" else peer.n_target_classes)
            assert part.restarts == (peer.n_restarts if name == "fab" else 1)  # the runner sets 1 for fab-t
    if "square" in ours:
        part, peer = ours["square"], theirs.square
        assert (part.queries, part.restarts, float(part.p_init)) == (peer.n_queries, peer.n_restarts, peer.p_init)


def test_a_list_of_ones_own_in_its_order():
    params = AutoAttackParams(members=("square", "apgd-ce"))
    assert list(members(params)) == ["square", "apgd-ce"]
    assert parts(params)["apgd-ce"] == parts(AutoAttackParams())["apgd-ce"]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fast_has_the_members_of_standard_and_shortens_those_after_apgd(norm):
    fast, standard = (parts(AutoAttackParams(version=version, norm=norm)) for version in ("fast", "standard"))
    assert list(fast) == list(standard)
    assert fast["apgd-ce"] == standard["apgd-ce"]
    assert fast["apgd-t"] == replace(standard["apgd-t"], order="near")
    assert fast["fab-t"] == replace(standard["fab-t"], order="near", targets=2)
    assert fast["square"] == replace(standard["square"], queries=1000)
    costs = [_cost_of_autoattack(AutoAttackParams(version=version, norm=norm)) for version in ("fast", "standard")]
    passes = [cost.forwards + 2 * cost.gradients for cost in costs]
    assert passes[0] <= 0.4 * passes[1]


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_near_targets_of_a_linear_network_are_in_the_order_of_their_distances(batch_of, norm, dual):
    generator = np.random.default_rng(3)
    weights, bias = generator.normal(size=(12, 20)), generator.normal(size=12)
    weights *= generator.uniform(0.1, 3, size=(12, 1))
    net = torch.nn.Linear(20, 12).double()
    net.load_state_dict({"weight": torch.from_numpy(weights), "bias": torch.from_numpy(bias)})
    x = generator.random((30, 20))
    logits = x @ weights.T + bias
    labels = logits.argmax(1)
    found, ranks = targets_of(
        Classifier(net, batch_size=4), batch_of(x, labels), APGDParams(norm=norm, targets=5, order="near")
    )
    differs = 0
    for row, label in enumerate(labels):
        likely = [c for c in np.argsort(-logits[row]) if c != label][:9]
        distance = {
            c: (logits[row, label] - logits[row, c]) / np.linalg.norm(weights[label] - weights[c], dual) for c in likely
        }
        expected = sorted(likely, key=distance.__getitem__)[:5]
        assert found[row].tolist() == expected
        assert [likely[rank] for rank in ranks[row]] == expected
        differs += expected != likely[:5]
    assert differs > 20, "the order must not be that of the logits"


def test_without_gradients_near_targets_are_the_likely_ones(batch_of, uniform):
    class Rounded(torch.nn.Module):
        def forward(self, x):
            return (8 * x).round() + 0 * x

    x = uniform(5, 12, 10)
    batch, model = batch_of(x, (8 * x).round().argmax(1)), Classifier(Rounded(), batch_size=4)
    near, likely = (
        targets_of(model, batch, APGDParams(targets=4, order=order)).classes for order in ("near", "likely")
    )
    assert torch.equal(near, likely)


def _curved(uniform):
    """A network of two layers on 36 pixels with 10 classes."""
    first, second = uniform(1, 24, 36) - 0.5, uniform(2, 10, 24) - 0.5
    net = torch.nn.Sequential(torch.nn.Linear(36, 24), torch.nn.Tanh(), torch.nn.Linear(24, 10))
    state = {"0.weight": 2 * first, "0.bias": uniform(3, 24) - 0.5, "2.weight": 2 * second, "2.bias": torch.zeros(10)}
    net.load_state_dict(state)
    return net


@pytest.fixture
def broken(ensemble):
    """A function that returns whether the members of a version break each example, and the rows that they request."""

    def run(version, net, batch, eps, leave_out=()):
        model = Classifier(net, batch_size=16)
        kept = {
            name: each for name, each in members(AutoAttackParams(version=version)).items() if name not in leave_out
        }
        found = ensemble(kept, model, model, batch, eps, "autoattack", 0)  # of both versions, as the core has it
        return (model.decisions(found.x) != batch.labels).numpy(), model.rows

    return run


@pytest.mark.parametrize("leave_out", [("square",), pytest.param((), marks=pytest.mark.slow)])
def test_fast_breaks_what_standard_breaks(batch_of, uniform, broken, leave_out):
    net = torch.nn.Sequential(torch.nn.Flatten(), _curved(uniform))
    x = uniform(4, 48, 36).reshape(48, 1, 6, 6)  # images, as Square needs
    batch = batch_of(x, net(x).argmax(1))
    fast, rows = broken("fast", net, batch, 0.03, leave_out)
    standard, more = broken("standard", net, batch, 0.03, leave_out)
    by_apgd, _ = broken("standard", net, batch, 0.03, ("fab-t", "square"))
    assert 12 < standard.sum() < 40
    assert (by_apgd <= fast).all(), "APGD has the same starts and makes the same steps"
    assert (fast <= standard).all() and (standard & ~fast).sum() <= 1
    assert rows["forwards"] + 2 * rows["gradients"] < 0.75 * (more["forwards"] + 2 * more["gradients"])


def test_fast_has_the_draws_of_standard():
    def address(**options):
        return draw_address(SimpleNamespace(params=AutoAttackParams(**options), entry=SimpleNamespace(name="a/b")))

    assert address(version="fast") == address() != address(version="plus")
    assert address(version="fast", norm="l2") == address(norm="l2") != address()


def test_a_target_has_the_same_run_in_either_order(batch_of, uniform):
    net, x = _curved(uniform), uniform(4, 96, 36)
    batch = batch_of(x, net(x).argmax(1))

    def found(order, seed=0):
        """The best points of runs that break nothing."""
        params = APGDParams(targets=9, objective="dlr", steps=6, order=order)
        model = Classifier(net, batch_size=16)
        return APGD(params).perturb(model, batch, 1e-4, ExampleRNG(seed, "apgd-t", batch.ids)).x

    assert torch.equal(found("near"), found("likely"))
    assert not torch.equal(found("near"), found("near", seed=1))


@pytest.mark.slow
def test_neighbours_and_passes_do_not_change_the_verdict_of_fast(batch_of, uniform, broken):
    net, x = _curved(uniform), uniform(4, 24, 36)
    labels = net(x).argmax(1)
    whole, _ = broken("fast", net, batch_of(x, labels), 0.03, ("square",))
    batch = batch_of(x, labels)
    turned, _ = broken("fast", net, batch.select(torch.arange(23, -1, -1)), 0.03, ("square",))
    half, _ = broken("fast", net, batch.select(torch.arange(5, 17)), 0.03, ("square",))
    assert (turned[::-1] == whole).all() and (half == whole[5:17]).all()
