"""A report as CSV: the tidy rows, one per model, perturbation and statistic.

Numbers have all their digits. Texts are one line of visible characters. A text that a spreadsheet would take for a
formula gets an apostrophe in front, and so does one that has an apostrophe there already: to have the text itself,
remove the first apostrophe, or read the Parquet file.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from robharness.report import tidy
from robharness.report.records import Report
from robharness.text import COMMAND_LENGTH, printable

name, suffix = "CSV", ".csv"
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")
"""First visible characters of texts that get an apostrophe in front, the apostrophe itself included."""


def render(report: Report, selection: tidy.Selection = tidy.ALL) -> str:
    """Return the rows as CSV text with a header, empty where there is no value.

    selection: of statistics and columns. Raises UserError if the report does not have them.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(selection.names)
    writer.writerows([_entry(value) for value in row.values()] for row in selection.of(report))
    return file.getvalue()


def _entry(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else text(value) if isinstance(value, str) else value


def text(value: str) -> str:
    """Return a text as an entry that no spreadsheet computes; `FORMULA` has the first characters that are escaped."""
    shown = printable(value, COMMAND_LENGTH)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) else shown
