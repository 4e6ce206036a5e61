"""The model contract, checked for a CIFAR ResNet; larger networks are slow tests."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from robharness.testing import parametrize_with_checks

FOLDER = tempfile.TemporaryDirectory()


def written(make, name):
    """Return a function that writes a checkpoint of random weights, nested like in training scripts."""

    def write():
        with torch.device("meta"):
            net = make()
        draws, state = np.random.default_rng(0), {}
        for key, like in net.state_dict().items():
            if like.ndim > 1:
                values = draws.normal(size=tuple(like.shape)) / like[0].numel() ** 0.5
                state[key] = torch.from_numpy(values.astype(np.float32))
            else:
                state[key] = torch.full(like.shape, int(key.endswith(("running_var", "weight"))), dtype=like.dtype)
        path = Path(FOLDER.name) / f"{name}.pth"
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
        return path

    return write


def cifar_resnet18():
    net = torchvision.models.resnet18(weights=None, num_classes=10)
    net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    return net


@parametrize_with_checks(
    "robharness_supervised",
    only=["plugin/*", "models/cifar10-resnet18"],
    leave_out="*-sha256_stated",  # users train their own weights
    weights={"cifar10-resnet18": written(cifar_resnet18, "cifar")},
)
def test_contract(check):
    check()


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_supervised",
    only="models/mobilenet_v3_small",
    weights={"mobilenet_v3_small": written(torchvision.models.mobilenet_v3_small, "mobilenet")},
)
def test_contract_of_a_large_one(check):
    check()
