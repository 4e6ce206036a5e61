"""Train on one or several processes; `test_training.py` starts this script by `torchrun` and alone."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch

from robharness import TrainingJob
from robharness_probe import params, training

MADE = runpy.run_path(str(Path(__file__).with_name("test_training.py")))
TRAININGS = {
    "finetune": (params.Finetune, {"head_lr": 0.1}),
    "adversarial": (params.Adversarial, {"lr": 0.5, "steps": 3, "eps": params.Budget("0.1")}),
    "aff": (params.AFF, {"lr": 0.5, "steps": 3, "eps": params.Budget("0.1"), "milestones": (1,), "pad": 1}),
}


class Killed(BaseException):
    pass


def tune(root: Path) -> None:
    """Write the weights of each training into a folder that is named by it and by the number of processes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (initial weights, the same in every process)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.Tanh())
    for name, (kind, options) in TRAININGS.items():
        train(root / f"{name}-{training.world()}", net, kind, options)


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
