"""Plugins that observe runs: notifications of runs and cells, and figures of results."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from robharness.errors import UserError, describe, for_shell, nearest_existing
from robharness.findings import Finding, finding
from robharness.plugins.calls import plugin_code, shown, time_limit
from robharness.plugins.registry import OBSERVERS, PluginOrigin, Registry

RUN_STARTED, CELL_FINISHED, RUN_FINISHED = OBSERVERS
SECONDS = {RUN_STARTED: 60.0, CELL_FINISHED: 60.0, RUN_FINISHED: 600.0}
"""The time after which a call of a hook is ended, so that a server that does not answer holds up no run."""


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """A run that begins, for `robharness_run_started`.

    suite, title: of the suite.
    models: the labels of all models of the suite.
    cells: the names of the cells that the run computes, those that are stored already included.
    missing: the number of these cells that lack outcomes.
    n: the number of examples per cell.
    command: the command line that runs the suite again.
    store: the folder of results.
    parameters: name -> a text or a number: the data, the seed, the device, options that were given, and so on.
    """

    suite: str
    title: str
    models: tuple[str, ...]
    cells: tuple[str, ...]
    missing: int
    n: int
    command: str
    store: str
    parameters: Mapping[str, str | int]


def notify(
    registry: Registry, hook: str, make: Callable[[], Mapping[str, Any]], without: Collection[PluginOrigin] = ()
) -> dict[PluginOrigin, Finding]:
    """Call a hook of every plugin that has it; return a finding for each plugin whose hook raises.

    make: returns the arguments of one call. No plugin gets an object that another one can change.
    without: plugins whose hook is not called.
    """
    failed: dict[PluginOrigin, Finding] = {}
    for origin, observer in registry.observers[hook]:
        if origin in without:
            continue
        arguments = make()
        try:
            with plugin_code(), time_limit(SECONDS[hook]):
                observer(**arguments)
        except Exception as error:  # an observer may raise anything, and no result depends on it
            failed[origin] = finding("observer-failed", describe(error), subject=f"{hook} of {origin}")
    return failed


def observe(found: Any, registry: Registry) -> list[Finding]:
    """Call `robharness_run_finished` of every plugin with copies; return a finding for each that raises."""
    return list(notify(registry, RUN_FINISHED, lambda: {"results": found.copied()}).values())


def announce(started: RunStarted, registry: Registry) -> list[Finding]:
    """Call `robharness_run_started` of every plugin with a copy; return a finding for each that raises."""
    return list(notify(registry, RUN_STARTED, lambda: {"run": copy.deepcopy(started)}).values())


def draw_figures(found: Any, registry: Registry, folder: Path) -> tuple[list[Path], list[Finding]]:
    """Call `robharness_figures` of every plugin with a folder, which is created; return the files and findings.

    Raises UserError if the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        shown, above = (found.suite.as_given(each) for each in (folder, nearest_existing(folder)))
        raise UserError(f"{shown}: cannot be created: {error.strerror}. Try: ls -ld {for_shell(above)}") from None
    written: list[Path] = []
    findings = []
    for origin, hook in registry.figure_hooks:
        try:
            with plugin_code():
                for path in chain.from_iterable(hook(results=found.copied(), folder=folder)):
                    written.append(_drawn(path))  # files before an error are kept
        except Exception as error:  # as above
            message = describe(error)
            findings.append(finding("figures-failed", message, subject=f"robharness_figures of {origin}"))
    return written, findings


def _drawn(path: Any) -> Path:
    """Return the path of a figure. Raises TypeError or ValueError if a plugin yields something else than a file."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"it yielded {shown(path)}, not a path")
    if not Path(path).is_file():
        raise ValueError(f"it yielded {path}, where no file is")
    return Path(path)
