"""The command `robharness`: one module per verb, each loaded when it is called.

This module imports nothing that takes long, so that `entry_point` handles Ctrl-C from the first moments on.
"""

from __future__ import annotations

import signal
import sys

import lazy_loader

from robharness import imports, interrupts

TYPE_CHECKING = False  # see robharness/__init__.py
if TYPE_CHECKING:
    from robharness.cli.command import VERBS, cli, main

__all__ = ["VERBS", "cli", "entry_point", "main"]

__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"command": ["VERBS", "cli", "main"]})


def entry_point() -> None:
    """Run the command line of this process, and exit with the code of `main`.

    A closed standard output, e.g. after `| head -1`, is no failure: what the reader of the pipe wanted was written. The
    verdicts of `check` and `verify` stay as they are, since a script depends on them.
    """
    try:
        interrupts.handle_interrupts()
        code = _run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is decided; a late Ctrl-C must not change it
    except KeyboardInterrupt:  # during the imports, or once more while `main` ends
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = 128 + signal.SIGINT
    exec("")  # else Python ends by the signal if KeyboardInterrupt left another `exec`, although it was caught later
    sys.exit(code)


def _run() -> int:
    """Run the command line with streams that never fail, and return the exit code that fits to them, too."""
    from robharness import streams

    imports.declare_own_process()
    imports.request_exact_products()
    streams.make_robust()
    from robharness.cli.command import main
    from robharness.errors import ExitCode

    code = main(sys.argv[1:])
    error = streams.stdout_error()
    streams.divert_stdout()  # for threads and exit handlers of plugins
    if isinstance(error, BrokenPipeError):
        return ExitCode.FINE if code == ExitCode.INCOMPLETE and sys.argv[1:2] != ["check"] else code
    if error is not None:
        what = f"standard output cannot be written: {error.strerror}. What is stored is intact"
        sys.stderr.write(f"robharness: {what}. Try: df -h, then the same command\n")
        return code or ExitCode.USAGE
    return code
