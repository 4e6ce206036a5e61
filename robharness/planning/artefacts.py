"""Weights that a suite trains: where the artefact of a recipe lies, and whether it is what was made.

    artefacts/<hash>/weights.safetensors   what `build` loads
    artefacts/<hash>/recipe.json           all that decides what they are; <hash> is its hash
    artefacts/<hash>/provenance.json       how they were made, and their sha256
    artefacts/<hash>/metrics.jsonl         the curve, and whatever else the trainer left
    artefacts/<hash>.training/             the same while it is made, or after an interruption
    artefacts/<hash>.failed.json           why it is not there
    artefacts/<hash>.lock                  who makes it now

No NumPy here: `robharness list artefacts` is as fast as any list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robharness.errors import UserError
from robharness.planning.weights import Weights, file_digest
from robharness.specs.protocols import Dataset

FOLDER = "artefacts"
WEIGHTS, RECIPE, PROVENANCE, METRICS = "weights.safetensors", "recipe.json", "provenance.json", "metrics.jsonl"
UNFINISHED = ".training"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a recipe makes, whether it is there or not. folder: where it is once it is whole.

    recipe: all that decides what the weights are, as plain data. datasets: what they are made from, opened, by role;
    of a plan's artefact that is there, none.
    """

    folder: Path
    recipe: Mapping[str, Any]
    datasets: Mapping[str, Dataset]

    @property
    def hash(self) -> str:
        return self.folder.name

    @property
    def unfinished(self) -> Path:
        """Where it is while it is made."""
        return self.folder.with_name(f"{self.hash}{UNFINISHED}")

    @property
    def lock(self) -> Path:
        return self.folder.with_name(f"{self.hash}.lock")

    @property
    def failed(self) -> Path:
        return self.folder.with_name(f"{self.hash}.failed.json")

    @property
    def failure(self) -> str:
        """Why the last attempt at it failed, and whose fault that was; nothing where it did not."""
        found = read(self.failed)
        return f"{found['error']} ({found['blame']})" if {"error", "blame"} <= found.keys() else ""

    def weights(self) -> Weights | None:
        """Its weights, or None where it is not made yet. Raises UserError where it is damaged."""
        if not self.folder.exists():
            return None
        if trouble := damage(self.folder):
            raise UserError(
                f"the artefact {self.folder} is damaged: {trouble}. To train it again: rm -r {self.folder}, and then "
                f"robharness train SUITE"
            )
        return Weights(path=self.folder / WEIGHTS, sha256=sha256_of(self.folder))


def damage(folder: Path) -> str:
    """What is wrong with a whole artefact, in words, or nothing."""
    if not (sha256 := sha256_of(folder)):
        return f"its {PROVENANCE} cannot be read"
    if not (folder / WEIGHTS).is_file():
        return f"its {WEIGHTS} is not there"
    if (found := file_digest(folder / WEIGHTS)) != sha256:
        return f"its {WEIGHTS} has the sha256 {found}, and {PROVENANCE} says {sha256}"
    return ""


def sha256_of(folder: Path) -> str:
    """The sha256 of the weights as it was when they were made; nothing where that cannot be read."""
    return str(read(folder / PROVENANCE).get("sha256", ""))


def listing(store: Path) -> list[dict[str, Any]]:
    """What a store has of artefacts, the latest last: name (the hash), model, label, seed, size in bytes, when, state
    ("", "unfinished" or "failed") and metrics, the last line of them."""
    rows = []
    folders = [path for path in (store / FOLDER).glob("*") if path.is_dir() and not path.name.startswith(".")]
    for folder in folders:
        name = folder.name.removesuffix(UNFINISHED)
        recipe, made = read(folder / RECIPE), read(folder / PROVENANCE)
        state = "" if name == folder.name else "failed" if folder.with_name(f"{name}.failed.json").exists() else None
        rows.append(
            {
                "name": name,
                "model": str(recipe.get("model", "")),
                "label": str(made.get("label", "")),
                "seed": recipe.get("seed"),
                "size": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
                "when": str(made.get("time", "")),
                "state": "unfinished" if state is None else state,
                "metrics": last_metrics(folder),
            }
        )
    return sorted(rows, key=lambda row: (row["when"] or "9", row["name"]))


def last_metrics(folder: Path) -> dict[str, Any]:
    """The last whole line of `metrics.jsonl`; nothing where there is none."""
    with suppress(OSError):
        for line in reversed((folder / METRICS).read_text(errors="replace").splitlines()):
            with suppress(ValueError):
                found = json.loads(line)
                return found if isinstance(found, dict) else {}
    return {}


def read(path: Path) -> dict[str, Any]:
    """A file of one JSON object; nothing where it cannot be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}
