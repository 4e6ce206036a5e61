"""Every option of every first-party plugin has a meaning, and the item that `show` prints is one of a suite."""

import re

import pytest
import yaml

from robharness import discover
from robharness.errors import SuiteError
from robharness.planning.description import describe_entry
from robharness.plugins.registry import KINDS
from robharness.suite import load

REGISTRY = discover()
ENTRIES = [(kind, entry) for kind in KINDS for entry in getattr(REGISTRY, kind).values()]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return [describe_entry(kind, entry, root) for kind, entry in ENTRIES]


def test_every_option_has_a_meaning(described):
    lacking = [f"{each['name']}: {option['name']}" for each in described for option in each["options"]
               if not option["meaning"]]  # fmt: skip
    assert not lacking, "add a line `name: meaning` to the docstring of the params"
    assert sum(len(each["options"]) for each in described) > 500


def test_every_entry_has_a_summary_and_an_origin(described):
    assert all(each["summary"] and each["plugin"].startswith("robharness") and each["version"] for each in described)


PLACEHOLDER = re.compile(r"\b(?:FILE|TEXT|VALUE|MODEL|DATA|COMPONENT|SPLIT)\b")


def test_the_items_that_are_shown_can_be_pasted(described):
    """Each is in a suite of its own, with data that fit; a word in capitals stands for what only the user knows."""
    failed, checked = {}, 0
    for each in described:
        if each["kind"] in ("component", "dataset") or PLACEHOLDER.search(each["example"]):
            continue
        labels, kind = "imagenet-1k", "image"
        if each["kind"] == "model":
            labels, kind = each["labels"], each["input"]["kind"]
        fitting = [data for data in REGISTRY.datasets.values() if (data.spec.labels, data.spec.kind) == (labels, kind)]
        if not fitting or not fitting[0].spec.splits:
            continue
        checked += 1
        suite = {"robharness": 1, "name": "shown", "models": [{"model": "samples/efficientnet-lite0", "label": "Net"}],
                 "data": {"name": fitting[0].name, "split": fitting[0].spec.splits[0]}, "canvas": "auto",
                 "attacks": [{"attack": "attacks/ddn"}],
                 "corruptions": [{"corruption": "corruptions/fog", "severity": 1}]}  # fmt: skip
        try:
            load(suite | yaml.safe_load(each["example"]), REGISTRY)
        except SuiteError as error:
            failed |= {each["name"]: error.errors}
    of_combinations = [name for name, lines in failed.items() if all(".0: one of " in line for line in lines)]
    assert {name: failed[name] for name in failed if name not in of_combinations} == {}
    assert checked > 100
