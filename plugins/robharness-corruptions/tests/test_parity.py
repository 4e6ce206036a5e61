"""The kernels beside `imagecorruptions` where it matters: in distribution, and in what networks make of them.

With -s, the slow form prints the tables of docs/explanation/corruptions.md.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import imagecorruptions
import numpy as np
import pytest
import torch
from torch import nn

from robharness import Batch, ExampleRNG, discover
from robharness.evaluation.images import on_canvas
from robharness_corruptions import robharness_corruptions
from robharness_corruptions.kernels import BatchedCorruption

SPECS = {spec.name.rpartition("/")[2]: spec for spec in robharness_corruptions() if "reference/" not in spec.name}
RANDOM = [name for name, spec in SPECS.items() if spec.randomness == "example"]
SEVERITIES = (1, 2, 3, 4, 5)
DRAWS = 50
"""Draws of shot noise, whose numbers the library draws itself; other corruptions share numbers and need fewer draws."""


def ours(name, images, severity, ids, seed=0):
    x, labels = torch.zeros(len(ids), 3, 8, 8), torch.zeros(len(ids), dtype=torch.int64)
    batch = Batch(ids, x, labels, torch.from_numpy(images))
    rng = ExampleRNG(seed, f"corruptions/{name}", ids)
    return BatchedCorruption(name, "imagenet").perturb(None, batch, severity, rng).numpy()


def show(name, *columns):
    print("\n| " + " | ".join((f"`{name}`", *columns)) + " |", end="")  # noqa: T201


def five(values, form="{:.2f}"):
    return " ".join(form.format(value) for value in values)


@lru_cache
def photos(side=224):
    dataset = discover().datasets["samples/imagenet-photos"].spec.open(None, "val")
    return np.stack([on_canvas(dataset.read(index), side) for index in range(20)]), torch.tensor(dataset.labels)


# --- in distribution -------------------------------------------------------------------------------------------------


def statistics(corrupted, image):
    """Return statistics of each draw's change, (N, 9): mean, deviation, correlation with the next pixel in both
    directions, and shares of five bands of its spectrum."""
    change = corrupted.astype(np.float64).mean(3) - image.mean(2)
    centred = change - change.mean((1, 2), keepdims=True)
    variance = (centred**2).mean((1, 2)) + 1e-9
    across = (centred[:, :, 1:] * centred[:, :, :-1]).mean((1, 2)) / variance
    down = (centred[:, 1:] * centred[:, :-1]).mean((1, 2)) / variance
    power = abs(np.fft.fft2(centred)) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in change.shape[1:]), indexing="ij"))
    bands = np.digitize(frequency, [0.06, 0.12, 0.25, 0.4])
    shares = [power[:, bands == band].sum(1) / power.sum((1, 2)) for band in range(5)]
    return np.stack([change.mean((1, 2)), variance**0.5, across, down, *shares], 1)


def distances(name, severity, draws):
    """Return the differences of means and deviations of the statistics, in standard errors, (18,)."""
    image = photos(64)[0][3]
    ids = [f"draw {number}" for number in range(draws)]
    mine = statistics(ours(name, np.stack([image] * draws), severity, ids), image)
    library = []
    for number in range(draws):
        seed = ExampleRNG(7, name, [str(number)]).integer("seed", 0)
        np.random.seed(seed)  # noqa: TID251 (how the library is seeded by hand)
        extra = {"seed": seed} if name in ("impulse_noise", "glass_blur") else {}
        library.append(imagecorruptions.corrupt(image, severity, name, **extra))
    other = statistics(np.stack(library), image)
    apart = []
    for a, b in ((mine, other), ((mine - mine.mean(0)) ** 2, (other - other.mean(0)) ** 2)):
        error = ((a.var(0) + b.var(0)) / draws) ** 0.5 + 1e-4 * (abs(a.mean(0)) + abs(b.mean(0))) + 1e-9
        apart.append(abs(a.mean(0) - b.mean(0)) / error)
    return np.concatenate(apart)


FAR = 4.5
"""Limit in standard errors: among 11 x 5 x 18 statistics, one exceeds it by chance in one of a hundred runs."""


@pytest.mark.parametrize("name", RANDOM)
def test_draws_are_distributed_as_the_librarys(name):
    assert distances(name, 3, 60).max() < FAR


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_draws_are_distributed_as_the_librarys_at_every_severity(name):
    apart = [distances(name, severity, 400).max() for severity in SEVERITIES]
    show(name, five(apart, "{:.1f}"))
    assert max(apart) < FAR


def test_another_distribution_is_noticed(monkeypatch):
    import robharness_corruptions.constants as constants

    table = dict(constants.IMAGENET)
    monkeypatch.setattr("robharness_corruptions.kernels.IMAGENET", table)
    for name, changed in (
        ("gaussian_noise", 0.19),
        ("motion_blur", (15, 12)),
        ("snow", (0.55, 0.3, 3, 0.9, 12, 8, 0.7)),
    ):
        table[name] = (changed,) * 5
        assert distances(name, 3, 60).max() > FAR, name


# --- what networks make of them --------------------------------------------------------------------------------------


@lru_cache
def lite0():
    spec = discover().models["samples/efficientnet-lite0"].spec
    package = importlib.util.find_spec(spec.weights.package)
    return spec.build(None, Path(package.submodule_search_locations[0]) / spec.weights.path).eval()


def margins(images, labels):
    """Return the true logit minus the largest other one, (N,)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        logits = torch.cat([lite0()(part) for part in x.split(10)])
    true = logits.gather(1, labels[:, None])
    return (true[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)).numpy()


def margin_changes(name, severity, draws, theirs):
    """Return the mean changes of the margin over the photos under kernel and library, and the standard error of their
    difference."""
    images, labels = photos()
    clean, found = margins(images, labels), []
    for draw in range(draws):
        ids = [f"photo {row}, draw {draw}" for row in range(len(images))]
        both = ours(name, images, severity, ids), theirs(name, images, severity, ids)
        found.append([margins(corrupted, labels) - clean for corrupted in both])
    found = np.array(found)  # (draws, 2, photos)
    apart = found[:, 0].mean(1) - found[:, 1].mean(1)
    return *found.mean((0, 2)), apart.std() / draws**0.5


def assert_like_changes(mine, other, error):
    assert abs(mine - other) <= 0.05 * abs(other) + 0.01 + 3 * error


@pytest.mark.parametrize("name", ["fog", "glass_blur", "elastic_transform"])
def test_margins_change_as_with_the_library(name, theirs):
    assert_like_changes(*margin_changes(name, 3, 1, theirs))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_margins_change_as_with_the_library_at_every_severity(name, theirs):
    """Mean changes agree within 5 %, or within 0.01 if they are small."""
    draws = DRAWS if name == "shot_noise" else 2 if name in RANDOM else 1
    changes = [margin_changes(name, severity, draws, theirs) for severity in SEVERITIES]
    show(name, five([mine for mine, *_ in changes]), five([other for _, other, _ in changes]))
    for mine, other, _ in changes:
        assert abs(mine - other) <= 0.05 * abs(other) + 0.01


@lru_cache
def mnist():
    """Return 1,000 test images of 32 x 32 in three channels, their labels, and a network trained on other images."""
    found = {}
    for split in ("train", "test"):
        dataset = discover().datasets["samples/mnist-5k"].spec.open(Path(), split)
        images = [np.repeat(on_canvas(dataset.read(row), 32), 3, 2) for row in range(len(dataset.ids))]
        found[split] = np.stack(images), torch.tensor([*dataset.labels])
    images, labels = found["train"]
    draws, order = torch.Generator().manual_seed(0), np.random.default_rng(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip
    for values in net.parameters():
        if values.ndim > 1:
            nn.init.kaiming_uniform_(values, generator=draws)
        else:
            nn.init.zeros_(values)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(6):
        for rows in torch.from_numpy(order.permutation(len(images))).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(_values(images[rows.numpy()])), labels[rows]).backward()
            optimizer.step()
    images, labels = found["test"]
    assert len(images) == 1000
    return images, labels, net.eval()


def _values(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def accuracies(name, severity, draws, theirs):
    """Return accuracies in percent on the kernel's and on the library's images."""
    images, labels, net = mnist()
    right = []
    for draw in range(draws):
        ids = [f"digit {row}, draw {draw}" for row in range(len(images))]
        both = ours(name, images, severity, ids), theirs(name, images, severity, ids)
        with torch.inference_mode():
            right.append([100 * (net(_values(found)).argmax(1) == labels).double().mean().item() for found in both])
    return np.mean(right, 0)


@pytest.mark.parametrize("name", ["snow", "contrast", "shot_noise"])
def test_accuracies_are_as_with_the_library(name, theirs):
    mine, other = accuracies(name, 3, 1, theirs)
    assert abs(mine - other) <= 1.5


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_accuracies_are_as_with_the_library_at_every_severity(name, theirs):
    draws = 5 if name == "shot_noise" else 1
    found = [accuracies(name, severity, draws, theirs) for severity in SEVERITIES]
    show(name, five([mine for mine, _ in found], "{:.1f}"), five([other for _, other in found], "{:.1f}"))
    assert max(abs(mine - other) for mine, other in found) <= 1.5
