"""The residual networks of SimCLR, with torchvision's names for what torchvision's have, too.

Submodules stand in the order in which TensorFlow made their variables, the shortcut of a block before its convolutions;
its checkpoints know them by their numbers alone. Source: google-research/simclr, resnet.py.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CLASSES = 1000
SK_RATIO = 1 / 16
SK_LEAST = 32


class ResNet(nn.Module):
    """(N, 3, H, W) in [0, 1] -> logits (N, 1000); no mean or standard deviation, none was used in training.

    depth: 50, 101 or 152 layers. width: of all layers, as a multiple. selective: with selective kernels, and then with
    the stem and the shortcuts of ResNet-D. padding: "same" pools as TensorFlow does, "torch" as the converted networks.
    """

    def __init__(self, depth: int, width: int, *, selective: bool = False, padding: str = "torch") -> None:
        super().__init__()
        channels = 64 * width
        self.conv1 = _deep_stem(channels) if selective else _convolution(3, channels, 7, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = MaxPoolSame() if padding == "same" else nn.MaxPool2d(3, 2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(blocks, channels << stage, first=stage == 0, selective=selective, padding=padding)
            for stage, blocks in enumerate(BLOCKS[depth])
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32 * channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class Bottleneck(nn.Module):
    """A block of three convolutions; the one in the middle carries the stride. shortcut: None for the identity."""

    def __init__(self, taken: int, width: int, stride: int, *, shortcut: nn.Module | None, selective: bool) -> None:
        super().__init__()
        self.downsample = shortcut
        self.conv1 = _convolution(taken, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SelectiveKernel(width, stride) if selective else _convolution(width, width, 3, stride)
        self.bn2 = nn.Identity() if selective else nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return out


class SelectiveKernel(nn.Module):
    """Two 3x3 convolutions, weighted per channel by a softmax over both that the pictures' means decide."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        hidden = max(int(width * SK_RATIO), SK_LEAST)
        self.conv = _convolution(width, 2 * width, 3, stride)
        self.bn = nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU(inplace=True)
        self.mix = nn.Sequential(
            _convolution(width, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            _convolution(hidden, 2 * width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        streams = self.relu(self.bn(self.conv(x))).unflatten(1, (2, -1))
        weights = self.mix(streams.sum(1).mean((2, 3), keepdim=True)).unflatten(1, (2, -1)).softmax(1)
        mixed: Tensor = (streams * weights).sum(1)
        return mixed


class MaxPoolSame(nn.Module):
    """3x3 with stride 2 as TensorFlow pads it: an even side at its end alone, an odd one at both."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = functional.pad(x, (width % 2, 1, height % 2, 1), value=float("-inf"))
        return functional.max_pool2d(padded, 3, 2)


class AveragePool(nn.Module):
    """2x2 in the shortcuts of ResNet-D, padded with zeros at the end.

    TensorFlow's "same" leaves the padding out of the mean where the stride is 1; then repeating the edge is the same.
    """

    def __init__(self, stride: int, padding: str) -> None:
        super().__init__()
        self.stride = stride
        self.mode = "replicate" if padding == "same" and stride == 1 else "constant"

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1), mode=self.mode), 2, self.stride)


def _stage(blocks: int, width: int, *, first: bool, selective: bool, padding: str) -> nn.Sequential:
    """Blocks of one resolution; the first one halves it, except in the first stage, where pooling has done so."""
    taken, stride = (width, 1) if first else (2 * width, 2)
    pool = [AveragePool(stride, padding)] if selective else []
    shortcut = nn.Sequential(
        *pool, _convolution(taken, 4 * width, 1, 1 if selective else stride), nn.BatchNorm2d(4 * width)
    )
    begin = Bottleneck(taken, width, stride, shortcut=shortcut, selective=selective)
    rest = (Bottleneck(4 * width, width, 1, shortcut=None, selective=selective) for _ in range(1, blocks))
    return nn.Sequential(begin, *rest)


def _deep_stem(channels: int) -> nn.Sequential:
    half = channels // 2
    return nn.Sequential(
        *(_convolution(3, half, 3, 2), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        *(_convolution(half, half, 3), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        _convolution(half, channels, 3),
    )


def _convolution(taken: int, given: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(taken, given, side, stride, padding=side // 2, bias=False)
