from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks import robharness_attacks

SPECS = {spec.name: spec for spec in robharness_attacks()}


@pytest.fixture(scope="session")
def batch_of():
    """A function that makes a batch of inputs, (N, *shape), and labels, (N,), arrays or tensors."""

    def build(x, labels):
        ids = [f"example-{row}" for row in range(len(x))]
        return Batch(ids, torch.as_tensor(x), torch.as_tensor(labels).long())

    return build


@pytest.fixture(scope="session")
def uniform():
    """A function that draws numbers in [0, 1), float32, from a seed."""

    def draw(seed, *shape):
        return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))

    return draw


def in_turn(members, model, view, batch, eps, name, seed):
    """Run each member of an ensemble on the examples that are still right; a note names the member that broke each."""
    x, component = batch.x.clone(), np.full(len(batch), "", object)
    active = model.decisions(x) == batch.labels
    for member, built in members.items():
        rows = active.nonzero().flatten()
        if len(rows) == 0:
            break
        part = batch.select(rows)
        x[rows] = built.perturb(view, part, eps, ExampleRNG(seed, f"{name} {member}", part.ids)).x
        active[rows] = model.decisions(x[rows]) == part.labels
        component[rows[~active[rows]].numpy()] = member
    return Perturbed(x=x, notes={"component": component})


@pytest.fixture(scope="session")
def ensemble():
    """The function `in_turn`."""
    return in_turn


@pytest.fixture(scope="session")
def attack():
    """A function that runs an attack by name and options as the core does, and checks its contract.

    rows: of a pass.
    features: name of the submodule that attacks on features read.
    build: makes the attack from its params instead of the declared function.
    An infinite eps is that of a minimum-norm attack.
    """

    def run(name, net, batch, eps, *, rows=7, seed=0, features=None, build=None, **options):
        spec = SPECS[name]
        model = net if isinstance(net, Classifier) else Classifier(net, batch_size=rows, features=features)
        params = spec.params(**options)
        before = batch.x.clone()
        view = model.with_access(spec.access)
        if spec.ensemble:
            result = in_turn(spec.build(params), model, view, batch, eps, name, seed)
        else:
            result = (build or spec.build)(params).perturb(
                view, batch, eps, ExampleRNG(seed, name, batch.ids, batch.x.device)
            )
        assert torch.equal(batch.x, before)
        assert result.x.shape == batch.x.shape
        assert result.x.dtype == batch.x.dtype
        assert 0 <= float(result.x.min()) <= float(result.x.max()) <= 1  # fails for NaN
        threat = spec.threat(params)
        if threat.norm in ("linf", "l2", "l1"):
            order, slack = {"linf": (torch.inf, 1e-6), "l2": (2, 1e-4 * eps), "l1": (1, 1e-4 * eps)}[threat.norm]
            sizes = torch.linalg.vector_norm((result.x.double() - batch.x.double()).flatten(1), ord=order, dim=1)
            assert float(sizes.max()) <= eps + slack
        else:
            assert float(threat.bound.distance(batch.x, result.x).max()) <= eps
        declared = {"component"} if spec.ensemble else {*spec.notes, *(["target"] if threat.targeted else [])}
        assert set(result.notes) == declared
        assert all(note.shape == batch.labels.shape for note in result.notes.values() if torch.is_tensor(note))
        return result

    return run


class Linear(torch.nn.Module):
    """Two classes, (-offset, w . x): the margin of class 1 over class 0 is linear in x."""

    def __init__(self, weights, offset=0.0):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.as_tensor(weights).flatten())
        self.offset = offset

    def forward(self, x):
        score = x.flatten(1) @ self.weights
        return torch.stack([torch.full_like(score, self.offset), score], 1)


@pytest.fixture(scope="session")
def linear():
    return Linear


@pytest.fixture(scope="session")
def conv_net():
    """A small convolutional network for (3, 8, 8) with fixed random weights."""

    def build(classes=5, seed=0):
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, stride=2), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Linear(72, classes),
        )  # fmt: skip
        draws = np.random.default_rng(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                scale = 2 / np.sqrt(max(1, parameter[0].numel()))
                parameter.copy_(torch.from_numpy(draws.normal(size=tuple(parameter.shape)) * scale))
            typical = torch.from_numpy(draws.random((64, 3, 8, 8), dtype=np.float32))
            net[-1].bias -= net(typical).mean(0)  # every class occurs
        return net

    return build


@pytest.fixture(scope="session")
def digits():
    """A network trained on scikit-learn's digits, and 450 test examples: net, x (N, 1, 8, 8), labels."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    x, labels = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    seen = np.arange(len(x)) % 4 > 0
    trained = MLPClassifier((64,), random_state=0, max_iter=200, tol=1e-3).fit(x[seen], labels[seen])
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        for layer, weights, bias in zip((net[1], net[3]), trained.coefs_, trained.intercepts_, strict=True):
            layer.weight.copy_(torch.from_numpy(weights.T))
            layer.bias.copy_(torch.from_numpy(bias))
    return net, torch.from_numpy(x[~seen]).view(-1, 1, 8, 8), torch.from_numpy(labels[~seen])


class Scaled(torch.nn.Module):
    def __init__(self, net, scale):
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x):
        return self.net(x) * self.scale


@pytest.fixture(scope="session")
def scaled():
    """The network with its logits multiplied: the same decisions."""
    return Scaled


@pytest.fixture(scope="session")
def mnist_case(tmp_path_factory):
    """The network, images and authors' code of `autoattack_case.py`; trained once per session in ten seconds."""
    module = runpy.run_path(str(Path(__file__).parent / "autoattack_case.py"))
    return module["load"](tmp_path_factory.mktemp("case"))
