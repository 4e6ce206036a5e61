"""`make bench`: augmentation of whole batches where the model is, beside torchvision's, one picture at a time.

Two views of 256 pictures of CIFAR's size under the paper's augmentation (B.3), a step's worth. torchvision has what a
training script gives it: a DataLoader with two processes that stay, a batch each, ready ahead of time. Ours has the
machine's threads, or OMP_NUM_THREADS. Contestants take turns, the first round warms up, and medians of the others are
compared. Raw milliseconds are printed. DEVICE=cuda augments on a GPU instead, pictures of the loader's are moved there.
"""

import os
import statistics
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from robharness import discover
from robharness_contrastive.augment import CONTRASTIVE, Batched, per_sample

DEVICE = os.environ.get("DEVICE", "cpu")
N, SIDE, VIEWS, WORKERS = 256, 32, 2, 2
STEPS, ROUNDS = 8, 5
"""Of a round, in which the loader's processes never run out of work; and rounds."""
EXPECTED = 3
"""How many times faster ours is to be."""


class Views(Dataset):
    """Pictures, each as two views that torchvision draws."""

    def __init__(self, pictures):
        self.pictures, self.transform = pictures, per_sample(CONTRASTIVE, SIDE)

    def __len__(self):
        return STEPS * N

    def __getitem__(self, index):
        picture = self.pictures[index % N]
        return [self.transform(picture) for _ in range(VIEWS)]


def photos():
    """256 windows of real photos, uint8 (256, 3, 32, 32)."""
    dataset = discover().datasets["samples/imagenet-photos"].spec.open(None, "val")
    random, windows = np.random.default_rng(0), []
    for row in range(N):
        photo = dataset.read(row % len(dataset.ids))
        y, x = (random.integers(side - SIDE) for side in photo.shape[:2])
        windows.append(torch.from_numpy(photo[y : y + SIDE, x : x + SIDE]).permute(2, 0, 1))
    return torch.stack(windows)


@pytest.mark.benchmark(group="augment")
def test_batches_beside_torchvision(benchmark):
    pictures = photos()
    loader = DataLoader(Views(pictures), N, num_workers=WORKERS, persistent_workers=True, pin_memory=DEVICE == "cuda")
    ours, x, rows = Batched(CONTRASTIVE, SIDE), pictures.to(DEVICE), torch.arange(N, device=DEVICE)

    def by_torchvision():
        for views in loader:
            assert [view.to(DEVICE, non_blocking=True).shape for view in views] == [x.shape] * VIEWS

    def by_batches():
        for step in range(STEPS):
            assert [ours(x, VIEWS * step + view, rows).shape for view in range(VIEWS)] == [x.shape] * VIEWS

    contestants = {"torchvision, two processes": by_torchvision, "batched": by_batches}
    seconds = {name: [] for name in contestants}
    for name in list(contestants) * (ROUNDS + 1):
        begun = time.perf_counter()
        contestants[name]()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds[name].append((time.perf_counter() - begun) / STEPS)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"\nmilliseconds for {VIEWS} views of {N} pictures, {torch.get_num_threads()} threads, on {DEVICE}")
    for name, values in seconds.items():
        each = " ".join(f"{1000 * value:.1f}" for value in values[1:])
        print(f"{name:28} {each}  median {1000 * medians[name]:.1f}")
    ratio = medians["torchvision, two processes"] / medians["batched"]
    print(f"{f'torchvision / batched (at least {EXPECTED})':56} {ratio:.2f}")
    benchmark.extra_info["torchvision / batched"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio >= EXPECTED
