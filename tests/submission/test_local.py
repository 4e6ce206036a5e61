"""Jobs as real processes of this machine: whole runs, kills, preemption, training first."""

import os
import signal
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from robharness import api
from robharness.store import Store
from robharness.submission.task import Task, TaskFailed
from submission_support import children, stored
from toy_training import LEARNER, NET, TOYS
from toy_training import suite as learning

LOCAL = ("--cluster", "local")


def slow(suite):
    """A suite with cells that take as long as the environment says."""
    return suite(attacks=[{"attack": "toys/climb", "how": "slow", "eps": ["1/8", "1/4"]}])


def test_jobs_store_what_one_run_does_and_run_no_more_at_once_than_allowed(jobs, suite, write, toys, tmp_path):
    path = write(suite())
    assert jobs.status(path)["next"].startswith(f"robharness submit {path} -p {TOYS}")
    sent = jobs("submit", path, "--jobs", 2, "--throttle", 1, *LOCAL, "--batch-size", 8)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith("sent shards 1, 2 of 2, jobs ")
    during = jobs.status(path)
    assert {part["state"] for part in during["shards"]} <= {"pending", "running", "done"}
    assert during["covered"] is True
    jobs.ends("shard-1-of-2", "shard-2-of-2")
    after = jobs.status(path)
    assert after["counts"]["done"] == 2 and after["stored"] == after["all"] == 160
    assert after["next"].startswith(f"robharness report {path}")
    first, second = (jobs.state(f"shard-{index}-of-2") for index in (1, 2))
    assert first["code"] == second["code"] == 0
    began = datetime.fromisoformat(second["since"]).timestamp() - second["seconds"]
    assert began >= datetime.fromisoformat(first["since"]).timestamp() - 0.01
    log = (jobs.folders[0] / "shard-1-of-2.log").read_text()
    assert "80 examples in all" in log and "computed 80 examples in " in log and "accuracy in %" not in log
    again = jobs("submit", path, "--jobs", 2, *LOCAL)
    assert again.stdout == "nothing is sent: all outcomes are stored\n"
    assert len(jobs.folders) == 1
    plan = api.plan(tmp_path / path, plugins=[toys])
    api.run(tmp_path / path, plugins=[toys], store=tmp_path / "whole", batch_size=8)
    assert stored(tmp_path / ".robharness", plan) == stored(tmp_path / "whole", plan)


def test_killed_jobs_are_named_and_only_their_shards_are_sent_again(jobs, suite, write, tmp_path, toys):
    """The command of shard 2 is killed, and the process of the job of shard 3, with which its command dies."""
    path = write(slow(suite))
    jobs("submit", path, "--gpus", 3, "--device", "cpu", *LOCAL, TOYS_SLOW=600)
    log = tmp_path / "log"
    jobs.until(lambda: log.exists() and len(log.read_text().splitlines()) == 3)
    pids = {index: jobs.state(f"shard-{index}-of-3")["pid"] for index in (2, 3)}
    commands = {index: children(pid)[0] for index, pid in pids.items()}
    gpus = [Path(f"/proc/{pid}/environ").read_bytes().partition(b"CUDA_VISIBLE_DEVICES=")[2] for pid in pids.values()]
    assert [text.partition(b"\0")[0] for text in gpus] == [b"1", b"2"]
    os.kill(commands[2], signal.SIGKILL)
    os.kill(pids[3], signal.SIGKILL)
    jobs.until(lambda: jobs.state("shard-2-of-3")["state"] == "ended")
    jobs.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in commands.values()))
    jobs.until(lambda: jobs.status(path)["counts"]["failed"] == 2)
    facts = jobs.status(path)
    parts = {part["name"]: part for part in facts["shards"]}
    assert parts["1/3"]["state"] == "running"
    assert parts["2/3"]["reason"] == "killed by SIGKILL, perhaps for lack of memory"
    assert parts["3/3"]["reason"] == "killed, perhaps for lack of memory"
    assert facts["covered"] is False
    assert facts["next"] == f"robharness submit {path} --gpus 3 --device cpu --cluster local -p {TOYS} -p {LEARNER}"
    shown = jobs("status", path)
    assert shown.returncode == 3
    assert f"2/3 failed; log: {parts['2/3']['log'].removeprefix(f'{tmp_path}/')}" in shown.stdout
    sent = jobs("submit", path, "--jobs", 3, *LOCAL)
    assert sent.stdout.startswith("sent shards 2, 3 of 3, jobs ")
    assert "not sent, of 3: 1 computed by other jobs" in sent.stdout
    jobs.ends("shard-2-of-3", "shard-3-of-3")
    assert [part["state"] for part in jobs.parts(path).values()] == ["running", "done", "done"]
    plan = api.plan(tmp_path / path, plugins=[toys])
    missing = [Store(tmp_path / ".robharness").missing(cell.key, plan.n) for cell in plan.cells]
    assert all(spans in ([(0, 13)], []) for spans in missing)
    assert missing.count([(0, 13)]) >= 2


def test_a_preempted_job_stores_what_is_whole_and_resumes(jobs, suite, write, tmp_path, toys):
    """The signal comes while the second cell of three is computed; SIGTERM alone, which comes first, ends nothing."""
    path = write(slow(suite))
    jobs("submit", path, "--jobs", 1, "--slurm", "time=60,timeouts=1", *LOCAL, TOYS_SLOW=2)
    log = tmp_path / "log"
    for notice in (1, 2):
        jobs.until(lambda notice=notice: log.exists() and len(log.read_text().splitlines()) == notice)
        state = jobs.state("shard-1-of-1")
        (command,) = children(state["pid"])
        for pid in (command, state["pid"]):  # as Slurm does it: to all processes of the job
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGUSR2)
        if notice == 1:
            jobs.until(lambda: jobs.state("shard-1-of-1")["tries"] == 2)
    jobs.until(lambda: jobs.state("shard-1-of-1")["tries"] == 3)
    jobs.ends("shard-1-of-1")
    assert jobs.state("shard-1-of-1")["code"] == 0
    runs = [run for run in Store(tmp_path / ".robharness").runs() if run["computed"]]
    assert [run["interrupted"] for run in runs] == [True, True, False]
    assert sum(run["computed"] for run in runs) == 3 * 40
    assert (jobs.folders[0] / "shard-1-of-1.log").read_text().count("--- ") == 3
    facts = jobs.status(path)
    assert facts["counts"]["done"] == 1 and facts["shards"][0]["tries"] == 3
    plan = api.plan(tmp_path / path, plugins=[toys])
    api.run(tmp_path / path, plugins=[toys], store=tmp_path / "whole")
    assert stored(tmp_path / ".robharness", plan) == stored(tmp_path / "whole", plan)


@pytest.mark.parametrize("stop_seconds", [0, 600])
def test_a_job_that_stops_waits_for_its_current_cells_as_long_as_its_grace_allows(
    jobs, suite, write, tmp_path, monkeypatch, stop_seconds
):
    """A command whose time is over is killed, and the cell that it was computing is lost."""
    path = write(slow(suite))
    monkeypatch.setenv("TOYS_SLOW", "3")
    words = ("run", path, "-p", TOYS, "-p", LEARNER, "--no-report")
    task = Task(name="shard", words=words, folder=tmp_path, working_directory=tmp_path, stop_seconds=stop_seconds)

    def compute():
        with suppress(TaskFailed):
            task()

    process = threading.Thread(target=compute)
    process.start()
    jobs.until(lambda: (tmp_path / "log").exists())
    task.checkpoint()
    process.join()
    assert [run["interrupted"] for run in Store(tmp_path / ".robharness").runs()] == [True] * bool(stop_seconds)


# --- trainings ------------------------------------------------------------------------------------------------------


def test_models_are_trained_before_the_shards_begin(jobs, write, tmp_path):
    path = write(learning(NET, NET | {"label": "Other", "seed": 1}), "learning.yaml")
    sent = jobs("submit", path, "--jobs", 2, *LOCAL)
    assert sent.returncode == 0, sent.stderr
    first, second, *_ = sent.stdout.splitlines()
    assert first.startswith("job ") and "trains 2 models; the other jobs wait for it; log .robharness/submi" in first
    assert second.startswith("sent shards 1, 2 of 2, jobs ")
    training = jobs.state("training")
    assert training["code"] == 0
    jobs.ends("shard-1-of-2", "shard-2-of-2")
    facts = jobs.status(path)
    assert [(part["name"], part["state"]) for part in facts["shards"]] == [
        ("training", "done"),
        ("1/2", "done"),
        ("2/2", "done"),
    ]
    assert facts["stored"] == facts["all"] == 2 * 3 * 48
    begins = [jobs.state(f"shard-{index}-of-2") for index in (1, 2)]
    ended = datetime.fromisoformat(training["since"]).timestamp()
    assert all(datetime.fromisoformat(each["since"]).timestamp() - each["seconds"] >= ended for each in begins)
    (log,) = jobs.folders[0].glob("training.log")
    assert "Net" in log.read_text() and "Other" in log.read_text()


def test_local_jobs_do_not_wait_for_a_training_of_slurm(jobs, slurm, write):
    path = write(learning(), "learning.yaml")
    assert jobs("submit", path, "--jobs", 2, "--slurm", "time=60").returncode == 0
    slurm.says("squeue", "101|RUNNING|None\n")
    sent = jobs("submit", path, "--jobs", 2, *LOCAL)
    assert sent.returncode == 0, sent.stderr
    assert jobs.state("training")["code"] == 0
    jobs.ends("shard-1-of-2", "shard-2-of-2")


def test_a_training_that_fails_is_one_sentence_and_sends_no_shards(jobs, write):
    path = write(learning(NET | {"what": "says why"}), "learning.yaml")
    sent = jobs("submit", path, "--jobs", 2, *LOCAL)
    assert sent.returncode == 2
    log = f".robharness/submissions/{jobs.folders[0].name}/training.log"
    assert sent.stderr.startswith("robharness: training failed, and nothing that needs it was sent: some cells failed")
    assert sent.stderr.endswith(f"Try: tail {jobs.folder / log}\n")
    facts = jobs.status(path)
    assert [(part["name"], part["state"]) for part in facts["shards"]] == [
        ("training", "failed"),
        ("1/2", "missing"),
        ("2/2", "missing"),
    ]
    assert "the loss is not a number in epoch 1" in facts["shards"][0]["reason"]
