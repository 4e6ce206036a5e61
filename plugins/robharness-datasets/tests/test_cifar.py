"""CIFAR and CIFAR-C: the publishers' pixels, labels and order, read from files in the formats of Python 2 and NumPy."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torchvision import datasets

import robharness
from robharness import Batch, MissingResource, UserError
from robharness_datasets import robharness_corruptions, robharness_datasets
from robharness_datasets.cifar import PUBLISHED

SPECS = {spec.name: spec for spec in [*robharness_datasets(), *robharness_corruptions()]}
NAMES = ("cifar-10", "cifar-100")
NEAREST = str(Path(__file__).with_name("nearest.py"))
COUNT = 12


class Python2(pickle._Pickler):
    """Python's pickler with the strings of Python 2 and NumPy's old module names, as in the published files."""

    def save_text(self, text):
        content = text if isinstance(text, bytes) else text.encode("latin1")
        short = len(content) < 256
        self.write(b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content)))
        self.write(content)
        self.memoize(text)

    def save_function(self, value, name=None):
        self.write(f"c{value.__module__.replace('numpy._core', 'numpy.core')}\n{value.__qualname__}\n".encode())
        self.memoize(value)

    def save_class(self, value):
        self.write(f"cnumpy\n{'dtype' if issubclass(value, np.dtype) else value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch: ClassVar = pickle._Pickler.dispatch | {bytes: save_text, str: save_text, type: save_class}
    save_global = save_function


def python2(content):
    file = io.BytesIO()
    Python2(file, protocol=2).dump(content)
    return file.getvalue()


def rows(seed, count=COUNT):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write(root, name, count=COUNT):
    """Write a small CIFAR in the published layout with a file SUBSET; return the test labels."""
    published = PUBLISHED[name]
    folder = root / published.folder
    folder.mkdir(parents=True)
    (folder / "SUBSET").touch()
    for seed, file in enumerate([file for files in published.files.values() for file in files]):
        labels = np.random.default_rng(100 + seed).integers(0, published.classes, count).tolist()
        batch = {"batch_label": file, published.labels: labels, "data": rows(seed, count), "filenames": ["a.png"]}
        batch |= {"coarse_labels": [0] * count} if name == "cifar-100" else {}
        (folder / file).write_bytes(python2(batch))
    return labels


def write_corrupted(root, name, labels, corruption="gaussian_noise"):
    """Write the corrupted copy in the published layout; return its images, (5 * N, 32, 32, 3)."""
    folder = root / f"{name.upper()}-C"
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(7).integers(0, 256, (5 * len(labels), 32, 32, 3), dtype=np.uint8)
    np.save(folder / f"{corruption}.npy", images)
    np.save(folder / "labels.npy", np.array(5 * labels, dtype=np.uint8))
    return images


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def root(tmp_path, name):
    write(tmp_path / "data", name)
    return tmp_path / "data"


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_labels_and_order_are_torchvisions(root, name, split, monkeypatch):
    theirs = {"cifar-10": datasets.CIFAR10, "cifar-100": datasets.CIFAR100}[name]
    monkeypatch.setattr(theirs, "_check_integrity", lambda self: True)  # it accepts only the published files
    monkeypatch.setattr(theirs, "_load_meta", lambda self: None)
    expected = theirs(root, train=split == "train")
    opened = SPECS[name].open(root, split)
    assert opened.labels == expected.targets
    assert len(opened.ids) == len(set(opened.ids)) == len(expected)
    assert (opened.ids[0], opened.ids[-1]) == (f"{name}-{split}-00000", f"{name}-{split}-{len(expected) - 1:05}")
    for index in range(len(expected)):
        image = opened.read(index)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.asarray(expected[index][0]))
        image[:] = 0
        np.testing.assert_array_equal(opened.read(index), np.asarray(expected[index][0]))


def test_a_row_has_the_red_green_and_blue_plane(root, name):
    image = SPECS[name].open(root, "test").read(3)
    row = rows(seed=5 if name == "cifar-10" else 1)[3]
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel].ravel(), row[1024 * channel : 1024 * (channel + 1)])


def test_file_names_md5_and_url_are_torchvisions(name):
    theirs = {"cifar-10": datasets.CIFAR10, "cifar-100": datasets.CIFAR100}[name]
    assert PUBLISHED[name].folder == theirs.base_folder
    assert PUBLISHED[name].files == {"train": dict(theirs.train_list), "test": dict(theirs.test_list)}
    assert (PUBLISHED[name].archive.url, PUBLISHED[name].archive.md5) == (theirs.url, theirs.tgz_md5)


def test_files_other_than_the_published_ones_are_refused_without_subset_file(root, name):
    subset = root / PUBLISHED[name].folder / "SUBSET"
    subset.unlink()
    with pytest.raises(UserError) as caught:
        SPECS[name].open(root, "test")
    sentence = str(caught.value)
    assert "is not the published file, or is incomplete (its md5 is " in sentence
    archive = root / f"{name}-python.tar.gz"
    assert f"; an empty file {subset} declares an intended subset). Try: curl " in sentence
    assert sentence.endswith(
        f"-o {archive} 'https://www.cs.toronto.edu/~kriz/{archive.name}' && tar -xf {archive} -C {root} && rm {archive}"
    )


def test_a_missing_file_is_named_with_the_download_command(root, name):
    file = root / PUBLISHED[name].folder / next(iter(PUBLISHED[name].files["train"]))
    file.unlink()
    with pytest.raises(MissingResource, match=f"{file}.*tar -xf {root}/{name}-python.tar.gz -C {root} && rm"):
        SPECS[name].open(root, "train")
    assert len(SPECS[name].open(root, "test").ids) == COUNT


def test_files_of_holes_and_pickles_that_take_memory_are_refused(root, name):
    file = root / PUBLISHED[name].folder / next(iter(PUBLISHED[name].files["test"]))
    content = file.read_bytes()
    shape = b"cnumpy\nndarray\n\x8a\x08" + struct.pack("<q", 2**60) + b"\x85\x85R"
    for bomb in (b"\x80\x02}r\xfe\xff\xff\x7f" + content[3:-1] + b"X\xff\xff\xff\xff", b"\x80\x02" + shape + b"."):
        file.write_bytes(bomb)  # a memo of 2 billion places and a text of 4 GB; an array of 2 ** 60 numbers
        with pytest.raises(UserError, match=f"{file} is not a CIFAR file"):
            SPECS[name].open(root, "test")
    os.truncate(file, 2**40)
    (file.parent / "SUBSET").unlink()
    with pytest.raises(UserError, match=r"has 1,099,511,627,776 bytes, and the published files have less\. Try: curl"):
        SPECS[name].open(root, "test")


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(root, name, keep):
    file = root / PUBLISHED[name].folder / next(iter(PUBLISHED[name].files["test"]))
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=f"{file} is not a CIFAR file"):
        SPECS[name].open(root, "test")


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_that_would_run_code_run_none(root, name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = root / PUBLISHED[name].folder / next(iter(PUBLISHED[name].files["test"]))
    file.write_bytes(pickle.dumps({"data": Harm(), PUBLISHED[name].labels: []}, protocol))
    with pytest.raises(UserError, match=r"it names posix.mkdir, which data files do not need"):
        SPECS[name].open(root, "test")
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("data", "labels", "reason"),
    [
        (np.zeros((3, 3072), np.float32), [0, 1, 2], "float32"),
        (np.zeros((3, 1024), np.uint8), [0, 1, 2], r"\(3, 1024\)"),
        (np.zeros((3, 3072), np.uint8), [0, 1], "2 labels"),
        (np.zeros((3, 3072), np.uint8), [0, 1, 100], "labels from 0 to 100"),
        (np.zeros((3, 3072), np.uint8), [0, 1, -1], "labels from -1 to 1"),
    ],
)
def test_arrays_and_labels_unlike_cifar_are_refused(root, name, data, labels, reason):
    file = root / PUBLISHED[name].folder / next(iter(PUBLISHED[name].files["test"]))
    file.write_bytes(python2({"data": data, PUBLISHED[name].labels: labels}))
    with pytest.raises(UserError, match=reason):
        SPECS[name].open(root, "test")


# --- CIFAR-C ---------------------------------------------------------------------------------------------------------


def batch(name, rows, side=32):
    canvas = torch.zeros(len(rows), side, side, 3, dtype=torch.uint8)
    ids = [f"{name}-test-{row:05}" for row in rows]
    return Batch(ids, torch.zeros(len(rows), 3, side, side), torch.zeros(len(rows), dtype=torch.int64), canvas)


@pytest.fixture
def corrupted(root, name):
    return write_corrupted(root, name, SPECS[name].open(root, "test").labels)


def test_images_are_ordered_by_severity_and_then_by_test_example(root, name, corrupted):
    corruption = SPECS[f"{name}-c/gaussian_noise"].open(None, root)
    for severity in range(1, 6):
        found = corruption.perturb(None, batch(name, [5, 0, 11]), severity, None)
        assert found.dtype == torch.uint8
        start = (severity - 1) * COUNT
        np.testing.assert_array_equal(found.numpy(), corrupted[[start + 5, start, start + 11]])
        found.zero_()  # a copy, so that the corruption keeps its images
    again = corruption.perturb(None, batch(name, [5]), 5, None)
    np.testing.assert_array_equal(again.numpy(), corrupted[[4 * COUNT + 5]])


def test_another_canvas_or_data_set_is_refused_with_the_suite_line(root, name, corrupted):
    corruption = SPECS[f"{name}-c/gaussian_noise"].open(None, root)
    with pytest.raises(UserError, match=r"32 x 32 px.*224 x 224 px\. Try: set `canvas: 32` in the suite$"):
        corruption.perturb(None, batch(name, [0], side=224), 1, None)
    other = NAMES[1 - NAMES.index(name)]
    with pytest.raises(
        UserError, match=f"{other}-test-00000.*`data: {{name: datasets/{name}, split: test}}` in the suite$"
    ):
        corruption.perturb(None, batch(other, [0]), 1, None)


def test_labels_other_than_the_test_splits_are_refused(root, name, corrupted):
    labels = np.load(root / f"{name.upper()}-C" / "labels.npy")
    labels[-1] = (labels[-1] + 1) % 10
    np.save(root / f"{name.upper()}-C" / "labels.npy", labels)
    with pytest.raises(UserError, match=r"labels\.npy is not the test split's labels"):
        SPECS[f"{name}-c/gaussian_noise"].open(None, root)


def test_a_missing_or_broken_array_is_refused_with_the_download_command(root, name, corrupted):
    title = f"{name.upper()}-C"
    with pytest.raises(MissingResource, match=f"{root}/{title}/fog.npy.*tar -xf {root}/{title}.tar -C {root} && "):
        SPECS[f"{name}-c/fog"].open(None, root)
    file = root / title / "gaussian_noise.npy"
    content = file.read_bytes()
    for part in (b"", content[:40], content[:-1]):
        file.write_bytes(part)
        with pytest.raises(UserError, match=f"{file} is truncated"):
            SPECS[f"{name}-c/gaussian_noise"].open(None, root)
    zipped = io.BytesIO()
    np.savez(zipped, a=corrupted)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    huge = content.replace(b"(60, 32, 32, 3), }" + b" " * 12, b"(1099511627776, 32, 32, 3), }")
    for other in (zipped.getvalue(), pickled.getvalue(), huge):
        file.write_bytes(other)
        with pytest.raises(UserError, match=f"{file} is truncated or not a NumPy array"):
            SPECS[f"{name}-c/gaussian_noise"].open(None, root)
    np.save(file, corrupted[:-COUNT])
    with pytest.raises(UserError, match=r"\(48, 32, 32, 3\), not uint8 \(60, 32, 32, 3\)"):
        SPECS[f"{name}-c/gaussian_noise"].open(None, root)


def test_all_nineteen_are_declared(name):
    extra = {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    declared = {spec.name: spec for spec in robharness_corruptions() if spec.name.startswith(name + "-c")}
    assert {full.partition("-extra/")[2] for full in declared if "-extra/" in full} == extra
    assert len(declared) == 19
    assert all(spec.randomness == "none" and spec.severities == (1, 2, 3, 4, 5) for spec in declared.values())


# --- a suite ---------------------------------------------------------------------------------------------------------


def nearest(images):
    """Predict like the networks of nearest.py, without them: the class whose level is nearest to the mean."""
    levels = {0: 0.2, 7: 0.5, 9: 0.8}
    means = images.reshape(len(images), -1).mean(1) / 255
    return [min(levels, key=lambda number: abs(levels[number] - mean)) for mean in means]


def test_predictions_of_a_suite_match_the_files_of_cifar_c(tmp_path, name):
    labels = [0, 7, 9] * 7
    clean = np.repeat(np.array([{0: 51, 7: 127, 9: 204}[label] for label in labels], np.uint8)[:, None], 3072, axis=1)
    published = PUBLISHED[name]
    (tmp_path / published.folder).mkdir()
    (tmp_path / published.folder / "SUBSET").touch()
    [file] = published.files["test"]
    (tmp_path / published.folder / file).write_bytes(python2({"data": clean, published.labels: labels}))
    corrupted = {}
    for seed, corruption in enumerate(("fog", "brightness")):
        shift = np.random.default_rng(seed).integers(-120, 121, (5, 21, 1))
        rows = np.clip(clean + shift * np.arange(1, 6)[:, None, None] / 5, 0, 255).astype(np.uint8)
        corrupted[corruption] = rows.reshape(-1, 32, 32, 3)
        write_corrupted(tmp_path, name, labels, corruption)
        np.save(tmp_path / f"{name.upper()}-C" / f"{corruption}.npy", corrupted[corruption])

    suite = {
        "robharness": 1,
        "name": "small",
        "data": {"name": f"datasets/{name}", "split": "test"},
        "models": [{"model": f"nearest/{name}", "label": "Nearest", "reference": True}],
        "corruptions": [{"corruption": f"datasets/{name}-c/{one}", "severity": [1, 3, 5]} for one in corrupted],
        "canvas": 32,
    }
    results = robharness.run(suite, store=tmp_path / "store", data=tmp_path, plugins=[NEAREST])
    assert results.is_complete
    assert results.clean("Nearest").accuracy == 1
    cells = results.of("Nearest", "corruption")
    assert len(cells) == 6
    for result in cells:
        perturbation = result.cell.perturbation
        severity, corruption = int(perturbation.severity), perturbation.entry.name.rpartition("/")[2]
        expected = nearest(corrupted[corruption][21 * (severity - 1) : 21 * severity])
        found = dict(zip(result.columns["example"], result.columns["prediction"], strict=True))
        assert [found[f"{name}-test-{row:05}"] for row in range(21)] == expected
    assert min(result.accuracy for result in cells) < 0.8


def test_a_suite_is_refused_before_it_runs_if_files_are_missing(tmp_path):
    write(tmp_path, "cifar-10")
    suite = {
        "robharness": 1,
        "name": "small",
        "data": {"name": "datasets/cifar-10", "split": "test"},
        "models": [{"model": "nearest/cifar-10", "label": "Nearest", "reference": True}],
        "corruptions": [{"corruption": "datasets/cifar-10-c/fog", "severity": [1]}],
        "canvas": 32,
    }
    with pytest.raises(MissingResource, match=r"CIFAR-10-C/fog\.npy"):
        robharness.run(suite, store=tmp_path / "store", data=tmp_path, plugins=[NEAREST])
    assert not (tmp_path / "store").exists()
