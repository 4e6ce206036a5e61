"""Image folders: class order of torchvision or of classes.txt, and ImageNet's classes by id or number."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from robharness import MissingResource, UnreadableExample, UserError
from robharness_datasets import listing, robharness_datasets

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


def refusal(root):
    with pytest.raises(UserError) as caught:
        SPECS["folder"].open(root, "pets")
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    message = refusal(root)
    assert message.startswith(
        f"{root}/pets/dog is not a class of {root}/pets/classes.txt. Write the name of each class"
    )
    assert message.endswith(f"Try: edit {root}/pets/classes.txt")


@pytest.mark.parametrize(
    ("content", "near"),
    [
        ("Cat\ndog\neel\n", "; its class 0 is 'Cat', which differs in upper and lower case."),
        ("0\tcat\n1\tdog\n2\teel\n", "; its class 0 is '0\\tcat', which holds more than the name."),
        ("0 cat\n1 dog\n2 eel\n", "; its class 0 is '0 cat', which holds more than the name."),
        ("cat,dog,eel\n", "; its class 0 is 'cat,dog,eel', which holds more than the name."),
        ("eel\ndog\ncats\n", "; its class 2 is 'cats', which is spelled differently."),
    ],
)
def test_the_line_of_classes_txt_that_means_a_class_is_named(root, content, near):
    (root / "pets" / "classes.txt").write_text(content)
    message = refusal(root)
    assert message.startswith(f"{root}/pets/cat is not a class of {root}/pets/classes.txt{near} Write")
    assert message.endswith(f"Try: edit {root}/pets/classes.txt") and "mv " not in message


def test_classes_txt_in_another_unicode_normalization_or_encoding_is_named(tmp_path):
    write(tmp_path, "pets/caf\u00e9/a.png")
    (tmp_path / "pets" / "classes.txt").write_text("cafe\u0301\n")
    assert "(Unicode normalization)" in refusal(tmp_path)
    (tmp_path / "pets" / "classes.txt").write_bytes(b"th\xe9\n")
    assert "classes.txt; the file is not in UTF-8. Write" in refusal(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_classes_txt_in_utf_16_is_named_with_the_command_that_converts_it(root, encoding):
    (root / "pets" / "classes.txt").write_bytes("eel\ndog\ncat\n".encode(encoding))
    message = refusal(root)
    assert message.startswith(f"{root}/pets/classes.txt is a text in UTF-")
    subprocess.run(message.partition("Try: ")[2], shell=True, check=True)
    assert SPECS["folder"].open(root, "pets").labels == [2, 1, 1, 0]


def test_an_empty_classes_txt_is_refused_with_the_command_that_fills_it(root):
    (root / "pets" / "classes.txt").write_text("\n \n")
    message = refusal(root)
    assert message.startswith(f"{root}/pets/classes.txt is empty. ")
    subprocess.run(message.partition("order: ")[2], shell=True, check=True)
    assert SPECS["folder"].open(root, "pets").labels == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "is a folder, so that"),
        (os.mkfifo, "is no regular file, so that"),
        (lambda path: path.symlink_to("gone.txt"), "is a link to a file that is not there, so that"),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links"),
    ],
    ids=["folder", "pipe", "lost link", "loop"],
)
def test_a_classes_txt_that_is_no_file_is_refused_instead_of_ignored(root, make, reason):
    make(root / "pets" / "classes.txt")
    message = refusal(root)
    assert message.startswith(f"{root}/pets/classes.txt {reason}")
    assert message.endswith(f"Try: ls -ld {root}/pets/classes.txt")


@pytest.mark.parametrize("target", ["gone", "bee"], ids=["lost", "loop"])
def test_a_class_that_is_a_link_to_nowhere_is_refused_since_it_would_shift_the_labels(root, target):
    (root / "pets" / "bee").symlink_to(target)
    message = refusal(root)
    assert message.startswith(f"{root}/pets/bee is a link that leads nowhere and would count as a class. Remove it, or")
    assert message.endswith(f"Try: ls -ld {root}/pets/bee")
    (root / "pets" / "classes.txt").write_text("bee\ncat\ndog\neel\n")
    opened = SPECS["folder"].open(root, "pets")
    assert opened.labels == [1, 2, 2, 3]
    assert opened.remarks == (f"1 link that leads nowhere is left out: {root}/pets/bee",)
    (root / "pets" / "classes.txt").write_text("cat\ndog\neel\n")
    assert refusal(root).startswith(f"{root}/pets/bee is not a class of {root}/pets/classes.txt. ")


def test_a_lost_link_in_a_class_costs_itself_until_its_target_is_back(root, monkeypatch):
    monkeypatch.setattr(listing, "SETTLED_NS", 0)
    (root / "pets" / "cat" / "more").symlink_to(root / "elsewhere")
    assert len(SPECS["folder"].open(root, "pets").ids) == 4
    write(root, "elsewhere/x.png")
    opened = SPECS["folder"].open(root, "pets")
    assert "cat/more/x.png" in opened.ids and opened.remarks == ()


@pytest.fixture
def another_user():
    """A folder of pets that is read as a user who is not its owner."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write(root, "pets/cat/a.png", "pets/cat/deep/b.png", "pets/dog/c.png")
        (root / "pets" / "classes.txt").write_text("dog\ncat\n")
        before = os.geteuid()
        try:
            if before == 0:
                os.seteuid(65534)
            yield root
        finally:
            os.seteuid(before)
            for path in (root / "pets", root / "pets" / "cat", root / "pets" / "cat" / "deep"):
                path.chmod(0o755)


def close(path):
    """Take all rights to a path away."""
    euid = os.geteuid()
    try:
        os.seteuid(os.getuid())
        path.chmod(0)
    finally:
        os.seteuid(euid)


@pytest.mark.skipif(os.name != "posix", reason="rights are others elsewhere")
@pytest.mark.parametrize("name", ["pets", "pets/cat", "pets/classes.txt"])
def test_a_path_without_the_right_to_read_it_is_named(another_user, name):
    close(another_user / name)
    path = another_user / ("pets/classes.txt" if name == "pets/classes.txt" else name)
    assert refusal(another_user) == f"{path} cannot be read: Permission denied. Try: ls -ld {path}"


@pytest.mark.skipif(os.name != "posix", reason="rights are others elsewhere")
def test_a_subfolder_of_a_class_without_the_right_to_read_it_costs_itself(another_user):
    close(another_user / "pets" / "cat" / "deep")
    opened = SPECS["folder"].open(another_user, "pets")
    assert (opened.ids, opened.labels) == (["cat/a.png", "dog/c.png"], [1, 0])
    (remark,) = opened.remarks
    assert remark == f"{another_user}/pets/cat/deep cannot be read: Permission denied; its images are left out"


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
    with pytest.raises(MissingResource, match=rf"{root}/none\. To get it: .*or correct `split:`, the folder's path"):
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
