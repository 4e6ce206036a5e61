"""`make bench`: what corruptions cost beside `imagecorruptions`, and how much memory a batch takes meanwhile.

Batches of 16 photos at 224 x 224, at one severity in the middle; both have the same cores, contestants take turns, the
first round warms up, and the shortest of the others are compared, since other work on the machine only adds.
OMP_NUM_THREADS says how many threads the kernels have, by default one per core; the library has one. DEVICE=cuda times
the kernels on a GPU instead.
"""

import ctypes
import gc
import os
import time
from pathlib import Path

import pytest
import torch

from ratios import record
from robharness import Batch, ExampleRNG, discover
from robharness.evaluation.images import on_canvas

DEVICE = os.environ.get("DEVICE", "cpu")
N, SEVERITY, ROUNDS = 16, 3, 5
EXPECTED = 5
"""How many times faster the fifteen are to be together."""


def corruptions():
    found = discover().corruptions
    return [name for name in found if name.startswith("corruptions/") and name.count("/") == 1]


@pytest.fixture(scope="module")
def batch():
    photos = discover().datasets["samples/imagenet-photos"].spec.open(None, "val")
    canvas = torch.stack([torch.from_numpy(on_canvas(photos.read(row), 224)) for row in range(N)])
    x = canvas.to(DEVICE).permute(0, 3, 1, 2).float() / 255
    return Batch(list(photos.ids[:N]), x, torch.zeros(N, dtype=torch.int64, device=DEVICE), canvas)


def built(name):
    spec = discover().corruptions[name].spec
    return spec.build(spec.params() if spec.params else None)


def perturb(corruption, name, batch):
    found = corruption.perturb(None, batch, SEVERITY, ExampleRNG(0, name, batch.ids))
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    return found


@pytest.mark.benchmark(group="corruptions")
def test_the_fifteen_beside_imagecorruptions(benchmark, batch):
    """On a CPU the fifteen together must win; which ones do not is printed."""
    taken = {}
    for name in corruptions():
        contestants = {"ours": name, "reference": name.replace("/", "/reference/")}
        makers = {who: built(contestant) for who, contestant in contestants.items()}
        seconds = {who: [] for who in makers}
        for _ in range(ROUNDS + 1):
            for who, corruption in makers.items():
                begun = time.perf_counter()
                perturb(corruption, name, batch)
                seconds[who].append(time.perf_counter() - begun)
        taken[name] = {who: values[1:] for who, values in seconds.items()}
    print(f"\nmilliseconds per picture, {torch.get_num_threads()} threads, on {DEVICE}")
    for name, of in taken.items():
        show(benchmark, name, of)
    total = {
        who: [sum(rounds) for rounds in zip(*(of[who] for of in taken.values()), strict=True)]
        for who in ("ours", "reference")
    }
    ratio = show(benchmark, "the fifteen", total)
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio >= EXPECTED


def show(benchmark, name, seconds):
    ours, reference = (1000 * min(seconds[who]) / N for who in ("ours", "reference"))
    print(f"{name:34} ours {ours:7.2f}  reference {reference:7.2f}")
    words = f"{name}, reference / ours"
    return record(benchmark, words, seconds["reference"], seconds["ours"], statistic="minimum", better="higher")


@pytest.mark.benchmark(group="corruptions")
@pytest.mark.skipif("DEVICE != 'cpu'")
def test_the_memory_of_a_batch(benchmark, batch):
    """The most that the process grows by while a batch is corrupted, the result included, beside the batch itself."""
    size = batch.x.nbytes + batch.canvas.nbytes
    print(f"\npeak memory beside a batch of {size / 2**20:.1f} MiB")
    for name in corruptions():
        corruption = built(name)
        perturb(corruption, name, batch)  # tables, photos of ice and whatever is loaded once
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = resident("VmRSS")
        perturb(corruption, name, batch)
        ratio = (resident("VmHWM") - before) / size
        print(f"{name:34} {ratio:6.2f}")
        benchmark.extra_info[name] = ratio
        assert ratio < 4
    benchmark.pedantic(lambda: None, rounds=1)


def resident(which):
    """Bytes of the process in memory: "VmRSS" now, "VmHWM" at most since it was forgotten."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return 1024 * int(line.split()[1])
