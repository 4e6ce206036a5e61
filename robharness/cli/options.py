"""Options that several verbs share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from robharness.errors import UserError
from robharness.weights import TRUST

suite = click.argument("suite", type=click.Path(path_type=Path))
plugin = click.option(
    "-p",
    "plugins",
    multiple=True,
    metavar="PLUGIN",
    help="Load a plugin from ./FILE.py, or leave one out with no:NAME.",
)
store = click.option(
    "--store", type=click.Path(path_type=Path), default=".robharness", show_default=True, help="The folder of results."
)
data_root = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Where data and weights are; else $ROBHARNESS_DATA, else ./data.",
)
limit = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N examples of the fixed order."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


class Shard(click.ParamType):  # type: ignore[type-arg]
    """`i/k`, the i-th of k parts, from 1; or `auto`."""

    name = "shard"

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[int, int]:
        if value == "auto":
            return shard_of(os.environ)
        index, _, count = value.partition("/")
        if not (re.fullmatch(r"[0-9]+/[0-9]+", value) and 1 <= int(index) <= int(count)):
            self.fail(f"'{value}' is not a part: 1/4 is the first of four, 4/4 the last, or auto", parameter, context)
        return int(index), int(count)


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


def _trusted(context: Any, parameter: Any, digests: tuple[str, ...]) -> None:
    """To this process and those that it starts."""
    wrong = next((digest for digest in digests if not re.fullmatch("[0-9a-f]{64}", digest)), None)
    if wrong is not None:
        raise click.BadParameter(f"'{wrong}' is no sha256; see: sha256sum FILE", context, parameter)
    if digests:
        os.environ["ROBHARNESS_TRUST"] = ",".join(digests)


trust = click.option(
    TRUST, metavar="SHA256", multiple=True, callback=_trusted, expose_value=False,
    help="Load this file of weights although it is a pickle that can run any code.",
)  # fmt: skip


def suite_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """SUITE and the options that every verb on a suite has."""
    for option in (debug, as_json, limit, data_root, store, plugin, suite):
        function = option(function)
    return function
