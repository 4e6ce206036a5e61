"""Exactness on a real network: bit-equal at the level "replay", nearly equal at "float"; "logic" is for toys."""

import re

import numpy as np
import pytest
import torch

from robharness import api
from robharness.engine import listeners
from robharness.engine.run import run_plan
from robharness.report import build
from robharness.store import Store

ATTACKS = [
    {"attack": "attacks/fgsm", "norm": "linf", "eps": [0.02, 0.05, 0.1]},
    {"attack": "attacks/pgd", "norm": "linf", "eps": 0.1, "steps": 10, "random_start": True},
    {"attack": "attacks/pgd", "norm": "l2", "eps": 1, "steps": 10, "random_start": True},
]
SPECKLE = {"corruptions": [{"corruption": "toys/speckle", "severity": 1}], "canvas": 28}
NEAR = 1e-4
"""Of the logit range: the most that another shape of passes or number of threads may move two logits apart."""


def stored(plan, store):
    """{cell: {column: its bytes}} of all that is stored of a plan."""
    found = {}
    for cell in plan.cells:
        table = store.read(cell.key, plan.n).table
        columns = {name: table[name].to_numpy() for name in table.column_names}
        found[cell.short_name] = {
            name: column.tolist() if column.dtype == object else column.tobytes() for name, column in columns.items()
        }
    return found


def test_stored_rows_are_bit_equal_for_any_split_into_units(mnist_suite, mnist, toys, tmp_path):
    n, how = 300, {"batch_size": 64, "threads": 1}
    source, plugins = mnist_suite(attacks=ATTACKS, **SPECKLE), [mnist, toys]
    plan = api.plan(source, plugins=plugins, limit=n)

    def run(name, source=source, limit=n, **options):
        return api.run(source, store=tmp_path / name, plugins=plugins, limit=limit, **how, **options)

    assert run("whole").is_complete
    whole = stored(plan, Store(tmp_path / "whole"))
    assert len(whole) == 7
    assert {*whole["clean"]} >= {"example", "label", "prediction", "correct", "margin", "logit_range", "size"}

    run("workers", workers=2)
    run("shards", shard=(2, 2))
    run("shards", shard=(1, 2))
    run("limits", limit=101)
    run("limits", limit=187)
    run("limits")
    store = Store(tmp_path / "pieces")
    for pattern in ("pgd(l2*", "speckle*", "fgsm(linf, 0.1)", "clean", "*"):
        run_plan(plan.only(pattern), store, listeners.Silent(), **how)
    for name in ("workers", "shards", "limits", "pieces"):
        assert stored(plan, Store(tmp_path / name)) == whole, name
    assert api.load(source, store=tmp_path / "workers", plugins=plugins, limit=n).cells[0].provenance[0]["rows"] == 64

    fewer = mnist_suite(attacks=ATTACKS[2:], canvas=28)
    run("fewer", fewer)
    found = stored(api.plan(fewer, plugins=plugins, limit=n), Store(tmp_path / "fewer"))
    assert len(found) == 2
    assert found.items() <= whole.items()


def gaps(plan):
    """Return the largest logit minus the next one of every example, as a share of the logit range."""
    model = plan.models[0]
    net = model.entry.spec.build(None, model.weights.path).eval()
    images = np.stack([plan.data.dataset.read(index) for index in plan.data.order[: plan.n]])
    with torch.no_grad():
        logits = net(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    best = logits.topk(2, dim=1).values
    return ((best[:, 0] - best[:, 1]) / (logits.amax(1) - logits.amin(1))).numpy()


@pytest.fixture(scope="module")
def first(mnist_suite, mnist, tmp_path_factory):
    """The results of 1,000 examples in passes of 20, with one thread."""
    store = tmp_path_factory.mktemp("first")
    return api.run(mnist_suite(attacks=ATTACKS), store=store, plugins=[mnist], limit=1000, batch_size=20, threads=1)


@pytest.mark.parametrize("other", [{"batch_size": 64, "threads": 1}, {"batch_size": 20, "threads": 2}], ids=str)
def test_batch_size_and_threads_change_margins_within_rounding(mnist_suite, mnist, first, tmp_path, other):
    n = 1000
    second = api.run(mnist_suite(attacks=ATTACKS), store=tmp_path, plugins=[mnist], limit=n, **other)
    near = gaps(first.plan) < NEAR
    for one, two in zip(first.cells, second.cells, strict=True):
        assert one.n == two.n == n
        differ = one.columns["prediction"] != two.columns["prediction"]
        verdicts = int((one.correct != two.correct).sum())
        bits = int((one.columns["margin"] != two.columns["margin"]).sum())
        print(f"{one.cell.short_name}: {bits} of {n} margins, {int(differ.sum())} predictions, {verdicts} verdicts")
        if one.cell.kind == "clean":
            moved = np.abs(one.columns["margin"] - two.columns["margin"]) / one.columns["logit_range"]
            print(f"clean: moved by at most {moved.max():.1e} of the logit range, {int(near.sum())} nearer than {NEAR}")
            assert moved.max() < NEAR
            assert not (differ & ~near).any()
        assert verdicts <= 0.005 * n


def test_the_report_counts_verdicts_that_mixed_batch_sizes_may_change(mnist_suite, mnist, tmp_path):
    budgets = [round(0.005 * i, 3) for i in range(1, 25)]
    source = mnist_suite(attacks=[{"attack": "attacks/fgsm", "norm": "linf", "eps": budgets}])

    def run(**options):
        return api.run(source, store=tmp_path / "store", plugins=[mnist], threads=1, **options)

    part = run(limit=500, batch_size=20)
    assert not any("different environments" in warning for warning in build(part).warnings)
    results = run(limit=1000, batch_size=64)
    [warning] = [warning for warning in build(results).warnings if "different environments" in warning]
    near = sum(
        abs(margin) <= NEAR * logit_range
        for result in results.cells
        for margin, logit_range in zip(result.columns["margin"], result.columns["logit_range"], strict=True)
    )
    print(f"{near} of 25,000 outcomes are nearer than {NEAR}")
    assert near > 0
    assert warning.startswith(
        "CNN: parts of one cell were computed in different environments (rows 20 and 64), in 25 cells; "
    )
    assert [int(number) for number in re.findall(r"\d+", warning)[2:5]] == [25, near, 25000]
