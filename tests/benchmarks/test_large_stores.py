"""`make bench`: reading and reporting a store of a hundred million outcomes, which takes 3 GB of disk while it runs.

CPU seconds stand beside wall seconds, and ratios are within one run. No time is asserted.
BENCH_MODELS=2 makes the store smaller: 2 models in place of 20.
"""

import os
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ratios import record
from robharness import api
from robharness.report import build
from robharness.report.renderers import html, terminal
from robharness.store import Store, results

WIDE = Path(__file__).parent / "wide.py"
MODELS, ROUNDS = int(os.environ.get("BENCH_MODELS", "20")), 3
EPS = [f"{i}/255" for i in range(1, 28)]
CORRUPTIONS = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
               "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
               "jpeg_compression")  # fmt: skip
CPU, WALL = time.process_time, time.perf_counter


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A plan of 100 cells a model on 50,000 examples, and a store with drawn outcomes of all of them."""
    models = [{"model": "wide/small", "label": f"Model {i}", "revision": i} for i in range(MODELS)]
    models[0]["reference"] = True
    suite = {
        "robharness": 1, "name": "bench", "data": {"name": "wide/many", "split": "all"}, "models": models,
        "attacks": [{"attack": "attacks/fgsm", "eps": EPS},
                    {"attack": "attacks/pgd", "norm": "linf", "steps": 10, "eps": EPS}],
        "canvas": 224,
        "corruptions": [{"corruption": f"corruptions/{name}", "severity": [1, 3, 5]} for name in CORRUPTIONS],
    }  # fmt: skip
    plan = api.plan(suite, plugins=[str(WIDE)])
    assert (len(plan.cells), plan.n) == (100 * MODELS, 50_000)
    store, n, draws = Store(tmp_path_factory.mktemp("large") / "store"), plan.n, np.random.default_rng(0)
    ids, difficulty = pa.array(plan.data.ids(0, n)), draws.random(n)
    labels = np.array(plan.data.dataset.labels)[np.array(plan.data.order)]
    noise = draws.normal(size=n).astype("float32")
    for cell in plan.cells:
        perturbation, fragility = cell.perturbation, 1 + int(cell.model.label.split()[-1]) / 20
        strength = 0.0
        if perturbation is not None:
            strength = 25.5 * float(perturbation.eps) if perturbation.severity is None else 0.15 * perturbation.severity
        chance = 0.8 * np.exp(-strength * fragility)
        correct = 0.7 * difficulty + 0.3 * draws.random(n) < chance
        confidence = 0.3 + 0.7 * draws.random(n, "float32")
        notes = {} if perturbation is None else perturbation.notes
        store.write_part(cell.key, 0, {
            "example": ids, "label": labels, "prediction": np.where(correct, labels, (labels + 1) % 10),
            "correct": correct, "margin": noise, "logit_range": confidence, "size": np.full(n, 0.1),
            "attacked": np.ones(n, bool), "confidence": confidence, "p_true": np.where(correct, confidence, noise * 0),
            **{name: np.zeros(n, kind) for name, kind in notes.items()},
        }, {"device": "cpu"})  # fmt: skip
    yield plan, store
    for part in store.root.rglob("*.parquet"):
        part.unlink()


def timed(work):
    """Return the CPU and wall seconds of a function in each round, least first, and its last result."""
    seconds, found = [], None
    for _ in range(ROUNDS):
        del found  # before the next one is there
        cpu, wall = CPU(), WALL()
        found = work()
        seconds.append((CPU() - cpu, WALL() - wall))
    return [sorted(values) for values in zip(*seconds, strict=True)], found


@pytest.mark.benchmark(group="large stores")
def test_reading_and_reporting_a_large_store(benchmark, large):
    """Reading checks every byte. Both reports begin with it; the page has all details and figures, and no gallery."""
    plan, store = large
    size = sum(file.stat().st_size for file in store.root.rglob("*.parquet")) / 2**30
    reading, found = timed(lambda: results.load(plan, store))
    assert found.is_complete and not found.findings
    accuracies, _ = timed(lambda: [result.accuracy for result in found.cells])
    text, shown = timed(lambda: terminal.render(build(results.load(plan, store))))
    assert all(f"Model {i}" in shown for i in range(MODELS))
    page, made = timed(lambda: html.render(build(results.load(plan, store, confidences=True), details=True)))
    assert made.count("<svg") > MODELS
    print(f"\n{len(plan.cells)} cells, {size:.2f} GiB, {os.cpu_count()} cores; page {len(made) / 1e6:.1f} MB")
    for name, seconds in (("reading", reading), ("all accuracies", accuracies), ("terminal report", text),
                          ("page", page)):  # fmt: skip
        for kind, values, base in zip(("CPU", "wall"), seconds, reading, strict=True):
            least, middle = values[0], statistics.median(values)
            print(f"{name:16} {kind:4} s: minimum {least:6.2f}, median {middle:6.2f}; / reading: "
                  f"{least / base[0]:.2f}, {middle / statistics.median(base):.2f}")  # fmt: skip
            if values is not base:
                record(benchmark, f"{name} / reading, {kind}, minimum", values, base, statistic="minimum")
    benchmark.extra_info["page, bytes"] = len(made)
    benchmark.pedantic(lambda: None, rounds=1)
