"""Plugins that observe results: notifications of finished runs, and figures."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

from robharness.errors import UserError, describe, for_shell, nearest_existing
from robharness.findings import Finding, finding
from robharness.plugins.calls import plugin_code, shown
from robharness.plugins.registry import Registry


def observe(found: Any, registry: Registry) -> list[Finding]:
    """Call `robharness_run_finished` of every plugin with copies; return a finding for each that raises."""
    findings = []
    for origin, observer in registry.observers:
        try:
            with plugin_code():
                observer(results=found.copied())
        except Exception as error:  # an observer may raise anything; the run is done and its results are good
            message = describe(error)
            findings.append(finding("observer-failed", message, subject=f"robharness_run_finished of {origin}"))
    return findings


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
