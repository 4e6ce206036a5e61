"""Supervised classifiers: torchvision and timm models by name, and CIFAR ResNets in several publishers' layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from robharness import Download, File, InputSpec, ModelSpec, Preprocessing, hookimpl
from robharness.specs.conventions import NO_LABELS
from robharness_supervised import tables

if TYPE_CHECKING:
    from torch import nn

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Named = Literal["auto", "imagenet", "inception", "cifar", "none"]
"""Name of a mean and std per channel."""
Numbers = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std per channel, on the [0, 1] scale."""
BGR: Mapping[str, Mapping[str, Any]] = {"BGR": {"preprocessing": {"channel_order": "bgr"}}}
"""Alternative channel order: a mistake with own checkpoints that neither loading nor looking at the images reveals."""


@dataclass(frozen=True, kw_only=True)
class Timm:
    """Parameters of a timm model.

    name: argument of `timm.create_model`, e.g. "resnet50d.ra2_in1k"; without a tag, timm's default weights are used. An
        architecture without weights for ImageNet-1k is an encoder alone, for a checkpoint of your own.
    normalize: mean and std of the training, by name or as numbers. "auto" is timm's for weights that have its
        classifier, and ImageNet's for a checkpoint without, as an encoder.
    size: side of the input in pixels; timm's if None. Images are resized to it, without a crop.
    channels: of the input; others than 3 need `normalize: none`, or numbers.
    Raises ValueError if timm has no such model, or for numbers that do not fit the channels.
    """

    name: str
    normalize: Named | Numbers = "auto"
    size: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        known = {**tables.timm_names(), **tables.timm_architectures()}
        if self.name not in known:
            close = get_close_matches(self.name, known, n=1, cutoff=0.6)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"timm has no '{self.name}' with weights for ImageNet's 1000 classes{hint}")
        check_input(self.normalize, self.size, self.channels)

    @property
    def weights(self) -> str | None:
        """The name of timm's weights for ImageNet-1k; None for an architecture that has none."""
        return tables.timm_names().get(self.name)


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """Parameters of a torchvision model.

    normalize: mean and std of the training, by name or as numbers; "auto" is torchvision's.
    size: side of the input in pixels; torchvision's if None. Images are resized to it, without a crop.
    Raises ValueError for numbers that do not fit three channels.
    """

    normalize: Named | Numbers = "auto"
    size: int | None = None

    def __post_init__(self) -> None:
        check_input(self.normalize, self.size, 3)


def check_input(normalize: Named | Numbers, size: int | None, channels: int) -> None:
    """Raise ValueError for an input that no network can have."""
    if size is not None and not 8 <= size <= 4096:
        raise ValueError(f"size={size} must be from 8 to 4096 pixels")
    if not 1 <= channels <= 1024:
        raise ValueError(f"channels={channels} must be from 1 to 1024")
    if isinstance(normalize, str):
        if channels != 3 and normalize != "none":
            raise ValueError(f"channels={channels} need `normalize: none`, or [[MEAN, ...], [STD, ...]]")
    elif not all(len(numbers) == channels for numbers in normalize) or min(normalize[1]) <= 0:
        raise ValueError(f"normalize is the mean and the std of {channels} channels, [[MEAN, ...], [STD, ...]]")


@dataclass(frozen=True, kw_only=True)
class Cifar:
    """Parameters for reading a checkpoint of a CIFAR ResNet.

    layout: publisher whose layout the checkpoint has; "auto" recognises it by the keys.
    normalize: mean and std of the training. "auto" follows the layout: CIFAR's for supcontrast, kuangliu, torchvision
        and solo-learn, none for rocl, those in the file for acl.
    branch: which of acl's two BatchNorms to use: "normal" for clean images, "pgd" for attacked images.
    stem_padding: padding of the first convolution, which a file does not show; "auto" is 2 for solo-learn, otherwise 1.
    """

    layout: Literal["auto", "supcontrast", "rocl", "acl", "kuangliu", "torchvision", "solo-learn"] = "auto"
    normalize: Literal["auto", "cifar", "imagenet", "none"] = "auto"
    branch: Literal["normal", "pgd"] = "pgd"
    stem_padding: Literal["auto", 1, 2] = "auto"


CIFAR_ALTERNATIVES: Mapping[str, Mapping[str, Any]] = {
    "CIFAR's mean and std": {"normalize": "cifar"},
    "ImageNet's mean and std": {"normalize": "imagenet"},
    "no normalisation": {"normalize": "none"},
    "normal BatchNorm of ACL": {"branch": "normal"},
    "pgd BatchNorm of ACL": {"branch": "pgd"},
    "stem padding 1": {"stem_padding": 1},
    "stem padding 2": {"stem_padding": 2},
}


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for name, entry in tables.torchvision().items():
        yield _torchvision(name, entry)
    yield ModelSpec(
        name="timm",
        summary="timm models by name, with weights for ImageNet-1k: {model: supervised/timm, name: resnet50d}",
        input=InputSpec(shape=(3, 224, 224)),
        labels="imagenet-1k",
        build=_build_timm,
        trunk="robharness_supervised.networks:trunk_timm",
        params=Timm,
        given=_timm,
        alternatives=BGR,
        licence="differs by model, see https://huggingface.co/timm",
    )
    for labels, classes in (("cifar-10", 10), ("cifar-100", 100)):
        for architecture in ("resnet18", "resnet50"):
            yield _cifar(labels, classes, architecture)


def _torchvision(name: str, entry: tables.Entry) -> ModelSpec:
    return ModelSpec(
        name=name,
        summary=f"torchvision's {name}, supervised on ImageNet, {entry['crop']} px",
        input=InputSpec(shape=(3, entry["crop"], entry["crop"])),
        labels="imagenet-1k",
        build=partial(_build_torchvision, name),
        trunk=partial(_trunk_torchvision, name) if entry["classifier"] else None,
        params=Torchvision,
        given=partial(_torchvision_input, entry["crop"], entry["interpolation"]),
        weights=Download(url=entry["url"], sha256=entry["sha256"]),
        preprocessing=Preprocessing(resize=entry["resize"], crop=entry["crop"], interpolation=entry["interpolation"]),
        features=_features(entry),
        expected={"clean": round(entry["top1"] / 100, 5)},
        alternatives=BGR,
        licence=entry["licence"] or "BSD-3-Clause (torchvision); trained on ImageNet, under its terms",
        paper=entry["paper"],
    )


def _torchvision_input(crop: int, interpolation: Interpolation, params: Torchvision) -> Mapping[str, Any]:
    return {} if params.size in (None, crop) else _resized(params.size, 3, interpolation)


def _resized(size: int, channels: int, interpolation: Interpolation) -> dict[str, Any]:
    """Return the input and the preprocessing for an input of another size or other channels."""
    steps = Preprocessing(resize=(size, size), interpolation=interpolation)
    return {"input": InputSpec(shape=(channels, size, size)), "preprocessing": steps}


def _timm(params: Timm) -> Mapping[str, Any]:
    name = params.weights
    if name is None:
        size = params.size or tables.timm_architectures()[params.name]
        own = "set `weights: ./own.pt` for the encoder"
        return {
            **_resized(size, params.channels, "bicubic"),
            "labels": NO_LABELS,
            "features": "",
            "weights": File(path=f"weights/{params.name}.pt", get=own),
            "licence": "that of your checkpoint",
        }
    entry = tables.timm()[name]
    hub, resize, size = entry["hub"], entry["resize"], entry["size"]
    page = f"https://huggingface.co/{hub}" if hub else entry["url"]
    url = f"{page}/resolve/main/model.safetensors" if hub else page
    is_own = params.size not in (None, size) or params.channels != 3
    return {
        "input": InputSpec(shape=(3, size, size)),
        "weights": Download(url=url, name=f"timm-{name}{'.safetensors' if hub else '.pth'}"),
        "preprocessing": Preprocessing(
            resize=(resize, resize) if entry["squash"] else resize, crop=size, interpolation=entry["interpolation"]
        ),
        "features": _features(entry),
        "expected": {} if entry["top1"] is None else {"clean": round(entry["top1"] / 100, 5)},
        "licence": entry["licence"] or f"as stated at {page}",
        "paper": entry["paper"],
        **(_resized(params.size or size, params.channels, entry["interpolation"]) if is_own else {}),
    }


def _features(entry: tables.Entry) -> str | None:
    """Return the submodule whose output is the classifier's input; `networks.with_features` inserts it."""
    return f"1.{entry['classifier']}.0" if entry["classifier"] else None


def _cifar(labels: str, classes: int, architecture: str) -> ModelSpec:
    data = labels.replace("-", "")
    name = f"{data}-{architecture}"
    return ModelSpec(
        name=name,
        summary=f"{architecture.replace('resnet', 'ResNet-')} for CIFAR-{classes} (3x3 stem), from your checkpoint",
        input=InputSpec(shape=(3, 32, 32)),
        labels=labels,
        build=partial(_build_cifar, data, classes, architecture),
        trunk=partial(_trunk_cifar, data, architecture),
        weights=File(
            path=f"weights/{name}.pth",
            get="set `weights: ./own.pth` or `weights: {encoder: ./a.pth, head: ./b.pth}` in the suite",
        ),
        params=Cifar,
        features="1.avgpool",
        alternatives=CIFAR_ALTERNATIVES,
        licence="that of your checkpoint",
        paper="https://arxiv.org/abs/1512.03385",
    )


def _build_torchvision(name: str, params: Torchvision, weights: Any) -> nn.Module:
    from robharness_supervised import networks

    return networks.build_torchvision(name, params, weights)


def _trunk_torchvision(name: str, params: Torchvision, weights: Any) -> nn.Module:
    from robharness_supervised import networks

    return networks.trunk_torchvision(name, params, weights)


def _build_timm(params: Timm, weights: Any) -> nn.Module:
    from robharness_supervised import networks

    return (networks.build_timm if params.weights else networks.trunk_timm)(params, weights)


def _build_cifar(data: str, classes: int, architecture: str, params: Cifar, weights: Any) -> nn.Module:
    from robharness_supervised import cifar

    return cifar.build(data, classes, architecture, params, weights)


def _trunk_cifar(data: str, architecture: str, params: Cifar, weights: Any) -> nn.Module:
    from robharness_supervised import cifar

    return cifar.trunk(data, architecture, params, weights)
