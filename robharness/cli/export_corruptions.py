"""`robharness export-corruptions SUITE -o DIR`: write corrupted images to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, unreadable_text

if TYPE_CHECKING:
    from robharness.suite.settings import Setting


@click.command("export-corruptions")
@options.suite
@options.plugin
@options.settings
@options.data_root
@options.limit
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Output folder.")
@click.option("--layout", type=click.Choice(["imagenet-c", "cifar-c"]), default="imagenet-c", show_default=True,
              help="One file per image (imagenet-c), or one array per corruption (cifar-c).")  # fmt: skip
@options.display
@options.as_json
@options.debug
def command(
    suite: Path,
    plugins: tuple[str, ...],
    settings: tuple[Setting, ...],
    data_root: Path | None,
    limit: int | None,
    output: Path,
    layout: Any,
    display: Any,
    as_json: bool,
    debug: bool,
) -> int:
    """Write the corrupted images of SUITE to files below DIR, as a run would make them. No model is needed.

    Existing files are kept, so the same command resumes after a stop.

    Exit codes: 0 all images are written, 2 usage error, or data are missing, 3 some examples cannot be read, or
    corruptions failed, 130 stopped by Ctrl-C.
    """
    from robharness import suite as suites
    from robharness.cli.progress import ProgressDisplay
    from robharness.errors import ExitCode
    from robharness.imports import large_import
    from robharness.planning.commands import data_root as default_data_root
    from robharness.plugins import discover

    with large_import("torch"):
        from robharness.export import corruptions

    progress, is_whole = ProgressDisplay(display), True
    loaded = suites.load(suite, discover(plugins), models_follow=True, settings=settings)
    planned = corruptions.plan_rendering(loaded, default_data_root(data_root), output, layout=layout, limit=limit)
    severities = sum(map(len, planned.corruptions.values()))
    progress.begin(planned.work, "images", f"{severities} corruptions of {planned.data.n} images to {output}")
    try:
        for made in corruptions.render(planned, progress.advance):
            is_whole = is_whole and not made.unreadable and not made.error
            name, existing = made.perturbation.name, made.n - made.made
            if as_json:
                facts = {"corruption": name, "n": made.n, "made": made.made, "unreadable": len(made.unreadable)}
                facts["error"] = made.error or None
                echo_json(facts, indent=None)
            else:
                echo(
                    f"{name}: {made.made} images written, {existing} existed already{unreadable_text(made.unreadable)}"
                )
                if made.error:
                    echo(f"failed: {name}: {made.error}")
    finally:
        progress.finished()
    return ExitCode.FINE if is_whole else ExitCode.INCOMPLETE
