"""Options of several verbs, and the session that they describe."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.engine.environment import MOST, shard_of
from robharness.errors import UserError
from robharness.locations import Location, ObjectPath, location
from robharness.planning.weights import TRUST
from robharness.text import counted, printable

if TYPE_CHECKING:
    from robharness.suite.settings import Setting


class Count(click.IntRange):
    """A whole number from 1 to the bound of this count."""

    def __init__(self, name: str) -> None:
        super().__init__(min=1, max=MOST[name])

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if isinstance(value, str) and len(value) > 20:
            self.fail(f"'{printable(value)}' is not a whole number from 1 to {self.max}", parameter, context)
        return super().convert(value, parameter, context)


suite = click.argument("suite", type=click.Path(path_type=Path))
plugin = click.option(
    "-p",
    "plugins",
    multiple=True,
    metavar="PLUGIN",
    help="Load a plugin from ./FILE.py, or exclude one with no:NAME. May be repeated.",
)


class StorePlace(click.ParamType):  # type: ignore[type-arg]
    """The place of a store: a folder, or a prefix of an object store."""

    name = "path"

    def convert(self, value: Any, parameter: Any, context: Any) -> Location:
        return value if isinstance(value, ObjectPath) else location(value)


store = click.option(
    "--store", type=StorePlace(), default=".robharness", show_default=True,
    help="Folder of results, or s3://BUCKET/PREFIX.",
)  # fmt: skip
data_root = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder of data and weights; else $ROBHARNESS_DATA, else ./data.",
)
limit = click.option(
    "--limit", type=Count("limit"), metavar="N", help="Only the first N examples of the data set's fixed order."
)


class KeyValue(click.ParamType):  # type: ignore[type-arg]
    """The value `KEY=VALUE` of `--set`."""

    name = "setting"

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        from robharness.suite.settings import parse_setting

        try:
            return parse_setting(value)
        except ValueError as error:
            self.fail(f"{error}. Try: --set seed=1", parameter, context)


settings = click.option(
    "--set", "settings", type=KeyValue(), multiple=True, metavar="KEY=VALUE",
    help="Set a value of the suite, e.g. models.*.epochs=1 or data.limit=100. May be repeated.",
)  # fmt: skip
audit = click.option("--audit", is_flag=True, help="Audit the models, as `audit: true` in the suite does.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
batch_size = click.option(
    "--batch-size", type=Count("batch_size"), metavar="N",
    help="Examples per pass; by default chosen by the size of the input and the device.",
)  # fmt: skip
display = click.option(
    "--display", type=click.Choice(["auto", "rich", "plain", "none"]), default="auto", show_default=True,
    help="Progress on standard error: rich (table or bar), plain (lines), none, or auto: rich on a terminal.",
)  # fmt: skip

intervals = click.option(
    "--intervals", is_flag=True, help="Show every number's interval, also in tables without room for all side by side."
)
by = click.option(
    "--by", type=click.Choice(["perturbation", "model"]), default="perturbation", show_default=True,
    help="Rows of the tables; model: a row per model and a column per perturbation.",
)  # fmt: skip


def device(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --device of one device.

    what: the verb of its help text, such as "compute on".
    """
    return click.option(
        "--device",
        metavar="DEVICE",
        default="cpu",
        show_default=True,
        help=f"Device to {what}, as torch names it: cpu, cuda, cuda:1.",
    )


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names or patterns with commas between."""

    name = "names"

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(",") if name.strip())


class Shard(click.ParamType):  # type: ignore[type-arg]
    """The value `i/k`, the i-th of k parts from 1, or `auto`."""

    name = "shard"

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[int, int]:
        if value == "auto":
            try:
                return shard_of(os.environ)
            except UserError as error:
                raise UserError(f"--shard auto: {error}") from None
        index, _, count = value.partition("/")
        is_pair = re.fullmatch(r"[0-9]{1,20}/[0-9]{1,20}", value)
        if not (is_pair and 1 <= int(index) <= int(count) <= MOST["shards"]):
            self.fail(
                f"'{printable(value)}' is not a shard. Try: 1/4 for the first of four, or auto", parameter, context
            )
        return int(index), int(count)


def _trusted(context: Any, parameter: Any, digests: tuple[str, ...]) -> None:
    """Trust the files of these digests in this process and in its subprocesses, by an environment variable."""
    wrong = next((digest for digest in digests if not re.fullmatch("[0-9a-f]{64}", digest)), None)
    if wrong is not None:
        raise click.BadParameter(f"'{wrong}' is no SHA-256. Try: sha256sum FILE", context, parameter)
    if digests:
        os.environ["ROBHARNESS_TRUST"] = ",".join(digests)


trust = click.option(
    TRUST, metavar="SHA256", multiple=True, callback=_trusted, expose_value=False,
    help="Load the weights file with this SHA-256 although it is a pickle that can run any code. May be repeated.",
)  # fmt: skip


def suite_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument SUITE and the options of every verb on a suite."""
    return suite(_plan_options(function))


def report_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the same with an argument SUITE that may be left out."""
    return click.argument("suite", required=False)(_plan_options(function))


def _plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (debug, as_json, limit, data_root, store, settings, plugin):
        function = option(function)
    return function


def compute_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every verb that computes missing cells, and shows its progress."""
    return worker_options(display(function))


def worker_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how missing cells are computed."""
    for option in (
        click.option("-x", "stop_at_failure", is_flag=True, help="Stop at the first cell or training that fails."),
        trust,
        batch_size,
        click.option("--threads", type=Count("threads"), metavar="N", help="CPU threads per process."),
        click.option(
            "--executor", metavar="NAME", help="Start workers by: in-process, subprocess, or a plugin's executor."
        ),
        click.option(
            "--workers", type=Count("workers"), metavar="N", help="Compute with N workers, by default subprocesses."
        ),
        click.option(
            "--device", metavar="DEVICE", default="cpu", show_default=True,
            help="Devices to compute on, as torch names them: cpu, cuda, cuda:1. With commas between, one process for "
                 "each.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def layout_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the layout of tables."""
    return intervals(by(function))


def with_audit(settings: tuple[Setting, ...], audit: bool) -> tuple[Setting, ...]:
    """Return the settings of a suite, with that of the option --audit if it is given."""
    from robharness.suite.settings import parse_setting

    return (*settings, *([parse_setting("audit=true")] if audit else []))


only = click.option(
    "--only", metavar="GLOB", help="Compute only cells whose name, model, label or perturbation matches."
)

SESSION_FIELDS = ("device", "threads", "only", "shard", "stop_at_failure", "fetch")
"""Options of a verb with which its session is opened."""


def with_session(function: Callable[..., int]) -> Callable[..., int]:
    """Open the session that a verb's options describe, and pass it as `session` with the other options.

    A verb with the option `--display` gets a session that shows its progress.
    """
    return _opening(function, is_complete=True)


def with_incomplete_session(function: Callable[..., int]) -> Callable[..., int]:
    """Open a session as `with_session` does, also if data or weights are missing."""
    return _opening(function, is_complete=False)


def _opening(function: Callable[..., int], *, is_complete: bool) -> Callable[..., int]:
    @wraps(function)
    def command(**options: Any) -> int:
        from robharness.engine.executors.processes import prepared_processes, processes_of_run

        asked = [options.get(name) for name in ("workers", "device", "executor")]
        with prepared_processes(processes_of_run(*asked) if "workers" in options else 0):
            return with_plan(**options)

    def with_plan(
        suite: Path,
        plugins: tuple[str, ...],
        store: Location,
        data_root: Path | None,
        debug: bool,
        settings: tuple[Setting, ...],
        limit: int | None = None,
        audit: bool = False,
        **options: Any,
    ) -> int:
        from robharness.plugins.discovery import discover
        from robharness.session import Session

        fields = {name: options.pop(name) for name in SESSION_FIELDS if name in options}
        registry = discover(plugins)
        if "display" in options:
            from robharness.cli.progress import ProgressDisplay

            fields["listener"] = listener = ProgressDisplay(options.pop("display"))
            if registry.problems:
                left_out = counted(len(registry.problems), "plugin was", "plugins were")
                listener.message(f"{left_out} left out. Try: robharness list plugins")
        overrides = with_audit(settings, audit)
        session = Session.open(
            suite,
            store=store,
            data=data_root,
            limit=limit,
            registry=registry,
            overrides=overrides,
            **fields,
            is_complete=is_complete,
        )
        return function(session=session, **options)

    return command
