"""Images that are decoded for every step: the same weights as in memory, bounded memory, and clean ends."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms import v2

import robharness
from robharness import UnreadableExample, UserError, preprocessed
from robharness_contrastive import artefact, components, data, loop, params, streaming
from robharness_contrastive.augment import BatchAugmenter, Draws, crop_box, draw_crops
from robharness_contrastive.steps import Augmentation

HERE = Path(__file__).parent
BARS = runpy.run_path(str(HERE / "bars.py"))
of_bars = BARS["of_bars"]
SIDE = 16


class Photos:
    """Colour images of many sizes, in three classes."""

    def __init__(self, count=48):
        draws = np.random.default_rng(0)
        self.labels = [index % 3 for index in range(count)]
        self.ids = [f"photo-{index:03}" for index in range(count)]
        self._images = [draws.integers(0, 256, (*draws.integers(18, 60, 2), 3), dtype=np.uint8) for _ in range(count)]

    def read(self, index):
        return self._images[index]


def of_photos(**changed):
    return {"data": "photos/photos", "input": (3, SIDE, SIDE), "labels": "photos", "classes": 3, "resize": 18,
            "epochs": 2, "batch": 16, "augmentation": "contrastive", **changed}  # fmt: skip


def opened(dataset, message=lambda text: None, **options):
    return streaming.load(dataset, params.SimCLR(**of_photos(**options)), "cpu", message=message)


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def assert_same_artefacts(a, b):
    found, expected = (load_file(job.folder / artefact.WEIGHTS) for job in (a, b))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert (a.folder / artefact.METRICS).read_text() == (b.folder / artefact.METRICS).read_text()


# --- the same as in memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [
    params.SimCLR(**of_bars(hold_out=0.2)),
    params.Supervised(**of_bars(refit=True, probe={"kind": "sgd", "epochs": 2}, epochs=2)),
], ids=["simclr", "probe by sgd"])  # fmt: skip
def test_images_of_the_inputs_size_give_the_same_weights_in_memory_and_streamed(job, recipe):
    jobs = [job(replace(recipe, stream=stream, threads=3), f"{stream}") for stream in (False, True)]
    for each in jobs:
        loop.train(each)
    assert_same_artefacts(*jobs)
    assert not decoders()


def test_sets_that_do_not_fit_and_images_of_any_size_are_streamed(bars):
    recipe = params.SimCLR(**of_bars())
    size = 160 * 16 * 16
    assert isinstance(streaming.load(bars, recipe, "cpu", max_bytes=size), data.Images)
    assert isinstance(streaming.load(bars, recipe, "cpu", max_bytes=size - 1), streaming.Streamed)
    assert isinstance(opened(Photos()), streaming.Streamed)
    with pytest.raises(UserError, match=r"GiB\. Try: `stream: true`"):
        data.load(type("Huge", (), {"ids": range(2**26), "labels": []}), recipe, "cpu")


def test_evaluation_is_the_harnesss(bars):
    photos = Photos(300)
    source = opened(photos, threads=2)
    part = source.subset(torch.tensor([7, 250, 3]))
    expected = np.stack([preprocessed(photos.read(index), source.reader.steps) for index in range(300)])
    found = torch.cat(list(source.evaluation_batches()))
    assert torch.equal(found, torch.from_numpy(expected).permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(torch.cat(list(part.evaluation_batches())), found[[7, 250, 3]]) and part.labels.tolist() == [
        1,
        1,
        0,
    ]


# --- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (40, 400), (400, 40)])
def test_boxes_of_one_image_are_those_of_a_batch(size):
    a = Augmentation(scale=(0.08, 1.0))
    draws = Draws(5, np.arange(2000))
    area, ratio, place = (
        draws.uniform(name, count).numpy() for name, count in (("area", 10), ("ratio", 10), ("place", 2))
    )
    found = np.array([crop_box(*each, a.scale, a.ratio, *size) for each in zip(area, ratio, place, strict=True)])
    expected = torch.stack(draw_crops(draws, a.scale, a.ratio, *size), 1).numpy()
    assert abs(found - expected).max() <= 1 and (found != expected).any(1).mean() < 0.002


def test_crops_are_torchvisions():
    """Crop first, then resize with antialiasing in 8 bits, then flip: `RandomResizedCrop` on the whole image."""
    photos = Photos()
    views = opened(photos).views(Augmentation(jitter=0.0, grey=0.0), 2, 7)
    rows = torch.arange(3, 40, 4)
    for view, found in enumerate(views(rows, 9)):
        draws = Draws(data.seed_of(7, "view", 9, view), rows.numpy())
        flips = draws.chance("flip", 0.5)
        for position, row in enumerate(rows.tolist()):
            image = torch.from_numpy(photos.read(row)).permute(2, 0, 1)
            boxes = draw_crops(draws, (0.2, 1.0), (3 / 4, 4 / 3), *image.shape[1:])
            box = [int(part[position]) for part in boxes]
            expected = v2.functional.resized_crop(image, *box, [SIDE, SIDE], antialias=True)
            expected = v2.functional.hflip(expected) if flips[position] else expected
            assert torch.equal(found[position], expected.float() / 255)
    assert 0 < int(flips.sum()) < len(rows)


def test_images_that_are_not_moved_are_as_in_evaluation_and_others_rotate_about_the_centre():
    photos = Photos()
    source = opened(photos)
    still = source.views(Augmentation(warp=0.0, flip=0.0, jitter=0.0, grey=0.0), 1, 0)
    assert torch.equal(still(torch.arange(48), 0)[0], torch.cat(list(source.evaluation_batches())))
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 8] = 255
    turned = streaming.rotated(image, 90)
    assert turned.shape == image.shape and turned[0, 4] == 255 and turned.sum() == 255


@pytest.mark.parametrize("augmentation", ["blurred", "digits"])
def test_views_depend_on_example_and_step_alone(augmentation):
    """Other batches, as another process has, other threads, and other steps ahead change nothing."""
    a = components.own("augmentation", augmentation).params
    whole = opened(Photos(), threads=4).views(a, 2, 1)(torch.arange(32), 5)
    alone = opened(Photos(), threads=1).views(a, 2, 1)
    steps = [(torch.arange(20, 30), 4), (torch.arange(20, 30), 5)]
    before, ahead = alone.in_order(steps)
    for view in range(2):
        assert torch.equal(ahead[view], whole[view][20:30])
        assert not torch.equal(before[view], ahead[view])
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("name", ["blurred", "digits"])
def test_an_augmentation_leaves_its_input_as_it_was(name):
    pixels = torch.from_numpy(np.random.default_rng(0).random((8, 3, 16, 16), np.float32))
    before, augment = pixels.clone(), BatchAugmenter(components.own("augmentation", name).params, 16)
    for augmented in (augment(pixels, 0, torch.arange(8)), augment.recolour(pixels, 0, torch.arange(8))):
        assert torch.equal(pixels, before) and not torch.equal(augmented, before)


# --- memory and threads ----------------------------------------------------------------------------------------------


class Counted(Photos):
    """Photos that count how many decoded images exist at once, and what was read."""

    def __init__(self, count=48):
        super().__init__(count)
        self.alive, self.most, self.read_rows, self._lock = 0, 0, [], threading.Lock()

    def read(self, index):
        image = super().read(index).copy()
        with self._lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
            self.read_rows.append(index)
        weakref.finalize(image, self._gone)
        time.sleep(0.001)
        return image

    def _gone(self):
        with self._lock:
            self.alive -= 1


@pytest.mark.parametrize("threads", [1, 3])
def test_decoded_images_and_views_ahead_are_bounded(threads):
    """However long the epoch is: one image per thread, and the views of a few steps."""
    photos = Counted(480)
    views = opened(photos, threads=threads).views(Augmentation(), 2, 0)
    steps = [(torch.arange(first, first + 8), number) for number, first in enumerate(range(0, 480, 8))]
    most_ahead, iterator = 0, views.in_order(steps)
    for number, _ in enumerate(iterator, 1):
        time.sleep(0.004)
        most_ahead = max(most_ahead, len(photos.read_rows) - 8 * number)
    assert photos.read_rows and sorted(photos.read_rows) == list(range(480))
    assert photos.most <= threads and photos.alive == 0
    assert 0 < most_ahead <= 8 * max(streaming.AHEAD, threads)


def test_a_process_reads_its_own_rows_alone():
    photos = Counted()
    views = opened(photos, threads=2).subset(torch.arange(10, 40)).views(Augmentation(), 2, 0)
    list(views.in_order([(torch.tensor([0, 5]), 0), (torch.tensor([29]), 1)]))
    assert sorted(photos.read_rows) == [10, 15, 39]


def test_an_error_in_a_thread_and_an_interrupt_end_the_training_and_its_threads(job):
    class Broken(Photos):
        def read(self, index):
            if index == 20:
                raise OSError(24, "Too many open files")
            return super().read(index)

    recipe = params.SimCLR(**of_photos(threads=2))
    with pytest.raises(OSError, match="Too many open files"):
        loop.train(job(recipe, "broken", dataset=Broken()))
    assert not decoders()

    def interrupt(progress):
        raise KeyboardInterrupt

    photos = Counted(800)
    training = job(params.SimCLR(**of_photos(threads=2, batch=8)), "interrupted", dataset=photos)
    with pytest.raises(KeyboardInterrupt) as stopped:
        loop.train(replace(training, progress=interrupt))  # after 50 of 100 steps
    assert stopped.traceback and not decoders()  # although the traceback still has the frames of the training
    assert 400 <= len(photos.read_rows) < 450


# --- images that cannot be read, or do not fit -----------------------------------------------------------------------


class Torn(Photos):
    def read(self, index):
        if index in (3, 6, 46):
            raise UnreadableExample("the file is empty")
        return super().read(index)


def test_the_next_readable_image_of_the_class_takes_the_place_of_one_that_cannot_be_read(job):
    said = []
    source, whole = opened(Torn(), said.append), opened(Photos())
    found, expected = (torch.cat(list(each.evaluation_batches())) for each in (source, whole))
    taken = {3: 9, 6: 9, 46: 1}
    assert torch.equal(found, expected[[taken.get(row, row) for row in range(48)]])
    assert sorted(said) == [
        f"the training example photo-{row:03} cannot be read (the file is empty): "
        "the next one of its class takes its place"
        for row in taken
    ]
    list(source.evaluation_batches())
    assert len(said) == 3  # named once
    part = source.subset(torch.tensor([6, 7, 12]))  # never by an example of another subset
    assert torch.equal(next(part.evaluation_batches()), expected[[12, 7, 12]])
    with pytest.raises(UserError, match="none of the 1 training examples with the label of photo-006 can be read"):
        list(source.subset(torch.tensor([6, 7])).evaluation_batches())

    def save_and_stop(*words):
        artefact.save_checkpoint(*words)
        raise KeyboardInterrupt

    recipe = params.SimCLR(**of_photos())
    undisturbed, resumed = (job(recipe, name, dataset=Torn()) for name in ("undisturbed", "resumed"))
    loop.train(undisturbed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(resumed, save=save_and_stop)
    loop.train(resumed)
    assert_same_artefacts(undisturbed, resumed)


def test_after_some_names_a_training_is_silent_about_images_that_cannot_be_read():
    class Worse(Photos):
        def read(self, index):
            if index < 30:
                raise UnreadableExample("the file is empty")
            return super().read(index)

    said = []
    list(opened(Worse(), said.append, threads=1).evaluation_batches())
    assert len(said) == data.MAX_NAMED and said[-1].endswith("; others that cannot be read are not named")


@pytest.mark.parametrize(("changed", "why"), [
    ({"resize": 12}, "resize=12 must be at least the input's size, 16, .* Try: `resize: 18`"),
    ({"stream": False}, "cropped anew in every step. Try: `stream: true`"),
    ({"threads": 0}, "threads=0 must be above 0"),
    ({"input": (3, 8, 16, 16), "network": "r2plus1d-narrow"}, r"for images. Try: `video: \{resize: 18\}`"),
])  # fmt: skip
def test_options_that_contradict_each_other_are_refused(changed, why):
    with pytest.raises(ValueError, match=why):
        params.SimCLR(**of_photos(**changed))


def test_images_of_another_shape_are_refused_with_what_to_write():
    with pytest.raises(UserError, match=r"the shape \(1, 16, 16\), but .* Try: `input: \[1, 16, 16\]`$"):
        list(opened(BARS["Bars"](3)).evaluation_batches())
    with pytest.raises(UserError, match=r"the recipe says \(3, 16, 16\). Try: .*, or `resize: 18` for images of any"):
        list(opened(Photos(), resize=None, stream=True).evaluation_batches())


def test_imagenet_is_resized_as_usual():
    assert params.SimCLR(data="datasets/imagenet").preprocessing == params.Preprocessing(resize=256, crop=(224, 224))
    smaller = params.SimCLR(data="datasets/imagenet", input=(3, 112, 112), resize=144)
    assert smaller.preprocessing == params.Preprocessing(resize=144, crop=(112, 112))
    assert params.SimCLR(**of_bars()).preprocessing is None


# --- processes -------------------------------------------------------------------------------------------------------


def test_two_processes_share_the_reading_and_learn_the_same_as_in_memory(tmp_path):
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(HERE / "streamed.py"),
        str(tmp_path),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    states = [load_file(tmp_path / name / artefact.WEIGHTS) for name in ("memory", "streamed", "knn")]
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())
    first, second = (json.loads((tmp_path / "streamed" / f"read-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == len(second) == 2 * 80 and sorted(first + second) == sorted([*range(160)] * 2)
    plain, noted = (
        [json.loads(line) for line in (tmp_path / name / artefact.METRICS).read_text().splitlines()]
        for name in ("streamed", "knn")
    )
    assert [{key: value for key, value in line.items() if key != "knn"} for line in noted] == plain
    assert [line["epoch"] for line in noted if 0 <= line["knn"] <= 1] == [1, 2]


# --- suites ----------------------------------------------------------------------------------------------------------


def test_a_suite_trains_on_a_folder_of_images_of_any_size_and_measures_as_it_evaluated(tmp_path):
    from PIL import Image

    draws = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for number, kind in enumerate(("blue", "green", "red")):
            folder = tmp_path / "pets" / split / kind
            folder.mkdir(parents=True)
            for index in range(count):
                image = draws.integers(0, 90, (*draws.integers(18, 60, 2), 3), dtype=np.uint8)
                image[:, :, 2 - number] += 120
                Image.fromarray(image).save(folder / f"{index}.png")

    def asked(**options):
        recipe = {"data": "datasets/folder", "split": "pets/train", "input": [3, 16, 16], "labels": "folder",
                  "classes": 3, "resize": 18, "epochs": 2, "batch": 24, **options}  # fmt: skip
        return {"robharness": 1, "name": "pets", "data": {"name": "datasets/folder", "split": "pets/test"},
                "models": [{"model": "contrastive/supcon", "label": "Pets", **recipe}]}  # fmt: skip

    places = {"store": tmp_path / "store", "data": tmp_path}
    [trained] = robharness.train(asked(knn={"k": 5}, threads=2), **places)
    logs = (tmp_path / "store").glob("artefacts/*/metrics.jsonl")
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert [line["epoch"] for line in lines if line.get("knn", 0) > 0.5] == [1, 2]
    results = robharness.run(asked(), **places)
    assert results.clean("Pets").accuracy > 0.8
    [again] = robharness.train(asked(stream=True), **places)
    [other] = robharness.train(asked(resize=20), **places)
    assert again.seconds is None and other.seconds is not None  # other options of the runtime find the same training
    assert again.artefact.hash == trained.artefact.hash != other.artefact.hash
