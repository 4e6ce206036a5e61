"""Architectures and published weights of CLIP: open_clip's table, written by tables/make_table.py, and RobustVLM's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from robharness.specs import conventions

NORMALIZATIONS: Mapping[str, conventions.Normalization] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    **{name: conventions.NORMALIZATIONS[name] for name in ("imagenet", "none")},
}
"""Name -> mean and standard deviation per channel. Source of "clip": OpenAI's CLIP."""

_ROBUST_FILES = "https://nc.mlcloud.uni-tuebingen.de/index.php/s"
_ROBUST: Mapping[str, tuple[str, str]] = {
    "ViT-L-14 tecoa2": ("openai", f"{_ROBUST_FILES}/5SQzfAbp8JHS3o7/download/tecoa_eps_2.pt"),
    "ViT-L-14 tecoa4": ("openai", f"{_ROBUST_FILES}/92req4Pak5i56tX/download/tecoa_eps_4.pt"),
    "ViT-L-14 fare2": ("openai", f"{_ROBUST_FILES}/d83Lqm8Jpowxp4m/download/fare_eps_2.pt"),
    "ViT-L-14 fare4": ("openai", f"{_ROBUST_FILES}/jnQ2qmp9tst8kyQ/download/fare_eps_4.pt"),
    "ViT-B-32 tecoa1": ("openai", f"{_ROBUST_FILES}/LHgi84RskrtYCiX/download/vitb32_tecoa_eps_1.pt"),
    "ViT-B-32 fare1": ("openai", f"{_ROBUST_FILES}/cCgQAS8QW9arj9d/download/vitb32_fare_eps_1.pt"),
    "ViT-B-32 tecoa4": ("openai", f"{_ROBUST_FILES}/RiWGQzBrqYNCaDk/download/vitb32_tecoa_eps_4.pt"),
    "ViT-B-32 fare4": ("openai", f"{_ROBUST_FILES}/3nMxBKEwbWnDymT/download/vitb32_fare_eps_4.pt"),
}
"""Architecture and tag -> the tag of the text tower, and the file of the fine-tuned image tower. Source: RobustVLM's
README. The number is the training's eps, in 255ths."""

LICENCES = {"openai": "MIT (openai/CLIP)"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published weights.

    url: of the file with both towers.
    name: of that file in `<data root>/weights`.
    visual: url of a file with another image tower; empty if the first file has the right one.
    mean, std: of the training, per channel.
    interpolation, resize_mode: of open_clip's preprocessing; "shortest" resizes the shorter side, "squash" both sides.
    quickgelu: whether the towers compute GELU by OpenAI's approximation.
    top1: zero-shot accuracy on ImageNet, a fraction; None if it is not published.
    licence: of the weights, as far as known here.
    """

    url: str
    name: str
    visual: str = ""
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str
    resize_mode: str
    quickgelu: bool
    top1: float | None
    licence: str


def architectures() -> Mapping[str, int]:
    """Return the name of an architecture -> its input size in pixels."""
    sizes: Mapping[str, int] = _read()["architectures"]
    return sizes


def tags(name: str) -> list[str]:
    """Return the tags of an architecture's published weights."""
    keys = [*_read()["published"], *_ROBUST]
    return [key.partition(" ")[2] for key in keys if key.startswith(f"{name} ")]


def published(name: str, tag: str) -> Published:
    """Return the published weights of an architecture. Raises KeyError if there is no such tag."""
    key = f"{name} {tag}"
    if key in _ROBUST:
        base, url = _ROBUST[key]
        licence = "as stated at https://github.com/chs20/RobustVLM"
        return replace(published(name, base), visual=url, top1=None, licence=licence)
    entry = _read()["published"][key]
    repository, _, file = entry["hub"].rpartition("/")
    page, file = f"https://huggingface.co/{repository}", file or "open_clip_pytorch_model.bin"
    return Published(
        url=f"{page}/resolve/main/{file}",
        name=f"clip-{name}-{tag}{Path(file).suffix}",
        mean=entry["mean"],
        std=entry["std"],
        interpolation=entry["interpolation"],
        resize_mode=entry["resize_mode"],
        quickgelu=entry["quickgelu"],
        top1=_read()["accuracies"].get(key),
        licence=LICENCES.get(tag, f"as stated at {page}"),
    )


@cache
def _read() -> Any:
    return json.loads(Path(__file__).with_name("open_clip.json").read_text(encoding="utf-8"))
