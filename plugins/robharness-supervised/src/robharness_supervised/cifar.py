"""CIFAR ResNets (3x3 stem, no max-pool) from the checkpoints of several publishers.

How each of them lays a checkpoint out, and what it normalises with, is read off their code: HobbitLong/SupContrast,
Kim-Minseon/RoCL, VITA-Group/Adversarial-Contrastive-Learning, kuangliu/pytorch-cifar, vturrisi/solo-learn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torchvision import models

from robharness import UserError, normalized
from robharness.checkpoints import Layout, state
from robharness_supervised import files

if TYPE_CHECKING:
    from robharness_supervised import Cifar

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation per channel, on the [0, 1] scale."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NONE: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CIFAR: Mapping[str, Normalisation] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""SupContrast's and kuangliu's; the standard deviations of CIFAR-10 are means over pictures."""
SOLO_LEARN: Normalisation = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
"""For both data sets."""

_SHORTCUT = (r"\.shortcut\.", ".downsample.")
_LAYOUTS = {
    "supcontrast": Layout(name="supcontrast", prefixes=("module.", "encoder."), rename=(_SHORTCUT,)),
    "rocl": Layout(name="rocl", prefixes=("module.",), rename=(_SHORTCUT, (r"^linear\.", "fc."))),
    "kuangliu": Layout(name="kuangliu", prefixes=("module.", "encoder."), rename=(_SHORTCUT, (r"^linear\.", "fc."))),
    "acl": Layout(name="acl", prefixes=("module.",), drop=(r"normalize\.",)),
    "torchvision": Layout(name="torchvision", prefixes=("module.", "encoder.")),
    "solo-learn": Layout(
        name="solo-learn", prefixes=("module.", "backbone.", "encoder."), rename=((r"^classifier\.", "fc."),)
    ),
}
_SOLO_LEARNS = ("backbone.", "encoder.", "classifier.")
"""What of solo-learn's files is the network. Beside it lie projectors, momentum encoders and queues, under names that
differ from method to method."""
_PROJECTION = {"supcontrast": (r"head\.", r"fc\.")}
"""What lies where the classifier would, in files whose encoder alone is wanted; in most it is called fc, too."""
_HEADS = Layout(name="head", prefixes=("module.",), rename=((r"^(?:0|fc|linear|classifier|head)\.", ""),))


def build(data: str, classes: int, architecture: str, params: Cifar, weights: Any) -> nn.Module:
    """(N, 3, 32, 32) in [0, 1] -> logits (N, classes), from a file, or from files {"encoder": ..., "head": ...}.

    data: "cifar10" or "cifar100". architecture: "resnet18" or "resnet50". Raises UserError where a file does not fit.
    """
    encoder, head = _files(weights, f"supervised/{data}-{architecture}")
    content = files.content(encoder)
    layout = _layout(content, params, alone=head is not None)
    with torch.device("meta"):
        net = getattr(models, architecture)(num_classes=classes)
        net.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=_padding(params, layout.name), bias=False)
    net.maxpool = nn.Identity()
    classifier = net.fc
    if head is not None:
        net.fc = nn.Identity()
    _fill(net, encoder, content, layout)
    if head is not None:
        found = files.content(head)
        files.fill(classifier, head, found, [replace(_HEADS, inside=files.inside(found))])
        net.fc = classifier
    return normalized(net, *_normalisation(data, params, content, layout))


def _files(weights: Any, name: str) -> tuple[Path, Path | None]:
    if not isinstance(weights, Mapping):
        return Path(weights), None
    if set(weights) != {"encoder", "head"}:
        given = ", ".join(weights)
        raise UserError(
            f"{name} takes an encoder and a head, not {given}. Write: weights: {{encoder: ./a.pth, head: ./b.pth}}"
        )
    return weights["encoder"], weights["head"]


def _recognised(content: Any) -> str:
    """The layout that the file's keys speak of; torchvision's where they say nothing else."""
    keys = files.keys(content)

    def any_with(*parts: str) -> bool:
        return any(part in f".{key}" for key in keys for part in parts)

    if any_with(".bn_list.", ".normalize."):
        return "acl"
    if any_with(".shortcut."):
        if any_with(".encoder."):
            return "supcontrast"
        return "rocl" if "rng_state" in content else "kuangliu"  # RoCL's scripts keep the generator's state, too
    beside = any_with(".encoder.") and any_with(".momentum_", ".projector.", ".classifier.", ".predictor.")
    return "solo-learn" if any_with(".backbone.") or beside else "torchvision"


def _layout(content: Any, params: Cifar, alone: bool) -> Layout:
    """How the file is to be read. alone: without whatever it has in the classifier's place."""
    name = _recognised(content) if params.layout == "auto" else params.layout
    layout = replace(_LAYOUTS[name], inside=files.inside(content))
    if alone:
        layout = replace(layout, drop=(*layout.drop, *_PROJECTION.get(name, (r"fc\.",))))
    if name == "solo-learn":
        bare = [key.removeprefix("module.") for key in files.keys(content)]
        beside = (f"{re.escape(key)}$" for key in bare if not key.startswith(_SOLO_LEARNS))
        layout = replace(layout, drop=(*layout.drop, *beside))
    if name == "acl":
        own, other = {"normal": (0, 1), "pgd": (1, 0)}[params.branch]
        branches = (
            (rf"\.bn_list\.{own}\.", "."),
            (r"\.downsample\.conv\.", ".downsample.0."),
            (r"\.downsample\.bn\.", ".downsample.1."),
        )
        layout = replace(layout, rename=branches, drop=(*layout.drop, rf".*\.bn_list\.{other}\."))
    return layout


def _fill(net: nn.Module, path: Path, content: Any, layout: Layout) -> None:
    try:
        files.fill(net, path, content, [layout])
    except UserError as error:
        told, recognised = str(error).removesuffix(" See: robharness list models"), _recognised(content)
        if recognised != layout.name:
            raise UserError(f"{told} Its keys speak of another layout. Write: layout: {recognised}") from None
        if not any(re.search(r"(?:^|\.)(?:fc|linear|classifier)\.weight$", key) for key in files.keys(content)):
            hint = f"weights: {{encoder: {path}, head: ./head.pth}}"
            raise UserError(f"{told} It has no classifier. Write: {hint}") from None
        raise


def _padding(params: Cifar, layout: str) -> int:
    if params.stem_padding == "auto":
        return 2 if layout == "solo-learn" else 1
    return params.stem_padding


def _normalisation(data: str, params: Cifar, content: Any, layout: Layout) -> Normalisation:
    given = {"cifar": CIFAR[data], "imagenet": IMAGENET, "none": NONE}
    if params.normalize != "auto":
        return given[params.normalize]
    if layout.name == "acl":  # whose networks normalise themselves, with buffers that are in the file
        buffers = state(content, replace(layout, rename=(), drop=(r"(?!normalize\.)",)))
        return (buffers["normalize.mean"].tolist(), buffers["normalize.std"].tolist()) if buffers else IMAGENET
    return {"rocl": NONE, "solo-learn": SOLO_LEARN}.get(layout.name, CIFAR[data])
