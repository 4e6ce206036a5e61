"""torchvision's and timm's networks with weights from files, built-in normalisation and exposed features."""

from __future__ import annotations

import warnings
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from robharness import UserError, normalized
from robharness.checkpoints import Layout, State
from robharness_supervised import files, tables

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile add to every key."""
OLD_NAMES = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),
    (r"\.mlp\.linear_1\.", ".mlp.0."),
    (r"\.mlp\.linear_2\.", ".mlp.3."),
)
"""Old layer names in torchvision's files of DenseNets and vision transformers -> current names."""
AUXILIARY = (r"aux[12]\.", r"AuxLogits\.")
"""Keys of the auxiliary classifiers of GoogLeNet and Inception, which only training uses."""


def build_torchvision(name: str, weights: Any) -> nn.Module:
    """Build a network of torchvision that maps (N, 3, crop, crop) in [0, 1] to logits (N, 1000).

    name: key of the table, e.g. "resnet50-v2".
    weights: path of a checkpoint: a state dict, directly or under a key, with or without the prefix "module.".
    Raises UserError if the checkpoint does not match the network exactly.
    """
    from torchvision import models

    entry, path = tables.torchvision()[name], files.one(weights, f"supervised/{name}")
    builder, options = entry["builder"], {}
    if builder in ("googlenet", "inception_v3"):  # torchvision also sets transform_input if it loads weights
        options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    if builder.startswith("vit"):
        options = {"image_size": entry["crop"]}
    # Draw initial weights and overwrite them: some networks of torchvision cannot be built on the meta device.
    with torch.random.fork_rng(devices=[]):
        net = models.get_model(builder, weights=None, **options)
    content = files.content(path)
    layout = Layout(
        name="torchvision",
        inside=files.inside(content),
        prefixes=PREFIXES,
        rename=OLD_NAMES,
        drop=AUXILIARY if options.get("aux_logits") is False else (),
    )
    # MNASNet refuses a state dict without a version; its layers accept it.
    target = nn.ModuleDict(dict(net.named_children())) if builder.startswith("mnasnet") else net
    files.fill(target, path, content, [layout])
    return normalized(with_features(net, entry["classifier"]), entry["mean"], entry["std"])


def build_timm(name: str, weights: Any) -> nn.Module:
    """Build a network of timm that maps (N, 3, size, size) in [0, 1] to logits (N, 1000).

    name: architecture and tag of the weights, e.g. "resnet50d.ra2_in1k".
    weights: path of a checkpoint from timm, from the hub, or in an authors' layout that timm can convert. It contains a
        state dict, directly or under a key.
    Raises UserError if the checkpoint does not match the network exactly.
    """
    timm = _timm()
    entry, path = tables.timm()[name], files.one(weights, "supervised/timm")
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn and overwritten
            net = timm.create_model(name)
    except RuntimeError as error:
        raise UserError(f"timm {timm.__version__} has no '{name}': {error}. Try: pip install -U timm") from error
    content = files.content(path)
    fields: dict[str, Any] = {"inside": files.inside(content), "prefixes": PREFIXES}
    own = Layout(name="timm", **fields)
    converted = Layout(name="converted by timm", convert=partial(_converted, name), **fields)
    files.fill(net, path, content, [own, converted])
    return normalized(with_features(net, entry["classifier"]), entry["mean"], entry["std"])


def _converted(name: str, state: State) -> State:
    """Convert a state dict in the authors' layout with timm; tensors that timm would resample are left unchanged."""
    overlay = {"state_dict": dict(state)}
    try:
        with torch.random.fork_rng(devices=[]):
            state_dict = _timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # timm's conversions raise many types of exceptions
        raise UserError(
            f"timm cannot convert the checkpoint: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    return {
        **state_dict,
        **{
            key: value for key, value in state.items() if key in state_dict and state_dict[key].numel() != value.numel()
        },
    }


def _timm() -> Any:
    """Import timm without the FutureWarning about deprecated functions of torch that timm 1.0.9 uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return import_module("timm")


def with_features(net: nn.Module, classifier: str | None) -> nn.Module:
    """Insert an identity `<classifier>.0`, whose output is the classifier's input; return the network."""
    if classifier is not None:
        parent, _, name = classifier.rpartition(".")
        layer = net.get_submodule(classifier)
        setattr(net.get_submodule(parent), name, nn.Sequential(nn.Identity(), layer))
    return net
