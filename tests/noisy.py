"""A plugin that prints on standard output in every way, at every stage, in every process: lines of NOISE."""

import atexit
import ctypes
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

from robharness import AttackSpec, Cost, ThreatModel, hookimpl

LIBC = ctypes.CDLL(None)
LOGGER = logging.getLogger("noisy")
LOGGER.addHandler(logging.StreamHandler(sys.stdout))
held = os.fdopen(os.dup(1), "w")


def reopen(words):
    with open("/dev/stdout", "a") as file:
        print(*words, file=file)


def fork(words):
    if os.fork() == 0:
        print(*words)
        sys.stdout.flush()
        os._exit(0)
    os.wait()


WAYS = {
    "print": lambda words: print(*words),
    "stdout": lambda words: sys.__stdout__.write(" ".join(words) + "\n"),
    "bytes": lambda words: sys.stdout.buffer.write(" ".join(words).encode() + b"\n"),
    "write": lambda words: os.write(1, " ".join(words).encode() + b"\n"),
    "printf": lambda words: LIBC.printf(b"%s\n", " ".join(words).encode()),
    "child": lambda words: subprocess.run(["echo", *words], check=True),
    "system": lambda words: os.system(f"echo {' '.join(words)}"),
    "logging": lambda words: LOGGER.warning(" ".join(words)),
    "held": lambda words: print(*words, file=held, flush=True),
    "reopened": reopen,
    "fork": fork,
    "thread": lambda words: threading.Timer(0.01, print, words).start(),
}


def noise(stage):
    for way, write in WAYS.items():
        if (way, stage) != ("thread", "exit"):  # when no thread can be started any more
            write(["NOISE", way, stage])


noise("import")
atexit.register(noise, "exit")


@dataclass(frozen=True, kw_only=True)
class Params:
    pass


class Attack:
    def __init__(self, params):
        noise("build")

    def perturb(self, model, batch, eps, rng):
        noise("perturb")
        return batch.x


def threat(params):
    noise("threat")
    return ThreatModel(norm="linf")


def cost(params):
    noise("cost")
    return Cost()


@hookimpl
def robharness_attacks():
    noise("hook")
    yield AttackSpec(name="none", summary="No change", access="gradient", params=Params, threat=threat, cost=cost,
                     build=Attack)  # fmt: skip


@hookimpl
def robharness_run_finished(results):
    noise("finished")


@hookimpl
def robharness_commands():
    import click

    @click.command("speak")
    def speak():
        for way in ("print", "write", "printf", "child"):
            WAYS[way](["RESULT", way])
        return 3

    yield speak
