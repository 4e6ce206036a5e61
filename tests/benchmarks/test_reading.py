"""`make bench`: what reading costs beside the bare network: image folders at 224 px, and videos in clips of 16 frames.

The clean cell has the least work per example, so that waiting shows there first. Ratios within one run; OMP_NUM_THREADS
and the machine's cores say how many threads decode and how many compute.
"""

import runpy
import statistics
import time
from pathlib import Path

import pytest
import torch

from ratios import record
from robharness import api, discover
from robharness.engine import listeners
from robharness.evaluation import loading
from robharness.store import Store

MINIATURE = runpy.run_path(str(Path(__file__).parents[1] / "end_to_end/miniature.py"))
ROUNDS = 3


def suite(data, model):
    return {"robharness": 1, "name": "bench", "data": data, "models": [model]}


def measured(plan, folder, rows):
    """Seconds that whole runs of the clean cell take in their units, and that the same bare passes take, in turn."""
    from robharness.engine.run import run_plan

    loaded = loading.load_model(plan, plan.models[0], batch_size=rows)
    batches = [batch for _, batch in loaded.reader.batches(loaded.reader.images(0, plan.n))]
    net, units, waited, bare = loaded.classifier.net, [], [], []
    for turn in range(ROUNDS):
        begun = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                for x in batch.x.split(rows):
                    net(x if batch.clip_layout is None else batch.clip_layout.clips(x))
        bare.append(time.perf_counter() - begun)
        summary = run_plan(plan, Store(folder / str(turn)), listeners.Silent(), batch_size=rows)
        assert summary.computed == plan.n and not summary.failures
        [speed] = summary.speed.values()
        units.append(speed.seconds)
        waited.append(speed.waited)
    return units, waited, bare


def show(benchmark, name, units, waited, bare):
    medians = [statistics.median(values) for values in (units, waited, bare)]
    print("\n{}: units {:.2f} s, of which waited {:.2f} s; bare passes {:.2f} s".format(name, *medians))
    record(benchmark, f"{name}: units / bare passes", units, bare)
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.benchmark(group="reading")
@pytest.mark.parametrize("model", ["samples/efficientnet-lite0", "supervised/resnet50"])
def test_an_image_folder(benchmark, tmp_path, model):
    """ImageNet's layout: 96 JPEG files of 500 x 375, resized to 256 and cropped to 224."""
    from PIL import Image

    import robharness_datasets.imagenet as published

    photos = discover().datasets["samples/imagenet-photos"].spec.open(tmp_path, "val")
    wnids = list(published.wnids())
    for index in range(96):
        folder = tmp_path / "imagenet/val" / wnids[photos.labels[index % 20]]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(photos.read(index % 20)).resize((500, 375))
        image.save(folder / f"ILSVRC2012_val_{index:08}.JPEG", quality=92, format="JPEG")
    (tmp_path / "imagenet/val/SUBSET").touch()
    model_keys = {"model": model}
    if model == "supervised/resnet50":
        model_keys["weights"] = str(MINIATURE["encoders"](tmp_path)["Supervised"])
    plan = api.plan(suite({"name": "datasets/imagenet", "split": "val"}, model_keys), data=tmp_path)
    show(benchmark, f"image folder, {model}", *measured(plan, tmp_path / "stores", 8))


@pytest.mark.benchmark(group="reading")
@pytest.mark.parametrize("clips", [1, 4])
def test_videos(benchmark, tmp_path, clips):
    """UCF101's layout: three films of 240 x 320, decoded by decord; R(2+1)D-18 on clips of 16 x 112 x 112."""
    MINIATURE["ucf101"](tmp_path)
    weights = MINIATURE["films"](tmp_path)["TCLR"]
    model_keys = {
        "model": "video/tclr-r2plus1d-18",
        "weights": str(weights),
        "preprocessing": {"clips": {"count": clips}},
    }
    plan = api.plan(suite({"name": "datasets/ucf101", "split": "test1"}, model_keys), data=tmp_path)
    show(benchmark, f"videos, {clips} clips each", *measured(plan, tmp_path / "stores", 1))
