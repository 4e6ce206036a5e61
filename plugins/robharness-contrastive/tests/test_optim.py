"""Learning rates against SupContrast's two functions, and optimisers against torch and the formula of LARS."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robharness_contrastive import optim
from robharness_contrastive.params import Contrastive


def supcontrast(epoch, batch, of_batches, lr=0.5, epochs=1000, decay=0.1, warm=10, warm_from=0.01):
    """util.py: adjust_learning_rate, and warmup_learning_rate in the first epochs; epochs from 1, batches from 0."""
    least = lr * decay**3
    if epoch <= warm:
        warm_to = least + (lr - least) * (1 + math.cos(math.pi * warm / epochs)) / 2
        return warm_from + (batch + (epoch - 1) * of_batches) / (warm * of_batches) * (warm_to - warm_from)
    return least + (lr - least) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def test_the_rate_is_supcontrasts_by_steps():
    """SupContrast's rate is constant in an epoch, ours falls by step: they are equal at the end of an epoch."""
    recipe = Contrastive(epochs=1000, lr=0.5, warmup=10)
    for epoch in range(1, 11):
        for batch in (0, 3, 6):
            at = (epoch - 1) * 7 + batch
            assert optim.rate(recipe, at, 7) == pytest.approx(supcontrast(epoch, batch, 7, warm_from=0.005), rel=1e-9)
    for epoch in range(11, 1001):
        assert optim.rate(recipe, 7 * epoch, 7) == pytest.approx(supcontrast(epoch, 0, 7), rel=1e-9)


def test_without_warm_up_it_starts_at_the_peak():
    recipe = Contrastive(epochs=10, lr=0.3, warmup=0)
    assert optim.rate(recipe, 0, 5) == pytest.approx(0.3)
    rates = [optim.rate(recipe, step, 5) for step in range(51)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(0.3e-3)


@pytest.mark.parametrize("name", ["lars", "lars-all"])
def test_lars_scales_by_the_norms_of_weight_and_gradient(name):
    """Only "lars-all" scales biases. Source: You et al. 2017, with weight decay inside the norm."""
    torch_net = nn.Linear(5, 3)
    before = [value.detach().clone() for value in torch_net.parameters()]
    recipe = Contrastive(optimizer=name, lr=0.7, momentum=0.0, weight_decay=0.01)
    optimizer = optim.optimizer(recipe, torch_net)
    torch_net(torch.arange(10.0).view(2, 5)).square().sum().backward()
    optimizer.step()
    for w, parameter in zip(before, torch_net.parameters(), strict=True):
        g = parameter.grad
        local = 0.001 * w.norm() / (g.norm() + 0.01 * w.norm() + 1e-8)
        is_scaled = w.ndim > 1 or name == "lars-all"
        moved = w - 0.7 * local * (g + 0.01 * w) if is_scaled else w - 0.7 * g
        torch.testing.assert_close(parameter.detach(), moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_other_optimisers_are_torchs(name, kind):
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    found = optim.optimizer(Contrastive(optimizer=name), net)
    assert type(found) is kind and found.param_groups[0]["weight_decay"] == 1e-4
    assert [len(group["params"]) for group in found.param_groups] == [1]
