"""Models in unusual forms: they are measured rightly, or fail by themselves with a sentence that says what to do."""

import re
from pathlib import Path

import pytest
import torch

from robharness import api, discover
from robharness.errors import UserError
from robharness.report import build
from robharness.verify import verify
from sharing import made_once

TOYS, ODD = (str(Path(__file__).parent / name) for name in ("toys.py", "odd_models.py"))


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """The results of one run of all models, each beside all others."""
    suite = {
        "robharness": 1,
        "name": "odd",
        "data": {"name": "toys/pixels", "split": "test"},
        "models": [{"model": "odd_models/*"}],
        "attacks": [{"attack": "toys/sign", "eps": "1/8"}, {"attack": "toys/blind", "eps": "1/8"}],
        "corruptions": [{"corruption": "toys/speckle", "severity": 1}],
        "canvas": 8,
    }

    def run(store):
        before = Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled()
        api.run(suite, store=store, plugins=[TOYS, ODD])
        assert (Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled()) == before

    return api.load(suite, store=made_once(tmp_path_factory, "odd-models", run), plugins=[TOYS, ODD])


def cell(found, model, what):
    label = f"odd_models/{model}"
    cells = [each for each in found.cells if each.cell.model.label == label]
    return next(each for each in cells if each.cell.what.startswith(what))


def failures(found, model, what="clean"):
    return [str(failure) for failure in cell(found, model, what).failures]


def outcomes(found, model, what):
    result = cell(found, model, what)
    assert result.is_complete, failures(found, model, what)
    return [result.columns[name].tolist() for name in ("prediction", "correct", "margin")]


EVERY = ("clean", "sign", "blind", "speckle")
MEASURED = ("scripted", "frozen", "traced", "old-weight-norm", "modes-changed", "no-deepcopy")


@pytest.mark.parametrize("model", MEASURED)
@pytest.mark.parametrize("what", EVERY)
def test_a_network_in_another_form_has_the_same_outcomes(found, model, what):
    assert outcomes(found, model, what)[:2] == outcomes(found, "exact", what)[:2]


NO_GRADIENT = {
    "without-gradients": "it gives no gradient with respect to its input",
    "by-numpy": "its pass that records gradients failed: RuntimeError: Can't call numpy()",
    "backward-fails": "its backward pass failed: RuntimeError: one of the variables needed for gradient",
    "other-function-with-gradients": "where gradients are recorded",
    "gradient-of-neighbours": "its gradient for an example depends on the other examples of the pass, by ",
    "halved-by-data": "it writes into its input where autograd does not record it",
}


@pytest.mark.parametrize("model", NO_GRADIENT)
def test_a_gradient_that_fails_costs_gradient_attacks_alone(found, model):
    reference = "halved" if model == "halved-by-data" else "exact"
    for what in ("clean", "blind", "speckle"):
        assert outcomes(found, model, what) == outcomes(found, reference, what)
    [sentence] = failures(found, model, "sign")
    assert sentence.startswith(f"odd_models/{model}: ") and NO_GRADIENT[model] in sentence


FAILED = {
    "softmax-over-batch": r"depend on the other examples of the pass, by 0\.\d+ of their range\. Usual causes: BatchN",
    "batch-statistics": r"depend on the other examples of the pass, by 0\.\d+ of their range",
    "brightest": r"depend on the other examples of the pass, by \d",
    "number-of-rows": r"depend on the number of examples in a pass, by ",
    "complex-logits": r"it must return logits of shape \(\d+, classes\) on cpu, it returned a complex tensor",
    "no-classes": r"it must return logits of shape \(\d+, classes\) on cpu, it returned \(\d+, 0\)",
    "on-meta": r"it must return logits of shape \(\d+, classes\) on cpu, it returned .* on meta",
    "hidden-norm": r"of their range\. Its 'members\[0\]' is in training mode.* Try: torch\.nn\.ModuleList",
    "hidden-dropout": r"draws from the global generator of torch, in eval mode\. Its 'members\[0\]' is in training",
    "exits": r": SystemExit: 0 \(",
    "sets-autocast": r"its forward pass changes modes of torch",
    "sets-default-dtype": r"its forward pass changes modes of torch",
    "too-large": r"its float64 logits are too large for float32",
    "trains": r"its forward pass changes its eval mode",
    "counting": r"its logits change from one call to the next, by .* its forward pass keeps a state",
    "quantised": r"depend on the other examples of the pass, .* or dynamic quantisation",
    "no-to": r"it cannot be prepared: RuntimeError: no to \(",
    "no-eval": r"it cannot be prepared: RuntimeError: no eval \(",
    "no-named-parameters": r"it cannot be prepared: RuntimeError: no named_parameters \(",
    "no-named-modules": r"it cannot be prepared: RuntimeError: no named_modules \(",
    "no-forward": r"its forward pass failed: RuntimeError: no forward \(",
}


@pytest.mark.parametrize("model", FAILED)
def test_a_model_that_cannot_be_measured_fails_by_itself(found, model):
    for what in EVERY:
        [sentence] = failures(found, model, what)
        assert sentence.startswith(f"odd_models/{model}: ")
        assert re.search(FAILED[model], sentence), sentence


def test_a_network_that_writes_into_its_input_is_measured_on_copies(found):
    half = discover([TOYS, ODD]).models["odd_models/exact"].spec.build(None, None)
    images = found.plan.data.dataset
    x = torch.stack([torch.from_numpy(images.read(i)).permute(2, 0, 1) / 255 for i in found.plan.data.order]).float()
    with torch.no_grad():
        expected = half(x / 2).argmax(1).tolist()
    assert outcomes(found, "halved", "clean")[0] == expected
    assert outcomes(found, "halved", "sign")[0] != expected
    notes = [note for note in build(found).findings if note.code == "input-written"]
    assert {note.subject for note in notes} == {f"odd_models/{name}" for name in ("halved", "halved-by-data", "clamps")}
    assert {note.severity for note in notes} == {"note"}


def test_a_write_that_changes_no_value_is_measured_on_copies_too(found):
    for what in ("clean", "blind", "speckle"):  # at 0 and 1, the gradient of clamp is 0
        assert outcomes(found, "clamps", what) == outcomes(found, "exact", what)


def test_a_hook_that_mixes_the_gradients_of_examples_is_found(found):
    assert cell(found, "averaged-gradient", "clean").is_complete
    assert (
        "its gradient for an example depends on the other examples" in failures(found, "averaged-gradient", "sign")[0]
    )


def test_rounding_is_a_note_that_says_how_large_it_is(found):
    assert outcomes(found, "last-bits", "clean")[0] == outcomes(found, "exact", "clean")[0]
    [note] = [each for each in build(found).findings if each.code == "inexact-passes" and "last-bits" in each.subject
              and "logits depend" in each.message]  # fmt: skip
    assert note.severity == "note" and note.hint == "nothing needs doing"
    assert 1e-8 < float(note.message.split(" by ")[1].split()[0]) < 3e-6
    assert str(note) in build(found).notes and str(note) not in build(found).warnings


def test_logits_that_are_no_numbers_depend_on_no_neighbour(found):
    assert cell(found, "not-numbers", "clean").is_complete
    assert not [each for each in build(found).findings if each.subject == "odd_models/not-numbers"
                and each.code == "inexact-passes"]  # fmt: skip


def test_more_outputs_than_classes_are_a_warning(found):
    assert outcomes(found, "more-outputs", "clean")[0] == outcomes(found, "exact", "clean")[0]
    [warning] = [each for each in build(found).findings if each.code == "more-outputs-than-classes"]
    assert (warning.subject, warning.severity) == ("odd_models/more-outputs", "warning")
    assert warning.message.startswith("it has 5 outputs, and the data have 3 classes;")


def test_rounding_of_half_precision_is_allowed(found):
    assert cell(found, "in-half", "clean").is_complete


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("softmax-over-batch", "depend on the other examples"), ("no-to", "it cannot be prepared: RuntimeError: no to")],
)
def test_verify_says_the_same(model, sentence, tmp_path):
    registry = discover([TOYS, ODD])
    with pytest.raises(UserError, match=sentence):
        verify(f"odd_models/{model}", {}, registry, store=tmp_path, data_root=tmp_path, data="toys/pixels/test")
