"""Fixtures of the core's tests. No first-party plugin is needed: the models, attacks and data are toys."""

from pathlib import Path

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
