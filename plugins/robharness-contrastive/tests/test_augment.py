"""Compare augmentations with torchvision's, step by step with the same random numbers, and in distribution."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from robharness import discover
from robharness_contrastive import augment, components
from robharness_contrastive.augment import SIGMA, BatchAugmenter, Draws
from robharness_contrastive.steps import Augmentation, Digits

N = 400
NOTHING = Augmentation(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0)


def images(n=6, side=32, seed=0):
    """Smooth colours with edges, uint8 (n, 3, side, side)."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [[np.sin(6 * x * draws.random() + 9 * y * draws.random() + c) for c in range(3)] for _ in range(n)]
    edges = (x > draws.random((n, 1, 1, 1))) * 60
    return torch.from_numpy((np.array(waves) * 90 + 100 + edges).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def patches():
    dataset = discover().datasets["samples/patches"].spec.open(None, "test")
    return torch.from_numpy(np.stack([dataset.read(index) for index in range(0, 1000, 125)])).permute(0, 3, 1, 2)


class Fixed(Draws):
    """Draws whose values a test sets by name."""

    def __init__(self, n, **values):
        super().__init__(0, np.arange(n))
        self.values = values

    def uniform(self, name, count=1):
        return self.values[name] if name in self.values else super().uniform(name, count)


# --- step by step ---


def test_a_crop_is_torchvisions_with_the_same_box():
    x = images()
    boxes = [torch.tensor(values, dtype=torch.float32) for values in (
        [0, 3, 10, 1, 0, 20], [0, 8, 1, 0, 15, 4], [32, 11, 20, 31, 17, 9], [32, 20, 30, 12, 17, 28])]  # fmt: skip
    flips = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.1, 0.9])[:, None]
    augmenter = BatchAugmenter(Augmentation(), 32, draw_crops=lambda *words: tuple(boxes))
    found = augmenter.resample(x[:, None].float() / 255, Fixed(6, flip=flips))[:, 0]
    for row, image in enumerate(x.float() / 255):
        top, left, height, width = (int(values[row]) for values in boxes)
        expected = T.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        expected = T.horizontal_flip(expected) if flips[row] < 0.5 else expected
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1 / 255 / 4)


def test_a_rotation_is_torchvisions():
    x, angles = images(), torch.tensor([-20.0, -7, 0, 5, 13, 20])
    rotating, warped = (
        dataclasses.replace(NOTHING, rotation=20.0),
        torch.tensor([0.1, 0.4, 0.2, 0.3, 0.1, 0.9])[:, None],
    )
    drawn = Fixed(6, rotation=(angles[:, None] + 20) / 40, moved=warped)
    found = BatchAugmenter(dataclasses.replace(rotating, warp=0.5), 32).resample(x[:, None].float() / 255, drawn)[:, 0]
    angles[5] = 0  # not warped
    for row, image in enumerate(x.float() / 255):
        expected = T.rotate(image, float(angles[row]), T.InterpolationMode.BILINEAR)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1 / 255)


@pytest.mark.parametrize(("name", "theirs", "values"), [
    ("brightness", T.adjust_brightness, [0.6, 0.9, 1.0, 1.2, 1.4, 1.8]),
    ("contrast", T.adjust_contrast, [0.6, 0.9, 1.0, 1.2, 1.4, 1.8]),
    ("saturation", T.adjust_saturation, [0.0, 0.6, 1.0, 1.2, 1.4, 3.0]),
    ("hue", T.adjust_hue, [-0.5, -0.1, 0.0, 0.04, 0.1, 0.3]),
])  # fmt: skip
def test_colours_are_torchvisions(name, theirs, values):
    x = images().float() / 255
    x[:, :, :4, :4] = 0.3  # grey has no hue
    x[:, :, -2:] = torch.tensor([0.0, 1.0]).repeat(16)
    found = augment.COLOUR_CHANGES[name](x[:, None], torch.tensor(values))[:, 0]
    for row, value in enumerate(values):
        torch.testing.assert_close(found[row], theirs(x[row], value), rtol=0, atol=1e-5)


def test_grey_and_blur_are_torchvisions():
    x, sigma = images().float() / 255, torch.tensor([0.1, 0.5, 1.0, 1.3, 1.7, 2.0])
    torch.testing.assert_close(augment._grey(x[:, None])[:, 0], T.rgb_to_grayscale(x), rtol=0, atol=1e-4)
    found = augment.gaussian_blur(x[:, None], sigma)[:, 0]
    for row, value in enumerate(sigma.tolist()):
        torch.testing.assert_close(found[row], T.gaussian_blur(x[row], [3, 3], [value, value]), rtol=0, atol=1e-5)


def test_colours_change_in_the_order_of_each_image():
    """Equal to torchvision's functions, applied one after the other in the drawn order."""
    x, n = images(24), 24
    a = Augmentation(scale=(1, 1), ratio=(1, 1), flip=0, jitter=1, grey=0)
    orders = torch.from_numpy(np.random.default_rng(1).random((n, 4)).astype(np.float32))
    drawn = Fixed(n, order=orders)
    found = BatchAugmenter(a, 32)._jitter(x[:, None].float() / 255, drawn)[:, 0]
    functions = {"brightness": T.adjust_brightness, "contrast": T.adjust_contrast,
                 "saturation": T.adjust_saturation, "hue": T.adjust_hue}  # fmt: skip
    names, seen = list(functions), set()
    for row in range(n):
        order = [names[place] for place in orders[row].argsort().tolist()]
        seen.add(tuple(order))
        expected = x[row].float() / 255
        for name in order:
            low, high = (-0.1, 0.1) if name == "hue" else (0.6, 1.4)
            expected = functions[name](expected, float(drawn.between(name, low, high)[row]))
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-4)
    assert len(seen) > 12


# --- draws ---


def test_a_draw_depends_on_the_example_alone():
    x, indices = images(8), torch.arange(40, 48)
    augmenter = BatchAugmenter(Augmentation(), 32)
    whole = augmenter(x, 5, indices)
    some = torch.tensor([6, 1, 3])
    torch.testing.assert_close(augmenter(x[some], 5, indices[some]), whole[some], rtol=0, atol=1e-6)
    assert not torch.equal(augmenter(x, 6, indices), whole)
    assert torch.equal(augmenter(x, 5, indices), whole)
    same = augmenter(x[:1].expand(8, -1, -1, -1), 5, indices)
    assert len({image.numpy().tobytes() for image in same}) == 8


def test_numbers_are_uniform_and_independent_of_other_names_places_and_seeds():
    columns = {}
    for seed in (0, 1, 2**62 + 3):
        for name in ("area", "flip", "order"):
            drawn = Draws(seed, np.arange(4000)).uniform(name, 3).numpy()
            assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3
            columns |= {(seed, name, place): drawn[:, place] for place in range(3)}
    table = np.array(list(columns.values()))
    apart = np.corrcoef(np.concatenate([table, table[:, np.r_[1:4000, 0]]]))  # and of the next place
    np.fill_diagonal(apart, 0)
    assert abs(apart).max() < 5 / 4000**0.5


def test_boxes_have_torchvisions_distribution():
    drawn = Draws(3, np.arange(4000))
    for (height, width), scale, ratio in (
        ((32, 32), (0.2, 1.0), (3 / 4, 4 / 3)), ((24, 60), (0.5, 1.0), (3 / 4, 4 / 3)), ((28, 28), (0.55, 1), (1, 1)),
    ):  # fmt: skip
        ours = torch.stack(augment.draw_crops(drawn, scale, ratio, height, width), 1).numpy()
        reference = v2.RandomResizedCrop(8, scale, ratio)
        theirs = []
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251 (torchvision draws from it)
            image = torch.empty(3, height, width)
            for _ in range(4000):
                box = reference.make_params([image])
                theirs.append([box[key] for key in ("top", "left", "height", "width")])
        for column, other in zip(ours.T, np.array(theirs).T, strict=True):
            assert stats.ks_2samp(column, other).pvalue > 1e-3
        assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


# --- all steps ---


def torchvisions(augmentation, size, channels=3):
    """Apply the same steps, composed by torchvision: (C, H, W) -> float32 (C, size, size) in [0, 1]."""
    a, coloured = augmentation, channels == 3
    warp = [v2.RandomRotation(a.rotation, v2.InterpolationMode.BILINEAR)] if a.rotation else []
    warp += [v2.RandomResizedCrop(size, a.scale, a.ratio, antialias=True)]
    if a.warp < 1:
        warp = [v2.RandomApply(warp, a.warp), v2.Resize((size, size), antialias=True)]
    steps = [*warp, v2.RandomHorizontalFlip(a.flip)]
    saturation, hue = (a.saturation, a.hue) if coloured else (0.0, 0.0)
    if a.jitter:
        steps += [v2.RandomApply([v2.ColorJitter(a.brightness, a.contrast, saturation, hue)], a.jitter)]
    if a.grey and coloured:
        steps += [v2.RandomGrayscale(a.grey)]
    if a.blur:
        steps += [v2.RandomApply([v2.GaussianBlur(max(3, size // 10 // 2 * 2 + 1), SIGMA)], a.blur)]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])


def described(x):
    """Return the mean of augmented images (N, C, S, S), and statistics per image that the steps change."""
    spectrum = torch.fft.rfft2(x.mean(1)).abs()
    bands = [spectrum[:, low:high, low:high].mean((1, 2)) for low, high in ((1, 3), (3, 6), (6, 12))]
    saturation = x.amax(1) - x.amin(1)
    each = [x.mean((1, 2, 3)), x.std((1, 2, 3)), saturation.mean((1, 2)), *bands]
    return x.mean((0, 1)), torch.stack(each, 1).numpy()


@pytest.mark.parametrize("name", ["contrastive", "supervised", "patches", "blurred"])
def test_real_images_have_torchvisions_distribution(patches, name):
    """On values that are not rounded: saturation and contrast are mostly small, and 8 bits are coarse for them."""
    one = torchvisions(components.own("augmentation", name).params, 32)
    for image in patches[:4].float() / 255:
        ours = BatchAugmenter(components.own("augmentation", name).params, 32)(
            image.expand(N, -1, -1, -1), 1, torch.arange(N)
        )
        with torch.random.fork_rng():
            torch.manual_seed(2)  # noqa: TID251 (torchvision draws from it)
            theirs = torch.stack([one(image) for _ in range(N)])
        (mean, each), (their_mean, their_each) = described(ours), described(theirs)
        assert (mean - their_mean).abs().max() < 6 * float(theirs.mean(1).std(0).max()) * (2 / N) ** 0.5
        for column, other in zip(each.T, their_each.T, strict=True):
            assert stats.ks_2samp(column, other).pvalue > 1e-4


def test_digits_have_torchvisions_distribution():
    """And a share of the images is not resampled."""
    dataset = discover().datasets["samples/mnist-5k"].spec.open(None, "test")
    digits = Digits()
    one = torchvisions(digits, 28, 1)
    for index in range(3):
        image = torch.from_numpy(dataset.read(index)).permute(2, 0, 1).float() / 255
        ours = BatchAugmenter(digits, 28)(image.expand(N, -1, -1, -1), 1, torch.arange(N))
        with torch.random.fork_rng():
            torch.manual_seed(2)  # noqa: TID251 (torchvision draws from it)
            theirs = torch.stack([one(image) for _ in range(N)])
        (mean, each), (their_mean, their_each) = described(ours), described(theirs)
        assert (mean - their_mean).abs().max() < 6 * float(theirs.mean(1).std(0).max()) * (2 / N) ** 0.5
        for place in (0, 1, 3, 4, 5):  # grey has no saturation
            assert stats.ks_2samp(each[:, place], their_each[:, place]).pvalue > 1e-4
        unjittered = BatchAugmenter(dataclasses.replace(digits, jitter=0), 28)
        still = unjittered(image.expand(N, -1, -1, -1), 1, torch.arange(N))
        sharp = ((still - image).abs().amax((1, 2, 3)) < 1e-5).float().mean()
        assert abs(sharp - (1 - digits.warp)) < 4 * (0.75 * 0.25 / N) ** 0.5


def test_frames_of_a_clip_share_one_draw():
    x = images(4)
    clips = x[:, :, None].expand(-1, -1, 5, -1, -1).contiguous()
    augmenter = BatchAugmenter(Augmentation(), 32)
    found = augmenter(clips, 7, torch.arange(4))
    assert found.shape == (4, 3, 5, 32, 32)
    torch.testing.assert_close(found, augmenter(x, 7, torch.arange(4))[:, :, None].expand(-1, -1, 5, -1, -1))


def test_reduction_averages_pixels():
    """A checkerboard of single pixels becomes grey at half its size; sampled points would be black or white."""
    y, x = np.mgrid[0:64, 0:64]
    board = torch.from_numpy(((x + y) % 2 * 255).astype(np.uint8)).expand(2, 3, -1, -1)
    found = BatchAugmenter(NOTHING, 32)(board, 0, torch.arange(2))
    torch.testing.assert_close(found, torch.full((2, 3, 32, 32), 0.5), rtol=0, atol=1e-3)


def test_no_steps_leave_the_image_unchanged():
    x = images()
    torch.testing.assert_close(BatchAugmenter(NOTHING, 32)(x, 0, torch.arange(6)), x.float() / 255, rtol=0, atol=1e-5)
