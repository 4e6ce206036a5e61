"""Pictures and jobs as the core gives them; and a suite whose metrics look at features, with its results."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import robharness
from robharness import TrainingJob
from robharness.evaluation import loading
from robharness_contrastive.data import Pictures

HERE = Path(__file__).parent
BARS = runpy.run_path(str(HERE / "bars.py"))
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


@pytest.fixture(scope="session")
def bars():
    return BARS["Bars"]()


@pytest.fixture(scope="session")
def pictures(bars):
    stacked = np.stack([bars.read(index) for index in range(len(bars.ids))])
    return Pictures(torch.from_numpy(stacked).permute(0, 3, 1, 2), torch.tensor(bars.labels))


@pytest.fixture
def job(tmp_path, bars):
    """(recipe, folder) -> what the core gives to a training."""

    def made(recipe, folder="job", seed=0, dataset=bars):
        place: Path = tmp_path / folder
        place.mkdir(exist_ok=True)
        told = []
        return TrainingJob(
            params=recipe, seed=seed, datasets={"train": dataset}, folder=place, device="cpu",
            message=told.append, progress=told.append,
        )  # fmt: skip

    return made


@pytest.fixture
def source():
    """The suite as a mapping, and the `plugins` that it needs, to be taken out."""
    return copy.deepcopy(SUITE) | {"plugins": PLUGINS}


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Its results, and its network."""
    found = robharness.run(SUITE, store=tmp_path_factory.mktemp("represented") / "store", plugins=PLUGINS)
    assert found.is_complete
    return found, loading.build_network(found.plan.models[0])
