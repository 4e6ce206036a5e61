"""Optimality of attacks without a budget: closed forms, the code of AttackBench, coverage, and the report."""

import json
from dataclasses import replace
from itertools import pairwise

import jsonschema
import numpy as np
import pytest

from robharness.report import build, tidy
from robharness.report.figures import figures
from robharness.report.optimality import optimalities, passes_of
from robharness.report.renderers import html, latex, markdown, terminal
from robharness.report.renderers import json as report_json
from robharness.report.schema import report_schema
from robharness.report.tables import tables
from robharness.statistics import (
    UndefinedNumber,
    local_optimality,
    optimality_limit,
    percentile_interval,
    resampled_local_optimality,
    resampled_means,
)


def optimality(distances, best):
    return local_optimality([distances], best, optimality_limit(best))[0]


@pytest.mark.parametrize("factor", [1, 1.25, 2, 10])
@pytest.mark.parametrize("wrong", [0, 3000])
def test_straight_curves_have_a_closed_form(factor, wrong):
    """rho_a* = rho (1 - eps) and rho_a = rho (1 - eps / factor): both areas are triangles or trapezia.

    AUREC_a* = rho / 2 and AUREC_a = rho (1 - 1 / (2 factor)), so that xi = 1 / factor.
    """
    n = 10_000
    best = np.concatenate([np.zeros(wrong), (np.arange(n) + 1) / n])
    assert optimality_limit(best) == 1
    assert optimality(factor * best, best) == pytest.approx(1 / factor, abs=2 / n)


def test_curves_with_one_step_have_a_closed_form():
    """All examples at eps_0 / 4, or at eps_0 / 2: the areas are rho / 4 and rho / 2 of eps_0, but for one example."""
    best, other = np.full(9, 0.25), np.full(9, 0.5)
    best[-1] = other[-1] = 1.0
    assert optimality(other, best) == pytest.approx((8 * 0.5) / (8 * 0.75))


def test_ends_of_the_scale():
    best = np.array([0, 0.5, 1, 2])
    assert optimality(best, best) == 1
    assert optimality(np.array([0, np.inf, np.inf, np.inf]), best) == 0
    assert optimality(np.array([0, 2, 3, 2]), best) == 0  # nothing below eps_0
    assert optimality(np.array([0, 0.25, 1, 2]), best) > 1  # better than what it is compared with


def test_without_any_distance_there_is_no_limit():
    for best in ([0, 0], [np.inf, 0], [np.inf]):
        with pytest.raises(UndefinedNumber):
            optimality_limit(np.array(best))
    with pytest.raises(UndefinedNumber):
        local_optimality(np.ones((1, 2)), np.ones(2), np.inf)
    assert np.isnan(optimality(np.array([1.0, 1.0]), np.array([1.0, 1.0])))  # all distances are eps_0


def attackbench(distances, best):
    """Equations 3 to 5 of AttackBench, term by term: curves as functions of eps, integrated between their steps.

    Examples that no attack broke leave eps_0 at the largest finite distance, as in the authors' code.
    """
    n = len(best)

    def accuracy(found, eps):
        return 1 - sum(1 for each in found if each <= eps) / n  # 1 - ASR(eps), equation 3

    def area(found, until):
        steps = sorted({0.0, until, *(each for each in found.tolist() if each < until)})
        return sum(accuracy(found, low) * (high - low) for low, high in pairwise(steps))

    until = max(each for each in best.tolist() if each < np.inf)
    box = sum(1 for each in best if each > 0) / n * until
    return (box - area(distances, until)) / (box - area(best, until))


def trapezia(distances, best):
    """The first version of the authors' code, which draws straight lines between the steps."""
    n, until = len(best), best.max()

    def area(found):
        ends, counts = np.unique(found.clip(max=until), return_counts=True)
        return np.trapezoid(1 - counts.cumsum() / n, ends)

    clean, least = np.count_nonzero(best) / n, area(best)
    return 1 - (area(distances) - least) / (clean * until - least)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_formulas_of_attackbench(seed):
    draw = np.random.default_rng(seed)
    distances = draw.exponential(size=(3, 400)).round(draw.integers(1, 6)) + 0.1  # with ties
    if seed % 2:
        distances[draw.random(distances.shape) < 0.1] = np.inf
    distances[:, : draw.integers(1, 100)] = 0  # wrong without an attack
    best = distances.min(axis=0)
    found = local_optimality(distances, best, optimality_limit(best))
    np.testing.assert_allclose(found, [attackbench(each, best) for each in distances], rtol=1e-9)
    if not seed % 2:
        np.testing.assert_allclose(found, [trapezia(each, best) for each in distances], atol=0.02)
    assert ((found > 0) & (found <= 1)).all()


def test_resamples_are_those_of_the_examples():
    """Each resample is the number of the drawn examples, at the eps_0 of all of them; seeds alone decide on draws."""
    draw = np.random.default_rng(3)
    distances = draw.exponential(size=(2, 50))
    best = distances.min(axis=0)
    until = optimality_limit(best)
    found = resampled_local_optimality(distances, best, until, resamples=7)
    drawn = np.random.Generator(np.random.Philox(0)).integers(0, 50, (7, 50))
    expected = [local_optimality(distances[:, each], best[each], until) for each in drawn]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(resampled_means(distances, resamples=7), distances[:, drawn].mean(axis=2).T, rtol=1e-5)
    clusters = np.arange(50) // 5
    same = np.repeat(distances[:, :10], 5, axis=1)  # ten examples, five times each
    least = same.min(axis=0)
    spread = [resampled_local_optimality(same, least, until, resamples=3000, clusters=each).std(axis=0)[0]
              for each in (clusters, None)]  # fmt: skip
    assert spread[0] == pytest.approx(5**0.5 * spread[1], rel=0.15)


@pytest.mark.parametrize(
    ("n", "simulations"),
    [(100, 300), pytest.param(30, 3000, marks=pytest.mark.slow), pytest.param(500, 3000, marks=pytest.mark.slow)],
)
def test_intervals_cover(n, simulations):
    """Distances d* uniform in (0, 1); the attack finds d* for half of the examples and 2 d* for the others.

    The expected value of max(0, e - c d*) is e**2 / (2 c) for any limit e below 1, so that the true number is
    1/2 + 1/4, whatever the limit of a sample is.
    """
    draw, covered = np.random.default_rng(n), 0
    for _ in range(simulations):
        best = draw.random(n) * (draw.random(n) < 0.9)  # a tenth is wrong without an attack
        distances = best * np.where(draw.random(n) < 0.5, 1, 2)
        until = optimality_limit(best)
        low, high = percentile_interval(resampled_local_optimality([distances], best, until, resamples=500)[:, 0])
        covered += low <= 0.75 <= high
    error = (0.95 * 0.05 / simulations) ** 0.5
    assert covered / simulations == pytest.approx(0.945, abs=0.02 + 2 * error)


# --- reports ----------------------------------------------------------------------------------------------------------

COARSE, FINE = "nearest(linf)", "nearest(linf, step=1/4)"


@pytest.fixture
def results(suite, run):
    models = [{"model": "teams/net", "label": "Net"}, {"model": "teams/net", "label": "Other", "seed": 1}]
    attacks = [
        {"attack": "teams/nearest"},
        {"attack": "teams/nearest", "step": "1/4"},
        {"attack": "toys/sign", "eps": "1/8"},
    ]
    return run(suite(models=models, attacks=attacks))


def test_a_report_has_the_optimality_of_attacks_without_a_budget(results):
    report = build(results)
    cells = {(cell.model, cell.perturbation): cell.optimality for cell in report.cells}
    assert {key for key, found in cells.items() if found} == {(m, a) for m in ("Net", "Other") for a in (COARSE, FINE)}
    values = {name: [] for name in (COARSE, FINE)}
    for best in report.best_distances:
        found = {
            name: next(r for r in results.of(best.model, "attack") if r.cell.short_name == name).distances
            for name in values
        }
        least = np.minimum(*found.values())
        assert (best.until, best.found) == (least[np.isfinite(least)].max(), np.isfinite(least).sum())
        assert (best.n, best.attacks, best.asked, best.norm) == (len(least), 2, 2, "linf")
        fine = np.linspace(0, best.until, 20_001)
        assert best.area == pytest.approx(
            np.trapezoid([(least > eps).mean() for eps in fine], fine) / best.until, abs=1e-3
        )
        for name, distances in found.items():
            each = cells[best.model, name]
            assert each.value == pytest.approx(attackbench(distances, least))
            assert each.interval.low <= each.value + 1e-9 and each.n == best.n and each.is_within and each.is_recorded
            values[name].append(each.value)
    assert values[COARSE][0] < values[FINE][0]
    for each in report.optimalities:
        assert each.value == pytest.approx(np.mean(values[each.perturbation])) and (each.models, each.asked) == (2, 2)
        assert each.interval.low <= each.value + 1e-9 <= each.interval.high + 2e-9
    tried = {COARSE: 17, FINE: 65}
    for (_, name), found in cells.items():
        if found:
            assert found.passes == tried[name] + 2  # a forward pass a step, and one gradient


def test_attacks_beyond_the_budget_of_passes_are_no_part_of_the_best_distances(results):
    found = optimalities(results, budget=60)
    assert {best.attacks for best in found.best} == {1}
    by_name = {each.perturbation: each for each in found.over_models}
    assert by_name[COARSE].is_within and by_name[COARSE].value == 1
    assert not by_name[FINE].is_within and by_name[FINE].value > 1
    none = optimalities(results, budget=5)
    assert {best.until for best in none.best} == {None} and {each.value for each in none.over_models} == {None}
    assert {each.models for each in none.over_models} == {0}


def test_passes_that_are_not_recorded_are_those_that_the_attack_declares(suite, run):
    """A gradient that budgets share counts for each, as a forward and a backward pass."""
    result = run(suite(attacks=[{"attack": "teams/step", "eps": "1/4"}])).of("Net", "attack")[0]
    assert passes_of(result) == (2, True)
    assert passes_of(replace(result, passes=None)) == (2, False)


def test_the_interval_of_the_global_optimality_is_that_of_the_mean(results):
    """Recomputed from the resamples of both models, whose numbers differ."""
    found = optimalities(results)
    by_model = {}
    for each in results.of("Net", "attack") + results.of("Other", "attack"):
        if each.is_unbounded:
            by_model.setdefault(each.cell.model.label, {})[each.cell.short_name] = each.distances
    columns = []
    for distances in by_model.values():
        best = np.minimum(*distances.values())
        resampled = resampled_local_optimality([*distances.values()], best, optimality_limit(best))
        columns.append(dict(zip(distances, resampled.T, strict=True)))
    for each in found.over_models:
        mean = np.mean([column[each.perturbation] for column in columns], axis=0)
        assert each.interval == percentile_interval(mean)
    assert any(each.interval != percentile_interval(columns[0][each.perturbation]) for each in found.over_models)


def test_the_global_optimality_draws_the_same_examples_for_all_models(results):
    """The mean of two equal models has the interval of each; drawn apart, it would be narrower by a root of 2."""
    net = [each for each in results.cells if each.cell.model.label == "Net"]
    same = [replace(each, cell=replace(each.cell, model=replace(each.cell.model, label="Same"))) for each in net]
    twice = replace(results, cells=(*net, *same))
    found = optimalities(twice)
    for each in found.over_models:
        (one, other) = [found.local[r.cell.key] for r in twice.cells[:3] if r.cell.short_name == each.perturbation] * 2
        assert each.models == 2 and each.interval == pytest.approx(one.interval) and other is one


def test_one_attack_alone_has_no_optimality(suite, run):
    report = build(run(suite(attacks=[{"attack": "teams/nearest"}])))
    assert not report.optimalities and not report.best_distances
    assert all(cell.optimality is None for cell in report.cells)
    assert "Optimality of attacks" not in {table.title for table in tables(report)}


def test_examples_that_all_attacks_have_count(suite, run):
    nearest, fine = {"attack": "teams/nearest"}, {"attack": "teams/nearest", "step": "1/4"}
    run(suite(attacks=[nearest]))
    found = build(run(suite(attacks=[nearest, fine]), shard=(1, 2)))
    (best,) = found.best_distances
    assert best.n == 20 and {each.n for each in found.optimalities} == {20} and found.n == 40


def test_the_table_ranks_attacks_and_shows_passes(results):
    report = build(results)
    (table,) = [table for table in tables(report) if table.title == "Optimality of attacks"]
    assert table.header == ("", "Net", "Other", "all models", "passes")
    assert [row.name for row in table.rows] == [FINE, COARSE, "eps_0, linf"]
    fine, coarse, limits = table.rows
    assert [value.number for value in fine.values[:3]] == [1, 1, 1]
    assert [row.values[-1].number for row in (fine, coarse)] == [67, 19]
    assert [value.number for value in limits.values[:2]] == [best.until for best in report.best_distances]
    beyond = [replace(each, is_within=each.perturbation == COARSE) for each in report.optimalities]
    (table,) = [each for each in tables(replace(report, optimalities=tuple(beyond))) if each.title == table.title]
    assert "more than 2,000 passes" in table.caption and "more than" in str(table.rows[0].values[-1].notes)


def test_every_format_has_the_optimality(results):
    report = build(results)
    rows = [row for row in tidy.rows(report) if row["statistic"] in ("local_optimality", "global_optimality")]
    assert {(row["model"], row["perturbation"]) for row in rows} == {
        (model, name) for model in ("Net", "Other", None) for name in (COARSE, FINE)
    }
    data = json.loads(report_json.render(report))
    jsonschema.Draft202012Validator(report_schema()).validate(data)
    assert [each["value"] for each in data["optimalities"]] == [each.value for each in report.optimalities]
    assert {each["optimality"]["value"] for each in data["cells"] if each["optimality"]} == {
        row["value"] for row in rows if row["statistic"] == "local_optimality"
    }
    for text in (each.render(report) for each in (html, latex, markdown, terminal)):
        assert "Optimality of attacks" in text and "eps_0" in text.replace("\\", "")


def test_the_figure_has_a_line_per_attack_and_the_best_distances(results):
    report = build(results)
    (figure,) = [each for each in figures(report) if each.name == "optimality-linf"]
    axes = figure.draw().axes
    assert [axis.get_title() for axis in axes] == ["Net", "Other"]
    for axis, best in zip(axes, report.best_distances, strict=True):
        *attacks, least, limit = axis.lines
        assert len(attacks) == 2 and limit.get_xdata()[0] == best.until
        np.testing.assert_allclose(least.get_xdata(), [eps for eps, _ in best.curve])
    assert FINE in figure.alt and "100.0 %" in figure.alt
