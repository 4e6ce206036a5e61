"""The model contract, checked for SimCLR's ResNet-50 with a file in the converter's layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from robharness.testing import parametrize_with_checks

FOLDER = tempfile.TemporaryDirectory()


def written():
    """Write a ResNet-50 with torchvision's names and random weights."""
    with torch.device("meta"):
        net = torchvision.models.resnet50(weights=None)
    draws, state = np.random.default_rng(0), {}
    for name, like in net.state_dict().items():
        if like.ndim > 1:
            values = draws.normal(size=tuple(like.shape)) / like[0].numel() ** 0.5
            state[name] = torch.from_numpy(values.astype(np.float32))
        else:
            state[name] = torch.full(like.shape, int(name.endswith(("running_var", "weight"))), dtype=like.dtype)
    path = Path(FOLDER.name) / "resnet50-1x.pth"
    torch.save({"state_dict": state}, path)
    return path


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_simclr",
    only=["plugin/*", "models/resnet50"],
    leave_out="*-sha256_stated",  # users convert their own files
    weights={"resnet50": written},
)
def test_contract(check):
    check()
