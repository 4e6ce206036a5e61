"""`robharness merge INTO FROM...`: copy the contents of other stores into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo

if TYPE_CHECKING:
    from robharness.locations import Location


@click.command("merge")
@click.argument("into", type=options.StorePlace())
@click.argument("sources", metavar="FROM...", type=options.StorePlace(), nargs=-1, required=True)
@options.debug
def command(into: Location, sources: tuple[Location, ...], debug: bool) -> int:
    """Copy the contents of the stores FROM into the store INTO, which keeps its own; check every file.

    A store is a folder, or a prefix of an object store: s3://BUCKET/PREFIX.

    Exit codes: 0 everything is copied, 2 usage error, a folder is no store, or INTO cannot be written, 3 some files
    were not copied.
    """
    from robharness.errors import ExitCode
    from robharness.locations import store_location
    from robharness.store import Store
    from robharness.store.merge import merge

    for folder in (into, *sources):
        store_location(folder)
    is_whole = True
    for source in sources:
        merged = merge(Store(into), Store(source))
        trained = f", {merged.artefacts} trained models" if merged.artefacts else ""
        echo(
            f"{source}: {merged.copied} parts of {merged.cells} cells copied{trained}, {merged.present} existed already"
        )
        if merged.differing:
            echo(
                f"{source}: {merged.differing} of {merged.common} outcomes that both stores have differ; "
                f"those of {into} are kept"
            )
        for problem in merged.problems:
            echo(f"{source}: not copied: {problem}", err=True)
        is_whole = is_whole and not merged.problems
    return ExitCode.FINE if is_whole else ExitCode.INCOMPLETE
