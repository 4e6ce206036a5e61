"""An example's outcome belongs to it: neighbours, order, pass shape and other restarts change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness import Budget, Classifier
from robharness_attacks.norms import direction, length, project, sparse_step
from robharness_attacks.objectives import clearly_fooled, lead, target_lead

N = 23


class Exact(torch.nn.Module):
    """Two classes, whole-numbered weights, ReLU: on dyadic pixels every sum is exact, forward and backward."""

    def __init__(self):
        super().__init__()
        draws = np.random.default_rng(7)
        self.first = torch.nn.Linear(16, 12)
        self.second = torch.nn.Linear(12, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.from_numpy(draws.integers(-3, 4, tuple(parameter.shape))))

    def forward(self, x):
        return self.second(torch.relu(self.first(x.flatten(1))))


@pytest.fixture
def dyadic(batch_of):
    draws = np.random.default_rng(11)
    x = torch.from_numpy(draws.integers(0, 65, (N, 1, 4, 4)).astype(np.float32) / 64)
    return batch_of(x, Classifier(Exact(), batch_size=8).decisions(x))


def rows_in(order):
    return [torch.tensor(part) for part in (order[:1], order[1:6], order[6:])]


@pytest.mark.parametrize("more", [{}, {"objective": "margin"}, {"target": 0}, {"target": "least-likely"}], ids=str)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_exact_arithmetic_gives_exact_outcomes(attack, dyadic, keep, more):
    options = {"steps": 6, "rel_step": Budget("1/4"), "keep": keep, "random_start": False, **more}
    whole = attack("pgd", Exact(), dyadic, 2**-4, rows=8, **options)
    fooled = Classifier(Exact(), batch_size=8).decisions(whole.x) != dyadic.labels
    assert 3 <= int(fooled.sum()) <= N - 3  # some leave early and some do not
    order = np.random.default_rng(0).permutation(N).tolist()
    for rows in (1, 3, 7, 16):
        for part in rows_in(order):
            one = attack("pgd", Exact(), dyadic.select(part), 2**-4, rows=rows, **options)
            assert torch.equal(one.x, whole.x[part])
            assert one.notes.keys() == whole.notes.keys()
            assert all(torch.equal(one.notes[name], whole.notes[name][part]) for name in whole.notes)


@pytest.mark.parametrize("options", [
    {"norm": "linf", "keep": "best"},
    {"norm": "l2", "keep": "best", "restarts": 3},
    {"norm": "l2", "keep": "best", "random_start": False},
    {"norm": "linf", "keep": "last", "restarts": 2},
    {"norm": "l2", "keep": "last"},
    {"norm": "l1", "keep": "best"},
    {"norm": "l1", "keep": "last", "sparsity": Budget("0.9")},
    {"norm": "l1", "keep": "best", "random_start": False, "target": "random"},
    {"norm": "linf", "keep": "best", "restarts": 2, "target": "random"},
    {"norm": "l2", "keep": "last", "target": "least-likely", "objective": "dlr"},
    {"name": "pgd-dense", "norm": "l1", "restarts": 2},
], ids=str)  # fmt: skip
def test_neighbours_and_order_change_nothing_in_passes_of_one_shape(attack, conv_net, uniform, batch_of, options):
    net, x = conv_net(), uniform(2, N, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    name, options = options.get("name", "pgd"), {key: value for key, value in options.items() if key != "name"}
    eps = {"linf": 0.02, "l2": 0.25, "l1": 0.5}[options["norm"]]
    eps *= 2 if "target" in options else 1
    whole = attack(name, net, batch, eps, **options)
    fooled = Classifier(net, batch_size=7).decisions(whole.x) != batch.labels
    assert 2 <= int(fooled.sum()) <= N - 2
    order = np.random.default_rng(0).permutation(N).tolist()
    for part in rows_in(order):
        one = attack(name, net, batch.select(part), eps, **options)
        assert torch.equal(one.x, whole.x[part])
        assert all(torch.equal(one.notes[note], whole.notes[note][part]) for note in whole.notes)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")  # torch then sums a single long row in another order
def test_lengths_are_the_same_bits_whatever_the_other_rows(uniform):
    x = uniform(4, 9, 3, 120, 120) - 0.5
    for norm, order in (("l2", 2), ("l1", 1)):
        whole = length(x, norm)
        torch.testing.assert_close(whole.double(), torch.linalg.vector_norm(x.double().flatten(1), order, dim=1))
        assert torch.equal(whole, torch.cat([length(x[row : row + 1], norm) for row in range(9)]))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_steps_are_the_same_bits_whatever_the_other_rows(uniform, norm):
    origin, gradient = uniform(4, 9, 3, 40, 40), uniform(5, 9, 3, 40, 40) - 0.5
    x = (origin + 0.1 * (uniform(6, 9, 3, 40, 40) - 0.5)).clamp(0, 1)

    def stepped(rows):
        way = sparse_step(x[rows], gradient[rows], 1.0, 50) if norm == "l1" else direction(gradient[rows], norm)
        return project(x[rows] + way, origin[rows], 1.0, norm)

    whole = stepped(slice(None))
    for rows in (slice(0, 1), slice(1, 4), slice(4, 9)):
        assert torch.equal(stepped(rows), whole[rows])


@pytest.mark.parametrize("random_start", [True, False])
def test_who_leaves_early_is_fooled_in_any_pass(attack, digits, batch_of, random_start):
    net, x, labels = digits
    passes, fooled = {}, {}
    for keep in ("best", "last"):
        model = Classifier(net, batch_size=32)
        found = attack("pgd", model, batch_of(x, labels), 0.2, keep=keep, steps=20, random_start=random_start)
        passes[keep] = model.passes["backward"]
        again = Classifier(net, batch_size=9).logits(found.x)
        fooled[keep] = again.argmax(1) != labels
        assert not (clearly_fooled(Classifier(net, batch_size=32).logits(found.x), labels) & ~fooled[keep]).any()
    assert passes["last"] == 20 * 15
    assert passes["best"] < 0.6 * passes["last"]
    assert fooled["best"].sum() > 100
    assert (fooled["best"] | ~fooled["last"]).all()


def test_no_pass_is_made_for_examples_that_are_done(attack, linear, batch_of):
    batch = batch_of(np.full((6, 1, 2, 2), 0.5, np.float32), [0] * 6)
    model = Classifier(linear(np.ones(4, np.float32)), batch_size=3)  # score 2 against 0: fooled at the start
    result = attack("pgd", model, batch, 0.1, restarts=5, random_start=True)
    assert dict(model.passes) == {"forward": 2, "backward": 2}
    assert not result.notes["zero_gradients"].any()
    model = Classifier(linear(np.ones(4, np.float32), 2.2), batch_size=3)  # 2 against 2.2: one step of 0.1 is enough
    attack("pgd", model, batch, 0.1, restarts=5, random_start=True, steps=1)
    assert dict(model.passes) == {"forward": 4, "backward": 2}


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_first_of_five_restarts_is_the_only_one_of_one(attack, conv_net, uniform, batch_of, keep, norm):
    net, x = conv_net(), uniform(2, N, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    eps = {"linf": 0.02, "l2": 0.25, "l1": 0.5}[norm]
    starts, leads = {}, {}
    for restarts in (1, 5):
        seen = []
        model = Classifier(net, batch_size=N)
        hook = net.register_forward_pre_hook(lambda net, inputs, seen=seen: seen.append(inputs[0].detach().clone()))
        result = attack("pgd", model, batch, eps, norm=norm, keep=keep, restarts=restarts, steps=4)
        hook.remove()
        starts[restarts] = seen
        leads[restarts] = lead(model.logits(result.x), batch.labels)
    assert torch.equal(starts[1][0], starts[5][0])
    assert not torch.equal(starts[5][0], starts[5][5])  # 4 steps and a final pass later: the second start
    assert (leads[5] >= leads[1] - 1e-5).all()
    assert (leads[5] > leads[1] + 1e-5).any()


def test_the_last_of_several_restarts_is_chosen_by_who_fools(attack, digits, batch_of):
    net, x, labels = digits
    batch = batch_of(x, labels)
    several = attack("pgd", net, batch, 0.06, rows=64, keep="last", restarts=4, steps=3)
    once = attack("pgd", net, batch, 0.06, rows=64, keep="last", steps=3)
    fooled = [Classifier(net, batch_size=64).decisions(found.x) != labels for found in (once, several)]
    assert not (fooled[0] & ~fooled[1]).any()


def test_budgets_share_the_gradient_at_the_clean_point(attack, conv_net, uniform, batch_of):
    batch = batch_of(uniform(2, 10, 3, 8, 8), np.arange(10) % 5)
    model = Classifier(conv_net(), batch_size=4)  # three passes for ten rows
    model.grad_mode_exact = True
    for eps in (0.01, 0.02, 0.03, 0.04, 0.05):
        attack("fgsm", model, batch, eps)
    batch.logits(model)
    assert dict(model.passes) == {"forward": 3, "backward": 3}
    attack("fgsm", model, batch, 0.5, norm="l2")
    attack("pgd", model, batch, 0.02, keep="last", steps=1, random_start=False)
    assert dict(model.passes) == {"forward": 3, "backward": 3}
    attack("fgsm", model, batch.select(torch.tensor([2, 3])), 0.02)
    assert dict(model.passes) == {"forward": 3, "backward": 3}


@pytest.mark.parametrize("options", [
    {"keep": "last"}, {"keep": "last", "random_start": False}, {"keep": "last", "restarts": 3},
    {"keep": "best"}, {"keep": "best", "random_start": False}, {"keep": "best", "restarts": 3},
], ids=str)  # fmt: skip
def test_the_declared_cost_is_what_is_spent_when_nobody_leaves(attack, linear, batch_of, options):
    from robharness_attacks import robharness_attacks

    pgd = {spec.name: spec for spec in robharness_attacks()}["pgd"]
    cost = pgd.cost(pgd.params(steps=4, **options))
    batch = batch_of(np.full((2, 1, 2, 2), 0.5, np.float32), [0, 0])
    model = Classifier(linear(np.ones(4, np.float32), 100.0), batch_size=2)
    attack("pgd", model, batch, 0.1, steps=4, **options)
    gradients = cost.gradients + cost.shared_gradients
    assert model.passes == {"backward": gradients, "forward": gradients + cost.forwards}


@pytest.mark.parametrize(("name", "norm"), [
    ("fgsm", "linf"), ("fgsm", "l2"), ("pgd", "linf"), ("pgd", "l2"), ("pgd", "l1"), ("pgd-dense", "l1"),
])  # fmt: skip
@pytest.mark.parametrize("target", ["none", "random"])
def test_clips_are_attacked_as_their_frames_laid_side_by_side(attack, linear, uniform, batch_of, name, norm, target):
    """Lengths span channels, frames and pixels of a clip; two classes are enough."""
    clips = uniform(6, 5, 3, 4, 2, 6)
    weights = np.random.default_rng(1).normal(size=3 * 4 * 2 * 6).astype(np.float32)
    net, eps = linear(weights, float(weights.clip(0).sum())), {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm]
    options = {"norm": norm, "target": target}
    as_clips = attack(name, net, batch_of(clips, [0, 1, 0, 1, 0]), eps, **options)
    as_pictures = attack(name, net, batch_of(clips.reshape(5, 3, 8, 6), [0, 1, 0, 1, 0]), eps, **options)
    assert (as_clips.x != clips).flatten(1).any(1).all()
    assert torch.equal(as_clips.x.reshape(5, 3, 8, 6), as_pictures.x)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_images_in_channels_last_stay_so(attack, conv_net, uniform, batch_of, keep, norm):
    net, x = conv_net(), uniform(2, 9, 3, 8, 8)
    batch = batch_of(x.to(memory_format=torch.channels_last), [0] * 9)
    result = attack("pgd", net, batch, 0.1, norm=norm, keep=keep)
    assert result.x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result.x, attack("pgd", net, batch_of(x, [0] * 9), 0.1, norm=norm, keep=keep).x)


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "norm"), [("fgsm", "linf"), ("fgsm", "l2"), ("pgd", "linf"), ("pgd", "l1")])
def test_targets_are_what_was_asked_for(attack, conv_net, uniform, batch_of, name, norm):
    net, x = conv_net(), uniform(2, 200, 3, 8, 8)
    labels = torch.arange(200) % 5
    logits = Classifier(net, batch_size=8).logits(x)
    wrong = logits.scatter(1, labels[:, None], torch.inf)
    targets = {}
    for target in (3, "least-likely", "random"):
        result = attack(name, net, batch_of(x, labels), 0.01, norm=norm, target=target)
        targets[target] = result.notes["target"]
        stays = targets[target] < 0
        assert torch.equal(result.x[stays], x[stays])
        assert (result.x[~stays] != x[~stays]).flatten(1).any(1).all()
    assert torch.equal(targets[3], torch.where(labels == 3, -1, 3))
    assert torch.equal(targets["least-likely"], wrong.argmin(1))
    assert (targets["random"] != labels).all()
    assert (torch.bincount((targets["random"] - labels) % 5, minlength=5)[1:] > 30).all()
    again = attack(name, net, batch_of(x, labels), 0.02, norm=norm, target="random").notes["target"]
    assert torch.equal(again, targets["random"])


@pytest.mark.parametrize("objective", ["excess", "cross-entropy", "margin", "dlr"])
def test_the_best_iterate_is_where_the_target_leads_by_most(attack, digits, batch_of, objective):
    net, x, labels = digits
    options = {"steps": 10, "target": "random", "objective": objective}
    leads, passes = {}, {}
    for keep in ("best", "last"):
        model = Classifier(net, batch_size=32)
        result = attack("pgd", model, batch_of(x, labels), 0.3, keep=keep, **options)
        passes[keep] = model.passes["backward"]
        leads[keep] = target_lead(Classifier(net, batch_size=32).logits(result.x), result.notes["target"])
    reached = {keep: lead > 0 for keep, lead in leads.items()}
    assert 0.3 < float(reached["last"].float().mean()) < 1
    assert not (reached["last"] & ~reached["best"]).any()
    assert (leads["best"] >= leads["last"] - 1e-5)[~reached["best"]].all()
    assert passes["best"] < 0.9 * passes["last"]


def test_targets_of_two_classes_are_the_other_one(attack, linear, batch_of):
    batch = batch_of(np.full((4, 1, 2, 2), 0.5, np.float32), [0, 1, 0, 1])
    for target in ("least-likely", "random"):
        result = attack("pgd", linear(np.ones(4, np.float32), 2.0), batch, 0.1, target=target)
        assert result.notes["target"].tolist() == [1, 0, 1, 0]
        assert ((result.x - batch.x).mean((1, 2, 3)).sign() == torch.tensor([1, -1, 1, -1])).all()


def test_where_no_example_wants_the_target_nothing_is_done(attack, linear, batch_of):
    batch = batch_of(np.full((4, 1, 2, 2), 0.5, np.float32), [1] * 4)
    for name in ("fgsm", "pgd"):
        result = attack(name, linear(np.ones(4, np.float32)), batch, 0.1, target=1)
        assert torch.equal(result.x, batch.x)
        assert result.notes["target"].tolist() == [-1] * 4


def test_a_class_beyond_the_last_is_refused(attack, linear, batch_of):
    batch = batch_of(np.full((4, 1, 2, 2), 0.5, np.float32), [1] * 4)
    with pytest.raises(ValueError, match="target 2 is not one of the model's 2 classes, 0 to 1"):
        attack("pgd", linear(np.ones(4, np.float32)), batch, 0.1, target=2)


def test_budgets_share_the_gradient_toward_a_target_too(attack, conv_net, uniform, batch_of):
    batch = batch_of(uniform(2, 10, 3, 8, 8), np.arange(10) % 5)
    model = Classifier(conv_net(), batch_size=4)
    for eps in (0.01, 0.02, 0.03):
        attack("fgsm", model, batch, eps, target="least-likely")
        attack("fgsm", model, batch, eps, target=1)
    assert dict(model.passes) == {"forward": 9, "backward": 6}  # three passes each; the clean logits are needed, too


# --- lower precision --------------------------------------------------------------------------------------------------


class Rough(torch.nn.Module):
    """The true class wins by a little, but not in bfloat16, where half the pixels lose what they have."""

    def forward(self, x):
        score = x.flatten(1).sum(1)
        fooled = 1.0 if torch.is_autocast_enabled("cpu") else -1.0
        return torch.stack([0 * score, score - score.detach() + fooled], 1)


def test_who_is_fooled_in_a_rough_pass_alone_goes_on(attack, batch_of):
    batch = batch_of(np.full((4, 1, 2, 2), 0.5, np.float32), [0] * 4)
    model = Classifier(Rough(), batch_size=4, gradient_dtype=torch.bfloat16)
    result = attack("pgd", model, batch, 0.1, steps=5, random_start=False)
    assert dict(model.passes) == {"forward": 11, "backward": 5}  # gradients, those passes again, and the last iterate
    assert torch.equal(result.x, batch.x)  # no iterate is better than another
