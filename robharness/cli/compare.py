"""`robharness compare A B`: compare stored results by example; compute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, results_console
from robharness.errors import ExitCode, UserError, for_shell
from robharness.locations import Location, store_location

if TYPE_CHECKING:
    from robharness.report.results import Results
    from robharness.suite.settings import Setting


@click.command("compare")
@click.argument("before")
@click.argument("after", required=False)
@click.option("--models", nargs=2, metavar="BEFORE AFTER",
              help="The labels to compare, of the sides before and after; by default all that both have.")  # fmt: skip
@click.option("--suite", metavar="NAME", help="The suite in operands that are stores, if they have several.")
@click.option("--changed", type=click.IntRange(0, 100_000), metavar="N",
              help="Name up to N examples per cell that changed, of each kind; by default 0, in JSON 5.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write FILE instead of printing: .html, .json, .md or .txt.")  # fmt: skip
@options.plugin
@options.settings
@options.store
@options.data_root
@options.limit
@options.as_json
@options.debug
def command(
    before: str,
    after: str | None,
    models: tuple[str, str] | None,
    suite: str | None,
    changed: int | None,
    output: Path | None,
    plugins: tuple[str, ...],
    settings: tuple[Setting, ...],
    store: Location,
    data_root: Path | None,
    limit: int | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Compare stored results on the examples that BEFORE and AFTER have in common; compute nothing.

    Each is a store, the name of a suite in --store, perhaps with the digest of one version (NAME@DIGEST), a suite's
    YAML file, or a baseline (.json). With one of them alone, --models compares two of its models.

    Exit codes: 0 compared, 2 usage error, or nothing to compare, 3 cells failed or are missing on either side, 4 a
    baseline is damaged or of a newer version.
    """
    from robharness.comparison.build import build
    from robharness.comparison.compare import NAMED
    from robharness.comparison.operands import open_sides
    from robharness.comparison.outputs import json
    from robharness.comparison.outputs.formats import FORMATS
    from robharness.comparison.outputs.tables import LAYOUT, document_of
    from robharness.comparison.requests import Request
    from robharness.report.renderers.files import by_suffix, check_place, write
    from robharness.report.renderers.terminal import show_document

    start = Path.cwd()  # which plugins may change
    chosen = None if output is None else by_suffix(output, FORMATS)
    if output is not None:
        check_place(output, start)
    store_location(store)
    operands = (before,) if after is None else (before, after)
    words = _options(store, data_root, limit, plugins, settings)
    request = Request(operands=operands, models=models, suite=suite, options=words)
    planned: list[Path] = []

    def open_suite(path: Path) -> Results:
        planned.append(path)
        return _open_suite(path, plugins, store, data_root, limit, settings)

    first, second = open_sides(operands, request, store=store, limit=limit, open_suite=open_suite)
    if not planned and (data_root is not None or settings):
        again = Request(operands=operands, models=models, suite=suite, options=_options(store, None, limit, (), ()))
        useless = "--set" if data_root is None else "--data-root"
        raise UserError(f"no operand is the file of a suite, so that {useless} has no use. Try: {again.again()}")
    default = chosen.changed if chosen else NAMED if as_json else 0
    number = default if changed is None else changed
    comparison = build(first, second, request, changed=number)
    if output is not None and chosen is not None:
        write(output, chosen.render(comparison, number).encode(errors="replace"), start)
        echo(f"wrote {output}", err=True)
    elif as_json:
        echo_json(json.render(comparison))
    else:
        show_document(document_of(comparison, changed=number), results_console(), LAYOUT)
    return ExitCode.FINE if comparison.is_complete else ExitCode.INCOMPLETE


def _open_suite(
    path: Path,
    plugins: tuple[str, ...],
    store: Location,
    data_root: Path | None,
    limit: int | None,
    settings: tuple[Setting, ...],
) -> Results:
    """Load the stored results of a suite's file. Raises UserError if its data, weights or plugins are missing."""
    from robharness.cli.report import open_session
    from robharness.plugins.discovery import discover

    registry = discover(plugins)
    session = open_session(
        str(path), registry, store=store, data_root=data_root, limit=limit, device="cpu", settings=settings
    )
    return session.results()


def _options(
    store: Location, data_root: Path | None, limit: int | None, plugins: tuple[str, ...], settings: tuple[Setting, ...]
) -> tuple[str, ...]:
    """Return the options that a command in a message needs as well."""
    from robharness.planning.commands import DEFAULT_STORE

    words: list[str] = []
    if store != DEFAULT_STORE:
        words += ["--store", for_shell(store)]
    if data_root is not None:
        words += ["--data-root", for_shell(data_root)]
    if limit is not None:
        words += ["--limit", str(limit)]
    for plugin in plugins:
        words += ["-p", for_shell(plugin)]
    for setting in settings:
        words += ["--set", for_shell(str(setting))]
    return tuple(words)
