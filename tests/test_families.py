"""Models that their options make, weights in several files, and corruptions that were rendered before."""

import hashlib

import numpy as np
import pytest

from robharness import UserError, api, discover
from robharness.errors import SuiteError

PLUGIN = """
from dataclasses import dataclass

import numpy as np
import torch

from robharness import CorruptionSpec, DatasetSpec, File, InputSpec, MissingResource, ModelSpec, Preprocessing
from robharness import UserError, hookimpl

SIDES = {"small": 4, "large": 6}


@dataclass(frozen=True, kw_only=True)
class Params:
    name: str

    def __post_init__(self):
        if self.name not in SIDES:
            raise ValueError(f"no member '{self.name}'")


def given(params):
    side = SIDES[params.name]
    return {"input": InputSpec(shape=(1, side, side)), "preprocessing": Preprocessing(resize=(side, side)),
            "expected": {"clean": side / 10}}


class Mean(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        mean = self.factor * x.mean((1, 2, 3))
        return torch.stack([mean, 0.5 - mean], 1)


def build(params, weights):
    return Mean(1)


def build_two(params, weights):
    if not isinstance(weights, dict):
        raise UserError("give two files: weights: {body: ..., head: ...}")
    return Mean(int(weights["body"].read_text()) * int(weights["head"].read_text()))


@hookimpl
def robharness_models():
    yield ModelSpec(name="any", summary="A family", input=InputSpec(shape=(1, 4, 4)), labels="light", build=build,
                    params=Params, given=given)
    yield ModelSpec(name="two", summary="Two files", input=InputSpec(shape=(1, 8, 8)), labels="light", build=build_two,
                    weights={"body": File(path="body.txt"), "head": File(path="head.txt", sha256="4e07408562bedb8b")})


class Lights:
    ids = [f"light-{index:02}" for index in range(10)]
    labels = [index % 2 for index in range(10)]

    def read(self, index):
        return np.full((8, 8, 1), 20 * index, np.uint8)


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="lights", summary="Lights", labels="light", splits=("all",),
                      open=lambda root, split: Lights())


class Stored:
    def __init__(self, folder):
        self.folder = folder

    def perturb(self, model, batch, severity, rng):
        pictures = [np.load(self.folder / str(severity) / f"{id}.npy") for id in batch.ids]
        return torch.from_numpy(np.stack(pictures))


def open_stored(params, root):
    if not (root / "stored").is_dir():
        raise MissingResource("the darkened lights", where=str(root / "stored"), get="make lights")
    return Stored(root / "stored")


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="stored", summary="Rendered before", group="light", open=open_stored, severities=(1, 2),
                         canvas=8, randomness="none")
"""


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "family.py").write_text(PLUGIN)
    return str(tmp_path / "family.py")


def suite(*models, **keys):
    return {"robharness": 1, "name": "family", "data": {"name": "family/lights", "split": "all"},
            "models": list(models), **keys}  # fmt: skip


def test_options_set_fields_of_the_spec(plugin, tmp_path):
    models = [{"model": "family/any", "name": name, "label": name} for name in ("small", "large")]
    plan = api.plan(suite(*models), plugins=[plugin], data=tmp_path)
    specs = [model.entry.spec for model in plan.models]
    assert [spec.input.shape for spec in specs] == [(1, 4, 4), (1, 6, 6)]
    assert [spec.expected["clean"] for spec in specs] == [0.4, 0.6]
    assert plan.cells[0].key != plan.cells[1].key
    assert api.run(suite(*models), plugins=[plugin], data=tmp_path, store=tmp_path / "store").is_complete
    assert discover([plugin]).models["family/any"].spec.input.shape == (1, 4, 4)
    with pytest.raises(SuiteError, match=r"models\.0.*no member 'huge'"):
        api.plan(suite({"model": "family/any", "name": "huge"}), plugins=[plugin])


def test_weights_in_several_files(plugin, tmp_path):
    plan = api.plan(suite({"model": "family/two"}), plugins=[plugin], data=tmp_path)
    for part in ("body", "head"):
        assert f"the weights of family/two ('{part}'): not found at" in str(plan.missing[0])
    (tmp_path / "body.txt").write_text("2")
    (tmp_path / "head.txt").write_text("3")
    plan = api.plan(suite({"model": "family/two"}), plugins=[plugin], data=tmp_path)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in (("body", "2"), ("head", "3"))}
    assert plan.models[0].weights.sha256 == digests == plan.models[0].identity["weights"]
    (tmp_path / "other.txt").write_text("-1")
    mine = {"body": str(tmp_path / "other.txt"), "head": str(tmp_path / "head.txt")}
    models = [{"model": "family/two", "label": "theirs"}, {"model": "family/two", "label": "mine", "weights": mine}]
    found = api.run(suite(*models), plugins=[plugin], data=tmp_path, store=tmp_path / "store")
    light = 20 * np.arange(10) / 255
    for label, factor in (("theirs", 6), ("mine", -3)):
        expected = {f"light-{index:02}": int(factor * light[index] < 0.25) for index in range(10)}
        columns = found.clean(label).columns
        assert dict(zip(columns["example"], columns["prediction"].tolist(), strict=True)) == expected
    (tmp_path / "head.txt").write_text("4")
    plan = api.plan(suite({"model": "family/two"}), plugins=[plugin], data=tmp_path)
    assert "('head')" in str(plan.missing[0]) and "declares 4e07408562bedb8b" in str(plan.missing[0])


def test_a_checkpoint_that_build_refuses_is_reported_in_its_words(plugin, tmp_path):
    (tmp_path / "one.txt").write_text("1")
    model = {"model": "family/two", "weights": str(tmp_path / "one.txt")}
    found = api.run(suite(model), plugins=[plugin], data=tmp_path, store=tmp_path / "store")
    [failure] = {failure.error for cell in found.cells for failure in cell.failures}
    assert failure == "family/two: it cannot be built: give two files: weights: {body: ..., head: ...}"


def test_corrupted_images_are_read_from_files(plugin, tmp_path):
    document = suite({"model": "family/any", "name": "small"},
                  corruptions=[{"corruption": "family/stored", "severity": [1, 2]}])  # fmt: skip
    with pytest.raises(SuiteError, match=r"family/stored has images of 8 px, the canvas has 16; write `canvas: 8`"):
        api.plan(document | {"canvas": 16}, plugins=[plugin], data=tmp_path)
    with pytest.raises(UserError, match=r"the darkened lights: not found at .*stored\. To get it: make lights"):
        api.run(document, plugins=[plugin], data=tmp_path, store=tmp_path / "store")
    for severity in (1, 2):
        (tmp_path / "stored" / str(severity)).mkdir(parents=True)
        for index in range(10):
            image = np.full((8, 8, 1), 20 * index // (severity + 1), np.uint8)
            np.save(tmp_path / "stored" / str(severity) / f"light-{index:02}.npy", image)
    found = api.run(document, plugins=[plugin], data=tmp_path, store=tmp_path / "store")
    assert found.is_complete
    for cell in found.of("family/any", "corruption"):
        light = [
            20 * int(id[-2:]) // (int(cell.cell.perturbation.severity) + 1) / 255 for id in cell.columns["example"]
        ]
        assert cell.columns["prediction"].tolist() == [int(value < 0.25) for value in light]
