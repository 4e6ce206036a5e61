"""The plugin's specs: no heavy imports, documented in the README, with licence and paper of the publisher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from robharness_datasets import robharness_corruptions, robharness_datasets

README = (Path(__file__).parent.parent / "README.md").read_text()
OWN = {"csv", "folder", "images", "imagenet-folder"}


def test_declaring_imports_nothing_heavy():
    script = """
import sys
import robharness_datasets
specs = [*robharness_datasets.robharness_datasets(), *robharness_datasets.robharness_corruptions()]
assert len(specs) >= 5 + 57, len(specs)
heavy = {"torch", "torchvision", "numpy", "PIL", "decord", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_data_set_and_corruption_set():
    for spec in robharness_datasets():
        assert f"`datasets/{spec.name}`" in README
    for spec in robharness_corruptions():
        kind = spec.name.partition("/")[0]
        assert f"`{kind}/`" in README if kind.endswith("-extra") else f"`datasets/{kind}/gaussian_noise`" in README


def test_published_data_sets_state_licence_and_paper():
    for spec in robharness_datasets():
        assert bool(spec.licence) == bool(spec.paper) == (spec.name not in OWN), spec.name
