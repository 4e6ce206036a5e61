"""Records of submissions and of tasks: written whole, checked when they are read."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from robharness.store.folder import StoreFolder
from robharness.submission import records
from robharness.submission.records import SentJob, Submission
from robharness.submission.task import TaskState, ending, read_state

CONTENT = Submission(
    time="2026-11-01T00:00:00+00:00", cluster="slurm", machine="login", suite="/suites/a.yaml", settings=("seed=1",),
    words=("submit", "a.yaml"), working_directory="/suites", only=None, examples=40, shards=2,
)  # fmt: skip
JOB = SentJob(name="shard-1-of-2", job="12_0", part=(1, 2), span=(0, 20), work=80.0)


@pytest.fixture
def written(tmp_path):
    store = StoreFolder(tmp_path)
    return store, records.new_submission(store, CONTENT).with_jobs(store, JOB)


def test_a_record_is_read_as_it_was_written(written):
    store, submission = written
    assert records.submissions(store) == [submission]
    assert submission.content.jobs == (JOB,) and store.findings == []


def test_folders_and_records_are_in_the_order_of_sending(tmp_path):
    store = StoreFolder(tmp_path)
    times = [f"2026-11-01T01:00:00.{microseconds:06}+01:00" for microseconds in range(0, 200_000, 10_007)]
    sent = [records.new_submission(store, replace(CONTENT, time=time)) for time in times]
    assert [each.folder for each in sent] == sorted(each.folder for each in sent)
    assert records.submissions(store) == sent[::-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"time": "yesterday"},
        {"time": "2026-11-01T00:00:00"},
        {"cluster": "cloud"},
        {"shards": 0},
        {"jobs": [{"name": "../../etc/passwd", "job": "1"}]},
        {"jobs": [{"name": "shard-1-of-2", "job": "1; rm -rf /", "part": [1, 2]}]},
        {"jobs": [{"name": "shard-1-of-2", "job": "1", "part": [3, 2]}]},
        {"jobs": [{"name": "shard-1-of-2", "job": "1"}]},
        {"jobs": [{"name": "training", "job": "1", "part": [1, 2]}]},
        {"jobs": [{"name": "shard-1-of-2", "job": "1", "part": [1, 2], "span": [5, 4]}]},
        {"words": "submit"},
    ],
)
def test_a_record_that_contradicts_itself_is_left_out_and_named(written, changes):
    store, submission = written
    path = submission.folder / records.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert records.submissions(store) == []
    (finding,) = store.findings
    assert finding.code == "record-damaged" and records.FILE in finding.message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": 1, "a": 2}'])
def test_a_torn_record_is_left_out_and_named(written, content):
    store, submission = written
    (submission.folder / records.FILE).write_bytes(content)
    (submission.folder.parent / "somebody's folder").mkdir()
    assert records.submissions(store) == [] and len(store.findings) == 1


STATE = {"state": "running", "since": "2026-11-01T00:00:00+00:00", "seconds": 2.5, "tries": 1, "code": None,
         "reason": "", "pid": 7, "machine": "far"}  # fmt: skip


def test_the_state_of_a_task_is_read_or_unknown(tmp_path):
    path = tmp_path / "shard-1-of-2.json"
    assert read_state(path) is None
    path.write_text(json.dumps(STATE))
    found = read_state(path)
    assert found == TaskState(**STATE) and found.elapsed > 2.5
    wrong = [{"state": "lost"}, {"since": "now"}, {"since": "2026-11-01T00:00:00"}, {"seconds": -1}, {"tries": "1"},
             {"pid": -7}, {"code": "0"}, {"reason": None}, {"machine": 5}]  # fmt: skip
    for changes in wrong:
        path.write_text(json.dumps(STATE | changes))
        assert read_state(path) is None, changes
    for content in ("", "[]", json.dumps({"state": "running"})):
        path.write_text(content)
        assert read_state(path) is None


def test_the_page_lists_the_keys_of_both_files():
    page = (Path(__file__).parents[2] / "docs/reference/commands.md").read_text()
    rows = re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", page.partition("### Files of a submission\n")[2], re.MULTILINE)
    keys = [re.findall(r"`(\w+)`", text) for _, text in rows]
    assert keys == [[each.name for each in fields(record)] for record in (Submission, TaskState)]


def test_an_ending_is_said_in_words(tmp_path):
    log = tmp_path / "log"
    assert ending(2, log) == "exit code 2: its log cannot be read"
    log.write_text("first\nrobharness: no GPU. Try: cpu\n\n")
    assert ending(0, log) == ""
    assert ending(2, log) == "exit code 2: robharness: no GPU. Try: cpu"
    assert ending(-11, log) == "killed by SIGSEGV"
    assert ending(-9, log) == "killed by SIGKILL, perhaps for lack of memory"
