"""The model contract, checked for TCLR's R3D-18."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torchvision.models import video

from robharness.testing import parametrize_with_checks

FOLDER = tempfile.TemporaryDirectory()


def written():
    """Write a checkpoint with random weights."""
    with torch.device("meta"):
        net = video.r3d_18(weights=None, num_classes=102)
    net = net.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(0)
    for key, value in net.state_dict().items():
        if value.ndim < 2:
            value.fill_(1 if key.endswith(("running_var", "weight")) else 0)
        else:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=draw)
    file = Path(FOLDER.name) / "tclr.pth"
    torch.save(net.state_dict(), file)
    return file


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_video",
    only=["plugin/*", "models/tclr-r3d-18"],
    leave_out="*-sha256_stated",  # none is published
    weights={"tclr-r3d-18": written},
    classes={"ucf-101": 101},
)
def test_contract(check):
    check()
