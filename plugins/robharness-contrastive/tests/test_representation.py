"""Measures of features against closed forms, against scikit-learn, and in a suite."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import ive
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

import robharness
from robharness import plugins
from robharness.report import build
from robharness.report.renderers.json import render
from robharness_contrastive import representation as measures
from robharness_contrastive.representation import class_distances


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def clustered(classes=5, n=40, dimensions=16, spread=0.3, seed=0):
    """Return features around a direction per class, and labels, in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), n))
    centres = rng.normal(size=(classes, dimensions))
    return centres[labels] + spread * rng.normal(size=(len(labels), dimensions)), labels


def on_circle(*angles):
    return np.stack([np.cos(angles), np.sin(angles)], 1)


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_uniformity_of_points_spread_evenly_over_a_circle():
    """The mean of exp(-t (2 - 2 cos a)) over the circle is exp(-2t) I_0(2t), with Bessel's I_0."""
    n = 400
    even = on_circle(*np.linspace(0, 2 * np.pi, n, endpoint=False))
    for t in (1, 2):
        mean = ive(0, 2 * t)  # exp(-2t) I_0(2t)
        without_itself = (n * mean - 1) / (n - 1)
        assert measures.uniformity(5 * even, t) == pytest.approx(np.log(without_itself), abs=1e-12)


def test_uniformity_of_points_drawn_from_a_sphere():
    """On the sphere of three dimensions |u - v|² is uniform on [0, 4]: the mean is (1 - exp(-4t)) / 4t."""
    points = draws(6000, 3)
    expected = np.log((1 - np.exp(-8)) / 8)
    assert measures.uniformity(points) == pytest.approx(expected, abs=0.01)
    assert measures.uniformity(points + np.array([2, 0, 0])) > expected + 0.3  # a shift to one side is less uniform


def test_uniformity_of_extreme_cases():
    assert measures.uniformity(np.ones((5, 4))) == pytest.approx(0)
    assert measures.uniformity([[1, 0], [-3, 0]]) == pytest.approx(-8)
    assert measures.uniformity(np.eye(50)) == pytest.approx(-4)  # all squares are 2
    with pytest.raises(ValueError, match="the number of examples is 1"):
        measures.uniformity([[1.0, 2.0]])


def test_alignment_is_a_chord():
    """Rotated by an angle a, a unit vector moves by 2 sin(a / 2), whatever its length was."""
    angles = np.linspace(0, 3, 7)
    found = measures.alignment(on_circle(*[0] * 7) * 3, on_circle(*angles) * np.arange(1, 8)[:, None])
    assert found == pytest.approx(4 * np.sin(angles / 2) ** 2)
    assert measures.alignment([[1, 0]], [[0, 1]], alpha=1) == pytest.approx([np.sqrt(2)])


def test_distances_of_two_clusters():
    """Classes at 0 and pi / 3 on the circle, each of two points 2 b apart: all distances are chords."""
    b = 0.1
    points, labels = on_circle(-b, np.pi / 3 - b, b, np.pi / 3 + b) * [[1], [2], [3], [4]], np.array([3, 7, 3, 7])
    found = class_distances(points, labels)
    within = 2 * np.sin(b)
    between = np.mean([2 * np.sin(abs(np.pi / 3 + x) / 2) for x in (0, 0, 2 * b, -2 * b)])
    assert found.classes.tolist() == [3, 7] and found.counts.tolist() == [2, 2]
    assert found.matrix == pytest.approx(np.array([[within, between], [between, within]]))
    assert found.ratio == pytest.approx(between / within)
    assert found.ratios == pytest.approx([between / within] * 2)


def test_figure_3_on_features_like_trained_ones():
    """Distances of independent directions in many dimensions are the square root of 2; about a centre of length c with
    noise of length s, points of a class lie sqrt(2) s / sqrt(c² + s²) apart, those of two classes sqrt(2)."""
    dimensions, classes = 4096, 10
    supervised, labels = clustered(classes, 12, dimensions, spread=0.6)
    self_supervised, _ = clustered(classes, 12, dimensions, spread=1.7)
    for features, spread in ((supervised, 0.6), (self_supervised, 1.7)):
        assert class_distances(features, labels).ratio == pytest.approx(np.sqrt(1 + 1 / spread**2), rel=0.01)
    assert class_distances(supervised, labels).ratio == pytest.approx(1.94, abs=0.02)
    assert class_distances(self_supervised, labels).ratio == pytest.approx(1.16, abs=0.02)


def test_classes_of_one_example_have_no_inner_distance():
    found = class_distances(np.eye(4), [0, 0, 1, 2])
    assert np.isnan(found.intra).tolist() == [False, True, True]
    assert found.ratio == pytest.approx(1)
    assert np.isnan(found.ratios[1:]).all()
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0]):
        with pytest.raises(ValueError, match="need at least 2 classes, and 2 examples of one"):
            class_distances(np.eye(4), labels)


def test_purity_of_distant_clusters_is_1_and_of_pairs_of_two_classes_0():
    features, labels = clustered(spread=0.01)
    assert (measures.neighbourhood_purity(features, labels) == 1).all()
    strangers = on_circle(0, 0.01, 1, 1.01, 2, 2.01)
    assert (measures.neighbourhood_purity(strangers, [0, 1, 0, 1, 0, 1], k=1) == 0).all()
    with pytest.raises(ValueError, match="needs 11 examples, and there are 10"):
        measures.neighbourhood_purity(np.eye(10), range(10))


def test_margins_are_distances_of_unit_features():
    """A probe on unit features, w and b: the distance of u is (w . u + b) / |w|; on r u its offset is r b."""
    rng = np.random.default_rng(0)
    points, lengths, w, b = measures.unit(draws(20, 6)), rng.uniform(0.5, 5, 20), draws(6, seed=1), 0.3
    on_sphere = (points @ w + b) / np.linalg.norm(w)
    in_space = ((points * lengths[:, None]) @ w + lengths * b) / np.linalg.norm(w)
    assert measures.margins(points * lengths[:, None], in_space) == pytest.approx(on_sphere)
    assert np.isnan(measures.margins([[0.0, 0.0]], [1.0])).all()


# --- scikit-learn -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[2**22, 300], ids=["one block", "many blocks"])
def block(request):
    return request.param


def test_against_scikit_learn(block):
    features, labels = clustered(spread=1.5)
    distances = pairwise_distances(measures.unit(features))
    pairs = distances[np.triu_indices(len(labels), 1)]
    assert measures.uniformity(features, block=block) == pytest.approx(np.log(np.exp(-2 * pairs**2).mean()), abs=1e-10)
    found = class_distances(features, labels, block=block)
    for a in range(5):
        for b in range(5):
            part = distances[np.ix_(labels == a, labels == b)]
            mean = part[np.triu_indices(len(part), 1)].mean() if a == b else part.mean()
            assert found.matrix[a, b] == pytest.approx(mean, abs=1e-10)
    off = ~np.eye(5, dtype=bool)
    assert found.ratio == pytest.approx(found.matrix[off].mean() / np.diag(found.matrix).mean())
    for k in (1, 10):
        _, nearest = NearestNeighbors(n_neighbors=k + 1, metric="cosine", algorithm="brute").fit(features).kneighbors()
        nearest = nearest[:, :k]
        expected = (labels[nearest] == labels[:, None]).mean(1)
        assert measures.neighbourhood_purity(features, labels, k, block=block).tolist() == expected.tolist()
    assert 0.2 < expected.mean() < 0.95


# --- in a suite -------------------------------------------------------------------------------------------------------

METRICS = ["alignment", "uniformity", "inter-intra", "purity", "margin", "input-margin"]


def test_listing_them_imports_no_numpy():
    assert {name for name in plugins.discover().metrics if name.startswith("contrastive/")} == {
        f"contrastive/{name}" for name in METRICS
    }


def test_every_metric_of_a_suite(stored):
    results, net = stored
    data = json.loads(render(build(results)))
    values, details = data["metrics"], data["metric_details"]
    assert [name.removeprefix("contrastive/") for name in values] == METRICS
    clean = results.features("Digits")
    assert clean.values.shape == (120, 8)
    for name, each in values.items():
        assert np.isfinite(each["Digits"]), name
        assert set(details[name]["Digits"]["by_class"]) == {str(digit) for digit in range(10)}
        assert details[name]["Digits"]["n"] == 120
    matrix = np.array(details["contrastive/inter-intra"]["Digits"]["matrix"])
    assert matrix.shape == (10, 10)
    off = ~np.eye(10, dtype=bool)
    ratio = values["contrastive/inter-intra"]["Digits"]
    assert ratio == pytest.approx(matrix[off].mean() / np.diag(matrix).mean()) and ratio > 1
    views = details["contrastive/alignment"]["Digits"]["by_view"]
    assert set(views) == {"fading(1)", "fading(2)"} and 0 < views["fading(1)"] < views["fading(2)"]
    assert values["contrastive/alignment"]["Digits"] == pytest.approx(np.mean(list(views.values())))
    weights, bias = (value.detach().double().numpy() for value in net.head.parameters())
    logits, rows = clean.values @ weights.T + bias, np.arange(120)
    apart = np.linalg.norm(weights[clean.labels][:, None] - weights, axis=2)
    apart[rows, clean.labels] = 1
    far = (logits[rows, clean.labels][:, None] - logits) / apart
    far[rows, clean.labels] = np.inf
    nearest = np.sort(far.min(1) / np.linalg.norm(clean.values, axis=1))
    assert values["contrastive/margin"]["Digits"] == pytest.approx(nearest[59], abs=1e-5)  # the lower of the middle two
    [attack] = results.of("Digits", "attack")
    assert values["contrastive/input-margin"]["Digits"] == np.sort(attack.distances)[59] > 0
    quartiles = details["contrastive/input-margin"]["Digits"]["quartiles"]
    assert quartiles == [np.sort(attack.distances)[29], np.sort(attack.distances)[89]]


def test_metrics_of_too_few_examples_give_the_reason(source, tmp_path):
    found = robharness.run(source, store=tmp_path / "store", plugins=source.pop("plugins"), limit=1)
    report = build(found)
    assert not report.problems
    lacking = [warning for warning in report.warnings if warning.startswith("no contrastive/")]
    assert [line.partition(":")[0] for line in lacking] == [
        "no contrastive/uniformity for Digits",
        "no contrastive/inter-intra for Digits",
        "no contrastive/purity for Digits",
    ]


def test_a_head_that_is_not_linear_has_no_margin(source, tmp_path):
    source["models"][0]["nonlinear"] = True
    source["metrics"] = ["contrastive/margin", "contrastive/uniformity"]
    report = build(robharness.run(source, store=tmp_path / "store", plugins=source.pop("plugins"), limit=20))
    assert np.isnan(report.metrics["contrastive/margin"]["Digits"].value)
    assert "no contrastive/margin for Digits: the head on its features is not linear, so the distance from the " \
        "boundary is unknown" in report.warnings  # fmt: skip
    assert report.metrics["contrastive/uniformity"]["Digits"].value < 0
