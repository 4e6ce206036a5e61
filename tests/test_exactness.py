"""An example's outcome depends on nothing but itself: the level "logic", in this process and in others."""

import itertools
import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from robharness import api, report
from robharness.engine import listeners, units
from robharness.engine.run import run_plan
from robharness.store import Store, results
from robharness.store.merge import merge

COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size")


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


def test_the_split_into_units_changes_nothing(suite, run, toys, tmp_path):
    source = suite(attacks=ALL, corruptions=CORRUPTIONS, canvas=8)
    whole = outcomes(run(source, "whole", batch_size=8))
    sizes = itertools.cycle([5, 1, 11, 16])
    cuts = []

    def plan_unit(keys, missing_spans, size, multiple):  # blocks too are cut in two
        unit = units.next_unit(keys, missing_spans, next(sizes))
        cuts.append(unit)
        return unit

    plan, store = api.plan(source, plugins=[toys]), Store(tmp_path / "cut")
    run_plan(plan, store, listeners.Silent(), batch_size=8, plan_unit=plan_unit)
    assert outcomes(results.load(plan, store)) == whole
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


PLANTED = ["position", "mean-loss", "early-stop"]


@pytest.mark.parametrize("how", PLANTED)
def test_the_check_detects_attacks_that_depend_on_other_examples(suite, run, how):
    source = suite(attacks=[{"attack": "toys/climb", "how": how, "eps": ["1/8", "1/4"]}])
    runs = [outcomes(run(source, f"rows-{rows}", batch_size=rows)) for rows in (8, 3)]
    whole = runs[0]
    cut = outcomes(run(source, "cut", batch_size=8, limit=13))
    differs = runs[1] != whole or any(not rows.items() <= whole[cell].items() for cell, rows in cut.items())
    assert differs


def test_the_check_detects_such_attacks_among_workers_too(suite, run):
    """Two workers cut the work smaller than one process does; only a mean over a pass needs passes of another size."""
    source = suite(attacks=[{"attack": "toys/climb", "how": how, "eps": ["1/8", "1/4"]} for how in ("climb", *PLANTED)])
    alone, shared = run(source, "alone", batch_size=8), run(source, "shared", workers=2, batch_size=4)
    found = {name for (_, name), rows in outcomes(alone).items() if rows != outcomes(shared)["Net", name]}
    assert {how for how in PLANTED if any(how in name for name in found)} == set(PLANTED)
    assert all(any(how in name for how in PLANTED) for name in found), "the honest attack is the same"


def children():
    """{id: its command line} of the processes that this one has started, also where it has not seen them end."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # some other process that has just ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found[int(path.parent.name)] = (path.parent / "cmdline").read_text()
    return found


class Killer(listeners.Silent):
    """Kills every other process as soon as one of them has a cell done, and that once."""

    def __init__(self):
        self.killed = []

    def cell_done(self, cell, span, failure):
        if not self.killed:
            self.killed = [
                process for process, command in children().items() if "robharness.engine.executors" in command
            ]
            for process in self.killed:
                os.kill(process, signal.SIGKILL)


def test_workers_shards_and_kills_change_nothing(suite, run, tmp_path, monkeypatch):
    monkeypatch.setenv("TOYS_SLOW", "0")
    monkeypatch.setenv("TOYS_LOG", str(tmp_path / "log"))
    slow = {"attack": "toys/climb", "how": "slow", "eps": "1/8"}
    ahead = {"attack": "toys/climb", "how": "reads-ahead", "eps": "1/8"}
    source = suite(attacks=[slow, ahead, *ALL], corruptions=CORRUPTIONS, canvas=8)
    whole = outcomes(run(source, "whole", batch_size=8))
    assert len(whole) == 14
    store, others = Store(tmp_path / "store"), children()

    child = tmp_path / "child"
    child.touch()
    monkeypatch.setenv("TOYS_SLOW", "0.5")
    monkeypatch.setenv("TOYS_CHILD", str(child))
    monkeypatch.setenv("TOYS_AHEAD", "16")
    killer = Killer()
    part = outcomes(run(source, workers=1, limit=18, batch_size=5, listener=killer))
    assert child.read_text() == "begun", "a child of the process that died hid its death"
    child.unlink()
    monkeypatch.delenv("TOYS_CHILD")
    monkeypatch.delenv("TOYS_AHEAD")
    assert len(killer.killed) == 1
    assert store.runs()[-1]["warnings"][0].startswith("Net: a worker died (signal 9 (SIGKILL))")
    for cell, rows in part.items():
        assert len(rows) == 18
        assert rows.items() <= whole[cell].items()

    monkeypatch.setenv("TOYS_SLOW", "0")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    grown = run(source, workers=2, batch_size=3)
    assert outcomes(grown) == whole
    assert store.runs()[-1]["computed"] == 14 * 22, "nothing is computed twice"
    assert children() == others, "nobody is left behind"
    cores = len(os.sched_getaffinity(0))
    threads = {entry["threads"] for result in grown.cells for entry in result.provenance if entry["rows"] == 3}
    assert threads == {max(1, cores // 2)}, "workers share the cores"

    for index, how in enumerate([{"batch_size": 3}, {"batch_size": 4, "workers": 2}, {"batch_size": 8}], start=1):
        sharded = run(source, "shards", shard=(index, 3), **how)
        assert {tuple(result.positions) for result in sharded.cells} == {tuple(range(40 * index // 3))}
    assert outcomes(sharded) == whole

    for index, rows in enumerate([7, 1, 40], start=1):
        alone = run(source, f"shard {index}", shard=(index, 3), batch_size=rows)
        assert {result.n for result in alone.cells} == {40 * index // 3 - 40 * (index - 1) // 3}
        merged = merge(Store(tmp_path / "merged"), Store(tmp_path / f"shard {index}"))
        assert (merged.cells, merged.differing, merged.problems) == (14, 0, [])
    assert outcomes(run(source, "merged")) == whole
    assert len(Store(tmp_path / "merged").runs()) == 3, "nothing is computed again"


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


def test_nested_budgets_attack_only_robust_examples(suite, run):
    results = run(suite(attacks=[ALL[1]]))
    cells = results.of("Net", "attack")
    for smaller, larger in itertools.pairwise(cells):
        attacked = larger.columns["attacked"]
        np.testing.assert_array_equal(attacked, smaller.correct)
        np.testing.assert_array_equal(larger.columns["margin"][~attacked], smaller.columns["margin"][~attacked])
    assert cells[0].columns["attacked"].all()
    assert 0 < cells[-1].columns["attacked"].sum() < 40


def test_count_robust_skips_misclassified_examples(suite, run):
    everything, robust = run(suite(), "all"), run(suite(count="robust"), "robust")
    clean = robust.clean("Net")
    for result, whole in zip(robust.of("Net", "attack"), everything.of("Net", "attack"), strict=True):
        np.testing.assert_array_equal(result.columns["attacked"], clean.correct)
        np.testing.assert_array_equal(result.correct, clean.correct & whole.correct)
        rows = clean.correct
        np.testing.assert_array_equal(result.columns["margin"][rows], whole.columns["margin"][rows])


def test_nested_lists_of_one_attack_are_independent(suite, run):
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


def test_budgets_share_the_gradient_when_only_correct_examples_count(suite, run, tmp_path):
    import json

    attacks = [{"attack": "toys/sign", "eps": ["1/16", "1/8", "3/16", "1/4", "1/2"]}]
    results = run(suite(attacks=attacks, count="robust"), batch_size=1)
    right = int(results.clean("Net").correct.sum())
    facts = json.loads(next((tmp_path / "store" / "runs").iterdir()).read_text())
    speed = facts["speed"]["Net"]
    assert (speed["forward"], speed["backward"]) == (40 + right + 5 * right, right)


def test_the_report_counts_verdicts_that_mixed_runtime_factors_may_change(suite, run):
    """The network cannot decide about bright pictures: their logits are all the same, on the boundary itself."""
    source = suite(models=[{"model": "toys/net", "label": "Net", "what": "undecided"}], attacks=ALL[:2])
    for name, before, now, words in [("a", {"batch_size": 4}, {"batch_size": 8}, "rows 4 and 8"),
                                     ("b", {"threads": 1}, {"threads": 2}, "threads 1 and 2")]:  # fmt: skip
        before, now = {"batch_size": 8, "threads": 1} | before, {"batch_size": 8, "threads": 1} | now
        part = run(source, name, limit=17, **before)
        assert not any("different environments" in warning for warning in report.build(part).warnings)
        results = run(source, name, **now)
        near = sum(int((abs(result.columns["margin"]) <= 1e-4 * result.columns["logit_range"]).sum())
                   for result in results.cells)  # fmt: skip
        assert 0 < near < 240
        [warning] = [warning for warning in report.build(results).warnings if "different environments" in warning]
        assert f"different environments ({words}), in 6 cells; {near} of their 240 outcomes are so near" in warning
