"""What torchvision and timm say about their ImageNet weights, as tables/make_tables.py wrote it; read without them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]


@cache
def torchvision() -> Mapping[str, Entry]:
    """Our name of a model, e.g. "resnet50-v2" -> builder, url, sha256, resize, crop, interpolation, mean, std, top1,
    licence, paper, classifier."""
    table: Mapping[str, Entry] = _read("torchvision")["models"]
    return table


@cache
def timm() -> Mapping[str, Entry]:
    """timm's own name of weights, "architecture.tag" -> hub, url, size, resize, squash, interpolation, mean, std,
    licence, paper, classifier, and top1 where timm lists one."""
    content = _read("timm")
    accuracies = content["accuracies"]
    return {name: {**entry, "top1": accuracies.get(name)} for name, entry in content["models"].items()}


@cache
def timm_names() -> Mapping[str, str]:
    """All that timm takes for a name, with or without a tag -> the name of the weights it means."""
    defaults = _read("timm")["defaults"]
    return {**{name: f"{name}.{tag}" for name, tag in defaults.items()}, **{name: name for name in timm()}}


@cache
def _read(name: str) -> Any:
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text())
