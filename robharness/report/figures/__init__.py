"""Figures of a report, drawn by Matplotlib: as SVG for a page, and as files for a paper.

No figure touches pyplot or changes Matplotlib's settings, so a user's style and a notebook's figures stay as they are.
"""

from robharness.report.figures.figure import Figure
from robharness.report.figures.found import figures
from robharness.report.figures.writing import save, svg

__all__ = ["Figure", "figures", "save", "svg"]
