"""The residual networks of SimCLR, with torchvision's names for the layers that torchvision's ResNets have.

Submodules are defined in the order of TensorFlow's variables, e.g. the shortcut of a block before its convolutions,
since TensorFlow's checkpoints only number the layers. Source: google-research/simclr, resnet.py.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CLASSES = 1000
SK_RATIO = 1 / 16
SK_MIN_CHANNELS = 32


class ResNet(nn.Module):
    """ResNet that maps (N, 3, H, W) in [0, 1] to logits (N, 1000), without normalisation, since training used none.

    depth: 50, 101 or 152 layers.
    width: multiplier of the number of channels.
    selective: whether to use selective kernels, with the stem and the shortcuts of ResNet-D.
    padding: padding of the pooling layers: "same" as in TensorFlow, "torch" as in the converted networks.
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
    """A block of three convolutions with the stride in the second.

    shortcut: module of the shortcut, or None for the identity.
    """

    def __init__(self, inputs: int, width: int, stride: int, *, shortcut: nn.Module | None, selective: bool) -> None:
        super().__init__()
        self.downsample = shortcut
        self.conv1 = _convolution(inputs, width, 1)
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
    """Two 3x3 convolutions, weighted per channel by a softmax that is computed from the images' spatial means."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        hidden = max(int(width * SK_RATIO), SK_MIN_CHANNELS)
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
    """3x3 max-pooling with stride 2 and TensorFlow's padding: even sides at the end, odd sides at both ends."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = functional.pad(x, (width % 2, 1, height % 2, 1), value=float("-inf"))
        return functional.max_pool2d(padded, 3, 2)


class AveragePool(nn.Module):
    """2x2 average pooling in the shortcuts of ResNet-D, padded with zeros at the end.

    With stride 1, TensorFlow's "same" excludes the padding from the mean, which equals padding with the edge values.
    """

    def __init__(self, stride: int, padding: str) -> None:
        super().__init__()
        self.stride = stride
        self.mode = "replicate" if padding == "same" and stride == 1 else "constant"

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1), mode=self.mode), 2, self.stride)


def _stage(blocks: int, width: int, *, first: bool, selective: bool, padding: str) -> nn.Sequential:
    """Return the blocks of one stage. The first block halves the resolution, except in stage 1."""
    inputs, stride = (width, 1) if first else (2 * width, 2)
    pool = [AveragePool(stride, padding)] if selective else []
    shortcut = nn.Sequential(
        *pool, _convolution(inputs, 4 * width, 1, 1 if selective else stride), nn.BatchNorm2d(4 * width)
    )
    begin = Bottleneck(inputs, width, stride, shortcut=shortcut, selective=selective)
    rest = (Bottleneck(4 * width, width, 1, shortcut=None, selective=selective) for _ in range(1, blocks))
    return nn.Sequential(begin, *rest)


def _deep_stem(channels: int) -> nn.Sequential:
    half = channels // 2
    return nn.Sequential(
        *(_convolution(3, half, 3, 2), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        *(_convolution(half, half, 3), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        _convolution(half, channels, 3),
    )


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
