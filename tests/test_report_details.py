"""Calibration, worst classes and areas in a report: every number from the rows by NumPy, and the tables of them."""

import dataclasses
import sys

import numpy as np
import pytest

from plain_calibration import plain_ece
from robharness import statistics
from robharness.report import build, detail_tables, details
from robharness.report.build import MANY_OUTCOMES
from robharness.report.distances import area_until
from robharness.report.tables import tables


@pytest.fixture
def results(suite, run):
    models = [{"model": "toys/net", "label": "Net", "reference": True}, {"model": "toys/net", "label": "Same"},
              {"model": "toys/net", "label": "NaN", "what": "not-numbers"}]  # fmt: skip
    return run(suite(models=models, attacks=[{"attack": "toys/climb", "eps": "1/4"}, {"attack": "teams/nearest"}]))


def test_calibration_follows_from_the_rows(results):
    for result, cell in zip(results.cells, build(results).cells, strict=True):
        confidence = result.columns["confidence"]
        known = ~np.isnan(confidence)
        confidence, correct = confidence[known].astype(float), result.correct[known]
        found = cell.calibration
        assert found.n == known.sum() == sum(each.n for each in found.bins)
        assert found.ece == pytest.approx(plain_ece(confidence, correct), abs=1e-12)
        assert found.confidence == pytest.approx(confidence.mean())
        wrong = confidence[~correct]
        assert found.confidence_when_wrong == (pytest.approx(wrong.mean()) if len(wrong) else None)
        for each in found.bins:
            inside = (confidence > each.low) & (confidence <= each.high)
            assert each.n == inside.sum() and each.high - each.low == pytest.approx(1 / 15)
            if each.n:
                assert each.accuracy == pytest.approx(correct[inside].mean())
                assert each.confidence == pytest.approx(confidence[inside].mean())
                assert each.interval == statistics.accuracy_interval(int(correct[inside].sum()), each.n)
            else:
                assert (each.accuracy, each.confidence, each.interval) == (None, None, None)


def test_classes_follow_from_the_rows(results):
    for result, cell in zip(results.cells, build(results).cells, strict=True):
        labels = result.columns["label"]
        accuracies = {label: result.correct[labels == label].mean() for label in np.unique(labels).tolist()}
        found = cell.classes
        assert found.classes == len(accuracies)
        assert found.worst == min(accuracies.values()) == found.lowest[0].accuracy
        assert found.worst_interval.low <= found.worst <= found.worst_interval.high
        ordered = sorted(accuracies.items(), key=lambda item: (item[1], item[0]))
        assert [(each.label, each.accuracy) for each in found.lowest] == ordered[:10]
        for each in found.lowest:
            assert each.n == (labels == each.label).sum()
            assert each.interval.low <= each.accuracy <= each.interval.high


def test_classes_of_a_part_of_the_examples(suite, run):
    """Labels are read once for complete cells, and again for a cell with other examples."""
    run(suite(attacks=None), limit=20)
    results = run(suite(), shard=(2, 2))
    for result, cell in zip(results.cells, build(results).cells, strict=True):
        labels = result.columns["label"]
        assert cell.classes.worst == min(result.correct[labels == label].mean() for label in np.unique(labels))
    assert {result.n for result in results.cells} == {20, 40}


def test_areas_are_integrals_of_the_accuracy_over_budgets(results):
    cells = [(result, cell) for result, cell in zip(results.cells, build(results).cells, strict=True) if cell.distances]
    assert len(cells) == 3 and len({cell.distances.area_until for _, cell in cells}) == 1
    thirds = []
    for result, cell in cells:
        until = cell.distances.area_until
        ends = np.unique(np.concatenate([[0, until], result.distances[result.distances < until]]))
        accuracy = np.array([(result.distances > eps).mean() for eps in ends[:-1]])  # constant between two ends
        assert cell.distances.area == pytest.approx((accuracy * np.diff(ends)).sum() / until, abs=1e-12)
        fine = np.linspace(0, until, 20_001)
        curve = [(result.distances > eps).mean() for eps in fine]
        assert cell.distances.area == pytest.approx(np.trapezoid(curve, fine) / until, abs=1e-3)
        thirds.append(np.quantile(result.distances, 0.75, method="inverted_cdf"))
    largest = max(value for value in thirds if np.isfinite(value))
    assert largest <= until <= 1.1 * largest and float(f"{until:.1e}") == until


@pytest.mark.parametrize(
    ("distances", "until"),
    [
        ([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.9]], 0.3),
        ([[0.1, 0.2, 0.3141, 0.4]], 0.32),
        ([[0.1, 0.2, np.inf, np.inf], [0.0] * 4], 0.2),  # no third quartile above 0: the largest distance
        ([[0.0] * 4, [np.inf] * 4], None),
        ([[0.0012301] * 4], 0.0013),
        ([[99.1] * 4], 100),
        ([[0.3] * 4, [0.3] * 4], 0.3),
    ],
)
def test_areas_reach_up_to_the_largest_third_quartile_rounded_up(distances, until):
    assert area_until([np.array(each) for each in distances]) == until


def test_details_are_left_out_of_many_outcomes_unless_they_are_asked_for(results, monkeypatch):
    monkeypatch.setattr(sys.modules["robharness.report.build"], "MANY_OUTCOMES", 100)
    report = build(results)
    assert all(cell.calibration is None and cell.classes is None for cell in report.cells)
    (found,) = [found for found in report.findings if found.code == "details-left-out"]
    assert "there are 360 outcomes" in found.message
    assert build(results, details=True).cells[0].calibration
    assert MANY_OUTCOMES > 360


def enlarged(report, factor):
    """Return the report with more examples behind each number, since tables of few examples are left out."""

    def cell(each):
        calibration = dataclasses.replace(each.calibration, n=factor * each.calibration.n)
        classes = dataclasses.replace(each.classes, classes=2)
        return dataclasses.replace(each, calibration=calibration, classes=classes)

    return dataclasses.replace(report, cells=tuple(map(cell, report.cells)))


def test_tables_of_calibration_and_of_the_worst_class(results):
    report = build(results)
    assert not {"Calibration"} & {table.title for table in tables(report)}  # 40 examples are too few
    report = enlarged(report, 10)
    found = {table.title: table for table in tables(report)}
    rows = {row.name: row for row in found["Calibration"].rows if row}
    assert list(rows) == [f"{quantity}, {name}" for quantity in ("ECE", "confidence", "confidence when wrong")
                          for name in ("clean", "climb(linf, 1/4)")]  # fmt: skip
    cells = {(cell.model, cell.perturbation): cell for cell in report.cells}
    for row in rows.values():
        quantity, name = row.name.split(", ", 1)
        for label, value in zip(report.models, row.values, strict=True):
            calibration = cells[label, name].calibration
            number = {"ECE": calibration.ece, "confidence": calibration.confidence}
            assert value.number == number.get(quantity, calibration.confidence_when_wrong)
            assert value.few_examples == (quantity == "ECE")
    assert "15 bins" in found["Calibration"].caption and "few examples" in found["Calibration"].caption
    for row in found["Worst class"].rows:
        for label, value in zip(report.models, row.values, strict=True):
            classes = cells[label, row.name].classes
            assert (value.number, value.interval) == (classes.worst, classes.worst_interval)
            assert value.notes == (("class", value.notes[0][1]),)
            assert value.notes[0][1].value == classes.lowest[0].label
    areas = next(row for row in found["Smallest perturbations"].rows if row.name == "area, nearest(linf)")
    assert [value.number for value in areas.values] == [cells[label, "nearest(linf)"].distances.area
                                                        for label in report.models]  # fmt: skip
    until = cells["Net", "nearest(linf)"].distances.area_until
    assert f"budgets from 0 to {until:g}" in found["Smallest perturbations"].caption
    assert detail_tables.MANY_CONFIDENCES > 400 >= details.MIN_CONFIDENCES
