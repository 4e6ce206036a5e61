"""Options of jobs: profiles, pairs, their errors with places, and times."""

import re
from pathlib import Path
from time import time as now
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from submitit.core.job_environment import SignalHandler

from robharness.errors import SuiteError, UserError
from robharness.submission.options import DECIDED, OWN, SBATCH, JobOptions, parse_time, read_options


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(text, pairs=None):
        (tmp_path / "profile.yaml").write_text(text)
        return read_options((tmp_path / "profile.yaml").relative_to(tmp_path), pairs)

    return call


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:01", 91), ("4:00:00", 240), ("0:0:1", 1), ("1-12", 2160), ("2-0:30", 2910), ("1-0:0:1", 1441)],
)
def test_times_are_those_of_sbatch(text, minutes):
    assert parse_time(text) == minutes


@given(days=st.integers(0, 300), hours=st.integers(0, 23), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_a_time_is_never_shorter_than_what_was_written(days, hours, minutes, seconds):
    whole = days * 86400 + hours * 3600 + minutes * 60 + seconds
    found = parse_time(f"{days}-{hours}:{minutes:02}:{seconds:02}")
    assert 0 <= found * 60 - whole < 60


@pytest.mark.parametrize("text", ["", "0", "0:00", "4h", "UNLIMITED", "-5", "1-", "1:2:3:4", "1-2:3:4:5", "9" * 30])
def test_other_times_are_refused(text):
    with pytest.raises(ValueError, match="it is no "):
        parse_time(text)


def test_pairs_take_the_place_of_the_profile(read):
    found = read(
        "partition: a\ntime: 60\nmem_per_cpu: 2G\nexclusive: false\novercommit: false\n",
        "partition=b,exclude=n1,n2,nice,exclusive=user",
    )
    assert found == JobOptions(
        time=60, sbatch={"partition": "b", "mem-per-cpu": "2G", "exclude": "n1,n2", "nice": True, "exclusive": "user"}
    )


def test_an_empty_profile_and_no_pairs_leave_the_defaults():
    assert read_options(None, None) == JobOptions()


def test_all_errors_of_a_profile_come_together_with_their_places(read):
    with pytest.raises(SuiteError) as error:
        read(
            "partitoin: gpu\ntime: soon\narray: 0-3\nthrottle: 0\nsetup: 5\nmem: [1]\ngrace: 10\nqos: a\nqos: b\n",
            "x,time=60",
        )
    assert str(error.value).splitlines() == [
        "profile.yaml:9:1: the key 'qos' is there already, in line 8",
        "profile.yaml:1:1: unknown key 'partitoin'; did you mean 'partition'?",
        "profile.yaml:2:1: time: 'soon': it is no duration such as 4:00:00 (hours, minutes, seconds), 90 (minutes) or "
        "1-12 (days-hours)",
        "profile.yaml:3:1: `array` is decided by the submission itself",
        "profile.yaml:4:1: throttle: 0: it is no whole number from 1 to 2147483647",
        "profile.yaml:5:1: setup: 5: it is a list of lines, such as [module load cuda]",
        "profile.yaml:6:1: mem: [1]: it is no text",
        "profile.yaml:7:1: grace: 10: it is 30 seconds or more",
        "--slurm x,time=60: 'x' is not KEY=VALUE",
        "Correct the profile. Try: cat -n profile.yaml",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- partition\n", "profile.yaml:1:1: a profile is a mapping, such as `partition: gpu`"),
        ("a: [\n", "profile.yaml:2:1: not YAML: "),
        (
            "partition: !!python/object:os.system x\n",
            "profile.yaml:1:12: the tag !!python/object:os.system is not allowed",
        ),
        ('comment: "a\\nrm -rf b"\n', "characters that are not visible, such as the end of a line"),
        ('setup: ["a\\nb"]\n', "it is a list of lines"),
        ("exclusive: [1]\n", "exclusive: [1]: it is no text"),
    ],
)
def test_what_is_no_profile_is_refused(read, text, message):
    with pytest.raises(SuiteError) as error:
        read(text)
    assert message in str(error.value)


def test_an_error_of_the_pairs_names_them():
    with pytest.raises(SuiteError) as error:
        read_options(None, "partition=gpu,tme=60")
    assert str(error.value).splitlines() == [
        "--slurm tme=60: unknown key 'tme'; did you mean 'time'?",
        "Correct the option. Try: --slurm partition=gpu,time=4:00:00",
    ]


@pytest.mark.parametrize(("time", "most"), [("30", 600), ("10:00:00", 7200)])
def test_a_grace_by_which_a_time_limit_would_pass_for_a_preemption_is_refused(time, most):
    assert read_options(None, f"time={time},grace={most}").stop_seconds == most - 10
    with pytest.raises(UserError, match=rf"grace is {most + 1} seconds, .*Try: --slurm grace={most}$"):
        read_options(None, f"time={time},grace={most + 1}")
    assert read_options(None, "grace=100000").time is None
    delayed = SimpleNamespace(_timeout_min=parse_time(time), _timeout_countdown=3)
    handler = SignalHandler(None, None, delayed)
    for grace, is_end in ((most, True), (most + 60, False)):
        handler._start_time = now() - (60 * delayed._timeout_min - grace) - 1
        assert handler.has_timed_out() is is_end


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"lost\.yaml cannot be read: No such file or directory\. Try: ls -l "):
        read_options(tmp_path / "lost.yaml", None)


def test_no_key_has_two_meanings():
    assert not {*OWN} & {*SBATCH} and not {*OWN, *SBATCH} & {*DECIDED}


def test_the_page_lists_every_key():
    page = (Path(__file__).parents[2] / "docs/reference/commands.md").read_text()
    section = page.partition("## Options of jobs\n")[2].partition("\n## ")[0]
    table, _, rest = section.partition("These options of `sbatch`")
    passed, _, decided = rest.partition("The submission itself decides")
    assert re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE) == list(OWN)
    assert re.findall(r"`([\w-]+)`", passed.partition("\n\n")[2]) == list(SBATCH)
    assert re.findall(r"`([\w-]+)`", decided.partition("\n\n")[0]) == list(DECIDED)
