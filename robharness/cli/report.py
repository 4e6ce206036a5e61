"""`robharness report SUITE`: report the stored results of a suite; compute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, results_console
from robharness.cli.stored import find_stored, list_suites
from robharness.errors import UserError

if TYPE_CHECKING:
    from robharness.report import Report


@click.command("report")
@options.report_options
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write FILE instead of printing: .json, .md, .txt, or a suffix that a plugin renders.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Draw the plugins' figures into FOLDER, which is created.")  # fmt: skip
def command(
    suite: str | None,
    plugins: tuple[str, ...],
    store: Path,
    data_root: Path | None,
    limit: int | None,
    as_json: bool,
    debug: bool,
    output: Path | None,
    figures: Path | None,
) -> int:
    """Report the stored results of SUITE; compute nothing.

    SUITE is a YAML file, or the name of a suite that the store has a record of, perhaps with the digest of one
    version: NAME@DIGEST. A name needs neither data nor weights or plugins. Without SUITE, list the suites of the store.

    Exit codes: 0 all cells are complete, 2 usage error, or data or weights are missing, 3 cells failed or are missing,
    or the record of a suite cannot be read.
    """
    from robharness.errors import ExitCode
    from robharness.plugins import Registry, discover, observers
    from robharness.report import build
    from robharness.report.renderers import BUILT_IN, render
    from robharness.report.renderers.files import find_renderer, write
    from robharness.session import Session
    from robharness.suite import relative

    if suite is None:
        if output or figures:
            raise UserError("-o and --figures are of one suite. Try: robharness report, which lists those of the store")
        return list_suites(store, as_json=as_json)
    start = Path.cwd()  # which plugins may change
    stored = find_stored(suite, store, data_root)
    needs_plugins = stored is None or (output is not None and output.suffix not in {each.suffix for each in BUILT_IN})
    registry = discover(plugins) if needs_plugins else Registry()
    renderer = None if output is None else find_renderer(output, registry)
    if stored is not None:
        found = stored.results(limit)
    else:
        found = Session.open(Path(suite), store=store, data=data_root, limit=limit, registry=registry).results()
    has_plugins = figures is not None and found.outline.is_planned
    drawn, findings = observers.draw_figures(found, registry, start / figures) if figures and has_plugins else ([], [])
    written = [relative(path, start) for path in drawn]
    report = build(found, findings=findings)
    if output is None or renderer is None:
        show(report, as_json=as_json)
    else:
        write(output, render(report, renderer), start)
        written = [*written, output]
    for path in written:
        echo(f"wrote {path}", err=True)
    if figures and not has_plugins:
        echo(f"plugins draw no figures from the store alone. Try: {found.outline.command('report')}", err=True)
    elif figures and not written:
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
