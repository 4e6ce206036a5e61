"""Figures of plugins for a page: images are read within bounds, and others are left out with the reason."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from robharness.reading import read_regular
from robharness.report.details import PluginFigure

MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
"""Suffix of an image that a page can show -> its media type."""
MOST_BYTES = 2 * 2**20
"""The largest number of bytes of an image in a page."""


def read_figures(paths: Iterable[Path]) -> tuple[PluginFigure, ...]:
    """Return the figures in files, one for all files of one name.

    paths: of the files that plugins drew. Of a PNG and an SVG file with one name, the smaller one is taken.
    """
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        by_name.setdefault(path.stem, []).append(path)
    return tuple(_figure(name, files) for name, files in by_name.items())


def _figure(name: str, files: list[Path]) -> PluginFigure:
    """Return the figure in the smallest image among files of one name."""
    title = name.replace("-", " ").replace("_", " ").strip().capitalize() or name
    images = [path for path in files if path.suffix.lower() in MEDIA_TYPES]
    suffixes = ", ".join(dict.fromkeys(path.suffix or "no suffix" for path in files))
    reason = f"a page shows PNG and SVG files, and it is {suffixes}; the option --figures writes it to a folder"
    found: list[tuple[Path, bytes]] = []
    for path in images:
        try:
            found.append((path, read_regular(path, MOST_BYTES)))
        except OSError as error:
            too_large = error.errno == errno.EFBIG
            advice = "; the option --figures writes it to a folder" if too_large else ""
            reason = f"its file cannot be read: {error.strerror}{advice}"
    if not found:
        return PluginFigure(name=files[0].name, title=title, media_type="", content=b"", left_out=reason)
    path, content = min(found, key=lambda each: len(each[1]))
    return PluginFigure(name=path.name, title=title, media_type=MEDIA_TYPES[path.suffix.lower()], content=content)
