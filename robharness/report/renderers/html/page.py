"""The page: templates filled with a report, and a policy by which nothing but its own script and style is used."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robharness.report.figures import figures, svg
from robharness.report.records import Report, source_of
from robharness.report.renderers.html import sections
from robharness.report.renderers.html.details import details
from robharness.report.renderers.html.graphics import FEW_PIXELS, Styles, data_uri, png_size
from robharness.report.renderers.html.provenance import provenance
from robharness.report.renderers.html.shown import Shown, as_command, as_sentence, entry, shown
from robharness.report.tables import tables

_HERE = Path(__file__).parent
SEVERITIES = {"error": "Errors", "warning": "Warnings", "note": "Notes"}
TABLES_OF_FIGURES = {"reliability": "calibration", "classes": "classes", "runs": "runs"}
"""First word of a figure's name -> the section that has its numbers; other figures show numbers of the results."""


def page(report: Report) -> str:
    """Return the report as one HTML page that loads nothing."""
    styles = Styles()
    drawn = [(figure, styles.without_attributes(svg(figure))) for figure in figures(report)]
    style = _text("page.css") + styles.sheet
    theme, script = _text("theme.js"), _text("page.js")
    made = tables(report)
    cells = sections.cell_rows(report)
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, finalize=shown, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=False,
    )  # fmt: skip
    environment.filters |= {
        "sentence": as_sentence,
        "command": as_command,
        "data_uri": lambda *words: Shown(data_uri(*words)),
    }
    return environment.get_template("page.html").render(
        report=report,
        version=version("robharness"),
        policy=_policy(style, theme, script),
        style=Markup(style),
        theme=Markup(theme),
        script=Markup(script),
        sources=[as_sentence(line) for line in source_of(report).split("\n")],
        findings=_findings(report),
        missing=sections.missing(report),
        tables=made,
        entry=entry,
        rows={row.cell.key: row.at for row in cells if row.cell.key},
        columns={label: at for at, label in enumerate(report.columns)},
        kinds=sections.kinds(report),
        kind_names=sections.KIND_NAMES,
        cells=cells,
        has_published=sections.has_published(report),
        reference=report.differences[0].reference if report.differences else "",
        classes=sections.class_rows(report),
        calibration=sections.calibration_rows(report),
        left_out_of_classes=sections.left_out_of_classes(report),
        left_out_of_calibration=sections.left_out_of_calibration(report),
        runs=sections.run_rows(report),
        figures=drawn,
        table_of=lambda name: TABLES_OF_FIGURES.get(name.partition("-")[0], "results"),
        choices=sections.gallery_choices(report),
        gallery=sections.gallery(report),
        few_pixels=lambda content: 0 < png_size(content)[0] < FEW_PIXELS,
        png_size=png_size,
        provenance=provenance(report),
        details=details(report),
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(style: str, *scripts: str) -> str:
    """Return a policy that refuses every request, and every style and script but these."""
    allowed = " ".join(map(_digest, scripts))
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _findings(report: Report) -> list[tuple[str, str, list[Any]]]:
    """Return severity, heading and findings, the worst first; a finding that is there twice stands once."""
    grouped = []
    for severity, heading in SEVERITIES.items():
        some = list(dict.fromkeys(found for found in report.findings if found.severity == severity))
        if some:
            grouped.append((severity, heading, some))
    return grouped
