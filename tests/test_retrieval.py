"""Encoders without labels: every example is a class of its own, and accuracy is the retrieval that is kept."""

import hashlib
from textwrap import dedent

import numpy as np
import pytest

from robharness import api
from robharness.errors import SuiteError
from robharness.report import build
from robharness.report.renderers.json import as_data
from robharness.report.tables import tables

PLUGIN = '''
import hashlib
from dataclasses import dataclass

import numpy as np

from robharness import AttackSpec, Cost, DatasetSpec, InputSpec, ModelSpec, Perturbed, ThreatModel, hookimpl

N = 24


def pixels():
    images = np.random.default_rng(0).integers(112, 144, (N, 4, 4, 1)).astype(np.uint8)
    images[1] = images[0]  # a duplicate, which no encoder can tell apart
    return images


class Data:
    ids = [f"image-{i}" for i in range(N)]
    labels = [i % 3 for i in range(N)]

    def read(self, index):
        return pixels()[index]


def gallery():
    order = sorted(range(N), key=lambda i: hashlib.sha256(Data.ids[i].encode()).digest())
    return pixels()[order].transpose(0, 3, 1, 2).astype(np.float32) / 255


@dataclass(frozen=True, kw_only=True)
class Size:
    examples: int = N


def build(params, weights):
    import torch

    class Retrieval(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Flatten()
            self.register_buffer("gallery", torch.from_numpy(gallery()).flatten(1)[: params.examples])

        def forward(self, x):
            features = torch.nn.functional.normalize(self.features(x) - 0.5, dim=1)
            return features @ torch.nn.functional.normalize(self.gallery - 0.5, dim=1).T

    return Retrieval()


def classifier(params, weights):
    import torch

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.utils.skip_init(torch.nn.Linear, 16, 3))
    torch.nn.init.zeros_(net[1].weight), torch.nn.init.zeros_(net[1].bias)
    return net


@dataclass(frozen=True, kw_only=True)
class Params:
    pass


@dataclass(frozen=True)
class Shift:
    """Move the first row of pixels up by eps."""

    params: Params

    def perturb(self, model, batch, eps, rng):
        x = batch.x.clone()
        x[:, :, 0] += eps
        moved = (model.features(x) - batch.features(model)).norm(dim=1)
        return Perturbed(x=x, notes={"distance": moved, "steps": [1] * len(x)})


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="images", summary="24 images", labels="thirds", splits=("test",),
                      open=lambda root, split: Data())


@hookimpl
def robharness_models():
    spec = InputSpec(shape=(1, 4, 4))
    yield ModelSpec(name="own", summary="Retrieval of pixels", input=spec, labels="instances", build=build,
                    params=Size, features="features")
    yield ModelSpec(name="classes", summary="Three classes", input=spec, labels="thirds", build=classifier)


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="shift", summary="Brighter first row", access="features", params=Params,
                     threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost(forwards=1), build=Shift,
                     randomness="none", notes={"steps": int, "distance": float})
'''
SUITE = {
    "robharness": 1,
    "name": "free",
    "data": {"name": "free/images", "split": "test"},
    "models": [{"model": "free/own", "label": "Own"}],
    "attacks": [{"attack": "free/shift", "eps": ["1/64", "1/4"]}],
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("free") / "free.py"
    path.write_text(dedent(PLUGIN))
    return str(path)


@pytest.fixture(scope="module")
def results(plugin, tmp_path_factory):
    return api.run(SUITE, store=tmp_path_factory.mktemp("store"), plugins=[plugin])


def nearest(shift):
    """The position of the nearest clean image of each image with a brighter first row, computed by NumPy alone."""
    images = np.random.default_rng(0).integers(112, 144, (24, 4, 4, 1)).astype(np.uint8)
    images[1] = images[0]
    order = sorted(range(24), key=lambda i: hashlib.sha256(f"image-{i}".encode()).digest())
    clean = images[order][..., 0].astype(np.float32) / 255
    moved = clean.copy()
    moved[:, 0] += shift
    one, other = (x.reshape(24, -1) - 0.5 for x in (moved, clean))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other)]
    return (unit[0] @ unit[1].T).argmax(1)


def test_an_example_is_right_if_its_own_clean_feature_is_the_nearest(results):
    assert results.is_complete
    for result, shift in zip(results.cells, (0, 1 / 64, 1 / 4), strict=True):
        assert result.columns["label"].tolist() == list(range(24))
        found = nearest(np.float32(shift))
        assert result.accuracy == (found == np.arange(24)).mean()
    clean, slight, strong = (result.accuracy for result in results.cells)
    assert clean == 23 / 24  # of two equal images the first is found
    assert strong < slight <= clean


def test_the_report_calls_it_retrieval_and_shows_how_far_features_move(results):
    report = build(results)
    first, movement = tables(report)
    assert first.title == "Retrieval under attacks"
    assert first.caption.startswith("retrieval (the clean features that are nearest are the example's own) in %")
    assert movement.title == "Movement of features"
    assert [row.name for row in movement.rows] == ["shift(linf, 1/64): distance", "shift(linf, 1/4): distance"]
    values = [row.values[0].number for row in movement.rows]
    assert values == pytest.approx([2 / 64, 2 / 4], rel=1e-5)  # four pixels each
    assert "of its retrieval under" in report.answer[0] or "of its retrieval" in report.answer[0]
    data = as_data(report)
    assert data["measure"] == "retrieval"
    assert data["cells"][1]["movement"]["note"] == "distance"
    assert data["cells"][0]["movement"] is data["cells"][0]["classes"] is None


def test_the_stored_results_alone_say_the_same(results, plugin):
    [suite] = api.stored(results.plan.store)
    alone = build(suite.results())
    assert [table.title for table in tables(alone)] == [table.title for table in tables(build(results))]
    assert alone.retrieval


def test_a_gallery_must_have_all_examples_that_are_measured(plugin, tmp_path):
    small = {**SUITE, "models": [{"model": "free/own", "label": "Own", "examples": 8}]}
    found = api.run({**small, "data": {**SUITE["data"], "limit": 8}}, store=tmp_path, plugins=[plugin])
    assert [result.n for result in found.cells] == [8, 8, 8]
    failed = api.run(small, store=tmp_path, plugins=[plugin])
    assert "8 classes" in failed.cells[0].failures[0].error


def test_models_with_labels_and_without_are_not_in_one_suite(plugin):
    both = [*SUITE["models"], {"model": "free/classes", "label": "Classes"}]
    with pytest.raises(SuiteError, match="Own is measured without labels, Classes by its classes"):
        api.plan({**SUITE, "models": both, "attacks": []}, plugins=[plugin])


def test_the_data_of_the_same_plan_keep_their_classes_for_classifiers(plugin, tmp_path):
    suite = {**SUITE, "models": [{"model": "free/classes", "label": "Classes"}], "attacks": []}
    found = api.run(suite, store=tmp_path, plugins=[plugin])
    assert set(found.cells[0].columns["label"].tolist()) == {0, 1, 2}
    assert as_data(build(found))["measure"] == "accuracy"
