"""Verdicts beside the verdict: on what is found, rounded to 8 bits; and whether a target was reached."""

import json

import numpy as np
import pytest
import torch

from robharness import api
from robharness.errors import SuiteError
from robharness.evaluation import loading, outcomes
from robharness.report import build
from robharness.report.renderers import json as report_json
from robharness.report.renderers import markdown

REAL = {"model": "teams/net", "label": "Real"}
FUSSY = REAL | {"what": "fussy"}  # class 0 for whatever is between two levels


def cell(report, name):
    return next(cell for cell in json.loads(report_json.render(report))["cells"] if cell["perturbation"] == name)


@pytest.mark.parametrize("count", ["all", "robust"])
def test_less_than_half_a_grey_level_is_rounded_away(suite, run, count):
    """What is found fools the model by being between two levels; in 8 bits it is the clean verdict."""
    steps = {"attack": "teams/step", "eps": ["0.25/255", "8/255"], "eight_bit": True}
    results = run(suite(models=[FUSSY], attacks=[steps, {"attack": "teams/step", "eps": "1/4"}], count=count))
    clean, small, large, other = results.cells
    attacked = small.columns["attacked"].astype(bool)
    assert attacked.sum() == (40 if count == "all" else clean.correct.sum())
    rounded = np.asarray(small.columns["prediction_8bit"], float)
    assert (small.columns["prediction"][attacked] == 0).all() and set(clean.columns["prediction"][attacked]) != {0}
    assert (rounded[attacked] == clean.columns["prediction"][attacked]).all()
    assert np.isnan(rounded[~attacked]).all()
    right = np.array([bool(value) for value in large.columns["correct_8bit"]])[attacked]
    labels = large.columns["label"][attacked]
    assert (right == (np.asarray(large.columns["prediction_8bit"], float)[attacked] == labels)).all()
    assert "prediction_8bit" not in list(other.columns)
    report = build(results)
    assert cell(report, "step(linf, 0.25/255, 8 bit)")["accuracy_8bit"] == clean.accuracy
    assert cell(report, "step(linf, 8/255, 8 bit)")["accuracy_8bit"] == right.sum() / 40
    assert cell(report, "step(linf, 1/4)")["accuracy_8bit"] is None
    assert f"in 8 bits {100 * clean.accuracy:.1f}" in markdown.render(report)


def test_the_found_perturbation_is_rounded(suite, run):
    results = run(suite(models=[FUSSY], attacks=[{"attack": "teams/step", "eps": "3.3/255", "eight_bit": True}]))
    loaded = loading.load_model(results.plan, results.plan.models[0])
    batch = loaded.reader.read(0, 40)
    [group] = outcomes.group_cells([results.plan.cells[1]])
    [found] = outcomes.outcomes(loaded, group, batch, (0, 40))
    outcome = found.outcome
    levels = torch.from_numpy(np.rint(outcome.inputs.numpy().astype(float) * 255)).to(torch.float32) / 255
    assert not torch.equal(levels, outcome.inputs) and not torch.equal(levels, batch.x)
    expected = loaded.classifier.logits(levels).argmax(1)
    assert results.cells[1].columns["prediction_8bit"].tolist() == expected.tolist()


def test_a_budget_below_half_a_grey_level_is_reported(suite, run, teams):
    from robharness import api

    def warnings(*attacks):
        messages = api.plan(suite(attacks=list(attacks)), plugins=teams).warnings
        return [line for line in messages if "grey level" in line]

    step = {"attack": "teams/step", "eps": ["0.25/255", "0.49/255", "0.5/255", "1/255"]}
    [messages] = warnings(step)
    assert messages.startswith("step(linf, 0.25/255), step(linf, 0.49/255): less than half a grey level")
    assert warnings(step | {"eps": ["0.5/255", "1"]}, {"attack": "teams/nearest"}) == []


def test_a_target_is_reached_or_not(suite, run):
    """Examples that are wrong already have no target; those that are right want the class after their own."""
    results = run(suite(models=[REAL], attacks=[{"attack": "teams/aim", "eps": ["1/16", "1/4"]}]))
    clean = results.cells[0].correct
    for result in results.cells[1:]:
        wanted = np.where(clean, (result.columns["label"] + 1) % 3, -1)
        assert (result.columns["target"] == wanted).all()
        reached = (result.columns["prediction"] == wanted) & clean
        assert (result.columns["success"] == reached).all()
        assert cell(build(results), result.cell.short_name)["success"] == reached.sum() / clean.sum()
    assert 0 < reached.sum() < clean.sum()
    assert f"target reached {100 * reached.sum() / clean.sum():.1f}" in markdown.render(build(results))


def test_nested_budgets_cannot_be_combined_with_eight_bit_verdicts(suite, teams):
    steps = {"attack": "teams/step", "eps": ["0.25/255", "8/255"], "eight_bit": True}
    with pytest.raises(SuiteError, match="add `nested: false`"):
        api.plan(suite(models=[REAL], attacks=[steps | {"nested": True}]), plugins=teams)
    assert len(api.plan(suite(models=[REAL], attacks=[steps]), plugins=teams).cells) == 3
