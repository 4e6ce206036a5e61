"""Confidences and probabilities of the true class, against SciPy; strange logits; skipped examples."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from robharness.evaluation import referee
from robharness.report import build


def judged(logits, labels):
    logits = torch.tensor(logits, dtype=torch.float32)
    size = np.full(len(logits), np.nan)
    return referee.judge(torch.zeros(len(logits), 1), torch.tensor(labels), logits, size, {})


def test_probabilities_are_those_of_scipy():
    draws = np.random.default_rng(0)
    logits = (draws.normal(size=(64, 1000)) * draws.choice([0.01, 1, 30, 1000], (64, 1))).astype(np.float32)
    labels = draws.integers(0, 1000, 64)
    found, expected = judged(logits, labels.tolist()), softmax(logits.astype(np.float64), axis=1)
    assert found.confidence.dtype == found.p_true.dtype == np.float32
    np.testing.assert_allclose(found.confidence, expected.max(1), rtol=1e-6)
    np.testing.assert_allclose(found.p_true, expected[np.arange(64), labels], rtol=1e-6, atol=1e-45)
    assert (found.confidence[found.correct] == found.p_true[found.correct]).all()
    assert (found.p_true <= found.confidence).all()


def test_an_example_has_the_same_bits_among_others():
    logits = np.random.default_rng(1).normal(size=(33, 77)).astype(np.float32)
    together, labels = judged(logits, [3] * 33), [3]
    for row in range(33):
        alone = judged(logits[row : row + 1], labels)
        assert alone.confidence[0] == together.confidence[row] and alone.p_true[0] == together.p_true[row]


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_have_no_probability(strange):
    found = judged([[1.0, strange, 0.0], [1.0, 2.0, 0.0]], [0, 1])
    assert np.isnan(found.confidence).tolist() == np.isnan(found.p_true).tolist() == [True, False]


def test_every_judged_example_of_a_run_has_a_confidence(suite, run):
    models = [{"model": "toys/net", "label": "Net"}, {"model": "toys/net", "what": "not-numbers", "label": "NaN"}]
    corruptions = [{"corruption": "toys/speckle", "severity": 1}]
    results = run(suite(models=models, corruptions=corruptions, canvas=8, count="robust"))
    for result in results.cells:
        confidence, p_true = result.columns["confidence"], result.columns["p_true"]
        is_finite = result.columns["prediction"] >= 0
        assert (np.isnan(confidence) == ~is_finite).all() and (np.isnan(p_true) == ~is_finite).all()
        right = result.correct & is_finite
        assert (p_true[right] == confidence[right]).all() and (p_true <= confidence)[is_finite].all()
        assert ((confidence > 0) & (confidence <= 1))[is_finite].all()
        if result.cell.kind == "attack":  # skipped examples keep their clean outcome
            skipped, clean = ~result.columns["attacked"], results.clean(result.cell.model.label)
            np.testing.assert_array_equal(confidence[skipped], clean.columns["confidence"][skipped])
            assert skipped.any()
    report = build(results)
    assert "confidences-missing" not in {found.code for found in report.findings}
    by_model = {cell.model: cell for cell in report.cells if cell.kind == "clean"}
    assert by_model["Net"].calibration.n == 40 > by_model["NaN"].calibration.n > 0
    assert by_model["NaN"].calibration.n == 40 - by_model["NaN"].not_numbers
