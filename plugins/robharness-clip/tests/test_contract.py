"""The model contract, checked for a small network of an architecture of its own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import open_clip
import torch

from robharness.testing import parametrize_with_checks

FOLDER = tempfile.TemporaryDirectory()
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
JSON = Path(FOLDER.name) / "tiny.json"
JSON.write_text(json.dumps(CONFIG))


def written():
    path = Path(FOLDER.name) / "clip.pt"
    with torch.random.fork_rng(devices=[]):
        torch.save(open_clip.CLIP(**CONFIG).state_dict(), path)
    return path


@parametrize_with_checks(
    "robharness_clip",
    only=["plugin/*", "models/zero-shot"],
    leave_out="*-sha256_stated",  # the publishers print none
    options={"zero-shot": {"config": str(JSON), "labels": "animals", "classnames": ["cat", "dog", "owl"]}},
    weights={"zero-shot": written},
    classes={"animals": 3},
)
def test_contract(check):
    check()
