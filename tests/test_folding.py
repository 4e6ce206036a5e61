"""BatchNorm folded into convolutions: logits stay, and where they would not, or nothing can be told, all stays."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from robharness import Classifier, InputSpec, ModelSpec, api
from robharness.engine.events import CellFinished
from robharness.engine.worker import run_unit
from robharness.evaluation import building, loading
from robharness.evaluation.digest import state_digest
from robharness.evaluation.folding import TOLERANCE, folded
from robharness.report import build
from robharness.store import Store

DRAWS = torch.Generator().manual_seed(7)


def trained(net):
    """As after training: no scale, shift, mean or variance is 1 or 0."""
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if value.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -0.5
            value.data.copy_(torch.empty(value.shape).uniform_(low, 1, generator=DRAWS))
    return net.eval()


def values(*shape):
    return torch.empty(shape).uniform_(generator=DRAWS)


class Residual(nn.Module):
    """A block as ResNet's: two convolutions with norms, a third one on the way around them."""

    def __init__(self):
        super().__init__()
        self.one, self.one_norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two, self.two_norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6, affine=False)
        self.around = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        inner = self.two_norm(self.two(torch.relu(self.one_norm(self.one(x)))))
        return self.head(torch.relu(inner + self.around(x)).mean((2, 3)))


class Head(nn.Sequential):
    """The layers, the mean over space, and a few logits."""

    def forward(self, x):
        return super().forward(x).flatten(2).mean(2)


class Two(nn.Module):
    """The convolution's output is taken by two."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        seen = self.convolution(x)
        return (self.norm(seen) + 5 * seen).mean((2, 3))


class Again(nn.Module):
    """One norm behind two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.two(torch.relu(self.norm(self.one(x))))).mean((2, 3))


class Stubborn(Residual):
    def __deepcopy__(self, memo):
        raise TypeError("cannot copy a lock")


PICTURE, CLIP = (3, 8, 8), (3, 4, 8, 8)
NETS = {
    "residual": (Residual, PICTURE, 3),
    "clips": (lambda: Head(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 5, 1)), CLIP, 1),
    "padded": (lambda: Head(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)), PICTURE, 1),
    "two convolutions": (lambda: Head(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), PICTURE, 1),
    "after a relu": (lambda: Head(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), PICTURE, 0),
    "after a relu in place": (lambda: Head(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.BatchNorm2d(4)), PICTURE, 0),
    "before it": (lambda: Head(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), PICTURE, 0),
    "no statistics": (lambda: Head(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), PICTURE, 0),
    "two consumers": (Two, PICTURE, 0),
    "used twice": (Again, PICTURE, 0),
    "transposed": (lambda: Head(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), PICTURE, 0),
}


@pytest.mark.parametrize("name", NETS)
def test_folding_keeps_logits_and_leaves_the_network_unchanged(name):
    build, shape, norms = NETS[name]
    net = trained(build())
    before = copy.deepcopy(net.state_dict())
    found, count = folded(net, values(2, *shape))
    assert count == norms
    left = [module for module in found.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    held = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(held) - len(left) == norms and (found is net) == (norms == 0)
    x = values(6, *shape)
    logits = net(x)
    assert (found(x) - logits).abs().max() <= TOLERANCE * (logits.max() - logits.min())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_in_place_changes_between_the_layers_prevent_folding():
    """Though for these inputs a ReLU before or behind the norm does nothing, and logits would stay."""
    net = trained(Head(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.BatchNorm2d(4)))
    net[0].weight.data.abs_(), net[0].bias.data.abs_(), net[2].weight.data.abs_(), net[2].bias.data.add_(9)
    assert folded(net, values(2, *PICTURE)) == (net, 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("convolution", "norm"), [
    (nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d),
])  # fmt: skip
def test_folded_weights_are_those_of_the_formula_in_float64(convolution, norm, affine, bias):
    """Bit for bit: w s and (b - mean) s + shift with s = scale / sqrt(variance + eps)."""
    net = trained(Head(convolution(3, 64, 3, bias=bias), norm(64, affine=affine)))
    axes = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[convolution]
    found, count = folded(net, values(2, 3, *[6] * axes))
    assert count == 1
    first, second = net
    scale, shift = (second.weight.double(), second.bias.double()) if affine else (1, 0)
    scale = scale * (second.running_var.double() + second.eps).rsqrt()
    start = first.bias.double() if bias else 0
    weight = first.weight.double() * scale.view(-1, *[1] * (axes + 1))
    torch.testing.assert_close(found[0].weight, weight.float(), rtol=0, atol=0, check_stride=False)
    shifted = (start - second.running_mean.double()) * scale + shift
    torch.testing.assert_close(found[0].bias, shifted.float(), rtol=0, atol=0)


def test_folding_keeps_gradients():
    net = trained(Residual())
    found, _ = folded(net, values(2, *PICTURE))
    x, gradients = values(4, *PICTURE), []
    for one in (net, found):
        leaf = x.clone().requires_grad_(True)
        one(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("features", ["one", "one_norm", "two", "around.0", "around"])
def test_folding_keeps_the_declared_features(features):
    net = trained(Residual())
    found, count = folded(net, values(2, *PICTURE), features)
    assert count == (2 if features in ("one", "two", "around.0") else 3)
    x, seen = values(4, *PICTURE), []
    for one in (net, found):
        hook = one.get_submodule(features).register_forward_hook(lambda module, given, output: seen.append(output))
        one(x)
        hook.remove()
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build", [Stubborn, lambda: Head(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))])
def test_a_network_that_cannot_be_folded_is_left_as_it_is(build):
    net = trained(build())
    spec = ModelSpec(name="net", summary="", input=InputSpec(shape=PICTURE), labels="toys", build=build)
    assert loading._folded(net, spec, torch.device("cpu")) == (net, 0)


def test_outcomes_record_folding_and_the_state_of_the_unfolded_network(suite, run):
    results = run(suite(models=[{"model": "teams/net"}, {"model": "toys/net"}], attacks=[]))
    [real], [toy] = (result.provenance for result in results.cells)
    assert (real["folded"], toy["folded"]) == (1, 0)
    spec = results.plan.models[0].entry.spec
    net = spec.build(spec.params(), None)
    assert real["model_state"] == state_digest(net)


def test_a_cell_of_folded_and_unfolded_parts_is_reported(suite, run, teams, tmp_path):
    """A store may have parts of a network that was not folded, e.g. on another device."""
    source = suite(models=[{"model": "teams/net", "label": "Net"}], attacks=[])
    plan = api.plan(source, store=tmp_path / "store", plugins=teams)
    folded_model = loading.load_model(plan, plan.models[0])
    unfolded = Classifier(building.build_network(plan.models[0]), batch_size=folded_model.classifier.batch_size)
    model = replace(folded_model, classifier=unfolded, provenance=folded_model.provenance | {"folded": 0})
    store, span = Store(tmp_path / "store"), (0, plan.n // 2)
    store.new_run()
    events = list(run_unit(model, plan.cells, span, store, model.reader.images(*span)))
    model.reader.threads.close()
    assert not any(event.failure for event in events if isinstance(event, CellFinished))
    [warning] = build(run(source)).warnings
    assert warning.startswith(
        "Net: parts of one cell were computed in different environments (folded 0 and 1), in 1 cells"
    )
