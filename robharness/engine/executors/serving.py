"""The part of a worker that runs in another process: it makes the plan again, and executes commands.

A `StartMessage` is all that the other process needs, in plain data. The plan itself holds functions of plugins, which
do not pass between processes. What was slow to find for it is handed over: digests of files, and sizes of images.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from robharness import suite
from robharness.engine.events import Event, WorkerFailed
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.units import Unit
from robharness.errors import UserError, for_shell
from robharness.imports import declare_own_process, large_import
from robharness.locations import Location
from robharness.planning import planner
from robharness.planning.cells import Plan
from robharness.planning.files import FileState, add_known_digests, known_digests
from robharness.planning.pixels import ImageSizes
from robharness.planning.request import PlanRequest
from robharness.plugins.discovery import discover
from robharness.store.artefacts import planned_with_artefacts
from robharness.store.store import Store

if TYPE_CHECKING:
    from robharness.engine.worker import UnitRunner


VARIABLES = ("ROBHARNESS_", "AWS_", "GOOGLE_", "MKL_", "OMP_", "KMP_", "OPENBLAS_", "CUBLAS_", "NVIDIA_TF32",
             "TORCH_", "PYTORCH_")  # fmt: skip
"""Beginnings of the names of environment variables that a worker on another machine gets as well."""


@dataclass(frozen=True, kw_only=True)
class StartMessage:
    """All that a worker needs to make the plan of a run.

    request: the arguments of the plan.
    part: the part of its examples, see `Plan.part`.
    keys: the label of the model and the key of each cell, which the worker's plan must have as well.
    store: the place of the store.
    config: the worker's settings.
    digests: by state, the sha256 of files that the plan names.
    sizes: the sizes of the data's first images, if they were read.
    path: the folders of Python modules, as `sys.path`.
    environment: the variables whose names begin with one of VARIABLES, credentials of object stores among them.
    """

    request: PlanRequest
    part: tuple[int, int]
    keys: frozenset[tuple[str, str]]
    store: Location
    config: WorkerConfig
    digests: Mapping[FileState, str]
    sizes: ImageSizes | None
    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    environment: Mapping[str, str] = field(default_factory=lambda: _variables(), repr=False)

    @classmethod
    def of(cls, plan: Plan, store: Store, config: WorkerConfig) -> StartMessage:
        """Return the message for a worker. Raises UserError for a plan with live networks."""
        if plan.request is None:
            raise UserError("a live network exists in this process alone. Try: no `workers` and no executor")
        return cls(
            request=plan.request,
            part=plan.part,
            keys=frozenset((cell.model.label, cell.key) for cell in plan.cells),
            store=store.root,
            config=config,
            digests=known_digests(),
            sizes=plan.data.sizes_so_far if plan.data else None,
        )


class WorkerService:
    """Executes the commands of a worker. Each method but `stop` yields the events of one command.

    An error becomes the event WorkerFailed, after which the process ends. The plan is made, and torch is imported, by
    the first command. Commands are executed in one thread, since torch's settings hold for a thread; `stop` may be
    called in another one.

    stopping: is set by `stop`, or by its owner.
    """

    def __init__(self, start: StartMessage, stopping: threading.Event | None = None) -> None:
        self._start, self._stopping = start, stopping or threading.Event()
        self._runner: UnitRunner | None = None

    def load(self, label: str) -> Iterator[Event]:
        """Load the model with this label. The last event is ModelLoaded, ModelLoadFailed or WorkerFailed."""
        return self._events("load", label)

    def compute(self, unit: Unit, prefetch: Unit | None) -> Iterator[Event]:
        """Compute a unit of the loaded model. The last event is UnitFinished or WorkerFailed."""
        return self._events("compute", unit, prefetch)

    def stop(self) -> None:
        """End the current unit after its current cell."""
        self._stopping.set()

    def _events(self, name: str, *arguments: object) -> Iterator[Event]:
        try:
            if self._runner is None:
                self._runner = self._made_runner()
            yield from getattr(self._runner, name)(*arguments)
        except Exception as error:
            yield failure(error)

    def _made_runner(self) -> UnitRunner:
        start, request = self._start, self._start.request
        declare_own_process()
        sys.path[:] = start.path
        os.environ.update(start.environment)  # before libraries are imported, which read it then
        try:
            os.chdir(request.working_directory)
        except OSError as error:
            folder = for_shell(request.working_directory)
            raise UserError(
                f"the working directory {folder} is not on the machine of a worker: {error.strerror}. Try: a folder "
                f"that all machines share"
            ) from None
        add_known_digests(start.digests)
        registry = discover(request.options)
        loaded = suite.load(request.suite, registry, settings=request.settings)

        def make_plan() -> Plan:
            return planner.plan(loaded, request.data_root, request.limit, start.store, start.sizes).shard(*start.part)

        plan = make_plan()
        if not start.keys <= _keys(plan):  # perhaps this machine has no copies of weights in an object store
            plan = planned_with_artefacts(make_plan, start.store)
        if not start.keys <= _keys(plan):
            raise UserError(
                "the suite, a plugin or the weights changed while the run began, so that workers have other cells. "
                f"Try: {plan.command('run')}"
            )
        with large_import("torch"):
            from robharness.engine.worker import UnitRunner

        return UnitRunner(plan, Store(start.store), start.config, self._stopping)


def _keys(plan: Plan) -> set[tuple[str, str]]:
    """Return the label of the model and the key of each cell."""
    return {(cell.model.label, cell.key) for cell in plan.cells}


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}


def failure(error: Exception) -> WorkerFailed:
    """Return the event of an error that ends a worker."""
    is_bug = not isinstance(error, UserError)
    text = "".join(traceback.format_exception(error)) if is_bug else str(error)
    return WorkerFailed(error=text, is_bug=is_bug)
