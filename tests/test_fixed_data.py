"""Ids and labels are read once: what a data set says later changes nothing, and no label is cut to an integer."""

import copy
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from robharness import api
from robharness.planning.datasets import FixedDataset

FICKLE = '''
from dataclasses import dataclass

import numpy as np
import torch

from robharness import DatasetSpec, InputSpec, ModelSpec, hookimpl


class Data:
    """Other labels and ids at each look; and lists that reading changes."""

    def __init__(self, split):
        self.looks, self.split = 0, split
        self.lists = [f"e{i}" for i in range(12)], [i % 2 for i in range(12)]

    @property
    def ids(self):
        self.looks += self.split == "looks"
        return [f"late-{id}" for id in self.lists[0]] if self.looks > 1 else self.lists[0]

    @property
    def labels(self):
        self.looks += self.split == "looks"
        return [1 - label for label in self.lists[1]] if self.looks > 2 else self.lists[1]

    def read(self, index):
        if self.split == "lists":
            self.lists[0][index], self.lists[1][index] = "late", 1 - self.lists[1][index]
        return np.full((2, 2, 1), 255 * (index % 2), np.uint8)


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="data", summary="", labels="two", splits=(), open=lambda root, split: Data(split))


class Net(torch.nn.Module):
    def forward(self, x):
        return torch.stack([0.5 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.5], 1)


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="", input=InputSpec(shape=(1, 2, 2)), labels="two",
                    build=lambda params, weights: Net())
'''


@pytest.mark.parametrize("split", ["steady", "looks", "lists"])
def test_a_data_set_that_answers_otherwise_later_changes_no_outcome(split, tmp_path):
    path = tmp_path / "fickle.py"
    path.write_text(FICKLE)
    source = {"robharness": 1, "name": "fickle", "data": {"name": "fickle/data", "split": split},
              "models": [{"model": "fickle/net", "label": "Net"}]}  # fmt: skip
    found = api.run(source, store=tmp_path / "store", plugins=[str(path)]).clean("Net")
    assert sorted(found.columns["example"]) == sorted(f"e{i}" for i in range(12))
    assert found.accuracy == 1
    assert [int(example[1:]) % 2 for example in found.columns["example"]] == found.columns["label"].tolist()


class Data:
    remarks = ("it remarks",)

    def __init__(self, labels, ids=None):
        self.labels, self.ids = labels, ids or [f"e{i}" for i in range(len(labels))]

    def read(self, index):
        return index


class Text(str):
    __slots__ = ()

    def encode(self, *args):
        raise AssertionError("a method of the plugin's class")


WHOLE = [
    [0, 3],
    np.array([0, 3], np.uint8),
    np.array([0.0, 3.0]),
    torch.tensor([0, 3]),
    torch.tensor([0.0, 3.0]),
    [np.int16(0), Fraction(3)],
    (label for label in (0, 3)),
]


@pytest.mark.parametrize("labels", WHOLE, ids=lambda labels: type(labels).__name__)
def test_whole_numbers_of_any_type_are_labels(labels):
    found = FixedDataset(Data(labels, ["e0", "e1"]))
    assert found.labels == (0, 3) and {type(label) for label in found.labels} == {int}


PARTS = [2.7, float("nan"), float("inf"), np.float32(0.5), torch.tensor(1.5), True, np.True_, torch.tensor(True), "2",
         np.str_("2"), b"2", None, 1j, np.array([2]), torch.tensor([2]), [2], Fraction(1, 2)]  # fmt: skip


@pytest.mark.parametrize("label", PARTS, ids=repr)
def test_a_label_that_is_no_whole_number_is_refused_with_its_example(label):
    sentence = re.escape(f"the label {label!r} of 'e1' is not a whole number")
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        FixedDataset(Data([0, label]))


@pytest.mark.parametrize(
    ("label", "what"), [(-1, "negative"), (2**31, "larger"), (10**9999, "larger")], ids=lambda value: ""
)
def test_a_label_out_of_range_is_refused_in_a_short_sentence(label, what):
    with pytest.raises(ValueError, match=f"of 'e1' is {what}") as caught:
        FixedDataset(Data([0, label]))
    assert len(str(caught.value)) < 500


def test_all_else_is_the_data_sets_own():
    data = Data([0, 1], [Text("a"), "b"])
    found = FixedDataset(data)
    assert found.remarks == data.remarks and found.read(1) == 1 and found.ids == ("a", "b")
    assert {type(id) for id in found.ids} == {str} and found.fingerprint == FixedDataset(
        Data([0, 1], ["a", "b"])
    ).fingerprint
    assert copy.deepcopy(found).labels == pickle.loads(pickle.dumps(found)).labels == (0, 1)
    assert not hasattr(found, "strange")
