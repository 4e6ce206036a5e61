"""Results: the columns of a cell, read when they are asked for, as they were when the results were loaded."""

import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robharness import api
from robharness.errors import StoreError
from robharness.report.calibration import calibration, confidence_findings
from robharness.statistics import EmptySample
from robharness.store import Store, results
from robharness.store.parts import MOST_IDS, _decoded_ids

KEY = "abcdef0123456789abcdef01"
COLUMNS = [
    "example",
    "label",
    "prediction",
    "correct",
    "margin",
    "logit_range",
    "confidence",
    "p_true",
    "size",
    "attacked",
]


@pytest.fixture
def load(suite, tmp_path, toys):
    """The results of the suite of toys that are in the store of the fixture `run`."""

    def call(**options):
        return api.load(suite(), store=tmp_path / "store", plugins=[toys], **options)

    return call


def assert_same(found, expected):
    """The same values of the same type, NaN and None included."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def whole_files(root, key):
    """Read all columns of a cell with pyarrow alone."""
    files = sorted((root / "cells" / key[:2] / key).glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")


@pytest.mark.parametrize("shards", [[None], [(1, 4), (2, 4), (4, 4)]], ids=["one file", "three files"])
def test_columns_equal_the_stored_files(suite, run, load, tmp_path, shards):
    for shard in shards:
        found = run(suite(), shard=shard)
    for result in (*load().cells, *found.cells):
        table = whole_files(tmp_path / "store", result.cell.key)
        assert_same(result.positions, table["position"].to_numpy())
        assert list(result.columns) == COLUMNS
        assert len(result.columns) == len(COLUMNS)
        assert result.n == len(table) == (40 if shards == [None] else 30)
        for name in reversed(COLUMNS):
            assert_same(result.columns[name], table[name].to_numpy())
        assert_same(result.correct, table["correct"].to_numpy())


def test_notes_of_any_type_and_gaps_in_them_are_kept(tmp_path):
    """Notes that are missing in one part, in a row, or in a whole cell."""
    store, half = Store(tmp_path / "store"), np.array([True, False])
    for start, count, word in ((0, [1, None], ["a", None]), (2, [None, None], [None, None]), (4, [3, 4], ["b", "c"])):
        columns = {
            "correct": half,
            "prediction": [1, 2],
            "count": count,
            "word": word,
            "flag": half,
            "no": [None] * 2,
        }
        store.write_part(KEY, start, columns, {})
    columns = results.Columns(store, KEY, store.read(KEY, 6, results.EAGER_COLUMNS))
    table = whole_files(store.root, KEY)
    assert list(columns) == [name for name in table.column_names if name != "position"]
    for name in columns:
        assert_same(columns[name], table[name].to_numpy())
    assert columns["count"].tolist()[:1] == [1] and np.isnan(columns["count"][1:4]).all()
    assert columns["word"].tolist() == ["a", None, None, None, "b", "c"]


def test_a_limit_takes_the_first_rows(suite, run, load, tmp_path):
    run(suite())
    for some, every in zip(load(limit=10).cells, load().cells, strict=True):
        assert some.n == 10 and some.is_complete
        for name in COLUMNS:
            assert_same(some.columns[name], every.columns[name][:10])


def test_columns_are_read_lazily(suite, run, load, tmp_path):
    """What every table needs is there; the rest is in the store, and goes with it."""
    run(suite())
    found, expected = load(), load()
    numbers = [result.accuracy for result in expected.cells]
    margins = [result.columns["margin"] for result in expected.cells]
    shutil.rmtree(tmp_path / "store")
    assert [result.accuracy for result in found.cells] == numbers
    assert all(result.columns["margin"] is margin for result, margin in zip(expected.cells, margins, strict=True))
    for result in found.cells:
        assert "margin" in list(result.columns) and "margin" in result.columns and "none" not in result.columns
        with pytest.raises((KeyError, StoreError)):
            result.columns["margin"]


def test_confidences_are_binned_with_the_cell(suite, run, tmp_path, toys):
    """Confidences that are binned while they are loaded equal those read later, and are read once."""
    run(suite())
    plan, store = api.plan(suite(), plugins=[toys]), Store(tmp_path / "store")
    later, at_once = results.load(plan, store), results.load(plan, store, confidences=True)
    expected = [calibration(result) for result in later.cells]
    shutil.rmtree(tmp_path / "store")
    assert all(expected) and [calibration(result) for result in at_once.cells] == expected
    assert not list(confidence_findings(at_once, details=True))


def test_ids_that_cells_share_are_decoded_once(tmp_path):
    """Ids of equal length, of which one differs; more different ones than are kept; parts that share theirs."""
    store = Store(tmp_path / "store")
    ids = [[f"{number:02}/{row}" for row in range(20)] for number in range(MOST_IDS + 3)]
    keys = [f"{number:024x}" for number in range(2 * len(ids))]
    for number, key in enumerate(keys):
        some = ids[number % len(ids)]
        store.write_part(key, 0, {"example": some, "prediction": [number] * 20}, {})
    first = store.read(keys[0], 20, ["example", "prediction"]).table["example"]
    for number, key in (*enumerate(keys), *reversed(list(enumerate(keys)))):
        rows = store.read(key, 20, ["prediction", "example"])
        assert rows.table["example"].to_pylist() == ids[number % len(ids)]
        assert rows.table["prediction"].to_pylist() == [number] * 20
    again = store.read(keys[len(ids)], 20, ["example", "prediction"]).table["example"]
    assert again.equals(first) and len(_decoded_ids) <= MOST_IDS


def test_columns_keep_the_positions_stored_at_loading(suite, run, load, tmp_path):
    """Another run adds parts before, between and after them, and joins all."""
    for index in (2, 4):
        run(suite(), shard=(index, 5))
    before, expected = load(), load()
    held = [{name: result.columns[name].copy() for name in COLUMNS} for result in expected.cells]
    assert before.cells[0].positions.tolist() == [*range(8, 16), *range(24, 32)]
    assert run(suite()).is_complete
    store = Store(tmp_path / "store")
    assert all(len(store.parts(result.cell.key)) == 1 for result in before.cells)
    for result, columns in zip(before.cells, held, strict=True):
        assert result.n == 16 and not result.is_complete
        for name in COLUMNS:
            assert_same(result.columns[name], columns[name])
    complete = load()
    for result, every in zip(before.cells, complete.cells, strict=True):
        for name in COLUMNS:
            assert_same(result.columns[name], every.columns[name][result.positions])


def test_columns_of_a_first_part_are_unchanged_by_later_parts(suite, run, load):
    run(suite(), limit=10)
    before = load()
    run(suite())
    for result in before.cells:
        assert result.positions.tolist() == list(range(10))
        assert len(result.columns["margin"]) == len(result.columns["example"]) == 10


def test_columns_are_a_mapping(suite, run, load):
    run(suite(), limit=10)
    columns = load(limit=10).cells[0].columns
    assert set(columns) == set(COLUMNS) == set(columns.keys())
    assert "margin" in columns and "nothing" not in columns
    assert columns.get("nothing") is None
    with pytest.raises(KeyError, match="nothing"):
        columns["nothing"]
    assert columns["margin"] is columns["margin"]
    assert {name: len(column) for name, column in columns.items()} == dict.fromkeys(COLUMNS, 10)


def test_a_cell_without_outcomes_has_empty_columns(suite, run, load):
    assert run(suite(attacks=None)).is_complete
    clean, *empty = load().cells
    assert clean.is_complete
    for result in empty:
        assert result.n == 0 and not result.is_complete
        assert result.positions.tolist() == [] and result.positions.dtype == np.int64
        assert result.correct.tolist() == [] and result.correct.dtype == bool
        assert result.not_numbers == 0
        assert result.provenance == () and result.failures == ()
        assert all(len(column) == 0 for column in result.columns.values())
        assert "margin" not in result.columns
        with pytest.raises(EmptySample):
            _ = result.accuracy


def test_a_table_of_all_outcomes(suite, run, load, tmp_path):
    """A row per cell and example, the same as by a stranger's reader."""
    found = run(suite())
    for table in (found.to_pandas(), load().to_pandas()):
        assert list(table.columns) == ["model", "perturbation", "strength", "position", *COLUMNS]
        assert len(table) == 4 * 40
        assert table.groupby("perturbation", sort=False)["strength"].first().to_dict() == {
            "clean": 0.0, "climb(linf, 1/8)": 0.125, "climb(linf, 1/4)": 0.25, "sign(linf, 1/8)": 0.125
        }  # fmt: skip
        assert set(table["model"]) == {"Net"}
        for result in found.cells:
            rows = table[table["perturbation"] == result.cell.short_name].drop(
                columns=["model", "perturbation", "strength"]
            )
            pattern = tmp_path / "store" / "cells" / "*" / result.cell.key / "*.parquet"
            theirs = duckdb.sql(f"select * from '{pattern}' order by position").df()
            assert rows.reset_index(drop=True).equals(theirs.astype(rows.dtypes.to_dict()))


def test_a_table_of_cells_some_or_all_of_which_are_empty(suite, run, load):
    nothing = load().to_pandas()
    assert len(nothing) == 0
    assert list(nothing.columns)[:4] == ["model", "perturbation", "strength", "position"]
    run(suite(attacks=None))
    some = load().to_pandas()
    assert some["perturbation"].tolist() == ["clean"] * 40
    assert some["correct"].dtype == bool and some["prediction"].dtype == some["position"].dtype == np.int64
    assert some["margin"].tolist() == load().cells[0].columns["margin"].tolist()


def test_pairs_cover_the_common_examples(suite, run, load):
    run(suite(), shard=(1, 2))
    run(suite(attacks=None))
    found = load()
    clean, attacked = found.cells[0], found.cells[1]
    before, after = found.paired([clean, attacked])
    assert_same(before, clean.correct[:20])
    assert_same(after, attacked.correct)
