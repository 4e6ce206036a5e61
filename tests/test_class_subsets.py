"""`classes` of a suite's data: logits, attacks and predictions are those of a classifier of these classes alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from partial import CLASSES, PRESENT, Squares, build
from robharness import api
from robharness.cli import main
from robharness.errors import SuiteError
from robharness.evaluation.classifier import Classifier

PLUGIN = str(Path(__file__).parent / "support" / "partial.py")


def suite(classes=None, split="test", **changes):
    chosen = {} if classes is None else {"classes": classes}
    return {
        "robharness": 1,
        "name": "partial",
        "data": {"name": "partial/squares", "split": split, **chosen},
        "models": [{"model": "partial/net", "label": "Net"}],
        "attacks": [{"attack": "partial/step", "eps": "1/8", "eight_bit": True}],
        **changes,
    }


def plan(*arguments, **changes):
    return api.plan(suite(*arguments, **changes), plugins=[PLUGIN])


def findings(planned, code="classes-absent"):
    return [finding for finding in planned.findings if finding.code == code]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results with the classes that occur, and with all, in one store."""
    store = tmp_path_factory.mktemp("store")
    return {name: api.run(suite(name), plugins=[PLUGIN], store=store, batch_size=8) for name in ("present", None)}


def squares(count):
    """The first images as inputs of the network."""
    return torch.from_numpy(Squares(60).images[:count]).permute(0, 3, 1, 2) / 255


def as_published(images):
    """Predictions and confidences as the publishers of ImageNet-A compute them, and the largest logits."""
    outputs = build(None, None)(images)[:, list(PRESENT)]
    return outputs, outputs.max(1)[1], outputs.softmax(1).max(1)[0]


def test_predictions_are_those_of_the_logits_at_the_chosen_indices(results):
    data = Squares(60)
    [clean, attacked] = results["present"].cells
    rows = [int(id.rpartition("-")[2]) for id in clean.columns["example"]]
    images = torch.from_numpy(data.images[rows]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        outputs, predicted, confidence = as_published(images)
    labels = np.array(data.labels)[rows]
    np.testing.assert_array_equal(clean.columns["label"], labels)
    np.testing.assert_array_equal(clean.columns["prediction"], np.array(PRESENT)[predicted])
    np.testing.assert_allclose(clean.columns["confidence"], confidence, rtol=1e-5)
    true = torch.tensor([PRESENT.index(label) for label in labels])
    others = outputs.scatter(1, true[:, None], -torch.inf).amax(1)
    margin = outputs.gather(1, true[:, None])[:, 0] - others
    np.testing.assert_allclose(clean.columns["margin"], margin, atol=1e-5)
    assert clean.accuracy != results[None].cells[0].accuracy
    assert set(attacked.columns["prediction"]) <= set(PRESENT)


def test_attacks_see_the_chosen_classes_alone_and_store_those_of_the_data(results):
    [_, attacked] = results["present"].cells
    assert set(attacked.columns["classes"]) == {len(PRESENT)}
    expected = [PRESENT[(PRESENT.index(label) + 1) % len(PRESENT)] for label in attacked.columns["label"]]
    np.testing.assert_array_equal(attacked.columns["target"], expected)
    rounded = np.asarray(attacked.columns["prediction_8bit"])
    assert set(rounded) <= set(PRESENT)
    np.testing.assert_array_equal(attacked.columns["correct_8bit"], rounded == attacked.columns["label"])
    np.testing.assert_array_equal(
        attacked.columns["success"], attacked.columns["prediction"] == attacked.columns["target"]
    )
    assert set(results[None].cells[1].columns["classes"]) == {CLASSES}


def test_the_gradient_is_that_of_the_chosen_logits():
    net, x = build(None, None), squares(5)
    classifier = Classifier(net, batch_size=4, classes=PRESENT)
    labels = torch.tensor([0, 1, 2, 3, 0])

    def objective(logits, condition):
        return torch.nn.functional.cross_entropy(logits, condition, reduction="none")

    found = classifier.gradient(x, labels, objective)
    leaf = x.clone().requires_grad_(True)
    values = objective(net(leaf)[:, list(PRESENT)], labels)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    torch.testing.assert_close(found.gradient, gradient)
    torch.testing.assert_close(found.values, values.detach())
    assert found.logits.shape == (5, 4) and classifier.classes == 4
    assert classifier.has_same_passes(classifier.with_access("scores"))


def test_classifiers_of_other_classes_have_other_passes():
    """So that a value that is cached for one of them is none of the other."""
    chosen = Classifier(build(None, None), batch_size=4, classes=PRESENT)
    other = chosen.with_access(chosen.access)
    assert chosen.has_same_passes(other)
    other._chosen = None
    assert not chosen.has_same_passes(other) and not other.has_same_passes(chosen)


def test_classes_are_identity_however_they_are_written():
    keys = {str(each): [cell.key for cell in plan(each).cells] for each in (None, "present", "four", [10, 7, 4, 1])}
    assert keys["present"] == keys["four"] == keys["[10, 7, 4, 1]"] != keys["None"]
    assert [cell.key for cell in plan([0, 1, 4, 7, 10]).cells] not in keys.values()


def test_distances_to_the_boundary_are_those_between_the_chosen_classes(tmp_path):
    from robharness.evaluation import heads

    net = build(None, None)
    pairs = heads.pairwise_logit_distances(net, squares(8), "0")
    weights = net[1].weight.detach().double()
    between = torch.cdist(weights[list(PRESENT)], weights[list(PRESENT)])
    np.testing.assert_allclose(pairs[np.ix_(PRESENT, PRESENT)], between, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ("fuor", "data.classes: partial/squares has no classes 'fuor'; there are present, four, halves"),
        ([1, 12], "data.classes: there is no class 12; 'dozen' has 0 to 11"),
        ([1, 1, 4], "data.classes: a class occurs twice"),
        ([4], "data.classes: a classifier needs at least two classes"),
        ([1, -4], "data.classes.1: Input should be greater than or equal to 0"),
        (7, "data.classes: Input should be a valid string or a valid array"),
    ],
)
def test_wrong_classes_are_named(classes, sentence):
    with pytest.raises(SuiteError) as caught:
        plan(classes)
    [error] = caught.value.errors
    assert error.partition(": ")[2].startswith(sentence)


def test_examples_of_other_classes_are_refused():
    [missing] = plan("halves").missing
    assert "has the label 10, such as of 'square-3', which is none of the 3 classes of `classes`" in str(missing)


def test_absent_classes_are_a_warning_unless_chance_explains_them():
    [finding] = findings(plan())
    assert (finding.severity, finding.subject) == ("warning", "partial/squares/test")
    assert "4 of the 12 classes of 'dozen'" in finding.message
    assert finding.hint.endswith("write `classes: four` in `data:`")
    assert not findings(plan("present"))
    assert not findings(plan(split="few"))
    limited = plan(data={"name": "partial/squares", "split": "test", "limit": 5})
    assert len(findings(limited)) == 1  # the whole split lacks them, whatever the limit


def test_a_model_with_too_few_outputs_for_the_chosen_classes_fails():
    classifier = Classifier(build(None, None), batch_size=4, classes=(1, 40))
    with pytest.raises(Exception, match="it gives 12 classes, and logits are restricted to some up to 40"):
        classifier.logits(torch.zeros(4, 1, 4, 4))


def test_exported_examples_have_the_labels_of_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("suite.yaml").write_text(json.dumps(suite("four")))
    assert main(["export-adversarial", "suite.yaml", "-p", PLUGIN, "--store", "store", "-o", "out"]) == 0
    files = sorted(Path("out").rglob("*.npz"))
    with np.load(files[0]) as part:
        assert set(part["labels"].tolist()) == set(PRESENT)
        assert set(part["predictions"].tolist()) <= set(PRESENT)
