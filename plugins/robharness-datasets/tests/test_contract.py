"""The data set contract, checked on a small CIFAR-10 in the published layout."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np

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


@parametrize_with_checks("robharness_datasets", only=["plugin/*", "datasets/cifar-10/*"], data_root=ROOT.name)
def test_contract(check):
    check()
