"""Write zoo.json: `python -m robharness_robustbench.generate MODEL_INFO`.

MODEL_INFO: the folder `model_info` of a clone of https://github.com/RobustBench/robustbench; the package lacks it. The
table has the accuracies of commit 78fcc9e. The other values come from the installed package.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from robharness_robustbench.library import robustbench
from robharness_robustbench.zoo import TABLE, ZOOS, Zoo

Row = dict[str, Any]
_ACCURACIES = {
    "clean_acc": "clean",
    "autoattack_acc": "autoattack({norm}, {eps})",
    "external": "best known attack({norm}, {eps})",
    "corruptions_acc": "corruptions",
    "corruptions_mce": "mCE",
    "corruptions_acc_3d": "3d corruptions",
    "corruptions_mce_3d": "3d mCE",
}
"""Key of model_info -> key of `expected`. "corruptions" is the mean over all corruptions and severities 1 to 5."""


def rows(zoo: Zoo) -> dict[str, Row]:
    """Return model name -> source of its file and preprocessing, from the installed RobustBench."""
    enums, utils = robustbench("model_zoo.enums"), robustbench("utils")
    dataset, threat = enums.BenchmarkDataset(zoo.dataset), enums.ThreatModel(zoo.threat)
    known = robustbench("model_zoo.models").model_dicts[dataset][threat]
    # The models that its loader loads leniently; only constants of the function's code name them.
    lenient = next(const for const in utils._safe_load_state_dict.__code__.co_consts if isinstance(const, frozenset))
    return {
        name: {
            **_source(zoo, name, entry),
            **({"preprocessing": _preprocessing(dataset, threat, name)} if zoo.dataset == "imagenet" else {}),
            **({"lenient": True} if zoo.dataset == "imagenet" or name in lenient or _timm(zoo, name) else {}),
        }
        for name, entry in sorted(known.items())
    }


def published(info: Path, zoo: Zoo, name: str) -> Row:
    """Return the accuracies of a model, as fractions by key of `expected`, and its paper, from `model_info`.

    info: the folder `model_info`.
    """
    entry = json.loads((info / zoo.dataset / zoo.threat / f"{name}.json").read_text(encoding="utf-8"))
    budget = {"norm": zoo.threat.lower(), "eps": entry["eps"]}
    accuracies = {label.format(**budget): entry[key] for key, label in _ACCURACIES.items() if entry.get(key)}
    return {
        "expected": {label: round(float(value) / 100, 6) for label, value in accuracies.items()},
        "paper": entry["link"],
    }


def text(table: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the table as JSON with one model a line."""
    blocks = []
    for zoo, models in table.items():
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in models.items())
        blocks.append(f"  {json.dumps(zoo)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def _source(zoo: Zoo, name: str, entry: Mapping[str, Any]) -> Row:
    if timm := _timm(zoo, name):
        with torch.random.fork_rng(devices=[]):
            cfgs = robustbench("utils").timm.get_pretrained_cfg(timm)
        return {"url": cfgs.url, "timm": timm}
    ids = entry["gdrive_id"]
    if ids == "":  # RobustBench's standard model has torchvision's V1 weights
        weights = robustbench("model_zoo.imagenet").pt_models.ResNet50_Weights.IMAGENET1K_V1
        return {"url": weights.url}
    return {"drive": ids if isinstance(ids, list) else [ids]}


def _timm(zoo: Zoo, name: str) -> str:
    """Return the name under which RobustBench registers the model with timm, or an empty string."""
    word = f"{name}_{zoo.dataset}_{zoo.threat}".lower().replace("-", "_")
    return word if robustbench("utils").timm.is_model(word) else ""


def _preprocessing(dataset: Any, threat: Any, name: str) -> Row:
    """Return the model's transforms as fields of `Preprocessing`."""
    with torch.random.fork_rng(devices=[]):
        transforms = robustbench("data").get_preprocessing(dataset, threat, name, None).transforms
    return dict(_fields(transforms))


def _fields(transforms: Any) -> Iterator[tuple[str, Any]]:
    for step in transforms:
        match type(step).__name__:
            case "Resize":
                yield "resize", step.size
                yield "interpolation", step.interpolation.value
            case "CenterCrop":
                yield "crop", step.size[0] if len(set(step.size)) == 1 else list(step.size)
            case "ToTensor":
                pass
            case other:
                raise ValueError(f"RobustBench's transform {other} has no counterpart in Preprocessing")


def main(info: Path) -> None:
    table = {zoo.name: {name: {**row, **published(info, zoo, name)} for name, row in rows(zoo).items()} for zoo in ZOOS}
    TABLE.write_text(text(table), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
