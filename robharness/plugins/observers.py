"""Plugins that observe results: notifications of finished runs, and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robharness.errors import UserError
from robharness.plugins.registry import Registry


def observe(found: Any, registry: Registry) -> list[str]:
    """Call `robharness_run_finished` of every plugin; return a warning for each that raises."""
    warnings = []
    for source, observer in registry.observers:
        try:
            observer(results=found)
        except Exception as error:  # an observer may raise anything; the run is done and its results are good
            warnings.append(f"robharness_run_finished of {source}: {type(error).__name__}: {error}")
    return warnings


def draw_figures(found: Any, registry: Registry, folder: Path) -> tuple[list[Path], list[str]]:
    """Call `robharness_figures` of every plugin with a folder, which is created; return the files and warnings.

    Raises UserError if the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}. See: ls -ld {folder.parent}") from None
    written: list[Path] = []
    warnings = []
    for source, hook in registry.figure_hooks:
        try:
            for paths in hook(results=found, folder=folder):
                written.extend(paths)  # files before an error are kept
        except Exception as error:  # as above
            warnings.append(f"robharness_figures of {source}: {type(error).__name__}: {error}")
    return written, warnings
