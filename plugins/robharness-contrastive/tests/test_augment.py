"""Augmentations beside torchvision's: step by step with the same numbers, and in distribution."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from robharness import discover
from robharness_contrastive import augment
from robharness_contrastive.augment import AUGMENTATIONS, Augmentation, Batched, Draws, per_sample

N = 400
NOTHING = Augmentation(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0)


def pictures(n=6, side=32, seed=0):
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
    """Says what a test wants, by name."""

    def __init__(self, n, **values):
        super().__init__(0, np.arange(n))
        self.values = values

    def uniform(self, name, count=1):
        return self.values[name] if name in self.values else super().uniform(name, count)


# --- step by step ---


def test_a_crop_is_torchvisions_with_the_same_box(monkeypatch):
    x = pictures()
    boxes = [torch.tensor(values, dtype=torch.float32) for values in (
        [0, 3, 10, 1, 0, 20], [0, 8, 1, 0, 15, 4], [32, 11, 20, 31, 17, 9], [32, 20, 30, 12, 17, 28])]  # fmt: skip
    monkeypatch.setattr(augment, "crops", lambda *words: tuple(boxes))
    flips = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.1, 0.9])[:, None]
    found = Batched(Augmentation(), 32).seen(x[:, None].float() / 255, Fixed(6, flip=flips))[:, 0]
    for row, picture in enumerate(x.float() / 255):
        top, left, height, width = (int(values[row]) for values in boxes)
        expected = T.resized_crop(picture, top, left, height, width, [32, 32], antialias=True)
        expected = T.horizontal_flip(expected) if flips[row] < 0.5 else expected
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1 / 255 / 4)


def test_a_rotation_is_torchvisions(monkeypatch):
    x, angles = pictures(), torch.tensor([-20.0, -7, 0, 5, 13, 20])
    turned, moved = dataclasses.replace(NOTHING, rotation=20.0), torch.tensor([0.1, 0.4, 0.2, 0.3, 0.1, 0.9])[:, None]
    drawn = Fixed(6, rotation=(angles[:, None] + 20) / 40, moved=moved)
    found = Batched(dataclasses.replace(turned, moved=0.5), 32).seen(x[:, None].float() / 255, drawn)[:, 0]
    angles[5] = 0  # not moved
    for row, picture in enumerate(x.float() / 255):
        expected = T.rotate(picture, float(angles[row]), T.InterpolationMode.BILINEAR)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1 / 255)


@pytest.mark.parametrize(("name", "theirs", "values"), [
    ("brightness", T.adjust_brightness, [0.6, 0.9, 1.0, 1.2, 1.4, 1.8]),
    ("contrast", T.adjust_contrast, [0.6, 0.9, 1.0, 1.2, 1.4, 1.8]),
    ("saturation", T.adjust_saturation, [0.0, 0.6, 1.0, 1.2, 1.4, 3.0]),
    ("hue", T.adjust_hue, [-0.5, -0.1, 0.0, 0.04, 0.1, 0.3]),
])  # fmt: skip
def test_colours_are_torchvisions(name, theirs, values):
    x = pictures().float() / 255
    x[:, :, :4, :4] = 0.3  # grey has no hue
    x[:, :, -2:] = torch.tensor([0.0, 1.0]).repeat(16)
    found = augment.COLOURS[name](x[:, None], torch.tensor(values))[:, 0]
    for row, value in enumerate(values):
        torch.testing.assert_close(found[row], theirs(x[row], value), rtol=0, atol=1e-5)


def test_grey_and_blur_are_torchvisions():
    x, sigma = pictures().float() / 255, torch.tensor([0.1, 0.5, 1.0, 1.3, 1.7, 2.0])
    torch.testing.assert_close(augment._grey(x[:, None])[:, 0], T.rgb_to_grayscale(x), rtol=0, atol=1e-4)
    found = augment.blurred(x[:, None], sigma)[:, 0]
    for row, value in enumerate(sigma.tolist()):
        torch.testing.assert_close(found[row], T.gaussian_blur(x[row], [3, 3], [value, value]), rtol=0, atol=1e-5)


def test_colours_come_in_the_order_of_each_picture():
    """As torchvision's functions do one after the other, in the order that the draw says."""
    x, n = pictures(24), 24
    a = Augmentation(scale=(1, 1), ratio=(1, 1), flip=0, jitter=1, grey=0)
    orders = torch.from_numpy(np.random.default_rng(1).random((n, 4)).astype(np.float32))
    drawn = Fixed(n, order=orders)
    found = Batched(a, 32)._jittered(x[:, None].float() / 255, drawn)[:, 0]
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


def test_per_sample_is_what_the_paper_composes():
    picture = pictures(1)[0]
    theirs = v2.Compose([
        v2.RandomResizedCrop(32, (0.2, 1.0), antialias=True), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2),
        v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip
    ours = per_sample(AUGMENTATIONS["contrastive"], 32)
    for seed in range(30):
        found = []
        for compose in (ours, theirs):
            with torch.random.fork_rng():
                torch.manual_seed(seed)  # noqa: TID251 (torchvision draws from it)
                found.append(compose(picture))
        assert torch.equal(*found)


# --- draws ---


def test_a_draw_is_the_examples_own():
    x, places = pictures(8), torch.arange(40, 48)
    batched = Batched(AUGMENTATIONS["contrastive"], 32)
    whole = batched(x, 5, places)
    some = torch.tensor([6, 1, 3])
    torch.testing.assert_close(batched(x[some], 5, places[some]), whole[some], rtol=0, atol=1e-6)
    assert not torch.equal(batched(x, 6, places), whole)
    assert torch.equal(batched(x, 5, places), whole)
    same = batched(x[:1].expand(8, -1, -1, -1), 5, places)
    assert len({picture.numpy().tobytes() for picture in same}) == 8


def test_numbers_are_uniform_and_of_no_other_name_place_or_seed():
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
        ours = torch.stack(augment.crops(drawn, scale, ratio, height, width), 1).numpy()
        reference = v2.RandomResizedCrop(8, scale, ratio)
        theirs = []
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251 (torchvision draws from it)
            picture = torch.empty(3, height, width)
            for _ in range(4000):
                box = reference.make_params([picture])
                theirs.append([box[key] for key in ("top", "left", "height", "width")])
        for column, other in zip(ours.T, np.array(theirs).T, strict=True):
            assert stats.ks_2samp(column, other).pvalue > 1e-3
        assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


# --- the whole ---


def described(x):
    """Of augmented pictures, (N, C, S, S): the mean picture, and per picture what a step would change."""
    spectrum = torch.fft.rfft2(x.mean(1)).abs()
    bands = [spectrum[:, low:high, low:high].mean((1, 2)) for low, high in ((1, 3), (3, 6), (6, 12))]
    saturation = x.amax(1) - x.amin(1)
    each = [x.mean((1, 2, 3)), x.std((1, 2, 3)), saturation.mean((1, 2)), *bands]
    return x.mean((0, 1)), torch.stack(each, 1).numpy()


@pytest.mark.parametrize("name", ["contrastive", "supervised", "patches", "blurred"])
def test_both_ways_have_one_distribution_on_real_pictures(patches, name):
    """Of values that nobody rounds, since saturation and contrast are mostly small, and 8 bits coarse for them."""
    one = per_sample(AUGMENTATIONS[name], 32)
    for picture in patches[:4].float() / 255:
        ours = Batched(AUGMENTATIONS[name], 32)(picture.expand(N, -1, -1, -1), 1, torch.arange(N))
        with torch.random.fork_rng():
            torch.manual_seed(2)  # noqa: TID251 (torchvision draws from it)
            theirs = torch.stack([one(picture) for _ in range(N)])
        (mean, each), (their_mean, their_each) = described(ours), described(theirs)
        assert (mean - their_mean).abs().max() < 6 * float(theirs.mean(1).std(0).max()) * (2 / N) ** 0.5
        for column, other in zip(each.T, their_each.T, strict=True):
            assert stats.ks_2samp(column, other).pvalue > 1e-4


def test_digits_have_torchvisions_distribution():
    """And a share of them is as sharp as it came."""
    dataset = discover().datasets["samples/mnist-5k"].spec.open(None, "test")
    digits = AUGMENTATIONS["digits"]
    one = per_sample(digits, 28, 1)
    for index in range(3):
        picture = torch.from_numpy(dataset.read(index)).permute(2, 0, 1).float() / 255
        ours = Batched(digits, 28)(picture.expand(N, -1, -1, -1), 1, torch.arange(N))
        with torch.random.fork_rng():
            torch.manual_seed(2)  # noqa: TID251 (torchvision draws from it)
            theirs = torch.stack([one(picture) for _ in range(N)])
        (mean, each), (their_mean, their_each) = described(ours), described(theirs)
        assert (mean - their_mean).abs().max() < 6 * float(theirs.mean(1).std(0).max()) * (2 / N) ** 0.5
        for place in (0, 1, 3, 4, 5):  # grey has no saturation
            assert stats.ks_2samp(each[:, place], their_each[:, place]).pvalue > 1e-4
        still = Batched(dataclasses.replace(digits, jitter=0), 28)(picture.expand(N, -1, -1, -1), 1, torch.arange(N))
        sharp = ((still - picture).abs().amax((1, 2, 3)) < 1e-5).float().mean()
        assert abs(sharp - (1 - digits.moved)) < 4 * (0.75 * 0.25 / N) ** 0.5


def test_frames_of_a_clip_share_one_draw():
    x = pictures(4)
    clips = x[:, :, None].expand(-1, -1, 5, -1, -1).contiguous()
    batched = Batched(AUGMENTATIONS["contrastive"], 32)
    found = batched(clips, 7, torch.arange(4))
    assert found.shape == (4, 3, 5, 32, 32)
    torch.testing.assert_close(found, batched(x, 7, torch.arange(4))[:, :, None].expand(-1, -1, 5, -1, -1))


def test_what_shrinks_is_averaged():
    """A checkerboard of single pixels is grey at half its size, where single points would be black or white."""
    y, x = np.mgrid[0:64, 0:64]
    board = torch.from_numpy(((x + y) % 2 * 255).astype(np.uint8)).expand(2, 3, -1, -1)
    found = Batched(NOTHING, 32)(board, 0, torch.arange(2))
    torch.testing.assert_close(found, torch.full((2, 3, 32, 32), 0.5), rtol=0, atol=1e-3)


def test_nothing_leaves_the_picture_as_it_is():
    x = pictures()
    torch.testing.assert_close(Batched(NOTHING, 32)(x, 0, torch.arange(6)), x.float() / 255, rtol=0, atol=1e-5)
