"""One model of a report, and its renderings: terminal, JSON, Markdown."""

from robharness.report.model import Report, build

__all__ = ["Report", "build"]
