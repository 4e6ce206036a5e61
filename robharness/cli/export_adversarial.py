"""`robharness export-adversarial SUITE -o DIR`: write what attacks made, for anyone to judge again."""

from __future__ import annotations

from pathlib import Path

import click

from robharness.cli import options


@click.command("export-adversarial", short_help="Write what attacks made, for anyone to judge again.")
@options.suite_options
@options.trust
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Where to write.")
@click.option("--only", metavar="GLOB", help="Only cells whose name, model, label or perturbation matches.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, as torch names it: cpu, cuda.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Examples per pass; chosen by size if not given."
)
def command(
    suite: Path,
    plugins: tuple[str, ...],
    store: Path,
    data_root: Path | None,
    limit: int | None,
    output: Path,
    only: str | None,
    device: str,
    batch_size: int | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Write what the attacks of SUITE make of the examples, as .npz files below DIR.

    It is made anew, and compared with what is stored. Exit codes: 0 all is as it is stored, 2 something to mend first,
    3 some predictions differ from those that are stored.
    """
    import json

    from robharness import api, training
    from robharness.errors import ExitCode, UserError, Violation
    from robharness.export import export
    from robharness.plugins import discover
    from robharness.store import Store

    planned = api.plan(suite, store=store, data=data_root, limit=limit, registry=discover(plugins))
    api.require(planned)
    asked = planned.only(only) if only else planned
    if asked.waiting:
        raise training.untrained(asked)
    is_same = True
    try:
        for made in export(asked, Store(store), output, device=api.check_devices(device)[0], rows=batch_size):
            is_same = is_same and not made.differing
            if as_json:
                facts = {"cell": made.cell.name, "folder": str(made.folder), "n": made.n, "unreadable": made.unreadable}
                click.echo(json.dumps(facts | {"stored": made.stored, "differing": made.differing}, ensure_ascii=False))
            else:
                compared = (
                    f"{made.differing} of {made.stored} stored predictions differ" if made.stored else "none stored"
                )
                broken = f"; {made.unreadable} examples cannot be read" if made.unreadable else ""
                click.echo(f"{made.folder}: {made.n} images; {compared}{broken}")
    except Violation as error:
        raise UserError(f"{error}. See: robharness run {suite}") from error
    return ExitCode.FINE if is_same else ExitCode.INCOMPLETE
