"""CIFAR ResNets (3x3 stem, no max-pool) from the checkpoints of several publishers.

The layouts and normalisations are taken from the publishers' code: HobbitLong/SupContrast, Kim-Minseon/RoCL,
VITA-Group/Adversarial-Contrastive-Learning, kuangliu/pytorch-cifar, vturrisi/solo-learn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torchvision import models

from robharness import UserError, normalized
from robharness.checkpoints import Layout, StateMismatch, state, unstripped, whole
from robharness.specs.conventions import NORMALIZATIONS, Normalization
from robharness_supervised import files

if TYPE_CHECKING:
    from robharness_supervised import Cifar

SOLO_LEARN: Normalization = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
"""Constants of solo-learn, for both data sets."""

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
_SOLO_LEARN_PREFIXES = ("backbone.", "encoder.", "classifier.")
"""Prefixes of the network's keys in solo-learn's files. Other keys are projectors, momentum encoders and queues, whose
names differ from method to method."""
_PROJECTION = {"supcontrast": (r"head\.", r"fc\.")}
"""Layout -> keys to drop if only the encoder of a file is used; other layouts drop fc."""
_HEADS = Layout(name="head", prefixes=("module.",), rename=((r"^(?:0|fc|linear|classifier|head)\.", ""),))


def build(data: str, classes: int, architecture: str, params: Cifar, weights: Any) -> nn.Module:
    """Build a network that maps (N, 3, 32, 32) in [0, 1] to logits (N, classes).

    data: "cifar10" or "cifar100".
    classes: number of classes.
    architecture: "resnet18" or "resnet50".
    params: how to read the checkpoint.
    weights: path of one checkpoint, or paths {"encoder": ..., "head": ...}.
    Raises UserError if a checkpoint does not match the network.
    """
    encoder, head = _files(weights, f"supervised/{data}-{architecture}")
    content = files.content(encoder)
    layout = _layout(content, params, encoder_only=head is not None)
    net = _network(architecture, classes, params, layout)
    classifier = net.fc
    if head is not None:
        net.fc = nn.Identity()
    _fill(net, encoder, content, layout, params)
    if head is not None:
        found = files.content(head)
        files.fill(classifier, head, found, [replace(_HEADS, inside=files.inside(found))])
        net.fc = classifier
    return normalized(net, *_normalisation(data, params, content, layout))


def trunk(data: str, architecture: str, params: Cifar, weights: Any) -> nn.Module:
    """Build a network without its classifier that maps (N, 3, 32, 32) in [0, 1] to features (N, D).

    data, architecture, params: see `build`.
    weights: path of a checkpoint, which needs no classifier and may have other heads; or paths as `build` takes them,
        of which the encoder is used.
    Raises UserError if a tensor is missing, or if one is left over in a part that the network has.
    """
    name = f"{data}-{architecture}"
    path = _files(weights, f"supervised/{name}")[0]
    content = files.content(path)
    layout = _layout(content, params, encoder_only=False, keeps_others=True)
    net = _network(architecture, 1, params, layout)
    net.fc = nn.Identity()
    files.fill_trunk(net, path, content, [layout], network=name)
    return normalized(net, *_normalisation(data, params, content, layout))


def _network(architecture: str, classes: int, params: Cifar, layout: Layout) -> Any:
    """Return torchvision's ResNet with a 3x3 stem and without the max-pool, on the meta device."""
    with torch.device("meta"):
        net = getattr(models, architecture)(num_classes=classes)
        net.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=_padding(params, layout.name), bias=False)
    net.maxpool = nn.Identity()
    return net


def _files(weights: Any, name: str) -> tuple[Path, Path | None]:
    if not isinstance(weights, Mapping):
        return Path(weights), None
    if set(weights) != {"encoder", "head"}:
        given = ", ".join(weights)
        raise UserError(
            f"{name} takes an encoder and a head, not {given}. "
            f"Try: set `weights: {{encoder: ./a.pth, head: ./b.pth}}` in the suite"
        )
    return weights["encoder"], weights["head"]


def _recognised(content: Any) -> str:
    """Return the name of the layout recognised by the file's keys; torchvision's if no other is recognised."""
    keys = files.keys(unstripped(content))

    def any_contains(*parts: str) -> bool:
        return any(part in f".{key}" for key in keys for part in parts)

    if any_contains(".bn_list.", ".normalize."):
        return "acl"
    if any_contains(".shortcut."):
        if any_contains(".encoder."):
            return "supcontrast"
        return (
            "rocl" if "rng_state" in whole(content) else "kuangliu"
        )  # RoCL's scripts also save the random generator's state
    has_parts = any_contains(".encoder.") and any_contains(".momentum_", ".projector.", ".classifier.", ".predictor.")
    return "solo-learn" if any_contains(".backbone.") or has_parts else "torchvision"


def _layout(content: Any, params: Cifar, encoder_only: bool, keeps_others: bool = False) -> Layout:
    """Return the layout for reading a file.

    encoder_only: whether to drop the file's classifier or projection head.
    keeps_others: whether to keep solo-learn's projectors, momentum encoders and queues.
    """
    name = _recognised(content) if params.layout == "auto" else params.layout
    layout = replace(_LAYOUTS[name], inside=files.inside(content))
    if encoder_only:
        layout = replace(layout, drop=(*layout.drop, *_PROJECTION.get(name, (r"fc\.",))))
    names = [key.removeprefix("module.") for key in files.keys(content)]
    if name == "solo-learn" and not keeps_others and any(key.startswith(_SOLO_LEARN_PREFIXES) for key in names):
        others = (f"{re.escape(name)}$" for name in names if not name.startswith(_SOLO_LEARN_PREFIXES))
        layout = replace(layout, drop=(*layout.drop, *others))
    if name == "acl":
        used, unused = {"normal": (0, 1), "pgd": (1, 0)}[params.branch]
        branches = (
            (rf"\.bn_list\.{used}\.", "."),
            (r"\.downsample\.conv\.", ".downsample.0."),
            (r"\.downsample\.bn\.", ".downsample.1."),
        )
        layout = replace(layout, rename=branches, drop=(*layout.drop, rf".*\.bn_list\.{unused}\."))
    return layout


def _fill(net: nn.Module, path: Path, content: Any, layout: Layout, params: Cifar) -> None:
    own = deepcopy(net)
    try:
        files.fill(net, path, content, [layout])
    except StateMismatch as error:
        message = re.sub(r" Try: .*$", "", str(error))
        recognised = _recognised(content)
        if recognised != layout.name and _fits(own, path, content, replace(params, layout=cast(Any, recognised))):
            raise UserError(
                f"{message} The keys belong to another layout. Try: set `layout: {recognised}` in the suite"
            ) from None
        classifier = {f"fc.{name}" for name in net.fc.state_dict()}  # type: ignore[union-attr]
        shape = (net.fc.out_features, net.fc.in_features) if classifier else ()  # type: ignore[union-attr]
        is_encoder = set(error.missing) == classifier and not error.shapes
        if classifier and is_encoder and shape not in error.unexpected.values():
            hint = f"set `weights: {{encoder: {path}, head: ./head.pth}}` in the suite"
            raise UserError(f"{message} Only the classifier is missing. Try: {hint}") from None
        raise


def _fits(net: nn.Module, path: Path, content: Any, params: Cifar) -> bool:
    """Return whether a file fits by the layout of the parameters, at least with its encoder."""
    encoder_only = not isinstance(net.fc, nn.Linear)
    try:
        files.fill(net, path, content, [_layout(content, params, encoder_only)])
    except StateMismatch as error:
        return error.layout is not None and not error.shapes and all(name.startswith("fc.") for name in error.missing)
    except UserError:
        return False
    return True


def _padding(params: Cifar, layout: str) -> int:
    """Return the padding of the first convolution."""
    if params.stem_padding == "auto":
        return 2 if layout == "solo-learn" else 1
    return params.stem_padding


def _normalisation(data: str, params: Cifar, content: Any, layout: Layout) -> Normalization:
    """Return the normalisation of the parameters, of the file or of the layout.

    data: "cifar10" or "cifar100".
    """
    none, imagenet, cifar = (NORMALIZATIONS[name] for name in ("none", "imagenet", data.replace("cifar", "cifar-")))
    if params.normalize != "auto":
        return {"cifar": cifar, "imagenet": imagenet, "none": none}[params.normalize]
    if layout.name == "acl":  # the networks normalise with buffers that the file contains
        buffers = state(content, replace(layout, rename=(), drop=(r"(?!normalize\.)",)))
        return (buffers["normalize.mean"].tolist(), buffers["normalize.std"].tolist()) if buffers else imagenet
    return {"rocl": none, "solo-learn": SOLO_LEARN}.get(layout.name, cifar)
