"""A report as a Parquet file: the tidy rows, one per model, perturbation and statistic, with typed columns."""

from __future__ import annotations

import io

from robharness.report import tidy
from robharness.report.records import Report

name, suffix = "Parquet", ".parquet"


def render(report: Report) -> bytes:
    """Return the content of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    rows = tidy.rows(report)
    columns = {name: pa.array([row[name] for row in rows], types[kind]) for name, kind in tidy.COLUMNS.items()}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()
