"""ImageNet-A and -R in the layout of the publisher's archives, and their classes in the publisher's code."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from robharness import MissingResource, UserError
from robharness_datasets import robharness_datasets
from robharness_datasets.imagenet import wnids
from robharness_datasets.imagenet_subsets import classes_of

SPECS = {spec.name: spec for spec in robharness_datasets()}
FILES = {
    "imagenet-a": ("n01498041/0.000116_digital clock _ digital clock_0.865662.jpg", "n12267677/0.01_fly _ fly_0.9.jpg"),
    "imagenet-r": ("n01443537/art_0.jpg", "n01443537/videogame_3.jpg", "n12267677/cartoon_5.jpg"),
}  # fmt: skip


@pytest.fixture(params=FILES)
def written(request, tmp_path):
    """Images in the publisher's naming, as tar unpacks them, with the archive's README."""
    for path in FILES[request.param]:
        file = tmp_path / request.param / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file)
    (tmp_path / request.param / "README.txt").write_text("ImageNet")
    return request.param, tmp_path


def test_the_classes_are_the_publishers():
    """The sha256 of `str(indices)` of the lists of 200 indices in both `eval.py`; A has 6, 11, 13 ... 986, 987, 988."""
    found = {name: hashlib.sha256(str(list(classes_of(name))).encode()).hexdigest()[:16] for name in FILES}
    assert found == {"imagenet-a": "a2d0b3a7d6a8360f", "imagenet-r": "1bfdbfb1fe9bc564"}
    assert {name: (len(classes_of(name)), classes_of(name)[:5], classes_of(name)[-3:]) for name in FILES} == {
        "imagenet-a": (200, (6, 11, 13, 15, 17), (986, 987, 988)),
        "imagenet-r": (200, (1, 2, 4, 6, 8), (981, 983, 988)),
    }


def test_a_declared_subset_is_read_as_by_torchvision(written):
    name, root = written
    (root / name / "SUBSET").touch()
    data, theirs = SPECS[name].open(root, "test"), ImageFolder(root / name)
    assert sorted(data.ids) == sorted(FILES[name])
    published = {wnid: number for wnid, number in wnids().items() if number in classes_of(name)}
    assert set(theirs.classes) <= set(published)
    for id, label in zip(data.ids, data.labels, strict=True):
        assert label == wnids()[id.partition("/")[0]]
    assert data.read(0).shape == (4, 4, 3)


def test_an_incomplete_copy_and_other_classes_are_refused(written):
    name, root = written
    with pytest.raises(MissingResource, match=rf"images of {name} \(there are {len(FILES[name])}\)") as caught:
        SPECS[name].open(root, "test")
    assert f"{name}.tar" in str(caught.value)
    other = next(wnid for wnid, number in wnids().items() if number not in classes_of(name))
    (root / name / other).mkdir()
    with pytest.raises(UserError, match=f"{other} is none of the 200 classes of {name}"):
        SPECS[name].open(root, "test")
    with pytest.raises(MissingResource, match="there are 0"):
        SPECS[name].open(root / "nowhere", "test")


def test_data_sets_of_imagenets_classes_know_both_masks():
    for name in ("imagenet", "imagenet-folder", "imagenet-a", "imagenet-r"):
        assert SPECS[name].masks == {each: classes_of(each) for each in FILES}
