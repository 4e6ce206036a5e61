"""The only way through the network: frozen, counted, in one fixed shape."""

import numpy as np
import pytest
import torch
from torch import nn

from robharness.errors import ContractViolation
from robharness.evaluation import batch_sizes, probe
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.normalize import normalized

GENERATOR = torch.Generator().manual_seed(5)


def values(*shape):
    return torch.empty(shape).uniform_(generator=GENERATOR)


class Shapes(nn.Module):
    """Remembers the shapes of its passes."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4))
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return self.inner(x)


def net():
    made = Shapes()
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5, generator=GENERATOR)
    return made


def second(logits, labels):
    return logits.gather(1, labels[:, None])[:, 0]


def test_every_pass_has_the_same_shape_and_is_counted():
    classifier = Classifier(net(), batch_size=4)
    x = values(10, 3, 8, 8)
    logits = classifier.logits(x)
    torch.testing.assert_close(logits, classifier.net.inner(x))
    found = classifier.gradient(x, torch.arange(10) % 4, second)
    assert classifier.net.seen == [(4, 3, 8, 8)] * 6
    assert classifier.passes == {"forward": 6, "backward": 3}
    assert found.gradient.shape == x.shape
    assert found.values.shape == (10,)


def test_the_gradient_is_that_of_plain_autograd():
    classifier, x, labels = Classifier(net(), batch_size=4), values(10, 3, 8, 8), torch.arange(10) % 4
    leaf = x.clone().requires_grad_(True)
    objective = second(classifier.net.inner(leaf), labels)
    (expected,) = torch.autograd.grad(objective.sum(), leaf)
    found = classifier.gradient(x, labels, second)
    torch.testing.assert_close(found.gradient, expected)
    torch.testing.assert_close(found.values, objective.detach())
    assert not x.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in classifier.net.parameters())


def test_rows_of_a_batch_do_not_influence_each_other():
    classifier = Classifier(net(), batch_size=4)
    x, labels = values(12, 3, 8, 8), torch.arange(12) % 4
    rows = torch.tensor([7, 2, 9, 0, 5])
    assert torch.equal(classifier.logits(x)[rows], classifier.logits(x[rows]))
    whole, part = classifier.gradient(x, labels, second), classifier.gradient(x[rows], labels[rows], second)
    assert torch.equal(whole.gradient[rows], part.gradient)
    assert torch.equal(whole.values[rows], part.values)


def test_statistics_of_batch_norm_are_not_updated():
    classifier = Classifier(net().train(), batch_size=4)
    before = {name: value.clone() for name, value in classifier.net.named_buffers()}
    classifier.gradient(values(8, 3, 8, 8), torch.zeros(8, dtype=torch.long), second)
    assert all(torch.equal(value, before[name]) for name, value in classifier.net.named_buffers())


@pytest.mark.parametrize(("access", "allowed"), [("decision", 1), ("scores", 2), ("gradient", 3)])
def test_access_is_enforced(access, allowed):
    view = Classifier(net(), batch_size=4).with_access(access)
    x, labels = values(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    asks = [lambda: view.decisions(x), lambda: view.logits(x), lambda: view.gradient(x, labels, second)]
    for index, ask in enumerate(asks):
        if index < allowed:
            ask()
        else:
            with pytest.raises(ContractViolation, match=f"declares access='{access}'"):
                ask()


def test_passes_of_a_view_are_counted_with_its_classifier():
    classifier = Classifier(net(), batch_size=4)
    classifier.with_access("scores").logits(values(5, 3, 8, 8))
    assert classifier.passes["forward"] == 2


def test_cached_results_are_computed_once_even_for_a_selection_of_rows():
    batch = Batch([str(i) for i in range(6)], values(6, 1), torch.zeros(6, dtype=torch.long))
    calls = []

    def compute(rows):
        return lambda: calls.append(rows) or torch.arange(rows)

    assert torch.equal(batch.cached("a", compute(6)), torch.arange(6))
    part = batch.select(torch.tensor([False, True, True, False, False, True]))
    assert torch.equal(part.cached("a", compute(3)), torch.tensor([1, 2, 5]))
    assert part.ids == ("1", "2", "5")
    assert torch.equal(part.cached("b", compute(3)), torch.arange(3))
    assert torch.equal(batch.cached("b", compute(6)), torch.arange(6))
    assert calls == [6, 3, 6]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 3, 4, 4)])
def test_normalisation_is_along_the_channels(shape):
    """With three frames, an axis counted from the wrong end would normalise along time, and nobody would notice."""
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 4.0]
    x = values(*shape)
    out = normalized(nn.Identity(), mean, std)(x)
    for channel in range(3):
        torch.testing.assert_close(out[:, channel], (x[:, channel] - mean[channel]) / std[channel])
    with pytest.raises(ValueError, match="must hold the 3 channels"):
        normalized(nn.Identity(), mean, std)(values(2, 4, 4, 3))


def test_the_probe_detects_a_network_whose_rows_interact():
    class Mixing(nn.Module):
        def forward(self, x):
            z = x.flatten(1)[:, :3]
            return z + 1e-3 * z.mean(0)

    exact = probe.probe(Classifier(nn.Sequential(nn.Flatten(), nn.Identity()), batch_size=4), (1, 2, 2))
    assert exact == {"rows": True, "gradients": True, "grad_mode": True}
    assert not probe.probe(Classifier(Mixing(), batch_size=4), (1, 2, 2))["rows"]


def test_the_probe_detects_a_network_that_depends_on_the_gradient_mode():
    class Felt(nn.Module):
        def forward(self, x):
            return x.flatten(1) * (1 + 2**-15 if torch.is_grad_enabled() else 1)

    classifier = Classifier(Felt(), batch_size=4)
    found = probe.probe(classifier, (1, 2, 2))
    assert 2e-5 < found.pop("grad_mode_by") < 4e-5
    assert found == {"rows": True, "gradients": True, "grad_mode": False}
    batch = Batch(["a"] * 4, values(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))
    batch.gradient(classifier, second)
    assert torch.equal(batch.logits(classifier), batch.x.flatten(1))


@pytest.mark.parametrize("examples", [1, 3, 4, 20, 50, 1000, 50_000])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 224, 224), (3, 16, 112, 112)])
def test_batch_sizes_are_multiples_of_four_with_little_padding(examples, shape):
    counts = batch_sizes.batch_size_candidates(shape, examples, torch.device("cpu"))
    assert all(
        count % 4 == 0 and count * np.prod(shape) <= max(batch_sizes.CPU_PASS, 4 * np.prod(shape)) for count in counts
    )
    wasted = [-(-examples // count) * count - examples for count in counts]
    assert wasted[0] <= max(3, 0.07 * examples)


def test_video_networks_are_supported():
    net = nn.Sequential(nn.Conv3d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 2 * 6 * 6, 4))
    assert Classifier(net, batch_size=4).logits(values(5, 3, 4, 8, 8)).shape == (5, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_padded_pass_has_the_strides_of_a_full_one(channels):
    """With one channel a tensor is contiguous in both formats at once, and kernels choose by strides."""
    network = nn.Sequential(nn.Conv2d(channels, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 169, 10))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=GENERATOR)
    classifier = Classifier(network, batch_size=4)
    strides = []
    network.register_forward_pre_hook(lambda module, inputs: strides.append(inputs[0].stride()))
    x = values(4, 28, 28, channels).movedim(-1, 1)  # as the reader lays pictures out
    whole = classifier.logits(x)
    for n in (1, 2, 3):
        assert torch.equal(classifier.logits(x[:n]), whole[:n])
        assert torch.equal(classifier.logits(x[:n].clone(memory_format=torch.contiguous_format)), whole[:n])
    assert len(set(strides)) == 1
