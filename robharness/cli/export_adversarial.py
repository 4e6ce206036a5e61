"""`robharness export-adversarial SUITE -o DIR`: write adversarial examples to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, unreadable_text

if TYPE_CHECKING:
    from robharness.session import Session


@click.command("export-adversarial")
@options.suite_options
@options.trust
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Output folder.")
@click.option("--only", metavar="GLOB", help="Only cells whose name, model, label or perturbation matches.")
@options.device("compute on")
@options.batch_size
@options.with_session
def command(session: Session, output: Path, batch_size: int | None, as_json: bool) -> int:
    """Write the adversarial examples of SUITE's attacks to .npz files below DIR.

    The examples are computed again, and their predictions are compared with the stored ones.

    Exit codes: 0 all predictions equal the stored ones, 2 usage error, or data or weights are missing, 3 some
    predictions differ, or cells failed.
    """
    from robharness.errors import ExitCode
    from robharness.imports import large_import
    from robharness.training.train import untrained

    with large_import("torch"):
        from robharness.export.adversarial import export_adversarial

    selected, is_same = session.selected, True
    if selected.pending_cells:
        raise untrained(selected)
    for made in export_adversarial(selected, session.store, output, device=session.devices[0], batch_size=batch_size):
        is_same = is_same and not made.differing and not made.error
        folder = selected.suite.as_given(made.folder)
        if as_json:
            facts = {
                "cell": made.cell.name,
                "folder": str(folder),
                "n": made.n,
                "unreadable": len(made.unreadable),
            }
            facts |= {"stored": made.stored, "differing": made.differing, "error": made.error or None}
            echo_json(facts, indent=None)
        else:
            compared = f"{made.differing} of {made.stored} stored predictions differ" if made.stored else "none stored"
            echo(f"{folder}: {made.n} images; {compared}{unreadable_text(made.unreadable)}")
            if made.error:
                echo(f"failed: {made.cell.name}: {made.error}")
    return ExitCode.FINE if is_same else ExitCode.INCOMPLETE
