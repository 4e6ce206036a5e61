"""`robharness report SUITE`: show what is stored, computing nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.report import Report

FORMATS = {".json": "json", ".md": "markdown"}
NO_PICTURES = "those of features need a metric that looks at them. See: robharness list metrics"


@click.command("report", short_help="Show what is stored of a suite.")
@options.suite_options
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write FILE: .json or .md.")
@click.option(
    "--pictures", type=click.Path(path_type=Path), metavar="FOLDER", help="Draw what plugins have pictures of."
)
def command(
    suite: Path,
    plugins: tuple[str, ...],
    store: Path,
    data_root: Path | None,
    limit: int | None,
    as_json: bool,
    output: Path | None,
    pictures: Path | None,
    debug: bool,
) -> int:
    """Show what is stored of SUITE; compute nothing.

    Exit codes: 0 all complete, 2 something to mend first, 3 cells failed or are missing.
    """
    from robharness import api
    from robharness.errors import ExitCode, UserError
    from robharness.plugins import discover
    from robharness.report import build

    if output is not None and output.suffix not in FORMATS:
        raise UserError(f"-o {output}: write to a name that ends with {' or '.join(FORMATS)}")
    registry = discover(plugins)
    found = api.load(suite, store=store, data=data_root, limit=limit, registry=registry)
    written, warnings = api.paint(found, registry, pictures) if pictures else ([], [])
    report = build(found, warnings=warnings)
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
    if pictures and not written:
        click.echo(f"no plugin has pictures of these results; {NO_PICTURES}", err=True)
    return ExitCode.FINE if report.complete else ExitCode.INCOMPLETE


def rendered(report: Report, form: str) -> str:
    """The report as "json" or "markdown" text."""
    from robharness.report import json, markdown

    return {"json": json.render, "markdown": markdown.render}[form](report)


def show(report: Report, *, as_json: bool) -> None:
    """Print the report on standard output, as tables or as JSON."""
    from rich.console import Console

    from robharness.report import terminal

    if as_json:
        click.echo(rendered(report, "json"), nl=False)
    else:
        terminal.show(report, Console(file=sys.stdout))
