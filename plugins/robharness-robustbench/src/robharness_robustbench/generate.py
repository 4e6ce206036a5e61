"""Writes zoo.json: `python -m robharness_robustbench.generate MODEL_INFO`.

MODEL_INFO: the folder `model_info` of a clone of https://github.com/RobustBench/robustbench, which the package lacks;
the table has its accuracies as of commit 78fcc9e. All else comes from the installed package.
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
"""Keys of model_info, and of `expected`. Corruptions: the mean over all of them and severities 1 to 5."""


def rows(zoo: Zoo) -> dict[str, Row]:
    """What the installed RobustBench says of each model, by name: where its file is, preprocessing."""
    enums, utils = robustbench("model_zoo.enums"), robustbench("utils")
    dataset, threat = enums.BenchmarkDataset(zoo.dataset), enums.ThreatModel(zoo.threat)
    known = robustbench("model_zoo.models").model_dicts[dataset][threat]
    # The models for which its loader bears with what does not fit; they are named within that function alone.
    borne = next(const for const in utils._safe_load_state_dict.__code__.co_consts if isinstance(const, frozenset))
    return {
        name: {
            **_source(zoo, name, entry),
            **({"preprocessing": _preprocessing(dataset, threat, name)} if zoo.dataset == "imagenet" else {}),
            **({"lenient": True} if zoo.dataset == "imagenet" or name in borne or _timm(zoo, name) else {}),
        }
        for name, entry in sorted(known.items())
    }


def published(info: Path, zoo: Zoo, name: str) -> Row:
    """What `model_info` says of a model: accuracies as fractions, by key of `expected`, and its paper."""
    said = json.loads((info / zoo.dataset / zoo.threat / f"{name}.json").read_text())
    words = {"norm": zoo.threat.lower(), "eps": said["eps"]}
    accuracies = {label.format(**words): said[key] for key, label in _ACCURACIES.items() if said.get(key)}
    return {
        "expected": {label: round(float(value) / 100, 6) for label, value in accuracies.items()},
        "paper": said["link"],
    }


def text(table: Mapping[str, Mapping[str, Row]]) -> str:
    """JSON, a model a line."""
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
    if ids == "":  # torchvision's first weights, which it loads for its standard model
        weights = robustbench("model_zoo.imagenet").pt_models.ResNet50_Weights.IMAGENET1K_V1
        return {"url": weights.url}
    return {"drive": ids if isinstance(ids, list) else [ids]}


def _timm(zoo: Zoo, name: str) -> str:
    """The name under which its loader looks for the model in timm first, if it is there."""
    word = f"{name}_{zoo.dataset}_{zoo.threat}".lower().replace("-", "_")
    return word if robustbench("utils").timm.is_model(word) else ""


def _preprocessing(dataset: Any, threat: Any, name: str) -> Row:
    """Its transforms as the fields of `Preprocessing`."""
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
    TABLE.write_text(text(table))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
