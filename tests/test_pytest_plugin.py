"""The plugin for pytest: real runs of pytest that compute toys, pass and fail."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD = f"""
import pytest
from robharness import UserError

OPTIONS = {{"plugins": [{str(ROOT / "tests/toys.py")!r}]}}
SUITE = {{
    "robharness": 1, "name": "toys", "data": {{"name": "toys/pixels", "split": "test"}},
    "models": [{{"model": "toys/net", "label": "Net", "reference": True}}],
    "attacks": [{{"attack": "toys/sign", "eps": ["1/8"]}}],
}}

@pytest.fixture(scope="module")
def result(robharness_run):
    return robharness_run(SUITE, **OPTIONS)
"""
SHARED = (
    HEAD
    + """
@pytest.mark.parametrize("number", range(4))
def test_accuracy(result, number):
    assert result.is_complete
    assert result.cell("sign", eps="1/8").accuracy >= 0.1
"""
)
CHECKED = f"""
@pytest.fixture
def trained(tmp_path):
    def call(weight):
        (tmp_path / "net.json").write_text(str(weight))
        return {{
            "robharness": 1, "name": "halves", "data": {{"name": "gated/halves", "split": "test"}}, "canvas": 8,
            "models": [{{"model": "gated/net", "label": "Net", "weights": str(tmp_path / "net.json")}}],
            "corruptions": [{{"corruption": "gated/brighter", "severity": 1}}],
        }}
    return call

def test_against_a_baseline(robharness_check, trained, tmp_path):
    options = {{"baseline": tmp_path / "b.json", "plugins": [{str(ROOT / "tests/gated.py")!r}]}}
    assert robharness_check(trained(0), update=True, **options).exit_code == 0
    assert robharness_check(trained(0), **options).n == 200
    robharness_check(trained(3), **options)
"""
MIXED = (
    HEAD
    + CHECKED
    + """
def test_accuracy(result):
    assert result.cell("sign", eps="1/8").accuracy >= 0.999

def test_no_such_cell(result):
    result.cell("sing")

def test_incomplete(robharness_run):
    robharness_run(SUITE | {"attacks": [{"attack": "toys/rogue", "how": "raises", "eps": ["1/8"]}]}, **OPTIONS)

def test_of_something_else():
    assert 1 == 2

def test_a_limit_and_a_store_of_its_own(robharness_run, tmp_path):
    found = robharness_run(SUITE, limit=8, store=tmp_path / "own", **OPTIONS)
    assert found.cell("clean").n == 8
    assert (tmp_path / "own" / "cells").is_dir()

def test_a_live_network(robharness_run):
    import torch
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    found = robharness_run(SUITE | {"models": []}, models={"mine": net}, limit=8, **OPTIONS)
    assert found.labels == ["mine"]

def test_half_of_the_examples(robharness_run, tmp_path):
    found = robharness_run(SUITE, shard=(1, 2), allow_incomplete=True, store=tmp_path / "half", **OPTIONS)
    assert not found.is_complete
    assert found.cell("sign", partial=True).n == 20

def test_suites_that_are_wrong_raise(robharness_run):
    with pytest.raises(UserError, match="unknown key"):
        robharness_run(SUITE | {"nmae": "toys"}, **OPTIONS)
"""
)
WHERE = """
def test_the_store(robharness_run):
    print(f"the store is {robharness_run.store}.")
"""


@pytest.fixture
def run_pytest(tmp_path):
    """Run pytest, which finds the installed plugin, on a file of tests in the folder of the test."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of xdist

    def run(content, *options):
        (tmp_path / "test_robust.py").write_text(content)
        command = [sys.executable, "-m", "pytest", "--rootdir=.", "-c", "pytest.ini", "-W", "ignore", *options]
        (tmp_path / "pytest.ini").touch()
        return subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)

    return run


def test_the_entry_point_names_the_plugin():
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    plugin = import_module(entry_points["pytest11"]["robharness"])
    assert callable(plugin.pytest_addoption)
    assert plugin.__name__ == "robharness.pytest_plugin"


def test_importing_the_plugin_imports_nothing_heavy():
    code = "import sys, robharness.pytest_plugin as p; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"robharness", "robharness.pytest_plugin", "pytest"} <= set(done.stdout.split())
    assert not {"torch", "numpy", "pydantic", "yaml", "pyarrow", "rich", "click"} & set(done.stdout.split())


def test_two_workers_share_the_store(run_pytest, tmp_path):
    done = run_pytest(SHARED, "-n", "2")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    store = tmp_path / ".pytest_cache/d/robharness"
    assert len(list(store.glob("cells/*/*"))) == 2
    [whole, *others] = [json.loads(run.read_text()) for run in store.glob("runs/*.json")]
    assert whole["computed"] == 80 and not others, "the worker that came second waited, and had nothing to compute"
    assert not list(store.parent.glob("*.lock"))


def test_failures_show_interval_n_and_findings(run_pytest):
    done = run_pytest(MIXED, "-p", "no:xdist")
    assert done.returncode == 1
    assert "5 failed, 4 passed" in done.stdout, done.stdout
    sections = done.stdout.partition("short test summary")[0].split("____ test_")[1:]
    shown = {part.partition(" ")[0]: part for part in sections}
    assert list(shown) == ["against_a_baseline", "accuracy", "no_such_cell", "incomplete", "of_something_else"]
    assert "1 of 2 cells regressed:" in shown["against_a_baseline"]
    assert "Net · brighter(1)  regressed" in shown["against_a_baseline"]
    assert "Not passed: 1 regressed." in shown["against_a_baseline"]
    assert "95 % interval 0." in shown["accuracy"] and ", n = 40) >= 0.999" in shown["accuracy"]
    assert "--- robharness: toys ---" in shown["accuracy"]
    assert "<Results of toys: Net; 2 of 2 cells complete, 40 examples each>" in shown["accuracy"]
    assert "no cell 'sing'; did you mean 'sign'? There are clean, sign(linf, 1/8)" in shown["no_such_cell"]
    assert "measurements.py" not in shown["no_such_cell"].partition("UserError")[0]
    assert "\nIncomplete: some cells failed or are not computed yet.\n" in shown["incomplete"]
    assert "Failed\n  Net · toys/pixels/test · rogue(linf, 1/8, how=raises): " in shown["incomplete"]
    assert "robharness:" not in shown["of_something_else"]
    assert "FAILED test_robust.py::test_incomplete - Failed: Incomplete: some cells" in done.stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "{root}/.pytest_cache/d/robharness"),
        (["-c", "pyproject.toml"], "{root}/kept"),
        (["-c", "pyproject.toml", "--robharness-store", "given"], "{root}/given"),
        (["-p", "no:cacheprovider", "--basetemp", "temporary"], "{root}/temporary/robharness"),
    ],
)
def test_the_folder_of_the_store(run_pytest, tmp_path, options, expected):
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nrobharness_store = "kept"\n')
    done = run_pytest(WHERE, "-s", *options)
    assert f"the store is {expected.format(root=tmp_path)}." in done.stdout
