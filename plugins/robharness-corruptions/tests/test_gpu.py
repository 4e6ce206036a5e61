"""On a GPU, images equal those of a CPU except for rounding, do not depend on their batch, and need little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness import Batch, ExampleRNG
from robharness_corruptions.constants import IMAGENET
from robharness_corruptions.kernels import BatchedCorruption

N, SIDE = 32, 224


def perturbed(name, rows, device, constants="imagenet", severity=3):
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = np.stack([60 * np.sin(x / (3 + c)) + 40 * np.cos(y / (7 - c)) + 100 + 60 * (x > y) for c in range(3)], -1)
    noisy = [waves + np.random.default_rng(row).normal(0, 8, waves.shape) for row in rows]
    canvas = torch.from_numpy(np.stack(noisy).clip(0, 255).astype(np.uint8))
    ids = [f"example {row}" for row in rows]
    inputs = canvas.to(device).permute(0, 3, 1, 2).float() / 255
    batch = Batch(ids, inputs, torch.zeros(len(ids), dtype=torch.int64, device=device), canvas)
    corruption = BatchedCorruption(name, constants)
    corruption.perturb(None, batch, severity, ExampleRNG(0, name, ids))  # tables and photos of ice
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    found = corruption.perturb(None, batch, severity, ExampleRNG(0, name, ids))
    if device == "cuda":
        assert found.device.type == "cuda"
        grown = torch.cuda.max_memory_allocated() - before
        assert grown < 4 * (inputs.nbytes + canvas.nbytes) or len(rows) < N
    return found.cpu()


@pytest.mark.gpu
@pytest.mark.parametrize("constants", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", IMAGENET)
def test_neighbours_change_nothing_and_the_cpu_renders_the_same(name, constants):
    whole = perturbed(name, range(N), "cuda", constants)
    for rows in ([0], [31, 3, 5], list(range(30, -1, -3))):
        assert torch.equal(perturbed(name, rows, "cuda", constants), whole[rows])
    there = perturbed(name, range(4), "cpu", constants)
    apart = (whole[:4].int() - there.int()).abs()
    assert (apart <= 1).double().mean() >= 0.999
