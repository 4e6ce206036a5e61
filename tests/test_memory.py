"""Too little memory: smaller batches, which are reported, give the same outcomes.

The lack is real: what a process may map is limited a little above what it has mapped when all is imported, and toys
ask for memory in proportion to the rows of a pass, or to the examples of a batch.
"""

import pytest
import yaml

from robharness import api, report

ROOM = 1200
"""Megabytes: 64 rows, or 40 examples, of the toys' are more, and half of them with all that else is needed are less."""
LIMITED = f"""
import resource, sys
import pyarrow.parquet, robharness.report, robharness.engine.worker
from robharness.cli import entry_point
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + {ROOM} * 2**20,) * 2)  # also of the processes that it starts
entry_point()
"""
QUIET = {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""No addresses are set aside for later."""
COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size", "attacked")


def outcomes(results):
    """{(label, perturbation): its outcomes, bit by bit}, of complete cells alone."""
    return {
        (result.cell.model.label, result.cell.short_name): [result.columns[name].tobytes() for name in COLUMNS]
        for result in results.cells
        if result.is_complete
    }


@pytest.fixture
def limited(tmp_path, toys, run_process):
    """`robharness run` of a suite with little memory, and `robharness report` after it: both as they ended."""

    def call(source, *words):
        path = tmp_path / "toys.yaml"
        path.write_text(yaml.safe_dump(source))
        rest = [str(path), "-p", toys, "--store", str(tmp_path / "store")]
        words = ["run", *rest, "--batch-size", "64", *words]
        run = run_process(*words, program=["-c", LIMITED], environment=QUIET)
        return run, run_process("report", *rest, environment=QUIET)

    return call


def test_a_pass_that_exceeds_memory_halves_the_batch_size(suite, run, limited, toys, tmp_path):
    models = [{"model": "toys/net", "label": label, "megabytes": megabytes}
              for label, megabytes in [("Hungry", 25), ("Starving", 2 * ROOM), ("Net", 0)]]  # fmt: skip
    source = suite(models=models)
    done, report = limited(source)
    assert (done.returncode, report.returncode) == (3, 3), done.stderr
    assert "Hungry: memory was too small for 64 examples per pass; the run goes on with 32" in done.stdout
    assert "Hungry: memory was too small for 32" not in done.stdout
    starving = "Starving · toys/pixels/test · clean and 3 more cells: toys/net: memory is too small for a pass of one"
    for output in (done.stdout, report.stdout):
        assert "Hungry: memory was too small for 64 examples per pass; 32 were taken" in output
        assert starving in output
        assert "Net: memory" not in output
    whole = outcomes(run(source, "alone", batch_size=4))
    assert len(whole) == 12
    found = api.load(source, store=tmp_path / "store", plugins=[toys])
    assert outcomes(found) == {cell: bits for cell, bits in whole.items() if cell[0] != "Starving"}
    assert {entry["rows"] for result in found.of("Net", "attack") for entry in result.provenance} == {64}


def test_a_plugin_that_exceeds_memory_halves_the_units_and_is_reported(suite, run, limited, toys, tmp_path):
    """Half of the 40 examples are few enough for the attack, whose tensors are torch's, and a quarter for the
    corruption, whose arrays are NumPy's."""
    attacks = [{"attack": "toys/climb", "how": "hungry", "megabytes": 45, "eps": ["1/8", "1/4"]},
               {"attack": "toys/climb", "nested": True, "eps": ["1/8", "1/4"]}]  # fmt: skip
    corruptions = [{"corruption": "toys/hungry", "megabytes": 90, "severity": 1}]
    source = suite(attacks=attacks, corruptions=corruptions, canvas=8)
    done, report = limited(source, "--workers", "1")
    assert (done.returncode, report.returncode) == (0, 0), done.stderr
    for before, rows in [(64, 32), (32, 16), (16, 8)]:
        assert f"Net: memory was too small for {before} examples per pass; the run goes on with {rows}" in done.stdout
        assert f"Net: memory was too small for {before} examples per pass; {rows} were taken" in report.stdout
    assert "the run goes on with 4" not in done.stdout
    found = api.load(source, store=tmp_path / "store", plugins=[toys])
    assert len(found.cells) == 6
    assert outcomes(found) == outcomes(run(source, "alone", batch_size=4))


def test_a_cell_that_never_fits_in_memory_fails_alone(suite, run):
    """Starving in one attack costs that cell, once, and no other cell; the nested one comes after it."""
    attacks = [{"attack": "toys/sign", "eps": "1/8"}, {"attack": "toys/rogue", "how": "starves", "eps": "1/8"},
               {"attack": "toys/climb", "nested": True, "eps": ["1/8", "1/4"]}]  # fmt: skip
    results = run(suite(attacks=attacks), batch_size=8)
    alone = outcomes(run(suite(attacks=attacks[::2]), "alone", batch_size=8))
    assert outcomes(results) == alone
    [starving] = [result for result in results.cells if not result.is_complete]
    assert starving.cell.short_name == "rogue(linf, 1/8, how=starves)"
    assert {failure.error for failure in starving.failures} == {"toys/rogue: memory is too small for one example"}
    assert report.build(results).problems == (
        f"{starving.cell.name}: toys/rogue: memory is too small for one example ({starving.failures[0].blame})",
    )


def test_fewer_images_are_read_at_once_when_memory_is_short(suite, run, monkeypatch):
    alone = outcomes(run(suite(), "alone", batch_size=4))
    monkeypatch.setenv("TOYS_HELD", "25")
    results = run(suite(), batch_size=40)
    assert results.is_complete, results.cells[0].failures[0].error
    assert outcomes(results) == alone
