"""The classifier as a torch.nn.Module: values, gradients and counted passes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from robharness import Classifier
from robharness_bridges.attacks import clamp_rounding
from robharness_bridges.network import Network


@pytest.fixture
def case(random_net, uniform):
    net, x = random_net(3, 6, 6), uniform(0, 11, 3, 6, 6)
    model = Classifier(net, batch_size=4)
    return net, model, Network(model, x), x


def test_values_and_gradients_are_the_networks(case):
    net, _, bridge, x = case
    labels = torch.arange(11) % 5

    def loss(logits):
        return (cross_entropy(logits, labels, reduction="none") * torch.arange(1, 12)).sum() + (
            logits[:, 1] ** 3
        ).mean()

    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(bridge(ours), net(theirs))
    loss(bridge(ours)).backward()
    loss(net(theirs)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert float(ours.grad.abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["one", "strided", "double", "outside", "many"])
def test_inputs_of_any_size_stride_and_type(case, kind):
    net, _, bridge, x = case
    inputs = {
        "one": x[:1],
        "strided": x.transpose(2, 3)[::2],
        "double": x.double(),
        "outside": x * 1.2 - 0.1,
        "many": torch.cat([x, x.flip(0), x]),
    }[kind]
    leaf = inputs.clone().requires_grad_()
    logits = bridge(leaf)
    torch.testing.assert_close(logits, net(inputs.float()))
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), leaf)
    other = inputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(other.float())[:, 2].sum(), other)
    torch.testing.assert_close(gradient, expected)


def test_one_forward_pass_serves_several_backward_passes(case):
    net, _, bridge, x = case
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits, expected = bridge(leaf), net(other)
    for index in range(5):
        (ours,) = torch.autograd.grad(logits[:, index].sum(), leaf, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected[:, index].sum(), other, retain_graph=True)
        torch.testing.assert_close(ours, theirs)


def test_a_gradient_of_a_gradient_is_refused(case):
    _, _, bridge, x = case
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((bridge(leaf) ** 2).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_passes_are_counted(case):
    _, model, bridge, x = case
    bridge(x)
    assert model.passes == {"forward": 3}
    bridge(x.clone().requires_grad_()).sum().backward()
    assert model.passes == {"forward": 9, "backward": 3}, "a gradient runs its forward pass twice"


def test_the_parameters_of_the_network_are_hidden(case):
    net, _, bridge, x = case
    assert not {id(parameter) for parameter in bridge.parameters()} & {id(parameter) for parameter in net.parameters()}
    assert next(bridge.parameters()).device == x.device
    assert not bridge.training
    bridge.train()
    assert not net.training


def test_only_rounding_errors_are_clamped():
    like = torch.tensor([[0.0, 1.0, 1.0, 0.5, 0.5]])
    x = torch.tensor([[-6e-8, 1 + 2e-7, 1.001, torch.nan, 0.25]], dtype=torch.float64, requires_grad=True)
    expected = torch.tensor([[0.0, 1.0, 1.001, torch.nan, 0.25]])
    torch.testing.assert_close(clamp_rounding(x, like), expected, equal_nan=True, rtol=0, atol=0)
    assert not clamp_rounding(x, like).requires_grad
