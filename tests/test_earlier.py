"""Outcomes that an earlier version stored: the same keys, numbers and verdicts today."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from robharness import api
from robharness.report import build
from robharness.report.renderers.json import render
from robharness.store import Store
from robharness.store.merge import merge

EARLIER = Path(__file__).parent / "earlier"
ADDED = {
    "differences",
    "findings",
    "notes",
    "pixels",
    "count",
    "reference",
    "answer",
    "environments",
    "measure",
    "settings",
    "protocols",
    "gain",
    "gains",
    "gain_summaries",
    "published_metrics",
    "published_sources",
    "audits",
    "optimalities",
    "best_distances",
}
OF_CELLS = {
    "title",
    "calibration",
    "classes",
    "movement",
    "published",
    "transfer",
    "passes",
    "fit_passes",
    "cost",
    "optimality",
    "unit",
}
"""Keys of the JSON that did not exist then, and those of its cells."""


NEW_COLUMNS = ("confidence", "p_true")
"""Columns of schema 2 of the store; the earlier one has schema 1."""


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
    for cell in found["cells"]:
        assert cell["calibration"] is None and (cell["classes"] is None) == (cell["n"] == 0)
        assert cell["passes"] is None
        for key in OF_CELLS:
            del cell[key]
    for worst in found["worst_cases"]:
        del worst["unit"]
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
        assert list(before.columns) == [name for name in after.columns if name not in NEW_COLUMNS]
        for name in before.columns:
            values, others = list(before.columns[name]), list(after.columns[name])
            is_float = before.columns[name].dtype.kind == "f"
            assert others == (pytest.approx(values, rel=1e-5, nan_ok=True) if is_float else values)


def test_confidences_that_are_absent_are_said_to_be(store):
    report = build(api.load("suite.yaml", store=store, plugins=["plugin.py"]))
    (found,) = [found for found in report.findings if found.code == "confidences-missing"]
    assert found.severity == "note"
    assert found.message.startswith("16 of 16 cells have outcomes that an earlier version stored without confidences")
    assert "--fresh" in found.hint
    assert all(cell.calibration is None for cell in report.cells)


def test_an_earlier_store_is_resumed_and_its_rows_have_no_confidence(store):
    """The last 8 of 24 examples of a cell are computed by this version, and joined with those of the earlier one."""
    whole = Store(store)
    plan = api.plan("suite.yaml", plugins=["plugin.py"])
    cell = plan.cells[0]
    (part,) = whole.parts(cell.key)
    table, facts = whole.read(cell.key, 16).table, whole.provenance(cell.key)[0]
    (whole.folder(cell.key) / part.name).unlink()
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "position"}
    whole.write_part(cell.key, 0, columns, facts)
    assert json.loads((whole.folder(cell.key) / "cell.json").read_text())["schema"] == 1
    assert whole.missing(cell.key, 24) == [(16, 24)]
    results = api.run("suite.yaml", store=store, plugins=["plugin.py"])
    loaded = api.load("suite.yaml", store=store, plugins=["plugin.py"])
    for found in (results.cells[0], loaded.cells[0]):
        for name in ("p_true", "confidence"):
            assert np.isnan(found.columns[name][:16]).all() and (found.columns[name][16:] > 0).all()
            assert found.columns[name].dtype == np.float32
    assert len(whole.parts(cell.key)) == 1
    assert json.loads((whole.folder(cell.key) / "cell.json").read_text())["schema"] == 2
    report = build(loaded)
    assert report.cells[0].calibration.n == 8 and report.cells[1].calibration is None
    (found,) = [found for found in report.findings if found.code == "confidences-missing"]
    assert found.message.startswith("16 of 16 cells")


def test_stores_of_both_schemas_are_merged(store, tmp_path):
    """Outcomes with confidences are no other outcomes than those without; the first of them stay."""
    fresh = tmp_path / "fresh"
    api.run("suite.yaml", store=fresh, plugins=["plugin.py"], batch_size=8, threads=1)
    for first, second, lacks in ((store, fresh, True), (fresh, store, False)):
        into = Store(shutil.copytree(first, tmp_path / f"into-{lacks}"))
        merged = merge(into, Store(second))
        assert (merged.copied, merged.common, merged.differing) == (0, 16 * 24, 0)
        loaded = api.load("suite.yaml", store=into.root, plugins=["plugin.py"])
        assert ("confidence" not in loaded.cells[0].columns) == lacks
        assert build(loaded).cells[0].numbers.n == 24
    assert json.loads(next((tmp_path / "into-True").rglob("cell.json")).read_text())["schema"] == 2
