"""Ask a question in a fresh process: another interpreter, with other hashes of texts and nothing in memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from robharness.testing.contract import Broken, Subject

SECONDS = 600
"""After which a process is taken to be stuck."""


def ask(question: Callable[[Subject], Any], subject: Subject) -> Any:
    """What `question(subject)` gives there, plain data; `question` is a function of a module.

    It has as many threads for torch as this one. Raises Broken where it ends badly.
    """
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": seed}
    if torch := sys.modules.get("torch"):
        environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from robharness.testing.fresh import answer; answer()"],
        input=pickle.dumps((question, subject)),
        capture_output=True,
        env=environment,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        ended = lines[-1] if lines else f"exit code {done.returncode}"
        raise Broken(f"a fresh process that does the same ended with: {ended}")
    return pickle.loads(done.stdout)


def answer() -> None:
    """What the other process does: what is printed there goes to the error stream."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        question, subject = pickle.load(sys.stdin.buffer)
        pickle.dump(question(subject), out)
