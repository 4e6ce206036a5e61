"""The cells of a plan: the order of their examples, draws, names, warnings, costs, and what is missing."""

import hashlib
from fractions import Fraction
from pathlib import Path

import pytest

from robharness import Budget, Cost, UserError, session
from robharness.planning.identity import canonical, draw_address, key_of
from robharness.planning.planner import plan
from toy_planning import PgdParams, cells, suite

# --- the order of the examples ----------------------------------------------------------------------------------------


def planned_on(split, limit=None):
    return plan(suite(data={"name": "toy/pixels", "split": split}), Path("data"), limit)


def test_the_order_depends_on_the_ids_and_not_on_the_data_set():
    forward, turned = planned_on("test").data, planned_on("turned").data
    assert forward.ids(0, 12) == turned.ids(0, 12)
    assert forward.ids(0, 12) == sorted(forward.dataset.ids, key=lambda id: hashlib.sha256(id.encode()).hexdigest())
    assert forward.ids(0, 12) != forward.dataset.ids
    assert forward.identity["fingerprint"] == turned.identity["fingerprint"]
    for planned in (forward, turned):
        labels = [planned.dataset.labels[index] for index in planned.order]
        assert labels == [int(id.removeprefix("pixel-")) % 3 for id in planned.ids(0, 12)]


def test_a_limit_takes_the_first_of_the_same_order():
    everything = planned_on("test")
    limited = planned_on("test", limit=5)
    assert (limited.n, everything.n) == (5, 12)
    assert limited.data.ids(0, limited.n) == everything.data.ids(0, 12)[:5]
    assert [cell.key for cell in limited.cells] == [cell.key for cell in everything.cells]
    assert planned_on("test", limit=99).n == 12
    in_suite = suite(data={"name": "toy/pixels", "split": "test", "limit": 4})
    assert plan(in_suite, Path("data")).n == 4
    assert plan(in_suite, Path("data"), limit=6).n == 6


def test_other_examples_or_labels_are_another_data_set():
    prints = {planned_on(split).data.identity["fingerprint"] for split in ("test", "relabelled", "more")}
    assert len(prints) == 3


# --- draws ------------------------------------------------------------------------------------------------------------


def test_draws_are_addressed_by_the_perturbation_without_strength_and_restarts():
    def address(**options):
        [perturbation] = suite(attacks=[{"attack": "toy/pgd", "eps": 1} | options]).perturbations
        return draw_address(perturbation)

    assert address() == '["toy/pgd", {}]'
    assert address(eps="1/255") == address(restarts=5) == address(nested=True) == address(note="x") == address()
    assert len({address(), address(steps=3), address(norm="l2"), address(attack="toy/noise")}) == 4
    assert address(rel_step="2.5/10") == address(rel_step=0.25) == '["toy/pgd", {"rel_step": "1/4"}]'


def test_draws_of_a_corruption_are_the_same_at_every_severity():
    one, two = suite(attacks=[], corruptions=[{"corruption": "toy/fog", "severity": [1, 2]}]).perturbations
    assert draw_address(one) == draw_address(two)


# --- names, warnings, costs -------------------------------------------------------------------------------------------


def test_short_names_are_readable():
    found = cells(attacks=[{"attack": "toy/pgd", "eps": "1/255", "steps": 3}])
    assert [cell.name for cell in found.values()] == [
        "Net · toy/pixels/test · clean",
        "Net · toy/pixels/test · pgd(linf, 1/255, steps=3)",
    ]
    assert [cell.kind for cell in found.values()] == ["clean", "attack"]
    assert found["pgd(linf, 1/255, steps=3)"].cost == Cost(gradients=3)
    assert found["clean"].cost == Cost()


def test_a_pattern_selects_cells_by_any_of_their_names():
    models = [{"model": "toy/net", "label": "Net"}, {"model": "toy/large", "label": "Large"}]
    planned = plan(suite(models=models), Path("data"))

    def names(pattern):
        return [(cell.model.label, cell.short_name) for cell in planned.only(pattern).cells]

    assert names("Net") == [("Net", "clean"), ("Net", "pgd(linf, 1/255)")]
    assert names("toy/large") == [("Large", "clean"), ("Large", "pgd(linf, 1/255)")]
    assert names("pgd*") == [("Net", "pgd(linf, 1/255)"), ("Large", "pgd(linf, 1/255)")]
    assert names("Net*clean") == [("Net", "clean")]
    with pytest.raises(UserError, match="no cell matches 'net'"):
        planned.only("net")


def test_a_plan_warns_of_what_tables_do_not_show():
    models = [{"model": "toy/net"}, {"model": "toy/large", "reference": True}]
    loaded = suite(
        models=models,
        attacks=[
            {"attack": "toy/pgd", "eps": 1, "norm": "l2", "steps": 60},
            {"attack": "toy/pgd", "eps": 1},
            {"attack": "toy/noise", "eps": 1},
        ],
        corruptions=[{"corruption": "toy/fog", "severity": 1}],
    )
    assert plan(loaded, Path("data")).warnings == (
        "models of different input sizes (16x16, 8x8) stand in one table under l2: the same eps is a smaller change "
        "per pixel of a larger input",
        "slopes compare models of different input sizes (16x16, 8x8)",
        "pgd(l2, 1, steps=60): 60 steps",
        "noise(linf, 1): uses global random generators, seeded per block of 16 examples",
        "toy/net: images are reduced from the canvas, 224, to 8 pixels, corrupted images, too",
        "toy/large: images are reduced from the canvas, 224, to 16 pixels, corrupted images, too",
    )
    no_reference = suite(attacks=[], corruptions=[{"corruption": "toy/fog", "severity": 1}])
    assert plan(no_reference, Path("data")).warnings == (
        "no slopes: no model is marked `reference: true`",
        "Net: images are reduced from the canvas, 224, to 8 pixels, corrupted images, too",
    )
    assert plan(suite(), Path("data")).warnings == ()


# --- what is missing or wrong -----------------------------------------------------------------------------------------


def test_all_missing_resources_are_reported_at_once(tmp_path):
    (tmp_path / "net.pt").write_text("another file")
    models = [
        {"model": "toy/net"},
        {"model": "toy/served"},
        {"model": "toy/filed"},
        {"model": "toy/net", "label": "Mine", "weights": str(tmp_path / "mine.pt")},
    ]
    planned = plan(suite(models=models, data={"name": "toy/pixels", "split": "lost"}), tmp_path)
    served = tmp_path / "weights" / "net.pt"
    digest = hashlib.sha256(b"another file").hexdigest()
    message = [
        f"the lost pixels: not found at {tmp_path / 'pixels'}. To get it: make pixels",
        f"the weights of toy/served: not found at {served}. "
        f"To get it: curl --create-dirs -fL -o {served} https://example.org/net.pt",
        f"the weights of toy/filed at {tmp_path / 'net.pt'} have sha256 {digest}, robharness-toy 1.0 declares "
        f"{'0' * 64}. To get the right file: make net",
        f"the weights of toy/net: not found at {tmp_path / 'mine.pt'}. To get it: correct `weights:` in the suite",
    ]
    assert [str(error) for error in planned.missing] == message
    assert (planned.cells, planned.n) == ((), 0)
    with pytest.raises(UserError) as caught:
        session.require(planned)
    assert str(caught.value).splitlines() == ["4 resources are missing:", *(f"  {line}" for line in message)]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("crash", "toy/pixels of robharness-toy 1.0 cannot be opened: KeyError: 'index'"),
        ("numbered", "toy/pixels of robharness-toy 1.0 cannot be opened: TypeError: the id 1 is not a text"),
        (
            "unlabelled",
            "toy/pixels of robharness-toy 1.0 cannot be opened: ValueError: the label 'cat' of 'a' is not a whole",
        ),
        ("double", "toy/pixels of robharness-toy 1.0 has 2 ids, 1 of them different, and 2 labels"),
        ("uneven", "toy/pixels of robharness-toy 1.0 has 2 ids, 2 of them different, and 1 labels"),
        ("empty", "toy/pixels of robharness-toy 1.0 has 0 ids, 0 of them different, and 0 labels"),
    ],
)
def test_an_invalid_data_set_is_reported_by_name(split, message):
    [error] = planned_on(split).missing
    assert str(error).startswith(message)
    assert str(error).endswith("Try: robharness list datasets")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("costless", {}, "toy/costless of robharness-toy 1.0 cannot be planned: ZeroDivisionError: division by zero"),
        ("unwise", {}, "toy/unwise of robharness-toy 1.0 cannot be planned: ZeroDivisionError: division by zero"),
        (
            "folder",
            {"folder": "y"},
            "toy/folder of robharness-toy 1.0 cannot be planned: TypeError: b'y' has",
        ),
    ],
)
def test_a_plugin_that_fails_in_planning_is_reported_by_name(name, options, message):
    loaded = suite(attacks=[{"attack": f"toy/{name}", "eps": 1} | options])
    with pytest.raises(UserError) as caught:
        plan(loaded, Path("data"))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("Without it: add -p no:toy")


def test_canonical_data_are_plain():
    record = PgdParams(steps=3, rel_step=Budget("2/8"), note="x")
    value = {"b": (1, 2.5, None), "a": {Fraction(8, 255), Fraction(2)}, 3: record, "c": True}
    assert canonical(value) == {
        "3": {"steps": 3, "rel_step": "1/4"}, "a": ["2/1", "8/255"], "b": [1, 2.5, None], "c": True,
    }  # fmt: skip
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": "2"})
    with pytest.raises(TypeError, match="has no place in an identity; mark its field with"):
        canonical({"x": object()})
