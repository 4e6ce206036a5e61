"""`robharness report SUITE`: report the stored results of a suite; compute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, results_console
from robharness.cli.stored import find_stored, list_suites
from robharness.errors import UserError, for_shell

if TYPE_CHECKING:
    from robharness.findings import Finding
    from robharness.report import Report
    from robharness.report.details import GalleryExample
    from robharness.report.renderers import Layout
    from robharness.report.renderers.base import Rows
    from robharness.store.results import Results


@click.command("report")
@options.report_options
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write FILE instead of printing: .html, .json, .csv, .parquet, .tex, .md, .txt, or a "
                   "suffix that a plugin renders.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Draw figures for a paper, and the plugins' figures, into FOLDER, which is created.")  # fmt: skip
@click.option("--gallery", type=click.IntRange(0, 500), metavar="N",
              help="Compute up to N examples again for a gallery; by default 24 for an HTML file, else 0.")  # fmt: skip
@options.device("compute the gallery on")
@options.trust
@options.layout_options
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
    gallery: int | None,
    device: str,
    intervals: bool,
    by: Rows,
) -> int:
    """Report the stored results of SUITE; compute nothing but the images of a gallery.

    SUITE is a YAML file, or the name of a suite that the store has a record of, perhaps with the digest of one
    version: NAME@DIGEST. A name needs neither data nor weights or plugins. Without SUITE, list the suites of the store.

    Exit codes: 0 all cells are complete, 2 usage error, or data or weights are missing, 3 cells failed or are missing,
    or the record of a suite cannot be read.
    """
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from robharness.errors import ExitCode
    from robharness.export.choice import EXAMPLES
    from robharness.plugins import Registry, discover, observers
    from robharness.report import build
    from robharness.report.plugin_figures import read_figures
    from robharness.report.renderers import BUILT_IN, Layout, html, render
    from robharness.report.renderers.files import find_renderer, write
    from robharness.session import Session
    from robharness.suite import relative

    if suite is None:
        if output or figures:
            raise UserError("-o and --figures are of one suite. Try: robharness report, which lists those of the store")
        return list_suites(store, as_json=as_json)
    layout = Layout(by=by, intervals=intervals)
    start = Path.cwd()  # which plugins may change
    stored = find_stored(suite, store, data_root)
    needs_plugins = stored is None or (output is not None and output.suffix not in {each.suffix for each in BUILT_IN})
    registry = discover(plugins) if needs_plugins else Registry()
    renderer = None if output is None else find_renderer(output, registry)
    with_details = as_json or renderer is not None
    if stored is not None:
        found = stored.results(limit, confidences=with_details)
    else:
        session = Session.open(Path(suite), store=store, data=data_root, limit=limit, registry=registry, device=device)
        found = session.results(confidences=with_details)
    is_page = renderer is not None and renderer.renderer.suffix == html.suffix
    with TemporaryDirectory() as scratch:  # for figures that only the page shows
        folder = start / figures if figures else Path(scratch) if is_page else None
        draws = folder is not None and found.outline.is_planned
        drawn, findings = observers.draw_figures(found, registry, folder) if folder and draws else ([], [])
        shown = read_figures(drawn) if is_page else ()
    examples, more = make_gallery(found, (EXAMPLES if is_page else 0) if gallery is None else gallery, device)
    report = replace(
        build(found, findings=[*findings, *more], details=True if with_details else None),
        plugin_figures=shown,
        gallery=examples,
    )
    drawn = [*draw(report, start / figures, figures), *drawn] if figures else []
    written = [relative(path, start) for path in drawn]
    if output is None or renderer is None:
        show(report, as_json=as_json, layout=layout)
    else:
        write(output, render(report, renderer, layout), start)
        written = [*written, output]
    for path in written:
        echo(f"wrote {path}", err=True)
    if figures and not drawn:
        echo("these results have no figures yet: an attack with two budgets, a corruption, or a metric that needs "
             "features has some. Try: robharness list metrics", err=True)  # fmt: skip
    return ExitCode.FINE if report.complete else ExitCode.INCOMPLETE


def make_gallery(results: Results, number: int, device: str) -> tuple[tuple[GalleryExample, ...], tuple[Finding, ...]]:
    """Compute at most this number of examples again for a gallery, and say so on standard error.

    Returns them, and findings on what is missing. Raises UserError for a device that torch does not find.
    """
    from robharness.export.choice import choose

    choices, findings = choose(results, number)
    if not choices:
        return (), findings
    from robharness.engine.environment import check_devices
    from robharness.export.gallery import gallery  # which imports torch

    count = sum(len(choice.cells) * len(choice.positions) for choice in choices)
    passes = sum(choice.passes for choice in choices)
    echo(
        f"computing {count} examples again for the gallery, about {passes} passes; --gallery 0 leaves it out", err=True
    )
    made = gallery(results, choices, device=check_devices(device)[0])
    return made.examples, (*findings, *made.findings)


def draw(report: Report, folder: Path, given: Path) -> list[Path]:
    """Draw the report's figures as PDF and SVG into a folder that exists; return the files.

    given: the folder as it was given.
    Raises UserError if they cannot be written.
    """
    from robharness.report.figures import figures, save

    try:
        return save(figures(report), folder)
    except OSError as error:
        place = for_shell(given)
        raise UserError(f"--figures {given}: cannot be written: {error.strerror}. Try: ls -ld {place}") from None


def show(report: Report, *, as_json: bool, layout: Layout) -> None:
    """Print the report on standard output, as tables or as JSON."""
    from robharness.report.renderers import json, terminal

    if as_json:
        echo_json(json.render(report))
    else:
        terminal.show(report, results_console(), layout)
