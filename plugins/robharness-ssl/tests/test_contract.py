"""The model contract for one ResNet and one vision transformer with random weights, small and of the published size."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from ssl_publishers import drawn, parallel
from torch import nn

from robharness.testing import parametrize_with_checks
from robharness_ssl import networks, table

FOLDER = tempfile.TemporaryDirectory()


def written(name):
    """Write an encoder of published size, in torchvision's and timm's names, and a linear head beside it."""
    (entry,) = [each for each in table.ENCODERS if each.name == name]
    net = networks.build(entry.network)
    head = drawn(nn.Linear(networks.head(entry).in_features, 1000))
    drawn(net.to_empty(device="cpu") if isinstance(entry.network, table.ResNet) else net)
    files = {"encoder": Path(FOLDER.name) / f"{name}.pth", "head": Path(FOLDER.name) / f"{name}-head.pth"}
    torch.save(net.state_dict(), files["encoder"])
    torch.save({"epoch": 100, "state_dict": parallel(nn.ModuleDict({"linear": head}))}, files["head"])
    return files


class Small:
    """The plugin with small networks in place of those of the published size."""

    __name__ = "small_ssl"

    @hookimpl
    def robharness_models(self):
        for spec in robharness_models():
            yield replace(spec, build=partial(spec.build.func, small(spec.build.args[0])))


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_ssl",
    only=["dino-resnet50-linear", "dino-vits16-linear"],
    leave_out="*-sha256_stated",  # none published
    weights={f"{name}-linear": lambda name=name: written(name) for name in ("dino-resnet50", "dino-vits16")},
)
def test_contract(check):
    check()
