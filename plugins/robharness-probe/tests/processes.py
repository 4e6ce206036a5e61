"""Fine-tune on one or several processes; `test_training.py` starts this script by `torchrun` and alone."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch

from robharness import TrainingJob
from robharness_probe import params, training

MADE = runpy.run_path(str(Path(__file__).with_name("test_training.py")))


def tune(root: Path) -> None:
    """Write the weights into a folder that is named by the number of processes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (initial weights, the same in every process)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.Tanh())
    chosen = MADE["options"](params.Finetune, encoder=MADE["encoder"](net), epochs=2, head_lr=0.1)
    folder = root / str(training.world())
    folder.mkdir(exist_ok=True)
    training.train(
        TrainingJob(
            params=chosen, seed=0, datasets={"train": MADE["Shades"]()}, folder=folder, device="cpu",
            message=print, progress=lambda state: None,
        )
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    tune(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
