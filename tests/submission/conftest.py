"""Fixtures of the tests of submissions: a Slurm that only takes scripts, and real jobs of this machine."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from toy_training import LEARNER, TOYS

SBATCH = """#!/bin/sh
while test -e {folder}/busy; do sleep 0.05; done
count=$(cat {folder}/count 2> /dev/null || echo 100)
echo $((count + 1)) > {folder}/count
test -e {folder}/refuses && cat {folder}/refuses >&2 && exit 1
cp "$1" {folder}/$((count + 1)).sh
echo "Submitted batch job $((count + 1))"
"""
SHOWS = """#!/bin/sh
echo "$0 $*" >> {folder}/calls
test -e {folder}/{name}.fails && cat {folder}/{name}.fails >&2 && exit 1
cat {folder}/{name}.txt 2> /dev/null
exit 0
"""


class Slurm:
    """The commands of Slurm, as scripts in a folder. They run nothing: what the queue says is written by the test."""

    def __init__(self, folder):
        self.folder = folder
        bin = folder / "bin"
        bin.mkdir(parents=True)
        for name in ("sbatch", "srun", "squeue", "sacct"):
            text = SBATCH if name == "sbatch" else SHOWS
            (bin / name).write_text(text.format(folder=folder, name=name))
            (bin / name).chmod(0o755)
        self.path = f"{bin}{os.pathsep}{os.environ['PATH']}"

    def script(self, job):
        return (self.folder / f"{job}.sh").read_text()

    def says(self, command, text):
        (self.folder / f"{command}.txt").write_text(text)

    def fails(self, command, text):
        (self.folder / ("refuses" if command == "sbatch" else f"{command}.fails")).write_text(text)

    def calls(self):
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    found = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", found.path)
    return found


@pytest.fixture
def write(tmp_path):
    """Write a suite into a file of the test's folder, and give its path."""

    def call(source, name="toys.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(source))
        return name

    return call


class Jobs:
    """Commands in this process, and jobs in others, whose environment has nothing of pytest's."""

    def __init__(self, shell, folder):
        self._shell, self.folder = shell, folder

    def __call__(self, verb, *words, **environment):
        return self._shell(verb, *words, plugins=[TOYS, LEARNER], **environment)

    def status(self, suite):
        """The status as JSON, and the exit code."""
        done = self("status", suite, "--json")
        assert done.returncode in (0, 3), done.stderr
        return json.loads(done.stdout)

    def parts(self, suite):
        return {part["name"]: part for part in self.status(suite)["shards"]}

    @property
    def folders(self):
        return sorted((self.folder / ".robharness/submissions").iterdir())

    def state(self, name, submission=-1):
        """The state that a job has recorded; empty before it begins."""
        path = self.folders[submission] / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def until(self, condition, seconds=120):
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "what is waited for has not happened"
            time.sleep(0.05)

    def ends(self, *names, submission=-1):
        """Wait until jobs have ended, processes and all."""
        for name in names:
            self.until(lambda name=name: self.state(name, submission).get("state") == "ended")
        self.until(lambda: not processes_of(self.folders[submission]))


def processes_of(folder):
    """The processes that have a folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(os.fsencode(folder) in word for word in words):
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def jobs(shell, tmp_path, monkeypatch):
    """Run commands with jobs of this machine; those that the test leaves are killed."""
    for name in [*os.environ]:
        if name.startswith(("PYTEST_", "SLURM_")):
            monkeypatch.delenv(name)
    for name, value in {"TOYS_LOG": tmp_path / "log", "TOYS_SLOW": 0, "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    found = Jobs(shell, tmp_path)
    yield found
    for folder in found.folders if (tmp_path / ".robharness/submissions").exists() else ():
        while left := processes_of(folder):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
