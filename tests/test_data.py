"""From pixels to inputs: canvas, the model's own resize, [0, 1]; 8 bits until the last step."""

import random
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from robharness import api
from robharness.engine import listeners
from robharness.errors import ContractViolation
from robharness.evaluation.images import on_canvas, preprocessed
from robharness.evaluation.reader import Reader
from robharness.specs import InputSpec, Preprocessing

RNG = np.random.default_rng(11)


def photo(height, width, channels=3):
    """Smooth colours with some noise, uint8 (H, W, C)."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + c)) + np.cos(columns / (9 - c)) for c in range(channels)], -1)
    return (127 + 50 * waves + RNG.integers(-20, 20, (height, width, channels))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (512, 512), (90, 200), (256, 256)])
def test_the_canvas_is_that_of_imagenet_c(height, width):
    """hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py: Resize(256), CenterCrop(224), on PIL images."""
    image = photo(height, width)
    published = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(Image.fromarray(image))
    np.testing.assert_array_equal(on_canvas(image, 224), np.asarray(published))


def test_an_image_of_the_canvas_size_is_unchanged():
    """Files of ImageNet-C have 224 px already; resizing them again changed a published ranking (RobustBench #59)."""
    image = photo(224, 224)
    np.testing.assert_array_equal(on_canvas(image, 224), image)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_preprocessing_equals_pil(interpolation):
    image = photo(120, 150)
    mode = getattr(Image.Resampling, interpolation.upper())
    resized = Image.fromarray(image).resize((80, 64), mode)
    expected = np.asarray(resized)[7:57, 15:65]
    found = preprocessed(image, Preprocessing(resize=64, crop=50, interpolation=interpolation))
    np.testing.assert_array_equal(found, expected)


def test_preprocessing_without_antialiasing_equals_torch():
    image = photo(120, 150)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (60, 75), mode="bilinear", antialias=False, align_corners=False)
    found = preprocessed(image, Preprocessing(resize=(60, 75), antialias=False))
    assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).max() <= 1  # 8-bit weights
    with_antialias = preprocessed(image, Preprocessing(resize=(60, 75)))
    assert np.abs(found.astype(int) - with_antialias).max() > 5


class Photos:
    def __init__(self, *images):
        self.pictures = images
        self.ids = [f"p{i}" for i in range(len(images))]
        self.labels = list(range(len(images)))

    def read(self, index):
        return self.pictures[index]


def reader(dataset, shape, canvas=None, preprocessing=None, order=None):
    data = SimpleNamespace(
        dataset=dataset,
        order=order or range(len(dataset.ids)),
        entry=SimpleNamespace(name="toys/photos"),
        ids=lambda a, b: [dataset.ids[i] for i in (order or range(len(dataset.ids)))[a:b]],
    )
    model = SimpleNamespace(
        input=InputSpec(kind="video" if len(shape) == 4 else "image", shape=shape), preprocessing=preprocessing
    )
    return Reader(data=data, canvas=canvas, model=model, device=torch.device("cpu"))


def test_a_batch_has_the_fixed_order_and_values_in_0_1():
    dataset = Photos(*[photo(40, 40) for _ in range(4)])
    batch = reader(dataset, (3, 40, 40), order=[2, 0, 3, 1]).read(1, 4)
    assert batch.ids == ("p0", "p3", "p1")
    assert batch.labels.tolist() == [0, 3, 1]
    expected = torch.from_numpy(dataset.pictures[3]).permute(2, 0, 1).float() / 255
    assert torch.equal(batch.x[1], expected)
    assert batch.x.is_contiguous(memory_format=torch.channels_last)


def test_models_of_other_sizes_resize_the_canvas_without_cropping_it():
    image = photo(224, 224)
    steps = Preprocessing(resize=288, crop=260, interpolation="bicubic")
    batch = reader(Photos(image), (3, 260, 260), canvas=224, preprocessing=steps).read(0, 1)
    expected = np.asarray(Image.fromarray(image).resize((260, 260), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal((batch.x[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8), expected)
    np.testing.assert_array_equal(batch.canvas[0].numpy(), image)


def test_images_of_the_canvas_size_are_never_resized_again():
    """A model that asks for Resize(256) and CenterCrop(224), as for photos, gets files of 224 px pixel for pixel."""
    image = photo(224, 224)
    steps = Preprocessing(resize=256, crop=224)
    batch = reader(Photos(image), (3, 224, 224), canvas=224, preprocessing=steps).read(0, 1)
    np.testing.assert_array_equal((batch.x[0] * 255).round().permute(1, 2, 0).numpy(), image)


def test_channel_order_and_clips():
    image = photo(40, 40)
    batch = reader(Photos(image), (3, 40, 40), preprocessing=Preprocessing(channel_order="bgr")).read(0, 1)
    np.testing.assert_array_equal((batch.x[0, 0] * 255).round().numpy(), image[:, :, 2])
    clip = np.stack([photo(40, 50) for _ in range(5)])
    batch = reader(Photos(clip), (3, 5, 30, 30), preprocessing=Preprocessing(resize=32, crop=30)).read(0, 1)
    assert batch.x.shape == (1, 3, 5, 30, 30)
    frame = preprocessed(clip[3], Preprocessing(resize=32, crop=30))
    np.testing.assert_array_equal((batch.x[0, :, 3] * 255).round().permute(1, 2, 0).numpy(), frame)


@pytest.mark.parametrize(
    ("image", "shape", "by", "sentence"),
    [
        (photo(40, 40), (3, 32, 32), "model", r"the model takes \(3, 32, 32\), the data give \(3, 40, 40\)"),
        (photo(40, 40, 1), (3, 40, 40), "model", r"the data give \(1, 40, 40\)"),
        (photo(40, 40) / 255, (3, 40, 40), "data", "toys/photos must give uint8"),
        (
            np.zeros((3, 40, 12), np.uint8),
            (3, 40, 40),
            "data",
            "toys/photos gives 12 channels for 'p0'; an image has 3, or 1",
        ),
        (photo(40, 40)[:, :, 0], (1, 40, 40), "data", r"it gave uint8 \(40, 40\) for 'p0'"),
    ],
)
def test_images_of_an_unexpected_shape_or_type_are_refused(image, shape, by, sentence):
    with pytest.raises(ContractViolation, match=sentence) as caught:
        reader(Photos(image), shape).read(0, 1)
    assert caught.value.by == by


def test_examples_keep_their_order_whichever_thread_reads_first():
    images = [np.full((4, 4, 1), index, np.uint8) for index in range(200)]
    order, seconds = random.Random(3).sample(range(200), 200), [random.Random(i).random() / 100 for i in range(200)]
    threads = set()

    class Sleepy(Photos):
        def read(self, index):
            time.sleep(seconds[index])
            threads.add(threading.get_ident())
            return super().read(index)

    read = reader(Sleepy(*images), (1, 4, 4), canvas=4, order=order)
    found = read.images(7, 190)
    assert len(threads) > 1
    [group] = found.groups
    assert group.positions.tolist() == list(range(7, 190))
    assert group.fitted[:, 0, 0, 0].tolist() == group.canvas[:, 0, 0, 0].tolist() == order[7:190]
    batch = read.batch(found.part(50, 60))
    assert list(batch.ids) == [f"p{index}" for index in order[50:60]]
    assert batch.labels.tolist() == (batch.x[:, 0, 0, 0] * 255).round().int().tolist() == order[50:60]
    assert batch.canvas[:, 0, 0, 0].tolist() == order[50:60]


COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size")


def rows(results):
    """{perturbation: {example: its outcome, bit by bit}}"""
    return {
        result.cell.short_name: {
            example: tuple(result.columns[name][row].tobytes() for name in COLUMNS)
            for row, example in enumerate(result.columns["example"])
        }
        for result in results.cells
        if result.n
    }


class Units(listeners.Silent):
    """Remembers what was computed together, in order."""

    def __init__(self):
        self.spans = []

    def cell_done(self, cell, span, failure):
        self.spans += [span] if span not in self.spans else []


def test_the_next_unit_is_read_while_this_one_is_computed(suite, run, monkeypatch):
    """Who reads the first example of the second unit waits for the attack, and the attack waits for him."""
    source, units = suite(attacks=[{"attack": "toys/climb", "how": "reads-ahead", "eps": "1/8"}]), Units()
    alone = rows(run(source, "alone", batch_size=4, listener=units))
    assert len(units.spans) > 1
    monkeypatch.setenv("TOYS_AHEAD", str(units.spans[0][1]))
    monkeypatch.setenv("TOYS_SLEEPY", "1")
    results = run(source, batch_size=4)
    assert [failure for result in results.cells for failure in result.failures] == []
    assert rows(results) == alone


def test_a_prefetch_error_fails_only_the_cells_that_need_the_example(suite, run, toys, monkeypatch):
    """The torn example is in the second unit, which is read in the background; cells that have it do not ask for it."""
    units = Units()
    alone = rows(run(suite(), "alone", batch_size=4, listener=units))
    start, stop = units.spans[1]
    run(suite(attacks=suite()["attacks"][1:]), batch_size=4)
    monkeypatch.setenv("TOYS_TORN", api.plan(suite(), plugins=[toys]).data.ids(stop - 1, stop)[0])
    results = run(suite(), batch_size=4)
    for result in results.cells:
        assert result.is_complete == (result.cell.short_name in ("clean", "sign(linf, 1/8)"))
        assert rows(results)[result.cell.short_name].items() <= alone[result.cell.short_name].items()
        if not result.is_complete:
            [failure] = result.failures
            assert (failure.start, failure.stop) == (start, stop)
            assert failure.error == "toys/pixels: RuntimeError: the archive is closed"
            assert failure.blame == toys
            assert "the archive is closed" in failure.traceback and "in read" in failure.traceback
            assert result.n == start
    monkeypatch.delenv("TOYS_TORN")
    assert rows(run(suite(), batch_size=4)) == alone


def test_an_unused_prefetch_is_not_used_for_another_unit(suite, run):
    """The rogue misses 0 to 40 and fails in its first unit; then sign misses 32 to 40, and 16 to 32 was read."""
    sign, rogue = {"attack": "toys/sign", "eps": "1/8"}, {"attack": "toys/rogue", "how": "raises", "eps": "1/8"}
    alone = rows(run(suite(attacks=[sign]), "alone"))
    run(suite(attacks=[sign]), limit=32)
    results = run(suite(attacks=[rogue, sign]), batch_size=4)
    found = rows(results)
    assert found == alone
