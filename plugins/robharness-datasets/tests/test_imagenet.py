"""ImageNet's folders: torchvision's classes and pixels, and errors for missing or misplaced files."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from PIL import Image
from torchvision.datasets import ImageFolder, imagenet

from robharness import MissingResource, UnreadableExample, UserError
from robharness_datasets import robharness_datasets, sort_imagenet
from robharness_datasets.imagenet import SPLITS, check_complete, wnids

SPEC = next(spec for spec in robharness_datasets() if spec.name == "imagenet")
NUMBERS = {"n01440764": 0, "n01518878": 9, "n02123045": 281, "n15075141": 999}


def photo(seed, height, width, channels=3):
    """A smooth image, uint8 (height, width, channels), which JPEG changes little."""
    rows, columns = np.mgrid[:height, :width]
    phases = np.random.default_rng(seed).uniform(0, 6, channels)
    waves = [np.sin(rows / 9 + phase) + np.cos(columns / 7 - phase) for phase in phases]
    return np.rint(127 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    """A subset of the validation set in the published layout: several sizes, a grey and a CMYK JPEG, a PNG."""
    val = tmp_path / "data" / "imagenet" / "val"
    for number, wnid in enumerate(NUMBERS):
        (val / wnid).mkdir(parents=True)
        for place in (293, 1021 + number):
            file = val / wnid / f"ILSVRC2012_val_{place:08}.JPEG"
            Image.fromarray(photo(place + number, 60 + number, 80)).save(file, "JPEG", quality=90)
    grey, cmyk, png = (val / "n01440764" / f"ILSVRC2012_val_0000{name}.JPEG" for name in ("0001", "0002", "0003"))
    Image.fromarray(photo(1, 50, 40)[..., 0], "L").save(grey, "JPEG")
    Image.fromarray(photo(2, 50, 40, 4), "CMYK").save(cmyk, "JPEG")
    Image.fromarray(photo(3, 50, 40)).save(png, "PNG")
    (val / "SUBSET").touch()
    return tmp_path / "data"


def test_ids_and_classes_are_torchvisions(root):
    opened = SPEC.open(root, "val")
    theirs = ImageFolder(root / "imagenet" / "val")
    assert opened.ids == [Path(path).relative_to(root / "imagenet" / "val").as_posix() for path, _ in theirs.samples]
    assert opened.ids[3] == "n01440764/ILSVRC2012_val_00000293.JPEG"
    assert opened.labels == [NUMBERS[theirs.classes[place]] for place in theirs.targets]


def test_the_classes_are_timms_in_order():
    [timm] = importlib.util.find_spec("timm").submodule_search_locations  # it takes seconds to import
    synsets = Path(timm) / "data" / "_info" / "imagenet_synsets.txt"
    assert list(wnids()) == synsets.read_text().split() == sorted(wnids())
    assert list(wnids().values()) == list(range(1000))
    assert {wnid: wnids()[wnid] for wnid in NUMBERS} == NUMBERS


def test_pixels_of_every_file_format_are_torchvisions(root):
    opened = SPEC.open(root, "val")
    theirs = ImageFolder(root / "imagenet" / "val")
    for index in range(len(theirs)):
        image = opened.read(index)
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
        np.testing.assert_array_equal(image, np.asarray(theirs[index][0]))


def test_pixels_are_those_of_another_decoder(root):
    opened = SPEC.open(root, "val")
    for index, id in enumerate(opened.ids):
        theirs = cv2.imread(str(root / "imagenet" / "val" / id))[..., ::-1]
        apart = np.abs(opened.read(index).astype(int) - theirs)
        assert apart.max() <= (2 if "00000002" in id else 0), "CMYK is rounded in another way"


def test_grey_cmyk_and_png_have_the_colours_that_were_saved(root):
    opened = SPEC.open(root, "val")
    grey, cmyk, png = (opened.read(index).astype(int) for index in range(3))
    np.testing.assert_array_equal(png, photo(3, 50, 40))
    assert np.ptp(grey, axis=2).max() == 0
    assert np.abs(grey - photo(1, 50, 40)[..., :1]).mean() < 4
    inks = photo(2, 50, 40, 4) / 255
    assert np.abs(cmyk - 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])).mean() < 4


def test_reading_in_threads_and_opening_again_give_the_same(root):
    opened, again = SPEC.open(root, "val"), SPEC.open(root, "val")
    assert (again.ids, again.labels) == (opened.ids, opened.labels)
    order = list(range(len(opened.ids)))[::-1] * 8
    with ThreadPoolExecutor(8) as threads:
        images = list(threads.map(opened.read, order))
    for index, image in zip(order, images, strict=True):
        np.testing.assert_array_equal(image, again.read(index))


def test_a_truncated_file_is_unreadable(root):
    file = root / "imagenet" / "val" / "n01440764" / "ILSVRC2012_val_00000001.JPEG"
    file.write_bytes(file.read_bytes()[:-200])
    opened = SPEC.open(root, "val")
    with pytest.raises(UnreadableExample, match="broken or truncated"):
        opened.read(0)
    file.write_bytes(b"<html>404</html>")
    with pytest.raises(UnreadableExample, match="not an image"):
        opened.read(0)


def test_a_deleted_file_costs_itself_and_a_folder_that_is_gone_is_missing(root):
    opened = SPEC.open(root, "val")
    shutil.rmtree(root / "imagenet" / "val" / "n01440764")
    with pytest.raises(UnreadableExample, match=r"cannot be opened .No such file or directory"):
        opened.read(0)
    shutil.rmtree(root / "imagenet" / "val")
    with pytest.raises(MissingResource, match="imagenet/val"):
        opened.read(0)


def test_more_than_eight_bits_are_refused_rather_than_truncated(root):
    file = root / "imagenet" / "val" / "n01440764" / "ILSVRC2012_val_00000001.JPEG"
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(file, "PNG")
    with pytest.raises(UnreadableExample, match="it has 16 bits per channel; convert it to 8 bits"):
        SPEC.open(root, "val").read(0)


# --- missing or misplaced files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_missing_folder_is_named_with_the_commands(tmp_path, split):
    with pytest.raises(MissingResource) as caught:
        SPEC.open(tmp_path / "my data", split)
    sentence = str(caught.value)
    assert f"{tmp_path}/my data/imagenet/{split}" in sentence
    assert f"tar -xf ILSVRC2012_img_{split}.tar -C '{tmp_path}/my data/imagenet/{split}'" in sentence
    assert "\n" not in sentence


def test_an_empty_folder_is_missing_even_as_a_subset(tmp_path):
    (tmp_path / "imagenet" / "val" / "n01440764").mkdir(parents=True)
    (tmp_path / "imagenet" / "val" / "SUBSET").touch()
    with pytest.raises(MissingResource, match="imagenet/val"):
        SPEC.open(tmp_path, "val")


def test_unsorted_images_are_refused_with_the_command_that_sorts(tmp_path):
    val = tmp_path / "imagenet" / "val"
    val.mkdir(parents=True)
    for number in range(3):
        (val / f"ILSVRC2012_val_0000000{number}.JPEG").touch()
    with pytest.raises(
        UserError,
        match=r"3 images that are not sorted into one folder.*Try: python -m robharness_datasets\.sort_imagenet "
        r"\S+/imagenet/val ILSVRC2012_devkit_t12\.tar\.gz$",
    ):
        SPEC.open(tmp_path, "val")


@pytest.fixture
def devkit(tmp_path, monkeypatch):
    """A development kit in the published layout whose four images have the numbers of three classes."""
    synsets = [(3, "n02123045", 0), (1, "n15075141", 0), (1001, "n00001740", 2), (2, "n01440764", 0)]
    rows = [(number, wnid, "words", "gloss", children) for number, wnid, children in synsets]
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    meta, folder = io.BytesIO(), "ILSVRC2012_devkit_t12/data"
    scipy.io.savemat(meta, {"synsets": np.array(rows, [(name, object) for name in names]).reshape(-1, 1)})
    file = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        truth = ("ILSVRC2012_validation_ground_truth.txt", b"2\n3\n1\n3\n")
        for name, content in (("meta.mat", meta.getvalue()), truth):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    published = imagenet.ARCHIVE_META["devkit"][0], hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(imagenet.ARCHIVE_META, "devkit", published)  # the published file is behind a registration
    return file


def test_validation_images_are_sorted_by_the_labels_of_the_development_kit(tmp_path, devkit):
    val = tmp_path / "imagenet" / "val"
    val.mkdir(parents=True)
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3, 4)]
    others = ["other.JPEG", "ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00000005.JPEG"]
    for name in (*names, *others):
        (val / name).write_text(name)
    (val / "n02123045").mkdir()
    (val / names[3]).rename(val / "n02123045" / names[3])  # before an interruption
    done = CliRunner().invoke(sort_imagenet.main, [str(val), str(devkit)])
    assert (done.exit_code, done.output) == (0, "sorted 3 images\n")
    found = {str(path.relative_to(val)): path.read_text() for path in val.rglob("*") if path.is_file()}
    folders = ["n01440764", "n02123045", "n15075141", "n02123045"]
    sorted_images = {f"{wnid}/{name}": name for wnid, name in zip(folders, names, strict=True)}
    assert found == sorted_images | {name: name for name in others}


def test_another_development_kit_moves_nothing(tmp_path, devkit):
    (tmp_path / "val").mkdir()
    image = tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG"
    image.touch()
    for content in (b"cut off", None):
        devkit.unlink() if content is None else devkit.write_bytes(content)
        done = CliRunner().invoke(sort_imagenet.main, [str(tmp_path / "val"), str(devkit)])
        assert done.exit_code == 1 and "is absent, or not the published ILSVRC2012_devkit_t12.tar.gz" in done.output
        assert image.exists()


def test_unknown_class_folders_are_refused_even_in_a_subset(root):
    (root / "imagenet" / "val" / "goldfish").mkdir()
    with pytest.raises(
        UserError, match=r"none of ImageNet's 1,000 classes \(1, such as goldfish\).*mv .*/val/goldfish"
    ):
        SPEC.open(root, "val")


def test_a_subset_without_subset_file_misses_the_other_images(root):
    (root / "imagenet" / "val" / "SUBSET").unlink()
    with pytest.raises(MissingResource) as caught:
        SPEC.open(root, "val")
    sentence = str(caught.value)
    assert "there are 11 of 50,000; classes without images: 996, such as n01443537" in sentence
    assert "classes without 50: 4, such as n01440764 with 5" in sentence
    assert f"(an empty file {root}/imagenet/val/SUBSET declares an intended subset)" in sentence
    assert "Published at https://image-net.org/download-images (it asks for a registration; save ILSVRC" in sentence


@pytest.fixture
def complete(tmp_path):
    """The whole validation set as empty files; most classes are links to one folder of fifty."""
    val = tmp_path / "imagenet" / "val"
    fifty = [tmp_path / "fifty", val / "n01440764", val / "n15075141"]
    for folder in fifty:
        folder.mkdir(parents=True)
        for place in range(50):
            (folder / f"ILSVRC2012_val_{place:08}.JPEG").touch()
    for wnid in wnids():
        if not (val / wnid).exists():
            (val / wnid).symlink_to(fifty[0])
    return tmp_path


def test_the_whole_validation_set_opens_but_not_with_one_file_less_or_more(complete):
    opened = SPEC.open(complete, "val")
    assert len(opened.ids) == len(set(opened.ids)) == 50_000
    assert opened.labels == [number for number in range(1000) for _ in range(50)]
    one = complete / "imagenet" / "val" / opened.ids[-1]
    one.unlink()
    with pytest.raises(MissingResource, match=r"49,999 of 50,000; classes without 50: 1, such as n15075141 with 49\)"):
        SPEC.open(complete, "val")
    one.with_name("two.JPEG").touch()
    assert len(SPEC.open(complete, "val").ids) == 50_000
    elsewhere = one.parent.parent / "n01440764" / "another.JPEG"
    one.with_name("two.JPEG").rename(elsewhere)
    with pytest.raises(MissingResource, match=r"50,000 of 50,000; classes without 50: 2, such as n01440764 with 51\)"):
        SPEC.open(complete, "val")
    elsewhere.rename(one)
    assert SPEC.open(complete, "val").ids == opened.ids


def test_opening_the_whole_set_again_lists_no_class(complete, monkeypatch):
    from robharness_datasets import listing

    monkeypatch.setattr(listing, "SETTLED_NS", 0)
    time.sleep(0.02)
    opened = SPEC.open(complete, "val")
    monkeypatch.setattr(listing, "images_in", lambda folder: pytest.fail(f"{folder} was listed again"))
    assert SPEC.open(complete, "val").ids == opened.ids


def check_train(found):
    page = SPLITS["train"].page(Path("train"))
    check_complete("all", Path("train"), found, 1_281_167, None, Path("SUBSET"), source=page, place=Path("train"))


def test_the_training_set_is_counted_as_a_whole():
    found = {wnid: ["a"] * 1281 for wnid in wnids()}
    found["n01440764"] = ["a"] * (1281 + 167)
    check_train(found)
    found["n15075141"] = []
    with pytest.raises(
        MissingResource, match=r"1,279,886 of 1,281,167; classes without images: 1, such as n15075141\)"
    ):
        check_train(found)


def test_a_training_set_is_read_like_the_validation_set(tmp_path):
    (tmp_path / "imagenet" / "train" / "n15075141").mkdir(parents=True)
    Image.fromarray(photo(0, 9, 9)).save(tmp_path / "imagenet" / "train" / "n15075141" / "n15075141_3.JPEG", "PNG")
    with pytest.raises(MissingResource, match=r"1 of 1,281,167; classes without images: 999"):
        SPEC.open(tmp_path, "train")
    (tmp_path / "imagenet" / "train" / "SUBSET").touch()
    opened = SPEC.open(tmp_path, "train")
    assert (opened.ids, opened.labels) == (["n15075141/n15075141_3.JPEG"], [999])
    np.testing.assert_array_equal(opened.read(0), photo(0, 9, 9))
