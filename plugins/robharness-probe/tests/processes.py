"""Train on one or several processes; `test_training.py` starts this script by `torchrun` and alone."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from robharness import TrainingJob
from robharness_probe import params, training
from robharness_probe.processes import world

MADE = runpy.run_path(str(Path(__file__).with_name("test_training.py")))
TRAININGS = {
    "finetune": (params.Finetune, {"head_lr": 0.1}),
    "adversarial": (params.Adversarial, {"lr": 0.5, "steps": 3, "eps": params.Budget("0.1")}),
    "aff": (params.AFF, {"lr": 0.5, "steps": 3, "eps": params.Budget("0.1"), "milestones": (1,), "pad": 1}),
    "finetune, batch norm": (params.Finetune, {"lr": 0.2}),
    "aff, batch norm": (params.AFF, {"lr": 0.2, "steps": 3, "eps": params.Budget("0.1"), "milestones": (1,)}),
}
"""By the name of a training, its head and options. Networks with batch norm are trained if the name says so."""


class ActivatedNorm(torch.nn.BatchNorm1d):
    """A batch norm with an activation, which calls torch's function itself, as timm's `BatchNormAct2d` does."""

    def forward(self, x):
        own = self.running_mean, self.running_var, self.weight, self.bias
        return F.relu(F.batch_norm(x, *own, self.training, self.momentum, self.eps))


class Precise(torch.nn.Sequential):
    """Layers in float64, in which rounding does not hide differences, from and to float32."""

    def forward(self, x):
        return super().forward(x.double()).float()


class Killed(BaseException):
    pass


def tune(root: Path) -> None:
    """Write the weights of each training into a folder that is named by it and by the number of processes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (initial weights, the same in every process)
        plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.Tanh())
        normalised = Precise(
            torch.nn.Conv2d(1, 6, 3, stride=2), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(54, 16), ActivatedNorm(16),
        ).double().eval()  # fmt: skip
    for name, (kind, options) in TRAININGS.items():
        train(root / f"{name}-{world()}", normalised if "batch norm" in name else plain, kind, options)


def resume(root: Path) -> None:
    """Train a network with batch norm by TRADES, and again after a kill in the second epoch."""
    for name in ("whole", "cut"):
        chosen = params.AFF, {"epochs": 3, "steps": 2, "eps": params.Budget("0.1"), "milestones": None}
        try:
            train(root / name, MADE["network"](), *chosen, dies_in=2 if name == "cut" else None)
        except Killed:
            assert not (root / name / training.WEIGHTS).exists()
            train(root / name, MADE["network"](), *chosen)


def train(folder: Path, net: torch.nn.Module, kind: type, options: dict, dies_in: int | None = None) -> None:
    """dies_in: number of the epoch, from 1, whose first step kills every process."""

    def progress(state):
        if state.epoch == dies_in:
            raise Killed

    folder.mkdir(exist_ok=True)
    chosen = MADE["options"](kind, **{"encoder": MADE["encoder"](net), "epochs": 2} | options)
    training.train(
        TrainingJob(
            params=chosen, seed=0, datasets={"train": MADE["Shades"]()}, folder=folder, device="cpu",
            message=print, progress=progress,
        )
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    tune(Path(sys.argv[1]))
    resume(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
