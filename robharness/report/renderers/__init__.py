"""The renderers of a report: the built-in ones, and those of plugins."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from robharness.errors import UserError, describe
from robharness.plugins.calls import plugin_code
from robharness.plugins.registry import PluginOrigin, Registry
from robharness.report.records import Report
from robharness.report.renderers import csv, html, json, latex, markdown, parquet, terminal
from robharness.report.renderers.base import Layout, Renderer
from robharness.report.tidy import ALL, Selection

__all__ = [
    "BUILT_IN",
    "ROWS",
    "Layout",
    "Registered",
    "Renderer",
    "Selection",
    "html",
    "json",
    "latex",
    "markdown",
    "render",
    "renderers",
    "terminal",
]

BUILT_IN: tuple[Renderer, ...] = (html, json, csv, parquet, latex, markdown, terminal)
TEXTS = (markdown, terminal)
"""The built-in renderers whose tables have a layout."""
ROWS = (csv, parquet)
"""The built-in renderers of rows, of which some may be selected."""


class Registered(NamedTuple):
    """A renderer and the plugin that it comes from; None for a built-in one."""

    renderer: Renderer
    origin: PluginOrigin | None = None


def renderers(registry: Registry) -> dict[str, list[Registered]]:
    """Return the renderers by suffix, the built-in ones first; several of one suffix are of different plugins."""
    found: dict[str, list[Registered]] = {renderer.suffix: [Registered(renderer)] for renderer in BUILT_IN}
    for origin, renderer in registry.renderers:
        found.setdefault(renderer.suffix, []).append(Registered(renderer, origin))
    return found


def render(
    report: Report,
    registered: Registered,
    layout: Layout = Layout(),  # noqa: B008
    selection: Selection = ALL,
) -> bytes:
    """Return the report as the content of a file.

    layout: of the tables of text.
    selection: of the rows and columns of `ROWS`.
    Raises UserError if the selection does not fit, or if a plugin's renderer raises or returns neither str nor bytes.
    """
    renderer, origin = registered
    for text in TEXTS:
        if renderer is text:
            return _encoded(text.render(report, layout))
    for table in ROWS:
        if renderer is table:
            return _encoded(table.render(report, selection))
    if origin is None:
        return _encoded(renderer.render(report))
    try:
        with plugin_code():
            return _encoded(renderer.render(copy.deepcopy(report)))
    except Exception as error:  # a plugin's renderer may raise anything
        raise UserError(f"the renderer of {renderer.suffix} files of {origin} failed: {describe(error)}") from error


def _encoded(content: Any) -> bytes:
    """Return the content of a file as bytes. Raises TypeError if it is neither str nor bytes."""
    if not isinstance(content, str | bytes):
        raise TypeError(f"it returned {type(content).__name__}, not str or bytes")
    return bytes(content.encode(errors="replace") if isinstance(content, str) else content)
