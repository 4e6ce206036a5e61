"""Plugins that observe results: notifications of finished runs, and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robharness.errors import UserError
from robharness.plugins.registry import Registry


def observe(found: Any, registry: Registry) -> list[str]:
    """Show the results to every plugin that asked; what goes wrong in one is a sentence, returned."""
    warnings = []
    for source, observer in registry.observers:
        try:
            observer(results=found)
        except Exception as error:  # an observer may raise anything; the run is done and its results are good
            warnings.append(f"robharness_run_finished of {source}: {type(error).__name__}: {error}")
    return warnings


def draw_figures(found: Any, registry: Registry, folder: Path) -> tuple[list[Path], list[str]]:
    """Let every plugin that draws pictures draw the results into a folder, which is made; the files, and warnings.

    Raises UserError where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}. See: ls -ld {folder.parent}") from None
    written: list[Path] = []
    warnings = []
    for source, painter in registry.figure_hooks:
        try:
            for paths in painter(results=found, folder=folder):
                written.extend(paths)  # those before an error stay
        except Exception as error:  # as above
            warnings.append(f"robharness_figures of {source}: {type(error).__name__}: {error}")
    return written, warnings
