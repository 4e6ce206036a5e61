"""The environment: launchers (Slurm, torchrun), devices, cores. No other core module reads launchers' variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from robharness.errors import UserError
from robharness.text import printable


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


MOST = {"workers": 1024, "threads": 4096, "batch_size": 2**24, "limit": 2**40, "shards": 2**20}
"""Bounds of counts: more is a slip of the keyboard, and would take all memory or processes."""
_NO_DEVICES = ("meta", "fpga", "hip", "ideep", "lazy", "mkldnn", "opencl", "opengl", "ve", "vulkan")
"""Names that torch knows, and on which it computes no network."""


def check_counts(**counts: int | None) -> None:
    """Raise UserError for the first count, such as `workers`, that is not from 1 to its bound in `MOST`."""
    for name, value in counts.items():
        if value is not None and not (type(value) is int and 1 <= value <= MOST[name]):
            shown = printable(repr(value)) if not isinstance(value, int) or abs(value) < 10**300 else "a huge integer"
            raise UserError(f"{name} must be a whole number from 1 to {MOST[name]}, not {shown}. Try: {name}=1")


def check_shard(shard: tuple[int, int] | None) -> None:
    """Raise UserError for a shard that is not (i, k) with 1 <= i <= k, k within its bound."""
    if shard is None:
        return
    pair = list(shard) if isinstance(shard, tuple | list) else []
    if not ([type(value) for value in pair] == [int, int] and 1 <= pair[0] <= pair[1] <= MOST["shards"]):
        raise UserError(f"a shard is (i, k), the i-th of k parts from 1, k at most {MOST['shards']}. Try: shard=(1, 4)")


def check_device_names(wanted: str) -> list[str]:
    """Return the names of the devices, without torch. Raises UserError for names that no machine has a device for.

    wanted: as `check_devices` takes it.
    """
    devices = [device.strip() for device in wanted.split(",")] if isinstance(wanted, str) else [""]
    if not any(devices):
        raise UserError("no device is named. Try: cpu")
    if len(devices) > MOST["workers"]:
        raise UserError(f"{len(devices)} devices are named; at most {MOST['workers']}. Try: cpu")
    for device in devices:
        if len(device) > 100 or device.partition(":")[0] in _NO_DEVICES:
            raise UserError(f"torch computes no network on the device '{printable(device)}'. Try: cpu")
    return [device for device in devices if device]


def check_devices(wanted: str) -> list[str]:
    """Return the names of the devices.

    wanted: as torch names them, with commas between. A plain "cuda" is this process's own GPU if torchrun or srun
        started several processes on a machine.
    Raises UserError for a device that torch does not have.
    """
    devices = check_device_names(wanted)
    if all(device == "cpu" for device in devices):  # without torch, which this process may not need
        return devices
    from robharness.evaluation.devices import checked_device

    return [device if device == "cpu" else checked_device(device, local_cuda) for device in devices]


def local_cuda(available: int) -> str:
    """Return the name of this process's GPU, by the index that torchrun or srun gave the process on its machine.

    available: the number of GPUs on the machine.
    """
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or ""
    is_index = local.isdecimal() and len(local) < 10
    return f"cuda:{int(local) % available}" if is_index and available > 1 else "cuda"


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
                f"${name} is '{printable(environment[name])}', no number. Try: 1/4, the first of four shards"
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
