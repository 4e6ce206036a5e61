"""Fixtures of the end-to-end tests: a suite over a network that is trained here, on MNIST."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MNIST = str(Path(__file__).parent / "mnist.py")


@pytest.fixture(scope="session")
def shell():
    """The command in a process of its own, in the repository's folder."""

    def go(*words):
        command = [sys.executable, "-m", "robharness", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return go


@pytest.fixture(scope="session")
def mnist():
    """The path of the plugin of the network, for `-p`."""
    return MNIST


@pytest.fixture(scope="session")
def mnist_suite(tmp_path_factory):
    """A small suite over MNIST, as a mapping; keyword arguments change its keys. Trains the network, once a session."""
    weights = tmp_path_factory.mktemp("mnist") / "net.pt"
    runpy.run_path(MNIST)["train"](weights)

    def make(**changes):
        base = {
            "robharness": 1,
            "name": "mnist",
            "data": {"name": "samples/mnist-5k", "split": "test"},
            "models": [{"model": "mnist/net", "label": "CNN", "weights": str(weights), "reference": True}],
        }
        return {key: value for key, value in (base | changes).items() if value is not None}

    return make
