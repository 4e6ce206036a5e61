"""`make bench`: how long the command line takes to start, as ratios to the imports that it cannot do without.

All of it within one run on one machine: ratios are printed, and nothing is asserted as a time.
"""

import os
import resource
import subprocess
import sys
import time

import pytest

from ratios import record

BASE = "import click, pluggy, yaml"
VERB = "from robharness.cli import cli; cli.main({!r}, prog_name='robharness', standalone_mode=False)"
CASES = {"robharness --help": VERB.format(["--help"]), "robharness list models": VERB.format(["list", "models"])}
RUNS = 7


def seconds(code, folder):
    """CPU and wall seconds of a new interpreter that runs the code, with compiled modules in a folder."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL,
                   env={**environment, "PYTHONPYCACHEPREFIX": str(folder)})  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


@pytest.mark.benchmark(group="imports")
def test_start_of_the_command_line(benchmark, tmp_path):
    codes = {"base": BASE, **CASES}
    for code in codes.values():
        seconds(code, tmp_path)  # compiles the modules
    taken = {name: [] for name in codes}
    for _ in range(RUNS):
        for name, code in codes.items():
            taken[name].append(seconds(code, tmp_path))
    benchmark.pedantic(seconds, args=(BASE, tmp_path))
    for name in CASES:
        for at, clock in enumerate(("CPU", "wall")):
            for statistic in ("minimum", "median"):
                ours, base = ([pair[at] for pair in taken[key]] for key in (name, "base"))
                record(benchmark, f"{name}, {clock}, {statistic}, to {BASE}", ours, base, statistic=statistic)
