"""The publishers' networks, rebuilt in their own naming, for the tests.

All of them are small: fewer blocks, narrower. The names of parameters and the order of computation are the publishers'.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional


def drawn(net, seed=0):
    """Fill a network with random weights that keep the scale of activations, and make all biases and scales count."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                value.fill_(7)
            elif value.ndim > 1 and not name.endswith(("token", "pos_embed", "masked_embed", "queue")):
                value.normal_(0, (1.5 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("running_var", "weight", "gamma")):
                value.uniform_(0.4, 1.2, generator=generator)
            elif value.is_floating_point():
                value.normal_(0, 0.3, generator=generator)
    return net.eval()


def normal(x, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def mlp(*sizes, bias=True):
    """Return a projection head, with BatchNorm and ReLU between its layers."""
    layers = []
    for index, (taken, given) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(taken, given, bias=bias))
        if index < len(sizes) - 2:
            layers += [nn.BatchNorm1d(given), nn.ReLU()]
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    def __init__(self, taken, planes, width, stride, projects):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(taken, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if projects:
            self.downsample = nn.Sequential(
                nn.Conv2d(taken, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn3(self.conv3(self.bn2(self.conv2(out)).relu()))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """torchvision's ResNet with one block per stage.

    padded: whether images are padded by 1 and the first convolution by 2, as SwAV and VICReg do.
    fc: the last layer; None leaves it out.
    """

    def __init__(self, fc=None, padded=False, base=4):
        super().__init__()
        self.padding = nn.ConstantPad2d(1, 0.0) if padded else nn.Identity()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 2 if padded else 3, bias=False), nn.BatchNorm2d(64)
        taken = 64
        for stage in range(4):
            planes = 64 << stage
            block = Bottleneck(taken, planes, planes * base // 64, 2 if stage else 1, True)
            self.add_module(f"layer{stage + 1}", nn.Sequential(block))
            taken = 4 * planes
        self.fc = fc

    def features(self, x):
        x = functional.max_pool2d(self.bn1(self.conv1(self.padding(x))).relu(), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

    def forward(self, x):
        x = self.features(x)
        return x if self.fc is None else self.fc(x)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        count, length, width = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(count, length, width))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width, heads, scaled=False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.ls1, self.ls2 = (LayerScale(width), LayerScale(width)) if scaled else (nn.Identity(), nn.Identity())

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """The vision transformer of DINO and iBOT, and the encoder of MAE and MoCo v3."""

    def __init__(self, patch=16, width=48, depth=5, heads=3, grid=14, scaled=False, head=None):
        super().__init__()
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid**2 + 1, width))
        self.blocks = nn.ModuleList([Block(width, heads, scaled) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if head is not None:
            self.head = head

    def prepare_tokens(self, x):
        x = self.patch_embed(x)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed

    def get_intermediate_layers(self, x, n=1):
        x, output = self.prepare_tokens(x), []
        for place, block in enumerate(self.blocks):
            x = block(x)
            if len(self.blocks) - place <= n:
                output.append(self.norm(x))
        return output

    def features(self, x):
        return self.get_intermediate_layers(x)[-1][:, 0]

    def forward(self, x):
        return self.head(self.features(x)) if hasattr(self, "head") else self.features(x)


class MoCoViT(ViT):
    """MoCo v3's vision transformer, with a fixed position embedding of sines and cosines."""

    def __init__(self, **options):
        super().__init__(**options)
        width, grid = self.pos_embed.shape[2], 14
        rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
        omega = 1 / 10000 ** (torch.arange(width // 4) / (width // 4))
        first, second = rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega
        fixed = torch.cat([first.sin(), first.cos(), second.sin(), second.cos()], dim=1)
        self.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, width), fixed])[None], requires_grad=False)
        assert self.pos_embed.shape[1] == grid**2 + 1


class DINOv2(ViT):
    """DINOv2's vision transformer: factors on the branches, registers, a mask token, positions of 518 px."""

    def __init__(self, registers=0, offset=0.1, antialias=False, **options):
        super().__init__(patch=14, grid=37, scaled=True, **options)
        width = self.pos_embed.shape[2]
        self.offset, self.antialias, self.count = offset, antialias, registers
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))

    def interpolate_pos_encoding(self, side):
        patches = self.pos_embed[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
        options = {"size": (side, side)}
        if self.offset:
            options = {"scale_factor": (float(side + self.offset) / 37, float(side + self.offset) / 37)}
        patches = functional.interpolate(patches, mode="bicubic", antialias=self.antialias, **options)
        return torch.cat([self.pos_embed[:, :1], patches.permute(0, 2, 3, 1).reshape(1, side * side, -1)], dim=1)

    def prepare_tokens(self, x):
        side = x.shape[-1] // 14
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.interpolate_pos_encoding(side)
        if self.count:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        return x

    def linear_input(self, x, n):
        """Return the input of the hub's classifier of `n` layers."""
        layers = self.get_intermediate_layers(x, n)
        return torch.cat([*(layer[:, 0] for layer in layers), layers[-1][:, 1 + self.count :].mean(dim=1)], dim=1)


class MAE(ViT):
    """MAE's pre-training network: the encoder, and a decoder beside it."""

    def __init__(self, **options):
        super().__init__(**options)
        width = self.pos_embed.shape[2]
        self.decoder_embed = nn.Linear(width, 32)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 32))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 197, 32), requires_grad=False)
        self.decoder_blocks = nn.ModuleList([Block(32, 2)])
        self.decoder_norm, self.decoder_pred = nn.LayerNorm(32), nn.Linear(32, 768)


class FinetunedMAE(ViT):
    """MAE's fine-tuned network, with the mean of patch tokens, normalised by `fc_norm`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.fc_norm = nn.LayerNorm(self.pos_embed.shape[2], eps=1e-6)
        del self.norm

    def forward(self, x):
        x = self.prepare_tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.fc_norm(x[:, 1:, :].mean(dim=1)))


class DINOHead(nn.Module):
    """The projection head of DINO, or of iBOT with a second last layer, as weight-normalised layers are stored."""

    def __init__(self, width, second=False):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, 8))
        for name in ("last_layer", "last_layer2")[: 1 + second]:
            layer = nn.Module()
            layer.weight_g, layer.weight_v = nn.Parameter(torch.ones(20, 1)), nn.Parameter(torch.ones(20, 8))
            self.add_module(name, layer)


class MultiCropWrapper(nn.Module):
    def __init__(self, backbone, second=False):
        super().__init__()
        self.backbone, self.head = backbone, DINOHead(48, second)


def parallel(net):
    """Return the state dict with the names of DistributedDataParallel."""
    return {f"module.{name}": value for name, value in net.state_dict().items()}


def same_padding(length, size, stride):
    """Return the padding of "SAME" at both ends: math of TensorFlow's documentation."""
    total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2
