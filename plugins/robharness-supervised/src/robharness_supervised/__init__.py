"""Supervised classifiers: torchvision and timm models by name, and CIFAR ResNets in several publishers' layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from robharness import Download, File, InputSpec, ModelSpec, Preprocessing, hookimpl
from robharness_supervised import tables

if TYPE_CHECKING:
    from torch import nn

BGR: Mapping[str, Mapping[str, Any]] = {"BGR": {"preprocessing": {"channel_order": "bgr"}}}
"""Alternative channel order: a mistake with own checkpoints that neither loading nor looking at the images reveals."""


@dataclass(frozen=True, kw_only=True)
class Timm:
    """Parameters of a timm model.

    name: argument of `timm.create_model`, e.g. "resnet50d.ra2_in1k"; without a tag, timm's default weights are used.
    Raises ValueError if timm has no such model with weights for ImageNet-1k.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in tables.timm_names():
            close = get_close_matches(self.name, tables.timm_names(), n=1, cutoff=0.6)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"timm has no '{self.name}' with weights for ImageNet's 1000 classes{hint}")


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
        weights=Download(url=entry["url"], sha256=entry["sha256"]),
        preprocessing=Preprocessing(resize=entry["resize"], crop=entry["crop"], interpolation=entry["interpolation"]),
        features=_features(entry),
        expected={"clean": round(entry["top1"] / 100, 5)},
        alternatives=BGR,
        licence=entry["licence"] or "BSD-3-Clause (torchvision); trained on ImageNet, under its terms",
        paper=entry["paper"],
    )


def _timm(params: Timm) -> Mapping[str, Any]:
    name = tables.timm_names()[params.name]
    entry = tables.timm()[name]
    hub, resize, size = entry["hub"], entry["resize"], entry["size"]
    page = f"https://huggingface.co/{hub}" if hub else entry["url"]
    url = f"{page}/resolve/main/model.safetensors" if hub else page
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


def _build_torchvision(name: str, params: None, weights: Any) -> nn.Module:
    from robharness_supervised import networks

    return networks.build_torchvision(name, weights)


def _build_timm(params: Timm, weights: Any) -> nn.Module:
    from robharness_supervised import networks

    return networks.build_timm(tables.timm_names()[params.name], weights)


def _build_cifar(data: str, classes: int, architecture: str, params: Cifar, weights: Any) -> nn.Module:
    from robharness_supervised import cifar

    return cifar.build(data, classes, architecture, params, weights)
