"""The model contract, checked for SwAV's network with files in the publisher's layout."""

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
    """Write a backbone and a linear head with random weights."""
    with torch.device("meta"):
        net = torchvision.models.resnet50(weights=None)
    draws, state = np.random.default_rng(0), {}
    for name, like in net.state_dict().items():
        if like.ndim > 1:
            values = draws.normal(size=tuple(like.shape)) / like[0].numel() ** 0.5
            state[name] = torch.from_numpy(values.astype(np.float32))
        else:
            state[name] = torch.full(like.shape, int(name.endswith(("running_var", "weight"))), dtype=like.dtype)
    files = {"backbone": Path(FOLDER.name) / "backbone.pth", "head": Path(FOLDER.name) / "head.pth"}
    torch.save({f"module.{k}": v for k, v in state.items() if not k.startswith("fc.")}, files["backbone"])
    head = {"module.linear.weight": state["fc.weight"], "module.linear.bias": state["fc.bias"]}
    torch.save({"epoch": 100, "state_dict": head}, files["head"])
    return files


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_swav", leave_out="*-sha256_stated", weights={"resnet50": written}
)  # none published
def test_contract(check):
    check()
