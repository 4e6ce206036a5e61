"""Executors by name: the two of the core, and those of plugins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from robharness.engine.events import Event
from robharness.engine.executors.base import ATTRIBUTES, AnyExecutor, WorkerConfig
from robharness.engine.executors.inprocess import InProcessExecutor
from robharness.engine.executors.subprocess import SubprocessExecutor
from robharness.engine.units import Unit
from robharness.errors import PluginNotFound, UserError, describe, did_you_mean
from robharness.planning.cells import Plan
from robharness.plugins.calls import plugin_code
from robharness.plugins.registry import Registry
from robharness.store.store import Store

CORE = {executor.name: executor for executor in (InProcessExecutor, SubprocessExecutor)}


def find_executor(name: str, registry: Registry) -> AnyExecutor:
    """Make the executor with this name.

    name: "in-process", "subprocess", a full name such as "mine/cluster", or its last part if only one executor has it.
    Raises PluginNotFound if there is none, UserError if a plugin cannot make its executor.
    """
    if name in CORE:
        return CORE[name]()
    same = [full for full in registry.executors if full.rpartition("/")[2] == name]
    if len(same) > 1:
        raise PluginNotFound(f"several executors are called '{name}': {', '.join(same)}. Try: --executor {same[0]}")
    name = same[0] if same else name
    if name not in registry.executors:
        names = [*CORE, *registry.executors]
        near = did_you_mean(name, names) or f"; there are {', '.join(names)}."
        raise PluginNotFound(f"no executor '{name}'{near} Try: robharness list plugins")
    origin, build = registry.executors[name]
    shown = f"the executor '{name}' of {origin}"
    with _named(f"{shown} cannot be used"):
        return PluginExecutor(build(), shown)


class PluginExecutor:
    """An executor of a plugin. Whatever its code, or that of its workers, raises is a UserError that names the plugin.

    shown: the executor and its plugin, for messages.
    Raises UserError if the object is no executor.
    """

    def __init__(self, executor: Any, shown: str) -> None:
        missing = [attribute for attribute in ATTRIBUTES if not hasattr(executor, attribute)]
        if missing:
            lacks = f"{type(executor).__name__} lacks {', '.join(missing)}"
            raise UserError(f"{shown} cannot be used: {lacks}. Try: robharness list plugins")
        self.name, self.can_respawn = str(executor.name), bool(executor.can_respawn)
        self.needs_request = bool(executor.needs_request)
        self.is_local = bool(getattr(executor, "is_local", True))
        self._executor, self._shown = executor, shown

    def spawn(self, plan: Plan, store: Store, config: WorkerConfig) -> PluginWorker:
        with _named(f"{self._shown} failed"):
            return PluginWorker(self._executor.spawn(plan, store, config), self._shown)

    def wait(self, workers: Sequence[PluginWorker]) -> Iterator[tuple[PluginWorker, Event]]:
        with _named(f"{self._shown} failed"):
            events = iter(self._executor.wait([each.worker for each in workers]))
        while True:
            with _named(f"{self._shown} failed"):
                found = next(events, None)
                if found is None:
                    return
                worker, event = found
                if not isinstance(event, Event):
                    raise TypeError(f"its `wait` yielded {type(event).__name__}, not an event of a worker")
                ours = next((each for each in workers if each.worker is worker), None)
                if ours is None:
                    raise ValueError("its `wait` yielded an event of a worker that it was not asked about")
            yield ours, event


class PluginWorker:
    """A worker of a plugin's executor."""

    def __init__(self, worker: Any, shown: str) -> None:
        self.worker, self._shown = worker, shown

    def load(self, label: str) -> None:
        with _named(f"{self._shown} failed"):
            self.worker.load(label)

    def compute(self, unit: Unit, prefetch: Unit | None) -> None:
        with _named(f"{self._shown} failed"):
            self.worker.compute(unit, prefetch)

    def stop(self) -> None:
        with _named(f"{self._shown} failed"):
            self.worker.stop()

    def close(self) -> None:
        with _named(f"{self._shown} failed"):
            self.worker.close()


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Raise a UserError in place of any other error of a plugin in the block; it begins with the given words."""
    try:
        with plugin_code():
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {describe(error)}. Try: robharness list plugins") from error
