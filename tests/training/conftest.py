"""Fixtures of the tests of training: stores that are trained once, and logs of epochs."""

import pytest
import yaml
from safetensors.torch import save_file

from probes import filled, trunk_network
from robharness import api
from toy_training import LEARNER, NET, PLUGINS, TOYS, suite


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Return the store of a run of the plain suite without interruptions, and its results."""
    root = tmp_path_factory.mktemp("quiet") / "store"
    return root, api.run(suite(), store=root, plugins=PLUGINS)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Return the line of every epoch: (process, seed, epoch)."""
    path = tmp_path / "log"
    monkeypatch.setenv("LEARNER_LOG", str(path))
    return lambda: [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def shell_plugins():
    return PLUGINS


@pytest.fixture
def start(tmp_path, start_process):
    """Start a command in a session of its own, as a terminal does."""

    def call(verb, source, *words, **environment):
        path = tmp_path / "learning.yaml"
        path.write_text(yaml.safe_dump(source))
        words = [verb, path, "-p", LEARNER, "-p", TOYS, "--store", tmp_path / "store", *words]
        return start_process(*words, environment=environment, start_new_session=True)

    return call


@pytest.fixture(scope="session")
def seeds(tmp_path_factory):
    """Three runs of one model, and one of another."""
    root = tmp_path_factory.mktemp("seeds") / "store"
    source = suite(NET | {"seeds": 3, "reference": True}, NET | {"label": "Short", "epochs": 4}, seed=5,
                   corruptions=[{"corruption": "toys/speckle", "severity": [1, 2, 3]}], canvas=8,
                   expected={"source": "a table", "Net": {"clean": 90.0, "toys/wrong": 0.125}},
                   metrics=["toys/wrong"])  # fmt: skip
    return source, root, api.run(source, store=root, plugins=PLUGINS)


@pytest.fixture
def file(tmp_path):
    """The path of an encoder's weights."""
    path = tmp_path / "mine.safetensors"
    save_file(filled(trunk_network(), 0).state_dict(), path)
    return path


@pytest.fixture
def passes(tmp_path, monkeypatch):
    """Return the rows of each pass of a network of `probes.py`."""
    path = tmp_path / "passes"
    monkeypatch.setenv("PROBES_LOG", str(path))
    return lambda: [int(line) for line in path.read_text().split()] if path.exists() else []
