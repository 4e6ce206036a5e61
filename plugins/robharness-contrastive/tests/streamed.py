"""Train on several processes, in memory and streamed; `test_streaming.py` starts this script by `torchrun`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist
from bars import Bars, of_bars

from robharness import TrainingJob
from robharness_contrastive import loop, params
from robharness_contrastive.options import Neighbours


class Counted(Bars):
    """Bars that note which of them were read."""

    def __init__(self):
        super().__init__()
        self.read_rows = []

    def read(self, index):
        self.read_rows.append(index)
        return super().read(index)


if __name__ == "__main__":
    for name, stream, knn in (("memory", False, None), ("streamed", True, None), ("knn", True, Neighbours())):
        folder, bars = Path(sys.argv[1]) / name, Counted()
        folder.mkdir(exist_ok=True)
        recipe = params.SimCLR(**of_bars(epochs=2, probe=None, stream=stream, knn=knn, threads=2))
        loop.train(TrainingJob(params=recipe, seed=0, datasets={"train": bars}, folder=folder, device="cpu",
                               message=print, progress=lambda progress: None))  # fmt: skip
        (folder / f"read-{dist.get_rank()}.json").write_text(json.dumps(bars.read_rows))
    dist.destroy_process_group()
