"""`robharness report SUITE`: report the stored results of a suite; compute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, results_console

if TYPE_CHECKING:
    from robharness.report import Report
    from robharness.session import Session


@click.command("report")
@options.suite_options
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write FILE instead of printing: .json, .md, .txt, or a suffix that a plugin renders.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Draw the plugins' figures into FOLDER, which is created.")  # fmt: skip
@options.with_session
def command(session: Session, as_json: bool, output: Path | None, figures: Path | None) -> int:
    """Report the stored results of SUITE; compute nothing.

    Exit codes: 0 all cells are complete, 2 usage error, or data or weights are missing, 3 cells failed or are missing.
    """
    from robharness.errors import ExitCode
    from robharness.plugins import observers
    from robharness.report import build
    from robharness.report.renderers import render
    from robharness.report.renderers.files import find_renderer, write

    renderer = None if output is None else find_renderer(output, session.registry)
    start = session.plan.suite.working_directory  # which plugins may change
    found = session.results()
    drawn, findings = observers.draw_figures(found, session.registry, start / figures) if figures else ([], [])
    written = [session.plan.suite.as_given(path) for path in drawn]
    report = build(found, findings=findings)
    if output is None or renderer is None:
        show(report, as_json=as_json)
    else:
        write(output, render(report, renderer), start)
        written = [*written, output]
    for path in written:
        echo(f"wrote {path}", err=True)
    if figures and not written:
        echo("no plugin has figures of these results; figures of features need a metric that needs features. "
                   "Try: robharness list metrics", err=True)  # fmt: skip
    return ExitCode.FINE if report.complete else ExitCode.INCOMPLETE


def show(report: Report, *, as_json: bool) -> None:
    """Print the report on standard output, as tables or as JSON."""
    from robharness.report.renderers import json, terminal

    if as_json:
        echo_json(json.render(report))
    else:
        terminal.show(report, results_console())
