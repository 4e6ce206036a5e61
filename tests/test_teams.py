"""Ensembles: members take turns on what is still right; and attacks that see their neighbours, in fixed blocks."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from robharness import api
from robharness.store import Store

ONE = [{"attack": "teams/team", "eps": "1/4"}]
THREE = [{"attack": "teams/team", "eps": ["1/16", "1/8", "1/4"]}]


def rows(results, name):
    """{column: values} of the cell."""
    [found] = [result for result in results.cells if result.cell.short_name == name]
    assert not found.failures
    return {column: np.asarray(found.columns[column]) for column in found.columns}


def test_members_attack_examples_that_earlier_members_did_not_break(suite, run, tmp_path, monkeypatch):
    monkeypatch.setenv("TEAMS_LOG", str(tmp_path / "log"))
    results = run(suite(attacks=[*ONE, {"attack": "teams/step", "eps": ["1/16", "1/8", "1/4"]}]))
    seen = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    seen = {name: set(ids) for name, _, ids in seen if name != "step"}
    ids = rows(results, "clean")["example"]
    steps = [rows(results, f"step(linf, {eps})")["correct"] for eps in ("1/16", "1/8", "1/4")]  # what members do
    left = [rows(results, "clean")["correct"]]
    for step in steps:
        left.append(left[-1] & step)
    assert len({after.sum() for after in left}) == 4, "every member must break some"
    assert seen == {name: set(ids[after]) for name, after in zip(("weak", "other", "strong"), left, strict=False)}
    found = rows(results, "team(linf, 1/4)")
    assert (found["correct"] == left[-1]).all()
    broke = np.full(len(ids), None, object)
    for name, before, after in zip(("weak", "other", "strong"), left, left[1:], strict=False):
        broke[before & ~after] = name
    assert found["component"].tolist() == broke.tolist()
    assert (found["attacked"] == left[0]).all()


def test_members_draw_from_streams_of_their_own(suite, run):
    """The weaker two tell a draw each; where the second one ran, its is kept."""
    found = rows(run(suite(attacks=ONE)), "team(linf, 1/4)")
    first, second = found["component"] == "weak", (found["component"] != "weak") & found["attacked"]
    alone = rows(run(suite(attacks=[ONE[0] | {"eps": "1/64"}]), "alone"), "team(linf, 1/64)")
    assert first.any() and second.any()
    assert not (found["draw"][first] == alone["draw"][first]).any()  # of the first member here, of the second there
    assert (found["draw"][second] == alone["draw"][second]).all()


@pytest.mark.parametrize("nested", [True, False])
def test_budgets_of_an_ensemble_are_nested_by_default(suite, run, tmp_path, monkeypatch, nested):
    monkeypatch.setenv("TEAMS_LOG", str(tmp_path / "log"))
    results = run(suite(attacks=[THREE[0] | ({} if nested else {"nested": False})]))
    cells = [result for result in results.cells if result.cell.kind == "attack"]
    right = [result.correct for result in cells]
    assert all((one >= other).all() for one, other in pairwise(right))
    seen = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    sizes = [len(ids) for name, _, ids in seen if name == "weak"]
    clean = int(results.clean("Net").correct.sum())
    assert sizes == ([clean, right[0].sum(), right[1].sum()] if nested else [clean] * 3)
    assert [result.columns["attacked"].sum() for result in cells] == sizes


def test_missing_parts_of_an_ensemble_give_the_same_outcomes(suite, run, tmp_path):
    def bits(results):
        return [{name: list(map(str, result.columns[name])) for name in result.columns} for result in results.cells]

    whole = run(suite(attacks=THREE), batch_size=8)
    run(suite(attacks=THREE), "parts", batch_size=8, shard=(2, 3))
    again = run(suite(attacks=THREE), "parts", batch_size=8)
    assert bits(again) == bits(whole)
    for part in Store(tmp_path / "parts").folder(again.cells[2].cell.key).glob("*.parquet"):
        part.unlink()
    assert bits(run(suite(attacks=THREE), "parts", batch_size=8)) == bits(whole)


@pytest.mark.parametrize(
    ("how", "message"),
    [("oversteps", "its budget is linf 0.25, and example 0 of the batch moved by 0.5"),
     ("surprises", "it declares the notes ['draw'] and returned ['surprise']")],
)  # fmt: skip
def test_a_member_that_breaks_a_rule_fails_the_cell(suite, run, how, message):
    result = run(suite(attacks=[ONE[0] | {"how": how}])).cells[-1]
    [failure] = result.failures
    assert (failure.error, Path(failure.blame).name, result.n) == (f"teams/team: {message}", "teams.py", 0)


def test_an_ensemble_counts_robust_examples_in_the_report(suite, run):
    from robharness.report import build
    from robharness.report.renderers import markdown

    report = build(run(suite(attacks=ONE)))
    [cell] = [cell for cell in report.cells if cell.kind == "attack"]
    assert (cell.numbers.accuracy, cell.numbers.robust_accuracy) == (None, 14 / 40)
    assert cell.components == {"weak": 3, "other": 5, "strong": 9}
    assert "strong broke 9" in markdown.render(report)
    message = "accuracy, for ensembles robust accuracy (correct both clean and attacked), in %"
    assert message in markdown.render(report)
    assert "ensembles" not in markdown.render(build(run(suite(attacks=ONE, count="robust"), "robust")))


def test_an_ensemble_may_have_a_targeted_member(suite, run):
    found = rows(run(suite(attacks=[ONE[0] | {"how": "aims"}])), "team(linf, 1/4, how=aims)")
    aimed = found["attacked"] & ~np.isin(found["component"], ["weak", "other"])
    assert 0 < aimed.sum() < found["attacked"].sum()
    wanted = (found["label"] + 1) % 3
    assert (found["target"][aimed] == wanted[aimed]).all()
    assert (found["success"][aimed] == (found["prediction"] == wanted)[aimed]).all()
    assert not any(found["success"][~aimed].astype(bool))


def test_blocks_are_never_split_between_units(suite, run, tmp_path, monkeypatch, teams):
    monkeypatch.setenv("TEAMS_LOG", str(tmp_path / "log"))
    attacks = [
        {"attack": "teams/neighbours", "eps": "1/4"},
        {"attack": "teams/neighbours", "eps": "1/4", "how": "alone"},
    ]
    whole = run(suite(attacks=attacks, count="robust"))
    order = whole.plan.data.ids(0, 40)
    blocks = [order[:16], order[16:32], order[32:]]
    seen = [ids for _, _, ids in map(json.loads, (tmp_path / "log").read_text().splitlines())]
    assert [ids for ids in seen if ids in blocks] == blocks
    assert sum(len(ids) for ids in seen if ids not in blocks) == whole.cells[0].correct.sum()
    (tmp_path / "log").unlink()
    in_parts = [run(suite(attacks=attacks[:1], count="robust"), "parts", shard=(i, 5)) for i in (2, 5, 1, 3, 4)][-1]
    seen = [ids for _, _, ids in map(json.loads, (tmp_path / "log").read_text().splitlines())]
    assert all(ids in blocks for ids in seen)
    assert in_parts.cells[-1].columns["margin"].tolist() == whole.cells[1].columns["margin"].tolist()
    keys = {
        cell.short_name: cell.identity["perturbation"]
        for cell in api.plan(suite(attacks=attacks), plugins=teams).cells[1:]
    }
    assert [identity.get("block") for identity in keys.values()] == [16, None]
