"""Attacks that are fitted first: how often, on which network, and the passes of their fits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robharness import api
from robharness.cli.plan import as_data
from robharness.evaluation import loading
from robharness.evaluation.outcomes import outcomes
from robharness.export import choice
from robharness.report import build, tidy
from robharness.report.optimality import passes_of
from robharness.report.renderers import json as json_report
from robharness.report.tables import tables
from robharness.store import Store
from robharness.store.passes import Passes, PassTotals
from robharness.testing import Broken, checks

FITS = str(Path(__file__).parent / "fits.py")
MODELS = [
    {"model": "teams/net", "label": "A", "reference": True},
    {"model": "teams/net", "label": "B", "seed": 1},
    {"model": "toys/net", "label": "C"},
]
MEAN = {"attack": "fits/mean", "eps": ["1/8", "1/4"]}
FIT = Passes(12, 3 * 12)
"""The passes of the fit of `fits/mean`: a forward pass and three gradients of each of 12 examples."""
EACH = Passes(1, 0)
"""Its passes per attacked example."""


@pytest.fixture
def fits(teams):
    return [*teams, FITS]


@pytest.fixture
def fit_run(tmp_path, fits, monkeypatch):
    """Run a suite in a named store; give the results and the budgets of its fits, by process."""

    def call(source, store="store", **options):
        log = tmp_path / "fits.log"
        log.unlink(missing_ok=True)
        monkeypatch.setenv("FITS_LOG", str(log))
        found = api.run(source, store=tmp_path / store, plugins=fits, **options)
        assert not any(cell.failures for cell in found.cells)
        by_process = {}
        for line in log.read_text().splitlines() if log.exists() else ():
            process, eps, _ = json.loads(line)
            by_process.setdefault(process, []).append(eps)
        return found, list(by_process.values())

    return call


def margins(results):
    return {cell.cell.name: cell.columns["margin"].tolist() for cell in results.cells}


def attack_cells(results):
    return [cell for cell in results.cells if cell.cell.kind == "attack"]


def test_a_process_fits_once_per_model_and_budget_whatever_the_batches(suite, fit_run):
    source = suite(models=MODELS[:2], attacks=[MEAN])
    whole, [fitted] = fit_run(source, batch_size=4)
    assert sorted(fitted) == [1 / 8, 1 / 8, 1 / 4, 1 / 4], "once for each of two models"
    assert fit_run(source, batch_size=4)[1] == [], "nothing is left to compute"
    few, [fitted] = fit_run(source, "resumed", limit=7, batch_size=4)
    assert len(fitted) == 4
    resumed, [fitted] = fit_run(source, "resumed", batch_size=4)
    assert len(fitted) == 4, "a later process repeats the fit"
    assert margins(resumed) == margins(whole)
    workers, each = fit_run(source, "workers", batch_size=4, workers=2)
    assert all(len(eps) <= 4 for eps in each) and all(eps.count(1 / 8) <= 2 for eps in each)
    assert margins(workers) == margins(whole)
    for found in (whole, few, resumed, workers):
        assert {(cell.passes, cell.fit_passes) for cell in attack_cells(found)} == {(EACH, FIT)}, "repeats do not count"


def test_an_ensemble_of_attacks_fits_each_of_its_members(suite, fit_run):
    found, [fitted] = fit_run(suite(attacks=[{"attack": "fits/team", "eps": "1/8"}]), batch_size=8)
    assert fitted == [1 / 8, 1 / 8]
    assert found.cells[1].fit_passes == Passes(2 * 12, 2 * 36)


def test_whole_blocks_have_the_passes_of_one_fit(suite, fit_run):
    found, [fitted] = fit_run(suite(attacks=[{"attack": "fits/blocks", "eps": "1/8"}]), batch_size=8)
    assert fitted == [1 / 8]
    assert (found.cells[1].passes, found.cells[1].fit_passes) == (EACH, FIT)


def test_an_ensemble_of_surrogates_has_a_fit_of_its_own(suite, fit_run):
    """On the mean of the logits, and not the fit of its first member, which computes it before."""
    sources = ["B", {"ensemble": ["B", "C"]}]
    attack = MEAN | {"eps": "1/4"}
    found, [fitted] = fit_run(suite(models=MODELS, attacks=[attack | {"source": sources}]), batch_size=8)
    assert len(fitted) == 2 * 3, "both surrogates are fitted once for each of three models"
    moved = {cell.cell.short_name: cell.columns["margin"] for cell in found.of("A", "attack")}
    alone, _ = fit_run(suite(models=MODELS, attacks=[attack | {"source": sources[1]}]), "alone", batch_size=8)
    [joined] = alone.of("A", "attack")
    assert moved[joined.cell.short_name].tolist() == joined.columns["margin"].tolist()
    [other] = [margin for name, margin in moved.items() if name != joined.cell.short_name]
    assert other.tolist() != joined.columns["margin"].tolist()


def test_a_fit_on_an_ensemble_of_surrogates_steps_along_the_mean_gradient_of_its_members(suite, fits):
    attack = MEAN | {"eps": "1/4", "steps": 1, "source": {"ensemble": ["B", "C"]}}
    planned = api.plan(suite(models=MODELS, attacks=[attack]), plugins=fits)
    [cell] = [cell for cell in planned.cells if cell.model.label == "A" and cell.perturbation]
    loaded = loading.load_model(planned, planned.models[0], batch_size=8)
    batch = loaded.reader.read(0, 12)
    [found] = outcomes(loaded, [cell], batch, np.arange(12))
    leaf = batch.x.clone().requires_grad_(True)
    nets = [loading.load_model(planned, model, with_surrogates=False).classifier.net for model in planned.models[1:]]
    logits = sum(net(leaf) for net in nets) / 2
    nn.functional.cross_entropy(logits, batch.labels).backward()
    step = 0.25 * leaf.grad.mean(0, keepdim=True).sign()
    torch.testing.assert_close(found.outcome.inputs, (batch.x + step).clamp(0, 1))


def test_every_member_of_an_ensemble_of_surrogates_counts(suite, fit_run):
    step = {"attack": "teams/step", "eps": "1/4"}
    sources = ["B", {"ensemble": ["A", "B"]}, {"ensemble": "*"}]
    source = suite(models=MODELS, attacks=[each | {"eps": "1/4", "source": sources} for each in (step, MEAN)])
    found, _ = fit_run(source, batch_size=8)
    for cell in attack_cells(found):
        networks = len(cell.cell.perturbation.surrogates)
        cost = cell.cell.cost
        if cell.cell.perturbation.spec == "teams/step":
            assert cell.passes == Passes(0, networks) and cell.fit_passes is None
            assert cost.shared_gradients == networks
        else:
            assert cell.passes == Passes(networks, 0) and cell.fit_passes == Passes(networks * 12, networks * 36)
            assert (cost.forwards, cost.fit_forwards, cost.fit_gradients) == (networks, networks * 12, networks * 36)
    planned = as_data(found.plan, Store(found.plan.store.parent / "none"))
    forward = {cell["perturbation"]: (cell["forward"], cell["fit_backward"]) for cell in planned["cells"]}
    assert forward["mean(linf, 1/4, source=A+B+C)"] == (1 + 3, 3 * 36)


def test_the_plan_counts_the_passes_of_fits(suite, fit_run, fits, tmp_path, shell):
    source = suite(models=MODELS[:2], attacks=[MEAN])

    def planned(store):
        return as_data(api.plan(source, plugins=fits), Store(tmp_path / store))

    before = planned("store")
    fitted = [cell for cell in before["cells"] if cell["kind"] == "attack"]
    assert {(cell["fit_forward"], cell["fit_backward"]) for cell in fitted} == {(48, 36)}
    assert {(cell["fit_forward"], cell["fit_backward"]) for cell in before["cells"] if cell not in fitted} == {(0, 0)}
    assert before["fits_left"] == {"forward": 4 * 48, "backward": 4 * 36}
    assert before["passes_left"] == {"forward": 2 * 40 + 4 * 40 * 2 + 4 * 48, "backward": 4 * 36}
    fit_run(suite(models=MODELS[:1], attacks=[MEAN]))
    after = planned("store")
    assert after["fits_left"] == {"forward": 2 * 48, "backward": 2 * 36}
    assert {cell["passes_from"] for cell in after["cells"] if cell["kind"] == "attack"} == {"recorded"}
    (tmp_path / "suite.yaml").write_text(json.dumps(source))
    printed = shell("plan", "suite.yaml", plugins=fits).stdout
    assert "of these, fits of attacks take 192 forward and 144 backward passes, once per model and budget" in printed


def test_a_fit_on_fewer_examples_than_declared_has_fewer_passes(suite, fit_run):
    """The data have 40 examples. The suite's limit does not shorten a fit."""
    found, _ = fit_run(suite(attacks=[{"attack": "fits/mean", "eps": "1/8", "examples": 80}]), limit=4)
    cost, cell = found.cells[1].cell.cost, found.cells[1]
    assert (cost.fit_forwards, cost.fit_gradients) == (40, 3 * 40) and cell.fit_passes == Passes(40, 3 * 40)


def test_reports_show_the_passes_of_a_fit_apart(suite, fit_run):
    found, _ = fit_run(suite(models=MODELS[:1], attacks=[MEAN, {"attack": "toys/climb", "eps": "1/8"}]), limit=20)
    report = build(found)
    by_name = {cell["perturbation"]: cell for cell in json_report.as_data(report)["cells"]}
    assert by_name["mean(linf, 1/8)"]["fit_passes"] == {"forwards": 12, "gradients": 36}
    assert by_name["climb(linf, 1/8)"]["fit_passes"] is by_name["clean"]["fit_passes"] is None
    table = next(table for table in tables(report) if table.title == "Passes per example")
    notes = {row.name: [(note[0], note[1].value) for note in row.values[0].notes] for row in table.rows}
    assert notes["mean(linf, 1/8)"] == [("once", 12 + 2 * 36)] and notes["climb(linf, 1/8)"] == []
    assert "once: passes of one example each that fit the attack" in table.caption
    written = {(row["perturbation"], row["statistic"]): row["value"] for row in tidy.rows(report)}
    assert written["mean(linf, 1/4)", "fit_forwards"] == 12 and written["mean(linf, 1/4)", "fit_gradients"] == 36
    assert ("climb(linf, 1/8)", "fit_forwards") not in written
    cell = attack_cells(found)[0]
    assert passes_of(cell) == (1 + (12 + 72) / 20, True)
    assert passes_of(replace(cell, fit_passes=None)) == (1, True)


def test_a_gallery_counts_the_fit(suite, fit_run):
    found, _ = fit_run(suite(attacks=[MEAN]), batch_size=8)
    cell = attack_cells(found)[0]
    made = choice._passes(found, cell, [0, 1])
    fit = 12 + choice.GRADIENT_PASSES * 36
    assert made == 2 + -(-fit // 8)


def test_the_fit_of_several_parts_counts_once():
    part = PassTotals(examples=4, attacked=4, forwards=8, gradients=4, fit_forwards=12, fit_gradients=36)
    whole = part + part
    assert part + replace(part, fit_gradients=0, fit_forwards=0) == whole, "nothing was attacked there"
    assert whole == replace(part, examples=8, attacked=8, forwards=16, gradients=8)
    assert whole.scaled(0.5) == part and whole.fit == Passes(12, 36)
    assert PassTotals.from_json(part.to_json().encode()) == part
    earlier = b'{"examples": 4, "attacked": 4, "forwards": 8, "gradients": 4}'
    assert PassTotals.from_json(earlier) == replace(part, fit_forwards=0, fit_gradients=0)
    assert PassTotals.from_json(earlier).fit is None
    with pytest.raises(ValueError, match="form"):
        PassTotals.from_json(earlier.replace(b"}", b', "fit_forwards": -1}'))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "fit_gradients=members * params.examples * params.steps,",
            "",
            r"declares 0 gradients of a fit on \d+ examples",
        ),
        ("fit_forwards=members * params.examples", "fit_forwards=60", r"forward passes of a fit on \d+ examples"),
    ],
)
def test_the_author_kit_compares_the_passes_of_a_fit_with_those_declared(tmp_path, old, new, sentence):
    for check in checks(FITS, only="*costs_what_it_declares"):
        check()
    text = Path(FITS).read_text()
    assert text.count(old) == 1
    path = tmp_path / "other.py"
    path.write_text(text.replace(old, new))
    [check] = checks(str(path), only="attacks/mean-costs_what_it_declares")
    with pytest.raises(Broken, match=sentence):
        check()
