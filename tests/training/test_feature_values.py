"""Stored features are those of the encoder: of videos, after a lack of memory, and of files that change."""

import io
import json
import runpy
from textwrap import dedent

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from probes import filled, trunk_network
from robharness import UserError, api
from robharness.engine import listeners
from robharness.evaluation import features as banks
from robharness.store import Store
from robharness.training.train import train_models
from robharness.training.trainer import Machine, run_features
from toy_probing import PLUGINS, PROBES, plan, probe, suite
from toy_training import HERE

FILMS = str(HERE / "films.py")


def bank(source, store, plugins=PLUGINS):
    """Compute the features of the first head of a suite, and return them with their ids."""
    [model] = api.plan(source, store=store, plugins=plugins).untrained
    folder = model.features["train"].artefact.unfinished
    folder.mkdir(parents=True, exist_ok=True)
    run_features(model.features["train"], Store(store).files, listeners.Silent(), Machine())
    return np.load(folder / "features.npy"), json.loads((folder / "ids.json").read_text())


CLIPS = """
from dataclasses import dataclass

from robharness import Clips, DataRef, Encoder, InputSpec, ModelSpec, Preprocessing, Train, hookimpl


@dataclass(frozen=True, kw_only=True)
class Head:
    encoder: Encoder
    other: Encoder | None = None


def build(params, weights):
    import torch

    class Brightness(torch.nn.Module):
        def forward(self, x):
            return (4 * x.mean((2, 3, 4)) - 2).tanh()

    return Brightness()


@hookimpl
def robharness_models():
    shape = InputSpec(kind="video", shape=(3, 2, 6, 6))
    seen = Preprocessing(crop=6, clips=Clips(length=2, count=2))
    for name in ("brightness", "brightness2"):
        yield ModelSpec(name=name, summary="-", labels="none", features="", input=shape, preprocessing=seen,
                        build=build)
    given = lambda params: {"input": params.encoder.input, "preprocessing": params.encoder.preprocessing}
    data = lambda params: {"train": DataRef(name="films/films", split="torn")}
    yield ModelSpec(name="head", summary="-", labels="films", input=shape, params=Head, given=given, build=build,
                    weights=Train(data=data, train=print, features=lambda params: params.other or params.encoder))
"""


@pytest.fixture
def clips(tmp_path):
    path = tmp_path / "clips.py"
    path.write_text(dedent(CLIPS))
    return [str(path), FILMS]


def films(**options):
    model = {"model": "clips/head", "encoder": {"model": "clips/brightness"}, "label": "Head"} | options
    return {"robharness": 1, "name": "films", "data": {"name": "films/films", "split": "whole"}, "models": [model]}


def test_features_of_a_video_are_the_mean_over_its_clips_in_the_order_of_the_data(clips, store):
    """Videos of several lengths have several clip layouts; the rows of one pass have one."""
    found, ids = bank(films(), store, clips)
    film = runpy.run_path(FILMS)["film"]
    readable = [index for index in range(20) if index != 3]
    assert ids == [f"film-{index:02}" for index in readable]
    expected = []
    for index in readable:
        frames = film(index)[:, :, 1:7].astype(np.float64) / 255
        both = [np.tanh(4 * part.mean((0, 1, 2)) - 2) for part in (frames[:2], frames[-2:])]
        expected.append(np.mean(both, axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_features_are_those_of_the_encoder_that_the_plugin_names(clips, store):
    [model] = api.plan(films(other={"model": "clips/brightness2"}), store=store, plugins=clips).untrained
    assert model.features["train"].encoder.entry.name == "clips/brightness2"


def test_a_lack_of_memory_halves_the_passes_and_changes_no_feature(file, store, tmp_path, passes, monkeypatch):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    whole, ids = bank(source, tmp_path / "whole")
    before = len(passes())
    monkeypatch.setenv("PROBES_MISTAKE", "memory")
    found, same = bank(source, store)
    assert same == ids
    np.testing.assert_allclose(found, whole, atol=1e-6)
    rows = [n for n in passes()[before:] if n > 4]
    assert rows[-1] <= 16 and rows == sorted(rows, reverse=True)


def test_an_encoder_may_write_into_its_input(file, store, tmp_path, monkeypatch):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    monkeypatch.setenv("PROBES_MISTAKE", "writes")
    found, _ = bank(source, store)
    monkeypatch.setenv("PROBES_MISTAKE", "halves")
    np.testing.assert_array_equal(found, bank(source, tmp_path / "other")[0])


def test_rows_are_written_one_after_the_other():
    """A chunk may have no example that can be read; all have one number of columns."""
    file, state = io.BytesIO(), banks._State(done=0, rows=0, columns=0, unreadable={})
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    for part in (np.empty((0, 0), np.float32), rows[:3], np.empty((0, 0), np.float32), rows[3:]):
        banks._append(file, state, part)
    np.testing.assert_array_equal(np.load(io.BytesIO(file.getvalue())), rows)
    with pytest.raises(UserError, match="gives 2 features for some examples and 3 for others"):
        banks._append(file, state, rows[:, :2])


def test_a_record_of_more_than_the_file_holds_is_not_believed(file, store, tmp_path):
    """Simulate a crash of the machine, which may lose the rows and keep the record."""
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    whole, _ = bank(source, tmp_path / "whole")
    [model] = plan(source, store).untrained
    folder = model.features["train"].artefact.unfinished
    folder.mkdir(parents=True)
    (folder / banks.STATE).write_text(json.dumps({"done": 60, "rows": 60, "columns": 12, "unreadable": {}}))
    (folder / "features.npy").write_bytes(bytes(300))
    found, ids = bank(source, store)
    np.testing.assert_array_equal(found, whole)
    assert len(ids) == 90


HEAD = """
from probes import Probe, build_first, given
from robharness import InputSpec, ModelSpec, hookimpl


@hookimpl
def robharness_models():
    yield ModelSpec(name="head", summary="-", labels="shades", params=Probe, given=given, build=build_first,
                    input=InputSpec(shape=(1, 8, 8)))
"""


def test_an_encoder_that_does_not_fit_is_the_fault_of_its_own_plugin(file, store, tmp_path):
    path = tmp_path / "heads.py"
    path.write_text(HEAD)
    file.write_bytes(file.read_bytes()[:100])
    model = {"model": "heads/head", "encoder": {"model": "probes/trunk", "weights": str(file)}, "label": "Head"}
    [result] = api.run(suite(model), store=store, plugins=[str(path), PROBES]).cells
    [failure] = result.failures
    assert failure.error.startswith(f"heads/head: its encoder probes/trunk: {file}") and failure.blame == PROBES


class Replacing(listeners.Silent):
    """Replaces a file while features are computed."""

    def __init__(self, file):
        self.file = file

    def trained(self, label, progress):
        save_file(filled(trunk_network(), 7).state_dict(), self.file)


def test_a_file_that_is_replaced_during_the_computation_leaves_no_features(file, store, tmp_path):
    """Also behind a symbolic link."""
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    source = suite(probe({"model": "probes/trunk", "weights": str(link)}))
    planned = plan(source, store)
    [found] = train_models(planned, Store(store), Replacing(file))
    assert f"its weights file {link} changed since the run was planned" in found.error
    assert not planned.untrained[0].features["train"].artefact.folder.exists()


def test_training_images_of_another_size_are_named_before_anything_runs(file, store):
    [missing] = plan(suite(probe({"model": "probes/trunk", "weights": str(file)}, train="large")), store).missing
    assert str(missing).startswith("probes/shades/large does not fit probes/trunk, the encoder of Probe")


def hashes(encoder, store, **options):
    [model] = plan(suite(probe(encoder, **options)), store).untrained
    return model.features["train"].artefact.hash, model.artefact.hash


def test_content_is_identity_and_its_place_is_not(file, store, tmp_path):
    copied, link = tmp_path / "copied.safetensors", tmp_path / "link.safetensors"
    copied.write_bytes(file.read_bytes())
    link.symlink_to(file)
    first = hashes({"model": "probes/trunk", "weights": str(file)}, store)
    for path in (copied, link):
        assert hashes({"model": "probes/trunk", "weights": str(path)}, store) == first
    assert hashes({"model": "probes/trunk", "weights": str(file)}, store, label="Other", note="runtime") == first
    save_file(filled(trunk_network(), 1).state_dict(), copied)
    link.unlink()
    link.symlink_to(copied)
    other = hashes({"model": "probes/trunk", "weights": str(link)}, store)
    assert not {*other} & {*first}
    epochs = [hashes({"model": "probes/recipe", "epochs": n}, store) for n in (1, 2)]
    assert not {*epochs[0]} & {*epochs[1]}


def test_what_is_chosen_in_a_file_is_identity(store, tmp_path):
    state = {f"module.{key}": value for key, value in filled(trunk_network(), 4).state_dict().items()}
    path = tmp_path / "two.pt"
    torch.save({"teacher": state, "student": state}, path)
    written = {"model": "probes/trunk", "weights": str(path)}
    chosen = [
        {"inside": "teacher", "strip": "module."},
        {"inside": "student", "strip": "module."},
        {"inside": "teacher"},
    ]
    found = [hashes(written | each, store) for each in chosen]
    assert len({hash for pair in found for hash in pair}) == 6
