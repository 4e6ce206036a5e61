"""Write tables of torchvision's and timm's ImageNet weights, so that listing models imports neither library.

    python tables/make_tables.py [results-imagenet.csv]

The argument is timm's file results/results-imagenet.csv from huggingface/pytorch-image-models. Without it, the
accuracies of timm's models are left unchanged.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "src" / "robharness_supervised"
SUFFIXES = {"V1": "", "V2": "-v2", "SWAG_E2E_V1": "-swag-e2e", "SWAG_LINEAR_V1": "-swag-linear"}
"""Suffix of torchvision's weights after IMAGENET1K_ -> suffix of our model name."""


def torchvision_table() -> dict[str, Entry]:
    """Return model name -> entry, for the installed torchvision's classifiers with 1000 classes."""
    from torchvision import models

    table = {}
    for builder in models.list_models(module=models):
        classifier = _last_linear(builder)
        papers = re.findall(r"https?://arxiv\.org/[^>\s]+", models.get_model_builder(builder).__doc__)
        for weights in models.get_model_weights(builder):
            suffix = SUFFIXES.get(weights.name.removeprefix("IMAGENET1K_"))
            if suffix is None:  # only features, without a classifier
                continue
            steps = weights.transforms()
            table[builder + suffix] = {
                "builder": builder,
                "url": weights.url,
                "sha256": re.search(r"-([0-9a-f]{8,})\.pth$", weights.url)[1],
                "resize": steps.resize_size[0],
                "crop": steps.crop_size[0],
                "interpolation": steps.interpolation.value,
                "mean": steps.mean,
                "std": steps.std,
                "top1": weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
                "licence": weights.meta.get("license", ""),
                "paper": papers[0] if papers else "",
                "classifier": classifier,
            }
    return table


def _last_linear(builder: str) -> str | None:
    """Return the name of the linear layer that computes the logits, or None if the network has no linear layer."""
    import torch
    from torch import nn
    from torchvision import models

    # RegNets compute their widths with tensors and cannot be built on the meta device; all have the same last layer.
    name = "regnet_y_400mf" if builder.startswith("regnet") else builder
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        net = models.get_model(name, weights=None, **quick)
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None


def timm_table() -> dict[str, Entry]:
    """Return "architecture.tag" -> entry, for the installed timm's weights with 1000 classes."""
    from timm.models import get_pretrained_cfg, list_models

    table = {}
    for name in list_models(pretrained=True):
        config = get_pretrained_cfg(name)
        if config.num_classes != 1000:
            continue
        size = config.input_size[1]
        table[name] = {
            "hub": config.hf_hub_id or "",
            "url": "" if config.hf_hub_id else config.url,
            "size": size,
            "resize": math.floor(size / config.crop_pct),
            "squash": config.crop_mode == "squash",
            "interpolation": config.interpolation,
            "mean": list(config.mean),
            "std": list(config.std),
            "licence": config.license or "",
            "paper": (config.paper_ids or "").replace("arXiv:", "https://arxiv.org/abs/"),
            "classifier": config.classifier if isinstance(config.classifier, str) else None,
        }
    return table


def timm_defaults() -> dict[str, str]:
    """Return architecture -> tag of timm's default weights, e.g. "resnet50d" -> "ra2_in1k"."""
    from timm.models import get_pretrained_cfg

    names = list(timm_table())
    tags = {name.partition(".")[0]: "" for name in names}
    tags = {architecture: get_pretrained_cfg(architecture).tag for architecture in tags}
    return {architecture: tag for architecture, tag in tags.items() if f"{architecture}.{tag}" in names}


def timm_architectures() -> dict[str, int]:
    """Return architecture -> input size in pixels, for all of the installed timm's networks with square inputs."""
    from timm.models import get_pretrained_cfg, list_models

    configs = {name: get_pretrained_cfg(name) for name in list_models()}
    return {
        name: config.input_size[1]
        for name, config in configs.items()
        if config is not None and config.input_size[1] == config.input_size[2]
    }


def timm_accuracies(results: Path) -> dict[str, float]:
    """Return name -> top-1 accuracy in per cent, at the input size and crop of the table.

    results: timm's results-imagenet.csv.
    """
    table, found = timm_table(), {}
    for row in csv.DictReader(results.read_text(encoding="utf-8").splitlines()):
        entry, size = table.get(row["model"]), int(row["img_size"])
        if entry and size == entry["size"] and math.floor(size / float(row["crop_pct"])) == entry["resize"]:
            found[row["model"]] = float(row["top1"])
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with one entry a line."""
    sections = [
        f"{json.dumps(section)}: {{\n"
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        + "\n}"
        for section, entries in content.items()
    ]
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


def main(results: list[str]) -> None:
    timm = FOLDER / "timm.json"
    accuracies = (
        timm_accuracies(Path(results[0])) if results else json.loads(timm.read_text(encoding="utf-8"))["accuracies"]
    )
    write(FOLDER / "torchvision.json", {"models": torchvision_table()})
    content = {"models": timm_table(), "defaults": timm_defaults(), "architectures": timm_architectures()}
    write(timm, {**content, "accuracies": accuracies})


if __name__ == "__main__":
    main(sys.argv[1:])
