"""Tables of torchvision's and timm's ImageNet weights, written by tables/make_tables.py; read without the libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]


@cache
def torchvision() -> Mapping[str, Entry]:
    """Return model name, e.g. "resnet50-v2" -> entry.

    Keys of an entry: builder, url, sha256, resize, crop, interpolation, mean, std, top1, licence, paper, classifier.
    """
    table: Mapping[str, Entry] = _read("torchvision")["models"]
    return table


@cache
def timm() -> Mapping[str, Entry]:
    """Return timm's name of weights, "architecture.tag" -> entry.

    Keys of an entry: hub, url, size, resize, squash, interpolation, mean, std, licence, paper, classifier, and top1,
    which is None if timm lists no accuracy.
    """
    content = _read("timm")
    accuracies = content["accuracies"]
    return {name: {**entry, "top1": accuracies.get(name)} for name, entry in content["models"].items()}


@cache
def timm_names() -> Mapping[str, str]:
    """Return name with or without a tag -> name of the weights that timm uses for it."""
    defaults = _read("timm")["defaults"]
    return {**{name: f"{name}.{tag}" for name, tag in defaults.items()}, **{name: name for name in timm()}}


@cache
def timm_architectures() -> Mapping[str, int]:
    """Return timm's architecture -> input size in pixels, also of those without weights for ImageNet-1k."""
    sizes: Mapping[str, int] = _read("timm")["architectures"]
    return sizes


@cache
def _read(name: str) -> Any:
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
