"""A suite whose metrics look at features, and its results."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import robharness
from robharness import worker

SUITE = {
    "robharness": 1,
    "name": "represented",
    "data": {"name": "samples/digits", "split": "test", "limit": 120},
    "canvas": 8,
    "models": [{"model": "represented/digits", "label": "Digits"}],
    "attacks": [{"attack": "attacks/ddn", "steps": 20}],
    "corruptions": [{"corruption": "represented/fading", "severity": [1, 2]}],
    "metrics": [
        f"contrastive/{name}"
        for name in ("alignment", "uniformity", "inter-intra", "purity", "margin", "input-margin")
    ],
}  # fmt: skip
PLUGINS = [str(Path(__file__).with_name("represented.py"))]


@pytest.fixture
def source():
    """The suite as a mapping, and the `plugins` that it needs, to be taken out."""
    return copy.deepcopy(SUITE) | {"plugins": PLUGINS}


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Its results, and its network."""
    found = robharness.run(SUITE, store=tmp_path_factory.mktemp("represented") / "store", plugins=PLUGINS)
    assert found.is_complete
    return found, worker.build(found.plan.models[0])
