"""The command line: its verbs, and the exit code and message of every way in which one ends."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import click

from robharness import interrupts
from robharness.cli.output import echo, echo_lines
from robharness.cli.verbs import VERBS, Verbs
from robharness.errors import ExitCode, Interrupted, SuiteError, UserError, describe
from robharness.streams import is_stdout_closed
from robharness.text import lines, printable, sentence

__all__ = ["VERBS", "cli", "main"]


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="robharness", prog_name="robharness")
def cli() -> None:
    """Measure how much accuracy models lose under attacks and corruptions, and compare the models.

    Start with: robharness run suites/quickstart.yaml
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, one of ExitCode; no exception leaves it.

    arguments: the words after `robharness`, such as ["run", "suite.yaml"]; those of this process if None.
    """
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        return int(_invoke(words) or ExitCode.FINE)
    except BaseException as error:  # those of plugins were made ordinary ones, so that no SystemExit has a reason
        return _explain(error, words)


def _invoke(words: list[str]) -> int | None:
    """Run a command. `cli.main` is not used, since it takes each EOFError for Ctrl-C and EPIPE for an exit code."""
    if instruction := os.environ.get("_ROBHARNESS_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "robharness", "_ROBHARNESS_COMPLETE", instruction)
    if any("\0" in word for word in words):  # from Python alone; no path and no name can have it
        raise click.UsageError("an argument has a NUL character")
    if problem := _empty_argument(words):
        raise click.UsageError(
            f"{problem}; perhaps a variable of the shell is not set. Try: robharness {words[0]} --help"
        )
    try:
        with cli.make_context("robharness", [*words], obj=tuple(words)) as context:
            code: int | None = cli.invoke(context)
            return code
    except click.exceptions.Exit as error:
        return error.exit_code


def _empty_argument(words: list[str]) -> str:
    """Name the first argument of a built-in verb that is empty, or return an empty text.

    An empty path would be the working directory, and an empty glob all cells. Plugins' verbs may have a use for it.
    """
    for before, word in pairwise(words if words and words[0] in VERBS else ()):
        if not word:
            return f"the argument after '{printable(before)}' is empty"
        if re.fullmatch("--[a-z-]+=", word):
            return f"'{word}' has no value"
    return ""


def _explain(error: BaseException, words: list[str]) -> int:
    """Print a sentence about the error that ended a command, and return the exit code."""
    is_interrupt = isinstance(error, KeyboardInterrupt | click.Abort) or interrupts.was_typed()
    if is_interrupt and not isinstance(error, Interrupted):  # any other error is a consequence of Ctrl-C
        with interrupts.ignored():
            how = "the same command without --fresh" if any("--fresh" in word for word in words) else "the same command"
            echo(f"robharness: interrupted; {how} goes on from what is stored", err=True)
        return ExitCode.INTERRUPTED
    if isinstance(error, click.ClickException):
        shown = io.StringIO()
        error.show(shown)
        echo_lines(shown.getvalue().removesuffix("\n"), err=True)
        return ExitCode.USAGE
    if isinstance(error, BrokenPipeError) and is_stdout_closed() and words[:1] != ["check"]:
        return ExitCode.FINE
    if "--debug" in words:
        echo_lines(_traceback(error), err=True)
    if isinstance(error, UserError):
        prefix = "" if isinstance(error, SuiteError) else "robharness: "  # places first, as editors like them
        notes = map(sentence, getattr(error, "__notes__", ()))
        echo_lines("\n".join([f"{prefix}{error}", *notes]), err=True)
        return error.exit_code
    try:
        report = str(_write_bug(error, words))
    except Exception:  # e.g. no folder for temporary files, or one that is full
        echo_lines(_traceback(error), err=True)
        report = "the traceback above"
    echo(f"robharness: a bug of ours: {describe(error)}; please report {report}", err=True)
    return ExitCode.INTERNAL


def _write_bug(error: BaseException, words: list[str]) -> Path:
    """Write a traceback into a new file that only this user can read, and return its path."""
    from importlib.metadata import version
    from tempfile import mkstemp

    versions = f"robharness {version('robharness')}\nPython {sys.version}"
    text = f"{versions}\n{['robharness', *words]}\n\n{lines(_traceback(error))}\n"
    number, path = mkstemp(prefix=f"robharness-bug-{datetime.now(UTC):%Y%m%dT%H%M%S}-", suffix=".txt")
    try:
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except BaseException:
        os.unlink(path)
        raise
    return Path(path)


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)).removesuffix("\n")
    except Exception:  # the exception's class may be a plugin's
        return f"{describe(error)}, whose traceback cannot be printed"
