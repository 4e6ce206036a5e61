"""Image folders: class order of torchvision or of classes.txt, and ImageNet's classes by id or number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from robharness import MissingResource, UserError
from robharness_datasets import robharness_datasets

SPECS = {spec.name: spec for spec in robharness_datasets()}


def write(root, *paths):
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5 + number, 4), (number, 2 * number, 255 - number)).save(file)


@pytest.fixture
def root(tmp_path):
    write(tmp_path, *(f"pets/{one}" for one in ("dog/b.png", "dog/a.bmp", "cat/1.PNG", "eel/x.png")))
    return tmp_path


def test_without_classes_txt_classes_ids_and_pixels_are_torchvisions(root):
    opened, theirs = SPECS["folder"].open(root, "pets"), ImageFolder(root / "pets")
    assert opened.ids == ["cat/1.PNG", "dog/a.bmp", "dog/b.png", "eel/x.png"]
    assert opened.ids == [str(Path(path).relative_to(root / "pets")) for path, _ in theirs.samples]
    assert opened.labels == theirs.targets
    for index in range(4):
        np.testing.assert_array_equal(opened.read(index), np.asarray(theirs[index][0]))


def test_classes_txt_numbers_all_classes_even_without_images(root):
    (root / "pets" / "classes.txt").write_text("eel\nant\n\ndog\ncat\n")
    opened = SPECS["folder"].open(root, "pets")
    assert opened.ids == ["cat/1.PNG", "dog/a.bmp", "dog/b.png", "eel/x.png"]
    assert opened.labels == [3, 2, 2, 0]


def test_a_class_that_is_not_in_classes_txt_is_refused(root):
    (root / "pets" / "classes.txt").write_text("eel\ncat\n")
    with pytest.raises(UserError, match=rf"pets/dog is not a class of {root}/pets/classes\.txt.*mv {root}/pets/dog"):
        SPECS["folder"].open(root, "pets")


def test_a_class_listed_twice_is_refused(root):
    (root / "pets" / "classes.txt").write_text("eel\ncat\ndog\ncat\n")
    with pytest.raises(UserError, match="names the class 'cat' twice"):
        SPECS["folder"].open(root, "pets")


def test_a_class_without_images_is_refused_since_it_would_shift_the_labels(root):
    write(root, "pets/bee/deeper/x.png")
    with pytest.raises(UserError, match=rf"pets/bee has no images and would count as a class.*ls -R {root}/pets/bee"):
        SPECS["folder"].open(root, "pets")


@pytest.mark.parametrize("name", ["folder", "imagenet-folder"])
def test_a_missing_folder_and_a_folder_outside_the_data_root_are_refused(root, name):
    with pytest.raises(MissingResource, match=f"{root}/none"):
        SPECS[name].open(root, "none")
    for split in ("../pets", str(root / "pets")):
        with pytest.raises(UserError, match="--data-root"):
            SPECS[name].open(root / "below", split)


def test_imagenets_classes_by_wordnet_id_or_number(tmp_path):
    write(
        tmp_path,
        "imagenet-r/n01443537/a.png",
        "imagenet-r/n15075141/b.png",
        "v2/7/a.png",
        "v2/10/b.png",
        "v2/999/c.png",
    )
    ids, numbers = (SPECS["imagenet-folder"].open(tmp_path, split) for split in ("imagenet-r", "v2"))
    assert (ids.ids, ids.labels) == (["n01443537/a.png", "n15075141/b.png"], [1, 999])
    assert dict(zip(numbers.ids, numbers.labels, strict=True)) == {"7/a.png": 7, "10/b.png": 10, "999/c.png": 999}


@pytest.mark.parametrize("name", ["1000", "n99999999", "goldfish", "007"])
def test_other_names_than_imagenets_are_refused(tmp_path, name):
    write(tmp_path, "set/7/a.png", f"set/{name}/a.png")
    with pytest.raises(UserError, match=f"set/{name} is not one of ImageNet's classes"):
        SPECS["imagenet-folder"].open(tmp_path, "set")
