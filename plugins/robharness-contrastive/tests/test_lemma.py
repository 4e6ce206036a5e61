"""The experiment on Lemma 5.1: shares of false negatives, cosines of every epoch, and their table."""

from __future__ import annotations

import csv
import io
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from robharness import UserError
from robharness_contrastive import curves, loop, losses, params
from robharness_contrastive.contrast import Contrast
from robharness_contrastive.objectives import Context, TrainingStep
from robharness_contrastive.options import SimCLR
from robharness_contrastive.removal import Removal
from robharness_contrastive.replacement import injected

B, D, CLASSES = 6, 4, 3
CONTEXT = Context(examples=64, classes=CLASSES, batch=B, epochs=10, shape=(1, 4, 4))
LABELS = torch.tensor([0, 1, 2, 0, 0, 1])
STEP = TrainingStep(epoch=0, epochs=10, step=0, steps=100, batch=B)


def unit_rows(n, seed=0):
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D))), dim=1)


def made(rate=None, **options):
    return Contrast(0.5, Removal(**options), CLASSES, context=CONTEXT, false_negatives=rate)


# --- false negatives ---


def test_a_share_of_false_negatives_by_hand():
    """Two anchors, one positive, and four negatives, of which a half becomes false. The second anchor has no class."""
    similarity = torch.tensor([[2, 8, 1, 3, 4], [5, 7, 2, 2, 9]], dtype=torch.float64).log()
    positives = torch.tensor([[True] + [False] * 4] * 2)
    is_same_class = torch.tensor([[True, True, False, False, False], [True, False, False, False, False]])
    found = losses.contrastive(*injected(similarity, losses.Pairs(positives, ~positives), is_same_class, 0.5)).exp()
    first = (2 + 2 * 8 + 2 * (1 + 3 + 4) / 3) / 2
    assert found.tolist() == pytest.approx([first, (5 + 7 + 2 + 2 + 9) / 5], abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.36, 0.37, 0.45, 0.6, 1.0])
def test_the_share_is_exact_and_the_number_of_negatives_stays(rate):
    """Cosines are 1 within a class and 0 else: the sum has e^(1/T) times (1 + m) and N - m, as in the lemma's proof."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    z = torch.eye(D, dtype=torch.float64)[labels].repeat(2, 1)
    contrast = made(rate)
    removed = contrast.choose(z, labels, STEP)
    assert float(removed.notes["injected"]) == pytest.approx(rate) and removed.mask is None
    n, near = 2 * B - 2, math.exp(1 / 0.5)
    expected = math.log(near * (1 + rate * n) + (1 - rate) * n) - 1 / 0.5
    assert contrast.loss(z, labels, removed).tolist() == pytest.approx([expected] * 2 * B, abs=1e-12)


def test_no_false_negatives_are_those_of_the_oracle_with_weights():
    z = unit_rows(2 * B)
    oracle = made(strategy="oracle", replace="reweight")
    expected = oracle.loss(z, LABELS, oracle.choose(z, LABELS, STEP))
    torch.testing.assert_close(made(0.0).loss(z, LABELS, made(0.0).choose(z, LABELS, STEP)), expected)


def test_the_share_that_the_data_have_changes_nothing():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    z = unit_rows(2 * B)
    share, plain = made(2 / (2 * B - 2)), made()
    expected = plain.loss(z, labels, plain.choose(z, labels, STEP))
    torch.testing.assert_close(share.loss(z, labels, share.choose(z, labels, STEP)), expected)


def test_anchors_without_a_false_negative_are_noted():
    """The one image of class 2 cannot have any: the mean share is lower than the rate."""
    z = unit_rows(2 * B)
    notes = made(0.3).choose(z, LABELS, STEP).notes
    assert float(notes["injected"]) == pytest.approx(0.3 * 5 / 6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradients_are_finite_and_reach_false_negatives_if_there_are_any(rate):
    z, contrast = unit_rows(2 * B).requires_grad_(True), made(rate)
    [moved] = torch.autograd.grad(contrast.loss(z, LABELS, contrast.choose(z, LABELS, STEP))[0], z)
    assert moved.isfinite().all()
    assert [bool(row.any()) for row in moved] == [
        column % B == 0 or rate > 0 or int(LABELS[column % B]) != 0 for column in range(2 * B)
    ]


@pytest.mark.parametrize(("wrong", "why"), [
    ({"false_negatives": 1.2}, r"false_negatives=1.2 must be a share, from 0 to 1"),
    ({"false_negatives": 0.2, "removal": Removal(strategy="recall")},
     r"cannot be added and removed \(recall\) in one training. Try: `false_negatives: null`"),
])  # fmt: skip
def test_invalid_shares_are_refused(wrong, why):
    with pytest.raises(ValueError, match=why):
        SimCLR(**wrong)


# --- cosines ---


def test_mean_cosines_are_those_of_all_pairs():
    z = unit_rows(2 * B)
    found = {"positive": [], "same_class": [], "other_class": []}
    for first in range(2 * B):
        for second in range(2 * B):
            if first % B == second % B:
                kind = "positive"
            else:
                kind = "same_class" if LABELS[first % B] == LABELS[second % B] else "other_class"
            if first != second:
                found[kind].append(float(z[first] @ z[second]))
    expected = {kind: np.mean(values) for kind, values in found.items()}
    assert {kind: float(mean) for kind, mean in made().cosines(z, LABELS).items()} == pytest.approx(expected)
    alone = made().cosines(z, torch.arange(B))
    assert float(alone["same_class"]) == 0 and float(made().cosines(z, torch.zeros(B))["other_class"]) == 0


# --- the table ---

BARS = {"data": "bars/bars", "input": (1, 16, 16), "labels": "bars", "classes": 4, "epochs": 3, "batch": 32,
        "augmentation": "digits", "probe": None}  # fmt: skip


@pytest.fixture
def store(tmp_path, job):
    """A store with two trainings, as the core files them."""
    for name, rate in (("a", None), ("b", 0.6)):
        training = job(params.SimCLR(**BARS, false_negatives=rate), name)
        loop.train(training)
        folder = tmp_path / "store" / "artefacts" / name
        shutil.copytree(training.folder, folder)
        option = "" if rate is None else f'"false_negatives": {rate}'
        (folder / "recipe.json").write_text(f'{{"model": "contrastive/simclr", "seed": 0, "params": {{{option}}}}}')
        (folder / "provenance.json").write_text(f'{{"label": "label {name}"}}')
    return tmp_path / "store"


def test_every_epoch_is_a_line_of_the_table(store):
    found = CliRunner().invoke(curves.main, [str(store), "--option", "false_negatives"])
    assert found.exit_code == 0, found.output
    lines = list(csv.DictReader(io.StringIO(found.output)))
    assert [(line["label"], line["epoch"]) for line in lines] == [
        (f"label {name}", str(epoch)) for name in "ab" for epoch in (1, 2, 3)
    ]
    assert [line["false_negatives"] for line in lines] == [""] * 3 + ["0.6"] * 3
    for line in lines:
        assert line["model"] == "contrastive/simclr" and line["stage"] == "encoder"
        assert -1 <= float(line["other_class"]) < float(line["positive"]) <= 1
        assert float(line["same_class"]) < float(line["positive"])
    chosen = CliRunner().invoke(curves.main, [str(store), "--label", "* b"])
    assert chosen.output.count("label b") == 3 and "label a" not in chosen.output


def test_a_table_of_nothing_is_an_error(store):
    found = CliRunner().invoke(curves.main, [str(store), "--label", "other"])
    assert found.exit_code == 1
    assert f"no trained model with a label 'other'. Try: robharness list artefacts --store {store}" in found.output
    path = store / "artefacts" / "a" / "metrics.jsonl"
    path.write_text(path.read_text() + "{")
    with pytest.raises(UserError, match=rf"line 4 of {path} is no JSON object. Try: rm -r .*, and train again"):
        list(curves.rows(store))
