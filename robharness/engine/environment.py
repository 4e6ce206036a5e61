"""The environment: launchers (Slurm, torchrun), devices, cores. No other core module reads launchers' variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from robharness.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Job:
    """The place of this process among those that train together, as torchrun sets it.

    rank: from 0.
    size: the number of processes.
    name: the same in all of them, and in no other job; empty for one process.
    """

    rank: int = 0
    size: int = 1
    name: str = ""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @classmethod
    def here(cls) -> Job:
        """Return the job of this process. Raises UserError if RANK or WORLD_SIZE is no number."""
        try:
            rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError:
            raise UserError("$RANK and $WORLD_SIZE are numbers, as torchrun sets them. Try: torchrun --help") from None
        variables = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
        name = " ".join(os.environ.get(variable, "") for variable in variables) if size > 1 else ""
        return cls(rank=rank, size=size, name=name)


def check_devices(wanted: str) -> list[str]:
    """Return the names of the devices.

    wanted: as torch names them, with commas between. A plain "cuda" is this process's own GPU if torchrun or srun
        started several processes on a machine.
    Raises UserError for a device that torch does not have.
    """
    devices = [device.strip() for device in wanted.split(",") if device.strip()]
    if not devices:
        raise UserError("no device is named. Try: cpu")
    if all(device == "cpu" for device in devices):  # without torch, which this process may not need
        return devices
    from robharness.evaluation.devices import checked_device

    return [device if device == "cpu" else checked_device(device, local_cuda) for device in devices]


def local_cuda(available: int) -> str:
    """Return the name of this process's GPU, by the index that torchrun or srun gave the process on its machine.

    available: the number of GPUs on the machine.
    """
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or ""
    return f"cuda:{int(local) % available}" if local.isdigit() and available > 1 else "cuda"


def threads_per_worker(workers: int) -> int | None:
    """Return an equal share of the cores, since more threads would wait for each other.

    Returns None if OMP_NUM_THREADS decides.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def shard_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return (i, k): the process has the i-th of k parts, from 1, by its place among the processes of a launcher.

    environment: of a process that Slurm (a job array, the tasks of srun, or both) or torchrun started.
    Raises UserError if neither did, or if the variables contradict each other.
    """

    def number(name: str, default: int | None = None) -> int:
        try:
            return int(environment[name]) if default is None else int(environment.get(name, default))
        except KeyError:
            raise UserError(f"${name} is not set. Try: 1/4, the first of four shards") from None
        except ValueError:
            raise UserError(
                f"${name} is '{environment[name]}', no number. Try: 1/4, the first of four shards"
            ) from None

    index, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in environment:
        count = number("SLURM_ARRAY_TASK_COUNT", 1)
        first, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
        last = number("SLURM_ARRAY_TASK_MAX", first)
        index, remainder = divmod(number("SLURM_ARRAY_TASK_ID") - first, max(1, step))
        if remainder or step < 1 or (last - first) % step or (last - first) // step + 1 != count:
            raise UserError("the job array has gaps. Try: sbatch --array=1-4, or 1/4, the first of four shards")
    if "RANK" in environment and "WORLD_SIZE" in environment:
        index, count = index * number("WORLD_SIZE") + number("RANK"), count * number("WORLD_SIZE")
    elif number("SLURM_STEP_NUM_TASKS", 1) > 1:  # srun alone sets it; a batch script itself is one process
        tasks = number("SLURM_STEP_NUM_TASKS")
        index, count = index * tasks + number("SLURM_PROCID"), count * tasks
    elif "SLURM_ARRAY_TASK_ID" not in environment and "SLURM_STEP_NUM_TASKS" not in environment:
        raise UserError(
            "neither Slurm (array, srun) nor torchrun started this process. Try: 1/4, the first of four shards"
        )
    if not 0 <= index < count:
        raise UserError(f"Slurm or torchrun set part {index + 1} of {count}. Try: 1/4, the first of four shards")
    return index + 1, count
