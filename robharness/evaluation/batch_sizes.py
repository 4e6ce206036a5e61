"""Sizes of passes: inputs per example, and batch sizes by input size and device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from robharness.specs.records import ModelSpec

CPU_PASS, GPU_PASS = 1_500_000, 20_000_000
"""Input values per pass: about 10 photos of 224 px on a CPU, whose caches overflow above that, and 128 on a GPU."""
CPU_MAX_BATCH_SIZE, GPU_MAX_BATCH_SIZE = 128, 512
"""Largest batch sizes. Larger ones are hardly faster, and pad more when few examples of a batch are left."""


def clips_per_example(spec: ModelSpec) -> int:
    """Return the number of network inputs that one example makes."""
    return spec.clips.per_video if spec.clips else 1


def input_values(spec: ModelSpec) -> int:
    """Return the number of input values per example."""
    return int(np.prod(spec.input.shape)) * clips_per_example(spec)


def batch_size_candidates(shape: Sequence[int], examples: int, device: torch.device, clips: int = 1) -> list[int]:
    """Return candidate batch sizes, best first: least padding, then fewest passes.

    shape: of one network input.
    examples: the number of examples of the data set.
    clips: network inputs per example.
    Batches hold multiples of 4 network inputs. CPU kernels for other counts may split a pass between threads so that a
    row's last bits depend on its place (seen for 5, 6, 7, 9 and 10 rows at two threads, never for 4k).
    """
    is_gpu = device.type == "cuda"
    values, largest = (GPU_PASS, GPU_MAX_BATCH_SIZE) if is_gpu else (CPU_PASS, CPU_MAX_BATCH_SIZE)
    step = 4 // math.gcd(4, clips)
    most = min(max(step, values // max(1, int(np.prod(shape)) * clips)), largest)

    def cost(size: int) -> float:
        return -(-examples // size) * (size + 0.02 * most)  # the fixed cost of a pass is about 2 % of the largest pass

    return sorted(range(step, most + 1, step), key=cost)[:4]
