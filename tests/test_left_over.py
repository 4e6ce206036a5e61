"""Tensors of an own checkpoint that an encoder does not use: a run, a report and a later report name them."""

from pathlib import Path

import pytest
import torch

from robharness import api
from robharness.report import build

PLUGINS = [str(Path(__file__).parent / name) for name in ("toys.py", "trunks.py")]
HEAD = {"head.0.weight": torch.ones(2, 5), "head.0.bias": torch.ones(2)}


@pytest.fixture
def own():
    generator = torch.Generator().manual_seed(0)
    return {
        "1.weight": torch.empty(5, 64).normal_(generator=generator),
        "1.bias": torch.empty(5).normal_(generator=generator),
    }


def suite(folder, **choice):
    encoder = {"model": "trunks/flat", "weights": str(folder / "my.pt"), **choice}
    return {
        "robharness": 1,
        "name": "own",
        "data": {"name": "toys/pixels", "split": "test"},
        "models": [{"model": "trunks/probe", "encoder": encoder, "label": "Mine"}],
    }


def found(results):
    return [each for each in build(results).findings if each.code == "left-over"]


def test_what_an_encoder_leaves_over_is_a_note_of_the_run_and_of_the_report(own, tmp_path):
    torch.save({"teacher": {f"module.{key}": value for key, value in {**own, **HEAD}.items()}}, tmp_path / "my.pt")
    given = suite(tmp_path, inside="teacher", strip="module.")
    results = api.run(given, store=tmp_path, plugins=PLUGINS)
    assert all(each.is_complete for each in results.cells)
    [note] = found(api.load(given, store=tmp_path, plugins=PLUGINS))
    assert (note.subject, note.severity) == ("Mine", "note")
    assert note.message == "my.pt has 2 tensors that flat does not use: head.*"
    assert note.hint == "check that they are heads of the training, and no part of the encoder"


def test_an_encoder_that_uses_all_has_no_note(own, tmp_path):
    torch.save(own, tmp_path / "my.pt")
    api.run(suite(tmp_path), store=tmp_path, plugins=PLUGINS)
    assert found(api.load(suite(tmp_path), store=tmp_path, plugins=PLUGINS)) == []


def test_an_encoder_that_lacks_a_tensor_fails_its_cells_with_what_is_missing(own, tmp_path):
    torch.save({"1.weight": own["1.weight"], **HEAD}, tmp_path / "my.pt")
    results = api.run(suite(tmp_path), store=tmp_path, plugins=PLUGINS)
    [failure] = [str(failure) for each in results.cells for failure in each.failures]
    assert "1 keys are missing: 1.bias" in failure and "2 keys are left over: head.0.weight, head.0.bias" in failure
