"""A plugin that writes every notification of a run as a line of JSON into the file $TRACKED.

A copy of this file whose name is a way of `WAYS` does that then, at every hook; else $TRACKER is the hook and the way.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from robharness import hookimpl


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


def fail(error, *_):
    raise error


def hang(*_):
    """Wait for long, and catch the first exception that ends it, as code that tries a server again does."""
    with suppress(TimeoutError):
        time.sleep(30)
    time.sleep(30)


def set_everything(record):
    """Set every field of a frozen record, and empty what it holds, as Python lets everyone do."""
    for name, value in list(vars(record).items()):
        if isinstance(value, dict):
            value.clear()
        object.__setattr__(record, name, None)


typed = []
WAYS = {
    "raises": partial(fail, ValueError("no server")),
    "exits": lambda *_: sys.exit(0),
    "interrupts": partial(fail, KeyboardInterrupt()),
    "stops": partial(fail, StopIteration()),
    "unprintable": partial(fail, Unprintable()),
    "hangs": hang,
    "moves": lambda *_: (os.chdir("/"), os.environ.update(ROBHARNESS_DATA="/"), setattr(sys, "stdout", None)),
    "forks": lambda *_: os.fork() or sys.exit(3),
    "writes": set_everything,
    "types-ctrl-c": lambda *_: typed or (typed.append(True), os.kill(os.getpid(), signal.SIGINT)),
}  # fmt: skip


def note(hook, content, record):
    by = Path(__file__).stem
    with Path(os.environ["TRACKED"]).open("a") as file:
        file.write(json.dumps({"by": by, "hook": hook, "process": os.getpid(), **content}) + "\n")
    wanted, _, way = os.environ.get("TRACKER", "").partition(":")
    WAYS.get(by, WAYS[way] if wanted == hook else id)(record)


@hookimpl
def robharness_run_started(run):
    note("started", asdict(run), run)


@hookimpl
def robharness_cell_finished(cell):
    note("cell", {**asdict(cell), "metrics": cell.metrics, "parameters": cell.parameters}, cell)


@hookimpl
def robharness_run_finished(results):
    note("finished", {"complete": results.is_complete, "n": [cell.n for cell in results.cells]}, results)
