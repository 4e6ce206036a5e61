"""Image folders: class order of torchvision or of classes.txt, and ImageNet's classes by id or number."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from robharness import MissingResource, UnreadableExample, UserError
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


def test_images_in_subfolders_belong_to_the_class_as_in_torchvision(root):
    write(root, "pets/dog/small/b.png", "pets/dog/small/old/c.jpg", "pets/cat/d/e.png", "pets/dog.v2/x.png")
    (root / "pets" / "dog" / "small" / "notes.txt").touch()
    write(root, "pets/loose.png")
    opened, theirs = SPECS["folder"].open(root, "pets"), ImageFolder(root / "pets")
    expected = {str(Path(path).relative_to(root / "pets")): label for path, label in theirs.samples}
    assert dict(zip(opened.ids, opened.labels, strict=True)) == expected
    assert len(expected) == 8
    for id, index in zip(opened.ids, range(8), strict=True):
        np.testing.assert_array_equal(opened.read(index), np.asarray(Image.open(root / "pets" / id)))
    loose, others = opened.remarks
    assert loose.startswith("1 image beside the class folders") and others.startswith("1 file in class folders")


def test_whole_numbers_are_ordered_as_numbers_and_the_difference_to_torchvision_is_told(tmp_path):
    write(tmp_path, *(f"set/{number}/a.png" for number in range(12)))
    opened, theirs = SPECS["folder"].open(tmp_path, "set"), ImageFolder(tmp_path / "set")
    assert dict(zip(opened.ids, opened.labels, strict=True)) == {f"{n}/a.png": n for n in range(12)}
    assert theirs.class_to_idx["2"] == 4  # 0, 1, 10, 11, 2
    [remark] = opened.remarks
    assert "2 has the label 2. torchvision's ImageFolder sorts the names as text, where 2 has the label 4" in remark
    for_torchvision, as_numbers = re.findall(r"\((cd .*?classes\.txt)\)", remark)
    for command, labels in ((for_torchvision, theirs.class_to_idx), (as_numbers, {str(n): n for n in range(12)})):
        subprocess.run(command, shell=True, check=True)
        again = SPECS["folder"].open(tmp_path, "set")
        assert {id.split("/")[0]: label for id, label in zip(again.ids, again.labels, strict=True)} == labels
        assert again.remarks == ()
        (tmp_path / "set" / "classes.txt").unlink()


@pytest.mark.parametrize("names", [("00", "01", "10"), ("0", "1", "9"), ("1", "10", "2b"), ("cat", "10", "9")])
def test_other_orders_are_torchvisions_without_a_remark(tmp_path, names):
    write(tmp_path, *(f"set/{name}/a.png" for name in names))
    opened, theirs = SPECS["folder"].open(tmp_path, "set"), ImageFolder(tmp_path / "set")
    assert {id.split("/")[0]: label for id, label in zip(opened.ids, opened.labels, strict=True)} == theirs.class_to_idx
    assert opened.remarks == ()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_in_any_bytes_have_text_ids_and_are_read(tmp_path):
    folder = tmp_path / "set" / "cat"
    names = [
        b"caf\xe9.png",
        b"caf\\xe9.png",
        b"two\nlines.png",
        b"a 'quote\".png",
        b"\xff\xfe\x01.png",
        "\u00fc.png".encode(),
    ]
    names.append(b"x" * 250 + b".png")
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            Image.new("RGB", (3, 2), (number, 0, 0)).save(file, "PNG")
    opened = SPECS["folder"].open(tmp_path, "set")
    red = {id: int(opened.read(index)[0, 0, 0]) for index, id in enumerate(opened.ids)}
    assert red == {
        "cat/caf\\xe9.png\\": 0,
        "cat/caf\\xe9.png": 1,
        "cat/two\nlines.png": 2,
        "cat/a 'quote\".png": 3,
        "cat/\\xff\\xfe\x01.png": 4,
        "cat/\u00fc.png": 5,
        f"cat/{'x' * 250}.png": 6,
    }
    assert SPECS["folder"].open(tmp_path, "set").ids == opened.ids
    for id in opened.ids:
        id.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_class_in_other_bytes_is_named_in_classes_txt_by_its_bytes(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"set", b"caf\xe9")
    os.makedirs(folder)
    Image.new("RGB", (3, 2)).save(os.path.join(os.fsdecode(folder), "1.png"))
    (tmp_path / "set" / "classes.txt").write_bytes(b"\xef\xbb\xbftea\r\ncaf\xe9\r\n")
    opened = SPECS["folder"].open(tmp_path, "set")
    assert (opened.ids, opened.labels) == (["caf\\xe9/1.png"], [1])
    (tmp_path / "set" / "classes.txt").write_text("tea\n")
    with pytest.raises(UserError, match=r"caf\\xe9 is not a class of"):
        SPECS["folder"].open(tmp_path, "set")


def test_one_broken_image_costs_itself(root):
    (root / "pets" / "cat" / "1.PNG").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "pets" / "dog" / "lost.png").symlink_to("nowhere")
    opened = SPECS["folder"].open(root, "pets")
    assert opened.ids == ["cat/1.PNG", "dog/a.bmp", "dog/b.png", "dog/lost.png", "eel/x.png"]
    for index in (0, 3):
        with pytest.raises(UnreadableExample):
            opened.read(index)
    assert opened.read(1).shape == (4, 6, 3)


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
    (root / "pets" / "bee" / "deeper").mkdir(parents=True)
    (root / "pets" / "bee" / "deeper" / "x.txt").touch()
    with pytest.raises(FileNotFoundError, match="no valid file for the classes bee"):
        ImageFolder(root / "pets")
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
