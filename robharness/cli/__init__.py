"""The command `robharness`: one module per verb, each loaded when it is asked for."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir

import click

from robharness.errors import ExitCode, SuiteError, UserError

VERBS = ("run", "train", "plan", "report", "verify", "merge", "export-adversarial", "export-corruptions", "list")


class _Verbs(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return [*VERBS]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"robharness.cli.{name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from robharness.errors import did_you_mean

        if args and args[0] not in VERBS and not args[0].startswith("-"):
            context.fail(f"no verb '{args[0]}'{did_you_mean(args[0], [*VERBS])} Verbs: {', '.join(VERBS)}")
        return super().resolve_command(context, args)


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("robharness"), prog_name="robharness")
def cli() -> None:
    """Measure how much accuracy models lose under attacks and corruptions, and compare the models.

    Start with: robharness run suites/quickstart.yaml
    """


def entry_point() -> None:
    """Run the command line of this process, and exit with the code of `main`."""
    code = main(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is decided; a late Ctrl-C must not change it
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, one of ExitCode; no exception leaves it.

    arguments: the words after `robharness`, such as ["run", "suite.yaml"]; those of this process if None.
    """
    arguments = [*(sys.argv[1:] if arguments is None else arguments)]  # list is a module here: the verb
    try:
        code = cli.main(args=arguments, prog_name="robharness", standalone_mode=False, obj=tuple(arguments))
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
        report = _write_bug(arguments)
        click.echo(f"robharness: a bug of ours: {type(error).__name__}: {error}; please report {report}", err=True)
        return ExitCode.INTERNAL


def _write_bug(arguments: Sequence[str]) -> Path:
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    path = Path(gettempdir()) / f"robharness-bug-{time}-{os.getpid()}.txt"
    versions = f"robharness {version('robharness')}\nPython {sys.version}"
    path.write_text(f"{versions}\n{['robharness', *arguments]}\n\n{traceback.format_exc()}")
    return path
