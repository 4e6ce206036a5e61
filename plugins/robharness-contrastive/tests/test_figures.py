"""Figures of features: valid files, the same bytes every time, and models on one scale."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

import robharness
from robharness import Features, cli
from robharness_contrastive import figures
from robharness_contrastive.representation import class_distances

NAMES = ["class-distances", "tsne", "hypersphere"]


def features(spread, n=60, classes=4, dimensions=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    values = rng.normal(size=(classes, dimensions))[labels] + spread * rng.normal(size=(n, dimensions))
    ids = tuple(map(str, range(n)))
    return Features(values=values.astype(np.float32), labels=labels, examples=ids, positions=np.arange(n),
                    boundary=np.full(n, np.nan))  # fmt: skip


TWO = {"Tight": features(0.2), "Loose": features(1.5)}


def maps(figure):
    """Return the images of the panels that show one."""
    return [axis.images[0] for axis in figure.axes if axis.images]


def test_heat_maps_have_one_colour_scale():
    distances = {label: class_distances(each.values, each.labels) for label, each in TWO.items()}
    figure = figures.heat_maps(distances)
    tight, loose = maps(figure)
    both = np.stack([each.matrix for each in distances.values()])
    assert tight.get_clim() == loose.get_clim() == (both.min(), both.max())
    for image, each in zip((tight, loose), distances.values(), strict=True):
        assert np.array_equal(image.get_array(), each.matrix)
    assert both[0].min() < both[1].min(), "each model alone would have another scale"
    titles = [axis.get_title() for axis in figure.axes[:2]]
    assert titles == [f"{label}\ninter-/intra-class distance {each.ratio:.2f}" for label, each in distances.items()]
    assert len(figure.axes) == 3  # and a colour bar


def test_densities_have_one_scale():
    figure = figures.hypersphere(TWO)
    tight, loose = maps(figure)
    assert tight.get_clim() == loose.get_clim()
    assert tight.get_clim()[1] == max(tight.get_array().max(), loose.get_array().max())
    lines = [axis for axis in figure.axes if axis.lines]
    assert len({axis.get_ylim() for axis in lines}) == 1 and len(lines) == 2


def test_many_models_fill_several_rows():
    six = {str(number): features(0.2 + 0.1 * number) for number in range(6)}
    figure = figures.hypersphere(six)
    assert len(figure.axes) == 12 and figure.get_size_inches() == pytest.approx((4 * 3.6 + 0.6, 4 * 3.6))
    assert [axis.get_title().split("\n")[0] for axis in figure.axes if axis.images] == list(six)
    places = {axis.get_title().split("\n")[0]: axis.get_subplotspec() for axis in figure.axes if axis.images}
    assert [(spec.rowspan.start, spec.colspan.start) for spec in places.values()] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (2, 0), (2, 1)]  # fmt: skip


def test_density_is_a_density():
    even = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    circle = np.stack([np.cos(even), np.sin(even)], 1)
    assert figures.angular_density(circle) == pytest.approx(1 / (2 * np.pi), rel=1e-3)
    turns = np.linspace(-np.pi, np.pi, figures.ANGLES)
    one = figures.angular_density(circle[:1])
    assert np.trapezoid(one, turns) == pytest.approx(1, rel=1e-3) and abs(turns[one.argmax()]) < 0.02
    plane = figures.density_map(circle[125:126])  # a point at the top
    step = 2.6 / (figures.GRID - 1)
    assert plane.sum() * step**2 == pytest.approx(1, rel=0.01)
    row, column = np.unravel_index(plane.argmax(), plane.shape)
    assert row * step - 1.3 == pytest.approx(1, abs=step) and column * step - 1.3 == pytest.approx(0, abs=step)


def test_features_in_a_plane_are_only_rotated():
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 50)
    plane = np.stack([np.cos(angles), np.sin(angles)], 1)
    into, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 2)))
    points, held = figures.on_circle((plane * 7) @ into.T)
    assert held == pytest.approx(1)
    assert points @ points.T == pytest.approx(plane @ plane.T)
    _, held = figures.on_circle(np.eye(10))
    assert held == pytest.approx(0.2)
    assert figures.on_circle(np.ones((5, 1)))[0] == pytest.approx(np.array([[1, 0]] * 5))


def test_tsne_keeps_clusters_together():
    at = figures.embed(TWO["Tight"].values)
    assert class_distances(at - at.mean(0), TWO["Tight"].labels).ratio > 2
    assert np.array_equal(at, figures.embed(TWO["Tight"].values))
    assert figures.embed(np.ones((8, 3))).shape == (8, 2)  # all the same


def test_only_the_first_examples_are_shown():
    assert figures.first_examples(TWO["Tight"], 25).examples == TWO["Tight"].examples[:25]


def test_files_can_be_read_and_are_the_same_again(stored, tmp_path):
    results, _ = stored
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        written.append(list(figures.draw(results, tmp_path / name)))
    assert [path.name for path in written[0]] == [f"{name}.{ending}" for name in NAMES for ending in ("png", "svg")]
    for one, other in zip(*written, strict=True):
        assert one.read_bytes() == other.read_bytes()
        if one.suffix == ".png":
            with Image.open(one) as image:
                shown = np.asarray(image.convert("RGB"))
            assert min(shown.shape[:2]) > 250
            assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20
        else:
            root = ElementTree.parse(one).getroot()
            assert root.tag.endswith("svg") and len(list(root.iter())) > 100


def test_report_draws_the_figures(source, tmp_path, monkeypatch, capsys):
    options = [word for path in source.pop("plugins") for word in ("-p", path)]
    source["metrics"], source["attacks"], source["data"]["limit"] = ["contrastive/inter-intra"], [], 30
    source["models"].append({"model": "represented/digits", "label": "Shifted", "shift": 3})
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(source))
    monkeypatch.chdir(tmp_path)
    for words in (["run", "suite.yaml"], ["report", "suite.yaml", "--figures", "drawn"]):
        assert cli.main([*words, *options]) == 0
    assert [f"wrote drawn/{name}.png" in capsys.readouterr().err for name in NAMES[:1]] == [True]
    assert {path.name for path in (tmp_path / "drawn").iterdir()} >= {
        f"{name}.{ending}" for name in NAMES for ending in ("png", "svg")
    }  # beside those of the report


def test_nothing_is_drawn_of_too_few_examples(source, tmp_path):
    found = robharness.run(source, store=tmp_path / "store", plugins=source.pop("plugins"), limit=2)
    assert list(figures.draw(found, tmp_path)) == []
