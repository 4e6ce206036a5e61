"""Reports: the numbers of results with their intervals, findings, tables and renderers."""

from robharness.report.build import build
from robharness.report.records import Report

__all__ = ["Report", "build"]
