"""`make bench`: costs of the engine, of worker processes, prefetching, and memory.

All of it within one run on one machine: ratios are compared, raw seconds printed, and no time is asserted.
"""

import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ratios import record
from robharness import api
from robharness.engine import listeners
from robharness.engine.run import run_plan
from robharness.store import Store

HERE = Path(__file__).parent
MNIST = HERE.parent / "end_to_end/mnist.py"
FOLDER, WIDE = HERE / "folder.py", HERE / "wide.py"
LITE0 = {"model": "samples/efficientnet-lite0", "label": "Lite0"}
PHOTOS = {"name": "samples/imagenet-photos", "split": "val"}
CELLS, BATCH, ROUNDS = 200, 10, 3


def suite(data, models, attacks):
    return {"robharness": 1, "name": "bench", "data": data, "models": models, "attacks": attacks}


def show(benchmark, numbers):
    for name, number in numbers.items():
        print(f"{name:60} {number:.3f}")
    benchmark.extra_info.update(numbers)


@pytest.mark.benchmark(group="the engine")
def test_two_hundred_cells_beside_their_bare_passes(benchmark, tmp_path):
    """The clean cell and 199 FGSM budgets of Lite0 on 20 photos: a gradient pass and 199 forward passes a chunk."""
    eps = [f"{i}/2550" for i in range(1, CELLS)]
    plan = api.plan(suite(PHOTOS, [LITE0], [{"attack": "attacks/fgsm", "eps": eps}]))
    from robharness.evaluation import loading

    loaded = loading.load_model(plan, plan.models[0], batch_size=BATCH)
    batch, net = loaded.reader.read(0, plan.n), loaded.classifier.net

    def bare():
        for images, labels in zip(batch.x.split(BATCH), batch.labels.split(BATCH), strict=True):
            leaf = images.detach().requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(net(leaf), labels, reduction="sum")
            torch.autograd.grad(loss, leaf)
            with torch.no_grad():
                for _ in eps:
                    net(images)

    whole, units, limits = [], [], []
    for turn in range(2):
        limits.append(seconds_of(bare))
        summary = run_plan(plan, Store(tmp_path / str(turn)), listeners.Silent(), batch_size=BATCH)
        assert summary.computed == CELLS * plan.n
        whole.append(summary.seconds)
        units.append(summary.speed["Lite0"].seconds)
    limit = statistics.median(limits)
    print("\nbare", *(f"{s:.1f}" for s in limits), "units", *(f"{s:.1f}" for s in units), "whole",
          *(f"{s:.1f}" for s in whole), "seconds")  # fmt: skip
    over = statistics.median(units) - limit
    record(benchmark, "units / bare passes (at most 1.05)", units, limits)
    record(benchmark, "whole run, with loading and probing / bare passes", whole, limits)
    show(benchmark, {
        "milliseconds over, per cell": 1000 * over / CELLS,
        "milliseconds over, per cell and example": 1000 * over / CELLS / plan.n,
    })  # fmt: skip
    benchmark.pedantic(lambda: None, rounds=1)


def seconds_of(function):
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


HOW = {"one process": ["--threads", "2"], "two workers": ["--workers", "2", "--threads", "1"]}


@pytest.mark.benchmark(group="worker processes")
@pytest.mark.parametrize("network", ["mnist-5k", "lite0"])
def test_two_workers_beside_one_process(benchmark, tmp_path, network):
    """Whole commands of about ten seconds with the same total threads, one after the other in each of the rounds."""
    batch = 20 if network == "mnist-5k" else 4
    if network == "mnist-5k":
        runpy.run_path(str(MNIST))["train"](tmp_path / "mnist.pt")
        models = [{"model": "mnist/net", "label": "CNN", "weights": str(tmp_path / "mnist.pt")}]
        attacks = [{"attack": "attacks/pgd", "norm": "linf", "eps": [f"{i}/100" for i in (2, 5, 10)], "steps": 60}]
        source = suite({"name": "samples/mnist-5k", "split": "test"}, models, attacks)
    else:
        attacks = [{"attack": "attacks/pgd", "norm": "linf", "eps": ["0.5/255", "1/255"], "steps": 10}]
        source = suite(PHOTOS, [LITE0], attacks)
    path = tmp_path / "bench.yaml"
    path.write_text(json.dumps(source))  # which is YAML as well
    command = [sys.executable, "-m", "robharness", "run", path, "-p", MNIST, "--batch-size", str(batch)]
    left_out = ("PYTEST_", "OMP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    wall, cpu, computed = ({name: [] for name in HOW} for _ in range(3))
    for turn in range(ROUNDS):
        for name, words in HOW.items():
            store = tmp_path / name / str(turn)
            before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([*command, *words, "--store", store], check=True, capture_output=True, env=environment)
            wall[name].append(time.perf_counter() - begun)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            computed[name].append([each["computed"] for each in Store(store).runs()])
    assert computed["one process"] == computed["two workers"] != []
    for clock, seconds in (("wall", wall), ("CPU", cpu)):
        for name, values in seconds.items():
            print(f"\n{network}, batch {batch}, {name}, {clock}:", *(f"{value:.1f}" for value in values), "s", end="")
        print()
        for statistic in ("minimum", "median"):
            words = f"{network}: one process / two workers, {clock}, {statistic}"
            one, two = seconds["one process"], seconds["two workers"]
            record(benchmark, words, one, two, statistic=statistic, better="higher")
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.benchmark(group="reading ahead")
def test_the_share_of_time_that_the_model_waits_for_an_image_folder(benchmark, tmp_path, monkeypatch):
    """240 JPEG files of 500 x 375, as in ImageNet, for the clean cell of Lite0: the least work per picture."""
    from PIL import Image

    monkeypatch.setenv("BENCH_FOLDER", str(tmp_path / "pictures"))
    (tmp_path / "pictures").mkdir()
    photos = api.plan(suite(PHOTOS, [LITE0], [])).data.dataset
    for index in range(240):
        image = Image.fromarray(photos.read(index % 20)).resize((500, 375))
        image.save(tmp_path / f"pictures/{photos.labels[index % 20]:04}-{index:03}.jpg", quality=92)
    plan = api.plan(suite({"name": "folder/pictures", "split": "all"}, [LITE0], []), plugins=[str(FOLDER)])
    begun = time.perf_counter()
    summary = run_plan(plan, Store(tmp_path / "store"), listeners.Silent())
    assert summary.computed == 240
    speed = summary.speed["Lite0"]
    print(
        f"\nwaited {1000 * speed.waited:.0f} ms of {speed.seconds:.1f} s ({time.perf_counter() - begun:.1f} s in all)"
    )
    show(benchmark, {"share of the units' time that the model waited": speed.waited / speed.seconds})
    benchmark.pedantic(lambda: None, rounds=1)


MEASURED = """
import json, resource, sys
from robharness import api
from robharness.engine import listeners
from robharness.engine.run import run_plan
from robharness.store import results
from robharness.store import Store
source, plugin, store, limit = json.loads(sys.argv[1])
plan = api.plan(source, plugins=[plugin], limit=limit)
summary = run_plan(plan, Store(store), listeners.Silent())
found = results.load(plan, Store(store))
assert summary.computed == limit * len(plan.cells) and found.is_complete
print([result.accuracy for result in found.cells], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.benchmark(group="memory")
def test_memory_stays_flat_as_examples_grow(benchmark, tmp_path):
    """A small network on 1,500 and on 6,000 pictures of 224 px: the largest resident size of the process."""
    source = suite(
        {"name": "wide/noise", "split": "all"}, [{"model": "wide/small"}], [{"attack": "attacks/fgsm", "eps": "1/255"}]
    )
    peaks = []
    for limit in (1500, 6000):
        arguments = json.dumps([source, str(WIDE), str(tmp_path / str(limit)), limit])
        done = subprocess.run([sys.executable, "-c", MEASURED, arguments], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.rpartition(" ")[2]))
    print(f"\npeak {peaks[0]:.0f} MB with 1,500 examples, {peaks[1]:.0f} MB with 6,000")
    record(benchmark, "peak memory, 4 times the examples", peaks[1:], peaks[:1])
    benchmark.pedantic(lambda: None, rounds=1)
