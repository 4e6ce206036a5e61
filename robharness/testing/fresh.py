"""Calls in a fresh process: another interpreter, with another hash seed and nothing in memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from robharness.imports import declare_own_process, large_import
from robharness.testing.contract import Broken, Subject

TIMEOUT = 600
"""Seconds after which the process is killed."""


def in_fresh_process(function: Callable[[Subject], Any], subject: Subject) -> Any:
    """Return `function(subject)`, computed in a fresh process with as many torch threads as this one.

    function: a function of a module, which returns plain data.
    Raises Broken if the process fails.
    """
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": seed}
    if torch := sys.modules.get("torch"):
        environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from robharness.testing.fresh import respond; respond()"],
        input=pickle.dumps((function, subject)),
        capture_output=True,
        env=environment,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise Broken(f"a fresh process that does the same ended with: {reason}")
    return pickle.loads(done.stdout)


def respond() -> None:
    """Run the function in the fresh process; its prints go to standard error, its result to standard output."""
    declare_own_process()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        with large_import("torch"):
            function, subject = pickle.load(sys.stdin.buffer)
        pickle.dump(function(subject), out)
