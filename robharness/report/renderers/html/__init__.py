"""A report as one HTML page: it holds its style, its script, its figures and its images, and loads nothing."""

from __future__ import annotations

from robharness.imports import large_import
from robharness.report.records import Report

name, suffix = "HTML", ".html"


def render(report: Report) -> str:
    """Return the page."""
    with large_import("matplotlib"):
        from robharness.report.renderers.html.page import page

    return page(report)
