"""torchvision's and timm's networks, filled from files, with their normalisation inside and their features exposed."""

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
"""What DataParallel and torch.compile put before every key."""
OLD_NAMES = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),
    (r"\.mlp\.linear_1\.", ".mlp.0."),
    (r"\.mlp\.linear_2\.", ".mlp.3."),
)
"""torchvision's files of DenseNets and vision transformers are older than the names of their layers."""
AUXILIARY = (r"aux[12]\.", r"AuxLogits\.")
"""Classifiers of GoogLeNet and Inception that serve training alone."""


def of_torchvision(name: str, weights: Any) -> nn.Module:
    """The network called `name` here, e.g. "resnet50-v2": (N, 3, crop, crop) in [0, 1] -> logits (N, 1000).

    weights: a file of torchvision's or one's own, the state bare or nested, with or without "module.". Raises UserError
    where it does not fit exactly.
    """
    from torchvision import models

    entry, path = tables.torchvision()[name], files.one(weights, f"supervised/{name}")
    builder, options = entry["builder"], {}
    if builder in ("googlenet", "inception_v3"):  # torchvision sets transform_input, too, where it loads its weights
        options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    if builder.startswith("vit"):
        options = {"image_size": entry["crop"]}
    # The initial weights, to be overwritten, are drawn: not all of torchvision can be built on the meta device.
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
    # MNASNet itself refuses a state that does not say its version; its layers do not.
    target = nn.ModuleDict(dict(net.named_children())) if builder.startswith("mnasnet") else net
    files.fill(target, path, content, [layout])
    return normalized(with_features(net, entry["classifier"]), entry["mean"], entry["std"])


def of_timm(name: str, weights: Any) -> nn.Module:
    """timm's network for the weights `name`, e.g. "resnet50d.ra2_in1k": (N, 3, size, size) in [0, 1] -> (N, 1000).

    weights: a file as timm or the hub has it, or as the authors do where timm knows how to convert theirs; the state
    bare or nested. Raises UserError where it does not fit exactly.
    """
    timm = _timm()
    entry, path = tables.timm()[name], files.one(weights, "supervised/timm")
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights, to be overwritten, are drawn
            net = timm.create_model(name)
    except RuntimeError as error:
        raise UserError(f"timm {timm.__version__} has no '{name}': {error}. Try: pip install -U timm") from error
    content = files.content(path)
    where: dict[str, Any] = {"inside": files.inside(content), "prefixes": PREFIXES}
    as_is = Layout(name="timm", **where)
    converted = Layout(name="what timm converts", convert=partial(_converted, name), **where)
    files.fill(net, path, content, [as_is, converted])
    return normalized(with_features(net, entry["classifier"]), entry["mean"], entry["std"])


def _converted(name: str, state: State) -> State:
    """A state as its authors named it, by timm's own conversion; but what timm would resample stays as it is."""
    overlay = {"state_dict": dict(state)}
    try:
        with torch.random.fork_rng(devices=[]):
            made = _timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # conversions of many authors, each with assumptions of its own
        raise UserError(f"timm cannot convert it: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    return {
        **made,
        **{key: value for key, value in state.items() if key in made and made[key].numel() != value.numel()},
    }


def _timm() -> Any:
    """timm, without the warning that what timm 1.0.9 uses of torch is on its way out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return import_module("timm")


def with_features(net: nn.Module, classifier: str | None) -> nn.Module:
    """The network with the input of its classifier as a submodule's output, at `<classifier>.0`."""
    if classifier is not None:
        parent, _, name = classifier.rpartition(".")
        layer = net.get_submodule(classifier)
        setattr(net.get_submodule(parent), name, nn.Sequential(nn.Identity(), layer))
    return net
