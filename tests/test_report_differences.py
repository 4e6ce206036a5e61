"""Differences of models from the reference: computed again from the outcomes, and in every format of a report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from robharness import api
from robharness.report import build
from robharness.report.renderers import html, latex, markdown, terminal
from robharness.report.renderers import json as report_json
from robharness.report.renderers.base import Layout
from robharness.report.results import Results
from robharness.report.tables import tables
from robharness.report.tidy import rows
from robharness.statistics import drop_difference, drop_difference_interval, paired_difference

PLUGINS = [str(Path(__file__).with_name(name)) for name in ("toys.py", "teams.py")]
ATTACKS = [{"attack": "toys/sign", "eps": ["1/8", "1/4"]}, {"attack": "toys/climb", "eps": "1/8"},
           {"attack": "teams/nearest"}]  # fmt: skip
SIGN, QUARTER, CLIMB, SPECKLE = "sign(linf, 1/8)", "sign(linf, 1/4)", "climb(linf, 1/8)", "speckle(1)"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The results of four models, of which M1 is the reference, with drawn outcomes."""
    models = [{"model": "toys/net", "label": f"M{number}", "reference": number == 1} for number in range(4)]
    source = {"robharness": 1, "name": "toys", "data": {"name": "toys/pixels", "split": "test"}, "models": models,
              "attacks": ATTACKS, "corruptions": [{"corruption": "toys/speckle", "severity": [1]}]}  # fmt: skip
    found = api.run(source, store=tmp_path_factory.mktemp("store"), plugins=PLUGINS)
    draw = np.random.default_rng(5)
    difficulty, cells = draw.random(40), []
    for cell in found.cells:
        chance = 0.2 + 0.15 * int(cell.cell.model.label[1]) + 0.3 * (cell.cell.kind == "clean")
        cells.append(
            replace(cell, columns={**cell.columns, "correct": 0.7 * difficulty + 0.3 * draw.random(40) < chance})
        )
    return replace(found, cells=tuple(cells))


@pytest.fixture(scope="module")
def report(measured):
    return build(measured)


def right(results, label, name):
    return next(c.correct for c in results.cells if (c.cell.model.label, c.cell.short_name) == (label, name))


def found_in(report):
    return {(each.model, each.perturbation): each for each in report.differences}


def interval(before, after):
    """The interval of Bonett and Price (2012), written out again."""
    n, z = len(before), 1.959963984540054
    lost, gained = ((before & ~after).sum() + 1) / (n + 2), ((~before & after).sum() + 1) / (n + 2)
    half = z * np.sqrt((lost + gained - (gained - lost) ** 2) / (n + 2))
    return gained - lost - half, gained - lost + half


# --- numbers --------------------------------------------------------------------------------------------------------


def test_every_difference_follows_from_the_outcomes(measured, report):
    found = found_in(report)
    cells = {(m, name) for m in ("M0", "M2", "M3") for name in ("clean", SIGN, QUARTER, CLIMB, SPECKLE)}
    assert {key for key, each in found.items() if each.kind != "worst case"} == cells
    for model, name in cells:
        own, base, each = right(measured, model, name), right(measured, "M1", name), found[model, name]
        lost, gained = int((base & ~own).sum()), int((own & ~base).sum())
        assert (each.reference, each.n, each.lost, each.gained, each.runs) == ("M1", 40, lost, gained, None)
        assert each.difference == pytest.approx(own.mean() - base.mean(), abs=1e-15)
        assert each.interval == pytest.approx(interval(base, own), abs=1e-12)
        assert each.p == pytest.approx(binomtest(lost, lost + gained).pvalue if lost + gained else 1)
        if name == "clean":
            assert each.drop_difference is None and each.drop_interval is None
        else:
            clean = right(measured, model, "clean"), right(measured, "M1", "clean")
            drops = [1 - perturbed.mean() / before.mean() for before, perturbed in zip(clean, (own, base), strict=True)]
            assert each.drop_difference == pytest.approx(drops[0] - drops[1], abs=1e-15)
            assert each.drop_interval == drop_difference_interval(clean, (own, base))
    tested = [each for each in report.differences if each.p is not None]
    adjusted = multipletests([each.p for each in tested], method="holm")[1]
    assert [each.p_holm for each in tested] == pytest.approx(adjusted.tolist())
    assert min(adjusted) < 0.05 < max(adjusted)


def test_worst_cases_are_compared_without_a_test(measured, report):
    worst = {key: each for key, each in found_in(report).items() if each.kind == "worst case"}
    assert set(worst) == {(m, f"worst case linf ≤ {eps}") for m in ("M0", "M2", "M3") for eps in ("1/8", "1/4")}
    own, base = (right(measured, m, SIGN) & right(measured, m, CLIMB) for m in ("M3", "M1"))
    each = worst["M3", "worst case linf ≤ 1/8"]
    assert each.difference == pytest.approx(own.mean() - base.mean())
    assert each.interval == pytest.approx(interval(base, own)) and each.p is each.p_holm is None
    assert each.drop_difference is not None


def test_only_common_examples_are_compared(measured):
    def cut(cell):
        where = {("M2", SIGN): slice(0, 30), ("M1", "clean"): slice(10, 40), ("M3", CLIMB): slice(0, 0)}
        kept = where.get((cell.cell.model.label, cell.cell.short_name), slice(0, 40))
        columns = {name: cell.columns[name][kept] for name in ("correct", "prediction", "label")}
        return replace(cell, positions=cell.positions[kept], columns=columns if kept != slice(0, 40) else cell.columns)

    partial = build(replace(measured, cells=tuple(map(cut, measured.cells))))
    found = found_in(partial)
    own, base = right(measured, "M2", SIGN)[:30], right(measured, "M1", SIGN)[:30]
    each = found["M2", SIGN]
    assert each.n == 30 and each.difference == pytest.approx(own.mean() - base.mean())
    clean = tuple(right(measured, m, "clean")[10:30] for m in ("M2", "M1"))
    assert each.drop_interval == drop_difference_interval(clean, (own[10:], base[10:]))
    assert found["M2", "clean"].n == 30
    assert ("M3", CLIMB) not in found and ("M3", "worst case linf ≤ 1/8") not in found
    assert ("M2", "worst case linf ≤ 1/8") in found
    (shown,) = (row for row in tables(partial)[1].rows if row is not None and row.name == SIGN)
    assert [len(value.notes) for value in shown.values] == [0, 1, 0]
    assert "30 of 40 examples" in markdown.render(partial)


def test_clusters_are_those_of_the_suite(measured, report):
    """Examples whose ids end with the same digit belong together."""
    suite = replace(measured.outline.suite, clusters="[0-9]$")
    clustered = build(replace(measured, outline=replace(measured.outline, suite=suite)))
    cell = measured.cells[0]
    clusters = np.array([int(str(id)[-1]) for id in cell.columns["example"]])
    assert 1 < len(set(clusters)) < 40
    for name in ("clean", SIGN, "worst case linf ≤ 1/8"):
        own, alone = found_in(clustered)["M3", name], found_in(report)["M3", name]
        assert own.units == len(set(clusters)) and alone.units == 40
        assert own.difference == alone.difference and own.interval != alone.interval
    before, after = (right(measured, model, SIGN) for model in ("M1", "M3"))
    expected = paired_difference(before, after, clusters)
    each = found_in(clustered)["M3", SIGN]
    assert (each.p, each.interval) == (expected.p, expected.interval)
    clean = tuple(right(measured, model, "clean") for model in ("M1", "M3"))
    assert each.drop_interval == drop_difference(clean, (before, after), clusters).interval
    assert f"n = 40 in {len(set(clusters))} clusters" in tables(clustered)[1].caption


def test_a_model_that_is_never_right_has_no_difference_of_drops(measured):
    wrong = {"correct": np.zeros(40, bool)}
    cells = tuple(
        replace(cell, columns={**cell.columns, **wrong}) if cell.cell.model.label == "M0" else cell
        for cell in measured.cells
    )
    each = found_in(build(replace(measured, cells=cells)))["M0", SIGN]
    assert each.drop_difference is each.drop_interval is None
    assert each.difference == -right(measured, "M1", SIGN).mean() and each.gained == 0


def test_robust_accuracies_are_compared_if_only_right_examples_are_attacked(suite, run):
    models = [{"model": "toys/net", "label": "A", "reference": True},
              {"model": "toys/net", "label": "B", "what": "undecided"}]  # fmt: skip
    results = run(suite(models=models, attacks=ATTACKS[:2], count="robust"))
    draw = np.random.default_rng(1)
    cells = tuple(replace(c, columns={**c.columns, "correct": draw.random(40) < 0.6}) for c in results.cells)
    report = build(replace(results, cells=cells))
    own, base = (right(replace(results, cells=cells), m, SIGN) & right(replace(results, cells=cells), m, "clean")
                 for m in "BA")  # fmt: skip
    each = found_in(report)["B", SIGN]
    assert each.difference == pytest.approx(own.mean() - base.mean())
    assert each.interval == pytest.approx(interval(base, own))
    by_model = {cell.model: cell.numbers for cell in report.cells if cell.perturbation == SIGN}
    assert each.difference == pytest.approx(by_model["B"].robust_accuracy - by_model["A"].robust_accuracy)
    assert each.drop_difference == pytest.approx(by_model["B"].relative_drop - by_model["A"].relative_drop)
    worst = found_in(report)["B", "worst case linf ≤ 1/8"]
    cases = {case.model: case.numbers.robust_accuracy for case in report.worst_cases if case.eps == "1/8"}
    assert worst.difference == pytest.approx(cases["B"] - cases["A"])
    assert tables(report)[1].caption.startswith("robust accuracy (correct both clean and attacked) minus that of A")


# --- runs over seeds ------------------------------------------------------------------------------------------------


def with_runs(results, run_of):
    suite = results.outline.suite
    models = tuple(replace(model, run_of=run_of.get(model.label)) for model in suite.models)
    return replace(results, outline=replace(results.outline, suite=replace(suite, models=models)))


def test_runs_are_compared_by_their_means(measured):
    report = build(with_runs(measured, {"M2": "Seeds", "M3": "Seeds"}))
    found = found_in(report)
    assert {model for model, _ in found} == {"M0", "Seeds"}
    accuracies = [right(measured, m, SIGN).mean() for m in ("M2", "M3")]
    drops = [1 - right(measured, m, SIGN).mean() / right(measured, m, "clean").mean() for m in ("M2", "M3", "M1")]
    each = found["Seeds", SIGN]
    assert (each.runs, each.p, each.p_holm, each.interval, each.lost) == ((2, 1), None, None, None, None)
    assert each.difference == pytest.approx(np.mean(accuracies) - right(measured, "M1", SIGN).mean())
    assert each.deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert each.drop_difference == pytest.approx(np.mean(drops[:2]) - drops[2])
    assert each.drop_deviation == pytest.approx(np.std(drops[:2], ddof=1))
    assert found["M0", SIGN].p is not None and found["M0", SIGN].runs is None
    table = tables(report)[1]
    assert table.header == ("", "M0", "Seeds") and "±: sample standard deviation over runs" in table.caption
    text = terminal.render(report)
    line = next(line for line in text[text.index("difference from") :].splitlines() if line.startswith(SIGN))
    assert f"{100 * each.difference:+.1f} ± {100 * each.deviation:.1f} ↓" in line


def test_runs_of_the_reference_are_averaged_as_well(measured):
    report = build(with_runs(measured, {"M1": "Base", "M2": "Base"}))
    assert {(each.model, each.reference, each.runs) for each in report.differences} == {
        ("M0", "Base", (1, 2)),
        ("M3", "Base", (1, 2)),
    }
    base = [right(measured, m, SIGN).mean() for m in ("M1", "M2")]
    each = found_in(report)["M0", SIGN]
    assert each.difference == pytest.approx(right(measured, "M0", SIGN).mean() - np.mean(base))
    assert each.deviation == pytest.approx(np.std(base, ddof=1))
    assert "Base: the mean of 2 runs" in tables(report)[1].caption and "McNemar" not in tables(report)[1].caption


def test_two_models_with_runs_have_the_spread_of_both(measured):
    report = build(with_runs(measured, {"M0": "Seeds", "M2": "Seeds", "M1": "Base", "M3": "Base"}))
    deviations = [
        np.std([right(measured, m, SIGN).mean() for m in some], ddof=1) for some in (("M0", "M2"), ("M1", "M3"))
    ]
    assert found_in(report)["Seeds", SIGN].deviation == pytest.approx(np.hypot(*deviations))


def test_there_is_nothing_without_a_reference_or_beside_it_alone(measured):
    suite = measured.outline.suite
    nameless = replace(suite, models=tuple(replace(model, reference=False) for model in suite.models))
    report = build(replace(measured, outline=replace(measured.outline, suite=nameless)))
    assert report.differences == () and not any("difference" in table.title for table in tables(report))
    alone = tuple(cell for cell in measured.cells if cell.cell.model.label == "M1")
    assert build(replace(measured, cells=alone)).differences == ()
    absent = tuple(cell for cell in measured.cells if cell.cell.model.label != "M1")
    assert build(replace(measured, cells=absent)).differences == ()


# --- formats --------------------------------------------------------------------------------------------------------


def test_the_tables_follow_those_of_accuracies(report):
    made = {table.title: table for table in tables(report)}
    assert list(made)[:5] == ["Attacks", "Attacks: difference from M1", "Smallest perturbations", "Corruptions",
                              "Corruptions: difference from M1"]  # fmt: skip
    attacks = made["Attacks: difference from M1"]
    assert [row and row.name for row in attacks.rows] == [
        "clean", None, SIGN, QUARTER, CLIMB, None, "worst case linf ≤ 1/8", "worst case linf ≤ 1/4",
    ]  # fmt: skip
    assert [row and row.name for row in made["Corruptions: difference from M1"].rows] == [
        "clean",
        None,
        "speckle(1), noise",
    ]
    assert attacks.caption == (
        "accuracy minus that of M1, in points; ↓ relative drop minus that of M1, in points; paired on the same "
        "examples, n = 40; p: exact McNemar test, adjusted by Holm for 15 cells"
    )
    keys = {cell.key for cell in report.cells if cell.perturbation == SIGN and cell.model != "M1"}
    assert {value.key for value in attacks.rows[2].values} == keys


def test_text_has_a_line_per_perturbation(report):
    text = terminal.render(report, Layout(intervals=True))
    part = text[text.index("Attacks: difference from M1") : text.index("Smallest perturbations")]
    each = found_in(report)["M3", SIGN]
    lines = [line for line in part.splitlines() if line.startswith(("clean", "sign", "climb", "worst"))]
    assert len(lines) == 6
    low, high = (f"{100 * bound:.1f}" for bound in each.interval)
    expected = f"{100 * each.difference:+.1f} [{low}, {high}] ↓{100 * each.drop_difference:+.0f} ["
    assert expected in " ".join(lines[1].split()).replace("[ ", "[")
    assert "p <0.0001" in lines[1] or f"p {each.p_holm:.2}"[:6] in lines[1]
    assert expected in markdown.render(report)


def test_json_and_rows_have_all_numbers(report):
    data = json.loads(report_json.render(report))["differences"]
    assert len(data) == len(report.differences) == 21
    for entry, each in zip(data, report.differences, strict=True):
        assert (entry["difference"], entry["p_holm"]) == (each.difference, each.p_holm)
    tidy = [row for row in rows(report) if row["kind"] == "difference" and row["model"] == "M2"]
    of_sign = {row["statistic"]: row for row in tidy if row["perturbation"] == SIGN}
    each = found_in(report)["M2", SIGN]
    accuracy = of_sign["accuracy_difference"]
    assert (accuracy["value"], accuracy["low"], accuracy["high"]) == (each.difference, *each.interval)
    assert (accuracy["reference"], accuracy["norm"], accuracy["budget"], accuracy["n"]) == ("M1", "linf", "1/8", 40)
    assert of_sign["mcnemar_p_holm"]["value"] == each.p_holm and of_sign["lost"]["value"] == each.lost
    assert {row["budget"] for row in tidy if row["perturbation"].startswith("worst")} == {"1/8", "1/4"}


def test_the_summary_has_them_per_cell(measured, report):
    frame = Results.with_report(measured).summary().set_index(["model", "perturbation"])
    each = found_in(report)["M3", SIGN]
    row = frame.loc[("M3", SIGN)]
    assert (row.difference, row.difference_low, row.difference_high) == (each.difference, *each.interval)
    assert row.p_holm == each.p_holm and frame.loc["M1"].difference.isna().all()


def test_latex_marks_what_is_significant(report):
    text = latex.render(report)
    part = text[text.index("Attacks: difference from M1}]") : text.index("Smallest perturbations}]")]
    assert r"Accuracy minus that of M1, in points" in part and "Accuracy in" not in part
    assert r"a: p \textless{} 0.05" in part
    marked = {each.model for each in report.differences if each.kind == "attack" and each.p_holm < 0.05}
    for line in part.splitlines():
        if line[:2] in ("M0", "M2", "M3") and r"\downarrow" in line:
            assert (r"\textsuperscript{a}" in line) <= (line[:2] in marked)
    assert r"\(\downarrow\)-" not in part and r"\textsuperscript{a}" in part
    assert "differences of accuracies" in part


def test_the_page_has_them_beside_all_cells(report):
    page = html.render(report)
    assert '<th scope="col">Difference from M1</th><th scope="col">p (Holm)</th>' in page
    for each in report.differences:
        assert f'data-value="{each.difference!r}" data-low="{each.interval.low!r}"' in page
        assert each.p_holm is None or page.count(f'data-p="{each.p_holm!r}"') >= 1
