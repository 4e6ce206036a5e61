"""Gradients of a lower precision, and compiled passes: the verdict is the judge's, and clean cells are as they were."""

import numpy as np
import pytest
import torch
from torch import nn

from robharness import api
from robharness.evaluation import probe
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier

REAL = [{"model": "teams/net", "label": "Real"}]
ASCEND = [{"attack": "teams/ascend", "eps": ["1/16", "1/8"]}]
ROUGH = {"judge": "float32", "gradient": "bfloat16"}


def test_gradients_have_low_precision_and_verdicts_full_precision(suite, run):
    fine = run(suite(models=REAL, attacks=ASCEND), "fine", batch_size=8)
    low_precision = run(suite(models=REAL, attacks=ASCEND, precision=ROUGH), "rough", batch_size=8)
    assert [c.cell.key == r.cell.key for c, r in zip(fine.cells, low_precision.cells, strict=True)] == [
        True,
        False,
        False,
    ]
    [clean, *attacked], [same, *others] = fine.cells, low_precision.cells
    for name in ("margin", "logit_range", "prediction"):
        assert clean.columns[name].tolist() == same.columns[name].tolist()
    for one, other in zip(attacked, others, strict=True):
        sizes, rough_sizes = one.columns["gradient"], other.columns["gradient"]
        assert sizes.tolist() != rough_sizes.tolist()
        assert np.median(np.abs(rough_sizes / sizes - 1)) < 0.05
    [entry] = others[0].provenance
    assert (entry["precision"], entry["gradient_precision"]) == ("float32", "bfloat16")
    assert "gradient_precision" not in attacked[0].provenance[0]


class Felt(nn.Module):
    """Multiplies in whatever precision it is asked to."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.head.weight.data = torch.arange(12.0).reshape(3, 4) / 7
        self.head.bias.data.zero_()

    def forward(self, x):
        return self.head(x.flatten(1))


def classifier(**options):
    made = Classifier(Felt(), batch_size=4, **options)
    probe.probe(made, (1, 2, 2))
    return made


X = torch.arange(40.0).reshape(10, 1, 2, 2) / 41
LABELS = torch.arange(10) % 3


def first(logits, labels):
    return logits[:, 0]


def test_verdicts_are_computed_for_the_selected_rows_only():
    low_precision, fine = classifier(gradient_dtype=torch.bfloat16), classifier()
    found, exact = low_precision.gradient(X, LABELS, first), fine.logits(X)
    assert found.logits.dtype == found.gradient.dtype == torch.float32
    assert not torch.equal(found.logits, exact) and torch.allclose(found.logits, exact, rtol=0.02)
    rows, before = torch.tensor([False, True] * 3 + [False] * 4), low_precision.passes["forward"]
    judged = low_precision.full_precision_logits(X, found.logits, rows)
    assert torch.equal(judged[rows], exact[rows]) and torch.equal(judged[~rows], found.logits[~rows])
    assert low_precision.passes["forward"] == before + 1
    assert low_precision.full_precision_logits(X, found.logits, rows & False) is found.logits
    assert low_precision.passes["forward"] == before + 1
    seen = fine.gradient(X, LABELS, first).logits
    assert fine.full_precision_logits(X, seen, rows) is seen


def test_clean_logits_never_come_from_a_low_precision_pass():
    """Not even of a network whose probe shows no difference: other inputs may."""

    class Sometimes(Felt):
        def forward(self, x):
            return super().forward(x) if bool((x > 5).all()) else x.flatten(1)

    made = Classifier(Sometimes(), batch_size=4, gradient_dtype=torch.bfloat16)
    probe.probe(made, (1, 2, 2))
    batch = Batch(list("abcd"), X[:4] + 6, LABELS[:4])
    low_precision = batch.gradient(made, first).logits
    assert torch.equal(batch.logits(made), made.logits(batch.x)) and not torch.equal(batch.logits(made), low_precision)


def test_compiled_passes_give_the_same_verdicts_under_other_keys(suite, run, teams):
    """Needs a C++ compiler."""
    plain = run(suite(models=REAL, attacks=ASCEND[:1]), "plain", batch_size=8, limit=16)
    compiled = run(suite(models=REAL, attacks=ASCEND[:1], compile=True), "compiled", batch_size=8, limit=16)
    for one, other in zip(plain.cells, compiled.cells, strict=True):
        assert one.cell.key != other.cell.key and other.cell.identity["compile"] is True
        assert not other.failures
        assert one.columns["prediction"].tolist() == other.columns["prediction"].tolist()
        assert one.columns["margin"].tolist() == pytest.approx(other.columns["margin"].tolist(), rel=1e-3, abs=1e-4)
    assert [compiled.cells[0].provenance[0].get("compiled"), plain.cells[0].provenance[0].get("compiled")] == [
        True,
        None,
    ]


def test_one_word_of_precision_keeps_its_keys(suite, teams):
    """Keys of before there was a record of two."""

    def keys(precision):
        return [cell.key for cell in api.plan(suite(precision=precision), plugins=teams).cells]

    assert keys("float32") == keys({"judge": "float32"}) == keys({"gradient": "same"}) != keys("tf32")
    identities = [cell.identity["precision"] for cell in api.plan(suite(precision=ROUGH), plugins=teams).cells]
    assert identities[:2] == ["float32", {"judge": "float32", "gradient": "bfloat16"}]
