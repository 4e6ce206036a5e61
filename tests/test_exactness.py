"""An example's outcome depends on nothing but itself: the levels "logic" and "replay", in one process."""

import itertools

import numpy as np
import pytest

from robharness import api, engine
from robharness.store import Store

COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "size")


def outcomes(results):
    """{(model, perturbation): {example: its outcome, bit by bit}}"""
    return {
        (result.cell.model.label, result.cell.short_name): {
            example: tuple(result.columns[name][row].tobytes() for name in COLUMNS)
            for row, example in enumerate(result.columns["example"])
        }
        for result in results.cells
    }


ALL = [
    {"attack": "toys/climb", "eps": ["1/8", "1/4"]},
    {"attack": "toys/climb", "eps": ["1/16", "1/8", "1/4"], "steps": 2, "nested": True},
    {"attack": "toys/sign", "eps": ["1/8", "1/4"]},
    {"attack": "toys/seeded", "how": "global", "eps": "1/8"},
]
CORRUPTIONS = [{"corruption": "toys/negative", "severity": 1}, {"corruption": "toys/speckle", "severity": [1, 4]}]


@pytest.mark.parametrize("count", ["all", "robust"])
def test_batch_shape_and_order_change_nothing(suite, run, count):
    source = suite(attacks=ALL, corruptions=CORRUPTIONS, canvas=8, count=count)
    first = outcomes(run(source, "first", batch_size=8))
    assert len(first) == 12
    assert len({bits for cell in first.values() for bits in cell.values()}) > 40, "the outcomes must differ"
    for rows in (1, 3, 40, 64):
        assert outcomes(run(source, f"rows-{rows}", batch_size=rows)) == first
    turned = suite(attacks=ALL[:3], corruptions=CORRUPTIONS, canvas=8, count=count,
                   data={"name": "toys/pixels", "split": "reversed"})  # fmt: skip
    for cell, rows in outcomes(run(turned, "turned", batch_size=7)).items():
        assert rows == first[cell]


def test_how_the_work_is_cut_changes_nothing(suite, run, monkeypatch):
    source = suite(attacks=ALL, corruptions=CORRUPTIONS, canvas=8)
    whole = outcomes(run(source, "whole", batch_size=8))
    sizes = itertools.cycle([5, 1, 11, 16])
    next_unit = engine.next_unit
    cuts = []

    def cut(cells, gaps, size):
        unit = next_unit(cells, gaps, next(sizes))
        cuts.append(unit)
        return unit

    monkeypatch.setattr(engine, "next_unit", cut)
    assert outcomes(run(source, "cut", batch_size=8)) == whole
    assert len(cuts) > 5


def test_a_limit_is_a_prefix(suite, run):
    source = suite(attacks=ALL, corruptions=CORRUPTIONS, canvas=8)
    whole = outcomes(run(source, "whole", batch_size=8))
    for limit in (7, 23):
        part = run(source, "grown", batch_size=8, limit=limit)
        assert all(result.n == limit for result in part.cells)
        for cell, rows in outcomes(part).items():
            assert rows.items() <= whole[cell].items()
    assert outcomes(run(source, "grown", batch_size=8)) == whole


def test_which_cells_are_missing_changes_nothing(suite, run, tmp_path, toys):
    source = suite(attacks=ALL, corruptions=CORRUPTIONS, canvas=8)
    whole = outcomes(run(source, "store", batch_size=8))
    store, plan = Store(tmp_path / "store"), api.plan(source, plugins=[toys])
    for forgotten in ([0], [2], [5], [0, 3, 7], [4, 6], range(1, len(plan.cells)), range(0, len(plan.cells), 2)):
        for index in forgotten:
            store.forget(plan.cells[index].key)
        assert outcomes(run(source, "store", batch_size=8)) == whole


@pytest.mark.parametrize("how", ["position", "mean-loss", "early-stop"])
def test_the_check_finds_attacks_that_look_at_their_neighbours(suite, run, how):
    source = suite(attacks=[{"attack": "toys/climb", "how": how, "eps": ["1/8", "1/4"]}])
    runs = [outcomes(run(source, f"rows-{rows}", batch_size=rows)) for rows in (8, 3)]
    whole = runs[0]
    cut = outcomes(run(source, "cut", batch_size=8, limit=13))
    differs = runs[1] != whole or any(not rows.items() <= whole[cell].items() for cell, rows in cut.items())
    assert differs


def test_all_models_see_the_same_noise(suite, run):
    models = [{"model": "toys/net", "label": "One"}, {"model": "toys/net", "note": "again", "label": "Two"}]
    results = run(suite(models=models, attacks=None, corruptions=CORRUPTIONS, canvas=8))
    found = outcomes(results)
    assert found["One", "speckle(4)"] == found["Two", "speckle(4)"]
    assert found["One", "speckle(4)"] != found["One", "speckle(1)"]


def test_another_seed_gives_other_draws_and_the_same_clean_cell(suite, run):
    first, second = (outcomes(run(suite(seed=seed), f"seed-{seed}")) for seed in (0, 1))
    assert first["Net", "clean"] == second["Net", "clean"]
    assert first["Net", "sign(linf, 1/8)"] == second["Net", "sign(linf, 1/8)"]
    sizes = [
        {example: bits[5] for example, bits in found["Net", "climb(linf, 1/8)"].items()} for found in (first, second)
    ]
    margins = [
        {example: bits[3] for example, bits in found["Net", "climb(linf, 1/8)"].items()} for found in (first, second)
    ]
    assert sizes[0] != sizes[1] or margins[0] != margins[1]


def test_nested_budgets_attack_survivors_only(suite, run):
    results = run(suite(attacks=[ALL[1]]))
    cells = results.of("Net", "attack")
    for smaller, larger in itertools.pairwise(cells):
        attacked = larger.columns["attacked"]
        np.testing.assert_array_equal(attacked, smaller.correct)
        np.testing.assert_array_equal(larger.columns["margin"][~attacked], smaller.columns["margin"][~attacked])
    assert cells[0].columns["attacked"].all()
    assert 0 < cells[-1].columns["attacked"].sum() < 40


def test_count_robust_skips_what_is_wrong_already(suite, run):
    everything, robust = run(suite(), "all"), run(suite(count="robust"), "robust")
    clean = robust.clean("Net")
    for result, whole in zip(robust.of("Net", "attack"), everything.of("Net", "attack"), strict=True):
        np.testing.assert_array_equal(result.columns["attacked"], clean.correct)
        np.testing.assert_array_equal(result.correct, clean.correct & whole.correct)
        rows = clean.correct
        np.testing.assert_array_equal(result.columns["margin"][rows], whole.columns["margin"][rows])


def test_nested_lists_of_one_attack_keep_apart(suite, run):
    """Two lists, and the same list at other restarts, are different things to attack."""
    low, high = {"attack": "toys/climb", "nested": True, "eps": ["1/16", "1/8"]}, ["3/16", "1/4"]
    again = {"attack": "toys/climb", "nested": True, "eps": ["1/16", "1/8"], "restarts": 2}
    results = run(suite(attacks=[low, low | {"eps": high}, again]))
    alone = run(suite(attacks=[low | {"eps": high}]), "alone")
    assert results.is_complete
    third = next(r for r in results.cells if r.cell.short_name == "climb(linf, 3/16, nested)")
    assert third.columns["attacked"].all()
    mine = {name: rows for name, rows in outcomes(results).items() if "3/16" in name[1] or "1/4" in name[1]}
    assert mine.items() <= outcomes(alone).items()


def test_budgets_share_the_gradient_also_where_only_right_examples_count(suite, run, tmp_path):
    import json

    attacks = [{"attack": "toys/sign", "eps": ["1/16", "1/8", "3/16", "1/4", "1/2"]}]
    results = run(suite(attacks=attacks, count="robust"), batch_size=1)
    right = int(results.clean("Net").correct.sum())
    facts = json.loads(next((tmp_path / "store" / "runs").iterdir()).read_text())
    speed = facts["speed"]["Net"]
    assert (speed["forward"], speed["backward"]) == (40 + right + 5 * right, right)
