"""Units of budgets and sizes, where a number is read alone: lists, descriptions, rows, tables and comparisons."""

import csv
import io
import json

import pytest

from robharness import api
from robharness.comparison.outputs import json as comparison_json
from robharness.comparison.outputs.figures import figures as comparison_figures
from robharness.planning.description import measures
from robharness.plugins import discover
from robharness.report import build, tidy
from robharness.report.details import worst_case_name
from robharness.report.figures.curves import budget_figures
from robharness.report.figures.optimality import optimality_figures
from robharness.report.renderers import csv as report_csv
from robharness.report.renderers import latex
from robharness.report.tables import tables

UNITS = """
from dataclasses import dataclass
from typing import Literal

from robharness import AttackSpec, Cost, Measure, ThreatModel, hookimpl


@dataclass(frozen=True, kw_only=True)
class Params:
    pass


@dataclass(frozen=True, kw_only=True)
class Normed:
    norm: Literal["linf", "l0", "l0-pixels"] = "linf"


@dataclass(frozen=True, kw_only=True)
class Needed:
    name: str
    norm: Literal["l2", "l0"] = "l2"


@dataclass(frozen=True, kw_only=True)
class Nameless:
    name: str


def changed(clean, perturbed):
    return (clean != perturbed).any(1).any(2).sum(1).double()


ROWS = Measure(name="rows", unit="rows", distance=changed, is_count=True, is_batched=True, typical="2")


class Invert:
    def __init__(self, params):
        pass

    def perturb(self, model, batch, eps, rng):
        x, rows = batch.x.clone(), x_rows(batch, eps)
        x[:, :, :rows].neg_().add_(1)
        return x


class InvertLess(Invert):
    def perturb(self, model, batch, eps, rng):
        return super().perturb(model, batch, min(eps, 3), rng)


def x_rows(batch, eps):
    return int(min(eps, batch.x.shape[2]))


def spec(name, params, threat, build=Invert, **more):
    return AttackSpec(
        name=name, summary=name, access="decision", params=params, threat=threat, cost=lambda params: Cost(),
        build=build, randomness="none", inputs=frozenset({"image"}), **more,
    )


def rows(params):
    return ThreatModel(measure=ROWS)


def normed(params):
    return ThreatModel(norm=params.norm)


def broken(params):
    raise SystemExit("no threat today")


@hookimpl
def robharness_attacks():
    yield spec("invert", Params, rows)
    yield spec("nearest", Params, rows, minimal=True)
    yield spec("near", Params, rows, InvertLess, minimal=True)
    yield spec("normed", Normed, normed)
    yield spec("needed", Needed, normed)
    yield spec("nameless", Nameless, rows)
    yield spec("broken", Params, broken)
"""


@pytest.fixture
def units(tmp_path, toys):
    path = tmp_path / "units.py"
    path.write_text(UNITS)
    return [toys, str(path)]


MEASURES = {
    "invert": "rows (rows)",
    "normed": "linf, l0 (values), l0-pixels (pixels)",
    "needed": "l2, l0 (values)",
    "nameless": "",
    "broken": "",
}


def test_the_list_of_attacks_has_their_measures_and_units(units, shell):
    listed = shell("list", "attacks", "units/*", "--json", plugins=units)
    assert listed.returncode == 0
    found = {row["name"].removeprefix("units/"): row["measure"] for row in json.loads(listed.stdout)}
    assert {name: found[name] for name in MEASURES} == MEASURES
    head, *lines = shell("list", "attacks", "units/normed", plugins=units).stdout.splitlines()
    assert head.split("   ")[:4] == ["name", "access", "measure", "options"]
    assert lines[0].split("   ")[:3] == ["units/normed", "decision", MEASURES["normed"]]


def test_a_description_of_an_attack_has_its_measures_and_units(units, shell):
    assert (
        "measures: linf, l0 (in values), l0-pixels (in pixels)" in shell("show", "units/normed", plugins=units).stdout
    )
    assert "measures" not in shell("show", "toys/net", plugins=units).stdout
    [facts] = json.loads(shell("show", "units/invert", "--json", plugins=units).stdout)
    assert facts["measures"] == [{"name": "rows", "unit": "rows"}]
    assert measures(discover(units).attacks["units/broken"]) == []


@pytest.fixture
def ran(suite, units, tmp_path):
    """A suite under a measure with a unit and a norm without one, with two models, and its store."""
    attacks = [
        {"attack": "units/invert", "eps": [1, 3]},
        {"attack": "toys/climb", "eps": ["1/8", "1/4"]},
        *({"attack": f"units/{name}"} for name in ("nearest", "near")),
    ]
    models = [{"model": "toys/net", "label": label} for label in ("Net", "Other")]
    models[0]["reference"] = True
    source = suite(attacks=attacks, models=models)
    return source, api.run(source, store=tmp_path / "store", plugins=units, limit=8)


def test_rows_have_the_unit_of_their_budget(ran):
    rows = tidy.rows(build(ran[1]))
    assert list(tidy.COLUMNS)[-1] == "unit", "columns that readers know by their place stay there"
    assert {row["unit"] for row in rows if row["norm"] == "rows"} == {"rows"}
    assert {row["unit"] for row in rows if row["norm"] != "rows"} == {None}
    kinds = {row["kind"] for row in rows if row["unit"]}
    assert kinds >= {"attack", "worst case", "difference", "optimality"}
    distances = [row for row in rows if row["statistic"] == "median_distance"]
    assert distances and all(row["unit"] == "rows" for row in distances)


def test_a_csv_file_has_the_unit(ran):
    rows = list(csv.DictReader(io.StringIO(report_csv.render(build(ran[1])))))
    assert {row["unit"] for row in rows if row["norm"] == "rows"} == {"rows"}
    assert {row["unit"] for row in rows if row["norm"] != "rows"} == {""}


def test_tables_and_figures_name_the_unit_beside_the_measure(ran):
    report = build(ran[1])
    by_title = {table.title: table for table in tables(report)}
    assert "; rows: in rows;" in by_title["Smallest perturbations"].caption
    names = [row.name for row in by_title["Optimality of attacks"].rows if row]
    assert "eps_0, rows, in rows" in names
    [optimality] = optimality_figures(report)
    assert "against eps (rows, in rows) under" in optimality.caption
    assert {axis.get_xlabel() for axis in optimality.draw().axes} == {"eps (rows, in rows)"}
    captions = {figure.name: figure.caption for figure in budget_figures(report)}
    assert "eps (rows, in rows)" in captions["budgets-rows"] and "eps (linf)" in captions["budgets-linf"]


def test_a_unit_is_singular_after_one(ran):
    report = build(ran[1])
    assert {"invert(rows, 1 row)", "invert(rows, 3 rows)"} <= {cell.perturbation for cell in report.cells}
    text = latex.render(report)
    assert r"\(\epsilon = 1\) row &" in text and r"\(\epsilon = 3\) rows &" in text
    assert worst_case_name("rows", "1", "rows") == "worst case rows ≤ 1 row"
    assert worst_case_name("rows", "0.1", "rows") == "worst case rows ≤ 0.1 rows"


def test_a_comparison_names_the_unit_beside_the_measure(ran, units, tmp_path, shell):
    source, _ = ran
    (tmp_path / "suite.yaml").write_text(json.dumps(source))
    results = api.load(source, store=tmp_path / "store", plugins=units, limit=8)
    compared = api.compare(results, models=("Net", "Other"))
    found = {cell["perturbation"]: cell["unit"] for cell in comparison_json.as_data(compared)["cells"]}
    assert found["invert(rows, 3 rows)"] == "rows" and found["climb(linf, 1/8)"] == "" and found["clean"] == ""
    drawn = {figure.name: figure for figure in comparison_figures(compared)}
    assert "eps (rows, in rows)" in drawn["budgets-rows-1"].caption
    assert {axis.get_xlabel() for axis in drawn["budgets-rows-1"].draw().axes} == {"eps (rows, in rows)"}
    assert "eps (linf)" in drawn["budgets-linf-1"].caption
