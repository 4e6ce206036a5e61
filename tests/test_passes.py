"""Passes per example: counted where attacks request them, stored with outcomes, joined, merged and reported."""

import itertools
from dataclasses import astuple

import numpy as np
import pytest
import torch

from robharness import Batch, Classifier, api
from robharness.cli.plan import as_data
from robharness.engine import listeners, units
from robharness.engine.run import run_plan
from robharness.evaluation.guard import lending
from robharness.report import tidy
from robharness.report.build import build
from robharness.report.renderers import json
from robharness.report.tables import tables
from robharness.store import Store, results
from robharness.store.merge import merge
from robharness.store.passes import Passes, PassTotals

ATTACKS = [
    {"attack": "toys/climb", "eps": ["1/8", "1/4"], "steps": 3, "nested": True},
    {"attack": "toys/sign", "eps": ["1/8", "1/4"]},
    {"attack": "toys/seeded", "how": "global", "eps": "1/8", "steps": 4},
    {"attack": "teams/team", "eps": ["1/4"]},
    {"attack": "teams/nearest", "eps": ["1/16", "1/8"]},
]


def passes(results):
    """{perturbation: (forwards, gradients)} of attacks"""
    return {cell.cell.short_name: astuple(cell.passes) for cell in results.cells if cell.cell.kind == "attack"}


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, made in found.items():
        assert made == pytest.approx(expected[name]), name


def test_passes_are_those_that_the_attack_requests(suite, run):
    found = run(suite(attacks=ATTACKS, count="all"), batch_size=8)
    for cell in found.cells:
        if cell.cell.kind != "attack":
            assert cell.passes is None
        elif cell.cell.perturbation.spec in ("toys/climb", "toys/sign", "toys/seeded"):
            cost = cell.cell.cost
            assert cell.passes == Passes(cost.forwards, cost.gradients + cost.shared_gradients)
    for name, made in passes(found).items():
        if "nearest" in name:  # a step per 1/32 up to eps, and one gradient at the clean input that both budgets share
            assert made == (3 if "1/16" in name else 5, 1)


def test_each_member_of_an_ensemble_counts_for_the_examples_that_it_gets(suite, run):
    found = run(suite(attacks=[{"attack": "teams/team", "eps": ["1/4", "1/2"]}]), batch_size=8)
    clean, small, large = found.cells
    assert (
        small.columns["attacked"].sum() == clean.correct.sum()
        and large.columns["attacked"].sum() == small.correct.sum()
    )
    for cell in (small, large):
        attacked = cell.columns["attacked"]
        component = cell.columns["component"][attacked]
        rows = (
            len(component)
            + sum(name != "weak" for name in component)
            + sum(name in (None, "strong") for name in component)
        )
        assert 1 < cell.passes.gradients <= 3
        assert cell.passes == Passes(0, rows / attacked.sum())


@pytest.mark.parametrize("count", ["all", "robust"])
def test_the_division_of_work_does_not_change_passes(suite, run, toys, teams, tmp_path, count):
    source = suite(attacks=ATTACKS, count=count)
    whole = passes(run(source, "whole", batch_size=8))
    assert_close(passes(run(source, "larger", batch_size=40)), whole)
    sizes = itertools.cycle([5, 1, 11, 16])
    plan, store = api.plan(source, plugins=teams), Store(tmp_path / "cut")
    run_plan(plan, store, listeners.Silent(), batch_size=8,
             plan_unit=lambda keys, missing, size, multiple: units.next_unit(keys, missing, next(sizes)))  # fmt: skip
    assert_close(passes(results.load(plan, store)), whole)
    for limit in (7, None):
        grown = run(source, "grown", batch_size=8, limit=limit)
    assert_close(passes(grown), whole)


def test_cells_that_are_computed_together_do_not_change_passes(suite, run):
    whole = passes(run(suite(attacks=ATTACKS), "whole"))
    larger = [{**attack, "eps": attack["eps"][-1]} for attack in (ATTACKS[1], ATTACKS[4])]
    alone = passes(run(suite(attacks=larger), "alone"))
    assert len(alone) == 2
    assert_close({name: whole[name] for name in alone}, alone)


def test_merged_stores_have_the_passes_of_both(suite, run, tmp_path, teams):
    source = suite(attacks=ATTACKS)
    whole = run(source, "whole")
    for shard in (1, 2):
        run(source, f"part-{shard}", shard=(shard, 2))
    into = Store(tmp_path / "part-1")
    merge(into, Store(tmp_path / "part-2"))
    assert_close(passes(results.load(whole.plan, into)), passes(whole))


def test_a_part_of_a_part_has_its_share(tmp_path):
    key, store = "0" * 24, Store(tmp_path)
    columns = {"correct": np.ones(8, bool)}
    store.write_part(key, 0, columns, {}, PassTotals(examples=8, attacked=6, forwards=12, gradients=60))
    assert store.read(key, 4).passes == PassTotals(examples=4, attacked=3, forwards=6, gradients=30)
    store.write_part(key, 8, columns, {})
    assert store.read(key, 16).passes.per_attacked == Passes(2, 10), "the other part has no passes"
    store.join(key, 16)
    assert store.read(key, 16).passes == PassTotals(examples=8, attacked=6, forwards=12, gradients=60)
    other = Store(tmp_path / "other")
    other.write_part(key, 0, {"correct": np.ones(4, bool)}, {})
    [part] = store.parts(key)
    assert other.copy_part(store, key, part)
    assert other.read(key, 16).passes == PassTotals(examples=6, attacked=4.5, forwards=9, gradients=45)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"examples": 1, "attacked": 1, "forwards": -1, "gradients": 1}', b"1e"]
)
def test_passes_of_another_form_are_refused(text):
    with pytest.raises(ValueError, match=r"form|JSON"):
        PassTotals.from_json(text)


def test_nothing_attacked_has_no_passes():
    nothing = PassTotals(examples=8, attacked=0, forwards=0, gradients=0)
    assert nothing.per_attacked is None and nothing.per_example == Passes(0, 0)
    assert PassTotals(examples=0, attacked=0, forwards=0, gradients=0).per_example is None


def test_reports_show_passes_beside_those_that_are_declared(suite, run):
    found = build(run(suite(attacks=[{"attack": "toys/climb", "eps": ["1/8"], "steps": 3}, ATTACKS[4]]), limit=8))
    data = json.as_data(found)
    climb, near = data["cells"][1], data["cells"][2]
    assert data["cells"][0]["passes"] is data["cells"][0]["cost"] is None
    assert climb["passes"] == climb["cost"] == {"forwards": 0, "gradients": 3}
    assert near["passes"] == {"forwards": 3, "gradients": 1}
    table = next(table for table in tables(found) if table.title == "Passes per example")
    assert [(row.name, row.values[0].number) for row in table.rows] == [
        ("climb(linf, 1/8)", 6), ("nearest(linf, 1/16)", 5), ("nearest(linf, 1/8)", 7)]  # fmt: skip
    written = {(row["perturbation"], row["statistic"]): row["value"] for row in tidy.rows(found)}
    assert written["nearest(linf, 1/8)", "forwards"] == 5 and written["nearest(linf, 1/8)", "gradients"] == 1
    declared = build(run(suite(attacks=[{"attack": "toys/climb", "eps": ["1/8"], "steps": 3}]), limit=8))
    assert all(table.title != "Passes per example" for table in tables(declared)), "it would say what the plan says"


def test_the_plan_estimates_from_recorded_passes(suite, run, teams, tmp_path):
    models = [{"model": "toys/net", "label": "Net"}, {"model": "teams/net", "label": "Other"}]
    attacks = [{"attack": "teams/nearest", "eps": ["1/8"]}]
    source = suite(models=models, attacks=attacks)

    def planned():
        return as_data(api.plan(source, plugins=teams), Store(tmp_path / "store"))

    before = planned()
    assert {cell["passes_from"] for cell in before["cells"]} == {"declared"}
    run(suite(models=models[:1], attacks=attacks))
    after = planned()
    of_net, of_other = (next(cell for cell in after["cells"] if cell["model"] == label and cell["kind"] == "attack")
                        for label in ("Net", "Other"))  # fmt: skip
    assert of_net["passes_from"] == of_other["passes_from"] == "recorded"
    assert of_net["done"] == 40 and of_other["done"] == 0
    assert (of_other["forward"], of_other["backward"]) == (1 + 5 + 1, 1)
    assert after["passes_left"] == {"forward": 40 + 40 * 7, "backward": 40}


def test_the_plan_expects_as_many_attacked_examples_as_in_stored_outcomes(suite, run, teams, tmp_path):
    """With `count: robust`, examples that are wrong without an attack cost the judging pass alone."""
    models, attacks = [{"model": "teams/net", "label": "Net"}], [{"attack": "teams/nearest", "eps": "1/8"}]
    source = suite(models=models, attacks=attacks, count="robust")
    found = run(source, shard=(1, 2))
    [result] = found.of("Net", "attack")
    share = found.clean("Net").correct.mean()
    assert 0 < share < 0.9
    planned = as_data(api.plan(source, plugins=teams), Store(tmp_path / "store"))
    [cell] = [cell for cell in planned["cells"] if cell["kind"] == "attack"]
    assert cell["passes_from"] == "recorded" and cell["done"] == result.n == 20
    assert cell["forward"] == round(1 + share * (result.passes.forwards + result.passes.gradients))


def test_a_value_that_a_plugin_caches_counts_once_for_each_call_that_uses_it():
    net = torch.nn.Linear(3, 2)
    model, x = Classifier(net, batch_size=4), torch.arange(18.0).view(6, 3) / 18
    batch = Batch([str(row) for row in range(6)], x, torch.zeros(6, dtype=torch.int64))

    def rows_of_a_call(part):
        before = model.rows.copy()
        with lending(part, namespace="mine", model=model) as lent:
            for _ in range(2):
                lent.cached("twice", lambda: model.logits(lent.x) + model.logits(lent.x))
                lent.gradient(model, sum_of_logits)
                lent.logits(model)
        return model.rows - before

    assert rows_of_a_call(batch) == {"forwards": 12, "gradients": 6}
    made = model.passes.copy()
    assert rows_of_a_call(batch) == {"forwards": 12, "gradients": 6}
    assert rows_of_a_call(batch.select(torch.tensor([1, 4]))) == {"forwards": 4, "gradients": 2}
    assert model.passes == made, "the values are shared"


def sum_of_logits(logits, labels):
    return logits.sum(1)
