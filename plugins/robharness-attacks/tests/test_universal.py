"""A universal perturbation against the closed form on a linear model."""

from __future__ import annotations

import pytest
import torch

from robharness import Batch, Classifier, ExampleRNG
from robharness_attacks.params import UniversalParams
from robharness_attacks.universal import Universal


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_the_best_one_of_a_linear_model(linear, uniform, norm):
    weights, x = uniform(0, 1, 6, 6) - 0.5, 0.4 + 0.2 * uniform(1, 10, 1, 6, 6)
    net = linear(weights, offset=-50.0)  # no perturbation fools it
    batch = Batch([str(row) for row in range(10)], x, torch.ones(10, dtype=torch.int64))
    model = Classifier(net, batch_size=4)
    rng = ExampleRNG(0, "universal", batch.ids)
    fitted = Universal(UniversalParams(norm=norm, steps=5)).fit(model, batch, 0.25, rng)
    best = weights.sign() if norm == "linf" else weights / weights.norm()
    torch.testing.assert_close(fitted.perturbation[0], -0.25 * best)
    other = Batch(["other"], 0.5 * torch.ones(1, 1, 6, 6), torch.ones(1, dtype=torch.int64))
    found = fitted.perturb(model, other, 0.25, rng)
    torch.testing.assert_close(found, other.x - 0.25 * best)
