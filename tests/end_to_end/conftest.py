"""Fixtures of the end-to-end tests: a suite over a network that is trained here, on MNIST."""

import runpy
import sys
from functools import partial
from pathlib import Path

import pytest

from sharing import made_once

ROOT = Path(__file__).parents[2]
MNIST = str(Path(__file__).parent / "mnist.py")
sys.path.append(str(Path(sys.prefix) / "adv-lib"))  # which pages of the bridges name; see the Makefile


@pytest.fixture
def shell_plugins():
    return []


@pytest.fixture(scope="session")
def repository_shell(run_process):
    """Run `robharness WORDS` in another process and in the repository's folder; give a Finished."""
    return partial(run_process, cwd=ROOT, timeout=None)


@pytest.fixture(scope="session")
def mnist():
    """The path of the plugin of the network, for `-p`."""
    return MNIST


@pytest.fixture(scope="session")
def mnist_suite(tmp_path_factory):
    """A small suite over MNIST, as a mapping; keyword arguments change its keys.

    The network is trained once a test run.
    """
    weights = made_once(tmp_path_factory, "mnist.pt", runpy.run_path(MNIST)["train"])

    def make(**changes):
        base = {
            "robharness": 1,
            "name": "mnist",
            "data": {"name": "samples/mnist-5k", "split": "test"},
            "models": [{"model": "mnist/net", "label": "CNN", "weights": str(weights), "reference": True}],
        }
        return {key: value for key, value in (base | changes).items() if value is not None}

    return make
