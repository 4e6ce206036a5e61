"""Violations of the contract fail their own cells, are reported by plugin, and leave other cells unchanged."""

import numpy as np
import pytest
import torch

from robharness import api
from robharness.engine import listeners
from robharness.engine.run import run_plan
from robharness.errors import ContractViolation
from robharness.evaluation import referee
from robharness.store import Store

CASES = {
    "oversteps": "its budget is linf 0.125, and example 0 of the batch moved by",
    "leaves-box": "outside [0, 1]",
    "not-finite": "it returned values that are not finite numbers",
    "shape": "it returned (8, 1, 4, 8) torch.float32, not (8, 1, 8, 8) torch.float32",
    "type": "it returned (8, 1, 8, 8) torch.float64, not",
    "not-a-tensor": "it returned ndarray, not a plain, dense tensor",
    "writes-input": "it changed the batch's input",
    "writes-labels": "it changed the batch's labels",
    "changes-weights": "it changed the model's 'head.weight'",
    "train-mode": "it changed the model's eval mode",
    "unfreezes": "it changed the model's frozen parameters",
    "raises": "it raised KeyError: 'delta'",
    "draws-globally": "it draws from the global generator of numpy.random, but does not declare randomness='global'",
    "notes": "it declares the notes [] and returned ['surprise']",
}


@pytest.mark.parametrize("how", CASES)
def test_an_attack_that_breaks_a_rule_fails_alone_and_is_named(suite, run, toys, how):
    good = suite()["attacks"]
    source = suite(attacks=[{"attack": "toys/rogue", "how": how, "eps": "1/8"}, *good])
    results = run(source, batch_size=8)
    rogue, *others = results.of("Net", "attack")
    (failure,) = rogue.failures
    assert CASES[how] in failure.error
    assert failure.error.startswith("toys/rogue: ")
    assert failure.blame == toys
    assert rogue.n == 0
    assert all(result.is_complete for result in [results.clean("Net"), *others])
    honest = run(suite(), "honest", batch_size=8)
    for mine, theirs in zip([results.clean("Net"), *others], honest.cells, strict=True):
        for name in ("prediction", "margin", "size"):
            np.testing.assert_array_equal(mine.columns[name], theirs.columns[name])


@pytest.mark.parametrize(
    ("attack", "how", "sentence"),
    [
        ("toys/blind", "asks", "the attack declares access='decision' but requested gradient"),
        ("toys/blind", "draws-undeclared", "it draws 'u' from the examples' streams, but does not declare"),
        ("toys/counting", "short-notes", "its note 'count' has shape (1,), not (8,)"),
    ],
)
def test_declarations_are_enforced(suite, run, attack, how, sentence):
    results = run(suite(attacks=[{"attack": attack, "how": how, "eps": "1/8"}]), batch_size=8)
    assert sentence in results.of("Net", "attack")[0].failures[0].error


@pytest.mark.parametrize(
    ("severity", "sentence"), [(1, "torch.float32, not"), (2, "it returned (8, 4, 8, 1) torch.uint8")]
)
def test_a_corruption_must_return_pixels(suite, run, severity, sentence):
    results = run(
        suite(attacks=None, canvas=8, corruptions=[{"corruption": "toys/bad", "severity": severity}]), batch_size=8
    )
    assert sentence in results.of("Net", "corruption")[0].failures[0].error


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("unbuildable", "it cannot be built: ValueError: no such layer"),
        ("not-a-module", "its build returned function, not a torch.nn.Module"),
        ("crashing", "its forward pass failed: RuntimeError: size mismatch in layer 3"),
        ("shape", "it must return logits of shape"),
        ("few-classes", "it gives 2 classes, the data have a label 2"),
    ],
)
def test_a_model_that_does_not_work_fails_and_the_next_one_runs(suite, run, toys, what, sentence):
    models = [{"model": "toys/net", "what": what, "label": "Bad"}, {"model": "toys/net", "label": "Good"}]
    results = run(suite(models=models))
    bad = [result for result in results.cells if result.cell.model.label == "Bad"]
    assert all(sentence in result.failures[0].error and result.failures[0].blame == toys for result in bad)
    assert all(result.is_complete for result in results.cells if result.cell.model.label == "Good")


def test_inputs_of_a_wrong_shape_are_reported_for_the_model(suite, run):
    results = run(suite(models=[{"model": "toys/large", "label": "Large"}]))
    assert (
        "the model takes (1, 16, 16), the data give (1, 8, 8) after preprocessing" in results.cells[0].failures[0].error
    )


def test_logits_that_are_not_numbers_are_stored_counted_and_wrong(suite, run):
    models = [{"model": "toys/net", "label": "Net"}, {"model": "toys/net", "what": "not-numbers", "label": "NaN"}]
    results = run(suite(models=models, attacks=None))
    nan, sane = results.clean("NaN"), results.clean("Net")
    strange = np.isnan(nan.columns["margin"])
    assert 0 < strange.sum() < 40
    assert nan.not_numbers == strange.sum()
    assert (nan.columns["prediction"][strange] == -1).all()
    assert not nan.correct[strange].any()
    np.testing.assert_array_equal(nan.correct[~strange], sane.correct[~strange])


@pytest.mark.parametrize("first", [None, [{"attack": "toys/sign", "eps": "1/8"}]])
def test_a_model_that_is_built_differently_is_refused(suite, run, toys, tmp_path, monkeypatch, first):
    """Neither are cells gone on with, nor are new ones put beside those of another network under the same name."""
    models, attack = [{"model": "toys/net", "what": "drifting", "label": "Net"}], {"attack": "toys/sign", "eps": "1/8"}
    assert run(suite(models=models, attacks=first), limit=None if first is None else 10).is_complete
    monkeypatch.setenv("TOYS_DRIFT", "1")
    grown = run(suite(models=models, attacks=[attack]))
    (sign,) = grown.of("Net", "attack")
    assert "it builds another network than the one whose outcomes are stored" in sign.failures[0].error
    assert sign.n == (0 if first is None else 10)
    alone = api.plan(suite(models=models, attacks=[attack]), plugins=[toys]).only("sign*")
    summary = run_plan(alone, Store(tmp_path / "store"), listeners.Silent())
    assert "it builds another network" in summary.failures[0].error
    monkeypatch.setenv("TOYS_DRIFT", "0")
    assert run(suite(models=models, attacks=[attack])).is_complete


@pytest.mark.parametrize("how", ["writes-logits", "writes-gradient"])
def test_cached_tensors_are_copies(suite, run, how):
    """The clean cell is judged by shared logits, the next attack climbs the shared gradient."""
    good = [{"attack": "toys/sign", "eps": "1/8"}]
    results = run(suite(attacks=[{"attack": "toys/rogue", "how": how, "eps": "1/8"}, *good]), batch_size=8)
    rogue, sign = results.of("Net", "attack")
    assert rogue.is_complete  # what it writes into is its own
    honest = run(suite(attacks=good), "honest", batch_size=8)
    for mine, theirs in zip([results.clean("Net"), sign], honest.cells, strict=True):
        np.testing.assert_array_equal(mine.columns["margin"], theirs.columns["margin"])


def test_access_does_not_depend_on_other_attacks(suite, run):
    blind = {"attack": "toys/blind", "how": "asks-what-is-shared", "eps": "1/8"}
    for attacks in ([blind], [{"attack": "toys/sign", "eps": "1/8"}, blind]):
        results = run(suite(attacks=attacks), f"store-{len(attacks)}")
        assert "declares access='decision' but requested scores" in results.cells[-1].failures[0].error


def test_a_modified_model_is_restored(suite, run):
    good = [{"attack": "toys/climb", "eps": "1/8"}]
    rogues = [{"attack": "toys/rogue", "how": how, "eps": "1/8"} for how in ("halves", "removes")]
    results = run(suite(attacks=[rogues[0], *good, rogues[1]]), batch_size=8)
    halves, climb, removes = results.of("Net", "attack")
    assert "the model's 'convolution.weight'" in halves.failures[0].error
    assert "it changed the parts of the model" in removes.failures[0].error
    honest = run(suite(attacks=good), "honest", batch_size=8)
    for mine, theirs in zip([results.clean("Net"), climb], honest.cells, strict=True):
        np.testing.assert_array_equal(mine.columns["margin"], theirs.columns["margin"])


def test_an_invalid_pass_is_reported_for_the_attack_and_notes_have_types(suite, run):
    attacks = [{"attack": "toys/rogue", "how": "doubles", "eps": "1/8"},
               {"attack": "toys/counting", "how": "no-notes", "eps": "1/8"}]  # fmt: skip
    doubles, notes = run(suite(attacks=attacks), batch_size=8).of("Net", "attack")
    sentence = "toys/rogue: it requested a pass with (8, 1, 8, 8) torch.float64 on cpu; the model takes (N, 1, 8, 8)"
    assert doubles.failures[0].error.startswith(sentence)
    assert "its note 'count' is not of type int" in notes.failures[0].error


def test_a_model_without_gradients_is_evaluated_where_none_are_needed(suite, run):
    source = suite(models=[{"model": "toys/net", "what": "no-gradient", "label": "Net"}], canvas=8,
                   corruptions=[{"corruption": "toys/negative", "severity": 1}])  # fmt: skip
    results = run(source)
    assert results.clean("Net").is_complete
    assert results.of("Net", "corruption")[0].is_complete
    for attack in results.of("Net", "attack"):
        assert attack.failures[0].error == "toys/net: it gives no gradient with respect to its input"


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("random", "its forward pass draws from the global generator of torch, in eval mode"),
        ("counting", "it changes its own buffers when it is called, in eval mode"),
    ],
)
def test_a_model_that_is_no_function_is_refused(suite, run, what, sentence):
    results = run(suite(models=[{"model": "toys/net", "what": what, "label": "Net"}]))
    assert all(sentence in result.failures[0].error for result in results.cells)


def test_a_result_may_lie_only_where_the_spec_declares():
    like = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    elsewhere = like.to("meta")
    with pytest.raises(ContractViolation, match="it returned a tensor on meta, not cpu"):
        referee.checked(elsewhere, like, notes={})
    devices = {like.device, elsewhere.device}
    for returned in (elsewhere, like):
        assert referee.checked(returned, like, notes={}, devices=devices)[0].device == returned.device
