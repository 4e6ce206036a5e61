"""Models of RobustBench, from a table that `generate.py` writes: names, files, preprocessing, published accuracies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from robharness import Download, File, Preprocessing

TABLE = Path(__file__).with_name("zoo.json")
"""Table {zoo: {name: entry}}; an entry has fields of `Published`, among them "drive" or "url"."""


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """Models for one data set and threat model.

    dataset: RobustBench's name of the data set.
    threat: RobustBench's name of the threat model.
    summary: description for listings.
    labels: label space.
    classes: number of classes.
    side: height and width of most models' input, in pixels.
    """

    dataset: str
    threat: str
    summary: str
    labels: str
    classes: int
    side: int

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.threat.lower()}"


_DATASETS: dict[str, dict[str, Any]] = {
    "cifar10": {"labels": "cifar-10", "classes": 10, "side": 32},
    "cifar100": {"labels": "cifar-100", "classes": 100, "side": 32},
    "imagenet": {"labels": "imagenet-1k", "classes": 1000, "side": 224},
}
ZOOS = tuple(
    Zoo(dataset=dataset, threat=threat, summary=summary, **_DATASETS[dataset])
    for dataset, threat, summary in (
        ("cifar10", "Linf", "CIFAR-10, linf 8/255"),
        ("cifar10", "L2", "CIFAR-10, l2 0.5"),
        ("cifar10", "corruptions", "CIFAR-10-C"),
        ("cifar100", "Linf", "CIFAR-100, linf 8/255"),
        ("cifar100", "corruptions", "CIFAR-100-C"),
        ("imagenet", "Linf", "ImageNet, linf 4/255"),
        ("imagenet", "corruptions", "ImageNet-C"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model of a zoo.

    zoo: the zoo.
    name: RobustBench's name of the model.
    expected: published accuracies, as fractions, by key of `ModelSpec.expected`.
    paper: link to the paper.
    drive: Google Drive ids of its files, several for an ensemble; empty if it has a url.
    url: url of its file, or empty.
    timm: name under which RobustBench registers it with timm, or empty.
    lenient: whether RobustBench accepts files without the normalisation constants or with keys that belong to no layer.
    preprocessing: preprocessing, or None.
    """

    zoo: Zoo
    name: str
    expected: Mapping[str, float]
    paper: str
    drive: tuple[str, ...] = ()
    url: str = ""
    timm: str = ""
    lenient: bool = False
    preprocessing: Preprocessing | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the input."""
        steps = self.preprocessing
        side = (steps and (steps.crop or steps.resize)) or self.zoo.side
        height, width = side if isinstance(side, tuple) else (side, side)
        return 3, height, width

    @property
    def parts(self) -> dict[str, str]:
        """Name in `weights` -> RobustBench's file name, for an ensemble; empty for a single file."""
        return {f"m{i}": f"{self.name}.pt_m{i}.pt" for i in range(len(self.drive))} if len(self.drive) > 1 else {}

    @property
    def weights(self) -> File | Download | Mapping[str, File]:
        """The files, at RobustBench's paths below `<data root>/weights/robustbench`."""
        if self.url:
            # PyTorch's file names contain the first digits of the sha256.
            digits = re.search(r"-([0-9a-f]{8})\.pth$", self.url)
            return Download(url=self.url, sha256=digits and digits[1])
        folder = f"weights/robustbench/{self.zoo.dataset}/{self.zoo.threat}"
        if self.parts:
            return {
                part: _file(folder, file, id) for (part, file), id in zip(self.parts.items(), self.drive, strict=True)
            }
        return _file(folder, f"{self.name}.pt", self.drive[0])


def find(zoo: str, name: str) -> Published:
    """Return a model of a zoo.

    zoo: name of the zoo, e.g. "cifar10-linf".
    name: RobustBench's name of the model.
    Raises ValueError with similar names if the zoo has no such model.
    """
    models = _read()[zoo]
    if name not in models:
        by_lower = {known.lower(): known for known in models}
        close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3)]
        elsewhere = [other for other, others in _read().items() if name in others]
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {', '.join(sorted(models))}"
        hint = f"it is in {', '.join(elsewhere)}" if elsewhere else hint
        raise ValueError(f"RobustBench has no model '{name}' in {zoo}; {hint}")
    return models[name]


@cache
def _read() -> dict[str, dict[str, Published]]:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {zoo.name: {name: _published(zoo, name, row) for name, row in table[zoo.name].items()} for zoo in ZOOS}


def _published(zoo: Zoo, name: str, row: dict[str, Any]) -> Published:
    steps: dict[str, Any] = row.get("preprocessing", {})
    steps = {key: tuple(value) if isinstance(value, list) else value for key, value in steps.items()}
    fields = {
        **row,
        "drive": tuple(row.get("drive", ())),
        "preprocessing": Preprocessing(**steps) if steps else None,
    }
    return Published(zoo=zoo, name=name, **fields)


def _file(folder: str, file: str, id: str) -> File:
    # RobustBench also downloads with gdown; its own function is unusable here, since a plain import of it fails.
    return File(path=f"{folder}/{file}", get=f"mkdir -p {{folder}} && gdown {id} -O {{path}}")
