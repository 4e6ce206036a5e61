"""Stored results: immutable, checksummed parts of cells."""

from robharness.store.failures import Failure
from robharness.store.spans import Span, span_positions, uncovered
from robharness.store.store import RACES, SCHEMA, STALE_SECONDS, Part, Rows, Store, T

__all__ = [
    "RACES",
    "SCHEMA",
    "STALE_SECONDS",
    "Failure",
    "Part",
    "Rows",
    "Span",
    "Store",
    "T",
    "span_positions",
    "uncovered",
]
