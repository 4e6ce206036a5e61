"""`suites/ssl_zoo.yaml`: it can be read, and has every published encoder once, with its published accuracy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robharness import discover
from robharness import suite as suites
from robharness_ssl import table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def zoo():
    return suites.load(ROOT / "suites/ssl_zoo.yaml", discover())


def test_every_encoder_is_measured_once_by_its_own_classifier_or_by_a_probe(zoo):
    reference, *models = zoo.models
    assert reference.entry.name == "supervised/resnet50" and zoo.reference == reference.label
    measured = {}
    for model in models:
        encoder = model.params.encoder.name if model.entry.name == "probe/linear" else model.entry.name
        measured[encoder] = model.label
    wanted = {f"ssl/{entry.name}{'-linear' if entry.head else ''}": entry.top1 for entry in table.ENCODERS}
    wanted |= {f"ssl/{entry.name}": entry.top1 for entry in table.FINETUNED}
    assert measured.keys() == wanted.keys() and len(models) == len(wanted)
    (published,) = zoo.expected
    assert {label: cells["clean"] for label, cells in published.numbers.items()} == {
        measured[name]: top1 for name, top1 in wanted.items()
    }


def test_the_attacks_are_those_of_the_papers_table_1(zoo):
    of_paper = suites.load(ROOT / "suites/imagenet_weak.yaml", discover())
    assert [each.name for each in zoo.perturbations] == [each.name for each in of_paper.perturbations]


def test_the_comment_counts_the_files(zoo):
    files = set()
    for entry in table.ENCODERS:
        weights = entry.encoder if entry.head is None else entry.classifier_weights
        files |= {file.url for file in (weights.values() if isinstance(weights, dict) else [weights])}
    files |= {entry.file.url for entry in table.FINETUNED}
    (stated,) = re.findall(r"^# - (\d+) files of weights", (ROOT / "suites/ssl_zoo.yaml").read_text(), re.MULTILINE)
    assert int(stated) == len(files) + 1  # and supervised/resnet50's
