"""ImageNet-C: the published JPEGs by id and severity, without resizing, in both layouts of unpacked archives."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import robharness
from robharness import Batch, MissingResource, UserError
from robharness_datasets import robharness_corruptions
from robharness_datasets.imagenet import wnids

SPECS = {spec.name: spec for spec in robharness_corruptions() if spec.name.startswith("imagenet-c")}
NEAREST = str(Path(__file__).with_name("nearest.py"))
GREY = {"n01440764": 51, "n01514668": 127, "n01518878": 204}
"""WordNet ids of the classes 0, 7 and 9 -> grey level that the networks of nearest.py classify as them."""
IDS = [f"{wnid}/ILSVRC2012_val_{place:08}.JPEG" for wnid in GREY for place in (7, 293, 4100)]
ARCHIVES = {
    "blur": ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"],
    "digital": ["contrast", "elastic_transform", "jpeg_compression", "pixelate"],
    "extra": ["gaussian_blur", "saturate", "spatter", "speckle_noise"],
    "noise": ["gaussian_noise", "impulse_noise", "shot_noise"],
    "weather": ["brightness", "fog", "frost", "snow"],
}
"""Published archive -> its corruptions."""


def write(folder, size=224, spread=110):
    """Write a small corrupted copy in the published layout: JPEGs of quality 85, one folder per severity and class."""
    for severity in range(1, 6):
        draws = np.random.default_rng(severity)
        for id in IDS:
            file = folder / str(severity) / id
            file.parent.mkdir(parents=True, exist_ok=True)
            grey = GREY[id[:9]] + draws.integers(-spread, spread + 1) * severity / 5
            image = np.clip(draws.normal(grey, 20, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(file, "JPEG", quality=85, optimize=True)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data" / "imagenet-c").mkdir(parents=True)
    (tmp_path / "data" / "imagenet-c" / "SUBSET").touch()
    return tmp_path / "data"


def batch(ids, side=224):
    canvas = torch.zeros(len(ids), side, side, 3, dtype=torch.uint8)
    return Batch(ids, torch.zeros(len(ids), 3, 8, 8), torch.zeros(len(ids), dtype=torch.int64), canvas)


@pytest.mark.parametrize("place", ["noise/gaussian_noise", "gaussian_noise"])
def test_pixels_are_those_of_the_files_in_the_order_of_the_batch(root, place):
    folder = root / "imagenet-c" / place
    write(folder)
    corruption = SPECS["imagenet-c/gaussian_noise"].open(None, root)
    ids = [IDS[5], IDS[0], IDS[8]]
    for severity in range(1, 6):
        found = corruption.perturb(None, batch(ids), severity, None)
        assert (found.dtype, found.shape) == (torch.uint8, (3, 224, 224, 3))
        for image, id in zip(found.numpy(), ids, strict=True):
            theirs = cv2.imread(str(folder / str(severity) / id))[..., ::-1]
            np.testing.assert_array_equal(image, theirs)


def test_names_groups_and_archives():
    by_name = {spec.name: spec.group for spec in SPECS.values()}
    assert len(by_name) == 19
    for archive, names in ARCHIVES.items():
        for name in names:
            full = f"imagenet-c-extra/{name}" if archive == "extra" else f"imagenet-c/{name}"
            group = "digital" if name == "brightness" else archive  # the paper's group, not the publisher's
            assert by_name[full] == group
            with pytest.raises(
                MissingResource, match=f"c/{archive}/{name} and .*c/{name}. .* tar -xf .*/{archive}.tar -C"
            ):
                SPECS[full].open(None, Path("nowhere"))
    assert all(spec.randomness == "none" and spec.severities == (1, 2, 3, 4, 5) for spec in SPECS.values())


@pytest.mark.parametrize(("name", "archive"), [(name, archive) for archive in ARCHIVES for name in ARCHIVES[archive]])
def test_a_corruption_is_found_in_the_folder_of_its_archive(root, name, archive):
    file = root / "imagenet-c" / archive / name / "3" / IDS[0]
    file.parent.mkdir(parents=True)
    grey = len(name) + len(archive)
    Image.new("RGB", (224, 224), (grey, grey, grey)).save(file, "JPEG")
    spec = SPECS["imagenet-c-extra/" + name if archive == "extra" else "imagenet-c/" + name]
    found = spec.open(None, root).perturb(None, batch(IDS[:1]), 3, None)
    assert torch.equal(found, torch.full((1, 224, 224, 3), grey, dtype=torch.uint8))


def test_groups_are_those_of_the_rendered_corruptions():
    registry = robharness.discover()
    rendered = {name: entry.spec.group for name, entry in registry.corruptions.items() if "corruptions/" in name}
    for name in (one for archive, names in ARCHIVES.items() if archive != "extra" for one in names):
        assert SPECS[f"imagenet-c/{name}"].group == rendered[f"corruptions/{name}"]


def test_images_of_another_size_are_refused(root):
    write(root / "imagenet-c" / "fog", size=256)
    corruption = SPECS["imagenet-c/fog"].open(None, root)
    with pytest.raises(UserError, match="256 x 256 px, not the published 224 x 224"):
        corruption.perturb(None, batch(IDS), 1, None)


def test_another_canvas_is_refused_with_the_suite_line(root):
    write(root / "imagenet-c" / "fog")
    corruption = SPECS["imagenet-c/fog"].open(None, root)
    with pytest.raises(UserError, match=r"224 x 224 px.*256 x 256 px\. Try: set `canvas: 224` in the suite$"):
        corruption.perturb(None, batch(IDS, side=256), 1, None)


def test_a_missing_example_is_named(root):
    write(root / "imagenet-c" / "fog")
    corruption = SPECS["imagenet-c/fog"].open(None, root)
    with pytest.raises(MissingResource, match=r"fog/2/n01440764/ILSVRC2012_val_00000008\.JPEG"):
        corruption.perturb(None, batch(["n01440764/ILSVRC2012_val_00000008.JPEG"]), 2, None)


def test_a_subset_without_subset_file_misses_the_other_images(root):
    write(root / "imagenet-c" / "fog")
    (root / "imagenet-c" / "SUBSET").unlink()
    with pytest.raises(MissingResource) as caught:
        SPECS["imagenet-c/fog"].open(None, root)
    sentence = str(caught.value)
    assert (
        "all of the images of ImageNet-C's fog of severity 1 (there are 9 of 50,000; classes without images: 997"
        in sentence
    )
    archive = f"{root}/imagenet-c/weather.tar"
    assert f"-o {archive} https://zenodo.org/records/2235448/files/weather.tar && tar -xf {archive} -C" in sentence
    assert f"(an empty file {root}/imagenet-c/SUBSET declares an intended subset)" in sentence


@pytest.mark.parametrize("place", [".", "weather", "weather/fog"])
def test_the_subset_file_may_be_in_any_parent_folder(root, place):
    write(root / "imagenet-c" / "weather" / "fog")
    (root / "imagenet-c" / "SUBSET").rename(root / "imagenet-c" / place / "SUBSET")
    assert SPECS["imagenet-c/fog"].open(None, root).perturb(None, batch(IDS), 2, None).shape == (9, 224, 224, 3)


def test_each_severity_may_have_its_own_subset_file(root):
    (root / "imagenet-c" / "SUBSET").unlink()
    folder = root / "imagenet-c" / "weather" / "fog"
    write(folder)
    for severity in range(1, 5):
        (folder / str(severity) / "SUBSET").touch()
    with pytest.raises(MissingResource, match="fog of severity 5"):
        SPECS["imagenet-c/fog"].open(None, root)
    (folder / "5" / "SUBSET").touch()
    assert SPECS["imagenet-c/fog"].open(None, root).perturb(None, batch(IDS), 5, None).shape == (9, 224, 224, 3)


def test_a_severity_with_empty_folders_is_missing(root):
    (root / "imagenet-c" / "SUBSET").unlink()
    folder = root / "imagenet-c" / "fog"
    for severity in range(1, 6):
        (folder / str(severity)).mkdir(parents=True)
    for wnid in wnids():
        for severity in (1, 2):
            (folder / str(severity) / wnid).mkdir()
    first = next(iter(wnids()))
    with pytest.raises(
        MissingResource, match=f"severity 1 .there are 0 of 50,000; classes without images: 1000, such as {first}"
    ):
        SPECS["imagenet-c/fog"].open(None, root)


def test_unknown_class_folders_are_refused(root):
    write(root / "imagenet-c" / "fog")
    (root / "imagenet-c" / "fog" / "4" / "goldfish").mkdir()
    with pytest.raises(UserError, match=r"fog/4 has folders that are none of ImageNet's 1,000 classes"):
        SPECS["imagenet-c/fog"].open(None, root)


# --- a suite ---------------------------------------------------------------------------------------------------------


def nearest(file):
    """Predict a JPEG like nearest.py's network, without it and with another decoder."""
    mean = cv2.imread(str(file)).mean() / 255
    return min({0: 0.2, 7: 0.5, 9: 0.8}.items(), key=lambda pair: abs(pair[1] - mean))[0]


@pytest.fixture
def small(root):
    """Write ImageNet and ImageNet-C in their published layouts, with nine images; return a suite over them."""
    for id in IDS:
        file = root / "imagenet" / "val" / id
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 260), (GREY[id[:9]],) * 3).save(file, "JPEG")
    (root / "imagenet" / "val" / "SUBSET").touch()
    write(root / "imagenet-c" / "noise" / "gaussian_noise")
    write(root / "imagenet-c" / "weather" / "brightness", spread=160)
    return {
        "robharness": 1,
        "name": "small",
        "data": {"name": "datasets/imagenet", "split": "val"},
        "models": [{"model": "nearest/imagenet-1k", "label": "Nearest", "reference": True}],
        "corruptions": [
            {"corruption": f"datasets/imagenet-c/{name}", "severity": [1, 5]}
            for name in ("gaussian_noise", "brightness")
        ],
    }


def test_predictions_of_a_suite_match_the_files_of_imagenet_c(root, small, tmp_path):
    results = robharness.run(small, store=tmp_path / "store", data=root, plugins=[NEAREST])
    assert results.is_complete
    assert results.clean("Nearest").accuracy == 1
    cells = results.of("Nearest", "corruption")
    assert len(cells) == 4
    for result in cells:
        perturbation = result.cell.perturbation
        name = perturbation.entry.name.rpartition("/")[2]
        folder = root / "imagenet-c" / {"gaussian_noise": "noise", "brightness": "weather"}[name] / name
        found = dict(zip(result.columns["example"], result.columns["prediction"], strict=True))
        assert found == {id: nearest(folder / str(int(perturbation.severity)) / id) for id in IDS}
    assert min(result.accuracy for result in cells) < 0.8
    assert {result.cell.perturbation.entry.spec.group for result in cells} == {"noise", "digital"}


def test_a_suite_with_another_canvas_is_refused_with_the_suite_line(root, small, tmp_path):
    with pytest.raises(
        UserError, match=r"gaussian_noise has images of 224 px, the canvas has 256; write `canvas: 224`"
    ):
        robharness.run(small | {"canvas": 256}, store=tmp_path / "store", data=root, plugins=[NEAREST])


def test_a_suite_is_refused_before_it_runs_if_images_are_missing(root, small, tmp_path):
    (root / "imagenet" / "val" / "SUBSET").unlink()
    (root / "imagenet-c" / "SUBSET").unlink()
    with pytest.raises(UserError) as caught:
        robharness.run(small, store=tmp_path / "store", data=root, plugins=[NEAREST])
    sentences = str(caught.value).splitlines()
    assert len(sentences) == 4
    assert "ImageNet's split val (there are 9 of 50,000" in sentences[1]
    assert "ImageNet-C's gaussian_noise of severity 1 (there are 9 of 50,000" in sentences[2]
    assert not (tmp_path / "store").exists()


def test_a_broken_image_counts_as_wrong_and_is_named(root, small, tmp_path):
    file = root / "imagenet" / "val" / IDS[4]
    file.write_bytes(file.read_bytes()[:-100])
    results = robharness.run(small, store=tmp_path / "store", data=root, plugins=[NEAREST])
    clean = results.clean("Nearest")
    assert (clean.n, clean.accuracy, clean.unreadable) == (9, 8 / 9, [IDS[4]])
