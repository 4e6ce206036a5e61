"""Slurm's input and its answers: scripts against golden files, and states, with commands that run nothing."""

import json
import os
import re
import socket
import sys
from pathlib import Path
from select import select

import pytest

from robharness.store import FileSystem
from robharness.store.lock import LockFile
from robharness.submission.clusters import slurm_states
from robharness.submission.options import JobOptions
from toy_training import LEARNER, TOYS
from toy_training import suite as learning

GOLDEN = Path(__file__).parent / "sbatch"
PROFILE = """
partition: gpu
account: vision
time: 1-12        # days-hours
cpus-per-task: 8
mem: 32G
gres: gpu:a100:1
throttle: 16
grace: 90
exclusive: true
mail-type: END,FAIL
setup: [module load cuda, export NCCL_DEBUG=WARN]
"""


def normalised(text, folder):
    """A script without the paths of this machine."""
    text = re.sub(r"submissions/[0-9TZ.]+-[0-9a-f]{6}", "submissions/NEW", text.replace(str(folder), "FOLDER"))
    return text.replace(sys.executable, "PYTHON")


def submit(shell, slurm, path, *words, **options):
    done = shell("submit", path, *words, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in words else done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain", ["--gpus", 4, "--slurm", "partition=gpu,account=x,time=4:00:00"]),
        ("one", ["--jobs", 1, "--slurm", "time=30"]),
        ("profile", ["--gpus", 64, "--profile", "gpu.yaml", "--slurm", "account=other,exclude=n1,n2,nice"]),
    ],
)
def test_a_script_is_that_of_the_golden_file(shell, slurm, suite, write, tmp_path, name, words):
    (tmp_path / "gpu.yaml").write_text(PROFILE)
    path = write(suite())
    sent = submit(shell, slurm, path, *words)
    assert normalised(slurm.script(101), tmp_path) == (GOLDEN / f"{name}.sh").read_text()
    ids = {"plain": "101_0 to 101_3", "one": "101", "profile": "101_0 to 101_39"}[name]
    assert sent.splitlines()[0].endswith(f"{'job' if name == 'one' else 'jobs'} {ids}")
    grace = 90 if name == "profile" else JobOptions().grace
    tasks = [pickled(path) for path in tmp_path.glob(".robharness/submissions/*/jobs/*_submitted.pkl")]
    assert tasks and {task.stop_seconds for task in tasks} == {grace - 10}


def test_a_training_is_a_job_of_its_own_that_the_array_depends_on(shell, slurm, write, tmp_path):
    path = write(learning(), "learning.yaml")
    plugins = [TOYS, LEARNER]
    words = [
        "--gpus",
        3,
        "--slurm",
        "partition=gpu,time=90",
        "--json",
        "--threads",
        2,
        "--batch-size",
        7,
        "--only",
        "Net",
    ]
    facts = submit(shell, slurm, path, *words, plugins=plugins)
    assert facts["after"] == "101" and [job["job"] for job in facts["jobs"]] == ["102_0", "102_1", "102_2"]
    for number, name in ((101, "training"), (102, "after")):
        assert normalised(slurm.script(number), tmp_path) == (GOLDEN / f"{name}.sh").read_text()
    commands = {path.name: pickled(path) for path in Path(facts["folder"]).glob("jobs/*_submitted.pkl")}
    common = [path, "-p", TOYS, "-p", LEARNER, "--only", "Net", "--device", "cuda", "--threads", "2"]
    assert sorted(commands["101_submitted.pkl"].words) == sorted(["train", *common, "--display", "plain"])
    countdown = load(Path(facts["folder"]) / "jobs/102_1_submitted.pkl")._timeout_countdown
    assert countdown == JobOptions().timeouts
    assert sorted(commands["102_1_submitted.pkl"].words) == sorted(
        ["run", *common, "--batch-size", "7", "--display", "plain", "--no-report", "--shard", "2/3"]
    )
    slurm.says("squeue", "101|RUNNING|None\n102_0|PENDING|Dependency\n")
    again = submit(shell, slurm, path, "--gpus", 3, "--slurm", "time=90", "--only", "Net", plugins=plugins)
    assert "job 101 trains Net; the other jobs wait for it" in again
    assert "sent shards 2, 3 of 3, jobs 103_0, 103_1" in again
    assert "#SBATCH --dependency=afterok:101\n" in slurm.script(103)


def load(path):
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission.load(path)


def pickled(path):
    return load(path).function


def test_what_jobs_compute_is_not_sent_again_whatever_the_number_of_shards(shell, slurm, suite, write):
    path = write(suite())
    slurm_options = ["--slurm", "time=60"]
    submit(shell, slurm, path, "--jobs", 4, *slurm_options)
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|PENDING|Priority\n101_2|COMPLETING|None\n")
    again = submit(shell, slurm, path, "--jobs", 4, *slurm_options)
    parts = json.loads(shell("status", path, "--json").stdout)["shards"]
    assert [part["job"] for part in parts] == ["101_0", "101_1", "101_2", "102"]
    assert "sent shard 4 of 4, job 102" in again and "not sent, of 4: 1 to 3 computed by other jobs" in again
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|PENDING|Priority\n102|PENDING|Priority\n")
    fewer = submit(shell, slurm, path, "--jobs", 2, *slurm_options)
    assert "sent shard 2 of 2, job 103" in fewer and "not sent, of 2: 1 computed by other jobs" in fewer
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|PENDING|Priority\n102|PENDING|Priority\n103|PENDING|Priority\n")
    others = submit(shell, slurm, path, "--jobs", 3, *slurm_options)
    assert others == "nothing is sent: other jobs compute what is missing\n"
    facts = json.loads(shell("status", path, "--json").stdout)
    assert [(part["name"], part["state"], part["job"]) for part in facts["shards"]] == [
        ("1/4", "running", "101_0"),
        ("2/4", "pending", "101_1"),
        ("4/4", "pending", "102"),
        ("1/2", "missing", None),
        ("2/2", "pending", "103"),
    ]
    assert facts["covered"] is True and facts["seconds_left"] is None


def test_jobs_of_some_cells_leave_the_others_to_be_sent(shell, slurm, suite, write):
    path = write(suite())
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60", "--only", "* · clean")
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|RUNNING|None\n")
    assert "nothing is sent" in submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60", "--only", "* · clean")
    assert json.loads(shell("status", path, "--json").stdout)["next"].endswith(" --gpus 8 --slurm time=4:00:00")
    assert "sent shards 1, 2 of 2" in submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")


def test_other_values_of_the_suite_are_other_jobs(shell, slurm, suite, write):
    path = write(suite())
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60", "--set", "seed=1")
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|RUNNING|None\n")
    shown = shell("status", path)
    assert shown.stdout == "0 of 4 cells complete, 0 of 160 outcomes stored; time left: unknown\n"
    assert "not shown: 1 submission of this suite with other values of --set" in shown.stderr
    assert "shards: 2 running" in shell("status", path, "--set", "seed=1").stdout
    assert "sent shards 1, 2 of 2" in submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")


def test_two_commands_at_the_same_moment_send_the_work_once(slurm, suite, write, tmp_path, start_process):
    (slurm.folder / "busy").touch()
    slurm.says("squeue", "101_0|PENDING|None\n101_1|PENDING|None\n")
    words = ["submit", write(suite()), "-p", TOYS, "--jobs", 2, "--slurm", "time=60"]
    first, second = (start_process(*words, cwd=tmp_path) for _ in range(2))
    waits, ready = select([first.stderr, second.stderr], [], [], 120)[0], {}
    assert len(waits) == 1, "both send their jobs, or none"
    waiting, sending = (first, second) if waits == [first.stderr] else (second, first)
    assert waiting.stderr.readline() == (
        f"process {sending.pid} on {socket.gethostname()} sends jobs of this store; this process waits\n"
    )
    (slurm.folder / "busy").unlink()
    for process in (sending, waiting):
        ready[process] = process.communicate(timeout=120)
    assert ready[sending][0].startswith("sent shards 1, 2 of 2, jobs 101_0, 101_1\n")
    assert ready[waiting][0] == "nothing is sent: other jobs compute what is missing\n"
    assert [path.name for path in slurm.folder.glob("*.sh")] == ["101.sh"]
    assert not (tmp_path / ".robharness/submissions.lock").exists()


def test_what_another_command_trained_meanwhile_is_not_trained_again(slurm, write, tmp_path, shell, start_process):
    path, plugins = write(learning(), "learning.yaml"), [TOYS, LEARNER]
    (tmp_path / ".robharness").mkdir()
    lock = LockFile.acquire(tmp_path / ".robharness/submissions.lock", FileSystem(), lambda holder: None)
    words = ["submit", path, "-p", TOYS, "-p", LEARNER, "--jobs", 2, "--slurm", "time=60"]
    process = start_process(*words, cwd=tmp_path)
    assert process.stderr.readline().startswith(f"process {os.getpid()} on ")
    assert shell("train", path, plugins=plugins).returncode == 0
    lock.release()
    sent, _ = process.communicate(timeout=120)
    assert sent.startswith("sent shards 1, 2 of 2, jobs 101_0, 101_1\n")


def test_jobs_of_another_object_store_compute_nothing_for_this_one(shell, slurm, suite, write, s3):
    path = write(suite())
    words = [path, "--jobs", 2, "--slurm", "time=60"]
    submit(shell, slurm, *words, "--store", f"{s3.url}/one")
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|RUNNING|None\n")
    assert "nothing is sent" in submit(shell, slurm, *words, "--store", f"{s3.url}/one")
    for store in (f"{s3.url}/two", ".robharness"):
        assert json.loads(shell("status", path, "--store", store, "--json").stdout)["shards"] == []
        assert "sent shards 1, 2 of 2" in submit(shell, slurm, *words, "--store", store)
        slurm.says("squeue", "101_0|RUNNING|None\n101_1|RUNNING|None\n")


def test_a_damaged_record_is_named_and_its_work_is_sent_again(shell, slurm, suite, write):
    path = write(suite())
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|RUNNING|None\n")
    record = Path(json.loads(shell("status", path, "--json").stdout)["submission"]) / "submission.json"
    record.write_text(record.read_text()[:100])
    shown = f".robharness/submissions/{record.parent.name}/submission.json is damaged (it is not JSON"
    for words in (["status", path], ["submit", path, "--jobs", 2, "--slurm", "time=60"]):
        done = shell(*words)
        assert f"warning: {shown}" in done.stderr and "its work may be done twice" in done.stderr
    assert done.stdout.startswith("sent shards 1, 2 of 2, jobs 102_0, 102_1\n")


def test_the_time_left_is_that_of_earlier_runs_until_the_jobs_make_progress(shell, slurm, suite, write):
    path = write(suite())
    assert shell("run", path, "--shard", "1/2").returncode == 0
    slurm.says("squeue", "101_0|RUNNING|None\n101_1|PENDING|Resources\n")
    sent = submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")
    assert "sent shard 2 of 2, job 101" in sent and "not sent, of 2: 1 complete\n" in sent
    slurm.says("squeue", "101|PENDING|Resources\n")
    facts = json.loads(shell("status", path, "--json").stdout)
    assert facts["stored"] == 80 and facts["counts"] == {
        "done": 1,
        "running": 0,
        "pending": 1,
        "failed": 0,
        "missing": 0,
    }
    part = facts["shards"][1]
    assert (part["state"], part["reason"], part["tries"]) == ("pending", "Resources", 0)
    assert part["seconds_left"] == facts["seconds_left"] == facts["seconds_of_work"] > 0
    folder = Path(facts["submission"])
    state = {"state": "requeued", "since": "2026-11-01T00:00:00+00:00", "seconds": 1000.0, "tries": 2, "code": None,
             "reason": "", "pid": 7, "machine": "far"}  # fmt: skip
    (folder / "shard-2-of-2.json").write_text(json.dumps(state))
    assert json.loads(shell("status", path, "--json").stdout)["shards"][1]["seconds_left"] == part["seconds_left"]
    assert shell("run", path, "--limit", "36").returncode == 0  # 16 of the 20 examples of the shard
    for changes in ({}, {"state": "running"}):  # which a job that was killed in the queue cannot correct
        (folder / "shard-2-of-2.json").write_text(json.dumps(state | changes))
        assert json.loads(shell("status", path, "--json").stdout)["shards"][1]["seconds_left"] == 250.0
    shown = shell("status", path)
    assert shown.returncode == 3 and shown.stdout.endswith("shards: 1 done, 1 pending; time left: 4 min\n")
    slurm.says("squeue", "101|RUNNING|None\n")
    assert json.loads(shell("status", path, "--json").stdout)["seconds_left"] > 3600  # since November
    slurm.says("squeue", "")
    assert shell("status", path).stdout.endswith(" s of computation by one worker\n")


def test_the_work_of_a_job_is_counted_in_passes_and_a_throttle_makes_jobs_wait(shell, slurm, suite, write):
    path = write(suite(attacks=[{"attack": "toys/climb", "eps": "1/8"}]))
    assert shell("run", path, "--limit", 4).returncode == 0
    submit(shell, slurm, path, "--jobs", 4, "--slurm", "time=60", "--throttle", 2)
    slurm.says(
        "squeue", "101_0|RUNNING|None\n101_1|RUNNING|None\n101_[2-3]|PENDING|x\n101_2|PENDING|x\n101_3|PENDING|x\n"
    )
    facts = json.loads(shell("status", path, "--json").stdout)
    record = json.loads((Path(facts["submission"]) / "submission.json").read_text())
    passes = 1 + (1 + 2 * 3)  # the clean pass; the pass that judges three steps of a gradient each
    assert [job["work"] for job in record["jobs"]] == [6 * passes, 10 * passes, 10 * passes, 10 * passes]
    left = [part["seconds_left"] for part in facts["shards"]]
    assert facts["seconds_left"] == pytest.approx(sum(left) / 2) and sum(left) / 2 > max(left)
    slurm.says("squeue", "101_0|RUNNING|None\n")  # which leaves work that no job does
    shown = shell("status", path).stdout
    assert "; shards: 1 running, 3 failed; time left: " in shown and shown.endswith(" s of computation by one worker\n")


def test_no_time_is_said_to_be_left_while_a_training_is_to_end(shell, slurm, write, tmp_path):
    path, plugins = write(learning(), "learning.yaml"), [TOYS, LEARNER]
    submit(shell, slurm, path, "--jobs", 1, "--slurm", "time=60", plugins=plugins)
    slurm.says("squeue", "101|RUNNING|None\n102|PENDING|Dependency\n")
    speed = {"model": "learner/net", "rows": 8, "forward": 10, "backward": 0, "seconds": 8.0, "waited": 0.0}
    (tmp_path / ".robharness/runs").mkdir()
    (tmp_path / ".robharness/runs/1.json").write_text(json.dumps({"workers": 1, "speed": {"Net": speed}}))
    facts = json.loads(shell("status", path, "--json", plugins=plugins).stdout)
    assert facts["seconds_of_work"] > 0 and facts["seconds_left"] is None
    assert [part["state"] for part in facts["shards"]] == ["running", "pending"]


@pytest.mark.parametrize(
    ("sacct", "state", "reason"),
    [
        ("101_1|OUT_OF_MEMORY|", None, "out of memory"),
        ("101_1|CANCELLED by 0|", None, "cancelled"),
        ("101_1|NODE_FAIL|", {"state": "running"}, "its node failed"),
        ("101_1|TIMEOUT|", {"state": "running"}, "the time limit was reached"),
        ("101_1|FAILED|", {"state": "ended", "code": 2, "reason": "exit code 2: no GPU"}, "exit code 2: no GPU"),
        ("", {"state": "running"}, "killed, perhaps for lack of memory"),
        ("", None, "it ended before it began"),
    ],
)
def test_the_reason_of_a_failed_job(shell, slurm, suite, write, sacct, state, reason):
    path = write(suite())
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")
    facts = json.loads(shell("status", path, "--json").stdout)
    if state is not None:
        whole = {"since": "2026-11-01T00:00:00+00:00", "seconds": 1.0, "tries": 1, "code": None, "reason": "", "pid": 7,
                 "machine": "far"}  # fmt: skip
        (Path(facts["submission"]) / "shard-2-of-2.json").write_text(json.dumps(whole | state))
    slurm.says("squeue", "101_0|RUNNING|None\n")
    slurm.says("sacct", f"101_0|RUNNING|\n{sacct}\n101_1.batch|{sacct}\n")
    second = json.loads(shell("status", path, "--json").stdout)["shards"][1]
    assert (second["state"], second["reason"]) == ("failed", reason)
    assert "sent shard 2 of 2" in submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")


def test_slurm_says_itself_why_it_killed_a_job(shell, slurm, suite, write):
    path = write(suite())
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")
    facts = json.loads(shell("status", path, "--json").stdout)
    said = "slurmstepd-n1: error: *** JOB 102 ON n1 CANCELLED AT 2026-12-01T06:18:06 ***"
    log = Path(facts["submission"]) / "jobs/101_1_0_log.err"
    log.write_text(f"submitit WARNING - Bypassing\n{said}\nsrun: error: n1\n")
    reasons = [part["reason"] for part in json.loads(shell("status", path, "--json").stdout)["shards"]]
    assert reasons == ["it ended before it began", "JOB 102 ON n1 CANCELLED AT 2026-12-01T06:18:06"]


def test_a_cell_that_fails_is_the_reason_of_its_shard(shell, slurm, suite, write):
    path = write(suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}]))
    submit(shell, slurm, path, "--jobs", 1, "--slurm", "time=60")
    slurm.says("squeue", "101|RUNNING|None\n")
    assert shell("run", path).returncode == 3
    slurm.says("squeue", "")
    facts = json.loads(shell("status", path, "--json").stdout)
    folder = Path(facts["submission"])
    state = {"state": "ended", "since": "2026-11-01T00:00:00+00:00", "seconds": 1.0, "tries": 1, "code": 3,
             "reason": "some cells failed, or a training", "pid": 7, "machine": "far"}  # fmt: skip
    (folder / "shard-1-of-1.json").write_text(json.dumps(state))
    facts = json.loads(shell("status", path, "--json").stdout)
    assert facts["shards"][0]["reason"].startswith("Net, rogue(linf, 1/8, how=raises): toys/rogue: ")
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60", "--set", "seed=1")
    assert shell("run", path, "--shard", "2/2", "--set", "seed=1").returncode == 3
    folder = Path(json.loads(shell("status", path, "--set", "seed=1", "--json").stdout)["submission"])
    for index in (1, 2):
        (folder / f"shard-{index}-of-2.json").write_text(json.dumps(state))
    parts = json.loads(shell("status", path, "--set", "seed=1", "--json").stdout)["shards"]
    assert parts[0]["reason"] == "some cells failed, or a training"
    assert parts[1]["reason"].startswith("Net, rogue(linf, 1/8, how=raises): toys/rogue: ")
    assert [each["cell"] for each in facts["failures"]] == ["Net · toys/pixels/test · rogue(linf, 1/8, how=raises)"]


# --- Slurm that does not answer -------------------------------------------------------------------------------------


def test_a_refusal_of_sbatch_is_one_sentence(shell, slurm, suite, write):
    path = write(suite())
    slurm.fails("sbatch", "sbatch: error: invalid partition specified: gpux")
    done = shell("submit", path, "--jobs", 2, "--slurm", "partition=gpux,time=60")
    assert done.returncode == 2
    assert done.stderr == (
        "robharness: sbatch refused the jobs: sbatch: error: invalid partition specified: gpux. Try: sbatch --help\n"
    )
    facts = json.loads(shell("status", path, "--json").stdout)
    assert facts["submission"] is None and facts["shards"] == []


def test_nothing_is_sent_while_the_queue_does_not_answer(shell, slurm, suite, write):
    path = write(suite())
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    for verb in (["status", path], ["submit", path, "--jobs", 2, "--slurm", "time=60"]):
        done = shell(*verb)
        assert done.returncode == 2
        assert done.stderr.startswith("robharness: squeue does not answer: slurm_load_jobs error: Unable to contact")
        assert done.stderr.endswith("Try: squeue\n")
    slurm.fails("squeue", "slurm_load_jobs error: Invalid job id specified")  # said of the only job, long over
    assert "sent shards 1, 2 of 2" in submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")


def test_a_machine_without_slurm_is_told_so(shell, slurm, suite, write, tmp_path):
    path = write(suite())
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    done = shell("submit", path, "--jobs", 2, "--slurm", "time=60", PATH=nothing)
    assert done.returncode == 2
    assert "Slurm's commands, such as sbatch and srun, are not on this machine" in done.stderr
    submit(shell, slurm, path, "--jobs", 2, "--slurm", "time=60")
    assert "squeue is not on this machine" in shell("status", path, PATH=nothing).stderr


def test_a_missing_library_is_told_with_its_command(shell, slurm, suite, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    done = shell("submit", write(suite()), "--jobs", 2, "--slurm", "time=60")
    assert done.returncode == 2
    assert done.stderr.endswith("submitit, which is not installed. Try: pip install 'robharness[slurm]'\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the number of jobs is given by one of --gpus and --jobs. Try: --gpus 8"),
        (["--gpus", 2, "--jobs", 2], "the number of jobs is given by one of --gpus and --jobs. Try: --gpus 8"),
        (["--jobs", 2], "jobs need a time limit. Try: --slurm time=4:00:00, or `time: 4:00:00` in a profile"),
        (["--jobs", 0], "Invalid value for '--jobs': 0 is not in the range 1<=x<=1048576."),
    ],
)
def test_what_cannot_be_sent_is_one_sentence(shell, slurm, suite, write, words, message):
    done = shell("submit", write(suite()), *words)
    assert done.returncode == 2 and message in done.stderr
    assert slurm.calls() == []


def test_the_queue_is_asked_once_for_all_jobs_and_only_if_there_are_any(shell, slurm, suite, write):
    path = write(suite())
    shell("status", path)
    assert slurm.calls() == []
    for number in (2, 3):
        submit(shell, slurm, path, "--jobs", number, "--slurm", "time=60")
    (slurm.folder / "calls").unlink()
    shell("status", path)
    assert [re.sub(r"^\S*/", "", call).split()[0] for call in slurm.calls()] == ["squeue", "sacct"]
    assert all("--jobs=101,102" in call for call in slurm.calls())


def test_states_of_jobs(slurm):
    slurm.says(
        "squeue", "7_0|RUNNING|None\n7_1|PENDING|JobArrayTaskLimit\n8|SUSPENDED|x\n9|REQUEUE_HOLD|held\n10|FAILED|\n"
    )
    found = slurm_states(["7_0", "7_1", "7_2", "8", "9", "10"])
    assert {job: state.phase for job, state in found.items()} == {
        "7_0": "running", "7_1": "pending", "7_2": "over", "8": "running", "9": "pending", "10": "over",
    }  # fmt: skip
    assert found["7_1"].reason == "JobArrayTaskLimit"
