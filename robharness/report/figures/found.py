"""The figures that a report has numbers for."""

from __future__ import annotations

from robharness.report.figures.classes import class_figures
from robharness.report.figures.corruptions import scatter
from robharness.report.figures.curves import budget_figures, distance_figures
from robharness.report.figures.figure import Figure
from robharness.report.figures.heatmaps import heat_maps, transfer_maps
from robharness.report.figures.optimality import optimality_figures
from robharness.report.figures.reliability import reliability_figures
from robharness.report.figures.runs import run_figure
from robharness.report.records import Report


def figures(report: Report) -> list[Figure]:
    """Return the figures that the report has numbers for, attacks first, as in its tables."""
    return [
        *budget_figures(report),
        *transfer_maps(report),
        *distance_figures(report),
        *optimality_figures(report),
        *scatter(report),
        *heat_maps(report),
        *run_figure(report),
        *class_figures(report),
        *reliability_figures(report),
    ]
