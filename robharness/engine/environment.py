"""The environment of a launcher (Slurm, torchrun), and devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from robharness.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Job:
    """The processes that train together, as torchrun says it in the environment. name: the same in all of them."""

    rank: int = 0
    size: int = 1
    name: str = ""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @classmethod
    def here(cls) -> Job:
        """Raises UserError where RANK or WORLD_SIZE is no number."""
        try:
            rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError:
            raise UserError("$RANK and $WORLD_SIZE are numbers, as torchrun sets them. See: torchrun --help") from None
        words = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
        name = " ".join(os.environ.get(word, "") for word in words) if size > 1 else ""
        return cls(rank=rank, size=size, name=name)


def check_devices(wanted: str) -> list[str]:
    """The devices, given with commas between. Raises UserError for one that torch does not have here.

    A plain "cuda" is the process's own where torchrun or srun started several on a machine.
    """
    devices = [device.strip() for device in wanted.split(",") if device.strip()] or ["cpu"]
    if all(device == "cpu" for device in devices):  # no torch, which a run in other processes does not need here
        return devices
    from robharness.evaluation.devices import checked_device

    return [device if device == "cpu" else checked_device(device, local_cuda) for device in devices]


def local_cuda(there: int) -> str:
    """The GPU of this process, of so many on the machine, as torchrun or srun count their processes."""
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or ""
    return f"cuda:{int(local) % there}" if local.isdigit() and there > 1 else "cuda"


def shard_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """The part of the process that Slurm (a job array, the tasks of srun, or both) or torchrun started.

    Raises UserError where neither did.
    """

    def number(name: str, default: int | None = None) -> int:
        try:
            return int(environment[name]) if default is None else int(environment.get(name, default))
        except KeyError:
            raise UserError(f"--shard auto: ${name} is not set. Try: --shard 1/4") from None
        except ValueError:
            raise UserError(f"--shard auto: ${name} is '{environment[name]}', no number. Try: --shard 1/4") from None

    index, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in environment:
        count = number("SLURM_ARRAY_TASK_COUNT", 1)
        first, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
        last = number("SLURM_ARRAY_TASK_MAX", first)
        index, rest = divmod(number("SLURM_ARRAY_TASK_ID") - first, max(1, step))
        if rest or step < 1 or (last - first) % step or (last - first) // step + 1 != count:
            raise UserError("--shard auto: the job array has gaps. Number it 1-4, say, or give --shard 1/4 yourself")
    if "RANK" in environment and "WORLD_SIZE" in environment:
        index, count = index * number("WORLD_SIZE") + number("RANK"), count * number("WORLD_SIZE")
    elif number("SLURM_STEP_NUM_TASKS", 1) > 1:  # set by srun alone; a batch script by itself is one process
        tasks = number("SLURM_STEP_NUM_TASKS")
        index, count = index * tasks + number("SLURM_PROCID"), count * tasks
    elif "SLURM_ARRAY_TASK_ID" not in environment and "SLURM_STEP_NUM_TASKS" not in environment:
        raise UserError("--shard auto: neither Slurm (array, srun) nor torchrun started this. Try: --shard 1/4")
    if not 0 <= index < count:
        raise UserError(f"--shard auto: Slurm or torchrun say part {index + 1} of {count}. Try: --shard 1/4")
    return index + 1, count
