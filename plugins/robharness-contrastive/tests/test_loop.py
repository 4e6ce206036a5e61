"""Training by a recipe: the same weights after any number of crashes, and errors if nothing is learned."""

from __future__ import annotations

import dataclasses
import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from robharness import UnreadableExample, UserError
from robharness_contrastive import artefact, data, loop, params, probe
from robharness_contrastive.options import Replacement
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
    "rocl": params.RoCL(**of_bars(steps=2, projection=(64, 32), removal=Replacement(strategy="frequency"))),
    "dynacl": params.DynACL(**of_bars(steps=2)),
    "acl": params.ACL(**of_bars(steps=2, removal=Replacement(strategy="frequency", replace="queue"))),
}


def lines(folder):
    return [json.loads(line) for line in (folder / artefact.METRICS).read_text().splitlines()]


def weights(folder):
    return load_file(folder / artefact.WEIGHTS)


def messages(training):
    """The progress that a training has reported."""
    return training.progress.__self__


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_a_network_that_a_suite_can_build(job, name, images):
    training = job(RECIPES[name])
    loop.train(training)
    net = loop.build(RECIPES[name], training.folder / artefact.WEIGHTS).eval()
    logits = net(images.pixels[:5].float() / 255)
    assert logits.shape == (5, CLASSES) and logits.isfinite().all()
    noted = [line for line in lines(training.folder) if "epoch" in line]
    assert [line["epoch"] for line in noted if line["stage"] == "encoder"] == [1, 2, 3]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in noted)
    assert probe.accuracy(net, images) > 1.5 / CLASSES
    last = messages(training)[-1]
    assert (last.epoch, last.epochs) == (3, 3) and last.rate > 0 and last.left == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["simclr", "moco", "clusters", "rocl", "acl", "dynacl"])
def test_stopped_after_any_epoch_it_comes_to_the_same_weights(job, name):
    whole = job(RECIPES[name], "whole")
    loop.train(whole)
    saved = []

    def save_and_stop(*words):
        artefact.save_checkpoint(*words)
        saved.append(1)
        if len(saved) in (1, 2, 4):
            raise KeyboardInterrupt

    again = job(RECIPES[name], "again")
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            loop.train(again, save=save_and_stop)
        if name != "clusters" and len(saved) >= 2:
            break
    loop.train(again)
    assert_same(weights(whole.folder), weights(again.folder))
    assert lines(again.folder) == lines(whole.folder)


@pytest.mark.parametrize("content", ["cut off", "foreign", "empty"])
def test_a_checkpoint_that_is_damaged_or_foreign_is_refused_with_its_remedy(tmp_path, content):
    learner = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(learner.parameters(), 0.1, momentum=0.9)
    learner(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / artefact.CHECKPOINT
    artefact.save_checkpoint(path, 3, learner, optimizer)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.weight.data.zero_()
    assert artefact.resume(path, learner, optimizer) == 3
    assert_same(before, learner.state_dict())
    if content == "foreign":
        torch.save({"epoch": 1, "learner": {"other": torch.ones(1)}}, path)
    else:
        path.write_bytes(path.read_bytes()[: -40 if content == "cut off" else 0])
    with pytest.raises(UserError, match=rf"{path} is no checkpoint.*Try: (ls -l|rm) {path}$"):
        artefact.resume(path, learner, optimizer)


KILLED = """
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
from bars import Bars, of_bars
from robharness import TrainingJob
from robharness_contrastive import loop, params
folder = Path({folder!r}); folder.mkdir(exist_ok=True)
recipe = params.{recipe}
print("begins", flush=True)
loop.train(TrainingJob(params=recipe, seed=0, datasets={{"train": Bars()}}, folder=folder, device="cpu",
                    message=print, progress=lambda p: print(p.epoch, flush=True)))
"""


@pytest.mark.parametrize("recipe", [
    "SimCLR(**of_bars(epochs=6))",
    "RoCL(**of_bars(epochs=6, steps=2, removal=params.options.Replacement(strategy='precision')))",
    "DynACL(**of_bars(epochs=6, steps=2, removal=params.options.Replacement(strategy='frequency')))",
])  # fmt: skip
def test_killed_at_any_moment_it_comes_to_the_same_weights(job, tmp_path, recipe):
    """Repeated SIGKILL at times that are unrelated to the epochs."""
    whole = job(eval(f"params.{recipe}"), "whole")
    loop.train(whole)
    folder, kills = tmp_path / "killed", 0
    code = KILLED.format(here=str(HERE), folder=str(folder), recipe=recipe)
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


def test_seeds_differ_and_are_repeatable(job):
    recipe = RECIPES["simclr"]
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        training = job(recipe, folder, seed)
        loop.train(training)
        found.append(weights(training.folder))
    assert_same(found[0], found[1])
    assert not torch.equal(found[0]["head.weight"], found[2]["head.weight"])


def test_held_out_examples_are_evaluated_and_not_trained_on(job):
    recipe = params.Supervised(**of_bars(hold_out=0.25, batch=24, epochs=12))
    seen = set()

    def recording_views(images, *words):
        views = data.augmented_views(images, *words)

        def recorded(rows, step):
            seen.update(image.numpy().tobytes() for image in images.pixels[rows])
            return views(rows, step)

        return recorded

    training = job(recipe)
    loop.train(training, make_views=recording_views)
    assert lines(training.folder)[-1]["held_out"] > 1.5 / CLASSES
    assert 100 < len(seen) <= 120


# --- failed trainings ---


def test_a_loss_that_is_not_finite_is_an_error(job):
    """A second try fails too: it does not resume from the failed epoch."""
    training = job(params.Supervised(**of_bars(lr=1e20, warmup=0)))
    for _ in range(2):
        with pytest.raises(UserError, match=r"the loss is not finite in epoch \d of 3: .* Try: `lr: 3.3e\+19`"):
            loop.train(training)
        assert not (training.folder / artefact.WEIGHTS).exists()


def test_a_collapse_is_an_error(job):
    """Weights decay faster than they grow, and all projections equal the bias. A second try fails too."""
    training = job(params.SimCLR(**of_bars(lr=0.3, warmup=0.0, epochs=10, weight_decay=3.0)))
    for _ in range(2):
        with pytest.raises(UserError, match=r"collapsed in epoch \d+ of 10: .* the same point \(spread 0.0"):
            loop.train(training)
        assert not (training.folder / artefact.WEIGHTS).exists()


def test_prototypes_that_learn_nothing_are_an_error(job):
    recipe = params.SwAV(**of_bars(epochs=12, lr=1e-9, temperature=100.0))
    with pytest.raises(
        UserError, match=r"the loss is still 3.4\d\d in epoch 5 of 12, and it started at 3.401: nothing.*`prototypes:`"
    ):
        loop.train(job(recipe))


@pytest.mark.parametrize(("changed", "why"), [
    ({"batch": 500}, "160 images do not fill a batch of 500 images. Try: `batch: 160`"),
    ({"input": (3, 16, 16)},
     r"'bar-\d+' has the shape \(1, 16, 16\), but the recipe says \(3, 16, 16\). Try: `input: \[1, 16, 16\]`"),
])  # fmt: skip
def test_a_recipe_that_does_not_fit_the_data_is_an_error(job, changed, why):
    with pytest.raises(UserError, match=why):
        loop.train(job(dataclasses.replace(RECIPES["simclr"], **changed)))


@pytest.mark.parametrize(("changed", "why"), [
    ({"lr": 0}, "lr=0 must be above 0"), ({"hold_out": 1.0}, "hold_out=1.0 must be a share"),
    ({"data": "mine/own", "classes": None}, "the plugin does not know the data 'mine/own'"),
    ({"data": "datasets/folder/pets/train", "split": "train"},
     "no data set 'datasets/folder/pets/train'. Try: `data: datasets/folder` and `split: \"pets/train\"`"),
    ({"probe": {"kind": "sgd", "epochs": 0}}, "the options of the probe 'sgd' are wrong: SGD: epochs=0 must be above"),
    ({"probe": {"l2": 0.1, "lr": 1}}, "the probe 'lbfgs' has no option 'lr'"),
    ({"augmentation": {"flip": 2.0}}, "the options of the augmentation 'contrastive' are wrong: flip=2.0 must be a"),
    ({"network": "resnet34"}, "there is no network 'resnet34', only small, resnet18, .* Try: `network: small`"),
    ({"network": "digits"}, "there is no network 'digits', only"),
    ({"network": "r2plus1d-18"}, "'r2plus1d-18' does not take images, which bars/bars has. Try: `network: small`"),
])  # fmt: skip
def test_invalid_recipes_are_refused(changed, why):
    with pytest.raises(ValueError, match=why):
        params.SimCLR(**of_bars(**changed))


def test_the_shape_of_a_recipe_is_the_datas():
    assert params.SimCLR(**of_bars()).shape == SHAPE
    assert params.SimCLR(data="datasets/cifar-100").shape == (3, 32, 32)
    assert params.SimCLR(data="datasets/cifar-100").n_classes == 100


# --- probes of one encoder ---


def test_probes_start_from_one_encoder(job):
    """A probe on the encoder's artefact gives the weights of training both together."""
    recipe = RECIPES["simclr"]
    alone = job(params.base(recipe), "encoder")
    loop.train(alone)
    assert {key.partition(".")[0] for key in weights(alone.folder)} == {"encoder", "projection"}
    both, based = job(recipe, "both"), dataclasses.replace(job(recipe, "based"), base=alone.folder)
    loop.train(both)
    loop.train(based)
    assert messages(both) and not messages(based)  # no epoch of an encoder was trained
    assert_same(weights(both.folder), weights(based.folder))


def test_finished_weights_are_not_trained_again(job):
    training = job(RECIPES["cross-entropy"])
    loop.train(training)
    before = weights(training.folder)
    assert {path.name for path in training.folder.iterdir()} == {artefact.WEIGHTS, artefact.METRICS}
    messages(training).clear()
    loop.train(training)
    assert not messages(training)  # no epoch was trained
    assert_same(before, weights(training.folder))


def test_bases_of_recipes():
    plain, refitted = RECIPES["cross-entropy"], RECIPES["refit"]
    assert params.base(plain) is None and params.base(refitted) == plain
    assert params.base(params.base(RECIPES["simclr"])) is None


class Torn(BARS["Bars"]):
    """Bars of which every fourth, from the first on, cannot be read."""

    def read(self, index):
        if index % 4 == 0:
            raise UnreadableExample("the file is empty")
        return super().read(index)


def test_unreadable_images_are_left_out_of_the_training_and_named():
    said, recipe = [], params.SimCLR(**of_bars())
    found = data.load(Torn(20), recipe, "cpu", message=said.append)
    whole = data.load(BARS["Bars"](20), recipe, "cpu")
    rows = [row for row in range(20) if row % 4]
    assert torch.equal(found.pixels, whole.pixels[rows]) and torch.equal(found.labels, whole.labels[rows])
    assert said == [
        "5 of 20 training examples cannot be read and are left out: bar-000 (the file is empty), bar-004 (the file is "
        "empty), bar-008 (the file is empty), bar-012 (the file is empty), bar-016 (the file is empty)"
    ]
    with pytest.raises(UserError, match=r"none of the 1 training examples can be read: bar-000 \(the file is empty\)"):
        data.load(Torn(1), recipe, "cpu")
