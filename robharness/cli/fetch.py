"""`robharness fetch SUITE`: get the published weights and data that a suite misses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options
from robharness.cli.list import show_rows
from robharness.cli.output import echo, echo_json
from robharness.text import TITLE_LENGTH, counted

if TYPE_CHECKING:
    from robharness.fetching.fetch import Fetcher
    from robharness.fetching.needs import Need
    from robharness.fetching.records import Fetched
    from robharness.planning.cells import Plan
    from robharness.session import Session


@click.command("fetch")
@options.suite
@options.plugin
@options.settings
@options.audit
@options.store
@options.data_root
@click.option("--list", "only_list", is_flag=True, help="List what is missing, with sizes; fetch nothing.")
@click.option("--from", "mirror", metavar="URL",
              help="Read all files from this address or folder, which has them under the names in --list.")  # fmt: skip
@options.display
@options.as_json
@options.debug
@options.with_incomplete_session
def command(session: Session, only_list: bool, mirror: str | None, as_json: bool) -> int:
    """Get the weights and the data that SUITE misses, as far as their publishers serve them without registration.

    An interrupted download is resumed. Files appear in their places whole and checked. For all else, such as ImageNet,
    the page is named. What is there is checked as a run checks it.

    Exit codes: 0 nothing is missing, 2 usage error, or something is left that a person has to get, 3 a file could not
    be fetched, 130 stopped by Ctrl-C.
    """
    from robharness.cli.computing import same_command
    from robharness.errors import ExitCode
    from robharness.fetching.fetch import Fetcher, fetch_missing
    from robharness.fetching.needs import needs
    from robharness.session import require, require_fetched

    fetcher = Fetcher(session.plan.data_root, session.listener, mirror=mirror)  # type: ignore[arg-type]
    if only_list:
        _list(needs(session.plan), fetcher, as_json=as_json)
        return ExitCode.FINE
    planned, found = fetch_missing(session.plan, fetcher)
    if as_json:
        echo_json([_facts(each.need, fetcher, {}) | _outcome(each) for each in found])
    else:
        _show(found)
    require_fetched(found, same_command())
    require(planned)
    _show_complete(planned, session)
    return ExitCode.FINE


def _facts(need: Need, fetcher: Fetcher, sizes: dict[str, int | None]) -> dict[str, Any]:
    """Return a need as plain data."""
    from robharness.fetching.transfer import checked_by

    files = [
        {
            "name": file.source.file_name,
            "url": (url := fetcher.url(file)),
            "size": sizes.get(url, file.source.size),
            "checked": checked_by(file.source) or None,
        }
        for file in need.files
    ]
    return {
        "what": need.what,
        "where": need.where,
        "licence": need.licence or None,
        "by_hand": not need.can_be_fetched,
        "hint": need.hint,
        "files": files,
    }


def _outcome(fetched: Fetched) -> dict[str, Any]:
    return {"error": fetched.error or None, "unchecked": dict(fetched.unchecked)}


def _list(missing: Sequence[Need], fetcher: Fetcher, *, as_json: bool) -> None:
    from rich.filesize import decimal

    sizes = fetcher.sizes(missing)
    rows = [_facts(need, fetcher, sizes) for need in missing]
    if as_json:
        echo_json(rows)
        return
    if not rows:
        echo("nothing is missing", err=True)
        return
    files = {file["url"]: (file, row) for row in rows for file in row["files"]}
    if files:
        show_rows([_row(file, row) for file, row in files.values()], "files", length=TITLE_LENGTH)
        total = sum(file["size"] or 0 for file, _ in files.values())
        unknown = sum(file["size"] is None for file, _ in files.values())
        amounts = [decimal(total)] if total else []
        amounts += [f"{unknown} of unknown size"] if unknown else []
        echo(f"{counted(len(files), 'file', 'files')} to fetch, {', and '.join(amounts)}", err=True)
    for row in rows:
        if row["by_hand"]:
            echo(f"{row['what']}: {row['hint']}")
        elif not row["files"]:
            echo(f"{row['what']}: to be converted from files that are there")


def _row(file: dict[str, Any], row: dict[str, Any]) -> dict[str, str]:
    from rich.filesize import decimal

    return {
        "file": file["name"],
        "size": "unknown" if file["size"] is None else decimal(file["size"]),
        "check": file["checked"] or "none",
        "licence": row["licence"] or "not stated",
        "from": file["url"],
        "to": row["where"],
    }


def _show(found: Sequence[Fetched]) -> None:
    from rich.filesize import decimal

    for each in found:
        if each.error:
            continue
        size = "by another process" if each.is_elsewhere and not each.size else decimal(each.size)
        echo(f"{each.need.what}: {each.need.where} ({size})")
        for name, sha256 in each.unchecked:
            echo(f"{name}: no digest is published; its sha256 is {sha256}", err=True)


def _show_complete(planned: Plan, session: Session) -> None:
    """Say that nothing is missing, with the number of examples of the data."""
    assert planned.data is not None
    text = f"nothing is missing: {planned.data.name} has {len(planned.data.order):,} examples"
    session.listener.message(text)
