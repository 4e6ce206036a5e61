"""Shards: any number of parts make one whole, and each process finds its own."""

import itertools
import json
from contextlib import suppress
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from robharness import api
from robharness.engine.environment import shard_of
from robharness.errors import UserError
from robharness.planning.cells import Plan
from robharness.store import Store

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy one too


@pytest.fixture
def path(tmp_path, suite):
    path = tmp_path / "toys.yaml"
    path.write_text(yaml.safe_dump(suite()))
    return path


@ANY_MACHINE
@given(n=st.integers(0, 10**7), count=st.integers(1, 400))
def test_the_shards_are_a_partition_of_the_positions_as_even_as_can_be(n, count):
    whole = Plan(suite=None, data=SimpleNamespace(n=n))
    assert whole.span == (0, n)
    spans = [whole.shard(index, count).span for index in range(1, count + 1)]
    assert spans[0][0] == 0 and spans[-1][1] == n
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    sizes = [stop - start for start, stop in spans]
    assert min(sizes) >= 0 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("wrong", ["0/4", "5/4", "a/b", "4", "1/0", "-1/4", "1/4/2", "1/", "/4", "1.5/2", "car"])
def test_an_invalid_shard_is_one_sentence(shell, path, wrong, tmp_path):
    found = shell("run", path, "--shard", wrong)
    assert found.returncode == 2
    assert f"'{wrong}' is not a shard. Try: 1/4 for the first of four, or auto" in found.stderr
    assert found.stdout == ""
    assert not (tmp_path / ".robharness").exists()


# --- what Slurm and torchrun say -----------------------------------------------------------------------------------


def job_array(text):
    """The environments of the tasks of `sbatch --array=TEXT`, as slurmctld makes them.

    Its job_mgr.c, _create_job_array: count, smallest and largest of the ids, and as the step what follows the first
    colon, or 1.
    """
    ids = set()
    for piece in text.partition("%")[0].split(","):
        span, _, step = piece.partition(":")
        first, _, last = span.partition("-")
        ids.update(range(int(first), int(last or first) + 1, int(step or 1)))
    step = int(text.partition(":")[2].partition(",")[0].partition("%")[0] or 1)
    facts = {"COUNT": len(ids), "MIN": min(ids), "MAX": max(ids), "STEP": step}
    common = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in facts.items()}
    return [{**batch(1), **common, "SLURM_ARRAY_TASK_ID": str(id)} for id in sorted(ids)]


def batch(tasks):
    """Return the environment of a script under `sbatch --ntasks=TASKS`: one process, whatever srun starts later."""
    return {"SLURM_JOB_ID": "7", "SLURM_NTASKS": str(tasks), "SLURM_NPROCS": str(tasks), "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip


def srun(tasks, around):
    """Return the environment of each task of `srun --ntasks=TASKS`, in these surroundings."""
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_NTASKS": str(tasks)}
    return [{**around, **step, "SLURM_PROCID": str(index)} for index in range(tasks)]


def torchrun(nodes, per_node, around):
    """Return the environments of the processes of one torchrun per node."""
    world = {"WORLD_SIZE": str(nodes * per_node), "LOCAL_WORLD_SIZE": str(per_node), "GROUP_WORLD_SIZE": str(nodes)}
    return [
        {**around[node], **world, "RANK": str(node * per_node + local), "LOCAL_RANK": str(local)}
        for node in range(nodes)
        for local in range(per_node)
    ]


def parts_in_order(count):
    return [(index, count) for index in range(1, count + 1)]


@pytest.mark.parametrize(
    ("array", "count"),
    [
        ("1-4", 4),
        ("0-7", 8),
        ("2-10:2", 5),
        ("0-7%2", 8),
        ("1-8:2", 4),
        ("0-15:4%2", 4),
        ("6", 1),
        ("0", 1),
        ("3,4", 2),
    ],
)
def test_each_task_of_a_job_array_has_a_part(array, count):
    assert [shard_of(environment) for environment in job_array(array)] == parts_in_order(count)


@ANY_MACHINE
@given(first=st.integers(0, 100), step=st.integers(1, 20), count=st.integers(1, 50))
def test_an_array_may_begin_anywhere_and_take_any_step(first, step, count):
    text = f"{first}-{first + step * (count - 1)}:{step}"
    assert [shard_of(environment) for environment in job_array(text)] == parts_in_order(count)


@pytest.mark.parametrize("array", ["1,3,4", "1-3,7", "1-7:2,20", "0,5", "1-5:2,2"])
def test_an_array_with_gaps_is_refused(array):
    for environment in job_array(array):
        with pytest.raises(UserError, match=r"the job array has gaps\. Try: sbatch --array=1-4, or 1/4"):
            shard_of(environment)


PIECES = st.builds(lambda first, more, step: f"{first}-{first + more}:{step}", st.integers(0, 9), st.integers(0, 9),
                   st.integers(1, 4))  # fmt: skip


@ANY_MACHINE
@given(st.lists(PIECES, min_size=1, max_size=4).map(",".join))
@example("1-4:2,6")
def test_whatever_the_array_no_two_tasks_have_one_part(array):
    """Some gaps show in a few of the tasks alone; those are refused, and the report says what is missing."""
    found = []
    environments = job_array(array)
    for environment in environments:
        with suppress(UserError):
            found.append(shard_of(environment))
    assert len(set(found)) == len(found)
    assert set(found) <= set(parts_in_order(len(environments)))
    ids = [int(environment["SLURM_ARRAY_TASK_ID"]) for environment in environments]
    steps = {after - before for before, after in itertools.pairwise(ids)}
    assert len(steps) <= 1 or len(found) < len(ids)


def test_each_task_of_srun_has_a_part():
    assert [shard_of(environment) for environment in srun(3, batch(3))] == parts_in_order(3)
    assert [shard_of(environment) for environment in srun(3, {})] == parts_in_order(3)
    assert shard_of(srun(1, batch(4))[0]) == (1, 1)


def test_tasks_of_srun_in_a_job_array_share_the_part_of_their_array_task():
    inside = [task for environment in job_array("1-4") for task in srun(3, environment)]
    assert [shard_of(environment) for environment in inside] == parts_in_order(12)
    alone = [srun(1, environment)[0] for environment in job_array("1-4")]
    assert [shard_of(environment) for environment in alone] == parts_in_order(4)


def test_a_batch_script_without_srun_is_one_process_whatever_tasks_it_asked_for():
    with pytest.raises(UserError, match=r"neither Slurm \(array, srun\) nor torchrun started this process\. Try: 1/4"):
        shard_of(batch(4))
    scripts = [{**environment, **batch(4)} for environment in job_array("1-2")]
    assert [shard_of(environment) for environment in scripts] == parts_in_order(2)


def test_each_process_of_torchrun_has_a_part():
    assert [shard_of(environment) for environment in torchrun(1, 4, [{}])] == parts_in_order(4)
    assert [shard_of(environment) for environment in torchrun(2, 4, srun(2, batch(2)))] == parts_in_order(8)
    arrays = [process for environment in job_array("0-2") for process in torchrun(1, 2, [environment])]
    assert [shard_of(environment) for environment in arrays] == parts_in_order(6)


@pytest.mark.parametrize("environment", [{}, {"HOME": "/"}, {"RANK": "1"}, {"WORLD_SIZE": "4"}, {"SLURM_PROCID": "1"}])
def test_a_process_without_a_launcher_has_no_shard(environment):
    with pytest.raises(UserError, match=r"neither Slurm .* nor torchrun started this process\. Try: 1/4"):
        shard_of(environment)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"RANK": "two", "WORLD_SIZE": "4"}, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": ""}, "WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "3(x2)"}, "SLURM_STEP_NUM_TASKS"),
        ({"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "first"}, "SLURM_PROCID"),
        (job_array("1-4")[0] | {"SLURM_ARRAY_TASK_ID": "%a"}, "SLURM_ARRAY_TASK_ID"),
        (job_array("1-4")[0] | {"SLURM_ARRAY_TASK_COUNT": "4.0"}, "SLURM_ARRAY_TASK_COUNT"),
        (job_array("1-4")[0] | {"SLURM_ARRAY_TASK_STEP": "-"}, "SLURM_ARRAY_TASK_STEP"),
    ],
)
def test_a_variable_that_is_no_number_is_named(changes, name):
    with pytest.raises(UserError) as error:
        shard_of(changes)
    assert str(error.value) == f"${name} is '{changes[name]}', no number. Try: 1/4, the first of four shards"


# --- runs of parts -------------------------------------------------------------------------------------------------


def outcomes(tmp_path, suite, toys, store, **options):
    """All that is stored of every cell, as plain data, bit by bit."""
    kept = Store(tmp_path / store)
    plan = api.plan(suite(), plugins=[toys], **options)
    tables = {cell.short_name: kept.read(cell.key, plan.n).table for cell in plan.cells}
    return {name: {column: table[column].to_numpy().tobytes() if column != "example" else table[column].to_pylist()
                   for column in table.column_names} for name, table in tables.items()}  # fmt: skip


def test_a_shard_exits_with_code_0_when_its_part_is_complete(shell, path, suite, toys, tmp_path):
    for index in (3, 1):
        found = shell("run", path, "--shard", f"{index}/3")
        assert found.returncode == 0
        assert "incomplete" not in found.stderr
        assert "Incomplete: some cells failed or are not computed yet." in found.stdout
        assert shell("report", path).returncode == 3
    last = shell("run", path, "--shard", "2/3", "--json")
    assert last.returncode == 0
    assert json.loads(last.stdout)["complete"] is True
    report = shell("report", path, "--json")
    assert report.returncode == 0
    assert shell("run", path, "--store", "whole", "--json").stdout == report.stdout == last.stdout
    assert outcomes(tmp_path, suite, toys, ".robharness") == outcomes(tmp_path, suite, toys, "whole")
    again = shell("run", path)
    assert "nothing to compute: all outcomes are stored" in again.stderr


def test_a_shard_whose_part_fails_exits_with_code_3(shell, path, suite):
    path.write_text(yaml.safe_dump(suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}])))
    found = shell("run", path, "--shard", "2/3")
    assert found.returncode == 3
    assert f"1 cell is incomplete; to try again: robharness run {path} --shard 2/3" in found.stderr


def test_there_may_be_more_shards_than_examples(shell, path):
    for index in (1, 2, 3):
        assert shell("run", path, "--limit", "2", "--shard", f"{index}/3").returncode == 0
    assert shell("report", path, "--limit", "2").returncode == 0


def test_every_task_of_an_array_finds_its_part(shell, path, monkeypatch, tmp_path):
    computed = []
    for environment in job_array("2-6:2"):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
            monkeypatch.delenv(name, raising=False)
        assert shell("run", path, "--shard", "auto").returncode == 0
        computed.append(Store(tmp_path / ".robharness").runs()[-1])
    assert [run["computed"] for run in computed] == [4 * 13, 4 * 13, 4 * 14]
    assert [run["part"] for run in computed] == [[1, 3], [2, 3], [3, 3]]
    assert shell("report", path).returncode == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    refused = shell("run", path, "--shard", "auto")
    assert refused.returncode == 2
    assert refused.stderr.startswith("robharness: --shard auto: the job array has gaps.")


def test_a_limit_is_a_prefix_and_nothing_is_computed_twice(run, suite, toys, tmp_path):
    """Tonight's examples are a part of tomorrow's, shards or not."""
    run(suite(), limit=10)
    tonight = outcomes(tmp_path, suite, toys, "store", limit=10)
    run(suite(), limit=30, shard=(2, 3))
    run(suite(), limit=24)
    run(suite(), shard=(1, 2))
    assert run(suite()).is_complete
    assert run(suite(), limit=7).is_complete
    assert outcomes(tmp_path, suite, toys, "store", limit=10) == tonight
    computed = [record["computed"] for record in Store(tmp_path / "store").runs()]
    assert computed == [4 * 10, 4 * 10, 4 * 4, 4 * 16]
    run(suite(), store="whole")
    assert outcomes(tmp_path, suite, toys, "store") == outcomes(tmp_path, suite, toys, "whole")


def test_a_shard_joins_its_own_parts_and_the_last_one_all_of_them(suite, run, toys, tmp_path):
    """Parts of other shards stay as they are, since these may be running."""
    source, store = suite(), Store(tmp_path / "store")
    plan = api.plan(source, plugins=[toys])
    for index in (1, 3):
        run(source, shard=(index, 3), batch_size=2)
    spans = [plan.shard(index, 3).span for index in (1, 2, 3)]
    assert all(store.spans(cell.key) == [spans[0], spans[2]] for cell in plan.cells)
    found = run(source, shard=(2, 3), batch_size=2)
    assert all(store.spans(cell.key) == [(0, plan.n)] for cell in plan.cells)
    whole = run(source, "whole", batch_size=2)
    assert [cell.accuracy for cell in found.cells] == [cell.accuracy for cell in whole.cells]


OBSERVER = """
from pathlib import Path
from robharness import hookimpl

@hookimpl
def robharness_run_finished(results):
    Path("observed").write_text(str(len(results.cells)))
"""


def test_a_shard_without_a_report_computes_the_same_and_observers_are_told(shell, path, toys, tmp_path):
    done = shell("run", path, "--shard", "1/2", "--no-report", "--display", "plain")
    assert (done.returncode, done.stdout) == (0, "")
    assert "computed 80 examples" in done.stderr and "incomplete" not in done.stderr
    (tmp_path / "observer.py").write_text(OBSERVER)
    assert shell("run", path, "--no-report", plugins=[toys, "./observer.py"]).returncode == 0
    assert (tmp_path / "observed").read_text() == "4"
    assert shell("report", path).returncode == 0
    refused = shell("run", path, "--no-report", "--json")
    assert refused.returncode == 2 and "--json prints the report, and --no-report leaves it out" in refused.stderr


def test_a_cell_that_fails_is_exit_code_3_also_without_a_report(shell, path, suite):
    path.write_text(yaml.safe_dump(suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}])))
    assert shell("run", path, "--no-report").returncode == 3
