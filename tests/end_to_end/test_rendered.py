"""Corruptions that are written once and read again give the outcomes of those rendered in the run, bit for bit."""

import io
import json
import pickle
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import robharness
from robharness import Batch, ExampleRNG, discover
from robharness.evaluation.images import on_canvas
from robharness_datasets.imagenet import wnids

NAMES = ("gaussian_noise", "contrast", "motion_blur")
EVERY = [1, 5]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three photos as ImageNet's validation images, and nothing of ImageNet-C."""
    made = tmp_path_factory.mktemp("data")
    runpy.run_path(str(Path(__file__).parent / "miniature.py"))["imagenet"](made, list(wnids()))
    shutil.rmtree(made / "imagenet-c")
    return made


def suite(prefix, compat="none"):
    return {"robharness": 1, "name": "photos", "data": {"name": "datasets/imagenet", "split": "val"},
            "canvas": 224, "compat": compat,
            "models": [{"model": "samples/efficientnet-lite0", "label": "Lite0"}],
            "corruptions": [{"corruption": f"{prefix}/{name}", "severity": EVERY} for name in NAMES]}  # fmt: skip


@pytest.mark.parametrize("compat", ["none", "imagenet-c"])
def test_stored_and_rendered_outcomes_are_equal(shell, root, tmp_path, compat):
    path = tmp_path / "photos.yaml"
    path.write_text(json.dumps(suite("corruptions", compat)))
    data = tmp_path / "data"
    (data / "imagenet").parent.mkdir(exist_ok=True)
    (data / "imagenet").symlink_to(root / "imagenet")
    done = shell("export-corruptions", path, "-o", data / "imagenet-c", "--data-root", data)
    assert done.returncode == 0, done.stderr
    endings = {file.suffix for file in (data / "imagenet-c").rglob("*.*") if file.name != "robharness.json"}
    assert endings == {".png" if compat == "none" else ".JPEG"}
    where = {"data": data, "store": tmp_path / "store"}
    rendered = robharness.run(suite("corruptions", compat), **where)
    stored = robharness.run(suite("datasets/imagenet-c", compat), **where)
    assert rendered.is_complete and stored.is_complete
    ours, theirs = rendered.of("Lite0", "corruption"), stored.of("Lite0", "corruption")
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert one.cell.perturbation.entry.spec.name == other.cell.perturbation.entry.spec.name.rpartition("/")[2]
        for column in ("example", "prediction", "correct", "margin", "logit_range"):
            np.testing.assert_array_equal(one.columns[column], other.columns[column])
    margins = {tuple(one.columns["margin"].tolist()) for one in ours}
    assert len(margins) == 6  # or else they would be equal for a bad reason


def test_a_rendered_array_is_read_as_cifar_10_c(shell, tmp_path):
    """All five severities, of a small CIFAR-10 in an order that is not that of the run."""
    draws, folder = np.random.default_rng(3), tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "SUBSET").touch()
    rows = np.repeat(draws.integers(0, 256, (40, 3, 64)), 16, axis=2).astype(np.uint8).reshape(40, 3072)
    batch = {"data": rows, "labels": draws.integers(0, 10, 40).tolist(), "batch_label": "", "filenames": []}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    (tmp_path / "net.py").write_text(NET)

    def suite(prefix):
        return {"robharness": 1, "name": "small", "data": {"name": "datasets/cifar-10", "split": "test"}, "canvas": 32,
                "models": [{"model": "net/net", "label": "Net"}],
                "corruptions": [{"corruption": f"{prefix}/{name}", "severity": [1, 2, 3, 4, 5]}
                                for name in ("shot_noise", "contrast")]}  # fmt: skip

    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(suite("corruptions")))
    words = ("-p", tmp_path / "net.py", "-o", tmp_path / "CIFAR-10-C", "--data-root", tmp_path, "--layout", "cifar-c")
    done = shell("export-corruptions", path, *words)
    assert done.returncode == 0, done.stderr
    where = {"data": tmp_path, "store": tmp_path / "store", "plugins": [str(tmp_path / "net.py")]}
    rendered = robharness.run(suite("corruptions"), **where).of("Net", "corruption")
    stored = robharness.run(suite("datasets/cifar-10-c"), **where).of("Net", "corruption")
    assert len(rendered) == len(stored) == 10
    for one, other in zip(rendered, stored, strict=True):
        assert one.is_complete and other.is_complete
        for column in ("example", "prediction", "margin"):
            np.testing.assert_array_equal(one.columns[column], other.columns[column])
    assert len({tuple(one.columns["margin"].tolist()) for one in rendered}) == 10


NET = """
import torch
from torch import nn
from robharness import InputSpec, ModelSpec, hookimpl

def build(params, weights):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="Linear", input=InputSpec(shape=(3, 32, 32)), labels="cifar-10", build=build)
"""


def test_global_generators_do_not_affect_rendered_corruptions():
    """NumPy's global seed controls neither scikit-image's random_noise nor numba; the example's stream controls all."""
    canvas = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8))
    batch = Batch(["a", "b"], torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64), canvas)
    corruptions = {name: entry for name, entry in discover().corruptions.items() if name.startswith("corruptions/")}
    drawing = [entry for entry in corruptions.values() if entry.spec.randomness == "example"]
    assert len(drawing) >= 8
    for entry in drawing:
        params = entry.spec.params() if entry.spec.params else None
        made = []
        for seed, other in ((0, 1), (0, 2), (1, 1)):
            np.random.seed(other)  # noqa: TID251 (what must not matter)
            torch.manual_seed(other)  # noqa: TID251 (nor this)
            rng = ExampleRNG(seed, entry.name, batch.ids)
            made.append(entry.spec.build(params).perturb(None, batch, 3, rng).numpy().tobytes())
        assert made[0] == made[1] != made[2], entry.name


def test_jpeg_encoding_removes_a_quarter_of_the_noise():
    """What on-the-fly corruption and the published files differ by: 23 % on average over these photos, 11 to 25."""
    photos = discover().datasets["samples/imagenet-photos"].spec.open(Path(), "val")

    def encoded(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=85, optimize=True)
        return np.asarray(Image.open(file)).astype(float)

    losses = []
    for index in range(len(photos.ids)):
        clean = on_canvas(photos.read(index), 224)
        draws = np.random.default_rng(index).normal(0, 0.08 * 255, clean.shape)
        noisy = np.clip(clean + draws, 0, 255).astype(np.uint8)
        before = np.sqrt(np.mean((noisy.astype(float) - clean) ** 2))
        losses.append(1 - np.sqrt(np.mean((encoded(noisy) - clean) ** 2)) / before)
    assert 0.2 < np.mean(losses) < 0.27
