"""Stored results: immutable, checksummed parts of cells."""

from robharness.store.failures import Failure
from robharness.store.files import FileSystem
from robharness.store.parts import Part, Rows
from robharness.store.spans import Span, span_positions, uncovered
from robharness.store.store import RACES, SCHEMA, STALE_SECONDS, Store

__all__ = [
    "RACES",
    "SCHEMA",
    "STALE_SECONDS",
    "Failure",
    "FileSystem",
    "Part",
    "Rows",
    "Span",
    "Store",
    "span_positions",
    "uncovered",
]
