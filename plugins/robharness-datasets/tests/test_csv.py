"""`datasets/csv`: images as a CSV file lists them, read from a suite; mistakes are named with their line."""

from __future__ import annotations

import csv
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
from robharness_datasets.csv_file import CsvParams, open_csv

ROWS = [("img/a.png", "cat", "val"), ("img/b, c.png", "dog", "train"), ("img/ü.png", "cat", "val")]


@pytest.fixture
def folder(tmp_path):
    """Three images, one in a name with a comma, and the file that lists them, as Python's csv module writes it."""
    (tmp_path / "img").mkdir()
    for number, (path, _, _) in enumerate(ROWS):
        Image.fromarray(np.full((4, 5, 3), number * 50, np.uint8)).save(tmp_path / path)
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("path", "label", "part"), *ROWS])
    return tmp_path


def opened(folder, split="list", text=None, **options):
    if text is not None:
        (folder / "list.csv").write_text(text, encoding="utf-8")
    return open_csv(CsvParams(file=folder / "list.csv", **options), folder, split)


def planned(folder, labels="csv", **data):
    """The plan of a suite in the folder, with a model of this label space."""
    registry = discover()
    spec = ModelSpec(name="net", summary="s", input=InputSpec(shape=(3, 4, 5)), labels=labels, build=lambda p, w: None)
    registry.models["mine/net"] = registry.add("models", spec, registry.datasets["datasets/csv"].origin)
    suite = {"robharness": 1, "name": "x", "data": {"name": "datasets/csv", "file": "list.csv", **data}}
    (folder / "suite.json").write_text(json.dumps(suite | {"models": [{"model": "datasets/net", "label": "Net"}]}))
    return plan(load(folder / "suite.json", registry), folder)


def test_a_file_with_a_byte_order_mark_quotes_and_names_is_read(folder):
    data = opened(folder)
    assert list(data.ids) == [path for path, _, _ in ROWS]
    assert list(data.labels) == [0, 1, 0]
    assert [data.read(index)[0, 0, 0] for index in range(3)] == [0, 50, 100]


def test_a_suite_names_the_file_relative_to_itself_and_its_split_is_the_files_name(folder):
    data = planned(folder).data
    assert (data.name, data.dataset.ids) == ("datasets/csv/list", tuple(path for path, _, _ in ROWS))


def test_a_column_may_hold_the_splits_whose_classes_are_numbered_together(folder):
    data = planned(folder, split_column="part", split="train").data
    assert (data.name, data.dataset.ids, data.dataset.labels) == ("datasets/csv/train", ("img/b, c.png",), (1,))
    with pytest.raises(SuiteError, match="missing key 'split'"):
        planned(folder, split_column="part")
    with pytest.raises(UserError, match="the split 'test' in its column 'part'; it has 'train', 'val'"):
        opened(folder, "test", split_column="part")


def test_images_without_labels_have_no_label_space(folder):
    data = planned(folder, labels="instances", label_column=None).data
    assert data.entry.spec.labels == "none"
    assert set(data.dataset.labels) == {0}
    with pytest.raises(SuiteError, match="has labels 'csv', datasets/csv has 'none'"):
        planned(folder, label_column=None)


def test_the_label_space_is_an_option_and_other_models_are_refused(folder):
    text = "path,label\nimg/a.png,n01443537\nimg/ü.png,999\n"
    assert list(opened(folder, text=text, labels="imagenet-1k").labels) == [1, 999]
    with pytest.raises(SuiteError, match="has labels 'imagenet-1k', datasets/csv has 'csv'"):
        planned(folder, labels="imagenet-1k")


@pytest.mark.parametrize("kind", ["list", "file"])
def test_names_of_classes_number_the_labels(folder, kind):
    (folder / "names.txt").write_text("dog\nbird\ncat\n")
    names = ("dog", "bird", "cat") if kind == "list" else folder / "names.txt"
    assert list(opened(folder, class_names=names).labels) == [2, 0, 2]


def test_ids_roots_and_delimiters_are_options(folder):
    text = "name;label;key\na.png;0;x\na.png;1;y\n"
    data = opened(folder, text=text, delimiter=";", path_column="name", id_column="key", root=folder / "img")
    assert (list(data.ids), list(data.labels)) == (["x", "y"], [0, 1])


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("path,label\nimg/a.png,0\nimg/a.png,1\n", {}, r"list\.csv:3: this line has the path of line 2; for one image"),
        ("path,label\nimg/a.png,0,1\n", {}, r"list\.csv:2: this line has 3 values, and the first line has 2"),
        ("path,label\n\nimg/a.png,\n", {}, r"list\.csv:3: this line has no label"),
        ("path,label\n,1\n", {}, r"list\.csv:2: this line has no path"),
        ("path,label\nimg/a.png,\"1\n", {}, r"list\.csv:2: this line is no CSV: unexpected end of data"),
        ("path,lable\nimg/a.png,1\n", {}, "has no column 'label'; its first line has 'path', 'lable'"),
        ("path,label\n", {}, "lists no images"),
        ("", {}, "has no column 'path'; its first line has none"),
        ("path,label\nimg/a.png,cat\n", {"labels": "cifar-10"}, "2: this line has the label 'cat', which is not a num"),
        ("path,label\nimg/a.png,cow\n", {"class_names": ("cat", "dog")}, "'cow', which is not one of the 2 names"),
        ("path,label\nimg/a.png,2\n", {"class_names": ("cat", "dog")}, "'2', which is not one of the 2 names"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(folder, text, options, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        opened(folder, text=text, **options)
    assert "Try: " in str(caught.value)


def test_missing_files_are_named_with_their_lines(folder):
    lines = "".join(f"img/{number}.png,0\n" for number in range(9))
    with pytest.raises(MissingResource) as caught:
        opened(folder, text=f"path,label\nimg/a.png,0\n{lines}")
    assert "9 of 10 images" in str(caught.value)
    assert "line 3: img/0.png; line 4: img/1.png" in str(caught.value)
    assert "and 4 more" in str(caught.value)
    (folder / "list.csv").unlink()
    with pytest.raises(MissingResource, match=r"the CSV file of the images"):
        opened(folder)
    [missing] = planned(folder).missing
    assert "correct `file:` in the suite" in str(missing)


def test_another_encoding_is_named_with_the_command_that_converts_it(folder):
    (folder / "list.csv").write_bytes("path,label\nimg/a.png,0\nimg/ü.png,0\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"list\.csv:3: the byte 0xfc is no UTF-8; .* iconv -f LATIN1"):
        opened(folder)


def test_the_identity_follows_the_content_of_the_file(folder):
    keys = [planned(folder).cells[0].key]
    (folder / "list.csv").write_text("path,label\nimg/a.png,0\n")
    keys.append(planned(folder).cells[0].key)
    (folder / "list.csv").write_text("path,label\nimg/a.png,1\n")
    keys += [planned(folder).cells[0].key, planned(folder, root=str(folder)).cells[0].key]
    assert len(set(keys[:3])) == 3
    assert keys[3] == keys[2]
