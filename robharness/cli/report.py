"""`robharness report SUITE`: report the stored results of a suite; compute nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, results_console
from robharness.errors import UserError, exists, for_shell, link_to_nothing

if TYPE_CHECKING:
    from robharness.plugins import Registry
    from robharness.report import Report
    from robharness.report.renderers import Registered
    from robharness.session import Session


@click.command("report")
@options.suite_options
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write FILE instead of printing: .json, .md, .tex, .txt, or what a plugin renders.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Draw figures for a paper, and the plugins' figures, into FOLDER, which is created.")  # fmt: skip
@options.with_session
def command(session: Session, as_json: bool, output: Path | None, figures: Path | None) -> int:
    """Report the stored results of SUITE; compute nothing.

    Exit codes: 0 all cells are complete, 2 usage error, or data or weights are missing, 3 cells failed or are missing.
    """
    from robharness.errors import ExitCode
    from robharness.plugins import observers
    from robharness.report import build
    from robharness.report.renderers import render

    renderer = None if output is None else find_renderer(output, session.registry)
    start = session.plan.suite.working_directory  # which plugins may change
    found = session.results()
    drawn, findings = observers.draw_figures(found, session.registry, start / figures) if figures else ([], [])
    report = build(found, findings=findings)
    if figures:
        drawn = [*draw(report, start / figures, figures), *drawn]
    written = [session.plan.suite.as_given(path) for path in drawn]
    if output is None or renderer is None:
        show(report, as_json=as_json)
    else:
        write(output, render(report, renderer), start)
        written = [*written, output]
    for path in written:
        echo(f"wrote {path}", err=True)
    if figures and not drawn:
        echo("these results have no figures yet: an attack with two budgets, a corruption, or a metric that needs "
             "features has some. Try: robharness list metrics", err=True)  # fmt: skip
    return ExitCode.FINE if report.complete else ExitCode.INCOMPLETE


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


def find_renderer(output: Path, registry: Registry) -> Registered:
    """Return the renderer for the suffix of a file.

    Raises UserError if no renderer has this suffix, or if several plugins have one.
    """
    from robharness.report.renderers import renderers

    available = renderers(registry)
    found = available.get(output.suffix, [])
    if not found:
        suffixes = ", ".join(available)
        raise UserError(
            f"-o {output}: no renderer has the suffix '{output.suffix}'; there are {suffixes}. "
            f"Try: -o {for_shell(output.with_suffix('.json') if output.name else 'report.json')}"
        )
    if len(found) > 1:
        origins = [each.origin for each in found if each.origin]
        raise UserError(
            f"-o {output}: several plugins render '{output.suffix}' files: {', '.join(map(str, origins))}. "
            f"Try: {origins[0].blocking_option}"
        )
    return found[0]


def write(path: Path, content: bytes, start: Path) -> None:
    """Write a file whole: an error leaves an earlier file of this name unchanged.

    start: the folder that a relative path is relative to.
    Raises UserError if it cannot be written.
    """
    from robharness.reading import kind_of_file
    from robharness.store.files import FileSystem

    place = start / path
    try:
        if place.exists() and not place.is_file():  # which the file would replace
            raise OSError(0, f"it is {kind_of_file(place.stat().st_mode)}, not a file")
        if not place.parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        FileSystem().write(place, content)
    except OSError as error:
        folder = for_shell(path.parent)
        is_absent = not exists(place.parent) and not link_to_nothing(place.parent)
        command = f"mkdir -p {folder}" if is_absent else f"ls -ld {folder}"
        raise UserError(f"-o {path}: cannot be written: {error.strerror}. Try: {command}") from None


def show(report: Report, *, as_json: bool) -> None:
    """Print the report on standard output, as tables or as JSON."""
    from robharness.report.renderers import json, terminal

    if as_json:
        echo_json(json.render(report))
    else:
        terminal.show(report, results_console())
