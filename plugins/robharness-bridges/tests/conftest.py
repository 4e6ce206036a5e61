from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from robharness import Batch, Classifier, ExampleRNG
from robharness_bridges import robharness_attacks

ADV_LIB = Path(sys.prefix) / "adv-lib"
assert ADV_LIB.is_dir(), "adv-lib has a folder of its own. Try: make test"
sys.path.append(str(ADV_LIB))

SPECS = {spec.name: spec for spec in robharness_attacks()}


@pytest.fixture(scope="session")
def digits():
    """A trained network, and test images (N, 1, 8, 8) like those of samples/digits, and their labels."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    x, labels = load_digits(return_X_y=True)
    x = (np.rint(x * (255 / 16)) / 255).astype(np.float32)
    training = np.arange(len(x)) % 4 > 0
    trained = MLPClassifier((64,), random_state=0, max_iter=200, tol=1e-3).fit(x[training], labels[training])
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        for layer, weights, bias in zip((net[1], net[3]), trained.coefs_, trained.intercepts_, strict=True):
            layer.weight.copy_(torch.from_numpy(weights.T))
            layer.bias.copy_(torch.from_numpy(bias))
    return net.eval(), torch.from_numpy(x[~training]).view(-1, 1, 8, 8), torch.from_numpy(labels[~training])


@pytest.fixture(scope="session")
def random_net():
    """A function that builds a network with fixed random weights for inputs of a given shape."""

    def build(*shape, classes=5, seed=0):
        draws = np.random.default_rng(seed)
        sizes = (int(np.prod(shape)), 40, classes)
        layers = [torch.nn.Flatten()]
        for before, after in pairwise(sizes):
            layer = torch.nn.Linear(before, after)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(draws.normal(size=(after, before)) / np.sqrt(before)))
                layer.bias.copy_(-layer.weight.sum(1) / 2)
            layers += [layer, torch.nn.Tanh()]
        return torch.nn.Sequential(*layers[:-1]).eval()

    return build


@pytest.fixture(scope="session")
def uniform():
    """A function that draws float32 numbers in [0, 1) from a given seed."""

    def draw(seed, *shape):
        return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))

    return draw


@pytest.fixture(scope="session")
def attack():
    """A function that runs an attack like the core, with passes of `rows` rows, and checks the referee's limits."""

    def run(family, net, x, labels, eps, *, rows=16, **params):
        spec = SPECS[family]
        options = spec.params(**params)
        batch = Batch([f"example-{row}" for row in range(len(x))], x, labels)
        before = x.clone()
        model = Classifier(net, batch_size=rows).with_access(spec.access)
        result = spec.build(options).perturb(model, batch, eps, ExampleRNG(0, family, batch.ids))
        assert torch.equal(batch.x, before)
        assert (result.shape, result.dtype, result.requires_grad) == (x.shape, x.dtype, False)
        assert 0 <= float(result.min()) <= float(result.max()) <= 1  # fails for NaN
        norm = spec.threat(options).norm
        order, slack = {"linf": (torch.inf, 1e-6), "l2": (2, 1e-4 * eps), "l1": (1, 1e-4 * eps), "l0": (0, 0)}[norm]
        sizes = torch.linalg.vector_norm((result.double() - x.double()).flatten(1), ord=order, dim=1)
        assert float(sizes.max()) <= eps + slack
        return result

    return run
