"""Write the table of open_clip's architectures and published weights, so that planning imports neither it nor torch.

    python tables/make_table.py [openclip_results.csv]

The argument is open_clip's file docs/openclip_results.csv. Without it, the accuracies are left unchanged.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "src" / "robharness_clip" / "open_clip.json"


def architectures() -> dict[str, int]:
    """Return the name of an architecture -> its input size in pixels.

    Left out are towers that need a tokeniser from a hub, and CoCa, which generates text.
    """
    import open_clip

    found = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        text = config["text_cfg"]
        if not {"hf_model_name", "hf_tokenizer_name"} & set(text) and "multimodal_cfg" not in config:
            size = config["vision_cfg"].get("image_size", 224)
            if isinstance(size, int):
                found[name] = size
    return found


def published() -> dict[str, dict[str, Any]]:
    """Return "architecture tag" -> hub (repository/file, or repository/), url, preprocessing, and activation."""
    from open_clip.pretrained import _PRETRAINED

    found = {}
    for name in architectures():
        for tag, entry in _PRETRAINED.get(name, {}).items():
            found[f"{name} {tag}"] = {
                "hub": entry.get("hf_hub", ""),
                "url": entry.get("url", ""),
                "mean": list(entry["mean"]),
                "std": list(entry["std"]),
                "interpolation": entry["interpolation"],
                "resize_mode": entry["resize_mode"],
                "quickgelu": entry.get("quick_gelu", False),
            }
    return found


def accuracies(results: Path) -> dict[str, float]:
    """Return "architecture tag" -> zero-shot top-1 accuracy on ImageNet, a fraction."""
    rows = csv.DictReader(results.read_text(encoding="utf-8").splitlines())
    names = published()
    found = {f"{row['name']} {row['pretrained']}": row["ImageNet 1k"] for row in rows}
    return {key: round(float(found[key]), 4) for key in names if found.get(key)}


def write(path: Path, content: dict[str, dict[str, Any]]) -> None:
    """Write JSON with one entry a line."""
    sections = [
        f"{json.dumps(section)}: {{\n"
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        + "\n}"
        for section, entries in content.items()
    ]
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


def main(results: list[str]) -> None:
    top1 = accuracies(Path(results[0])) if results else json.loads(TABLE.read_text(encoding="utf-8"))["accuracies"]
    write(TABLE, {"architectures": architectures(), "published": published(), "accuracies": top1})


if __name__ == "__main__":
    main(sys.argv[1:])
