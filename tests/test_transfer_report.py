"""Transfer attacks in reports: rates against counts by hand, tables, heat maps, and the coverage of the intervals."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from robharness import api, statistics
from robharness.report import build
from robharness.report.figures import figures
from robharness.report.renderers import latex, markdown, terminal
from robharness.report.renderers.csv import render as as_csv
from robharness.report.renderers.json import render as as_json
from robharness.report.tables import tables
from robharness.report.transfer_tables import transfer_cells

MODELS = [
    {"model": "teams/net", "label": "A"},
    {"model": "teams/net", "label": "B", "seed": 1},
    {"model": "toys/net", "label": "C"},
]
STEP = {"attack": "teams/step", "eps": "1/4"}
EVERY = [STEP, STEP | {"eps": ["1/8", "1/4"], "source": ["*", {"ensemble": ["A", "C"]}]}]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    plugins = [str(Path(__file__).parent / name) for name in ("toys.py", "teams.py")]
    source = {"robharness": 1, "name": "toys", "data": {"name": "toys/pixels", "split": "test"}, "models": MODELS}
    return api.run(source | {"attacks": EVERY}, store=tmp_path_factory.mktemp("store"), plugins=plugins)


def transfer_of(report, model, source, eps="1/4"):
    [cell] = [
        cell
        for cell in report.cells
        if cell.model == model and cell.eps == eps and cell.transfer and cell.transfer.source == source
    ]
    return cell.transfer


def test_the_rate_is_that_of_examples_that_fool_the_source(results):
    right = {(each.cell.model.label, each.cell.short_name): each.correct for each in results.cells}
    report = build(results)
    for source in "ABC":
        for model in "ABC":
            name = f"step(linf, 1/4, source={source})"
            fools = right[source, "clean"] & right[model, "clean"] & ~right[source, name]
            found = transfer_of(report, model, source)
            if model == source:
                assert (found.n, found.rate) == (0, None)
                continue
            assert found.n == fools.sum()
            assert found.rate == (None if not found.n else (~right[model, name])[fools].mean())
            if found.n:
                both = int((~right[model, name] & fools).sum())
                assert found.interval == statistics.accuracy_interval(both, found.n)
    name = "step(linf, 1/4, source=A+C)"  # an example counts if it fools all members
    fools = np.logical_and.reduce([right[label, "clean"] for label in "ABC"] + [~right[each, name] for each in "AC"])
    found = transfer_of(report, "B", "A+C")
    assert (found.n, found.asymmetry) == (fools.sum(), None)
    assert found.rate == (None if not found.n else (~right["B", name])[fools].mean())


def test_an_example_counts_for_an_ensemble_if_it_fools_all_members(suite, run):
    """With another number than that of examples that fool the first member."""
    ensembles = [{"ensemble": list(members)} for members in ("AB", "BC", "AC")]
    models = [MODELS[0], MODELS[1] | {"seed": 2}, MODELS[1] | {"label": "C", "seed": 8}]
    found = run(suite(models=models, attacks=[STEP | {"eps": ["1/16", "1/8", "1/4"], "source": ensembles}]))
    right = {(each.cell.model.label, each.cell.short_name): each.correct for each in found.cells}
    report, differ = build(found), []
    for eps in ("1/16", "1/8", "1/4"):
        for members, model in (("AB", "C"), ("BC", "A"), ("AC", "B")):
            name = f"step(linf, {eps}, source={'+'.join(members)})"
            clean = np.logical_and.reduce([right[label, "clean"] for label in "ABC"])
            fooled = [clean & ~right[member, name] for member in members]
            both = np.logical_and(*fooled)
            transfer = transfer_of(report, model, "+".join(members), eps)
            assert transfer.n == both.sum()
            assert transfer.rate == (None if not both.any() else (~right[model, name])[both].mean())
            differ.append(fooled[0].sum() != both.sum())
    assert any(differ)


def test_the_asymmetry_is_the_difference_of_both_ways(results):
    report = build(results)
    one, other = transfer_of(report, "A", "C"), transfer_of(report, "C", "A")
    assert one.asymmetry == -other.asymmetry == one.rate - other.rate
    assert one.asymmetry_interval == pytest.approx([-end for end in other.asymmetry_interval[::-1]])


def test_transfer_attacks_have_tables_of_their_own(results):
    report = build(results)
    found = {table.title: table for table in tables(report)}
    assert [row.name for row in found["Attacks"].rows if row] == ["clean", "step(linf, 1/4)", "worst case linf ≤ 1/8"]
    assert "transfer attacks included" in found["Attacks"].caption
    table = found["Transfer of step(linf, 1/4)"]
    assert table.header == ("", "A", "B", "C")
    rows = {row.name: row for row in table.rows if row}
    assert list(rows)[:8] == [f"{word}source {source}" for word in ("", "rate, ") for source in ("A", "B", "C", "A+C")]
    direct = next(row for row in found["Attacks"].rows if row and row.name == "step(linf, 1/4)")
    for at, source in enumerate("ABC"):
        assert rows[f"source {source}"].values[at].number == direct.values[at].number
        assert rows[f"rate, source {source}"].values[at].number is None
    rate = rows["rate, source A"].values[2]
    assert (rate.number, rate.interval) == (transfer_of(report, "C", "A").rate, transfer_of(report, "C", "A").interval)
    assert [str(part) for part in rate.notes[0][:1]] == ["n ="]
    assert rows["asymmetry, source A"].values[2].number == transfer_of(report, "C", "A").asymmetry


def test_a_suite_of_transfer_attacks_alone_has_their_tables(suite, run):
    report = build(run(suite(models=MODELS[:2], attacks=[STEP | {"source": "*"}])))
    assert [table.title for table in tables(report)][:2] == ["Attacks", "Transfer of step(linf, 1/4)"]


def test_every_renderer_has_the_rates(results):
    report = build(results)
    rate = transfer_of(report, "C", "A")
    shown = f"{100 * rate.rate:.1f}"
    assert "| rate, source A | – |" in markdown.render(report) and shown in markdown.render(report)
    assert "Transfer of step(linf, 1/4)" in latex.render(report)
    file = io.StringIO()
    terminal.show(report, Console(file=file, width=80, force_terminal=True, color_system=None))
    lines = file.getvalue().splitlines()
    at = lines.index("Transfer of step(linf, 1/4)")
    table = lines[at : next(at for at, line in enumerate(lines) if at > 0 and "Worst class" in line)]
    assert max(map(len, table)) <= 80 and any(line.startswith("rate, source A") for line in table)
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    [row] = [row for row in rows if row["statistic"] == "transfer_rate" and row["model"] == "C"
             and row["reference"] == "A" and row["budget"] == "1/4"]  # fmt: skip
    assert (float(row["value"]), int(row["n"]), float(row["low"])) == (rate.rate, rate.n, rate.interval.low)
    cells = json.loads(as_json(report))["cells"]
    [cell] = [cell for cell in cells if cell["model"] == "C" and cell["perturbation"] == "step(linf, 1/4, source=A)"]
    assert (cell["transfer"]["rate"], cell["transfer"]["surrogates"]) == (rate.rate, ["A"])
    assert all((cell["transfer"] is None) == ("source=" not in cell["perturbation"]) for cell in cells)


def test_heat_maps_show_the_drop_of_every_model_from_every_source(results):
    report = build(results)
    maps = {figure.title: figure for figure in figures(report) if figure.name.startswith("transfer-")}
    assert list(maps) == ["Transfer of step(linf, 1/8)", "Transfer of step(linf, 1/4)"]
    figure = maps["Transfer of step(linf, 1/4)"]
    [axis] = figure.draw().axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["A", "B", "C", "A+C"]
    drops = [cell.numbers.relative_drop for source in ("A", "B", "C", "A+C") for model in "ABC"
             for cell in report.cells if cell.transfer and (cell.model, cell.transfer.source, cell.eps)
             == (model, source, "1/4")]  # fmt: skip
    assert [text.get_text() for text in axis.texts] == [f"{100 * drop:.0f}" for drop in drops]


def test_a_run_that_is_its_own_source_is_no_transfer(suite, run):
    """If a model has several runs, the source itself is left out of the mean over runs."""
    models = [{"model": "teams/net", "label": "A"}, MODELS[2]]
    report = build(run(suite(models=models, attacks=[STEP | {"source": "A"}])))
    cells = [cell for cell in report.cells if cell.transfer]
    runs = replace(report, run_of={"A": "All", "C": "All"}, models=("A", "C"), cells=tuple(cells))
    assert list(transfer_cells(runs)["step(linf, 1/4)"]["A"]) == ["C"]
    assert list(transfer_cells(report)["step(linf, 1/4)"]["A"]) == ["A", "C"]


# --- statistics -----------------------------------------------------------------------------------------------------


def test_a_rate_in_numbers():
    fools_source = np.array([True] * 10 + [False] * 30)
    fools_target = np.array([True] * 3 + [False] * 7 + [True] * 30)
    found = statistics.transfer_rate(fools_source, fools_target)
    assert found == (10, 0.3, statistics.accuracy_interval(3, 10))
    with pytest.raises(statistics.EmptySample, match="at least one example that fools the source"):
        statistics.transfer_rate(~fools_source & fools_source, fools_target)


def test_the_asymmetry_of_independent_rates_has_newcombes_interval():
    """Without common examples: Newcombe 1998, Statistics in Medicine 17:873, method 11, in numbers of its formula."""
    there = np.arange(40) < 20, np.arange(40) < 8
    back = np.arange(40) >= 20, np.arange(40) >= 35
    difference, interval = statistics.transfer_asymmetry(there, back)
    (low, high), (low_back, high_back) = statistics.accuracy_interval(8, 20), statistics.accuracy_interval(5, 20)
    assert difference == pytest.approx(0.4 - 0.25)
    assert interval.low == pytest.approx(difference - np.hypot(0.4 - low, high_back - 0.25))
    assert interval.high == pytest.approx(difference + np.hypot(high - 0.4, 0.25 - low_back))


def test_equal_outcomes_both_ways_leave_no_asymmetry():
    way = np.arange(40) < 20, np.arange(40) < 8
    difference, interval = statistics.transfer_asymmetry(way, way)
    assert difference == 0 and interval.low <= 0 <= interval.high
    assert interval.high - interval.low < 0.25  # the rates are the same numbers, so the examples say much


SETTINGS = [
    (20, 0.8, 0.1, 0.3),
    (200, 0.5, 0.5, 0.0),
    (200, 0.9, 0.7, 0.8),
    (1000, 0.6, 0.2, 0.5),
    (200, 0.3, 0.05, 0.0),
]


@pytest.mark.parametrize(("n", "fooled", "transferred", "shared"), SETTINGS)
def test_intervals_of_rates_and_asymmetries_cover_them(n, fooled, transferred, shared):
    """Examples share their difficulty, so that both ways are correlated; 2,000 samples, coverage at least 93 %."""
    draws, covered, covered_difference, counted = np.random.default_rng(n), 0, 0, 0
    back = min(1.0, transferred + 0.15)
    for _ in range(2000):
        common = draws.random((4, n))
        own = draws.random((4, n))
        same = draws.random(n) < shared  # of these examples, both ways have the same luck
        luck = np.where(same, common, own)
        luck[3] = np.where(same, common[1], own[3])
        luck[2] = np.where(same, common[0], own[2])
        there = luck[0] < fooled, luck[1] < transferred
        other = luck[2] < fooled, luck[3] < back
        if not there[0].any() or not other[0].any():
            continue
        counted += 1
        low, high = statistics.transfer_rate(*there).interval
        covered += low <= transferred <= high
        _, (low, high) = statistics.transfer_asymmetry(there, other)
        covered_difference += low <= transferred - back <= high
    assert counted > 1990 and covered / counted >= 0.93 and covered_difference / counted >= 0.93
