"""Augmentations beside torchvision's: the same pictures of the same parameters, and the same distributions."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from robharness import discover
from robharness.rng import global_seed
from robharness_contrastive.augment import (
    AUGMENTATIONS,
    CONTRASTIVE,
    Augmentation,
    Batched,
    Draws,
    batched,
    draw,
    per_sample,
)
from robharness_contrastive.augment.draws import uniforms

NOTHING = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0)
LEVEL = 1 / 255
JITTERS = ("brightness", "contrast", "saturation", "hue")


@pytest.fixture(scope="module")
def patches():
    """100 patches of 20 photos, uint8 (100, 3, 96, 96)."""
    photos, found = discover().datasets["samples/imagenet-photos"].spec.open(None, "val"), []
    for index in range(len(photos.ids)):
        photo = torch.from_numpy(photos.read(index)).permute(2, 0, 1)
        height, width = photo.shape[1:]
        for y, x in ((0, 0), (0, width - 96), (height - 96, 0), (height - 96, width - 96), (height // 3, width // 3)):
            found.append(photo[:, y : y + 96, x : x + 96])
    return torch.stack(found)


@pytest.fixture(scope="module")
def digits():
    """100 digits, uint8 (100, 1, 28, 28)."""
    mnist = discover().datasets["samples/mnist-5k"].spec.open(None, "train")
    return torch.from_numpy(np.stack([mnist.read(index) for index in range(0, 4000, 40)])).permute(0, 3, 1, 2)


# --- one picture at a time -------------------------------------------------------------------------------------------

JITTER, WEAK = v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ColorJitter(0.1, 0.1, 0.1, 0.05)
B3 = [v2.RandomResizedCrop(size=32, scale=(0.2, 1.0)), v2.RandomHorizontalFlip()]
BY_HAND = {
    "contrastive": [*B3, v2.RandomApply([JITTER], p=0.8), v2.RandomGrayscale(p=0.2)],
    "supervised": [*B3, v2.RandomApply([WEAK], p=0.8), v2.RandomGrayscale(p=0.2)],
    "patches": [
        *(v2.RandomResizedCrop(32, (0.45, 1), (1, 1)), v2.RandomHorizontalFlip()),
        *(v2.RandomApply([JITTER], p=0.8), v2.RandomGrayscale(p=0.2)),
    ],
    "digits": [
        v2.RandomRotation(math.degrees(0.35), v2.InterpolationMode.BILINEAR, fill=None),
        v2.RandomResizedCrop(32, (0.55, 1), (1, 1)),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4)], p=1),
    ],
    "imagenet": [
        *(v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()),
        *(v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8), v2.RandomGrayscale(p=0.2)),
        v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], p=0.5),
    ],
}
"""Appendix B.3 of the paper, the digits and patches of the project's own experiments, and SimCLR's for ImageNet."""


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_one_picture_gets_what_was_published(name, patches):
    by_hand = v2.Compose([*BY_HAND[name], v2.ToDtype(torch.float32, scale=True)])
    ours = per_sample(AUGMENTATIONS[name], 32)
    for seed, picture in enumerate(patches[:40]):
        found = []
        for transform in (ours, by_hand):
            with global_seed(seed):
                found.append(transform(picture))
        assert found[0].dtype == torch.float32 and found[0].shape == (3, 32, 32) and found[0].max() <= 1
        assert torch.equal(*found)


# --- the same parameters, the same picture ---------------------------------------------------------------------------


def by_torchvision(picture, draws, row, augmentation, size):
    """A picture, or a clip (T, C, H, W), by torchvision's functions, of the draws of a row."""
    of = {item.name: getattr(draws, item.name)[row].tolist() for item in fields(Draws)}
    if augmentation.rotation:
        picture = F.rotate(picture, math.degrees(of["angle"]), v2.InterpolationMode.BILINEAR)
    box = [int(of[side]) for side in ("top", "left", "height", "width")]
    picture = F.resized_crop(picture, *box, [size, size], antialias=True)
    if of["flip"]:
        picture = F.horizontal_flip(picture)
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    if augmentation.jitter:
        for place in range(4):
            which = of["order"].index(place)
            if getattr(augmentation, JITTERS[which]):
                picture = adjust[which](picture, of[JITTERS[which]])
    if of["grey"]:
        picture = F.rgb_to_grayscale(picture, picture.shape[-3])
    if of["sigma"]:
        picture = F.gaussian_blur(picture, [2 * max(1, size // 20) + 1] * 2, [of["sigma"]] * 2)
    return picture


STEPS = {
    "crop": replace(NOTHING, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)),
    "flip": replace(NOTHING, flip=0.5),
    "rotation": replace(NOTHING, rotation=math.pi),
    **{name: replace(NOTHING, jitter=0.8, **{**dict.fromkeys(JITTERS, 0.0), name: 0.5}) for name in JITTERS},
    "grayscale": replace(NOTHING, grayscale=0.5),
    "blur": replace(NOTHING, blur=0.7),
}


@pytest.mark.parametrize("size", [32, 64, 96, 200])
@pytest.mark.parametrize("step", [*STEPS, *AUGMENTATIONS])
def test_each_step_does_what_torchvision_does(step, size, patches):
    augmentation = {**STEPS, **AUGMENTATIONS}[step]
    pictures = patches[:32, :, :90]
    draws = draw(augmentation, 1, torch.arange(len(pictures)), *pictures.shape[-2:])
    found = Batched(augmentation, size).apply(pictures, draws)
    assert found.shape == (32, 3, size, size) and found.min() >= 0 and found.max() <= 1
    for row, picture in enumerate(pictures):
        exact = by_torchvision(picture / 255, draws, row, augmentation, size)
        assert (found[row] - exact).abs().max() < 2e-5


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_within_a_level_of_torchvisions_8_bits(step, patches):
    """Pictures of the crop's own size, so that a step is alone; two of them have a grey of 8 bits on the way."""
    augmentation, size = STEPS[step], 64 if step == "crop" else 96
    draws = draw(augmentation, 2, torch.arange(100), 96, 96)
    found = Batched(augmentation, size).apply(patches, draws)
    for row, picture in enumerate(patches):
        eight_bits = by_torchvision(picture, draws, row, augmentation, size) / 255
        assert (found[row] - eight_bits).abs().max() <= (
            1.5 if step in ("contrast", "saturation") else 1
        ) * LEVEL + 1e-6


@pytest.mark.parametrize("step", ["crop", "rotation", "brightness", "contrast", "saturation", "hue", "grayscale"])
def test_grey_pictures_have_no_colour(step, digits):
    augmentation = STEPS[step]
    draws = draw(augmentation, 1, torch.arange(30), 28, 28)
    found = Batched(augmentation, 28).apply(digits[:30], draws)
    for row in range(30):
        exact = by_torchvision(digits[row] / 255, draws, row, augmentation, 28)
        assert (found[row] - exact).abs().max() < 2e-5
    if step in ("saturation", "hue", "grayscale"):
        assert (found - digits[:30] / 255).abs().max() < 2e-6


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_frames_of_a_clip_share_its_draws(name, patches):
    augmentation = AUGMENTATIONS[name]
    clips = torch.stack([patches[i : i + 4, :, :48, :40] for i in range(0, 40, 4)])  # (10, T, C, H, W)
    ours, rows = Batched(augmentation, 32), torch.arange(10) + 5
    found = ours(clips.transpose(1, 2), 3, rows).transpose(1, 2)
    draws = draw(augmentation, 3, rows, 48, 40)
    for row in range(10):
        exact = by_torchvision(clips[row] / 255, draws, row, augmentation, 32)
        assert (found[row] - exact).abs().max() < 2e-5
    frames = torch.stack([ours(clips[:, frame], 3, rows) for frame in range(4)], 1)
    assert (found - frames).abs().max() < 2e-6


# --- the distribution of parameters ----------------------------------------------------------------------------------

MANY, FEW = 20_000, 4_000
"""Draws of ours, and of torchvision's, which take 50 microseconds each."""
LEAST_P = 1e-3
"""Of some 60 tests in all, with seeds that stay."""


def theirs(transform, picture):
    with global_seed(11):
        drawn = [transform.make_params([picture]) for _ in range(FEW)]
    return {key: np.array([np.asarray(one[key], float) for one in drawn]) for key in drawn[0]}


def p_value(ours, other):
    """That both are of one distribution: by counts where there are few values, else by Kolmogorov and Smirnov."""
    values, codes = np.unique(np.concatenate([ours, other]), return_inverse=True)
    if len(values) > 500:
        return stats.ks_2samp(ours, other).pvalue
    table = np.stack([np.bincount(of, minlength=len(values)) for of in np.split(codes, [len(ours)])])
    rare = table.sum(0) < 60
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], 1)
    table = table[:, table.sum(0) > 0]
    return 1.0 if table.shape[1] == 1 else stats.chi2_contingency(table).pvalue


def crops(augmentation, height, width):
    """p-values of all that a crop has."""
    draws = draw(augmentation, 5, torch.arange(MANY), height, width)
    ours = {side: getattr(draws, side).numpy() for side in ("top", "left", "height", "width")}
    transform = v2.RandomResizedCrop(32, CONTRASTIVE.area, CONTRASTIVE.aspect)
    other = theirs(transform, torch.zeros(3, height, width))
    for of in (ours, other):
        of["area"] = of["height"] * of["width"]
        of["aspect"] = of["width"] / of["height"]
        of["down"] = of["top"] / np.maximum(1, height - of["height"])
        of["right"] = of["left"] / np.maximum(1, width - of["width"])
    return {name: p_value(ours[name], other[name]) for name in ours}


@pytest.mark.parametrize("shape", [(32, 32), (28, 28), (96, 64), (375, 500), (20, 90), (90, 20)])
def test_crops_are_drawn_as_torchvision_draws_them(shape):
    """In the narrow shapes ten attempts at a crop often fail, and the largest one in the middle is taken."""
    found = crops(CONTRASTIVE, *shape)
    assert min(found.values()) > LEAST_P, found


@pytest.mark.parametrize(
    "wrong", [{"area": (0.22, 1.0)}, {"aspect": (0.7, 4 / 3)}, {"aspect": (3 / 4, 1.4)}, {"area": (0.2, 0.8)}]
)
def test_crops_of_another_range_are_seen(wrong):
    assert min(crops(replace(CONTRASTIVE, **wrong), 375, 500).values()) < LEAST_P


def jitters(augmentation):
    """p-values of the jitters' factors and orders."""
    draws = draw(augmentation, 6, torch.arange(MANY), 32, 32)
    other = theirs(JITTER, torch.zeros(3, 32, 32))
    found = {name: p_value(getattr(draws, name).numpy(), other[f"{name}_factor"]) for name in JITTERS}
    found["order"] = p_value(orders(draws.order.argsort(1).numpy()), orders(other["fn_idx"]))
    return found


def orders(sequences):
    """A number for each of the 24."""
    return sequences @ np.array([64, 16, 4, 1])


def test_jitters_are_drawn_as_torchvision_draws_them():
    always = replace(CONTRASTIVE, jitter=1.0)
    found = jitters(always)
    assert min(found.values()) > LEAST_P, found
    for name, wrong in {**dict.fromkeys(JITTERS[:3], 0.43), "hue": 0.11}.items():
        assert jitters(replace(always, **{name: wrong}))[name] < LEAST_P
    strong = draw(replace(always, brightness=1.5), 1, torch.arange(MANY), 32, 32).brightness
    assert stats.kstest(strong, stats.uniform(0, 2.5).cdf).pvalue > LEAST_P


def test_an_order_that_leans_is_seen():
    draws = draw(replace(CONTRASTIVE, jitter=1.0), 6, torch.arange(MANY), 32, 32)
    leaning = torch.where((draws.brightness > 1.36)[:, None], torch.arange(4), draws.order)
    other = orders(theirs(JITTER, torch.zeros(3, 32, 32))["fn_idx"])
    assert p_value(orders(leaning.argsort(1).numpy()), other) < LEAST_P


def test_probabilities_angles_and_sigmas():
    draws = draw(replace(CONTRASTIVE, flip=0.3, blur=0.6, rotation=0.35), 8, torch.arange(MANY), 32, 32)
    is_jittered = draws.brightness != 1
    assert torch.equal(is_jittered, draws.hue != 0)
    events = {0.3: draws.flip, 0.8: is_jittered, 0.2: draws.grey, 0.6: draws.sigma > 0}
    for probability, event in events.items():
        assert stats.binomtest(int(event.sum()), MANY, probability).pvalue > LEAST_P
    assert stats.kstest(draws.angle, stats.uniform(-0.35, 0.7).cdf).pvalue > LEAST_P
    assert stats.kstest(draws.sigma[draws.sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > LEAST_P
    columns = [draws.flip, is_jittered, draws.grey, draws.sigma > 0, draws.angle, *draws.order[:, :3].unbind(1)]
    together = np.corrcoef(np.stack([column.double().numpy() for column in columns]))
    strangers = together[:5][:, :5][~np.eye(5, dtype=bool)]
    assert abs(strangers).max() < 4 / math.sqrt(MANY)
    assert abs(together[:5, 5:]).max() < 4 / math.sqrt(MANY)


# --- random numbers --------------------------------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10 in Python's integers: four words from four words and two."""
    (a, b, c, d), (k, other) = counter, key
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) ^ b ^ k, q % 2**32, (p >> 32) ^ d ^ other, p % 2**32
        k, other = (k + 0x9E3779B9) % 2**32, (other + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def test_the_generator_gives_its_authors_answers():
    """The known answers of Random123, to the second way; and its answers, to ours."""
    full = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert philox((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox((full,) * 4, (full,) * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert philox(*pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    rows = [0, 1, 255, 2**31 + 3, 2**40 + 9, 2**63 - 1]
    for seed in (0, 7, 2**32 - 1, 2**63 + 5, 2**64 - 1):
        found = uniforms(seed, torch.tensor(rows), 7)
        for row, numbers in zip(rows, found.tolist(), strict=True):
            words = [philox((at, 0, row % 2**32, row >> 32), (seed % 2**32, seed >> 32)) for at in (0, 1)]
            assert numbers == [word / 2**32 for word in (words[0] + words[1])[:7]]
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=r"must be from 0 to 2\*\*64 - 1"):
            uniforms(seed, torch.tensor([0]), 4)


def test_neighbouring_examples_and_seeds_are_strangers():
    numbers, others = (uniforms(seed, torch.arange(1000), 36).numpy() for seed in (5, 6))
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > LEAST_P
    pairs = [(numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1]), (numbers, others)]
    for one, other in pairs:
        assert stats.pearsonr(one.ravel(), other.ravel()).pvalue > LEAST_P


def test_an_examples_draws_are_its_own():
    rows = torch.tensor([3, 2**40 + 1, 7, 3])
    together = draw(CONTRASTIVE, 2**63 - 1, rows, 40, 32)
    for place, row in enumerate(rows):
        alone = draw(CONTRASTIVE, 2**63 - 1, row[None], 40, 32)
        for item in fields(Draws):
            assert torch.equal(getattr(alone, item.name)[0], getattr(together, item.name)[place])


def test_a_field_changes_its_own_draws_only():
    rows = torch.arange(500)
    before = draw(CONTRASTIVE, 1, rows, 32, 32)
    changed = {"flip": 0.9, "jitter": 0.3, "grayscale": 0.7, "blur": 0.5, "rotation": 0.2, "hue": 0.3}
    touched = {"grayscale": ["grey"], "blur": ["sigma"], "rotation": ["angle"], "jitter": list(JITTERS)}
    for name, value in changed.items():
        after = draw(replace(CONTRASTIVE, **{name: value}), 1, rows, 32, 32)
        pairs = {item.name: (getattr(before, item.name), getattr(after, item.name)) for item in fields(Draws)}
        assert {field for field, pair in pairs.items() if not torch.equal(*pair)} == {*touched.get(name, [name])}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_pictures_are_the_same_whoever_else_is_there(name, patches, monkeypatch):
    """The draws are the same bits; products of matrices may round otherwise in another batch."""
    ours = Batched(AUGMENTATIONS[name], 32)
    pictures, rows = patches[:, :, :32, :32], torch.arange(100)
    whole = ours(pictures, 4, rows)
    assert torch.equal(ours(pictures, 4, rows), whole)
    assert not torch.equal(ours(pictures, 5, rows), whole)
    for some in (rows.flip(0), rows[17:18], rows[[5, 99, 5]]):
        assert (ours(pictures[some], 4, some) - whole[some]).abs().max() < 2e-6
    assert (ours(pictures / 255, 4, rows) - whole).abs().max() < 2e-6
    for threads in (2, 3):
        torch.set_num_threads(threads)
        try:
            assert torch.equal(ours(pictures, 4, rows), whole)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    for pixels in (1, 2**40):
        monkeypatch.setattr(batched, "PIECE", pixels)
        assert (ours(pictures, 4, rows) - whole).abs().max() < 2e-6


# --- whole pipelines in distribution ---------------------------------------------------------------------------------

PICTURES, DRAWS, IN_8_BITS = 25, 80, 20
PIPELINES = {
    "contrastive": (32, 32),
    "supervised": (32, 32),
    "patches": (32, 32),
    "digits": (28, 28),
    "imagenet": (96, 40),
}
"""Pixels a side, before and after; the last one shrinks most of its crops, and blurs."""
LEAST_OF_MANY = 2e-4
"""Of some 30 p-values for each pipeline."""


def statistics(pictures):
    """What each augmented picture is like: numbers by name, each (N,)."""
    grey = pictures.mean(1)
    size = grey.shape[-1]
    spectrum = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs() ** 2
    frequency = torch.fft.fftfreq(size)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    found = {"mean": grey.mean((1, 2)), "contrast": grey.std((1, 2))}
    found["colourfulness"] = (pictures.amax(1) - pictures.amin(1)).mean((1, 2))
    found["redness"] = (pictures[:, 0] - pictures[:, -1]).mean((1, 2))
    found["is grey"] = (found["colourfulness"] < 1e-4).double()
    right, down = (grey.diff(dim=side).square().mean((1, 2)) + 1e-7 for side in (2, 1))
    found["uprightness"] = (right / down).log()
    for low, high in ((0, 0.1), (0.1, 0.2), (0.2, 0.35), (0.35, 0.5)):
        is_band = (radius > low) & (radius <= high)
        found[f"band to {high}"] = (spectrum[:, is_band].mean(1) / size**2 + 1e-7).log()
    return {name: values.numpy() for name, values in found.items()}


def least_p(one, other):
    """Of mean, spread and distribution of every statistic about what it is for a picture; (value, which)."""
    found = []
    for (name, values), others in zip(statistics(one).items(), statistics(other).values(), strict=True):
        both = np.stack([values, others]).reshape(2, DRAWS, PICTURES).astype(float)
        if np.ptp(both) > 1e-6:
            a, b = (both - both.mean((0, 1), keepdims=True)).reshape(2, -1)
            found += [(stats.ttest_ind(a, b).pvalue, f"mean {name}"), (stats.ks_2samp(a, b).pvalue, name)]
            found += [(stats.ttest_ind(abs(a), abs(b)).pvalue, f"spread {name}")]
    return min(found)


def pixels_apart(one, other):
    """The largest difference of two mean pictures, in standard errors."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    return float(((one.mean(0) - other.mean(0)).abs() / (error + 1e-4)).max())


@pytest.fixture(scope="module")
def pipelines(patches, digits):
    """(name) -> pictures, and what torchvision makes of them many times, of float values and of 8 bits."""
    made = {}

    def of(name):
        if name not in made:
            before, after = PIPELINES[name]
            pictures = (digits if name == "digits" else patches[:, :, :before, :before])[::4]
            transform, found = per_sample(AUGMENTATIONS[name], after), []
            for canvas in (pictures / 255, pictures):
                draws = DRAWS if canvas.is_floating_point() else IN_8_BITS
                with global_seed(3):
                    found.append(torch.stack([transform(picture) for _ in range(draws) for picture in canvas]))
            made[name] = pictures, *found
        return made[name]

    return of


def whole_batch(augmentation, pictures, size):
    rows = torch.arange(len(pictures) * DRAWS)
    return Batched(augmentation, size)(pictures[rows % len(pictures)], 9, rows)


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_make_the_same_distribution(name, pipelines):
    pictures, other, eight_bits = pipelines(name)
    ours = whole_batch(AUGMENTATIONS[name], pictures, PIPELINES[name][1])
    assert least_p(ours, other)[0] > LEAST_OF_MANY
    assert pixels_apart(ours, other) < 5
    # Cut to 8 bits after each step, the same pictures are darker by 1.5 levels at most, and hardly noisier.
    other = other[: len(eight_bits)]
    assert -0.1 * LEVEL < float(other.mean() - eight_bits.mean()) < 1.5 * LEVEL
    assert abs(float(eight_bits.std() / other.std()) - 1) < 0.01
    cut, exact = statistics(eight_bits), statistics(other)
    for statistic in exact:
        if statistic.startswith("band"):
            assert abs(cut[statistic].mean() - exact[statistic].mean()) < 0.15, statistic


BROKEN = {
    "area": ("contrastive", {"area": (0.3, 1.0)}),
    "hue": ("imagenet", {"hue": 0.05}),
    "jitter": ("contrastive", {"jitter": 0.65}),
    "contrast": ("contrastive", {"contrast": 0.7}),
    "saturation": ("contrastive", {"saturation": 1.0}),
    "grayscale": ("contrastive", {"grayscale": 0.3}),
    "blur": ("imagenet", {"blur": 0.25}),
    "rotation": ("digits", {"rotation": 0.5}),
    "flip": ("digits", {"flip": 0.5}),
}


@pytest.mark.parametrize("what", BROKEN)
def test_another_distribution_is_seen(what, pipelines):
    name, wrong = BROKEN[what]
    pictures, other, _ = pipelines(name)
    ours = whole_batch(replace(AUGMENTATIONS[name], **wrong), pictures, PIPELINES[name][1])
    assert least_p(ours, other)[0] < LEAST_OF_MANY or pixels_apart(ours, other) > 5


def test_shrinking_without_antialiasing_is_seen(pipelines, monkeypatch):
    pictures, other, _ = pipelines("imagenet")
    lines = batched._lines

    def aliased(start, length, flip, extent, size):
        finer = lines(start, length, flip, extent, 8 * size)
        return finer[:, 4::8].contiguous()

    monkeypatch.setattr(batched, "_lines", aliased)
    found = least_p(whole_batch(AUGMENTATIONS["imagenet"], pictures, 40), other)
    assert found[0] < LEAST_OF_MANY and "band" in found[1]


# --- what it takes and says ------------------------------------------------------------------------------------------


def test_pictures_of_any_shape_and_no_pictures():
    for shape in ((2, 3, 20, 90), (2, 1, 90, 20), (1, 3, 4, 7, 5), (0, 3, 32, 32), (0, 1, 4, 32, 32)):
        for name, augmentation in AUGMENTATIONS.items():
            found = Batched(augmentation, 24)(torch.full(shape, 255, dtype=torch.uint8), 0, torch.arange(shape[0]))
            assert found.shape == (*shape[:-2], 24, 24) and found.dtype == torch.float32, name
            assert found.isfinite().all()
    for shape in ((3, 32, 32), (1, 4, 32, 32), (1, 2, 8, 32, 32), (32, 32)):
        with pytest.raises(ValueError, match=r"of 1 or 3 channels; got "):
            Batched(CONTRASTIVE, 32)(torch.zeros(shape), 0, torch.arange(shape[0]))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"flip": 1.2}, r"flip=1\.2 must be from 0 to 1"),
        ({"hue": 0.6}, r"hue=0\.6 must be from 0 to 0\.5"),
        ({"brightness": -0.1}, r"brightness=-0\.1 must be from 0 to inf"),
        ({"grayscale": math.nan}, "grayscale=nan must be from 0 to 1"),
        ({"area": (0.0, 1.0)}, r"area=\(0\.0, 1\.0\) must be \(least, most\), above 0 and at most 1"),
        ({"aspect": (2.0, 1.0)}, r"aspect=\(2\.0, 1\.0\) must be \(least, most\), above 0$"),
    ],
)
def test_what_is_no_augmentation_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(CONTRASTIVE, **wrong)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nothing_waits_for_a_device(name):
    """On the device that holds no values, whatever looks at one fails."""
    ours, rows = Batched(AUGMENTATIONS[name], 32), torch.arange(6, device="meta")
    found = ours(torch.empty(6, 3, 40, 40, dtype=torch.uint8, device="meta"), 1, rows)
    assert found.device.type == "meta" and found.shape == (6, 3, 32, 32)
    with pytest.raises(NotImplementedError):
        rows.tolist()


def test_autocast_leaves_it_as_precise_as_it_is(patches):
    ours, rows = Batched(AUGMENTATIONS["imagenet"], 32), torch.arange(100)
    alone = ours(patches, 1, rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(patches, 1, rows), alone)
    assert torch.get_autocast_dtype("cpu") == torch.bfloat16  # which the products would have had


@pytest.mark.gpu
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_gpu_makes_the_same_pictures_without_waiting(name, patches):
    ours, rows = Batched(AUGMENTATIONS[name], 48), torch.arange(100)
    there, rows_there = patches.cuda(), rows.cuda()
    ours(there, 1, rows_there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = ours(there, 2, rows_there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.device.type == "cuda"
    assert (found.cpu() - ours(patches, 2, rows)).abs().max() < 2e-5
