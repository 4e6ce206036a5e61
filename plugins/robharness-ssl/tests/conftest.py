"""Put the publishers' networks, beside the tests, on the path; build the plugin's models in the same small sizes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from robharness_ssl import robharness_models, table

SPECS = {spec.name: spec for spec in robharness_models()}
ENTRIES = {entry.name: entry for entry in (*table.ENCODERS, *table.FINETUNED)}


def build_small(name, weights, **params):
    """Build a model by its own `build`, with the network of the tests' publishers in place of the published size."""
    spec = SPECS[name]
    entry = ENTRIES[name.removesuffix("-linear")]
    if isinstance(entry.network, table.ResNet):
        network = replace(entry.network, blocks=(1, 1, 1, 1), base=4)
    else:
        network = replace(entry.network, width=48, depth=5, heads=3)
    options = spec.params(**params) if spec.params else None
    return spec.build.func(replace(entry, network=network), options, weights).eval()


@pytest.fixture(scope="session")
def small():
    """Return a function of a model's name and its weights, that returns the outputs for `x`."""

    def outputs(name, weights, x, **params):
        with torch.inference_mode():
            return build_small(name, weights, **params)(x)

    return outputs


@pytest.fixture(scope="session")
def x():
    return torch.empty(2, 3, 224, 224).uniform_(generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def agree():
    """Return a function that compares outputs with the publisher's, to 1e-5 of the largest."""

    def compare(ours, theirs, is_same=True):
        assert ours.shape == theirs.shape
        scale = float(theirs.abs().max())
        distance = float((ours - theirs).abs().max()) / scale
        assert distance <= 1e-5 if is_same else distance > 1e-3, distance

    return compare
