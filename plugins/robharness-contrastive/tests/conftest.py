"""Pictures and jobs as the core gives them."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from robharness import Training
from robharness_contrastive.data import Pictures

HERE = Path(__file__).parent
BARS = runpy.run_path(str(HERE / "bars.py"))


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
        return Training(
            params=recipe, seed=seed, datasets={"train": dataset}, folder=place, device="cpu",
            say=told.append, progress=told.append,
        )  # fmt: skip

    return made
