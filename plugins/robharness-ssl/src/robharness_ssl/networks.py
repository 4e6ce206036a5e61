"""The networks: torchvision's ResNets and timm's vision transformers, and the choice of tokens behind the latter."""

from __future__ import annotations

import warnings
from functools import partial
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet

from robharness_ssl import table

CLASSES = 1000


class Classifier(nn.Module):
    """An encoder with a linear classifier."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, 224, 224) to logits (N, classes)."""
        return cast(Tensor, self.head(self.encoder(x)))


class Representation(nn.Module):
    """A vision transformer, of which some tokens of the last blocks are the representation."""

    def __init__(self, net: nn.Module, tokens: table.Tokens) -> None:
        super().__init__()
        self.net, self.tokens = net, tokens

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, 224, 224) to (N, width * tokens)."""
        layers = cast(Any, self.net).get_intermediate_layers(
            x, n=self.tokens.blocks, return_prefix_tokens=True, norm=True
        )
        classes = [prefix[:, 0] for _, prefix in layers]
        if self.tokens.mean == "none":
            return torch.cat(classes, dim=1)
        mean = layers[-1][0].mean(dim=1)
        if self.tokens.mean == "after":
            return torch.cat([*classes, mean], dim=1)
        return torch.stack([*classes, mean], dim=-1).flatten(1)


def build(network: table.ResNet | table.ViT) -> nn.Module:
    """Return a network without weights that maps (N, 3, 224, 224) to features (N, width)."""
    return _resnet(network) if isinstance(network, table.ResNet) else _vit(network)


def head(entry: table.Encoder | table.Finetuned) -> nn.Linear:
    """Return a linear classifier of the representation, on the meta device."""
    tokens = getattr(entry, "linear", None)
    width = entry.network.width * (tokens.count if tokens else 1)
    return nn.Linear(width, CLASSES, device="meta")


def _resnet(network: table.ResNet) -> nn.Module:
    with torch.device("meta"):  # no random initial weights: drawing them would advance the global generator
        net = resnet.ResNet(resnet.Bottleneck, list(network.blocks), width_per_group=network.base)
        net.fc = nn.Identity()
        if network.padding == "same":
            for name, layer in list(net.named_modules()):
                if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
                    net.set_submodule(name, _SameConvolution(layer))
            net.maxpool = _SamePooling(3, 2)
    return cast(nn.Module, net)


def _vit(network: table.ViT) -> nn.Module:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # initial weights are drawn and overwritten
        warnings.simplefilter("ignore", FutureWarning)  # timm 1.0.9 uses deprecated functions of torch
        transformer = import_module("timm.models.vision_transformer").VisionTransformer
        return cast(
            nn.Module,
            transformer(
                img_size=224,
                patch_size=network.patch,
                num_classes=0,
                global_pool="avg" if network.pool == "mean" else "token",
                embed_dim=network.width,
                depth=network.depth,
                num_heads=network.heads,
                init_values=1.0 if network.layer_scale else None,
                reg_tokens=network.registers,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                weight_init="skip",
            ),
        )


class _SameConvolution(nn.Conv2d):
    """A convolution that pads as TensorFlow's and JAX's "SAME" does: the odd pixel is at the end."""

    def __init__(self, like: nn.Conv2d) -> None:
        size, stride = cast(tuple[int, int], like.kernel_size), cast(tuple[int, int], like.stride)
        super().__init__(like.in_channels, like.out_channels, size, stride, groups=like.groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return super().forward(_padded(input, self.kernel_size[0], self.stride[0], 0.0))


class _SamePooling(nn.Module):
    """A max-pooling that pads as "SAME" does."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        return functional.max_pool2d(_padded(x, self.size, self.stride, -torch.inf), self.size, self.stride)


def _padded(x: Tensor, size: int, stride: int, value: float) -> Tensor:
    """Return (N, C, H, W) with the padding of "SAME" for a kernel of that size and stride."""
    sides = []
    for length in (x.shape[-1], x.shape[-2]):
        missing = max((-(-length // stride) - 1) * stride + size - length, 0)
        sides += [missing // 2, missing - missing // 2]
    return functional.pad(x, sides, value=value)
