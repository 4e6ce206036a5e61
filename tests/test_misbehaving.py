"""Attacks that misbehave fail alone, or do no harm: all other cells have the outcomes of a run without them."""

from __future__ import annotations

import runpy
import signal
from pathlib import Path

import numpy as np
import pytest

from robharness import api
from robharness.interrupts import raise_interrupt
from sharing import made_once

PLUGINS = [str(Path(__file__).parent / name) for name in ("toys.py", "misbehaving.py")]
CALLS = runpy.run_path(PLUGINS[1])["CALLS"]

HARMLESS = ("masks_logits", "writes_data", "writes_in_objective", "writes_later", "writes_selections",
            "writes_into_cache", "shares_of_a_wrapper", "shares_under_autocast", "reuses_a_buffer",
            "returns_a_view", "returns_a_parameter")  # fmt: skip
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


def test_a_buffer_that_an_attack_fills_again_is_copied(found):
    cell = misbehaved(found, "reuses_a_buffer")
    np.testing.assert_allclose(cell.columns["size"], 2**-4, atol=1e-6)


def test_options_that_an_attack_changes_are_its_own(found):
    assert all(each.cell.perturbation.params.layers == [] for each in found.of("Net", "attack")
               if hasattr(each.cell.perturbation.params, "layers"))  # fmt: skip
