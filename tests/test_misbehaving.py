"""Attacks that misbehave fail alone, or do no harm: all other cells have the outcomes of a run without them."""

from __future__ import annotations

import os
import runpy
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from robharness import api
from robharness.evaluation import referee
from robharness.interrupts import raise_interrupt
from robharness.report import build
from robharness.specs import NORMS
from sharing import made_once

PLUGINS = [str(Path(__file__).parent / name) for name in ("toys.py", "misbehaving.py")]
CALLS = runpy.run_path(PLUGINS[1])["CALLS"]

HARMLESS = (
    "masks_logits", "writes_data", "writes_in_objective", "writes_later", "writes_selections",
    "writes_into_cache", "moves", "changes_for_a_while", "writes_into_a_function_cache", "ends_a_fork",
    "shares_of_a_wrapper", "shares_under_autocast", "reuses_a_buffer", "returns_a_view", "returns_a_parameter",
)  # fmt: skip
"""Calls that are allowed: what they write into is their own."""

FAILED = {
    "sets_x": "it sets `x` of the batch. Try: a variable of its own",
    "sets_labels": "it sets `labels` of the batch",
    "sets_labels_of_a_selection": "it sets `labels` of the batch",
    "writes_x": "it changed the batch's input",
    "writes_labels": "it changed the batch's labels",
    "adds_hook": "it changed the hooks of the model below 'first'",
    "adds_hook_of_all_modules": "it changed hooks of all modules",
    "replaces_forward": "it changed the model's 'forward'",
    "replaces_forward_of_the_class": "Net.forward",
    "replaces_forward_of_torch": "it changed the class Linear.forward",
    "replaces_a_function_of_torch": "it changed torch.nn.functional.relu",
    "sets_a_number": "it changed the model's 'scale'",
    "sets_an_item": "it changed the model's 'factors'",
    "sets_a_key": "it changed the model's 'options.sign'",
    "writes_an_array": "it changed the model's 'shift'",
    "writes_a_plain_tensor": "it changed the model's 'memory'",
    "writes_hidden_weights": "it changed the model's 'hidden[0].weight'",
    "replaces_a_part": "it changed the parts of the model",
    "sets_a_global": "it changed the model's 'GLOBALS'",
    "sets_a_default": "it changed the model's 'scaled[0]'",
    "sets_an_attribute_of_the_class": "Net.offsets'",
    "sets_an_attribute_of_a_parameter": "it changed the model's 'parameters.scale'",
    "replaces_a_class": "it changed the model's 'first.__class__'",
    "replaces_a_method_of_the_core": "it changed Classifier.logits",
    "sets_the_recursion_limit": "it changed the recursion limit",
    "sets_dtype": "it changed the default dtype",
    "sets_device": "it changed functions that intercept torch, or the default device",
    "turns_autocast_on": "it changed autocast",
    "turns_gradients_off": "it changed whether gradients are recorded",
    "intercepts_torch": "it changed functions that intercept torch",
    "changes_folder": "it changed the working directory",
    "changes_environment": "it changed os.environ['ROBHARNESS_DATA']",
    "replaces_stdout": "it changed sys.stdout",
    "ignores_ctrl_c": "it changed the handler of SIGINT",
    "makes_warnings_errors": "it changed the filters of warnings",
    "returns_sparse": "it returned a tensor of layout sparse_coo, not a plain, dense tensor",
    "returns_quantised": "it returned a quantised tensor, not a plain, dense tensor",
    "returns_nested": "it returned a tensor of layout nested, not a plain, dense tensor",
    "returns_meta": "it returned a tensor on meta, not cpu",
    "returns_complex": "it returned a complex tensor, not a plain, dense tensor",
    "returns_a_liar": "it returned Liar, not a plain, dense tensor",
    "returns_strange_notes": "it raised SystemExit: 0",
    "raises_exit": "it raised SystemExit: 0",
    "raises_cancelled": "it raised CancelledError",
    "raises_interrupt": "it raised KeyboardInterrupt",
    "raises_end_of_generator": "it raised GeneratorExit",
    "raises_stop": "it raised StopIteration",
    "raises_unprintable": "it raised Unprintable, whose text cannot be printed",
    "raises_of_data": "the data are broken",
}


def suite(*, misbehave):
    """Every call, and after each an honest attack of a budget of its own."""
    attacks = []
    for number, how in enumerate(CALLS, 1):
        attacks += [{"attack": "misbehaving/a", "how": how, "eps": "1/16"}] * misbehave
        attacks.append({"attack": "toys/sign", "eps": f"{number}/512"})
    data = {"name": "toys/pixels", "split": "test"}
    models = [{"model": "misbehaving/net", "label": "Net"}]
    return {"robharness": 1, "name": "misbehaving", "data": data, "models": models, "attacks": attacks}


def made(tmp_path_factory, *, misbehave):
    def run(store):
        before = signal.signal(signal.SIGINT, raise_interrupt)  # as the command line sets it
        api.run(suite(misbehave=misbehave), store=store, plugins=PLUGINS, batch_size=8)
        assert signal.signal(signal.SIGINT, before) is raise_interrupt

    store = made_once(tmp_path_factory, f"misbehaving-{misbehave}", run)
    return api.load(suite(misbehave=misbehave), store=store, plugins=PLUGINS)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return made(tmp_path_factory, misbehave=True)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return made(tmp_path_factory, misbehave=False)


def misbehaved(results, how):
    [cell] = [each for each in results.of("Net", "attack") if f"how={how}" in each.cell.short_name.replace(")", ",")
              and each.cell.perturbation.params.how == how]  # fmt: skip
    return cell


def test_every_call_has_an_expectation():
    assert set(CALLS) == {*HARMLESS, *FAILED}


@pytest.mark.parametrize("how", HARMLESS)
def test_a_call_that_writes_into_its_own_copies_is_allowed(found, how):
    assert misbehaved(found, how).is_complete


@pytest.mark.parametrize("how", FAILED)
def test_a_call_that_misbehaves_fails_and_is_named(found, how):
    cell = misbehaved(found, how)
    assert cell.n == 0 and FAILED[how] in cell.failures[0].error
    assert cell.failures[0].error.startswith("misbehaving/a: ")
    assert cell.failures[0].blame == PLUGINS[1]


def test_other_cells_have_the_outcomes_of_a_run_without_them(found, honest):
    mine = [each for each in found.cells if each.cell.kind == "clean" or "sign" in each.cell.short_name]
    assert len(mine) == len(honest.cells) == 1 + len(CALLS)
    for one, other in zip(mine, honest.cells, strict=True):
        assert one.cell.key == other.cell.key and one.is_complete
        for name in ("prediction", "margin", "size"):
            np.testing.assert_array_equal(one.columns[name], other.columns[name], err_msg=one.cell.short_name)


@pytest.mark.parametrize(
    "how", ["shares_under_autocast", "shares_of_a_wrapper", "writes_in_objective", "changes_for_a_while"]
)
def test_what_cells_share_is_right_although_the_first_attack_computes_it_strangely(tmp_path, honest, how):
    attacks = [{"attack": "misbehaving/a", "how": how, "eps": "1/16"}, {"attack": "toys/sign", "eps": "1/512"}]
    found = api.run({**suite(misbehave=False), "attacks": attacks}, store=tmp_path, plugins=PLUGINS, batch_size=8)
    sign = next(each for each in honest.cells if each.cell.key == found.cells[-1].cell.key)
    same_outcomes(found.clean("Net"), honest.clean("Net"))
    same_outcomes(found.cells[-1], sign)


def test_a_buffer_that_an_attack_fills_again_is_copied(found):
    same_outcomes(misbehaved(found, "reuses_a_buffer"), misbehaved(found, "moves"))
    like = torch.full((2, 1, 4, 4), 0.5)
    buffer = like.clone()
    judged, _, _ = referee.checked(buffer, like, notes={}, eps=0.1, measure=NORMS["linf"])
    buffer.zero_()  # as the next call of the attack would fill it
    assert torch.equal(judged, like)


def test_options_that_an_attack_changes_are_its_own(tmp_path):
    attack = {"attack": "misbehaving/a", "how": "moves", "eps": "1/16"}
    found = api.run({**suite(misbehave=False), "attacks": [attack]}, store=tmp_path, plugins=PLUGINS)
    assert found.cells[-1].is_complete and found.cells[-1].cell.perturbation.params.layers == []


# --- models and data --------------------------------------------------------------------------------------------------

RAISED = {
    "exit": "SystemExit: 0",
    "cancelled": "CancelledError",
    "interrupt": "KeyboardInterrupt",
    "end_of_generator": "GeneratorExit",
    "stop": "StopIteration",
    "unprintable": "Unprintable, whose text cannot be printed",
}
PREFIXES = {
    "build": "misbehaving/m: it cannot be built: ",
    "forward": "misbehaving/m: its forward pass failed: ",
    "backward": "misbehaving/m: its backward pass failed: ",
}
PUT_BACK = {"folder": "the working directory", "environment": "os.environ['ROBHARNESS_DATA']"}
LABELS = [f"{at} {how}" for at in PREFIXES for how in (*RAISED, *PUT_BACK)]


@pytest.fixture(scope="module")
def of_models(tmp_path_factory):
    """Every misbehaviour of a model beside a model that behaves."""
    models = [{"model": "misbehaving/m", "at": label.split()[0], "how": label.split()[1], "label": label}
              for label in [*LABELS, "forward writes-sometimes", "forward one-buffer", "forward nothing"]]  # fmt: skip
    source = {**suite(misbehave=False), "models": models, "attacks": [{"attack": "toys/sign", "eps": "1/8"}]}

    def run(store):
        before = signal.signal(signal.SIGINT, raise_interrupt)
        folder, data_folder = Path.cwd(), os.environ.get("ROBHARNESS_DATA")
        api.run(source, store=store, plugins=PLUGINS, batch_size=8)
        assert signal.signal(signal.SIGINT, before) is raise_interrupt
        assert (Path.cwd(), os.environ.get("ROBHARNESS_DATA")) == (folder, data_folder)

    return api.load(source, store=made_once(tmp_path_factory, "misbehaving-models", run), plugins=PLUGINS)


def same_outcomes(one, other):
    for name in ("prediction", "margin", "size"):
        np.testing.assert_array_equal(one.columns[name], other.columns[name])


@pytest.mark.parametrize("label", [label for label in LABELS if label.split()[1] in RAISED])
def test_whatever_a_model_raises_is_its_failure(of_models, label):
    at, how = label.split()
    clean, [sign] = of_models.clean(label), of_models.of(label, "attack")
    for cell in [sign] if at == "backward" else [clean, sign]:
        assert cell.n == 0 and cell.failures[0].error == PREFIXES[at] + RAISED[how]
    if at == "backward":
        same_outcomes(clean, of_models.clean("forward nothing"))


@pytest.mark.parametrize("label", [label for label in LABELS if label.split()[1] in PUT_BACK])
def test_what_a_model_changes_in_the_process_is_put_back_and_named(of_models, label):
    at, how = label.split()
    clean, [sign] = of_models.clean(label), of_models.of(label, "attack")
    same_outcomes(clean, of_models.clean("forward nothing"))
    if at != "build":  # an attack cannot be told from the model that it calls
        assert sign.is_complete or PUT_BACK[how] in sign.failures[0].error
    notes = [each for each in build(of_models).findings if each.code == "state-restored"]
    assert {each.severity for each in notes} == {"note"} and {each.subject for each in notes} == {"misbehaving/m"}
    assert any(PUT_BACK[how] in each.message for each in notes)


@pytest.mark.parametrize("label", ["forward writes-sometimes", "forward one-buffer"])
def test_memory_that_a_model_writes_into_is_no_ones_input(of_models, label):
    cells = [of_models.clean(label), *of_models.of(label, "attack")]
    honest = [of_models.clean("forward nothing"), *of_models.of("forward nothing", "attack")]
    assert all(cell.is_complete for cell in cells)
    for one, other in zip(cells, honest, strict=label.endswith("buffer")):
        if label.endswith("buffer") or one.cell.kind == "clean":
            same_outcomes(one, other)


def test_a_data_set_that_returns_one_buffer_for_all_examples_fails(tmp_path):
    found = api.run({**suite(misbehave=False), "data": {"name": "misbehaving/pixels", "split": "one-buffer"},
                     "attacks": [{"attack": "toys/sign", "eps": "1/8"}]}, store=tmp_path, plugins=PLUGINS)  # fmt: skip
    sentence = "misbehaving/pixels: its `read` returns the memory of the example before. Try: return a copy"
    assert all(cell.n == 0 and cell.failures[0].error.startswith(sentence) for cell in found.cells)


@pytest.mark.parametrize("how", [*RAISED, *PUT_BACK])
def test_whatever_a_data_set_raises_or_changes_is_its_own(tmp_path, how, monkeypatch):
    before = signal.signal(signal.SIGINT, raise_interrupt)
    folder, data_folder = Path.cwd(), os.environ.get("ROBHARNESS_DATA")
    data = {"name": "misbehaving/pixels", "split": how}
    try:
        found = api.run({**suite(misbehave=False), "data": data, "attacks": [{"attack": "toys/sign", "eps": "1/8"}]},
                        store=tmp_path, plugins=PLUGINS)  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert (Path.cwd(), os.environ.get("ROBHARNESS_DATA")) == (folder, data_folder)
    if how in RAISED:
        assert {cell.failures[0].error for cell in found.cells} == {f"misbehaving/pixels: {RAISED[how]}"}
    else:
        assert found.is_complete
        notes = [each for each in build(found).findings if each.code == "state-restored"]
        assert [each.subject for each in notes] == ["misbehaving/pixels"] and PUT_BACK[how] in notes[0].message
