"""A plugin from outside the tree, built as a wheel and installed into a fresh environment beside bad neighbours."""

import json

import pytest

from outside import build_wheels, fresh_python, pip, run

MODEL = '''
from robharness import InputSpec, ModelSpec, hookimpl


def build(params, weights):
    """Two logits: how bright the left half is, and the right half."""
    import torch

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2, bias=False))
    left = torch.arange(64) % 8 < 4
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([left, ~left]).float() / 32)
    return net


@hookimpl
def robharness_models():
    yield ModelSpec(
        name="halves", summary="The brighter half", input=InputSpec(shape=(1, 8, 8)), labels="sides", build=build
    )
'''
OUTSIDE = f'''{MODEL}

from dataclasses import dataclass

from robharness import AttackSpec, Cost, DatasetSpec, ThreatModel


@dataclass(frozen=True, kw_only=True)
class Params:
    pass


class Lean:
    def perturb(self, model, batch, eps, rng):
        """The bright half darker and the other one brighter."""
        step = eps * (1 - 2 * (batch.labels == 0).float())[:, None, None, None]
        x = batch.x.clone()
        x[..., :4] += step
        x[..., 4:] -= step
        return x.clamp(0, 1)


@hookimpl
def robharness_attacks():
    yield AttackSpec(
        name="lean", summary="Towards the other side", access="decision", params=Params, randomness="none",
        threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost(), build=lambda params: Lean(),
    )


class Bars:
    ids = [f"bar-{{i}}" for i in range(10)]
    labels = [i % 2 for i in range(10)]

    def read(self, index):
        import numpy as np

        picture = np.zeros((8, 8, 1), np.uint8)
        picture[:, 4 * (index % 2) :][:, :4] = 25 * (index + 1)
        return picture


@hookimpl
def robharness_datasets():
    yield DatasetSpec(
        name="bars", summary="A bar on one side", labels="sides", splits=("test",), open=lambda root, split: Bars()
    )
'''
# distribution -> entry point, module text, requirement
PLUGINS = {
    "outside-bars": ("outside", OUTSIDE, "robharness"),
    "rival-one": ("rival", MODEL, "robharness"),
    "rival-two": ("rival", MODEL, "robharness"),
    "rotten-nets": ("rotten", "import a_module_that_nobody_has", "robharness"),
    "future-nets": ("future", MODEL, "robharness>=99"),
}
SUITE = """\
robharness: 1
name: bars
data: {name: outside/bars, split: test}
models: [{model: outside/halves, label: Halves}]
attacks: [{attack: outside/lean, eps: 90/255}]
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The plugins as their authors would build them."""
    modules = {name: (point, {name.replace("-", "_"): text}, needs) for name, (point, text, needs) in PLUGINS.items()}
    return build_wheels(tmp_path_factory.mktemp("wheels"), modules)


@pytest.fixture(scope="module")
def python(tmp_path_factory, wheels):
    """The Python of a fresh environment with all of them; torch and the core come from the running one."""
    return fresh_python(tmp_path_factory.mktemp("fresh") / "venv", wheels)


@pytest.fixture
def robharness(python, tmp_path):
    """The command line in the fresh environment."""

    def call(*arguments):
        return run(python, "-m", "robharness", *arguments, cwd=tmp_path)

    return call


def test_a_good_plugin_is_listed_beside_broken_plugins(robharness):
    listed = robharness("list", "models", "outside/*")
    assert listed.returncode == 0, listed.stderr
    [row] = [line for line in listed.stdout.splitlines() if "outside/" in line]
    assert row.split()[:3] == ["outside/halves", "sides", "1x8x8"]
    count, _, rest = listed.stderr.partition(" ")
    assert int(count) >= 4
    assert rest == "plugins were left out. Try: robharness list plugins\n"
    names = {row["name"] for row in json.loads(robharness("list", "models", "--json").stdout)}
    assert not {name for name in names if name.split("/")[0] in ("rival", "rotten", "future")}


def test_problems_of_broken_plugins_are_reported(robharness):
    listed = robharness("list", "plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = {row["plugin"]: row for row in json.loads(listed.stdout)}
    assert rows["outside-bars 0.5"]["provides"] == "1 models, 1 attacks, 1 datasets"
    assert rows["outside-bars 0.5"]["problem"] == ""
    problems = {name: rows[f"{name} 0.5"]["problem"] for name in PLUGINS if name != "outside-bars"}
    for rival in ("rival-one", "rival-two"):
        assert problems[rival].startswith("registration: both rival-")
        assert "rival-one 0.5" in problems[rival]
        assert "rival-two 0.5" in problems[rival]
        assert problems[rival].endswith("claim the name 'rival'; uninstall one, or block both with -p no:rival")
    assert problems["rotten-nets"] == "import: ModuleNotFoundError: No module named 'a_module_that_nobody_has'"
    assert problems["future-nets"].startswith("version: it needs robharness>=99, this is ")
    table = robharness("list", "plugins").stdout
    for name in PLUGINS:
        assert f"{name} 0.5" in table


def test_the_plugin_runs_in_a_suite(robharness, tmp_path):
    (tmp_path / "bars.yaml").write_text(SUITE)
    done = robharness("run", "bars.yaml", "--json", "--display", "none")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["complete"] is True
    cells = {cell["kind"]: cell for cell in found["cells"]}
    assert {(cell["model"], cell["n"], cell["complete"]) for cell in cells.values()} == {("Halves", 10, True)}
    assert cells["clean"]["accuracy"] == 1
    # bar i is 25 (i + 1) / 255 bright and loses 90 to the other side's 90: it stays ahead from 200 on, i = 7, 8, 9
    assert cells["attack"]["accuracy"] == 0.3
    assert cells["attack"]["relative_drop"] == pytest.approx(0.7)
    again = robharness("run", "bars.yaml", "--json", "--display", "plain")
    assert "computed nothing again" in again.stderr
    assert json.loads(again.stdout)["cells"] == found["cells"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("rival/halves", "claim the name 'rival'"),
        ("rotten/halves", "No module named 'a_module_that_nobody_has'"),
        ("future/halves", "it needs robharness>=99"),
        ("nobody/halves", "pip install robharness-nobody"),
    ],
)
def test_a_suite_that_needs_a_broken_plugin_reports_its_problem(robharness, tmp_path, model, message):
    (tmp_path / "bars.yaml").write_text(SUITE.replace("outside/halves", model))
    done = robharness("plan", "bars.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("bars.yaml:4:18: models.0.model: ")
    assert message in done.stderr


def test_a_plugin_loads_when_its_namesake_is_uninstalled(robharness, python, wheels):
    try:
        pip("--python", python, "uninstall", "--yes", "rival-two")
        names = {row["name"] for row in json.loads(robharness("list", "models", "--json").stdout)}
        assert {"rival/halves", "outside/halves"} <= names
    finally:
        pip("--python", python, "install", "--no-deps", "--no-index", *wheels)
