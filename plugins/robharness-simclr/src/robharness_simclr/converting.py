"""Conversion of TensorFlow's checkpoints of SimCLR into files of PyTorch, by this plugin's reader and networks.

A file has the layout of simclr-converter, `{"state_dict": ...}` with torchvision's names. Unlike that program, it keeps
the trained bias of the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from robharness_simclr.loading import load
from robharness_simclr.networks import ResNet


def convert(depth: int, width: int, selective: bool, sources: Mapping[str, Path], path: Path) -> None:
    """Write the weights of a published checkpoint to a path, the same bytes each time.

    depth, width, selective: of the network.
    sources: "checkpoint", the zip of v1 or the index of v2; the data of an index are beside it.
    Raises UserError if the checkpoint is damaged, or is that of another network.
    """
    net = load(lambda: ResNet(depth, width, selective=selective), sources["checkpoint"])
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    with path.open("wb") as file:  # else torch writes the name of the file into it
        torch.save({"state_dict": state}, file)
