"""The verbs of the command line: built-in ones, a module each, and those that plugins add."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import copy
from importlib import import_module
from typing import Any

import click

from robharness.errors import UserError, describe, did_you_mean
from robharness.streams import is_stdout_closed, release_stdout, stdout_for_results
from robharness.text import printable

VERBS = {
    "run": "Compute the missing cells of a suite, and report.",
    "train": "Train the missing models of a suite; compute nothing else.",
    "fetch": "Get the published weights and data that a suite misses.",
    "plan": "Show the cells of a suite, done and missing; compute nothing.",
    "submit": "Send the missing work of a suite to a cluster, as an array of jobs.",
    "status": "Show what is stored of a suite, what its jobs do, and the time left.",
    "report": "Report the stored results of a suite; compute nothing.",
    "compare": "Compare stored results by example: two stores, baselines, suites or models.",
    "check": "Compare a suite with a baseline; the exit code says whether a cell regressed.",
    "verify": "Test a model on a few examples against its published accuracy.",
    "merge": "Copy the contents of other stores into one.",
    "export-adversarial": "Write adversarial examples to files.",
    "export-corruptions": "Write corrupted images to files, in the layout of ImageNet-C or CIFAR-C.",
    "list": "List plugins, models, attacks, corruptions, datasets, metrics or artefacts.",
    "show": "Show every option of a model, an attack, a data set or another part of a plugin.",
    "schema": "Print the JSON Schema of suites, for editors, or of reports, comparisons or checks.",
}
"""Built-in verbs with the line that `robharness --help` shows, so that it imports no module of a verb."""


_ORIGIN = "robharness.origin"
"""The key in a context's `meta` of the plugin that a verb comes from."""


class Verbs(click.Group):
    """The group of all verbs. A verb's module is imported when it is called; plugins are loaded for other words."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = copy(import_module(f"robharness.cli.{name.replace('-', '_')}").command)
        if command.callback is not None:
            command.callback = stdout_for_results()(command.callback)  # plugins print, too
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))
        with formatter.section("Plugins may add commands"):
            formatter.write_text("robharness list plugins")

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args or args[0] in VERBS or args[0].startswith("-"):
            return super().resolve_command(context, args)
        name, *words = args
        plugins, words = _plugin_options(words)
        from robharness.plugins.discovery import discover

        with stdout_for_results():
            commands = discover(plugins).commands
        if name in commands:
            release_stdout()  # what the command prints is its result
            context.meta[_ORIGIN], command = commands[name]
            return name, command, [word for word in words if word != "--debug"]
        known = [*VERBS, *commands]
        context.fail(
            f"no verb '{printable(name)}'{did_you_mean(name, known) or '.'} Verbs: {', '.join(map(printable, known))}"
        )

    def invoke(self, context: click.Context) -> Any:
        """Run the verb and return its exit code. Raises UserError, with the plugin's name, if a plugin's verb fails."""
        from robharness.plugins.calls import plugin_code  # which takes longer than `--help`

        try:
            with plugin_code(importing=True):
                code = _ended(super().invoke, context)
                if _ORIGIN in context.meta and not isinstance(code, int | None):
                    raise TypeError(f"it returned {type(code).__name__}, not an exit code")
                if _ORIGIN in context.meta and code is not None and not 0 <= code <= LARGEST_CODE:
                    raise ValueError(f"it returned {code}, and an exit code is a number up to {LARGEST_CODE}")
                return code
        except (click.ClickException, click.Abort, click.exceptions.Exit, UserError):
            raise
        except Exception as error:  # a plugin's verb may raise anything
            if _ORIGIN not in context.meta or (isinstance(error, BrokenPipeError) and is_stdout_closed()):
                raise
            raise UserError(
                f"the verb '{context.invoked_subcommand}' of {context.meta[_ORIGIN]} failed: "
                f"{describe(error)}. Try: the same command with --debug"
            ) from error


LARGEST_CODE = 255
"""The largest exit code that an operating system keeps; of larger numbers it keeps the last eight bits, perhaps 0."""


def _ended(invoke: Callable[[click.Context], Any], context: click.Context) -> Any:
    """Call a verb and return what it returned, or for a plugin's verb the exit code with which it ended by itself."""
    try:
        return invoke(context)
    except SystemExit as error:
        if _ORIGIN not in context.meta:
            raise
        if error.code is None or isinstance(error.code, int):
            return int(error.code or 0) & LARGEST_CODE
        click.echo(str(error.code), file=sys.stderr)  # as Python does
        return 1


def _plugin_options(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the values of `-p`, which a plugin's verb need not declare, and the other words."""
    plugins, others, rest = [], [], iter(words)
    for word in rest:
        if word == "-p":
            plugins += [value for value in [next(rest, None)] if value is not None]
        else:
            others.append(word)
    return plugins, others
