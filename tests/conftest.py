"""Fixtures of the core's tests. No first-party plugin is needed: the models, attacks and data are toys."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from robharness import api

TOYS, TEAMS = (str(Path(__file__).parent / name) for name in ("toys.py", "teams.py"))


@pytest.fixture
def toys():
    """The path of the plugin of toys, for `-p`."""
    return TOYS


@pytest.fixture
def teams():
    """The paths of both plugins of toys."""
    return [TOYS, TEAMS]


@pytest.fixture
def suite():
    """A small suite over the toys, as a mapping; keyword arguments change its keys."""

    def make(**changes):
        base = {
            "robharness": 1,
            "name": "toys",
            "data": {"name": "toys/pixels", "split": "test"},
            "models": [{"model": "toys/net", "label": "Net", "reference": True}],
            "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": ["1/8"]}],
        }
        return {key: value for key, value in (base | changes).items() if value is not None}

    return make


@pytest.fixture
def run(tmp_path):
    """Run a suite of toys in a store of its own (or a named one) and give the results."""

    def go(source, store="store", **options):
        return api.run(source, store=tmp_path / store, plugins=[TOYS, TEAMS], **options)

    return go


@dataclass
class _Recording:
    """A corruption around another one. images: (name, severity, id) -> uint8 image."""

    name: str
    inner: Any
    images: dict

    def perturb(self, model, batch, severity, rng):
        found = self.inner.perturb(model, batch, severity, rng)
        for id, image in zip(batch.ids, found.numpy(), strict=True):
            self.images[self.name, severity, id] = image.copy()
        return found


@pytest.fixture
def recorded():
    """Wrap every corruption of a registry that a run computes, and give the images that they will return."""

    def wrap(registry):
        images = {}
        for key, entry in registry.corruptions.items():
            if (build := entry.spec.build) is not None:
                spec = replace(
                    entry.spec,
                    build=lambda params, build=build, name=entry.spec.name: _Recording(name, build(params), images),
                )
                registry.corruptions[key] = replace(entry, spec=spec)
        return images

    return wrap
