"""The model contract, checked for two small models. No sha256 of RobustBench's files is published."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from robharness.testing import parametrize_with_checks
from robharness_robustbench import networks, zoo

FOLDER = tempfile.TemporaryDirectory()
NAMES = {"cifar10-corruptions": "Hendrycks2020AugMix_WRN", "imagenet-linf": "Salman2020Do_R18"}


def written(name):
    file = Path(FOLDER.name) / f"{name}.pt"
    torch.save(networks.network(zoo.find(name, NAMES[name])).state_dict(), file)
    return file


@parametrize_with_checks(
    "robharness_robustbench",
    only=["plugin/*", *(f"models/{name}" for name in NAMES)],
    leave_out="*-sha256_stated",
    options={name: {"name": model} for name, model in NAMES.items()},
    weights={
        "cifar10-corruptions": lambda: written("cifar10-corruptions"),
        "imagenet-linf": lambda: written("imagenet-linf"),
    },
)
def test_contract(check):
    check()
