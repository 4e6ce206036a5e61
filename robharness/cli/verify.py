"""`robharness verify MODEL`: test a model on a few examples against its published accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, echo_rows, results_console
from robharness.locations import Location
from robharness.text import COMMAND_LENGTH, TITLE_LENGTH, printable, styled


@click.command("verify")
@click.argument("model")
@click.argument("keys", nargs=-1, metavar="[KEY=VALUE]...")
@options.plugin
@options.store
@options.data_root
@options.trust
@click.option(
    "--data",
    metavar="NAME/SPLIT",
    help="Data to test on; else the smallest available data set with the model's labels.",
)
@options.limit
@options.device("compute on")
@options.as_json
@options.debug
def command(
    model: str,
    keys: tuple[str, ...],
    plugins: tuple[str, ...],
    store: Location,
    data_root: Path | None,
    data: str | None,
    limit: int | None,
    device: str,
    as_json: bool,
    debug: bool,
) -> int:
    """Test MODEL on a few examples: its accuracy against the published one, and other possible uses of its weights.

    KEY=VALUE is a key of a suite beside `model:`, e.g. weights=./my.pt.

    Exit codes: 0 the accuracy is compatible with the published one, 1 the accuracy is significantly below the published
    one, 2 usage error, or data or weights are missing.
    """
    from robharness.engine import environment
    from robharness.errors import ExitCode
    from robharness.imports import large_import
    from robharness.planning.commands import data_root as default_data_root
    from robharness.plugins import discover

    with large_import("torch"):
        from robharness.verify import verify

    found = verify(
        model,
        _read(keys),
        discover(plugins),
        store=store,
        data_root=default_data_root(data_root),
        data=data,
        limit=limit,
        device=environment.check_devices(device)[0],
    )
    if as_json:
        echo_json(as_data(found))
    else:
        _show(found)
    return ExitCode.FINE if found.is_as_expected else ExitCode.REGRESSION


def _read(keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the values as YAML reads them; paths are relative to the working directory."""
    import yaml

    read = {}
    for word in keys:
        key, is_given, value = word.partition("=")
        if not is_given or not key:
            raise click.UsageError(f"'{word}' is not KEY=VALUE. Try: weights=./my.pt")
        try:
            read[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.UsageError(f"the value of '{word}' cannot be read as YAML. Put it into quotes") from None
    return read


def as_data(found: Any) -> dict[str, Any]:
    """Return a verification as dicts, lists and plain values."""
    configurations = []
    for configuration in found.configurations:
        facts: dict[str, Any] = {"name": configuration.name, "keys": dict(configuration.keys)}
        facts["error"] = configuration.error or None
        if not configuration.error:
            gain, standard_error = configuration.gain(found.declared)
            facts |= {"accuracy": configuration.accuracy, "interval": list(configuration.interval)}
            facts |= {"mean_log_probability": float(configuration.log_probability.mean())}
            if configuration is not found.declared:
                facts |= {"gain": gain, "gain_standard_error": standard_error if found.n > 1 else None}
        configurations.append(facts)
    return {
        "schema": 1, "model": found.model, "data": found.data, "n": found.n, "expected": found.expected,
        "own_weights": found.own_weights, "unreadable": list(found.unreadable),
        "as_expected": found.is_as_expected, "ways": configurations,
        "better": [each.name for each in found.better],
    }  # fmt: skip


def _show(found: Any) -> None:
    from robharness.findings import named_examples

    rows = []
    for configuration in found.configurations:
        name = printable(configuration.name, TITLE_LENGTH)
        if configuration.error:
            rows.append([name, "failed", printable(configuration.error, COMMAND_LENGTH), ""])
            continue
        low, high = configuration.interval
        gain = "" if configuration is found.declared else "{:+.3f} ± {:.3f}".format(*configuration.gain(found.declared))
        accuracy = f"{100 * configuration.accuracy:.1f} %, {100 * low:.1f} to {100 * high:.1f}"
        rows.append([name, accuracy, f"{configuration.log_probability.mean():.3f}", gain])
    _show_rows(rows, f"{found.model} on {found.n} examples of {found.data}")
    if found.unreadable:
        echo(f"{len(found.unreadable)} examples cannot be read and are left out: {named_examples(found.unreadable)}")
    if found.expected is None:
        echo("No accuracy is published for this model.")
    elif found.own_weights:
        echo(f"Published for the declared weights: {100 * found.expected:.1f} %.")
    elif found.is_as_expected:
        echo(f"Published: {100 * found.expected:.1f} %, which is compatible with these examples.")
    else:
        echo(
            f"Published: {100 * found.expected:.1f} %, significantly more than on these examples. "
            "Check the weights file."
        )
    for configuration in found.better:
        gain, error = configuration.gain(found.declared)
        keys = ", ".join(f"{key}: {printable(value)}" for key, value in configuration.keys.items())
        echo(
            f"warning: '{printable(configuration.name)}' gives the true class a higher log-probability, "
            f"by {gain:.3f} ± {error:.3f}. "
            f"If the model was trained this way, write beside `model:`  {keys}"
        )


def _show_rows(rows: list[list[str]], title: str) -> None:
    """Print a row per configuration: a table on a terminal, else a line each."""
    console = results_console()
    headings = (
        "configuration",
        "accuracy, 95 % interval",
        "log-probability of the true class",
        "gain ± standard error",
    )
    if not console.is_terminal:
        echo(title)
        echo_rows([headings, *rows])
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=styled(title), title_justify="left")
    for name in headings:
        table.add_column(name, justify="left" if name == headings[0] else "right", overflow="fold")
    for row in rows:
        table.add_row(*(styled(entry, limit=COMMAND_LENGTH) for entry in row))
    console.print(table)
