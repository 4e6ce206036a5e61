"""Put the publishers' networks, beside the tests, on the path; build the plugin's models in the same small sizes."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import ssl_small

SPECS = {spec.name: spec for spec in ssl_small.robharness_models()}


@pytest.fixture(scope="session")
def small():
    """Return a function of a model's name, its weights and inputs, that returns the outputs of a small network."""

    def outputs(name, weights, x, **params):
        spec = SPECS[name]
        net = spec.build(spec.params(**params) if spec.params else None, weights).eval()
        with torch.inference_mode():
            return net(x)

    return outputs


@pytest.fixture(scope="session")
def x():
    return torch.empty(2, 3, 224, 224).uniform_(generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def agree():
    """Return a function that compares outputs with the publisher's, to 1e-5 of the largest."""

    def compare(ours, theirs, is_same=True):
        assert ours.shape == theirs.shape
        distance = float((ours - theirs).abs().max()) / float(theirs.abs().max())
        assert distance <= 1e-5 if is_same else distance > 1e-3, distance

    return compare
