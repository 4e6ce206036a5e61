"""The garbage collector pauses during imports of large packages, in processes of ours alone."""

import gc
from contextlib import suppress

import pytest
import yaml

from robharness import imports

COMMAND = """
import atexit, gc, sys
passes = []
def note(phase, facts):
    if "torch" in sys.modules and gc.get_freeze_count() < 100_000:
        passes.append(facts["generation"])
gc.callbacks.append(note)
atexit.register(lambda: print(f"{gc.isenabled()} {gc.get_freeze_count()} {len(passes)}", file=sys.stderr))
from robharness.cli import entry_point
entry_point()
"""


def test_a_command_keeps_what_torch_made_from_the_collector(suite, toys, tmp_path, run_process):
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(suite(attacks=None)))
    done = run_process("run", "toys.yaml", "-p", toys, program=("-c", COMMAND), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    is_enabled, frozen, passes = done.stderr.split()[-3:]
    assert is_enabled == "True"
    assert int(frozen) > 100_000, "objects of torch and of ours"
    assert int(passes) == 0, "the collector ran while torch was imported"


@pytest.fixture
def own_process(monkeypatch):
    """Let this process count as one of ours."""
    monkeypatch.setattr(imports, "_is_own_process", False)
    imports.declare_own_process()
    yield
    gc.enable()


def test_the_collector_of_a_users_process_stays_as_it_is():
    before = gc.get_freeze_count()
    with imports.large_import("nowhere"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_the_collector_pauses_in_a_process_of_ours(own_process):
    before, was_enabled = gc.get_freeze_count(), True
    with suppress(ImportError), imports.large_import("nowhere"):
        was_enabled = gc.isenabled()
        raise ImportError
    assert not was_enabled
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


def test_an_imported_package_changes_nothing(own_process):
    before = gc.get_freeze_count()
    with imports.large_import("pytest"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_a_collector_that_was_stopped_is_not_started(own_process):
    gc.disable()
    with imports.large_import("nowhere"):
        assert not gc.isenabled()
    assert not gc.isenabled()
