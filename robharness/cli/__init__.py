"""The command `robharness`: one module per verb, each loaded when it is called."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir

import click

from robharness.cli.output import echo, echo_lines
from robharness.cli.verbs import VERBS, Verbs
from robharness.errors import ExitCode, SuiteError, UserError, describe
from robharness.streams import make_robust, stdout_error
from robharness.text import lines

__all__ = ["VERBS", "cli", "main"]


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="robharness", prog_name="robharness")
def cli() -> None:
    """Measure how much accuracy models lose under attacks and corruptions, and compare the models.

    Start with: robharness run suites/quickstart.yaml
    """


def entry_point() -> None:
    """Run the command line of this process, and exit with the code of `main`.

    A closed standard output, e.g. after `| head -1`, is no failure: what the reader of the pipe wanted was written.
    """
    make_robust()
    code = main(sys.argv[1:])
    error = stdout_error()
    if isinstance(error, BrokenPipeError):
        code = ExitCode.FINE if code in (ExitCode.REGRESSION, ExitCode.INCOMPLETE) else code
    elif error is not None:
        what = f"standard output cannot be written: {error.strerror}. What is stored is intact"
        echo(f"robharness: {what}. Try: df -h, then the same command", err=True)
        code = code or ExitCode.USAGE
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is decided; a late Ctrl-C must not change it
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, one of ExitCode; no exception leaves it.

    arguments: the words after `robharness`, such as ["run", "suite.yaml"]; those of this process if None.
    """
    arguments = [*(sys.argv[1:] if arguments is None else arguments)]  # list is a module here: the verb
    try:
        if any("\0" in word for word in arguments):  # from Python alone; no path and no name can have it
            raise click.UsageError("an argument has a NUL character")
        code = cli.main(args=arguments, prog_name="robharness", standalone_mode=False, obj=tuple(arguments))
        return int(code or ExitCode.FINE)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        echo_lines(shown.getvalue().removesuffix("\n"), err=True)
        return ExitCode.USAGE
    except UserError as error:
        if "--debug" in arguments:
            echo_lines(traceback.format_exc(), err=True)
        prefix = "" if isinstance(error, SuiteError) else "robharness: "  # places first, as editors like them
        echo_lines(f"{prefix}{error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        how = "the same command without --fresh" if any("--fresh" in word for word in arguments) else "the same command"
        echo(f"robharness: interrupted; {how} goes on from what is stored", err=True)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.FINE
    except Exception as error:
        if "--debug" in arguments:
            echo_lines(traceback.format_exc(), err=True)
        try:
            report = str(_write_bug(arguments))
        except OSError:  # no folder for temporary files
            echo_lines(traceback.format_exc(), err=True)
            report = "the traceback above"
        echo(f"robharness: a bug of ours: {describe(error)}; please report {report}", err=True)
        return ExitCode.INTERNAL


def _write_bug(arguments: Sequence[str]) -> Path:
    from importlib.metadata import version

    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    path = Path(gettempdir()) / f"robharness-bug-{time}-{os.getpid()}.txt"
    versions = f"robharness {version('robharness')}\nPython {sys.version}"
    text = f"{versions}\n{['robharness', *arguments]}\n\n{lines(traceback.format_exc())}"
    path.write_text(text, encoding="utf-8", errors="replace")
    return path
