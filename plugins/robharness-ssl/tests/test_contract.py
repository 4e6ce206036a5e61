"""The model contract for one ResNet and one vision transformer with random weights, small and of the published size."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pytest
import ssl_small
import torch
from adversarial_publishers import DynACL, acl_file
from ssl_publishers import drawn, parallel
from torch import nn

from robharness.testing import parametrize_with_checks
from robharness_ssl import networks, table

FOLDER = tempfile.TemporaryDirectory()
ENTRIES = {f"{entry.name}-linear": entry for entry in table.ENCODERS}
NAMES = ["dino-resnet50-linear", "dino-vits16-linear"]


def written(name, shrink=lambda entry: entry):
    """Write an encoder, in torchvision's or timm's names, and the linear weights beside it."""
    entry = shrink(ENTRIES[name])
    net = networks.build(entry.network)
    drawn(net.to_empty(device="cpu") if isinstance(entry.network, table.ResNet) else net)
    head = drawn(nn.Linear(networks.head(entry).in_features, 1000))
    folder = Path(tempfile.mkdtemp(dir=FOLDER.name))
    torch.save(net.state_dict(), folder / "encoder.pth")
    torch.save({"epoch": 100, "state_dict": parallel(nn.ModuleDict({"linear": head}))}, folder / "head.pth")
    return {"encoder": folder / "encoder.pth", "head": folder / "head.pth"}


@parametrize_with_checks(
    ssl_small,
    only=NAMES,
    leave_out=["*-sha256_stated", "*-fresh_process"],  # none is published; the module of the tests is not installed
    weights={name: partial(written, name, ssl_small.shrunk) for name in NAMES},
)
def test_contract_of_small_networks(check):
    check()


def dual():
    """Write DynACL's file with two encoders of two branches."""
    file = Path(tempfile.mkdtemp(dir=FOLDER.name)) / "model.pt"
    torch.save(acl_file(DynACL(1)), file)
    return file


@parametrize_with_checks(
    "robharness_ssl",
    only="dynacl-resnet18",
    leave_out="*-sha256_stated",
    weights={"dynacl-resnet18": dual},
    classes={"none": 512},
)
def test_contract_of_an_encoder_with_two_branches(check):
    check()


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_ssl", only=NAMES, leave_out="*-sha256_stated", weights={name: partial(written, name) for name in NAMES}
)
def test_contract(check):
    check()
