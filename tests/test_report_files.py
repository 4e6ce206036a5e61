"""Reports as JSON with its schema, as CSV and as Parquet: the same numbers, read by other programs."""

import csv
import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import duckdb
import jsonschema
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from robharness import api
from robharness.cli import main
from robharness.report import build, tidy
from robharness.report.renderers import csv as report_csv
from robharness.report.renderers import json as report_json
from robharness.report.renderers import parquet
from robharness.report.schema import report_schema

HERE = Path(__file__).parent
PLUGINS = [str(HERE / name) for name in ("toys.py", "teams.py")]
SOURCE = {
    "robharness": 1,
    "name": "files",
    "canvas": 8,
    "data": {"name": "toys/pixels", "split": "test"},
    "models": [
        {"model": "toys/net", "label": "Net", "reference": True},
        {"model": "toys/net", "label": "NaN", "what": "not-numbers"},
        {"model": "toys/net", "label": "Same"},
    ],
    "gap": ["Net", "NaN"],
    "gain": {"Same": "Net", "NaN": "Net"},
    "attacks": [
        {"attack": "toys/climb", "eps": ["1/8", "1/4"]},
        {"attack": "toys/rogue", "eps": "1/4", "how": "raises"},
        {"attack": "teams/nearest"},
    ],
    "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2]}, {"corruption": "toys/negative", "severity": 1}],
    "metrics": ["toys/wrong", "toys/broken"],
    "expected": [
        {"source": "a book", "Net": {"clean": 80.0, "toys/wrong": 0.25}},
        {"source": "a rerun", "Net": {"clean": 78.5, "toys/wrong": 0.5}, "Same": {"clean": 70}},
    ],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "store"


@pytest.fixture(scope="module")
def results(store):
    return api.run(SOURCE, store=store, plugins=PLUGINS)


@pytest.fixture(scope="module")
def report(results):
    return build(results)


@pytest.fixture(scope="module")
def over_runs(tmp_path_factory):
    """The report of a model that is trained with two seeds."""
    learner = str(HERE / "learner.py")
    source = {"robharness": 1, "name": "seeds", "data": {"name": "learner/shades", "split": "test"},
              "models": [{"model": "learner/net", "label": "Net", "epochs": 1, "seeds": 2}],
              "attacks": [{"attack": "toys/sign", "eps": ["1/8"]}]}  # fmt: skip
    return build(api.run(source, store=tmp_path_factory.mktemp("seeds") / "store", plugins=[learner, *PLUGINS]))


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return build(api.load(SOURCE, store=tmp_path_factory.mktemp("empty") / "store", plugins=PLUGINS))


@pytest.fixture(scope="module")
def hostile(report):
    """Return the report with names that a spreadsheet would compute, and a label of several lines."""
    names = {"Net": "=1+1", "NaN": "@SUM(A1)", "Same": "a,b\n-2\t\"'"}
    cells = tuple(dataclasses.replace(cell, model=names[cell.model]) for cell in report.cells)
    return dataclasses.replace(report, cells=cells, suite="+cmd|' /C calc'!A0", models=tuple(names.values()))


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["report", "over_runs", "empty", "hostile"])
def test_the_schema_accepts_reports(which, request):
    schema, made = report_schema(), request.getfixturevalue(which)
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads(report_json.render(made))
    jsonschema.Draft202012Validator(schema).validate(data)
    assert list(schema["properties"]) == sorted(data, key=list(schema["properties"]).index)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("environments"),
        lambda data: data.update(gallery=[]),
        lambda data: data["cells"][0].update(alarms=[]),
        lambda data: data["cells"][0].pop("classes"),
        lambda data: data["cells"][0].update(n="40"),
        lambda data: data["cells"][0]["interval"].pop(),
        lambda data: data["cells"][0]["calibration"]["bins"][0].pop("low"),
        lambda data: data["findings"][0].update(severity="fatal"),
        lambda data: data["slopes"][0].update(slope="1"),
        lambda data: data.update(schema=2),
    ],
)
def test_the_schema_refuses_what_is_no_report(report, change):
    data = json.loads(report_json.render(report))
    change(data)
    assert not jsonschema.Draft202012Validator(report_schema()).is_valid(data)


def test_the_program_prints_the_schema():
    words = [sys.executable, "-m", "robharness", "schema", "report"]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert found == report_schema()
    assert found["$defs"]["CellNumbers"]["properties"]["title"]["description"].startswith("the perturbation's name")


def test_the_environments_are_the_provenances_of_the_cells(results, report):
    data = json.loads(report_json.render(report))
    keys = {key for environment in data["environments"] for key in environment["cells"]}
    assert keys == {result.cell.key for result in results.cells if result.n}
    for environment in report.environments:
        for key in environment.cells:
            cell = next(result for result in results.cells if result.cell.key == key)
            assert any(environment.facts.items() <= provenance.items() for provenance in cell.provenance)
    assert len({json.dumps(environment["facts"], sort_keys=True) for environment in data["environments"]}) == len(
        data["environments"]
    )
    assert report.command == results.plan.command("run")
    assert report.identities == {result.cell.key: result.cell.identity for result in results.cells}
    assert not {"identities", "gallery", "command"} & set(data)  # the command names the store


# --- CSV and Parquet ------------------------------------------------------------------------------------------------


def parquet_table(report):
    return pq.read_table(io.BytesIO(parquet.render(report)))


def test_parquet_columns_are_typed(report, tmp_path):
    table = parquet_table(report)
    assert table.column_names == list(tidy.COLUMNS)
    types = {"string": str, "double": float, "int64": int, "bool": bool}
    assert {field.name: types[str(field.type)] for field in table.schema} == tidy.COLUMNS
    (tmp_path / "x.parquet").write_bytes(parquet.render(report))
    query = f"select value from '{tmp_path / 'x.parquet'}' where model = 'Net' and kind = 'clean' and statistic = 'ece'"
    assert duckdb.sql(query).fetchall() == [(report.cells[0].calibration.ece,)]


@pytest.mark.parametrize("which", ["report", "over_runs", "empty", "hostile"])
def test_csv_has_the_same_numbers_with_all_digits(which, request, tmp_path):
    made = request.getfixturevalue(which)
    (tmp_path / "x.csv").write_text(report_csv.render(made))
    expected = parquet_table(made).to_pandas()
    read = pd.read_csv(tmp_path / "x.csv", keep_default_na=False, na_values={name: [""] for name in tidy.COLUMNS})
    also = duckdb.sql(f"select * from read_csv('{tmp_path / 'x.csv'}', header=true, delim=',', quote='\"')").df()
    assert len(expected) == len(read) == len(also)
    for name, kind in tidy.COLUMNS.items():
        if kind in (float, int):
            for other in (read, also):
                np.testing.assert_array_equal(expected[name].astype(float), other[name].astype(float))
        elif which != "hostile":
            texts = [[None if pd.isna(value) else value for value in each[name].tolist()] for each in (expected, read)]
            assert texts[0] == texts[1]


def test_no_text_of_a_csv_file_is_a_formula_and_each_can_be_had_back(hostile):
    rows = list(csv.DictReader(io.StringIO(report_csv.render(hostile))))
    numbers = [name for name, kind in tidy.COLUMNS.items() if kind in (int, float)]
    for row in rows:
        texts = [value for name, value in row.items() if name not in numbers]
        assert not any(value.lstrip().startswith(("=", "+", "-", "@")) for value in texts)
        assert all(float(row[name]) is not None for name in numbers if row[name])
    assert {row["model"] for row in rows if row["kind"] == "clean"} == {"'=1+1", "'@SUM(A1)", "a,b -2 \"'"}
    assert {row["suite"] for row in rows} == {"'+cmd|' /C calc'!A0"}
    assert report_csv.text("'tis") == "''tis" and report_csv.text(" =1") == "' =1" and report_csv.text("＝1") == "'＝1"
    assert set(parquet_table(hostile)["model"].to_pylist()) >= {"=1+1", "a,b\n-2\t\"'"}


def test_statistics_and_columns_select_rows_of_csv_and_parquet(report, empty, store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["report", "files", "--store", str(store)]
    selection = ["--statistics", "accuracy", "--columns", "statistic,model,value,complete"]
    wanted = [
        (row["statistic"], row["model"], row["value"], row["complete"])
        for row in tidy.rows(report)
        if row["statistic"] == "accuracy"
    ]
    assert wanted and len(wanted) < len(tidy.rows(report)) / 5
    for suffix in ("csv", "parquet"):
        assert main([*words, "-o", f"x.{suffix}", *selection]) == 3, "a cell fails"
        found = pd.read_csv("x.csv", keep_default_na=False) if suffix == "csv" else pd.read_parquet("x.parquet")
        assert [*found] == ["statistic", "model", "value", "complete"]
        assert [tuple(row) for row in found.itertuples(index=False)] == wanted
    selected = tidy.Selection(statistics=["accuracy", "toys/*"], columns=["statistic"]).of(report)
    assert {row["statistic"] for row in selected} == {"accuracy", "toys/wrong"}
    assert tidy.Selection(statistics=["accuracy"]).of(empty) == [], "nothing is computed yet"
    for wrong, told in (
        (["x.csv", "--columns", "modle"], "there is no column 'modle'. Try: --columns model\n"),
        (["x.csv", "--columns", "n,n"], "column 'n' is repeated. Try: --columns n\n"),
        (["x.csv", "--statistics", "acuracy"], "the report has no statistic 'acuracy'. Try: --statistics accuracy\n"),
        (["x.md", "--columns", "n"], "--columns: only CSV and Parquet files have rows to select. Try: -o x.csv\n"),
    ):
        capsys.readouterr()
        assert main([*words, "-o", *wrong]) == 2
        assert capsys.readouterr().err.endswith(told)
    assert main([*words, "--statistics", "ece"]) == 2
    assert capsys.readouterr().err.endswith("rows to select. Try: -o report.csv\n")


def test_rows_cover_the_numbers_of_the_report(report, over_runs):
    found = pd.DataFrame(tidy.rows(report))
    cell = next(cell for cell in report.cells if (cell.model, cell.perturbation) == ("Net", "climb(linf, 1/4)"))
    row = found[(found.key == cell.key) & (found.statistic == "relative_drop")].iloc[0]
    assert (row.value, row.low, row.high) == (cell.numbers.relative_drop, *cell.numbers.relative_drop_interval)
    assert (row.eps, row.budget, row.norm, row.n) == (0.25, "1/4", "linf", 40)
    kinds = found.groupby("kind")["statistic"].agg(set).to_dict()
    assert kinds["clean"] >= {"accuracy", "published_accuracy", "ece", "bin_accuracy", "worst_class_accuracy"}
    assert kinds["attack"] >= {"relative_drop", "median_distance", "area", "curve_accuracy", "confidence_when_wrong"}
    assert kinds["corruption mean"] == {"accuracy"} and kinds["worst case"] >= {"accuracy", "relative_drop"}
    assert kinds["slope"] == {"slope", "slope_over_corruptions", "slope_without"}
    assert kinds["metric"] == kinds["published metric"] == {"toys/wrong"}
    assert kinds["gap"] == {"gap_closed", "gap_closed_printed"} and "corruption error" in kinds
    assert kinds["gain"] == {"gain", "median_gain", "mean_gain"}
    gains = found[(found.kind == "gain") & (found.model == "NaN")].set_index(["perturbation", "statistic"])
    [gain] = [each for each in report.gains if (each.model, each.perturbation) == ("NaN", "climb(linf, 1/4)")]
    row = gains.loc["climb(linf, 1/4)", "gain"]
    assert (row.value, row.low, row.high, row.reference) == (gain.gain, *gain.interval, "Net") and row.complete
    published = found[found.statistic == "published_accuracy"]
    assert published[["model", "part", "value"]].to_numpy().tolist() == [
        ["Net", "a book", 0.8], ["Net", "a rerun", 0.785], ["Same", "a rerun", 0.7]]  # fmt: skip
    assert found[found.kind == "published metric"]["part"].tolist() == ["a book", "a rerun"]
    assert not found[found.kind != "runs"].duplicated([*tidy.COLUMNS][:13]).any()
    runs = pd.DataFrame(tidy.rows(over_runs)).query("kind == 'runs'").set_index(["perturbation", "statistic"])["value"]
    assert runs["clean", "accuracy_mean"] == over_runs.runs[0].accuracy
    assert runs["clean", "accuracy_deviation"] == over_runs.runs[0].accuracy_deviation


def test_a_number_that_does_not_exist_has_no_row(empty, report):
    assert all(row["kind"] in ("published metric", "clean") for row in tidy.rows(empty))
    assert all(math.isfinite(row["value"]) for row in tidy.rows(report))
