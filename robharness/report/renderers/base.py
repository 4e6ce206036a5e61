"""The protocol of a renderer: a report as the content of a file."""

from __future__ import annotations

from typing import Protocol

from robharness.report.records import Report


class Renderer(Protocol):
    """A format of reports. A module or an object of a plugin is one if it has these names.

    name: the format, e.g. "Markdown".
    suffix: that of its files, lower-case with the dot, e.g. ".md".
    """

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    def render(self, report: Report) -> str | bytes:
        """Return the content of the file; text is written in UTF-8."""
        ...
