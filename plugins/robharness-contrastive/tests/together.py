"""Train recipes on several processes; `test_together.py` starts this script by `torchrun` and trains on one process.

Each process counts as a machine of its own. Processes exchange tensors by gloo, so that two of them can use one GPU.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from bars import Bars, of_bars
from test_loop import RECIPES
from torch import nn

import robharness_contrastive as contrastive
from robharness import TrainingJob
from robharness_contrastive import data, loop, options, params, processes
from robharness_contrastive.objectives import FirstStage, InfoNCE
from robharness_contrastive.options import Replacement
from robharness_probe import heads

DEADLY_STEP = 12


class ActivatedNorm(nn.BatchNorm2d):
    """A BatchNorm with an activation, which calls torch's function itself, as timm's `BatchNormAct2d` does."""

    def forward(self, x):
        own = self.running_mean, self.running_var, self.weight, self.bias
        return torch.tanh(F.batch_norm(x, *own, self.training, self.momentum, self.eps))


NORMS = {
    "images": (lambda: nn.BatchNorm2d(3), (4, 4)),
    "vectors": (lambda: nn.BatchNorm1d(3, momentum=0.3), ()),
    "videos without weights": (lambda: nn.BatchNorm3d(3, affine=False), (2, 2, 2)),
    "means over all batches": (lambda: nn.BatchNorm2d(3, momentum=None), (2, 2)),
    "without statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (4,)),
    # torch's own for several processes, which does not compute on CPUs; one process is the reference, without it
    "torch's own": (lambda: (nn.SyncBatchNorm if processes.world() > 1 else nn.BatchNorm2d)(3), (4, 4)),
    "with an activation": (lambda: ActivatedNorm(3), (4, 4)),
}


class Drifting(InfoNCE):
    """SupCon with labels of a first stage, on which processes disagree, as if they rounded features differently."""

    def __init__(self, params, width, context):
        super().__init__(params, width, context, classes=True)
        self.first_stage = FirstStage(
            name="first", objective=lambda width, context: InfoNCE(params, width, context),
            labels=lambda features, seed: (np.arange(len(features)) + processes.rank()) % 4,
        )  # fmt: skip


class Waiting(contrastive.Probe):
    """A probe that ends after the second process has ended its training, if there are two."""

    followed = Path()

    def fit(self, task):
        begun = time.monotonic()
        while processes.world() > 1 and not self.followed.exists():
            if time.monotonic() > begun + 60:
                raise TimeoutError("the second process waits for the probe")
            time.sleep(0.05)
        return heads.linear(torch.zeros(task.classes, task.width), torch.zeros(task.classes))


def small(**changed):
    return of_bars(**{"epochs": 2, "probe": None, **changed})


PRECISE = {"epochs": 2, "precision": "64-true", "probe": None}
EXACT = {name: dataclasses.replace(RECIPES[name], **PRECISE)
         for name in ("swav", "moco", "simsiam", "rocl", "acl")} | {
    "dynacl, uneven reserve": params.DynACL(
        **small(steps=2, precision="64-true", removal=Replacement(strategy="frequency", most=0.16))
    ),
    "simclr, accumulated": params.SimCLR(**small(accumulate=2, precision="64-true")),
}  # fmt: skip
"""Recipes in float64, in which rounding does not hide differences. The network has BatchNorm."""
CLOSE = {
    "labels of a stage": params.Encoder(
        **small(objective=contrastive.objective("mine/drifting", Drifting, options.SupCon))
    ),
    "long probe": params.SimCLR(**small(probe=contrastive.linear_probe("mine/waiting", Waiting))),
}
SCALED = params.SimCLR(**small(epochs=3, accumulate=2, precision="16-mixed", loss_scale=100.0, lr=0.003))
"""A recipe whose loss is so large that the scaler of float16 has to lower its scale in the first epochs."""
COMBINED = dict.fromkeys(("whole", "killed"), SCALED)


def train(folder: Path, device: str, name: str) -> None:
    """Write weights and log of a training into FOLDER/NAME. The second process of the training "killed" dies once."""
    torch.backends.cudnn.allow_tf32 = False
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    died, Waiting.followed = folder / "died", folder / "followed"

    def make_views(source, *words):
        views = data.make_views(source, *words)

        def drawn(rows, step):
            if step == DEADLY_STEP and processes.rank() == 1 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return views(rows, step)

        return drawn

    loop.train(
        TrainingJob(
            params={**EXACT, **CLOSE, **COMBINED}[name], seed=0, datasets={"train": Bars()}, folder=path, device=device,
            message=print, progress=lambda progress: None,
        ),
        make_views=make_views if name == "killed" else data.make_views,
    )  # fmt: skip
    if name == "long probe" and processes.rank() == 1:
        Waiting.followed.touch()


def normalised(name: str, device: str) -> dict[str, torch.Tensor]:
    """Return outputs, gradients and statistics of a BatchNorm after two batches; those of all processes together."""
    make, shape = NORMS[name]
    norm = processes.synchronised(nn.Sequential(make()), torch.device(device)).to(device, torch.float64)
    draws, found = np.random.default_rng(0), {}
    for number in range(2):
        x, weights = (torch.from_numpy(draws.normal(1, 2, (7, 3, *shape))).to(device) for _ in range(2))
        rows = processes.own(7)
        x = x[rows].requires_grad_()
        y = norm(x)
        (y.square() * weights[rows]).sum().backward()
        found |= {f"y{number}": processes.gather(y.detach(), 7), f"x{number}": processes.gather(x.grad, 7)}
    for key, value in norm.named_parameters():
        found[f"gradient of {key}"] = value.grad
        if processes.world() > 1:
            dist.all_reduce(value.grad)
    found["eval"] = norm.eval()(x.new_ones(2, 3, *shape))
    return found | dict(norm.named_buffers())


if __name__ == "__main__":
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": os.environ["RANK"]}
    dist.init_process_group("gloo")
    folder, device = Path(sys.argv[1]), sys.argv[2]
    norms = {name: normalised(name, device) for name in NORMS}
    if processes.rank() == 0:
        torch.save(norms, folder / "norms.pt")
    for name in (*EXACT, *CLOSE, *COMBINED):
        train(folder, device, name)
    dist.destroy_process_group()
