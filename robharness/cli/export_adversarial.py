"""`robharness export-adversarial SUITE -o DIR`: write what attacks made, for anyone to judge again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.session import Session


@click.command("export-adversarial", short_help="Write what attacks made, for anyone to judge again.")
@options.suite_options
@options.trust
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Where to write.")
@click.option("--only", metavar="GLOB", help="Only cells whose name, model, label or perturbation matches.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, as torch names it: cpu, cuda.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Examples per pass; chosen by size if not given."
)
@options.with_session
def command(session: Session, output: Path, batch_size: int | None, as_json: bool) -> int:
    """Write what the attacks of SUITE make of the examples, as .npz files below DIR.

    It is made anew, and compared with what is stored. Exit codes: 0 all is as it is stored, 2 something to mend first,
    3 some predictions differ from those that are stored.
    """
    import json

    from robharness.errors import ContractViolation, ExitCode, UserError
    from robharness.export.adversarial import export_adversarial
    from robharness.training.train import untrained

    selected, is_same = session.selected, True
    if selected.pending_cells:
        raise untrained(selected)
    try:
        for made in export_adversarial(selected, session.store, output, device=session.devices[0], batch_size=batch_size):
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
    except ContractViolation as error:
        raise UserError(f"{error}. See: robharness run {session.plan.suite.path_for_shell}") from error
    return ExitCode.FINE if is_same else ExitCode.INCOMPLETE
