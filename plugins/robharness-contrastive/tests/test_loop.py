"""Training from a recipe: the same weights however often it is killed, and an end where nothing is learned."""

from __future__ import annotations

import dataclasses
import json
import runpy
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from robharness import UserError
from robharness_contrastive import loop, params, probe
from robharness_contrastive.augment import AUGMENTATIONS
from robharness_contrastive.networks import NETWORKS, VIDEO_NETWORKS
from robharness_contrastive.params import Probe
from robharness_contrastive.removal import Removal

HERE = Path(__file__).parent
BARS = runpy.run_path(str(HERE / "bars.py"))
CLASSES, SHAPE, of_bars = (BARS[name] for name in ("CLASSES", "SHAPE", "of_bars"))
RECIPES = {
    "cross-entropy": params.Supervised(**of_bars()),
    "refit": params.Supervised(**of_bars(refit=True)),
    "supcon": params.Contrastive(**of_bars()),
    "simclr": params.SimCLR(**of_bars(removal=Removal(strategy="frequency"))),
    "clusters": params.Clusters(**of_bars(clusters=6)),
    "swav": params.SwAV(**of_bars(prototypes=8)),
    "moco": params.MoCo(**of_bars(queue=64)),
    "simsiam": params.SimSiam(**of_bars()),
}


def lines(folder):
    return [json.loads(line) for line in (folder / loop.METRICS).read_text().splitlines()]


def weights(folder):
    return load_file(folder / loop.WEIGHTS)


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_a_network_that_a_suite_can_build(job, name, pictures):
    told = job(RECIPES[name])
    loop.train(told)
    net = loop.build(RECIPES[name], told.folder / loop.WEIGHTS).eval()
    logits = net(pictures.pixels[:5].float() / 255)
    assert logits.shape == (5, CLASSES) and logits.isfinite().all()
    noted = [line for line in lines(told.folder) if "epoch" in line]
    assert [line["epoch"] for line in noted if line["stage"] == "encoder"] == [1, 2, 3]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in noted)
    assert probe.accuracy(net, pictures) > 1.5 / CLASSES
    last = told.progress.__self__[-1]
    assert (last.epoch, last.epochs) == (3, 3) and last.rate > 0 and last.left == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["simclr", "moco", "clusters"])
def test_stopped_after_any_epoch_it_comes_to_the_same_weights(job, name, monkeypatch):
    whole = job(RECIPES[name], "whole")
    loop.train(whole)
    saved, counted = loop._save, []

    def dying(*words):
        saved(*words)
        counted.append(1)
        if len(counted) in (1, 2, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", dying)
    again = job(RECIPES[name], "again")
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            loop.train(again)
        if name != "clusters" and len(counted) >= 2:
            break
    monkeypatch.setattr(loop, "_save", saved)
    loop.train(again)
    assert_same(weights(whole.folder), weights(again.folder))
    assert lines(again.folder) == lines(whole.folder)


KILLED = """
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
from bars import Bars, of_bars
from robharness import TrainingJob
from robharness_contrastive import loop, params
folder = Path({folder!r}); folder.mkdir(exist_ok=True)
recipe = params.SimCLR(**of_bars(epochs=6))
print("begins", flush=True)
loop.train(Training(params=recipe, seed=0, datasets={{"train": Bars()}}, folder=folder, device="cpu",
                    message=print, progress=lambda p: print(p.epoch, flush=True)))
"""


def test_killed_at_any_moment_it_comes_to_the_same_weights(job, tmp_path):
    """SIGKILL, again and again, at moments that have nothing to do with its epochs."""
    whole = job(params.SimCLR(**of_bars(epochs=6)), "whole")
    loop.train(whole)
    folder, kills = tmp_path / "killed", 0
    code = KILLED.format(here=str(HERE), folder=str(folder))
    for wait in (0.05, 0.3, 0.17):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.strip().isdigit():
                    break
            time.sleep(wait)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert kills >= 2
    assert_same(weights(whole.folder), weights(folder))
    assert lines(folder) == lines(whole.folder)


def test_seeds_differ_and_are_kept(job):
    recipe = RECIPES["simclr"]
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        told = job(recipe, folder, seed)
        loop.train(told)
        found.append(weights(told.folder))
    assert_same(found[0], found[1])
    assert not torch.equal(found[0]["head.weight"], found[2]["head.weight"])


def test_what_is_held_out_is_judged_and_not_trained_on(job, monkeypatch):
    recipe = params.Supervised(**of_bars(hold_out=0.25, batch=24, epochs=12))
    seen, made = set(), loop.data.views

    def watching(pictures, *words):
        views = made(pictures, *words)

        def watched(rows, step):
            seen.update(picture.numpy().tobytes() for picture in pictures.pixels[rows])
            return views(rows, step)

        return watched

    monkeypatch.setattr(loop.data, "views", watching)
    told = job(recipe)
    loop.train(told)
    assert lines(told.folder)[-1]["held_out"] > 1.5 / CLASSES
    assert 100 < len(seen) <= 120


# --- where nothing is learned ---


def test_a_loss_that_is_no_number_ends_it(job):
    """And again, for who tries again: what came of it is no place to go on from."""
    told = job(params.Supervised(**of_bars(lr=1e20, warmup=0)))
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"the loss is no number any more in epoch \d of 3. What usually helps: a sm"
        ):
            loop.train(told)
        assert not (told.folder / loop.WEIGHTS).exists()


def test_a_collapse_ends_it(job):
    """Weights that decay faster than they grow: projections become one bias. And again, for who tries again."""
    told = job(params.SimCLR(**of_bars(lr=0.3, warmup=0.0, epochs=10, weight_decay=3.0)))
    for _ in range(2):
        with pytest.raises(UserError, match=r"become one point in epoch \d+ of 10 \(spread 0.0"):
            loop.train(told)
        assert not (told.folder / loop.WEIGHTS).exists()


def test_prototypes_that_learn_nothing_end_it(job):
    recipe = params.SwAV(**of_bars(epochs=12, lr=1e-9, temperature=100.0))
    with pytest.raises(UserError, match=r"the loss is still 3.4\d\d, and 3.401 is where it started, in epoch 5 of 12"):
        loop.train(job(recipe))


@pytest.mark.parametrize(("changed", "why"), [
    ({"batch": 500}, "160 pictures do not fill batches of 500 pictures; write another `batch:`"),
    ({"network": "resnet34"}, "there is no network 'resnet34'; there are small, resnet18, resnet50"),
    ({"input": (3, 16, 16)}, r"'bar-\d+' has the shape \(1, 16, 16\), the recipe says \(3, 16, 16\)"),
])  # fmt: skip
def test_what_does_not_fit_is_said(job, changed, why):
    with pytest.raises(UserError, match=why):
        loop.train(job(dataclasses.replace(RECIPES["simclr"], **changed)))


@pytest.mark.parametrize(("changed", "why"), [
    ({"lr": 0}, "lr=0 must be above 0"), ({"hold_out": 1.0}, "hold_out=1.0 is a share"),
    ({"data": "mine/own", "classes": None}, "'mine/own' is not known here"),
    ({"probe": {"epochs": 0}}, "epochs=0 must be above 0"),
    ({"network": "r2plus1d-18"}, "network 'r2plus1d-18' does not take pictures, as bars/bars has; write e.g. 'small'"),
])  # fmt: skip
def test_recipes_that_cannot_be_are_said(changed, why):
    if "probe" in changed:
        with pytest.raises(ValueError, match=why):
            Probe(**changed["probe"])
        return
    with pytest.raises(ValueError, match=why):
        params.SimCLR(**of_bars(**changed))


def test_the_shape_of_a_recipe_is_the_datas():
    assert params.SimCLR(**of_bars()).shape == SHAPE
    assert params.SimCLR(data="datasets/cifar-100").shape == (3, 32, 32)
    assert params.SimCLR(data="datasets/cifar-100").n_classes == 100


# --- probes of one encoder ---


def test_probes_start_from_one_encoder(job, pictures, monkeypatch):
    """What comes of the encoder's artefact and a probe is what comes of both in one go."""
    recipe = RECIPES["simclr"]
    alone = job(params.base(recipe), "encoder")
    loop.train(alone)
    assert {key.partition(".")[0] for key in weights(alone.folder)} == {"encoder", "projection"}
    both, based = job(recipe, "both"), dataclasses.replace(job(recipe, "based"), base=alone.folder)
    loop.train(both)
    monkeypatch.setattr(loop, "_encoder", None)  # is not called any more
    loop.train(based)
    assert_same(weights(both.folder), weights(based.folder))


def test_weights_that_are_whole_are_left_alone(job, monkeypatch):
    told = job(RECIPES["cross-entropy"])
    loop.train(told)
    before = weights(told.folder)
    assert {path.name for path in told.folder.iterdir()} == {loop.WEIGHTS, loop.METRICS}
    monkeypatch.setattr(loop, "_encoder", None)  # is not called any more
    loop.train(told)
    assert_same(before, weights(told.folder))


def test_what_starts_from_what():
    plain, refitted = RECIPES["cross-entropy"], RECIPES["refit"]
    assert params.base(plain) is None and params.base(refitted) == plain
    assert params.base(params.base(RECIPES["simclr"])) is None


def test_a_suite_may_name_what_there_is():
    """The words that `params` takes, which is read where nothing heavy may be imported, are the registries' keys."""
    hints = typing.get_type_hints(params.Recipe)
    augmentations, _ = typing.get_args(hints["augmentation"])
    assert typing.get_args(augmentations) == tuple(AUGMENTATIONS)
    assert typing.get_args(hints["network"]) == (*NETWORKS, *VIDEO_NETWORKS)
