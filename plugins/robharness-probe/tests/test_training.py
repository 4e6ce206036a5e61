"""Trainings of heads: from features, from images, after a kill, in two processes; and the networks of their weights."""

from __future__ import annotations

import copy
import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms import RandomResizedCrop

from robharness import Encoder, FeatureBank, InputSpec, Preprocessing, TrainingJob, UnreadableExample, UserError
from robharness_probe import heads, images, params, training
from robharness_probe.artefact import CHECKPOINT, WEIGHTS

SIDE, CLASSES = 8, 3
DATA = SimpleNamespace(labels="shades", classes=CLASSES)


class Shades:
    """Noise, and in one of three places a square that is brighter than that; ids in no order."""

    def __init__(self, count=60, broken=()):
        self.ids = [f"{(7 * index) % count}-shade" for index in range(count)]
        self.labels = [index % CLASSES for index in range(count)]
        self.broken, self.reads = broken, 0

    def read(self, index):
        self.reads += 1
        if index in self.broken:
            raise UnreadableExample("it is cut off")
        image = np.random.default_rng(index).integers(0, 128, (SIDE, SIDE, 1))
        at = 2 * self.labels[index]
        image[at : at + 3, at : at + 3] += 90
        return image.astype(np.uint8)


def network():
    """An encoder with batch norm and dropout, whose states must survive a kill."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (initial weights)
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3, stride=2), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Dropout(0.2),
        ).eval()  # fmt: skip


def encoder(net=None, **changes):
    spec = SimpleNamespace(**({"input": InputSpec(shape=(1, SIDE, SIDE)), "preprocessing": None} | changes))
    net = net or network()
    model = SimpleNamespace(entry=SimpleNamespace(spec=spec))
    return Encoder({"model": "own/net"}, model=model, load=lambda: copy.deepcopy(net))


def options(kind, **changes):
    small = {"epochs": 4, "batch": 16, "lr": 0.05, "crop": 0.8, "flip": 0.0} if issubclass(kind, params.Images) else {}
    small |= {"milestones": (2, 3)} if getattr(kind, "milestones", None) else {}
    return kind(**({"encoder": encoder(), "data": DATA} | small | changes))


@pytest.fixture
def job(tmp_path):
    """A function (options) -> the job that the core would make, with the features of the encoder."""

    def make(chosen, folder="job", dataset=None, progress=lambda state: None, seed=0):
        path, data = tmp_path / folder, dataset or Shades()
        path.mkdir(exist_ok=True)
        readable = [index for index in range(len(data.ids)) if index not in data.broken]
        x = torch.from_numpy(np.stack([data.read(index) for index in readable])).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            h = chosen.encoder.load()(x).numpy() if x.shape[1:] == chosen.encoder.input.shape else None
        labels = np.array([data.labels[index] for index in readable])
        bank = FeatureBank(features=h, labels=labels, ids=[data.ids[index] for index in readable])
        messages = []
        made = TrainingJob(params=chosen, seed=seed, datasets={"train": data}, folder=path, features={"train": bank},
                           device="cpu", message=messages.append, progress=progress)  # fmt: skip
        return made, messages, x, torch.from_numpy(labels)

    return make


def accuracy(net, x, labels):
    with torch.no_grad():
        return float((net.eval()(x).argmax(1) == labels).float().mean())


@pytest.mark.parametrize(
    ("chosen", "head"),
    [
        (options(params.Linear), torch.nn.Linear),
        (options(params.Linear, solver="sgd", epochs=30), torch.nn.Linear),
        (options(params.Neighbours, k=5), heads.NearestNeighbours),
        (options(params.Centroid), heads.Cosine),
        (options(params.Centroid, distance="euclidean"), torch.nn.Linear),
    ],
    ids=["lbfgs", "sgd", "knn", "cosine", "euclidean"],
)
def test_heads_on_features_are_built_from_their_weights(job, chosen, head):
    made, _, x, labels = job(chosen)
    training.train(made)
    net = training.build(chosen, made.folder / WEIGHTS).eval()
    assert isinstance(net.head, head) and accuracy(net, x, labels) > 0.8
    seen = []
    net.get_submodule("features").register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        logits = net(x[:4])
        torch.testing.assert_close(net.head(seen[0]), logits)
    np.testing.assert_allclose(seen[0], made.features["train"].features[:4], atol=1e-6)
    names = set(load_file(made.folder / WEIGHTS))
    assert not any("encoder" in name for name in names)  # a frozen encoder is not copied


def test_classes_are_those_of_the_data_set_or_of_the_labels(job):
    for classes, expected in ((7, 7), (None, CLASSES), (2, CLASSES)):
        chosen = options(params.Linear, data=SimpleNamespace(labels="shades", classes=classes))
        made, _, x, _ = job(chosen, folder=f"of-{classes}")
        training.train(made)
        assert training.build(chosen, made.folder / WEIGHTS)(x[:2]).shape == (2, expected)


def test_retrieval_finds_every_example_at_its_place_in_the_fixed_order(job):
    chosen = options(params.Retrieval)
    data = Shades(broken=(4, 9))
    made, _, x, _ = job(chosen, dataset=data)
    training.train(made)
    net = training.build(chosen, made.folder / WEIGHTS).eval()
    order = sorted(range(60), key=lambda index: hashlib.sha256(data.ids[index].encode()).hexdigest())
    readable = [index for index in range(60) if index not in data.broken]
    with torch.no_grad():
        logits = net(x)
    assert logits.shape == (58, 60)  # examples that cannot be read keep their places
    assert logits.argmax(1).tolist() == [order.index(index) for index in readable]
    assert (logits[:, [order.index(4), order.index(9)]] == 0).all()
    torch.testing.assert_close(logits.amax(1), torch.full((58,), 10.0))


def test_more_neighbours_than_examples_are_refused(job):
    with pytest.raises(UserError, match=r"k is 61, and the training data have 60 examples\. Try: `k: 60`"):
        training.train(job(options(params.Neighbours, k=61))[0])


# --- on images -------------------------------------------------------------------------------------------------------


def test_fine_tuning_changes_the_encoder_and_learns(job):
    chosen = options(params.Finetune, epochs=12, lr=0.1, optimizer="sgd")
    made, _, x, labels = job(chosen)
    training.train(made)
    net = training.build(chosen, made.folder / WEIGHTS)
    assert accuracy(net, x, labels) > 0.9
    before = chosen.encoder.load().state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in net.encoder.state_dict().items())
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13)) and lines[-1]["loss"] < lines[0]["loss"] / 2
    assert not (made.folder / CHECKPOINT).exists()


def resumed(job, chosen):
    """Train once whole, and once with an interruption in epoch 3; the weights must be the same to the bit.

    Returns the interrupted job, the whole one, and the weights.
    """
    whole = job(chosen, folder="whole")[0]
    training.train(whole)

    class Killed(BaseException):
        pass

    def kill(state):
        if state.epoch == 3:
            raise Killed

    cut, *_ = job(chosen, folder="cut", progress=kill)
    with pytest.raises(Killed):
        training.train(cut)
    assert (cut.folder / CHECKPOINT).is_file() and not (cut.folder / WEIGHTS).exists()
    training.train(job(chosen, folder="cut")[0])
    found, expected = (load_file(each.folder / WEIGHTS) for each in (cut, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    return cut, whole, expected


@pytest.mark.parametrize("kind", [params.Finetune, params.Adversarial])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_resumes_to_the_same_weights(job, kind, optimizer):
    more = {"steps": 2} if kind is params.Adversarial else {"head_lr": 0.2, "warmup": 1.0}
    chosen = options(kind, optimizer=optimizer, lr=0.01, **more)
    cut, whole, expected = resumed(job, chosen)
    assert (cut.folder / "metrics.jsonl").read_text() == (whole.folder / "metrics.jsonl").read_text()
    other = job(chosen, folder="other", seed=1)[0]
    training.train(other)
    assert not torch.equal(load_file(other.folder / WEIGHTS)["head.weight"], expected["head.weight"])


def test_an_adversarial_head_leaves_the_encoder_and_is_more_robust(job):
    common = {"epochs": 30, "lr": 0.5, "crop": 1.0, "momentum": 0.0}
    chosen = {eps: options(params.Adversarial, eps=params.Budget(eps), steps=5, **common) for eps in ("0.15", "1e-9")}
    left = {}
    for eps, each in chosen.items():
        made, _, x, labels = job(each, folder=eps)
        training.train(made)
        assert set(load_file(made.folder / WEIGHTS)) == {"head.weight", "head.bias"}
        net = training.build(each, made.folder / WEIGHTS).eval()
        torch.testing.assert_close(net.encoder.state_dict(), each.encoder.load().state_dict(), rtol=0, atol=0)
        rng = np.random.default_rng(1)
        attacked = training.pgd(net, x, labels, eps=0.15, step=0.05, steps=10, rng=rng)
        left[eps] = accuracy(net, attacked, labels)
    assert left["0.15"] > left["1e-9"]


def test_steps_of_the_attack_follow_eps():
    assert options(params.Adversarial).rel_step == params.Budget("0.25")
    assert options(params.Adversarial, rel_step=params.Budget("0.1")).rel_step == params.Budget("0.1")


def test_unreadable_images_are_left_out_and_named(job):
    data = Shades(broken=(0, 7))
    made, messages, *_ = job(options(params.Finetune, epochs=1, batch=60), dataset=data)
    training.train(made)
    assert messages == [
        f"2 of 60 training images cannot be read and are left out: {data.ids[0]} (it is cut off), "
        f"{data.ids[7]} (it is cut off)"
    ]


def test_labels_stay_with_their_images_if_some_cannot_be_read():
    data = Shades(broken=(0, 7))
    source = images.TrainingImages(data, encoder(), crop=1.0, flip=0.0, seed=0)
    [(x, labels)] = source.batches(torch.arange(10), 10, 0)
    readable = [1, 2, 3, 4, 5, 6, 8, 9]
    assert labels.tolist() == [data.labels[index] for index in readable]
    assert all(torch.equal(found, source.read(index).float() / 255) for found, index in zip(x, readable, strict=True))


def test_attacks_start_elsewhere_in_every_epoch():
    x, labels = torch.full((2, 1, SIDE, SIDE), 0.5), torch.zeros(2, dtype=torch.int64)
    net = heads.Probed(network(), heads.linear(torch.zeros(CLASSES, 54), torch.zeros(CLASSES)))
    attacked = [training._attack(options(params.Adversarial, steps=1), 0)(net, x, labels, epoch) for epoch in (0, 1, 0)]
    assert torch.equal(attacked[0], attacked[2]) and not torch.equal(attacked[0], attacked[1])


def test_images_of_another_size_are_refused_with_the_remedy(job):
    chosen = options(params.Finetune, encoder=encoder(input=InputSpec(shape=(1, 12, 12))))
    with pytest.raises(UserError, match=r"has the shape \(1, 8, 8\), and the encoder takes \(1, 12, 12\)\. "
                                        r"Try: `preprocessing: \{resize: \[12, 12\]\}` in `encoder:`"):  # fmt: skip
        training._train_on_images(job(chosen)[0])


def test_images_are_read_when_a_batch_needs_them():
    data = Shades(count=600)
    source = images.TrainingImages(data, encoder(), crop=0.5, flip=0.5, seed=0)
    assert data.reads == 0
    stream = source.batches(torch.arange(600), 10, 0)
    x, labels = next(stream)
    assert data.reads <= 10 * (images.AHEAD + 1)
    assert x.shape == (10, 1, SIDE, SIDE) and labels.tolist() == data.labels[:10]
    assert sum(len(labels) for _, labels in stream) == 590 and data.reads == 600


def test_images_are_preprocessed_as_in_evaluation():
    steps = Preprocessing(resize=6, crop=4, channel_order="bgr")

    class Colours(Shades):
        def read(self, index):
            return np.dstack([super().read(index)] * 3) // np.array([1, 2, 4], np.uint8)

    data = Colours()
    source = images.TrainingImages(
        data, encoder(input=InputSpec(shape=(3, 4, 4)), preprocessing=steps), crop=1.0, flip=0.0, seed=0
    )
    expected = images.preprocessed(data.read(3), steps)[..., ::-1]
    assert np.array_equal(source.augmented(3, 0).numpy(), np.moveaxis(expected, -1, 0))


def test_crops_and_flips_are_drawn_by_seed_epoch_and_example():
    source = images.TrainingImages(Shades(), encoder(), crop=0.3, flip=0.5, seed=0)
    plain = images.TrainingImages(Shades(), encoder(), crop=1.0, flip=1.0, seed=0)
    assert torch.equal(plain.augmented(5, 0), plain.read(5).flip(-1))
    assert torch.equal(source.augmented(5, 1), source.augmented(5, 1))
    assert len({source.augmented(5, epoch).numpy().tobytes() for epoch in range(8)}) > 5


def test_crops_have_torchvisions_distribution():
    rng, size = np.random.default_rng(0), (40, 60)
    found = np.array([images.crop_box(rng, 0.3, *size) for _ in range(800)])
    image = torch.zeros(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.3, 1.0], list(images.RATIOS)) for _ in range(800)])
    for boxes in (found, theirs):
        assert (boxes[:, 0] + boxes[:, 2] <= size[0]).all() and (boxes[:, 1] + boxes[:, 3] <= size[1]).all()
    np.testing.assert_allclose(found.mean(0), theirs.mean(0), rtol=0.15)
    areas = [boxes[:, 2] * boxes[:, 3] / 2400 for boxes in (found, theirs)]
    ratios = [boxes[:, 3] / boxes[:, 2] for boxes in (found, theirs)]
    for share in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(*(np.quantile(each, share) for each in areas), atol=0.06)
        np.testing.assert_allclose(*(np.quantile(each, share) for each in ratios), atol=0.06)


def test_two_processes_train_as_one(tmp_path):
    """The mean of gradients over two halves of a batch is that of the batch, and so are the statistics of batch norm.

    With dropout, two processes that were killed end with the weights of two that were not.
    """
    script = Path(__file__).with_name("processes.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    script = runpy.run_path(str(script))
    script["tune"](tmp_path)
    for training_name in script["TRAININGS"]:
        shared, alone = (load_file(tmp_path / f"{training_name}-{count}" / WEIGHTS) for count in (2, 1))
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value, rtol=1e-3, atol=1e-5)
        assert float(alone["head.weight"].abs().max()) > 0.01
    whole, cut = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "cut"))
    assert all(torch.equal(value, whole[name]) for name, value in cut.items()) and "encoder.1.running_mean" in cut


def test_processes_that_cannot_share_a_batch_are_refused(job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"3 processes cannot share batches of 16 images equally\. Try: `batch: 15`"):
        training.train(job(options(params.Finetune))[0])
