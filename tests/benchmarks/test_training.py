"""`make bench`: what training costs beside the plain recipe; ratios within one run, raw seconds printed.

The plain recipe is what the code of SupContrast does in a step: torchvision's transforms, a picture after the other
in two worker processes, and its loss of the whole matrix, each in the fewest lines.
"""

import dataclasses
import os
import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ratios import record
from robharness import discover
from robharness_contrastive import data, networks, optim
from robharness_contrastive.objectives import Context, InfoNCE, Learner, TrainingStep
from robharness_contrastive.params import SimCLR
from robharness_contrastive.removal import Removal
from robharness_contrastive.steps import Augmentation, Patches

DEVICE = os.environ.get("DEVICE", "cpu")
BATCH, STEPS = 256, 4
RECIPE = SimCLR(data="samples/patches", batch=BATCH, network="small")
CONTEXT = Context(examples=4000, classes=10, batch=BATCH, epochs=RECIPE.epochs, shape=RECIPE.shape)


class Pairs(Dataset):
    """Two views of every image, one image at a time: the paper's augmentation "contrastive"."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.views = v2.Compose([
            v2.RandomResizedCrop(32, (0.2, 1.0), antialias=True), v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
        ])  # fmt: skip

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.views(self.pixels[index]), self.views(self.pixels[index])


@pytest.fixture(scope="module")
def images():
    dataset = discover().datasets["samples/patches"].spec.open(None, "train")
    return data.load(dataset, RECIPE, DEVICE)


def timed(contestants, rounds):
    """Seconds of each, by turns; the first round warms up."""
    taken = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, do in contestants.items():
            began = time.perf_counter()
            do()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if turn:
                taken[name].append(time.perf_counter() - began)
    for name, values in taken.items():
        rounds = " ".join(f"{value:.3f}" for value in values)
        print(f"\n{name:32} {rounds} median {statistics.median(values):.3f} s", end="")
    print()
    return taken


def once(benchmark):
    """Seconds are our own; pytest-benchmark lists the test."""
    benchmark.pedantic(lambda: None, rounds=1)


def test_views_of_a_batch(benchmark, images):
    """1,024 pictures, two views each."""
    loader = DataLoader(Pairs(images.pixels[: STEPS * BATCH].cpu()), BATCH, num_workers=2, persistent_workers=True)
    views = data.augmented_views(images, Augmentation(), 2, 0)
    rows = torch.arange(STEPS * BATCH).split(BATCH)
    taken = timed({
        "per picture, two workers": lambda: [None for _ in loader],
        "batched": lambda: [views(part, step) for step, part in enumerate(rows)],
    }, 5)  # fmt: skip
    per_picture, batched = taken.values()
    record(benchmark, "per picture / batched (at least 3)", per_picture, batched, better="higher")
    once(benchmark)


def of_supcontrast(z, temperature):
    """(2 N, d) unit rows -> the loss of SimCLR, as its losses.py goes about it."""
    n = len(z) // 2
    logits = z @ z.T / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    other = 1 - torch.eye(2 * n, device=z.device)
    positive = torch.eye(n, device=z.device).repeat(2, 2) * other
    log_share = logits - (logits.exp() * other).sum(1, keepdim=True).log()
    return -((positive * log_share).sum(1) / positive.sum(1)).mean()


class Steps:
    """Some steps of training on given views."""

    def __init__(self, recipe, plain=False):
        torch.manual_seed(0)  # noqa: TID251 (initial weights)
        encoder = networks.encoder(recipe.network, recipe.data, recipe.shape)
        self.learner = Learner(encoder, InfoNCE(recipe, encoder.width, CONTEXT)).to(DEVICE).train()
        self.optimizer, self.plain, self.recipe = optim.optimizer(recipe, self.learner), plain, recipe

    def __call__(self, views, labels):
        for step in range(STEPS):
            position = TrainingStep(epoch=9, epochs=10, step=step, steps=100, batch=BATCH)
            if self.plain:
                encoder, objective = self.learner.encoder, self.learner.objective
                z = F.normalize(objective.projection(encoder(torch.cat(views))), dim=1)
                loss = of_supcontrast(z, self.recipe.temperature)
            else:
                loss = self.learner(views, labels, position).value
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


@pytest.mark.parametrize("network", ["small", "resnet18"])
def test_a_step_of_simclr(benchmark, images, network):
    """The same network and views: ours, ours with a tenth of the negatives removed, and the plain recipe."""
    recipe = dataclasses.replace(RECIPE, network=network)
    if network != "small" and DEVICE == "cpu":
        recipe = dataclasses.replace(recipe, batch=32)
    rows = torch.arange(recipe.batch)
    views = data.augmented_views(images, Patches(), 2, 0)(rows, 0)
    labels = images.labels[rows.to(DEVICE)]
    removing = dataclasses.replace(recipe, removal=Removal(strategy="precision", most=0.2))
    ours, removes, plain = Steps(recipe), Steps(removing), Steps(recipe, plain=True)
    taken = timed({
        "plain": lambda: plain(views, labels), "ours": lambda: ours(views, labels),
        "ours, removing": lambda: removes(views, labels),
    }, 7)  # fmt: skip
    record(benchmark, "ours / plain (at most 1)", taken["ours"], taken["plain"])
    record(benchmark, "removing / ours (at most 1.03)", taken["ours, removing"], taken["ours"])
    once(benchmark)
