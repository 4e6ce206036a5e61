"""Images and jobs as the core provides them, and a suite with metrics of features and its results."""

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
from robharness_contrastive.data import Images

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
def images(bars):
    stacked = np.stack([bars.read(index) for index in range(len(bars.ids))])
    return Images(torch.from_numpy(stacked).permute(0, 3, 1, 2), torch.tensor(bars.labels))


@pytest.fixture
def job(tmp_path, bars):
    """A function (recipe, folder) -> the training job that the core would make."""

    def make(recipe, folder="job", seed=0, dataset=bars):
        path: Path = tmp_path / folder
        path.mkdir(exist_ok=True)
        messages = []
        return TrainingJob(
            params=recipe, seed=seed, datasets={"train": dataset}, folder=path, device="cpu",
            message=messages.append, progress=messages.append,
        )  # fmt: skip

    return make


@pytest.fixture
def source():
    """The suite as a mapping, with an extra key `plugins` that a test must pop."""
    return copy.deepcopy(SUITE) | {"plugins": PLUGINS}


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """The results of the suite, and its network."""
    found = robharness.run(SUITE, store=tmp_path_factory.mktemp("represented") / "store", plugins=PLUGINS)
    assert found.is_complete
    return found, loading.build_network(found.plan.models[0])
