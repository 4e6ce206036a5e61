"""The data set contract, checked on a small CIFAR-10 in the published layout and on small image folders."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from robharness.testing import parametrize_with_checks

ROOT = tempfile.TemporaryDirectory()


def written():
    """Write CIFAR-10's files with ten rows each."""
    folder, draws = Path(ROOT.name) / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    (folder / "SUBSET").touch()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        content = {
            "batch_label": name,
            "labels": list(range(10)),
            "data": draws.integers(0, 256, (10, 3072), np.uint8),
            "filenames": [f"{name}-{row}.png" for row in range(10)],
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = {"label_names": names, "num_cases_per_batch": 10000, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


written()


def write_folders():
    """Write two folders of images: one of numbered classes with subfolders, one of ImageNet's classes."""
    draws = np.random.default_rng(1)
    for path in ("pets/2/a.png", "pets/2/deep/b.png", "pets/10/c.png", "imagenet-r/n01443537/d.png"):
        file = Path(ROOT.name) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (5, 6, 3), np.uint8)).save(file)
    (Path(ROOT.name) / "pets" / "10" / "broken.png").touch()


write_folders()


def write_csv():
    """Write a file that lists the images of the folders."""
    rows = ["path,label", *(f"pets/2/{name},cat" for name in ("a.png", "deep/b.png")), "pets/10/c.png,dog"]
    (Path(ROOT.name) / "pets.csv").write_text("\n".join(rows) + "\n")


write_csv()


@parametrize_with_checks(
    "robharness_datasets",
    only=["plugin/*", *(f"datasets/{name}/*" for name in ("cifar-10", "folder", "imagenet-folder", "csv", "images"))],
    data_root=ROOT.name,
    splits={"folder": ["pets"], "imagenet-folder": ["imagenet-r"], "csv": ["pets"], "images": ["pets"]},
    options={"csv": {"file": f"{ROOT.name}/pets.csv"}, "images": {"folder": f"{ROOT.name}/pets"}},
    classes={"folder": 2, "csv": 2, "none": 1},
)
def test_contract(check):
    check()
