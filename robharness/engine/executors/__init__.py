"""Executors start workers: in this process, in subprocesses, or wherever a plugin starts them.

The names in `__all__` are those that an executor of a plugin needs. They are imported at their first use.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # see robharness/__init__.py
if TYPE_CHECKING:
    from robharness.engine.events import Event, WorkerDied, WorkerFailed, WorkerWaits
    from robharness.engine.executors.base import Executor, Worker, WorkerConfig
    from robharness.engine.executors.inprocess import InProcessExecutor
    from robharness.engine.executors.serving import StartMessage, WorkerService
    from robharness.engine.executors.subprocess import SubprocessExecutor
    from robharness.engine.units import Unit
    from robharness.planning.cells import Plan
    from robharness.store.store import Store

_HOMES = {
    "Event": "engine.events",
    "Executor": "engine.executors.base",
    "InProcessExecutor": "engine.executors.inprocess",
    "Plan": "planning.cells",
    "StartMessage": "engine.executors.serving",
    "Store": "store.store",
    "SubprocessExecutor": "engine.executors.subprocess",
    "Unit": "engine.units",
    "Worker": "engine.executors.base",
    "WorkerConfig": "engine.executors.base",
    "WorkerDied": "engine.events",
    "WorkerFailed": "engine.events",
    "WorkerWaits": "engine.events",
    "WorkerService": "engine.executors.serving",
}
__all__ = [
    "Event",
    "Executor",
    "InProcessExecutor",
    "Plan",
    "StartMessage",
    "Store",
    "SubprocessExecutor",
    "Unit",
    "Worker",
    "WorkerConfig",
    "WorkerDied",
    "WorkerFailed",
    "WorkerService",
    "WorkerWaits",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"robharness.{_HOMES[name]}"), name)
