"""Attacks without a budget: distances, their median and interval, and the curve of accuracy over eps."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robharness import statistics
from robharness.comparison.build import build as build_comparison
from robharness.comparison.requests import Request
from robharness.comparison.sides import side_of
from robharness.errors import ExitCode
from robharness.gate.baselines import CheckBaseline
from robharness.gate.checks import check_results
from robharness.report import build
from robharness.report.renderers import json as report_json
from robharness.report.renderers import markdown
from robharness.store.failures import Failure

NEAREST = {"attack": "teams/nearest"}


@pytest.fixture
def measured(suite, run):
    return run(suite(attacks=[NEAREST, NEAREST | {"eps": ["1/16", "1/8"]}]))


def numbers(results, name="nearest(linf)"):
    return next(cell for cell in build(results).cells if cell.perturbation == name)


def test_a_minimal_attack_has_an_infinite_budget_and_stores_distances(measured, tmp_path):
    free, small, large = (result.columns for result in measured.cells[1:])
    assert measured.cells[1].cell.identity["perturbation"]["strength"] is None
    assert set(np.array(free["size"]) * 32) <= set(range(17))
    for bounded, eps in ((small, 1 / 16), (large, 1 / 8)):
        within = ~free["correct"] & (free["size"] <= eps)
        assert (bounded["correct"] == ~within).all()
        assert (bounded["size"][within] == free["size"][within]).all()
    assert (free["size"][~measured.cells[0].correct] == 0).all()


def test_comparisons_and_checks_leave_it_out_and_say_so(measured):
    before = side_of(measured, "before")
    assert [cell.perturbation for cell in before.cells] == ["clean", "nearest(linf, 1/16)", "nearest(linf, 1/8)"]
    request = Request(operands=("before", "after"))
    compared, report = build_comparison(before, before, request), check_results(measured, CheckBaseline(side=before))
    for shown in (compared, report):
        assert [cell.perturbation for cell in shown.cells] == [cell.perturbation for cell in before.cells]
        assert [each.subject for each in shown.findings if each.code == "distances-not-compared"] == ["nearest(linf)"]
    assert report.exit_code == ExitCode.FINE
    failed = measured.cells[1].discarded(Failure(start=0, stop=40, blame="teams", error="no memory"))
    broken = replace(measured, cells=(measured.cells[0], failed, *measured.cells[2:]))
    assert check_results(broken, CheckBaseline(side=before)).exit_code == ExitCode.INCOMPLETE


def test_the_report_has_the_distances(measured):
    distances = numbers(measured).distances
    columns = measured.cells[1].columns
    values = np.where(columns["correct"], np.inf, columns["size"])
    assert (distances.n, distances.found) == (40, 40)
    assert distances.median == np.quantile(values, 0.5, method="inverted_cdf")
    assert distances.quartiles == tuple(np.quantile(values, [0.25, 0.75], method="inverted_cdf"))
    assert distances.interval.low <= distances.median <= distances.interval.high
    assert len(distances.curve) == 101
    for eps, accuracy in distances.curve:
        assert accuracy == (values > eps).mean()
    assert distances.curve[-1] == (values.max(), 0)
    assert numbers(measured, "nearest(linf, 1/8)").distances is None
    data = json.loads(report_json.render(build(measured)))
    by_perturbation = {cell["perturbation"]: cell for cell in data["cells"]}
    assert by_perturbation["nearest(linf)"]["distances"]["median"] == distances.median
    assert by_perturbation["nearest(linf)"]["eps"] is None and by_perturbation["clean"]["distances"] is None
    assert {case["eps"] for case in data["worst_cases"]} == {"1/16", "1/8"}
    text = markdown.render(build(measured))
    assert "Smallest perturbations" in text and f"{distances.median:.4g}" in text


def test_examples_that_are_wrong_are_at_distance_0_attacked_or_not(suite, run, measured):
    counted = numbers(run(suite(attacks=[NEAREST], count="robust"), "robust")).distances
    assert counted == numbers(measured).distances


def test_examples_without_a_perturbation_have_an_infinite_distance(suite, run, monkeypatch):
    """A flat network is never moved: those that are right stay at an infinite distance, and nulls say so."""
    flat = [{"model": "teams/net", "label": "Net", "head": 0}]
    results = run(suite(models=flat, attacks=[NEAREST]))
    right = int(results.clean("Net").correct.sum())
    distances = numbers(results).distances
    assert 0 < right < 20
    assert (distances.found, distances.median, distances.quartiles) == (40 - right, 0, (0, None))
    [_, cell] = json.loads(report_json.render(build(results)))["cells"]
    assert cell["distances"]["quartiles"] == [0, None]
    assert f"none found for {right}" in markdown.render(build(results))


@given(st.lists(st.floats(0, 9) | st.just(math.inf), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_numpys(values, share):
    expected = sorted(values)[max(1, math.ceil(round(share * len(values), 9))) - 1]
    assert statistics.quantile(np.array(values), share) == expected
    for share in (0.25, 0.5, 0.75):
        finite = np.nan_to_num(values, posinf=10)
        assert statistics.quantile(finite, share) == np.quantile(finite, share, method="inverted_cdf")


@pytest.mark.parametrize("n", [20, 200])
def test_the_interval_of_the_median_covers_it(n):
    """Of 4000 samples of a skewed distribution whose upper tail is infinite: at least 95 % less 3 standard errors."""
    draws = np.random.default_rng(n).exponential(size=(4000, n))
    draws[draws > 2] = np.inf
    intervals = [statistics.median_interval(row) for row in draws]
    covered = np.mean([low <= math.log(2) <= high for low, high in intervals])
    assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 4000)
    assert covered < 0.985, "it should not be wider than it must"


def test_a_small_sample_has_no_bounds():
    assert statistics.median_interval(np.arange(5.0)) == (-math.inf, math.inf)
    assert statistics.median_interval(np.arange(6.0)) == (0, 5)  # 2 / 2^6 is 3 %
    for compute in (statistics.median_interval, lambda values: statistics.quantile(values, 0.5)):
        with pytest.raises(statistics.EmptySample):
            compute(np.array([]))
