"""Comparison of two sides: examples by id, conditions, environments, means over runs, foreign text."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from hostile_text import TEXTS, check
from robharness import statistics
from robharness.comparison.build import build
from robharness.comparison.outputs import json as comparison_json
from robharness.comparison.outputs.formats import FORMATS
from robharness.comparison.requests import Request
from robharness.errors import UserError
from robharness.findings import CODES
from synthetic_sides import cell, drawn, side, with_cells

BOTH = Request(operands=("one", "two"))


def built(before, after, models=None, **options):
    return build(before, after, replace(BOTH, models=models), **options)


def found(comparison, code):
    return [each for each in comparison.findings if each.code == code]


def codes(comparison):
    assert all(each.severity == CODES[each.code][0] for each in comparison.findings)
    return [each.code for each in comparison.findings]


def moved(given, order, n=None):
    """The side with its examples in another order, `order[i]` being the position before of the one at i."""
    order = np.asarray(order)
    cells = tuple(replace(cell, right=cell.right[order], positions=np.arange(len(order)), n_expected=len(order))
                  for cell in given.cells)  # fmt: skip
    return replace(given, cells=cells, ids=tuple(given.ids[at] for at in order), n=n or len(order))


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sides():
    return drawn({"Net": 0.9}), drawn({"Net": 0.6}, name="after")


def test_examples_in_another_order_are_matched_by_id(sides):
    before, after = sides
    plain = built(before, after)
    assert codes(plain) == [] and plain.cells[0].lost > 0
    again = built(before, moved(after, np.random.default_rng(1).permutation(60)))
    assert codes(again) == ["examples-matched"]
    assert again.cells == plain.cells  # the same numbers, and the same ids


def test_examples_of_an_extended_data_set_are_matched_by_id(sides):
    """Examples are ordered by the hash of their ids, so that added ones move all others."""
    before, after = sides
    few = sorted(np.random.default_rng(2).permutation(60)[:45].tolist())
    less = moved(before, few)
    for first, second in ((less, after), (replace(less, name="b"), after)):
        again = built(first, second)
        assert again.n == 45 and codes(again) == ["examples-matched", "n-differs"]
        [clean, attacked] = again.cells
        rights = [cell.right[few] for side in sides for cell in side.cells]
        assert (clean.before, clean.after) == (rights[0].mean(), rights[2].mean())
        assert (attacked.lost, attacked.n_before, attacked.n_after) == (int((rights[1] & ~rights[3]).sum()), 45, 60)
    assert [cell.difference for cell in built(after, less).cells] == [-cell.difference for cell in again.cells]


@pytest.mark.parametrize("ids", [
    tuple(f"other-{number}" for number in range(60)),
    (*(f"id-{number}" for number in range(1, 31)), *(f"other-{number}" for number in range(30))),
    ("id-1",) * 60,
])  # fmt: skip
def test_other_examples_are_refused(sides, ids):
    before, after = sides
    for first, second in ((before, replace(after, ids=ids)), (replace(before, ids=ids), after)):
        with pytest.raises(UserError, match="are results on different examples, which cannot be compared") as caught:
            built(first, second)
        assert "before and after" in str(caught.value) and "Try: robharness report" in str(caught.value)


def test_ids_that_are_known_in_part_are_compared_where_both_are(sides):
    before, after = sides
    first = replace(before, ids=(*before.ids[:30], *[None] * 30))
    assert codes(built(first, after)) == []
    wrong = replace(after, ids=(*after.ids[:30], *(f"x-{number}" for number in range(30))))
    assert codes(built(first, wrong)) == []
    with pytest.raises(UserError):
        built(before, wrong)


def test_the_hash_of_all_ids_counts_where_ids_are_not_known(sides):
    before, after = (replace(each, ids=(), order="a" * 24) for each in sides)
    assert codes(built(before, after)) == []
    with pytest.raises(UserError, match="the hashes of their ids differ"):
        built(before, replace(after, order="b" * 24))


def test_positions_alone_are_a_warning_unless_conditions_are_equal(sides):
    before, after = (replace(each, ids=()) for each in sides)
    assert codes(built(before, after)) == []
    assert built(before, after).cells[0].lost_ids[0].startswith("position ")
    assert codes(built(before, with_cells(after, conditions="x"))) == ["examples-not-known", "conditions-differ"]


# --- findings ---------------------------------------------------------------------------------------------------------


def identity(steps=10, **changes):
    attack = {"name": "toys/sign", "params": {"steps": steps}}
    data = {"name": "toys/pixels", "fingerprint": "f" * 64}
    return {"model": {"name": "toys/net"}, "data": data, "precision": "float32", "perturbation": attack} | changes


def test_other_conditions_are_named_with_both_values(sides):
    before = with_cells(sides[0], conditions="a", identity=identity())
    changes = {
        "precision": ({"precision": "tf32"}, "precision float32 before, tf32 after"),
        "attack": ({"steps": 20}, "perturbation.params.steps 10 before, 20 after"),
        "data": ({"data": {"name": "toys/pixels", "fingerprint": "0" * 64}}, "data.fingerprint ffff"),
        "added": ({"compat": "imagenet-c"}, "compat default before, imagenet-c after"),
    }  # fmt: skip
    for change, sentence in changes.values():
        comparison = built(before, with_cells(sides[1], conditions="b", identity=identity(**change)))
        [differs] = found(comparison, "conditions-differ")
        assert sentence in differs.message and differs.subject == "Net · clean and 1 more"
        assert {cell.conditions for cell in comparison.cells} == {"changed"}
    other = built(before, with_cells(sides[1], conditions="b", data="toys/pixels/train"))
    assert "data toys/pixels/test before, toys/pixels/train after" in found(other, "conditions-differ")[0].message
    models = built(before, with_cells(sides[1], conditions="a", identity=identity(model={"name": "toys/other"})))
    assert codes(models) == []
    unknown = built(with_cells(before, conditions=""), sides[1])
    assert codes(unknown) == ["conditions-unknown"] and unknown.cells[0].conditions == "unknown"


def environment(**changes):
    versions = {"torch": "2.6.0", "numpy": "2.0"}
    return {"device": "cpu", "threads": 1, "model_state": "a", "rows": 4, "versions": versions,
            "model_plugin": {"plugin": "toys 1.0", "source": "aaa", "stands_on": ["numpy 2.0"]},
            "perturbation_plugin": {"plugin": "toys 1.0", "source": "aaa"}} | changes  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"device": "H200"}, "device cpu before, H200 after"),
    ({"versions": {"torch": "2.7.1", "numpy": "2.0"}}, "versions.torch 2.6.0 before, 2.7.1 after"),
    ({"perturbation_plugin": {"plugin": "toys 1.0", "source": "b"}}, "perturbation_plugin.source aaa before, b after"),
    ({"rows": 8}, "rows 4 before, 8 after"),
    ({"model_state": "b"}, ""),  # other weights are what is compared
    ({"versions": {"torch": "2.6.0"}, "new": 1}, ""),
    ({"model_plugin": {"plugin": "toys 1.0", "source": "aaa", "stands_on": ["numpy 2.1"]}}, ""),
])  # fmt: skip
def test_other_environments_are_named_with_both_values(sides, changes, sentence):
    before = with_cells(sides[0], environments=(environment(),))
    after = with_cells(sides[1], environments=(environment(**changes),))
    comparison = built(before, after)
    assert codes(comparison) == (["environments-differ"] if sentence else [])
    if sentence:
        [differs] = comparison.findings
        assert differs.message == f"computed in different environments: {sentence}"
        assert differs.subject == "Net · clean and 1 more"


def test_several_environments_of_one_side(sides):
    before = with_cells(sides[0], environments=(environment(), environment(device="H200")))
    after = with_cells(sides[1], environments=(environment(),))
    assert "device H200 and cpu before, cpu after" in built(before, after).findings[0].message
    assert codes(built(before, with_cells(after, environments=()))) == []  # a baseline has none


def test_other_models_have_other_passes():
    """The batch size and the code of the model are chosen by model."""
    both = drawn({"Net": 0.9, "Other": 0.5})
    rows = {"Net": 4, "Other": 8}
    cells = (replace(cell, identity=identity(model={"name": cell.model}), conditions="a",
                     environments=(environment(rows=rows[cell.model]),)) for cell in both.cells)  # fmt: skip
    suite = replace(both, cells=tuple(cells))
    assert codes(built(suite, suite, ("Net", "Other"))) == []


def test_what_one_side_alone_has_is_named():
    before = drawn({"Net": 0.9, "Old": 0.9}, ("clean", "sign(linf, 1/8)", "climb(linf, 1/8)"))
    after = drawn({"Net": 0.9, "New": 0.9}, ("clean", "sign(linf, 1/8)"), name="after")
    comparison = built(before, after)
    assert [str(each) for each in comparison.findings] == [
        "Net · climb(linf, 1/8): before alone has this; it is not compared",
        "Old: before alone has this; it is not compared",
        "New: after alone has this; it is not compared",
    ]
    assert codes(comparison) == ["cells-on-one-side", "models-on-one-side", "models-on-one-side"]
    assert comparison.only_before == ("Net · climb(linf, 1/8)",) and not comparison.is_complete
    assert codes(built(before, after, ("Net", "Net"))) == ["cells-on-one-side"]


def test_failures_are_named_with_their_reason():
    before = drawn({"Net": 0.9})
    failed = replace(
        before.cells[1], positions=np.arange(20), right=before.cells[1].right[:20], failures=("no gradient",)
    )
    after = replace(before, name="after", cells=(before.cells[0], failed))
    comparison = built(before, after)
    assert str(found(comparison, "cells-incomplete")[0]) == (
        "Net · sign(linf, 1/8): after: outcomes of 40 of 60 examples are missing: no gradient"
    )
    assert not comparison.is_complete and comparison.cells[1].n == 20


# --- runs -------------------------------------------------------------------------------------------------------------


def seeds(label, rates, seed=0, **facts):
    models = {f"{label} seed {number}": rate for number, rate in enumerate(rates)}
    return drawn(models, seed=seed, run_of=dict.fromkeys(models, label), **facts)


def test_means_over_runs_against_scipy():
    before, after = seeds("Net", (0.7, 0.74, 0.8)), seeds("Net", (0.5, 0.66), name="after")
    comparison = built(before, after)
    assert comparison.pairs == (("Net seed 0", "Net seed 0"), ("Net seed 1", "Net seed 1"))
    assert [each.perturbation for each in comparison.runs] == ["clean", "sign(linf, 1/8)"]
    for each in comparison.runs:
        one, other = ([cell.right.mean() for cell in side.cells if cell.perturbation == each.perturbation]
                      for side in (before, after))  # fmt: skip
        assert (each.runs_before, each.asked_before, each.runs_after, each.asked_after) == (3, 3, 2, 2)
        assert (each.before, each.after) == pytest.approx((np.mean(one), np.mean(other)))
        assert each.before_deviation == pytest.approx(np.std(one, ddof=1))
        expected = scipy.stats.ttest_ind(other, one, equal_var=False).confidence_interval(0.95)
        assert each.interval == pytest.approx((expected.low, expected.high), rel=1e-4)
        assert each.difference == pytest.approx(np.mean(other) - np.mean(one))
    text = FORMATS[".txt"].render(comparison, 0)
    assert "over runs, which differ in their seed" in comparison_json.as_data(comparison)["answer"][0]
    assert "Means over runs of Net" in text and "not over examples" in text and "3 runs" in text


@pytest.mark.parametrize("sizes", [(2, 2), (2, 7), (5, 3), (12, 40)])
def test_welchs_interval_against_scipy(sizes):
    draw = np.random.default_rng(sizes)
    for scale in (1.0, 0.01):
        one, other = draw.normal(0.7, 0.02, sizes[0]), draw.normal(0.6, 0.02 * scale, sizes[1])
        expected = scipy.stats.ttest_ind(other, one, equal_var=False).confidence_interval(0.95)
        assert statistics.mean_difference_interval(one, other) == pytest.approx(tuple(expected), rel=1e-4)


@pytest.mark.parametrize(("one", "other"), [([0.5], [0.4, 0.6]), ([0.5, 0.6], []), ([0.5, 0.5], [0.4, 0.4])])
def test_no_interval_over_too_few_runs(one, other):
    with pytest.raises(statistics.EmptySample):
        statistics.mean_difference_interval(one, other)


def test_shared_labels_pair_runs_of_one_seed():
    both = side(*seeds("Net", (0.7, 0.9)).cells, *seeds("Big", (0.5, 0.6, 0.7)).cells,
                run_of={f"{label} seed {at}": label for label in ("Net", "Big") for at in range(3)})  # fmt: skip
    comparison = built(both, both, ("Net", "Big"))
    assert comparison.pairs == (("Net seed 0", "Big seed 0"), ("Net seed 1", "Big seed 1"))
    assert {(each.other, each.model) for each in comparison.runs} == {("Net", "Big")}
    assert comparison.title == "toys: 2 models before and after"
    with pytest.raises(UserError, match="did you mean 'Big'"):
        built(both, both, ("Net", "Bigg"))


def test_a_single_model_against_runs():
    before, after = drawn({"Base": 0.9}), seeds("Net", (0.5, 0.6), name="after")
    comparison = built(before, after, ("Base", "Net"))
    assert comparison.pairs == (("Base", "Net seed 0"), ("Base", "Net seed 1"))
    assert [(each.runs_before, each.interval) for each in comparison.runs] == [(1, None), (1, None)]
    assert "an interval over runs needs two runs on each side" in FORMATS[".txt"].render(comparison, 0).replace(
        "\n", " "
    )


def test_a_run_without_all_outcomes_does_not_count():
    before, after = seeds("Net", (0.7, 0.8, 0.9)), seeds("Net", (0.5, 0.6, 0.7), name="after")
    first, *others = after.cells
    part = replace(first, positions=first.positions[:30], right=first.right[:30])
    comparison = built(before, replace(after, cells=(part, *others)))
    [clean, attacked] = comparison.runs
    assert (clean.runs_after, clean.asked_after, clean.n, attacked.runs_after) == (2, 3, 60, 3)
    assert not comparison.is_complete


# --- text of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_of_others_is_only_shown(text):
    cells = [cell(name, right, text, title=text, group=text, failures=(text,), n_expected=5)
             for name, right in (("clean", [1, 1, 0, 1]), (text, [1, 0, 0, 1]))]  # fmt: skip
    changed = [
        replace(each, right=~each.right, conditions="b", data=text, environments=({"device": text},)) for each in cells
    ]
    facts = {"ids": (text, f"{text}1", f"{text}2", f"{text}3", f"{text}4"), "suite": text}
    before = side(*[replace(each, environments=({"device": "cpu"},)) for each in cells], name=text, **facts)
    after = side(*changed, name=f"{text} after", **facts)
    comparison = built(before, after, changed=9)
    for suffix in (".txt", ".md"):
        shown = check(FORMATS[suffix].render(comparison, 9))
        assert suffix == ".txt" or re.search(r"(?<!\\)<img|(?<!\\)\*\*b", shown) is None
    check(repr(comparison))
    data = json.loads(check(FORMATS[".json"].render(comparison, 9), is_data=True))
    assert data["cells"][0]["model"] == text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
    with pytest.raises(UserError) as caught:
        built(before, after, (text, "none"))
    check(str(caught.value), is_data=text in (TEXTS["long"], TEXTS["control"]))  # a command is never cut
