"""Artefacts: the weights that a suite trains, and features that trainings share.

Records of where they are stored, and functions that read them:

    artefacts/<hash>/weights.safetensors   the file that `build` loads
    artefacts/<hash>/recipe.json           the training spec: all that determines the weights; <hash> is its hash
    artefacts/<hash>/provenance.json       how the weights were trained or the features computed, and their sha256
    artefacts/<hash>/metrics.jsonl         the training curve, beside other files of the trainer
    artefacts/<hash>/features.npy          in place of weights: (N, D) float32; their recipe names encoder and data
    artefacts/<hash>/labels.npy, ids.json  the examples of these rows; those that cannot be read are left out
    artefacts/<hash>.training/             the same files during the training, or after an interruption
    artefacts/<hash>.failed.json           why the last training failed
    artefacts/<hash>.lock                  the process that trains the model now

`robharness.store.artefacts` writes them. Without NumPy, so that `robharness list artefacts` starts fast.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robharness.errors import UserError, check_folder, for_shell, why_no_folder
from robharness.planning.files import LARGEST_RECORD, content_digest, json_object, read_record
from robharness.planning.weights import Weights, known_digest
from robharness.reading import read_regular
from robharness.specs.protocols import Dataset
from robharness.text import attributed

FOLDER = "artefacts"
WEIGHTS, TRAINING_SPEC, PROVENANCE, METRICS = "weights.safetensors", "recipe.json", "provenance.json", "metrics.jsonl"
FEATURES, FEATURE_LABELS, FEATURE_IDS = "features.npy", "labels.npy", "ids.json"
UNFINISHED = ".training"
_HASH = re.compile("[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """The weights that one training makes, or features, made or not.

    folder: its place, once training is complete.
    training_spec: all that determines the content, as plain data.
    datasets: the opened training data by role; empty in a plan whose artefact is trained.
    inputs: the files that the training reads, by role.
    """

    folder: Path
    training_spec: Mapping[str, Any]
    datasets: Mapping[str, Dataset]
    inputs: Mapping[str, Path] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        return self.folder.name

    @property
    def unfinished(self) -> Path:
        """The staging folder, where the trainer works."""
        return self.folder.with_name(f"{self.hash}{UNFINISHED}")

    @property
    def lock(self) -> Path:
        return self.folder.with_name(f"{self.hash}.lock")

    @property
    def failed(self) -> Path:
        return _failed(self.folder)

    @property
    def failure(self) -> str:
        """Why the last training failed, and the distribution at fault; empty if it did not fail."""
        return failure_of(self.folder)

    def weights(self) -> Weights | None:
        """Return the trained weights, or None if they are not trained yet.

        Raises UserError if they are damaged, or if the store can have no folder of artefacts.
        """
        check_folder(self.folder.parent, "the folder of artefacts")
        if not os.path.lexists(self.folder):
            return None
        if found := damage(self.folder):
            raise UserError(
                f"the artefact {self.folder} is damaged: {found}. To train it again, remove it and run the suite. "
                f"Try: rm -r {for_shell(self.folder)}"
            )
        return Weights(path=self.folder / WEIGHTS, sha256=sha256_of(self.folder))


def _failed(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.failed.json")


def failure_of(folder: Path) -> str:
    """Return why the last training of the artefact in a folder failed, and the distribution at fault, or ""."""
    found = read(_failed(folder))
    error, blame = found.get("error"), found.get("blame")
    is_whole = isinstance(error, str) and isinstance(blame, str)
    return attributed(error, blame) if is_whole else ""


def damage(folder: Path) -> str:
    """Describe the damage of an artefact; empty if it is intact."""
    if found := visible_damage(folder):
        return found
    content, sha256 = content_of(folder), sha256_of(folder)
    found = content_digest(folder / content) if content == FEATURES else known_digest(folder / content)
    return "" if found == sha256 else f"its {content} has the sha256 {found}, and {PROVENANCE} records {sha256}"


def content_of(folder: Path) -> str:
    """Return the name of the file that holds what an artefact is made for: weights or features."""
    return FEATURES if "features" in read(folder / TRAINING_SPEC) else WEIGHTS


def visible_damage(folder: Path) -> str:
    """Describe the damage of an artefact that shows without reading the weights; empty if there is none."""
    if found := why_no_folder(folder):
        return found
    content = content_of(folder)
    others = (FEATURE_LABELS, FEATURE_IDS) if content == FEATURES else ()
    for name in (PROVENANCE, content, *others):
        if not os.path.lexists(folder / name):
            return f"its {name} is missing"
    if not sha256_of(folder):
        return f"its {PROVENANCE} cannot be read"
    if not (folder / content).is_file():
        return f"its {content} is no file"
    return "" if _size(folder / content) else f"its {content} is empty"


def is_in_place(path: Path) -> bool:
    """Return whether an entry of the folder of artefacts is one that is trained, or by its name should be one."""
    if path.name.startswith(".") or path.name.endswith(UNFINISHED):
        return False
    return path.is_dir() or _HASH.fullmatch(path.name) is not None


def sha256_of(folder: Path) -> str:
    """Read the sha256 of the weights that was recorded when they were trained; empty if it cannot be read."""
    return str(read(folder / PROVENANCE).get("sha256", ""))


def listing(store: Path) -> list[dict[str, Any]]:
    """List the artefacts of a store, the latest last, one mapping each. Raises UserError if it can have none.

    name: the hash.
    model: the registered name of the model, or "features of" the encoder's name.
    label: its label in the suite that trained it.
    seed: of the training.
    size: of all files, in bytes.
    when: the time at which the training ended, in ISO format.
    processes: the number of processes that trained it together; None if it is not known.
    state: "" if it is trained, "unfinished" or "failed".
    problem: the damage of a trained one that shows without reading the weights; "" if there is none.
    metrics: the last line of `metrics.jsonl`.
    """
    check_folder(store / FOLDER, "the folder of artefacts")
    rows = []
    for folder in (store / FOLDER).glob("[!.]*"):
        if not (is_trained := is_in_place(folder)) and not folder.is_dir():
            continue
        name = folder.name.removesuffix(UNFINISHED)
        training_spec, provenance = read(folder / TRAINING_SPEC), read(folder / PROVENANCE)
        processes = provenance.get("processes")
        failure = _failed(folder.with_name(name))
        has_failed = failure.exists()
        rows.append(
            {
                "name": name,
                "model": _model_name(training_spec),
                "label": str((provenance or read(failure)).get("label", "")),
                "seed": training_spec.get("seed"),
                "size": sum(map(_size, folder.rglob("*"))),
                "when": str(provenance.get("time", "")),
                "processes": processes if type(processes) is int else None,
                "state": "" if is_trained else "failed" if has_failed else "unfinished",
                "problem": visible_damage(folder) if is_trained else "",
                "metrics": last_metrics(folder),
            }
        )
    return sorted(rows, key=lambda row: (row["when"] or "9", row["name"]))


def _model_name(training_spec: Mapping[str, Any]) -> str:
    encoder = training_spec.get("features")
    name = encoder.get("name", "") if isinstance(encoder, Mapping) else ""
    return f"features of {name}" if encoder is not None else str(training_spec.get("model", ""))


def _size(path: Path) -> int:
    """Return the size of a file, in bytes; 0 for anything else, and for a file that is gone."""
    with suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def last_metrics(folder: Path) -> dict[str, Any]:
    """Read the last line of `metrics.jsonl` that is whole; empty if there is none."""
    with suppress(OSError):
        for line in reversed(read_regular(folder / METRICS, LARGEST_RECORD).splitlines()):
            with suppress(ValueError, RecursionError):
                return json_object(line)
    return {}


def read(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object; empty if it cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        return read_record(path)
    return {}
