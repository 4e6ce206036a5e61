"""Fixtures of the core's tests. No first-party plugin is needed: the models, attacks and data are toys."""

import gc
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uuid import uuid4

import pytest
from object_server import BUCKET, proxied, s3_server, settings

from robharness import api
from robharness.cli import main

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a job in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all test files are imported: what they import lives as long as the process


def pytest_collection_finish():
    """Let the garbage collector run from now on, without passes over what the imports made."""
    gc.freeze()
    gc.enable()


TOYS, TEAMS = (str(Path(__file__).parent / name) for name in ("toys.py", "teams.py"))


@pytest.fixture
def toys():
    """The path of the plugin of toys, for `-p`."""
    return TOYS


@pytest.fixture
def teams():
    """The paths of both plugins of toys."""
    return [TOYS, TEAMS]


@pytest.fixture
def suite():
    """A small suite over the toys, as a mapping; keyword arguments change its keys."""

    def make(**changes):
        base = {
            "robharness": 1,
            "name": "toys",
            "data": {"name": "toys/pixels", "split": "test"},
            "models": [{"model": "toys/net", "label": "Net", "reference": True}],
            "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": ["1/8"]}],
        }
        return {key: value for key, value in (base | changes).items() if value is not None}

    return make


@pytest.fixture
def run(tmp_path):
    """Run a suite of toys in a store of its own (or a named one) and give the results."""

    def call(source, store="store", **options):
        return api.run(source, store=tmp_path / store, plugins=[TOYS, TEAMS], **options)

    return call


# --- an object store ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_port():
    """The port of a server of S3 with an empty bucket, for all tests of this process."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port, tmp_path, monkeypatch):
    """A proxy before the server, which the environment names; `url` is a prefix that no other test has."""
    with proxied(s3_port) as proxy:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in settings(proxy.endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        proxy.url = f"s3://{BUCKET}/{uuid4().hex}"
        yield proxy


# --- the command line ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The exit code and the two texts of a command that has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def shell_plugins():
    """The plugins that `shell` loads with -p; a test file may override this fixture."""
    return [TOYS]


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys, shell_plugins):
    """Run `robharness WORDS` in this process and in the folder of the test; give a Finished.

    plugins: the plugins to load with -p; those of `shell_plugins` if None, and none for a command without -p.
    environment: variables for this command alone.
    """
    takes_no_plugins = {"merge", "--help", "--version"}

    def run(*words, plugins=None, **environment):
        monkeypatch.chdir(tmp_path)
        if plugins is None:
            plugins = [] if words[0] in takes_no_plugins else shell_plugins
        arguments = [*map(str, words), *(word for plugin in plugins for word in ("-p", str(plugin)))]
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, str(value))
            code = main(arguments)
        stdout, stderr = capsys.readouterr()
        return Finished(returncode=int(code), stdout=stdout, stderr=stderr)

    return run


def _start(*words, environment=None, program=("-m", "robharness"), **options):
    """Start `robharness WORDS` in another process with one thread; give the Popen, with pipes for both texts.

    environment: further variables.
    program: the arguments of Python in place of `-m robharness`, such as ("-c", "...").
    options: of subprocess.Popen.
    """
    command = [sys.executable, *map(str, program), *map(str, words)]
    variables = {key: str(value) for key, value in (environment or {}).items()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, **(pipes | options))


@pytest.fixture
def start_process():
    """Start `robharness WORDS` as `_start` does, for tests that send signals; it is killed if the test leaves it."""
    started = []

    def start(*words, **options):
        started.append(_start(*words, **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def run_process():
    """Run `robharness WORDS` as `_start` does, for tests that need another process, and wait; give a Finished."""

    def run(*words, timeout=240, **options):
        with _start(*words, **options) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            finally:
                process.kill()
        return Finished(returncode=process.returncode, stdout=stdout, stderr=stderr)

    return run


@dataclass
class _Recording:
    """A corruption around another one. images: (name, severity, id) -> uint8 image."""

    name: str
    inner: Any
    images: dict

    def perturb(self, model, batch, severity, rng):
        found = self.inner.perturb(model, batch, severity, rng)
        for id, image in zip(batch.ids, found.numpy(), strict=True):
            self.images[self.name, severity, id] = image.copy()
        return found


@pytest.fixture
def recorded():
    """Wrap every corruption of a registry that a run computes, and give the images that they will return."""

    def wrap(registry):
        images = {}
        for key, entry in registry.corruptions.items():
            if (build := entry.spec.build) is not None:
                spec = replace(
                    entry.spec,
                    build=lambda params, build=build, name=entry.spec.name: _Recording(name, build(params), images),
                )
                registry.corruptions[key] = replace(entry, spec=spec)
        return images

    return wrap
