"""The page of a report."""

from __future__ import annotations

from robharness.report.difference_tables import test_of
from robharness.report.document import source_of
from robharness.report.figures import figures
from robharness.report.records import Report
from robharness.report.renderers.html import sections
from robharness.report.renderers.html.details import details
from robharness.report.renderers.html.graphics import FEW_PIXELS, png_size
from robharness.report.renderers.html.layout import fill
from robharness.report.renderers.html.provenance import provenance
from robharness.report.renderers.html.shown import entry
from robharness.report.tables import tables

TABLES_OF_FIGURES = {"reliability": "calibration", "classes": "classes", "runs": "runs"}
"""First word of a figure's name -> the section that has its numbers; other figures show numbers of the results."""


def page(report: Report) -> str:
    """Return the report as one HTML page that loads nothing."""
    cells = sections.cell_rows(report)
    return fill(
        "page.html",
        title=report.title,
        source=source_of(report),
        answer=report.answer,
        findings=report.findings,
        figures=figures(report),
        report=report,
        missing=sections.missing(report),
        tables=tables(report),
        entry=entry,
        rows={row.cell.key: row.at for row in cells if row.cell.key},
        columns={label: at for at, label in enumerate(report.columns)},
        kinds=sections.kinds(report),
        kind_names=sections.KIND_NAMES,
        cells=cells,
        published_heads=sections.published_heads(report),
        reference=report.differences[0].reference if report.differences else "",
        test=test_of(report),
        classes=sections.class_rows(report),
        calibration=sections.calibration_rows(report),
        left_out_of_classes=sections.left_out_of_classes(report),
        left_out_of_calibration=sections.left_out_of_calibration(report),
        runs=sections.run_rows(report),
        table_of=lambda name: TABLES_OF_FIGURES.get(name.partition("-")[0], "results"),
        choices=sections.gallery_choices(report),
        gallery=sections.gallery(report),
        few_pixels=lambda content: 0 < png_size(content)[0] < FEW_PIXELS,
        png_size=png_size,
        provenance=provenance(report),
        details=details(report),
    )
