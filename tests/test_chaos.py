"""Killed runs: stored files are complete, and the next run ends as if it had never been killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from robharness import api

CHAOS = Path(__file__).parent / "chaos.py"
POINTS = [
    "before the first part",
    "between parts",
    "temporary file half written",
    "before rename",
    "after rename",
    "before the folder's fsync",
    "during join",
    "during merge",
]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def chaos(suite, toys, tmp_path):
    """Kill runs of the toys; return the exit code, table and mapping of `chaos.py`."""

    def call(*options):
        path = tmp_path / "toys.yaml"
        attacks = [{"attack": "toys/climb", "nested": True, "eps": ["1/8", "1/4"]}]
        path.write_text(yaml.safe_dump(suite(attacks=attacks)))
        command = [sys.executable, CHAOS, path, "--plugin", toys, "--folder", tmp_path / "stores", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, env=ALONE, timeout=600, check=False)
        print(done.stderr)
        assert done.stdout, done.stderr
        return done.returncode, done.stderr, json.loads(done.stdout)

    return call


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_outcomes_of_an_undisturbed_run(chaos, kills):
    """Two kills at each point are chains of one and of two; ten are chains of up to four."""
    code, table, result = chaos("--kills", kills)
    assert list(result["hits"]) == POINTS
    assert min(result["hits"].values()) >= kills, table
    assert (code, result["found"]) == (0, {}), table


def test_a_write_without_a_rename_is_detected(chaos):
    code, table, result = chaos("--plain-write", "--kills", 1)
    assert code == 1, table
    assert "is damaged" in result["found"]["temporary file half written"], table
    assert result["found"]["before rename"] == result["found"]["after rename"] == "never reached", table


def workers_of(pid):
    """The processes that compute for this one, by their ids."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if is_worker(child)]


def is_worker(pid):
    try:
        return b"robharness.engine.executors" in Path(f"/proc/{pid}/cmdline").read_bytes()  # of a zombie it is empty
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds, process=None):
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until and (process is None or process.poll() is None):
        time.sleep(0.01)
    return found


def test_workers_end_when_the_main_process_is_killed(suite, toys, start_process, tmp_path):
    attacks = [{"attack": "toys/climb", "steps": 200, "eps": ["1/8", "1/4"]}]  # long enough to be killed in the middle
    source, store, path = suite(attacks=attacks), tmp_path / "store", tmp_path / "toys.yaml"
    path.write_text(yaml.safe_dump(source))
    words = ["run", path, "-p", toys, "--store", store, "--batch-size", "4", "--threads", "1", "--workers", "2"]
    with (tmp_path / "said").open("w") as output:  # no pipe, which the workers would hold open
        process = start_process(*words, stdout=output, stderr=output)
        assert wait_for(lambda: list(store.glob("cells/*/*/0*.parquet")), 120, process), Path(output.name).read_text()
        workers = workers_of(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert len(workers) == 2
    assert wait_for(lambda: not any(is_worker(pid) for pid in workers), 10), "workers outlive their main process"
    options = {"plugins": [toys], "batch_size": 4, "threads": 1}
    killed = api.load(path, store=store, plugins=[toys])
    assert not killed.is_complete
    assert sum(result.n for result in killed.cells) > 0
    again = api.run(path, store=store, workers=2, **options)
    alone = api.run(path, store=tmp_path / "alone", **options)
    assert again.is_complete and alone.is_complete
    assert again.notes == ()
    for mine, theirs in zip(again.cells, alone.cells, strict=True):
        assert mine.provenance == theirs.provenance
        assert list(mine.columns) == list(theirs.columns)
        for name in mine.columns:
            np.testing.assert_array_equal(mine.columns[name], theirs.columns[name], name)
