"""The protocol of a renderer: a report as the content of a file; and the layout of tables of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from robharness.report.records import Report
from robharness.report.values import Table

Rows = Literal["perturbation", "model"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of the tables of a text.

    by: what has a row each; models or perturbations.
    intervals: whether numbers have their intervals beside them, even if a table is split into more blocks for that. If
        not, a table has them where there is room.
    """

    by: Rows = "perturbation"
    intervals: bool = False

    def arranged(self, table: Table) -> Table:
        """Return the table with its rows as this layout has them."""
        return table.transposed() if self.by == "model" else table


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
