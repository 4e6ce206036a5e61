"""Options of PGD for transfer: momentum, input diversity and smoothed gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchattacks
from scipy import stats
from torch.nn import functional

from robharness import Budget, Classifier, ExampleRNG, discover
from robharness.testing import parametrize_with_checks
from robharness_attacks import PGDParams, robharness_attacks
from robharness_attacks.transfer import draw_transform, smoothed

EPS = 0.1
PLAIN = {"objective": "cross-entropy", "abs_step": Budget("0.015"), "keep": "last", "random_start": False}
ALL = {"momentum": Budget(1), "diversity": Budget("0.7"), "translation_kernel": 3}
SPECS = {spec.name: spec for spec in robharness_attacks()}


@pytest.fixture(scope="module")
def case(conv_net, uniform, batch_of):
    """A network and a batch in float64; the classes are those that the network sees, or others."""
    net = conv_net().double().eval().requires_grad_(False)
    x = uniform(3, 40, 3, 8, 8).double()
    labels = net(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    return net, batch_of(x, labels)


def streams(count, seed=0):
    return ExampleRNG(seed, "transfer", [f"example-{row}" for row in range(count)])


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize("decay", ["1", "0.5"])
def test_momentum_is_torchattacks_at_every_step(attack, case, decay, steps):
    net, batch = case
    peer = torchattacks.MIFGSM(net, eps=EPS, alpha=0.015, steps=steps, decay=float(decay))(batch.x, batch.labels)
    for objective in ("cross-entropy", "excess"):  # each gradient is scaled to length 1
        options = {**PLAIN, "objective": objective, "steps": steps, "momentum": Budget(decay)}
        result = attack("pgd", net, batch, EPS, **options)
        torch.testing.assert_close(result.x, peer, atol=1e-6, rtol=0)
    plain = attack("pgd", net, batch, EPS, **PLAIN, steps=steps).x
    assert (float((plain - peer).abs().max()) > 1e-3) == (steps > 1)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize(("kernel", "decay"), [(3, "0"), (5, "1"), (15, "1")])
def test_smoothed_steps_are_torchattacks(attack, case, kernel, decay, steps):
    net, batch = case
    peer = torchattacks.TIFGSM(net, EPS, 0.015, steps, float(decay), len_kernel=kernel, diversity_prob=0.0)
    peer.stacked_kernel = peer.stacked_kernel.double()
    options = {**PLAIN, "steps": steps, "momentum": Budget(decay), "translation_kernel": kernel}
    result = attack("pgd", net, batch, EPS, **options)
    apart = (result.x - peer(batch.x, batch.labels)).abs()
    assert float((apart < 1e-6).double().mean()) > 0.999  # torchattacks' kernel is in float32
    assert float((attack("pgd", net, batch, EPS, **PLAIN, steps=steps).x - result.x).abs().max()) > 1e-3


class Valley(torch.nn.Module):
    """Two classes; the wrong one's logit is |x - 0.25|, lowest between two steps of 0.1."""

    def forward(self, x):
        score = (x.flatten(1)[:, 0] - 0.25).abs()
        return torch.stack([score * 0, -score], 1)


@pytest.mark.parametrize(("decay", "path"), [
    ("0", [0.1, 0.2, 0.3, 0.2, 0.3, 0.2, 0.3]),
    ("1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.4]),  # sums 1, 2, 3, 2, 1, 0, -1
    ("0.5", [0.1, 0.2, 0.3, 0.2, 0.3, 0.2]),  # 1, 3/2, 7/4, -1/8, 15/16, -17/32
])  # fmt: skip
def test_the_path_of_accumulated_gradients(attack, batch_of, decay, path):
    options = {**PLAIN, "abs_step": Budget("0.1"), "momentum": Budget(decay)}
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    found = [float(attack("pgd", Valley(), batch_of(x, [0]), 0.9, steps=k + 1, **options).x) for k in range(len(path))]
    assert found == pytest.approx(path)


def test_smoothing_is_a_convolution_per_frame(uniform):
    gradient = uniform(0, 3, 2, 4, 9, 7).double() - 0.5  # clips
    axis = torch.distributions.Normal(0, 1).log_prob(torch.linspace(-3, 3, 5).double()).exp()
    kernel = torch.outer(axis, axis)
    frames = functional.conv2d(gradient.reshape(-1, 1, 9, 7), (kernel / kernel.sum())[None, None], padding=2)
    torch.testing.assert_close(smoothed(gradient, 5), frames.view_as(gradient))
    assert smoothed(gradient, 1) is gradient


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 20), (3, 4, 12, 10), (1, 1, 1)])
def test_a_transform_is_interpolation_and_padding_and_its_adjoint_the_gradient(uniform, shape):
    x, upstream = uniform(0, 60, *shape).double(), uniform(1, 60, *shape).double() - 0.5
    transform = draw_transform(streams(60), "draw", x, 0.8, 0.5)
    changed = 0
    moved = transform(x.requires_grad_(True))
    for row, image in enumerate(x.detach()):
        filled = [(axis[row] != 0).any(1).nonzero().flatten() for axis in (transform.rows, transform.columns)]
        if torch.equal(moved[row], image):
            continue
        changed += 1
        (top, bottom), (left, right) = [(int(part.min()), int(part.max()) + 1) for part in filled]
        frames = image.reshape(-1, 1, *shape[-2:])
        small = functional.interpolate(frames, (bottom - top, right - left), mode="bilinear", align_corners=False)
        padded = functional.pad(small, (left, shape[-1] - right, top, shape[-2] - bottom))
        torch.testing.assert_close(moved[row], padded.view(shape), atol=1e-5, rtol=0)  # weights are float32
    (gradient,) = torch.autograd.grad((moved * upstream).sum(), x)
    torch.testing.assert_close(transform.adjoint(upstream), gradient)
    assert (36 < changed < 57) == (shape[-1] > 1)  # 48 expected; by chance outside once in 2,000


def test_sizes_and_places_are_uniform(uniform):
    side, count = 10, 4000
    x = torch.zeros(count, 1, side, side)
    transform = draw_transform(streams(count), "draw", x, 1.0, 0.7)
    for matrices in (transform.rows, transform.columns):
        inside = (matrices != 0).any(2).long()
        sizes, places = inside.sum(1), inside.argmax(1)
        for size in (7, 8, 9):
            share = float((sizes == size).float().mean())
            assert share == pytest.approx(1 / 3, abs=4 * (2 / 9 / count) ** 0.5)
            at = places[sizes == size].bincount(minlength=side).float() / int((sizes == size).sum())
            room = side - size + 1
            assert at[:room] == pytest.approx([1 / room] * room, abs=0.06)
            assert float(at[room:].sum()) == 0


def test_gradients_of_transformed_inputs_follow_the_chain_rule(case, attack):
    """One step under l2: the direction is that of autograd through transform and network."""
    net, batch = case
    options = {**PLAIN, "norm": "l2", "steps": 1, "abs_step": Budget("0.01"), "diversity": Budget(1)}
    result = attack("pgd", net, batch, 1.0, **options, diversity_size=Budget("0.5"))
    x = batch.x.clone().requires_grad_(True)
    transform = draw_transform(ExampleRNG(0, "pgd", batch.ids), "diversity 0 0", x, 1.0, 0.5)
    loss = functional.cross_entropy(net(transform(x)), batch.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    step = 0.01 * gradient / torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(result.x, (batch.x + step).clamp(0, 1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 2, 4, 8)])
def test_neighbours_order_and_batch_change_nothing(attack, conv_net, uniform, batch_of, keep, shape):
    net, x = (
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Unflatten(1, (3, 8, 8)), conv_net()),
        uniform(2, 23, *shape),
    )
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    options = {"keep": keep, "steps": 6, **ALL, "rows": 8}
    whole = attack("pgd", net, batch, 0.03, **options)
    order = np.random.default_rng(0).permutation(23)
    for rows in np.split(order, [1, 6]):
        part = attack("pgd", net, batch.select(torch.from_numpy(rows)), 0.03, **options)
        assert torch.equal(part.x, whole.x[rows])
    plain = attack("pgd", net, batch, 0.03, keep=keep, steps=6, rows=8)
    assert not torch.equal(plain.x, whole.x)


@pytest.mark.parametrize(("options", "passes"), [
    ({"diversity": Budget(1)}, (6 + 2, 6)),
    ({"diversity": Budget(1), "restarts": 2}, (12 + 4, 12)),
    ({"diversity": Budget(1), "keep": "last"}, (6, 6)),
    ({"diversity": Budget(1), "random_start": False}, (6 + 2, 6)),
    ({"momentum": Budget(1), "translation_kernel": 3, "random_start": False}, (6 + 2, 6)),
])  # fmt: skip
def test_passes_are_those_of_the_cost(conv_net, uniform, batch_of, options, passes):
    """20 examples that no step fools, in two passes of 10."""
    net = conv_net()
    x = uniform(4, 20, 3, 8, 8)
    params = PGDParams(steps=3, **options)
    model = Classifier(net, batch_size=10)
    batch = batch_of(x, model.decisions(x))
    model.passes.clear()
    SPECS["pgd"].build(params).perturb(model, batch, 1e-6, ExampleRNG(0, "pgd", batch.ids))
    cost = SPECS["pgd"].cost(params)
    gradients = cost.gradients + cost.shared_gradients
    assert dict(model.passes) == {"forward": 2 * (cost.forwards + gradients), "backward": 2 * gradients}
    compared = 3 * params.restarts if params.diversity and params.keep == "best" else 0
    assert cost.forwards == compared + (params.restarts if params.keep == "best" else 0)


def test_what_is_kept_as_best_fools_the_model_itself(attack, conv_net, uniform, batch_of):
    net, x = conv_net(), uniform(5, 60, 3, 8, 8)
    model = Classifier(net, batch_size=10)
    batch = batch_of(x, model.decisions(x))
    found = attack("pgd", net, batch, 0.05, **ALL, rows=10).x
    last = attack("pgd", net, batch, 0.05, **ALL, rows=10, keep="last").x
    fooled = [int((model.decisions(part) != batch.labels).sum()) for part in (found, last)]
    assert fooled[0] >= fooled[1] > 5


def second_network(mnist):
    """A network of another architecture than the case's, trained for a few seconds; 93 % of its classes are right."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 5, stride=2), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(1728, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10),
    )  # fmt: skip
    draws, order = torch.Generator().manual_seed(1), np.random.default_rng(1)
    for values in net.parameters():
        if values.ndim > 1:
            torch.nn.init.kaiming_uniform_(values, generator=draws)
        else:
            torch.nn.init.zeros_(values)
    images = np.stack([mnist.read(index) for index in range(len(mnist.ids))])
    x, labels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.tensor(mnist.labels)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(5):
        for rows in torch.from_numpy(order.permutation(len(x))).split(100):
            optimizer.zero_grad()
            shifted = x[rows].roll(order.integers(-2, 3, 2).tolist(), (2, 3))
            functional.cross_entropy(net(shifted), labels[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def test_more_examples_transfer(attack, mnist_case, batch_of):
    """A McNemar test on the examples that both networks classify correctly."""
    other = second_network(discover().datasets["samples/mnist-5k"].spec.open(Path(), "train"))
    x, labels = mnist_case.x[:400], mnist_case.labels[:400]
    both = (mnist_case.net(x).argmax(1) == labels) & (other(x).argmax(1) == labels)
    batch = batch_of(x[both], labels[both])
    assert len(batch) > 330
    fooled = {}
    for name, options in {
        "plain": {}, "best": {"keep": "best"}, "momentum": {"momentum": Budget(1)},
        "smooth": {"translation_kernel": 5}, "both": {"momentum": Budget(1), "diversity": Budget("0.5")},
    }.items():  # fmt: skip
        options = {"random_start": False, "keep": "last", "rel_step": Budget("1/10"), "rows": 40, **options}
        fooled[name] = other(attack("pgd", mnist_case.net, batch, 0.15, **options).x).argmax(1) != batch.labels
    for name in ("momentum", "smooth", "both"):
        gained, lost = int((fooled[name] & ~fooled["plain"]).sum()), int((fooled["plain"] & ~fooled[name]).sum())
        assert stats.binomtest(gained, gained + lost, alternative="greater").pvalue < 1e-4, name
    assert int(fooled["best"].sum()) * 2 < int(fooled["plain"].sum())


FEW = {"pgd": {"momentum": 1, "diversity": "0.7", "diversity_size": "0.5", "translation_kernel": 3}}
EXACT = ["*-exact_on_integers", "*-draws_as_declared", "*-costs_what_it_declares"]


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_attacks", only="attacks/pgd", leave_out=["*-reaches_the_optimum", *EXACT], options=FEW
)
def test_contract(check):
    check()


@parametrize_with_checks("robharness_attacks", only=[f"attacks/pgd{rule[1:]}" for rule in EXACT], options=FEW)
def test_exactness(check):
    check()
