"""A report as a Parquet file: the tidy rows, one per model, perturbation and statistic, with typed columns."""

from __future__ import annotations

import io

from robharness.report import tidy
from robharness.report.records import Report

name, suffix = "Parquet", ".parquet"


def render(report: Report, selection: tidy.Selection = tidy.ALL) -> bytes:
    """Return the content of the file.

    selection: of statistics and columns. Raises UserError if the report does not have them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    rows = selection.of(report)
    columns = {name: pa.array([row[name] for row in rows], types[tidy.COLUMNS[name]]) for name in selection.names}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()
