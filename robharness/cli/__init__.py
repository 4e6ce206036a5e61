"""The command `robharness`: one module per verb, each loaded when it is asked for."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir

import click

from robharness.cli.verbs import VERBS, Verbs
from robharness.errors import ExitCode, SuiteError, UserError

__all__ = ["VERBS", "cli", "main"]


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="robharness", prog_name="robharness")
def cli() -> None:
    """Measure how much more fragile one model is than another.

    Start with: robharness run suites/quickstart.yaml
    """


def main() -> None:
    """Entry point: every end of a command is one of ExitCode."""
    code = _main(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is decided; a late Ctrl-C must not change it
    sys.exit(code)


def _main(arguments: list[str]) -> int:
    try:
        code = cli.main(args=arguments, prog_name="robharness", standalone_mode=False)
        return int(code or ExitCode.FINE)
    except click.ClickException as error:
        error.show(sys.stderr)
        return ExitCode.USAGE
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        prefix = "" if isinstance(error, SuiteError) else "robharness: "  # places first, as editors like them
        click.echo(f"{prefix}{error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        how = "the same command without --fresh" if any("--fresh" in word for word in arguments) else "the same command"
        click.echo(f"robharness: interrupted; {how} goes on from what is stored", err=True)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # e.g. `robharness list models | head -1`
        return ExitCode.FINE
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        click.echo(
            f"robharness: a bug of ours: {type(error).__name__}: {error}; please report {_write_bug()}", err=True
        )
        return ExitCode.INTERNAL


def _write_bug() -> Path:
    from importlib.metadata import version

    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    path = Path(gettempdir()) / f"robharness-bug-{time}-{os.getpid()}.txt"
    path.write_text(f"robharness {version('robharness')}\nPython {sys.version}\n{sys.argv}\n\n{traceback.format_exc()}")
    return path
