"""DDN and FMN: closed-form distances, the peers' medians and pixels, and one search for every budget."""

from __future__ import annotations

import eagerpy
import foolbox
import numpy as np
import pytest
import torch

from robharness import Classifier
from robharness_attacks.minimal import within
from robharness_attacks.norms import length
from robharness_attacks.objectives import lead

ATTACKS = [("ddn", "l2"), ("fmn", "linf"), ("fmn", "l2"), ("fmn", "l1")]
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
PEERS = {
    ("ddn", "l2"): foolbox.attacks.DDNAttack,
    ("fmn", "linf"): foolbox.attacks.LInfFMNAttack,
    ("fmn", "l2"): foolbox.attacks.L2FMNAttack,
    ("fmn", "l1"): foolbox.attacks.L1FMNAttack,
}
every_attack = pytest.mark.parametrize(("name", "norm"), ATTACKS)


def far(attack, name, norm, net, batch, steps=100, **options):
    """The nearest points found, whatever their distance."""
    return attack(name, net, batch, float("inf"), norm=norm, steps=steps, **options)


@every_attack
def test_distances_of_a_plane(attack, linear, uniform, batch_of, name, norm):
    """Two classes; the box is out of reach: |score - offset| over the dual length of the weights."""
    x = 0.45 + 0.1 * uniform(1, 20, 1, 4, 4)
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=16).astype(np.float32))
    score = x.flatten(1) @ weights
    offset = float(score.max()) + 0.05
    exact = (offset - score) / torch.linalg.vector_norm(weights, ord=DUAL[norm])
    assert float(exact.max()) < (0.1 if norm == "linf" else 0.5)
    result = far(attack, name, norm, linear(weights, offset), batch_of(x, [0] * 20), rows=8)
    ratio = length(result.x - x, norm) / exact
    assert result.notes["found"].all()
    assert float(ratio.min()) > 1 - 1e-4
    assert float(ratio.max()) < 1.02


def nearest_in_the_box(x, weights, gap, norm):
    """The least length of a change that raises weights . x by gap inside [0, 1], by bisection or greedily."""
    room = torch.where(weights > 0, 1 - x, x)
    gains = weights.abs()
    if norm == "l1":  # the pixels that gain most go to their edge, one after the other
        order = gains.argsort(descending=True)
        reached = (gains * room)[order].cumsum(0)
        last = int((reached < gap).sum())
        before = float(reached[last - 1]) if last else 0.0
        return float(room[order[:last]].sum()) + (gap - before) / float(gains[order[last]])
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        moved = (torch.full_like(room, middle) if norm == "linf" else middle * gains).minimum(room)
        low, high = (middle, high) if float((gains * moved).sum()) < gap else (low, middle)
    return float(torch.linalg.vector_norm(moved, ord=torch.inf if norm == "linf" else 2))


@every_attack
def test_distances_of_a_plane_in_the_box(attack, linear, uniform, batch_of, name, norm):
    """Half of all pixels are black or white. FMN in l1 walks along the edges of the box; 100 steps are too few."""
    x = (2 * uniform(2, 12, 1, 4, 4) - 0.5).clamp(0, 1)
    weights = torch.from_numpy(np.random.default_rng(4).normal(size=16).astype(np.float32))
    score = x.flatten(1) @ weights
    offset = float(score.max()) + 0.3
    exact = [
        nearest_in_the_box(row, weights, offset - float(s), norm) for row, s in zip(x.flatten(1), score, strict=True)
    ]
    result = far(attack, name, norm, linear(weights, offset), batch_of(x, [0] * 12), steps=300)
    ratio = length(result.x - x, norm) / torch.tensor(exact)
    assert result.notes["found"].all()
    assert float(ratio.min()) > 1 - 1e-3
    assert float(ratio.median()) < 1.03
    assert float(ratio.max()) < 1.1


@pytest.mark.parametrize("steps", [20, 100])
@every_attack
def test_medians_are_foolbox_or_less(attack, digits, batch_of, name, norm, steps):
    """Foolbox's l2 does not project at all, and its l1 stalls before the boundary on a third of the examples."""
    net, x, labels = digits
    batch = batch_of(x, labels)
    peer = PEERS[name, norm](steps=steps).run(foolbox.PyTorchModel(net.eval(), bounds=(0, 1), device="cpu"), x, labels)
    right = net(x).argmax(1) == labels
    medians = []
    for found in (far(attack, name, norm, net, batch, steps, rows=64).x, peer):
        distance = torch.where(net(found).argmax(1) != labels, length(found - x, norm), torch.inf)
        medians.append(float(distance[right].median()))
    assert medians[0] <= 1.02 * medians[1]
    assert medians[0] > {"linf": 0.09, "l2": 0.5, "l1": 1.4}[norm]


class ProjectingL2FMN(foolbox.attacks.L2FMNAttack):
    """Foolbox's with the projection that its code means: there the factor is norms / norms."""

    def project(self, x, x0, epsilon):
        norms = eagerpy.maximum(eagerpy.norms.l2((x - x0).reshape((len(x), -1)), axis=-1), 1e-12)
        return x0 + (x - x0) * eagerpy.minimum(norms * 0 + 1, epsilon / norms).reshape((-1, 1, 1, 1))


@pytest.mark.parametrize("steps", [2, 3, 10, 40])
@every_attack
def test_pixels_are_foolbox(attack, conv_net, uniform, batch_of, name, norm, steps):
    """In float64. FMN: where the first step crosses the boundary, so that the ball need not grow on the way there; and
    in l1 far from the box, onto which we project, too."""
    net = conv_net().double().eval()
    x = uniform(5, 600 if name == "fmn" else 60, 3, 8, 8).double()
    if norm == "l1":
        x = 0.3 + 0.4 * x
    labels = net(x).argmax(1)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    peers = {**PEERS, ("fmn", "l2"): ProjectingL2FMN}
    rows = torch.arange(len(x))
    if name == "fmn":
        first = peers[name, norm](steps=2).run(model, x, labels)
        rows = (lead(net(first), labels) > 1e-4).nonzero().flatten()  # in the float32 of our logits, too
    assert len(rows) >= 4
    theirs = peers[name, norm](steps=steps).run(model, x[rows], labels[rows])
    ours = far(attack, name, norm, net, batch_of(x[rows], labels[rows]), steps).x
    apart = (ours - theirs).flatten(1).abs().amax(1)
    assert float((apart < 1e-6).double().mean()) > 0.85  # a rounded logit on the boundary can turn a search
    assert steps > 3 or float(apart.max()) < 1e-6


@every_attack
def test_one_search_serves_every_budget(attack, digits, batch_of, name, norm):
    net, x, labels = digits
    batch, model = batch_of(x[:100], labels[:100]), Classifier(net, batch_size=32)
    model.grad_mode_exact = True
    batch.logits(model)
    model.passes.clear()
    budgets = {"linf": (0.08, 0.1, 0.15), "l2": (0.45, 0.6, 0.8), "l1": (1.4, 1.8, 2.5)}[norm]
    found = {eps: attack(name, model, batch, eps, norm=norm, steps=20).x for eps in (*budgets, float("inf"))}
    assert dict(model.passes) == {"forward": 80, "backward": 80}  # 20 steps in four passes of 32
    fooled = model.decisions(found[float("inf")]) != labels[:100]
    distance = torch.where(fooled, length(found[float("inf")].double() - x[:100].double(), norm), torch.inf)
    for eps in budgets:
        assert torch.equal(model.decisions(found[eps]) == labels[:100], distance > eps)
        assert 5 < int((distance > eps).sum()) < 98
    attack(name, model, batch.select(torch.tensor([3, 5])), budgets[0], norm=norm, steps=20)
    attack(name, model, batch, budgets[0], norm=norm, steps=10)  # another attack: a search of its own
    assert model.passes["backward"] == 80 + 4 * 10 - 4  # whose first gradient is known


def test_within_looks_at_the_distance_in_float64(uniform, batch_of):
    batch = batch_of(uniform(0, 4, 1, 3, 3), [0] * 4)
    x = (batch.x + torch.tensor([0.0, 0.1, 0.2, 0.3])[:, None, None, None]).clamp(0, 1)
    kept = within(batch, x, 0.15, "linf")
    assert torch.equal(kept[:2], x[:2]) and torch.equal(kept[2:], batch.x[2:])
    assert torch.equal(within(batch, x, float("inf"), "l1"), x)
    one = batch_of(torch.tensor([[[[0.5]]]], dtype=torch.float64), [0])
    over = one.x + 0.25 + 1e-12
    assert torch.equal(within(one, over, 0.25, "l2"), one.x)
    assert torch.equal(within(one, over, 0.25 + 2e-12, "l2"), over)


class Constant(torch.nn.Module):
    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)


@every_attack
def test_what_is_fooled_as_it_is_and_what_cannot_be(attack, batch_of, uniform, name, norm):
    batch = batch_of(uniform(1, 5, 1, 4, 4), [0, 1, 0, 1, 0])
    result = far(attack, name, norm, Constant(), batch, steps=5)
    assert result.notes["found"].tolist() == [False, True, False, True, False]
    assert torch.equal(result.x, batch.x)


class Trained(torch.nn.Module):
    """Gradient passes see a wrong class a little ahead of where the judge sees it."""

    def __init__(self, net, head_start):
        super().__init__()
        self.net, self.head_start = net, head_start

    def forward(self, x):
        logits = self.net(x)
        return logits + self.head_start * torch.arange(logits.shape[1]) if torch.is_grad_enabled() else logits


@every_attack
def test_what_is_returned_fools_the_judge(attack, digits, batch_of, name, norm):
    net, x, labels = digits
    judge = Classifier(net, batch_size=16)
    for head_start in (0.02, -0.02):
        result = far(attack, name, norm, Trained(net, head_start), batch_of(x[:80], labels[:80]), 30, rows=16)
        moved = (result.x != x[:80]).flatten(1).any(1)
        assert int(moved.sum()) > 70
        assert (judge.decisions(result.x) != labels[:80])[moved].all()


def parts_of(order):
    return [torch.tensor(part) for part in (order[:1], order[1:6], order[6:])]


@every_attack
def test_neighbours_and_order_change_nothing(attack, conv_net, uniform, batch_of, name, norm):
    net, x = conv_net(), uniform(2, 23, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    whole = far(attack, name, norm, net, batch, 20)
    for part in parts_of(np.random.default_rng(0).permutation(23).tolist()):
        alone = batch_of(x[part], batch.labels[part])
        assert torch.equal(far(attack, name, norm, net, alone, 20).x, whole.x[part])


@every_attack
def test_clips_are_attacked_as_their_frames_laid_side_by_side(attack, linear, uniform, batch_of, name, norm):
    clips = uniform(6, 5, 3, 4, 2, 6)
    weights = np.random.default_rng(1).normal(size=3 * 4 * 2 * 6).astype(np.float32)
    net, labels = linear(weights, float(weights.clip(0).sum()) / 2), [0, 1, 0, 1, 0]
    as_clips = far(attack, name, norm, net, batch_of(clips, labels), 20)
    as_pictures = far(attack, name, norm, net, batch_of(clips.reshape(5, 3, 8, 6), labels), 20)
    assert torch.equal(as_clips.x.reshape(5, 3, 8, 6), as_pictures.x)
    assert as_clips.notes["found"].any()
