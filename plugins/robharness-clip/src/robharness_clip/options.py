"""Options of CLIP's models, and the fields of their specs that follow from the options, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from robharness import Download, File, InputSpec, Preprocessing, UserError
from robharness.specs.conventions import LABEL_SPACES, Normalization
from robharness_clip import tables

NEEDS_HUB = ("hf_model_name", "hf_tokenizer_name")
"""Keys of a text tower whose tokeniser is no part of open_clip."""


@dataclass(frozen=True, kw_only=True)
class Visual:
    """Parameters of CLIP's image tower.

    name: architecture of open_clip, e.g. "ViT-B-32".
    config: file of another architecture, in JSON as open_clip writes it, instead of `name`.
    pretrained: tag of published weights, of open_clip (openai, laion2b_s34b_b79k, ...) or RobustVLM (fare2, tecoa4,
        ...). Weights of your own are used as these are: with their mean, std, preprocessing and activation.
    quickgelu: whether the towers compute GELU by OpenAI's approximation, as OpenAI's and RobustVLM's weights need it.
        "auto" follows `pretrained`, else the architecture. A file does not show which is right.
    normalize: mean and std of the training. "auto" follows `pretrained` or `config`, else CLIP's.
    Raises ValueError if open_clip has no such architecture or weights.
    """

    name: str = ""
    config: Path | None = None
    pretrained: str | None = None
    quickgelu: Literal["auto"] | bool = "auto"
    normalize: Literal["auto", "clip", "imagenet", "inception", "none"] = "auto"

    def __post_init__(self) -> None:
        if bool(self.name) == (self.config is not None):
            raise ValueError("one of `name` and `config` says which architecture CLIP has, such as name: ViT-B-32")
        if self.name and self.name not in tables.architectures():
            raise ValueError(f"there is no CLIP '{self.name}'{_nearest(self.name, list(tables.architectures()))}")
        if self.pretrained is not None and self.pretrained not in (tags := tables.tags(self.name)):
            owner = self.name or "an architecture of your own"
            known = f"; it has {', '.join(tags)}" if tags else ""
            raise ValueError(f"{owner} has no published weights '{self.pretrained}'{known}")


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Visual):
    """Parameters of CLIP's zero-shot classifier, beside those of its image tower.

    classnames: names of the classes, in the order of the labels: open_clip's for ImageNet, a list, or a text file with
        one name a line.
    labels: label space of the data; another one than ImageNet's needs `classnames`.
    templates: prompts. "openai-imagenet" are OpenAI's 80 for ImageNet, "simple" the best seven of these; or a list of
        texts with {} in place of the class. A class is the mean of its prompts.
    logit_scale: factor of the cosines; "published" is the one in the weights, 100 for most. It changes confidences and
        losses, and no prediction.
    Raises ValueError for a template without {}, or for classes of another number than the label space has.
    """

    classnames: Literal["imagenet"] | tuple[str, ...] | Path = "imagenet"
    labels: str = "imagenet-1k"
    templates: Literal["openai-imagenet", "simple"] | tuple[str, ...] = "openai-imagenet"
    logit_scale: Literal["published"] | float = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.templates, tuple):
            wrong = next(
                (
                    each
                    for each in self.templates
                    if each.replace("{}", "").strip("{}") != each.replace("{}", "") or "{}" not in each
                ),
                None,
            )
            if wrong is not None or not self.templates:
                raise ValueError(f"a template is a text with {{}} in place of the class; got {wrong!r}")
        if self.classnames == "imagenet" and self.labels != "imagenet-1k":
            raise ValueError(
                f"`classnames` are needed for '{self.labels}': a list, or a text file with one name a line"
            )
        if isinstance(self.classnames, tuple):
            check_classes(self.classnames, self.labels)
        if not isinstance(self.logit_scale, str) and not 0 < self.logit_scale < float("inf"):
            raise ValueError(f"logit_scale={self.logit_scale} must be above 0, or published")


def check_classes(names: tuple[str, ...], labels: str) -> None:
    """Raise ValueError for names that are empty, or whose number is not that of the label space."""
    if len(names) < 2 or not all(name.strip() for name in names):
        raise ValueError("`classnames` are at least two names that are not empty")
    if LABEL_SPACES.get(labels, len(names)) != len(names):
        raise ValueError(f"{labels} has {LABEL_SPACES[labels]} classes, and `classnames` are {len(names)}")


def architecture(params: Visual) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of an architecture of the user's own, and its preprocessing; empty ones for a name.

    Raises UserError if the file cannot be read, or if its text tower needs what open_clip does not hold.
    """
    if params.config is None:
        return {}, {}
    try:
        content = json.loads(params.config.read_text(encoding="utf-8"))
        config = dict(content.get("model_cfg", content))
        missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
        needs = [key for key in NEEDS_HUB if key in config.get("text_cfg", {})]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is no configuration in JSON"
        raise UserError(f"config: {params.config} cannot be read: {reason}. Try: ls -l {params.config}") from None
    if missing:
        raise UserError(f"config: {params.config} has no '{missing[0]}'. Try: less {params.config}")
    if needs or "multimodal_cfg" in config:
        what = needs[0] if needs else "multimodal_cfg"
        raise UserError(f"config: {params.config} has '{what}', which is not supported. Try: robharness list models")
    return config, dict(content.get("preprocess_cfg", {}))


def used(params: Visual) -> tables.Published | None:
    """Return the published weights as which the weights are used, or None."""
    return None if params.pretrained is None else tables.published(params.name, params.pretrained)


def normalization(params: Visual) -> Normalization:
    """Return mean and standard deviation per channel."""
    if params.normalize != "auto":
        return tables.NORMALIZATIONS[params.normalize]
    if found := used(params):
        return found.mean, found.std
    steps = architecture(params)[1]
    mean, std = tables.NORMALIZATIONS["clip"]
    return steps.get("mean", mean), steps.get("std", std)


def fields(params: Visual) -> dict[str, Any]:
    """Return the fields of a spec that follow from the architecture and from the published weights."""
    config, steps = architecture(params)
    found = used(params)
    size = config["vision_cfg"].get("image_size", 224) if config else tables.architectures()[params.name]
    resize = found.resize_mode if found else steps.get("resize_mode", "shortest")
    if not isinstance(size, int) or resize not in ("shortest", "squash"):
        raise UserError(
            f"config: {params.config} has an input that is not square, or that is padded, which is not supported. "
            f"Try: robharness list models"
        )
    weights: Any
    if found is None:
        published = tables.tags(params.name)
        tag = f"`pretrained: {published[0]}` or " if published else ""
        weights = File(path=f"weights/clip-{params.name or 'own'}.pt", get=f"set {tag}`weights: ./own.pt` in the suite")
    else:
        weights = Download(url=found.url, name=found.name)
    return {
        "input": InputSpec(shape=(3, size, size)),
        "weights": weights,
        "preprocessing": Preprocessing(
            resize=(size, size) if resize == "squash" else size,
            crop=size,
            interpolation=found.interpolation if found else steps.get("interpolation", "bicubic"),  # type: ignore[arg-type]
        ),
        "licence": found.licence if found else "that of your checkpoint",
    }


def zero_shot_fields(params: ZeroShot) -> Mapping[str, Any]:
    """Return the fields of the zero-shot classifier's spec that depend on its options."""
    given, found = fields(params), used(params)
    if found is not None and found.visual:
        given["weights"] = {"clip": given["weights"], "visual": Download(url=found.visual)}
    is_as_published = params.templates == "openai-imagenet" and params.classnames == "imagenet"
    expected = {"clean": found.top1} if found and found.top1 and is_as_published else {}
    return {**given, "labels": params.labels, "expected": expected}


def encoder_fields(params: Visual) -> Mapping[str, Any]:
    """Return the fields of the image tower's spec that depend on its options."""
    given, found = fields(params), used(params)
    if found is not None and found.visual:
        given["weights"] = Download(url=found.visual)
    return given


def _nearest(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
