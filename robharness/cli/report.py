"""`robharness report SUITE`: show what is stored, computing nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.report import Report
    from robharness.session import Session

FORMATS = {".json": "json", ".md": "markdown"}
NO_PICTURES = "those of features need a metric that looks at them. See: robharness list metrics"


@click.command("report", short_help="Show what is stored of a suite.")
@options.suite_options
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write FILE: .json or .md.")
@click.option(
    "--figures",
    "figures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Draw what plugins have pictures of.",
)
@options.with_session
def command(session: Session, as_json: bool, output: Path | None, figures: Path | None) -> int:
    """Show what is stored of SUITE; compute nothing.

    Exit codes: 0 all complete, 2 something to mend first, 3 cells failed or are missing.
    """
    from robharness.errors import ExitCode, UserError
    from robharness.plugins import observers
    from robharness.report import build

    if output is not None and output.suffix not in FORMATS:
        raise UserError(f"-o {output}: write to a name that ends with {' or '.join(FORMATS)}")
    found = session.results()
    written, findings = observers.draw_figures(found, session.registry, figures) if figures else ([], [])
    report = build(found, findings=findings)
    if output is None:
        show(report, as_json=as_json)
    else:
        try:
            output.write_text(rendered(report, FORMATS[output.suffix]), encoding="utf-8")
        except OSError as error:
            raise UserError(f"-o {output}: cannot be written: {error.strerror}. See: ls -ld {output.parent}") from None
        written = [*written, output]
    for path in written:
        click.echo(f"wrote {path}", err=True)
    if figures and not written:
        click.echo(f"no plugin has pictures of these results; {NO_PICTURES}", err=True)
    return ExitCode.FINE if report.complete else ExitCode.INCOMPLETE


def rendered(report: Report, form: str) -> str:
    """The report as "json" or "markdown" text."""
    from robharness.report.renderers import json, markdown

    return {"json": json.render, "markdown": markdown.render}[form](report)


def show(report: Report, *, as_json: bool) -> None:
    """Print the report on standard output, as tables or as JSON."""
    from rich.console import Console

    from robharness.report.renderers import terminal

    if as_json:
        click.echo(rendered(report, "json"), nl=False)
    else:
        terminal.show(report, Console(file=sys.stdout))
