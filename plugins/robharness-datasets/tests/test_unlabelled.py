"""`datasets/images`: images of a folder and of those below it, without labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from robharness import MissingResource, UserError
from robharness.errors import SuiteError
from robharness.planning.planner import plan
from robharness.plugins import discover
from robharness.specs import InputSpec, ModelSpec
from robharness.suite import load
from robharness_datasets import robharness_datasets
from robharness_datasets.unlabelled import ImagesParams, open_images


def planned(folder, labels):
    """The plan of a suite in the folder, with a model of this label space."""
    registry = discover()
    spec = ModelSpec(name="net", summary="s", input=InputSpec(shape=(3, 4, 4)), labels=labels, build=lambda p, w: None)
    registry.models["datasets/net"] = registry.add("models", spec, registry.datasets["datasets/images"].origin)
    suite = {"robharness": 1, "name": "x", "data": {"name": "datasets/images", "folder": "photos"}}
    (folder / "suite.json").write_text(json.dumps(suite | {"models": [{"model": "datasets/net"}]}))
    return plan(load(folder / "suite.json", registry), folder)


@pytest.fixture
def folder(tmp_path):
    draws = np.random.default_rng(0)
    for path in ("z.png", "a/b.jpg", "a/deep/c.PNG"):
        file = tmp_path / "photos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (4, 4, 3), np.uint8)).save(file)
    (tmp_path / "photos" / "notes.txt").touch()
    (tmp_path / "photos" / ".hidden.png").touch()
    return tmp_path


def test_all_images_are_found_in_the_order_of_their_paths(folder):
    data = open_images(ImagesParams(folder=folder / "photos"), folder, "photos")
    assert list(data.ids) == ["a/b.jpg", "a/deep/c.PNG", "z.png"]
    assert list(data.labels) == [0, 0, 0]
    assert (data.read(2) == np.asarray(Image.open(folder / "photos" / "z.png"))).all()
    assert [remark.split(";")[0] for remark in data.remarks] == [
        "1 file in the folder is left out, since no image has the suffix (.txt 1)"
    ]


def test_a_suite_names_the_folder_relative_to_itself_and_its_split_is_the_folders_name(folder):
    data = planned(folder, "instances").data
    assert (data.name, data.dataset.ids) == ("datasets/images/photos", ("a/b.jpg", "a/deep/c.PNG", "z.png"))
    key = data.identity
    assert "params" not in key  # ids are identity, and neither the folder's path nor its bytes
    (folder / "moved").mkdir()
    (folder / "photos").rename(folder / "moved" / "photos")
    (folder / "photos").symlink_to(folder / "moved" / "photos")
    assert planned(folder, "instances").data.identity == key
    with pytest.raises(SuiteError, match="has labels 'imagenet-1k', datasets/images has 'none'"):
        planned(folder, "imagenet-1k")


@pytest.mark.parametrize("name", ["nothing", "empty", "photos/z.png"])
def test_a_folder_without_images_is_missing(folder, name):
    (folder / "empty").mkdir()
    with pytest.raises(MissingResource, match=name):
        open_images(ImagesParams(folder=folder / name), folder, "x")


def test_a_folder_of_images_without_classes_is_no_folder_of_classes(folder):
    (folder / "flat").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "flat" / "one.png")
    [spec] = [each for each in robharness_datasets() if each.name == "folder"]
    with pytest.raises(UserError, match=r"write `\{name: datasets/images, folder: .*flat\}`. Try: ls "):
        spec.open(folder, "flat")
