"""torchvision's and timm's networks with weights from files, built-in normalisation and exposed features."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from robharness import UserError, normalized
from robharness.checkpoints import Layout, State, StateMismatch
from robharness.specs.conventions import NORMALIZATIONS, Normalization
from robharness_supervised import files, tables

if TYPE_CHECKING:
    from robharness_supervised import Timm, Torchvision

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile add to every key."""
OLD_NAMES = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),
    (r"\.mlp\.linear_1\.", ".mlp.0."),
    (r"\.mlp\.linear_2\.", ".mlp.3."),
)
"""Old layer names in torchvision's files of DenseNets and vision transformers -> current names."""
INCEPTION: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and std of Inception's training, which many transformers of timm share."""
AUXILIARY = (r"aux[12]\.", r"AuxLogits\.")
"""Keys of the auxiliary classifiers of GoogLeNet and Inception, which only training uses."""


def build_torchvision(name: str, params: Torchvision, weights: Any) -> nn.Module:
    """Build a network of torchvision that maps (N, 3, size, size) in [0, 1] to logits (N, 1000).

    name: key of the table, e.g. "resnet50-v2".
    weights: path of a checkpoint: a state dict, directly or under a key, with or without the prefix "module.".
    Raises UserError if the checkpoint does not match the network exactly.
    """
    entry, path = tables.torchvision()[name], files.one(weights, f"supervised/{name}")
    net, content = _torchvision(entry, params), files.content(path)
    files.fill(_strict(net, entry), path, content, [_torchvision_layout(entry, content)])
    mean, std = _normalization(params, (entry["mean"], entry["std"]))
    return normalized(with_features(net, entry["classifier"]), mean, std)


def trunk_torchvision(name: str, params: Torchvision, weights: Any) -> nn.Module:
    """Build a network of torchvision without its classifier: (N, 3, size, size) in [0, 1] to features (N, D).

    weights: path of a checkpoint, which needs no classifier and may have other heads. Names are torchvision's, or the
        numbers of the children in a sequence, as encoders are made by `nn.Sequential(*net.children())`.
    Raises UserError if a tensor is missing, or if one is left over in a part that the network has.
    """
    entry, path = tables.torchvision()[name], files.one(weights, f"supervised/{name}")
    net, content = _torchvision(entry, params), files.content(path)
    net.set_submodule(entry["classifier"], nn.Identity())
    layout = _torchvision_layout(entry, content)
    numbers = tuple((rf"^{at}\.", f"{child}.") for at, (child, _) in enumerate(net.named_children()))
    layouts = [layout, replace(layout, name="children by number", rename=numbers)]
    files.fill_trunk(_strict(net, entry), path, content, layouts, network=name, removed=[entry["classifier"]])
    return normalized(nn.Sequential(net, nn.Flatten()), *_normalization(params, (entry["mean"], entry["std"])))


def _torchvision(entry: tables.Entry, params: Torchvision) -> Any:
    """Return the network with initial weights, which are drawn and overwritten: some cannot be on the meta device."""
    from torchvision import models

    builder, options = entry["builder"], dict[str, Any]()
    if _has_auxiliary(entry):  # torchvision also sets transform_input if it loads weights
        options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    if builder.startswith("vit"):
        options = {"image_size": params.size or entry["crop"]}
    with torch.random.fork_rng(devices=[]):
        return models.get_model(builder, weights=None, **options)


def _has_auxiliary(entry: tables.Entry) -> bool:
    return entry["builder"] in ("googlenet", "inception_v3")


def _strict(net: nn.Module, entry: tables.Entry) -> nn.Module:
    """Return the module to fill: MNASNet refuses a state dict without a version, which its layers accept."""
    return nn.ModuleDict(dict(net.named_children())) if entry["builder"].startswith("mnasnet") else net


def _torchvision_layout(entry: tables.Entry, content: Any) -> Layout:
    return Layout(
        name="torchvision",
        inside=files.inside(content),
        prefixes=PREFIXES,
        rename=OLD_NAMES,
        drop=AUXILIARY if _has_auxiliary(entry) else (),
    )


def build_timm(params: Timm, weights: Any) -> nn.Module:
    """Build a network of timm that maps (N, channels, size, size) in [0, 1] to logits (N, 1000).

    weights: path of a checkpoint from timm, from the hub, or in an authors' layout that timm can convert. It contains a
        state dict, directly or under a key.
    Raises UserError if the checkpoint does not match the network exactly.
    """
    entry, path = tables.timm()[str(params.weights)], files.one(weights, "supervised/timm")
    net = _filled_timm(params, path, files.content(path))
    mean, std = _normalization(params, (entry["mean"], entry["std"]))
    return normalized(with_features(net, entry["classifier"]), mean, std)


def trunk_timm(params: Timm, weights: Any) -> nn.Module:
    """Build a network of timm without its classifier: (N, channels, size, size) in [0, 1] to features (N, D).

    weights: path of a checkpoint, which needs no classifier and may have other heads. With timm's classifier, it is
        read as `build_timm` does, where that is needed.
    Raises UserError if a tensor is missing, or if one is left over in a part that the network has.
    """
    path = files.one(weights, "supervised/timm")
    content, net = files.content(path), _created(params, num_classes=0)
    entry = tables.timm()[params.weights] if params.weights else {}
    classifier = entry.get("classifier")
    removed = [classifier] if classifier else []
    layout = Layout(name="timm", inside=files.inside(content), prefixes=PREFIXES)
    try:
        left_over = files.fill_trunk(net, path, content, [layout], network=params.name, removed=removed)
        has_classifier = f"{classifier}.weight" in left_over.names
    except StateMismatch as error:
        net, has_classifier = _converted_trunk(params, path, content, error), True
    own = (entry["mean"], entry["std"]) if has_classifier else NORMALIZATIONS["imagenet"]
    return normalized(nn.Sequential(net, nn.Flatten()), *_normalization(params, own))


def _converted_trunk(params: Timm, path: Path, content: Any, error: StateMismatch) -> Any:
    """Return the trunk of a checkpoint with timm's classifier in a layout that timm can convert, or raise the error."""
    if params.weights is None:
        raise error
    try:
        net = _filled_timm(params, path, content)
    except UserError:
        raise error from None
    net.reset_classifier(0)
    return net


def _filled_timm(params: Timm, path: Path, content: Any) -> Any:
    """Return a network with its classifier, filled from timm's layout or from one that timm can convert."""
    net = _created(params)
    fields: dict[str, Any] = {"inside": files.inside(content), "prefixes": PREFIXES}
    own = Layout(name="timm", **fields)
    converted = Layout(name="converted by timm", convert=partial(_converted, params), **fields)
    files.fill(net, path, content, [own, converted])
    return net


def _created(params: Timm, **options: Any) -> Any:
    """Return a network of timm with initial weights, which are drawn and overwritten.

    Raises UserError if the installed timm lacks it, or if it does not take the size.
    """
    timm, name = _timm(), params.weights or params.name
    if params.channels != 3:
        options["in_chans"] = params.channels
    try:
        with torch.random.fork_rng(devices=[]):
            if params.size is not None:
                try:
                    return timm.create_model(name, img_size=params.size, **options)
                except TypeError as error:
                    if "img_size" not in str(error):
                        raise
            return timm.create_model(name, **options)  # a network of convolutions takes any size
    except RuntimeError as error:
        raise UserError(f"timm {timm.__version__} has no '{name}': {error}. Try: pip install -U timm") from error
    except (TypeError, ValueError, AssertionError) as error:
        given = f"size={params.size}, channels={params.channels}"
        raise UserError(f"timm's {name} does not take {given}: {error}. Try: leave `size` out of the suite") from error


def _normalization(params: Timm | Torchvision, own: Normalization) -> Normalization:
    """Return mean and std per channel: those that the options choose, or the network's own."""
    if not isinstance(params.normalize, str):
        return params.normalize
    if params.normalize == "none":
        channels = getattr(params, "channels", 3)
        return [0.0] * channels, [1.0] * channels
    known = {"cifar": NORMALIZATIONS["cifar-10"], "inception": INCEPTION, "imagenet": NORMALIZATIONS["imagenet"]}
    return known.get(params.normalize, own)


def _converted(params: Timm, state: State) -> State:
    """Convert a state dict in the authors' layout with timm; tensors that timm would resample are left unchanged."""
    overlay = {"state_dict": dict(state)}
    try:
        with torch.random.fork_rng(devices=[]):
            net = _timm().create_model(params.weights, pretrained=True, pretrained_cfg_overlay=overlay)
            state_dict = net.state_dict()
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
