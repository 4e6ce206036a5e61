"""`make bench`: one epoch of SimCLR on a folder of photos beside its two limits, decoding alone and the network alone.

The three take turns in one run. $BENCH_PHOTOS names a folder of JPEG files, in any depth; without it, the photos of
`samples/imagenet-photos` are written as files of 500 x 375. The files are repeated. OMP_NUM_THREADS and the machine's
cores say how many threads compute and how many decode.
"""

import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ratios import record
from robharness import TrainingJob, discover, read_image
from robharness_contrastive import loop, networks, optim, streaming
from robharness_contrastive.objectives import Context, InfoNCE, Learner, TrainingStep
from robharness_contrastive.params import SimCLR
from robharness_contrastive.steps import Augmentation

DEVICE = os.environ.get("DEVICE", "cpu")
STEPS, ROUNDS = int(os.environ.get("STEPS", "6")), 3
BATCH = 32 if DEVICE == "cpu" else 256


class Photos:
    """Files, repeated; memory of the process is noted whenever a batch was read."""

    def __init__(self, files, count):
        self._files = [files[index % len(files)] for index in range(count)]
        self.ids, self.labels = [str(index) for index in range(count)], [index % 10 for index in range(count)]
        self.resident, self._reads = [], itertools.count(1)

    def read(self, index):
        if next(self._reads) % BATCH == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        return read_image(self._files[index])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    if given := os.environ.get("BENCH_PHOTOS"):
        return sorted(path for path in Path(given).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    photos = discover().datasets["samples/imagenet-photos"].spec.open(folder, "val")
    paths = [folder / f"{index}.jpg" for index in range(20)]
    for index, path in enumerate(paths):
        Image.fromarray(photos.read(index)).resize((500, 375)).save(path, quality=92)
    return paths


class Steps:
    """An epoch of the network alone, on views that are there already."""

    def __init__(self, recipe):
        torch.manual_seed(0)  # noqa: TID251 (initial weights)
        encoder = networks.encoder(recipe.network, recipe.data, recipe.shape)
        context = Context(examples=4000, classes=1000, batch=BATCH, epochs=recipe.epochs, shape=recipe.shape)
        self.learner = Learner(encoder, InfoNCE(recipe, encoder.width, context)).to(DEVICE).train()
        self.optimizer = optim.optimizer(recipe, self.learner)
        self.views = [torch.full((BATCH, *recipe.shape), share, device=DEVICE) for share in (0.4, 0.6)]
        self.labels = torch.zeros(BATCH, dtype=torch.int64, device=DEVICE)

    def __call__(self):
        for step in range(STEPS):
            position = TrainingStep(epoch=0, epochs=1, step=step, steps=STEPS, batch=BATCH)
            loss = self.learner(self.views, self.labels, position).value
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def timed(contestants):
    """Wall and CPU seconds of each, by turns; the first round warms up."""
    wall, cpu = ({name: [] for name in contestants} for _ in range(2))
    for turn in range(ROUNDS + 1):
        for name, do in contestants.items():
            begun, begun_cpu = time.perf_counter(), time.process_time()
            do()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if turn:
                wall[name].append(time.perf_counter() - begun)
                cpu[name].append(time.process_time() - begun_cpu)
    for name in contestants:
        print(f"\n{name:24} wall {min(wall[name]):7.3f} s  CPU {min(cpu[name]):7.3f} s (minima)", end="")
    print()
    return wall, cpu


def recipe_of(network, **changed):
    options = {"data": "photos/photos", "input": (3, 224, 224), "labels": "photos", "classes": 10, "resize": 256,
               "epochs": 1, "batch": BATCH, "probe": None}  # fmt: skip
    return SimCLR(network=network, **options, **changed)


def train(recipe, photos, folder):
    folder.mkdir()
    loop.train(TrainingJob(params=recipe, seed=0, datasets={"train": photos}, folder=folder, device=DEVICE,
                           message=print, progress=lambda progress: None))  # fmt: skip


@pytest.mark.benchmark(group="streaming")
@pytest.mark.parametrize("network", ["small", "resnet18", pytest.param("resnet50", marks=pytest.mark.gpu)])
def test_an_epoch_of_simclr_on_photos(benchmark, tmp_path, files, network):
    """At 224 px. CPU seconds of an epoch are compared with the sum of both limits, which share the cores on a CPU."""
    recipe, photos, folders = recipe_of(network), Photos(files, STEPS * BATCH), itertools.count()
    steps = [(rows, number) for number, rows in enumerate(torch.arange(STEPS * BATCH).split(BATCH))]
    views = streaming.load(photos, recipe, DEVICE).views(Augmentation(jitter=0.0, grey=0.0), 2, 0)

    def decode():
        with ThreadPoolExecutor(streaming.default_threads()) as pool:
            for _ in pool.map(lambda index: photos.read(index) is None, range(len(photos.ids))):
                pass

    def crop():
        for _ in views.in_order(steps):
            pass

    wall, cpu = timed({
        "decoding alone": decode, "decoding and cropping": crop, "network alone": Steps(recipe),
        "epoch": lambda: train(recipe, photos, tmp_path / str(next(folders))),
    })  # fmt: skip
    slowest = max((wall["decoding alone"], wall["network alone"]), key=min)
    both = [sum(pair) for pair in zip(cpu["decoding alone"], cpu["network alone"], strict=True)]
    record(benchmark, f"{network}: epoch / slower limit, wall", wall["epoch"], slowest, statistic="minimum")
    record(benchmark, f"{network}: epoch / both limits, CPU", cpu["epoch"], both, statistic="minimum")
    name = f"{network}: decoding and cropping / decoding, CPU"
    record(benchmark, name, cpu["decoding and cropping"], cpu["decoding alone"], statistic="minimum")
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.benchmark(group="streaming")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
def test_memory_over_an_epoch(benchmark, tmp_path, files):
    """Resident memory in the last quarter of an epoch of 40 steps, beside that in the second quarter."""
    photos = Photos(files, 40 * BATCH)
    train(recipe_of("small", augmentation="patches"), photos, tmp_path / "job")
    early, late = photos.resident[10:20], photos.resident[30:]
    print(f"\nresident memory: {min(early):.0f} to {max(early):.0f} MiB, then {min(late):.0f} to {max(late):.0f} MiB")
    record(benchmark, "resident memory, last quarter / second quarter", late, early)
    benchmark.pedantic(lambda: None, rounds=1)
