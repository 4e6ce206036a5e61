"""Figures of reports: the numbers in them, their SVG for a page, and files in the user's style."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from cycler import cycler

from robharness.report.figures import figures, save, svg
from robharness.report.figures.series import all_series
from synthetic_reports import cell, invented, report

SVG = "{http://www.w3.org/2000/svg}"
RUNS = {"m1": "SimCLR", "m2": "SimCLR", "m3": "SimCLR"}


@pytest.fixture(scope="module")
def found():
    return invented(["Sup", "SwAV", *RUNS], runs=RUNS, severities=(1, 3))


@pytest.fixture(scope="module")
def drawn(found):
    """The parsed SVG of each figure."""
    return {each.name: ET.fromstring(svg(each)) for each in figures(found)}


def tooltips(root):
    return [title.text for mark in root.iter(f"{SVG}use") for title in mark.iter(f"{SVG}title")]


def texts(root):
    return [text.text for text in root.iter(f"{SVG}text") if text.text]


def positions(root, words):
    """The places of the points whose tooltips begin with these words, (n, 2), y upwards."""
    marks = [mark for mark in root.iter(f"{SVG}use")
             if any((title.text or "").startswith(words) for title in mark.iter(f"{SVG}title"))]  # fmt: skip
    return np.array([(float(mark.get("x")), -float(mark.get("y"))) for mark in marks])


def assert_on_one_scale(places, values):
    """Assert that drawn places are a linear function of the values, which they were computed from."""
    fit = np.polyfit(values, places, 1)
    assert fit[0] > 0
    assert np.abs(np.polyval(fit, values) - places).max() < 0.01


def test_a_report_has_the_figures_that_it_has_numbers_for(found):
    names = [each.name for each in figures(found)]
    assert names == ["budgets-linf", "budgets-l2", "distances-l2", "corruptions", "heatmap-1", "heatmap-2", "heatmap-3",
                     "runs", "worst-classes", "classes-1", "reliability-1"]  # fmt: skip
    assert figures(report([cell("A", "clean", 0.5, 0.5)])) == []
    without = replace(found, reference=None)
    assert "corruptions" not in [each.name for each in figures(without)]
    one = [cell("A", "clean", 0.5, 0.5), cell("A", "x(1)", 0.5, 0.2, eps="1", norm="linf", title="x")]
    assert figures(report(one)) == []  # one budget is no line


def test_points_of_the_scatter_are_the_relative_drops(found, drawn):
    root = drawn["corruptions"]
    drops = {(c.model, c.perturbation): c.numbers.relative_drop for c in found.cells if c.kind == "corruption"}
    names = [name for model, name in drops if model == "Sup"]
    base = [drops["Sup", name] for name in names]
    for label, models in (("SwAV", ["SwAV"]), ("SimCLR", list(RUNS))):
        own = [np.mean([drops[model, name] for model in models]) for name in names]
        places = positions(root, f"{label}: ")
        assert len(places) == len(names) == 30
        assert_on_one_scale(places[:, 0], base)
        assert_on_one_scale(places[:, 1], own)
        assert tooltips(root).count(
            f"{label}: fog(3): drop {100 * own[names.index('fog(3)')]:.1f} %, "
            f"reference {100 * base[names.index('fog(3)')]:.1f} %"
        ) == 1  # fmt: skip
    slopes = {slope.model: slope.slope for slope in found.slopes}
    assert f"SwAV (slope {slopes['SwAV']:.2f})" in texts(root)
    assert f"SimCLR (slope {np.mean([slopes[run] for run in RUNS]):.2f})" in texts(root)


def test_curves_begin_at_the_clean_accuracy_and_show_every_budget(found, drawn):
    root = drawn["budgets-linf"]
    cells = {c.perturbation: c.numbers for c in found.cells if c.model == "SwAV"}
    names = ["clean", "fgsm(linf, 0.25/255)", "fgsm(linf, 0.5/255)", "fgsm(linf, 1/255)", "fgsm(linf, 2/255)"]
    places = positions(root, "SwAV: ")[:5]
    assert_on_one_scale(places[:, 0], [0, 0.25, 0.5, 1, 2])
    assert_on_one_scale(places[:, 1], [cells[name].accuracy for name in names])
    low, high = cells[names[1]].interval
    shown = (
        f"SwAV: {names[1]}: {100 * cells[names[1]].accuracy:.1f} % [{100 * low:.1f} %, {100 * high:.1f} %], n = 1000"
    )
    assert shown in tooltips(root)
    assert texts(root).count("eps (linf, in 1/255)") == 2
    assert "eps (l2)" in texts(drawn["budgets-l2"])


def test_maps_have_every_drop_and_mark_cells_without_one(found, drawn):
    for number, models in enumerate([["Sup"], ["SwAV"], list(RUNS)], 1):
        values = {}
        for c in found.cells:
            if c.kind == "corruption" and c.model in models:
                values.setdefault(c.perturbation, []).append(c.numbers.relative_drop)
        shown = Counter(text for text in texts(drawn[f"heatmap-{number}"]) if re.fullmatch(r"\d+", text))
        assert shown == Counter([f"{100 * np.mean(drops):.0f}" for drops in values.values()]) + Counter(["1", "3"])
    without = replace(found, cells=tuple(c for c in found.cells if (c.model, c.perturbation) != ("Sup", "fog(3)")))
    first = next(each for each in figures(without) if each.name == "heatmap-1")
    assert "Hatched: 1 of 30 cells have no number." in first.caption and "1 cells have no number" in first.alt
    assert "<pattern" in svg(first) and "<pattern" not in ET.tostring(drawn["heatmap-1"], encoding="unicode")


def test_one_severity_makes_one_map_of_all_models():
    names = [each.name for each in figures(invented(["A", "B"], severities=(1,))) if each.name.startswith("heat")]
    assert names == ["heatmap-1"]


def test_runs_are_apart_from_intervals_over_examples(found, drawn):
    figure = next(each for each in figures(found) if each.name == "runs")
    assert "not over examples" in figure.title and "not an interval over examples" in figure.caption
    clean = [c.numbers.accuracy for c in found.cells if c.model in RUNS and c.perturbation == "clean"]
    assert f"clean {100 * np.mean(clean):.1f} % ± {100 * np.std(clean, ddof=1):.1f} %" in figure.alt
    places = np.concatenate([positions(drawn["runs"], f"{run}: clean") for run in RUNS])
    assert_on_one_scale(places[:, 0], clean)
    assert np.ptp(places[:, 1]) == 0


def test_the_strongest_attack_is_the_one_with_the_lowest_accuracy(found, drawn):
    figure = next(each for each in figures(found) if each.name == "reliability-1")
    weakest = min((c for c in found.cells if c.model == "SwAV" and c.kind == "attack" and c.distances is None),
                  key=lambda c: c.numbers.accuracy)  # fmt: skip
    error = f"{100 * weakest.calibration.ece:.1f} %"
    assert f"SwAV, {weakest.perturbation}: mean confidence 80 %, expected calibration error {error}" in figure.alt
    assert any(error in text for text in texts(drawn["reliability-1"]))
    tips = [tip for tip in tooltips(drawn["reliability-1"]) if tip.startswith(f"{weakest.perturbation}: confidence")]
    filled = [each for each in weakest.calibration.bins if each.n]
    assert f"{weakest.perturbation}: confidence 93 % to 100 %: accuracy {100 * filled[-1].accuracy:.1f} %, " \
           f"n = {filled[-1].n}" in tips  # fmt: skip


def test_worst_classes_are_the_minima(found, drawn):
    worst = next(c for c in found.cells if c.model == "SwAV" and c.kind == "clean").classes
    assert f"SwAV: clean: worst class {100 * worst.worst:.1f} %" in tooltips(drawn["worst-classes"])
    lowest = worst.lowest[0]
    assert f"clean: class {lowest.label}: {100 * lowest.accuracy:.1f} %, n = {lowest.n}" in tooltips(drawn["classes-1"])


def test_the_area_under_a_distance_curve_is_in_the_legend(found, drawn):
    area = next(c.distances for c in found.cells if c.distances and c.model == "SwAV").area
    assert f"SwAV (area {100 * area:.1f} %)" in texts(drawn["distances-l2"])


def test_svg_for_a_page_changes_and_loads_nothing_outside_itself(found, drawn):
    ids = Counter()
    for name, root in drawn.items():
        text = ET.tostring(root, encoding="unicode")
        assert not re.search(r"(?:href|src)=\"(?!#)|url\((?!#)|<script|<style|<image|@import|<foreignObject", text)
        own = [element.get("id") for element in root.iter() if element.get("id")]
        assert all(each.startswith(f"{name}-") for each in own)
        ids.update(own)
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(own)
        assert root.get("role") == "img" and root[0].tag == f"{SVG}title" and root[0].text
        assert root[1].tag == f"{SVG}desc" and root[1].text
        assert "currentColor" in text and "#000000" not in text and len(texts(root)) > 5
    assert max(ids.values()) == 1
    again = figures(found)[3]
    assert svg(again) == svg(again)


def test_foreign_labels_are_shown_and_act_on_nothing(tmp_path):
    labels = ["<script>alert(1)</script>", "$x^2$ $", "\\input{a}_b^c", "&amp;\"'", "]]>", "\u202eright", "y" * 10_000,
              "y" * 9_999 + "z", "\x00\x1b[31m"]  # fmt: skip
    foreign = invented(["Sup", *labels], severities=(1,), details=False)
    cells = [replace(c, title=c.title + labels[0], perturbation=c.perturbation + labels[1]) for c in foreign.cells]
    every = figures(replace(foreign, cells=tuple(cells)))
    assert [each.name for each in every] == ["budgets-linf", "budgets-l2", "distances-l2", "corruptions", "heatmap-1"]
    for each in every:
        text = svg(each)
        assert "<script" not in text and "\u202e" not in text and "\x1b" not in text
        assert len(text) < 200_000
    shown = " ".join(texts(ET.fromstring(svg(every[0]))))
    for expected in ("<script>alert(1)</script>", "$x^2$ $", "\\input{a}_b^c", "]]>", "\\u202eright", "y…y", "yyz"):
        assert expected in shown
    save(every[:1], tmp_path)
    page = subprocess.run(["pdftotext", tmp_path / "budgets-linf.pdf", "-"], capture_output=True, text=True, check=True)
    assert "$x^2$ $" in page.stdout and "\\input{a}_b^c" in page.stdout


def test_files_have_the_user_s_style_and_a_page_has_not(found, tmp_path):
    figure = figures(found)[0]
    before = svg(figure)
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.mkdir()
    other.mkdir()
    assert [path.name for path in save([figure], plain)] == ["budgets-linf.pdf", "budgets-linf.svg"]
    save([figure], other)
    for name in ("budgets-linf.pdf", "budgets-linf.svg"):
        assert (plain / name).read_bytes() == (other / name).read_bytes()
    style = {"axes.prop_cycle": cycler(color=["#123456", "#654321"]), "font.size": 17.0, "svg.fonttype": "none",
             "font.family": "monospace", "axes.facecolor": "#fafaf0"}  # fmt: skip
    with matplotlib.rc_context(style):
        assert svg(figure) == before
        save([figure], other, [".svg"])
    text = (other / "budgets-linf.svg").read_text()
    assert "#123456" in text and "17px" in text and "monospace" in text and "#fafaf0" in text
    assert "SwAV: clean" in text  # points have their tooltips in files too
    assert "#0072b2" in before and "#123456" not in before


def test_drawing_changes_no_setting_and_needs_neither_pyplot_nor_torch():
    code = """
import sys, matplotlib
from synthetic_reports import invented
from robharness.report.figures import figures, svg
before = matplotlib.rcParams.copy()
for each in figures(invented(["A", "B"], severities=(1,))): svg(each)
assert matplotlib.rcParams.copy() == before
found = {"matplotlib.pyplot", "torch", "pandas"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)})


def test_twenty_models_and_a_hundred_cells_stay_small_and_told_apart():
    every = figures(invented([f"model {at}" for at in range(20)]))
    kinds = {}
    for each in every:
        kinds.setdefault(each.name.partition("-")[0], []).append(each)
    sizes = {kind: len(svg(some[0])) * len(some) for kind, some in kinds.items()}
    assert sum(sizes.values()) < 3_000_000, sizes
    assert len(every) < 40
    assert all(len(each.alt) < 2000 for each in every)
    looks = [
        (series.color, series.marker, series.line) for series in all_series(invented(list("abcdefghijklmnopqrst")))
    ]
    assert len(set(looks)) == 20
