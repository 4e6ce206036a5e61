"""A plugin that trains, loaded with `-p tests/learner.py`: a small network, real gradients, a checkpoint per epoch.

`learner/net` learns three classes of noisy pictures, `learner/shades`; it may be told to go wrong.

$LEARNER_LOG: a file that gets a line per epoch: the process, the seed, the epoch. $LEARNER_PAUSE: seconds per epoch.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robharness import DataRef, DatasetSpec, InputSpec, MissingResource, ModelSpec, Progress, Train, UserError, hookimpl

SIDE, CLASSES = 8, 3
SIZES = {"train": 120, "test": 48}


class Shades:
    """Noise, and in one of three places a square that is brighter than that."""

    def __init__(self, split):
        self.ids = [f"{split}-{index}" for index in range(SIZES[split])]
        self.labels = [index % CLASSES for index in range(SIZES[split])]
        self.split = split

    def read(self, index):
        draws = np.random.default_rng([index, self.split == "test"])
        image = draws.integers(0, 128, (SIDE, SIDE, 1))
        at = 2 * self.labels[index]
        image[at : at + 3, at : at + 3] += 60
        return image.astype(np.uint8)


def open_shades(root, split):
    if split == "lost":
        raise MissingResource("the lost shades", where=str(root / "shades"), get="make shades")
    return Shades(split)


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="shades", summary="Three places for a bright square", labels="shades",
                      splits=("train", "test", "lost"), open=open_shades)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Params:
    """what: a way to go wrong. split: to learn from. note: what changes no weight."""

    epochs: int = 6
    rate: float = 0.5
    split: str = "train"
    what: str = "learns"
    note: str = field(default="", metadata={"runtime": True})


def network():
    import torch
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        torch.nn.utils.skip_init(nn.Linear, SIDE * SIDE, 12),
        nn.ReLU(),
        torch.nn.utils.skip_init(nn.Linear, 12, CLASSES),
    )


def build(params, weights):
    from safetensors.torch import load_file

    net = network()
    net.load_state_dict(load_file(weights))
    return net


def save(state, path):
    """Whole or not at all."""
    import torch

    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def train(job):
    """Stochastic gradient descent; under torchrun every process takes its share of a batch, gradients are summed."""
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional

    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    if job.params.what == "raises":
        raise ZeroDivisionError("a loss of nothing")
    if job.params.what == "says why":
        raise UserError("the loss is not a number in epoch 1. Try: rate: 0.1")
    if job.params.what == "leaves a mess":
        torch.manual_seed(job.seed)  # noqa: TID251 (what the core has to put back)
        np.random.seed(job.seed)  # noqa: TID251
        torch.use_deterministic_algorithms(True)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        (job.folder / "weights.safetensors").write_bytes(len("{}").to_bytes(8, "little") + b"{}")
        return
    if job.params.what == "exits":
        raise SystemExit(3)
    if job.params.what == "leaves nothing":
        return
    if job.params.what == "leaves text":
        (job.folder / "weights.safetensors").write_text("weights")
        return

    data = job.datasets["train"]
    x = torch.stack([torch.from_numpy(data.read(i)).permute(2, 0, 1) / 255 for i in range(len(data.ids))])
    y = torch.tensor(data.labels)
    draws, net, checkpoint = torch.Generator().manual_seed(job.seed), network(), job.folder / "checkpoint.pt"
    for parameter in net.parameters():
        parameter.data.copy_(torch.empty(parameter.shape).uniform_(-0.3, 0.3, generator=draws))
    first, start, began = 1, None, time.monotonic()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        draws.set_state(state["draws"])
        first, start = state["epoch"] + 1, state["start"]
        job.message(f"goes on after epoch {state['epoch']}")
    for epoch in range(first, job.params.epochs + 1):
        losses = []
        for rows in torch.randperm(len(x), generator=draws).split(20):  # noqa: TID251 (a generator of its own)
            share = rows[rank::size]
            loss = functional.cross_entropy(net(x[share]), y[share], reduction="sum") / len(rows)
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    if size > 1:
                        torch.distributed.all_reduce(parameter.grad)
                    parameter -= job.params.rate * parameter.grad
            losses.append(float(loss.detach()) * size)
        start = losses[0] if start is None else start
        if rank == 0:
            mean = sum(losses) / len(losses)
            with (job.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"epoch": epoch, "loss": mean}) + "\n")
            save({"net": net.state_dict(), "draws": draws.get_state(), "epoch": epoch, "start": start}, checkpoint)
        if "LEARNER_LOG" in os.environ:
            with Path(os.environ["LEARNER_LOG"]).open("a") as log:
                log.write(f"{os.getpid()} {job.seed} {epoch}\n")
        seconds = (time.monotonic() - began) / (epoch - first + 1)
        job.progress(Progress(epoch=epoch, epochs=job.params.epochs, loss=losses[-1], start=start, floor=0.0,
                              rate=len(x) / seconds, left=seconds * (job.params.epochs - epoch)))  # fmt: skip
        time.sleep(float(os.environ.get("LEARNER_PAUSE", "0")))
    if rank == 0:
        save_file(net.state_dict(), job.folder / "weights.safetensors")
        checkpoint.unlink()


@hookimpl
def robharness_models():
    common = {"input": InputSpec(shape=(1, SIDE, SIDE)), "labels": "shades", "build": build}
    yield ModelSpec(
        name="net",
        summary="Twelve hidden units",
        params=Params,
        weights=Train(
            data=lambda params: {"train": DataRef(name="learner/shades", split=params.split)}, train=train, revision=1
        ),
        **common,
    )
    yield ModelSpec(name="filed", summary="The same from a file", **common)
