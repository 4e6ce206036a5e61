"""Executors by name: the two of the core, and those of plugins."""

from __future__ import annotations

from robharness.engine.executors.base import ATTRIBUTES, AnyExecutor
from robharness.engine.executors.inprocess import InProcessExecutor
from robharness.engine.executors.subprocess import SubprocessExecutor
from robharness.errors import PluginNotFound, UserError, did_you_mean
from robharness.plugins.registry import Registry

CORE = {executor.name: executor for executor in (InProcessExecutor, SubprocessExecutor)}


def find_executor(name: str, registry: Registry) -> AnyExecutor:
    """Make the executor with this name.

    name: "in-process", "subprocess", or a full name such as "mine/cluster".
    Raises PluginNotFound if there is none, UserError if a plugin cannot make its executor.
    """
    if name in CORE:
        return CORE[name]()
    if name not in registry.executors:
        names = [*CORE, *registry.executors]
        near = did_you_mean(name, names) or f"; there are {', '.join(names)}."
        raise PluginNotFound(f"no executor '{name}'{near} Try: robharness list plugins")
    origin, build = registry.executors[name]
    try:
        executor: AnyExecutor = build()
    except UserError:
        raise
    except Exception as error:
        raise UserError(_unusable(name, origin, f"{type(error).__name__}: {error}")) from error
    missing = [attribute for attribute in ATTRIBUTES if not hasattr(executor, attribute)]
    if missing:
        raise UserError(_unusable(name, origin, f"{type(executor).__name__} lacks {', '.join(missing)}"))
    return executor


def _unusable(name: str, origin: object, why: str) -> str:
    return f"the executor '{name}' of {origin} cannot be used: {why}. Try: robharness list plugins"
