"""`robharness report SUITE`: report the stored results of a suite; compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, results_console
from robharness.cli.stored import find_stored, list_suites, note_of_stored
from robharness.errors import UserError, for_shell
from robharness.locations import Location

if TYPE_CHECKING:
    from robharness.findings import Finding
    from robharness.plugins import Registry
    from robharness.report import Report
    from robharness.report.details import GalleryExample, PluginFigure
    from robharness.report.renderers import Layout, Registered, Selection
    from robharness.report.renderers.base import Rows
    from robharness.session import Session
    from robharness.store.results import Results
    from robharness.store.suites import StoredSuite
    from robharness.suite.settings import Setting


@click.command("report")
@options.report_options
@options.audit
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write FILE instead of printing: .html, .json, .csv, .parquet, .tex, .md, .txt, or a "
                   "suffix that a plugin renders.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Draw figures for a paper, and the plugins' figures, into FOLDER, which is created.")  # fmt: skip
@click.option("--gallery", type=click.IntRange(0, 500), metavar="N",
              help="Compute up to N examples again for the gallery of an HTML file; by default 24.")  # fmt: skip
@click.option("--statistics", type=options.Names(), metavar="GLOB,...", default=(),
              help="Write only these statistics into a .csv or .parquet file: accuracy,contrastive/*")  # fmt: skip
@click.option("--columns", type=options.Names(), metavar="NAME,...", default=(),
              help="Write only these columns into a .csv or .parquet file.")  # fmt: skip
@options.device("compute the gallery on")
@options.trust
@options.layout_options
def command(
    suite: str | None,
    plugins: tuple[str, ...],
    settings: tuple[Setting, ...],
    store: Location,
    data_root: Path | None,
    limit: int | None,
    audit: bool,
    as_json: bool,
    debug: bool,
    output: Path | None,
    figures: Path | None,
    gallery: int | None,
    statistics: tuple[str, ...],
    columns: tuple[str, ...],
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

    from robharness.errors import ExitCode
    from robharness.report import build
    from robharness.report.renderers import Layout, Selection, render
    from robharness.report.renderers.files import check_place, find_renderer, write

    settings = options.with_audit(settings, audit)
    if suite is None:
        if output or figures or gallery or settings:
            raise UserError(
                "-o, --figures, --gallery and --set are of one suite. "
                "Try: robharness report, which lists those of the store"
            )
        return list_suites(store, as_json=as_json)
    if as_json and output is not None:
        place = for_shell(output.with_suffix(".json"))
        raise UserError(
            f"--json prints the report, and -o writes it into a file; only one is possible. Try: -o {place}"
        )
    start = Path.cwd()  # which plugins may change
    stored = find_stored(suite, store, data_root, settings)
    registry = find_plugins(plugins, stored, output)
    renderer = None if output is None else find_renderer(output, registry)
    number = gallery_size(gallery, renderer, output)
    selection = Selection(statistics=statistics, columns=columns)
    check_selection(selection, renderer, output)
    if output is not None and (figures is None or output.parent != figures):  # a folder that is created for figures
        check_place(output, start)
    with_details = as_json or renderer is not None
    if stored is not None:
        results = stored.results(limit, confidences=with_details)
    else:
        session = open_session(
            suite, registry, store=store, data_root=data_root, limit=limit, device=device, settings=settings
        )
        results = session.results(confidences=with_details)
    drawn = draw_by_plugins(results, registry, start / figures if figures else None, is_page=is_page(renderer))
    examples, missing = make_gallery(results, number, device)
    report = replace(
        build(results, findings=[*drawn.findings, *missing], details=True if with_details else None),
        plugin_figures=drawn.shown,
        gallery=examples,
    )
    written = [*draw(report, start / figures, figures), *drawn.files] if figures else []
    if output is None or renderer is None:
        show(report, as_json=as_json, layout=Layout(by=by, intervals=intervals))
    else:
        write(output, render(report, renderer, Layout(by=by, intervals=intervals), selection), start)
    echo_written(written, output, start)
    if figures and not written:
        echo("these results have no figures yet: an attack with two budgets, a corruption, or a metric that needs "
             "features has some. Try: robharness list metrics", err=True)  # fmt: skip
    return ExitCode.FINE if report.complete else ExitCode.INCOMPLETE


def find_plugins(plugins: tuple[str, ...], stored: StoredSuite | None, output: Path | None) -> Registry:
    """Discover the plugins, or none of them if a stored suite is shown in a format of ours."""
    from robharness.plugins import Registry, discover
    from robharness.report.renderers import BUILT_IN

    is_ours = output is None or output.suffix in {each.suffix for each in BUILT_IN}
    return Registry() if stored is not None and is_ours else discover(plugins)


def is_page(renderer: Registered | None) -> bool:
    """Return whether the report becomes our HTML page, which shows the plugins' figures and a gallery."""
    from robharness.report.renderers import html

    return renderer is not None and renderer.renderer is html


def gallery_size(asked: int | None, renderer: Registered | None, output: Path | None) -> int:
    """Return the number of examples of the gallery.

    asked: the number that the user gave, if any.
    Raises UserError for a gallery in a format of ours that shows none; renderers of plugins get the examples.
    """
    from robharness.export.choice import EXAMPLES

    if is_page(renderer):
        return EXAMPLES if asked is None else asked
    if asked and (renderer is None or renderer.origin is None):
        place = for_shell((output or Path("report")).with_suffix(".html"))
        raise UserError(f"--gallery {asked}: only an HTML file has a gallery. Try: -o {place}")
    return asked or 0


def check_selection(selection: Selection, renderer: Registered | None, output: Path | None) -> None:
    """Raise a UserError for columns that do not exist, and for a selection in a format without rows."""
    from robharness.report.renderers import ROWS

    option = "--statistics" if selection.statistics else "--columns"
    is_selected = bool(selection.statistics or selection.columns)
    if is_selected and (renderer is None or not any(renderer.renderer is each for each in ROWS)):
        place = for_shell((output or Path("report")).with_suffix(".csv"))
        raise UserError(f"{option}: only CSV and Parquet files have rows to select. Try: -o {place}")
    _ = selection.names


def open_session(
    suite: str,
    registry: Registry,
    *,
    store: Location,
    data_root: Path | None,
    limit: int | None,
    device: str,
    settings: tuple[Setting, ...],
) -> Session:
    """Open the session of a suite's file.

    Raises UserError if its data, weights or plugins are missing; a note says so if the store alone has a report of it.
    """
    from robharness.session import Session

    try:
        return Session.open(
            Path(suite), store=store, data=data_root, limit=limit, registry=registry, device=device, overrides=settings
        )
    except UserError as error:
        if note := note_of_stored(suite, store):
            error.add_note(note)
        raise


@dataclass(frozen=True, kw_only=True)
class PluginFigures:
    """Figures that plugins drew.

    files: their files; without the option --figures they are gone.
    shown: what a page shows of them.
    findings: on plugins whose figures failed.
    """

    files: Sequence[Path] = ()
    shown: tuple[PluginFigure, ...] = ()
    findings: Sequence[Finding] = ()


def draw_by_plugins(results: Results, registry: Registry, folder: Path | None, *, is_page: bool) -> PluginFigures:
    """Let plugins draw their figures of results that have a plan.

    folder: of the option --figures, if it is given; a page alone needs none.
    is_page: whether a page shows them.
    Raises UserError if the folder cannot be created.
    """
    from tempfile import TemporaryDirectory

    from robharness.plugins import observers
    from robharness.report.plugin_figures import read_figures

    if not results.outline.is_planned or not (folder or is_page):
        return PluginFigures()
    with TemporaryDirectory() as scratch:
        files, findings = observers.draw_figures(results, registry, folder or Path(scratch))
        return PluginFigures(files=files, shown=read_figures(files) if is_page else (), findings=findings)


def make_gallery(results: Results, number: int, device: str) -> tuple[tuple[GalleryExample, ...], tuple[Finding, ...]]:
    """Compute at most this number of examples again for a gallery, and say so on standard error.

    Returns them, and findings on what is missing. Raises UserError for a device that torch does not find.
    """
    from robharness.export.choice import choose

    choices, findings = choose(results, number)
    if not choices:
        return (), findings
    from robharness.engine.environment import check_devices
    from robharness.imports import large_import

    with large_import("torch"):
        from robharness.export.gallery import gallery

    [chosen, *_] = check_devices(device)
    count = sum(len(choice.cells) * len(choice.positions) for choice in choices)
    passes = sum(choice.passes for choice in choices)
    echo(
        f"computing {count} examples again for the gallery, about {passes} passes; --gallery 0 leaves it out", err=True
    )
    made = gallery(results, choices, device=chosen)
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


def echo_written(drawn: Sequence[Path], output: Path | None, start: Path) -> None:
    """Name the files of figures and of the report on standard error.

    start: the folder that paths are shown relative to.
    """
    from robharness.suite import relative

    for path in (*(relative(each, start) for each in drawn), *([output] if output else [])):
        echo(f"wrote {path}", err=True)


def show(report: Report, *, as_json: bool, layout: Layout) -> None:
    """Print the report on standard output, as tables or as JSON."""
    from robharness.report.renderers import json, terminal

    if as_json:
        echo_json(json.render(report))
    else:
        terminal.show(report, results_console(), layout)
