"""Outcomes that an earlier version stored: the same keys, numbers and verdicts today."""

import json
import shutil
from pathlib import Path

import pytest

from robharness import api
from robharness.report import build
from robharness.report.renderers.json import render

EARLIER = Path(__file__).parent / "earlier"
ADDED = {"findings", "notes", "pixels"}
"""Keys of the JSON that did not exist then."""


@pytest.fixture
def store(tmp_path):
    """A copy of the earlier store, since a run writes into it."""
    return Path(shutil.copytree(EARLIER / "store", tmp_path / "store"))


@pytest.fixture(autouse=True)
def _beside_the_plugin(monkeypatch):
    """The plugin was given as ./plugin.py, which failures quote."""
    monkeypatch.chdir(EARLIER)


def as_data(results):
    found = json.loads(render(build(results)))
    return {key: value for key, value in found.items() if key not in ADDED}


def test_an_earlier_store_gives_the_same_report(store):
    then = json.loads((EARLIER / "report.json").read_text())
    now = as_data(api.load("suite.yaml", store=store, plugins=["plugin.py"]))
    prose = ("warnings", "problems")  # sentences may read better by now
    assert {key: value for key, value in now.items() if key not in prose} == {
        key: value for key, value in then.items() if key not in prose
    }
    assert [len(now[key]) for key in prose] == [len(then[key]) for key in prose]


def test_an_earlier_store_is_not_computed_again(store):
    parts = {path: path.read_bytes() for path in store.rglob("*.parquet")}
    results = api.run("suite.yaml", store=store, plugins=["plugin.py"])
    assert {path: path.read_bytes() for path in store.rglob("*.parquet")} == parts
    assert {failure.error.partition(":")[0] for result in results.cells for failure in result.failures} == {
        "plugin/rogue"
    }


def test_the_same_outcomes_are_computed_again(store, tmp_path):
    then = api.load("suite.yaml", store=store, plugins=["plugin.py"])
    now = api.run("suite.yaml", store=tmp_path / "fresh", plugins=["plugin.py"], batch_size=8, threads=1)
    for before, after in zip(then.cells, now.cells, strict=True):
        assert list(before.columns) == list(after.columns)
        for name in before.columns:
            values, others = list(before.columns[name]), list(after.columns[name])
            is_float = before.columns[name].dtype.kind == "f"
            assert others == (pytest.approx(values, rel=1e-5, nan_ok=True) if is_float else values)
