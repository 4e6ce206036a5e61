"""Imports of large packages, in processes of ours: the collector pauses, and MKL's products are exact."""

import gc
from contextlib import suppress

import pytest
import yaml

from robharness import api, imports

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


PRODUCTS = """
import os, sys
from robharness import api, imports
if "request" in sys.argv:
    imports.request_exact_products()
import torch
torch.set_num_threads(1)
draws = torch.Generator().manual_seed(0)
for rows in range(4, 65, 4):
    for inputs in (24, 64, 96, 147, 512):
        for outputs in (2, 3, 8):
            layer = torch.nn.Linear(inputs, outputs)
            for value in layer.parameters():
                value.data.uniform_(-1, 1, generator=draws)
            x = torch.empty(rows, inputs).uniform_(-1, 1, generator=draws)
            alike = (torch.equal(layer(x.roll(shift, 0)).roll(-shift, 0), layer(x)) for shift in range(rows))
            assert all(alike), (rows, inputs, outputs)
print(os.environ.get("MKL_CBWR"))
"""


def test_products_of_a_command_do_not_depend_on_the_position_of_rows(run_process, monkeypatch):
    monkeypatch.delenv("MKL_CBWR")
    exact = run_process("request", program=("-c", PRODUCTS))
    assert (exact.returncode, exact.stdout.strip()) == (0, "AUTO,STRICT"), exact.stderr


def test_a_mode_of_products_that_is_set_stays(run_process, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert run_process("request", program=("-c", PRODUCTS)).stdout.strip() == "COMPATIBLE"


def test_the_mode_of_products_is_stored(suite, toys, tmp_path, run_process, monkeypatch):
    monkeypatch.delenv("MKL_CBWR")
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(suite(attacks=None)))
    done = run_process("run", "toys.yaml", "-p", toys, "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = api.load(tmp_path / "toys.yaml", plugins=[toys], store=tmp_path / ".robharness")
    kept = {each["versions"]["MKL_CBWR"] for cell in results.cells for each in cell.provenance}
    assert kept == {"AUTO,STRICT"}
