"""Compute gradients of one batch on several processes; `test_objectives.py` starts this script by `torchrun`."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from robharness_contrastive import options
from robharness_contrastive import processes as shared
from robharness_contrastive.adversarial import ACL, DynACL, RoCL
from robharness_contrastive.networks import Encoder, OverTime
from robharness_contrastive.objectives import (
    Context,
    CrossEntropy,
    InfoNCE,
    Learner,
    MoCoObjective,
    SwAVObjective,
    TrainingStep,
    supcon,
)
from robharness_contrastive.options import TCLR, MoCo, SimCLR, SupCon, SwAV
from robharness_contrastive.removal import Removal
from robharness_contrastive.video import TCLRObjective

BATCH, WIDTH, CLASSES = 16, 5, 4
CONTEXT = Context(examples=64, classes=CLASSES, batch=BATCH, epochs=10, shape=(1, 6, 6))
HEAD = {"projection": (6, 3)}
ADVERSARIAL = {"rocl": (RoCL, options.RoCL), "acl": (ACL, options.ACL), "dynacl": (DynACL, options.DynACL)}
MADE = {
    "simclr": lambda: InfoNCE(SimCLR(**HEAD), WIDTH, CONTEXT),
    "supcon": lambda: supcon(SupCon(**HEAD), WIDTH, CONTEXT),
    "frequency": lambda: InfoNCE(SimCLR(**HEAD, removal=Removal(strategy="frequency")), WIDTH, CONTEXT),
    "instances": lambda: InfoNCE(
        SimCLR(**HEAD, removal=Removal(strategy="frequency", unit="instance")), WIDTH, CONTEXT
    ),
    "oracle": lambda: InfoNCE(SimCLR(**HEAD, removal=Removal(strategy="oracle")), WIDTH, CONTEXT),
    **{
        f"{way} {strategy}": lambda way=way, strategy=strategy: InfoNCE(
            SimCLR(**HEAD, removal=Removal(strategy=strategy, replace=way)), WIDTH, CONTEXT
        )
        for way, strategy in (
            *((way, "frequency") for way in ("reweight", "oversample", "queue")),
            ("oversample", "oracle"),
        )
    },
    "false negatives": lambda: InfoNCE(SimCLR(**HEAD, false_negatives=0.4), WIDTH, CONTEXT),
    "cross-entropy": lambda: CrossEntropy(None, WIDTH, CONTEXT),
    "moco": lambda: MoCoObjective(MoCo(**HEAD, queue=24), WIDTH, CONTEXT),
    "swav": lambda: SwAVObjective(SwAV(**HEAD, prototypes=7, frozen=0), WIDTH, CONTEXT),
    **{
        f"{objective}-{replace}": partial(
            lambda made, given, replace: made(
                given(**HEAD, eps=0.1, steps=3, removal=Removal(strategy="frequency", replace=replace)), WIDTH, CONTEXT
            ),
            *pair,
            replace,
        )
        for objective, pair in ADVERSARIAL.items()
        for replace in ("none", "oversample", "queue")
    },
    "tclr": lambda: TCLRObjective(TCLR(**HEAD, terms=(1, 14, BATCH, 16)), WIDTH, replace(CONTEXT, shape=(1, 4, 3, 3))),
}
"""Objectives on networks without batch norm; batch norm in a head stays in eval mode."""
EQUAL = ("removed", "removed_false", "injected", "positive", "same_class", "other_class")
"""Notes whose mean over processes is that of one process."""


def learned(name: str) -> dict[str, torch.Tensor]:
    """Return loss and gradients of one step, averaged over processes."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)  # noqa: TID251 (initial weights, the same in every process)
    of_videos = name == "tclr"
    encoder = Encoder(_trunk(of_videos), WIDTH, None)
    learner = Learner(encoder, MADE[name]())
    for module in learner.modules():
        module.train(not isinstance(module, nn.BatchNorm1d))
    wrapped = DistributedDataParallel(learner) if shared.world() > 1 else learner
    draws = np.random.default_rng(0)
    examples = BATCH + learner.objective.reserve
    views = [
        torch.from_numpy(draws.random((examples, 1, *((4, 3, 3) if of_videos else (6, 6)))))
        for _ in range(learner.objective.views)
    ]
    labels = torch.arange(examples) % CLASSES
    own = torch.cat(
        [torch.arange(BATCH)[shared.own(BATCH)], torch.arange(BATCH, examples)[shared.own(examples - BATCH)]]
    )
    step = TrainingStep(epoch=0, epochs=10, step=0, steps=100, batch=BATCH, seed=1, rows=own.numpy())
    if "queue" in name:
        with torch.no_grad():  # fills the queue
            wrapped([1 - view[own] for view in views], labels[own], step)
    loss = wrapped([view[own] for view in views], labels[own], step)
    loss.value.backward()
    learner.objective.after_step(encoder)
    values = {"loss": loss.value} | {key: value for key, value in loss.notes.items() if key in EQUAL}
    found = {}
    for key, value in values.items():
        mean = value.detach().clone()
        if shared.world() > 1:
            dist.all_reduce(mean)
        found[key] = mean / shared.world()
    found |= {f"gradient of {key}": each.grad for key, each in learner.named_parameters() if each.grad is not None}
    return found | {f"after: {key}": each.clone() for key, each in learner.named_buffers()}


def _trunk(of_videos: bool) -> nn.Module:
    if of_videos:
        return OverTime(first=nn.Conv3d(1, 8, 3, padding=1), second=nn.Tanh(), third=nn.Conv3d(8, WIDTH, 1))
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, WIDTH))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = {name: learned(name) for name in sys.argv[2:]}
    if dist.get_rank() == 0:
        torch.save(found, Path(sys.argv[1]))
    dist.destroy_process_group()
