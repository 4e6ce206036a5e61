"""One model of a report, and its renderings: terminal, JSON, Markdown."""

from robharness.report.build import build
from robharness.report.records import Report

__all__ = ["Report", "build"]
