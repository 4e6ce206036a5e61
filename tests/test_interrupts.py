"""Ctrl-C at any moment: no traceback, one sentence at most, exit code 130, and no code that catches it away."""

import os
import re
import signal

import pytest
import yaml

from robharness import interrupts
from robharness.errors import Interrupted
from robharness.planning import planner
from robharness.plugins.calls import plugin_code

SENTENCE = "robharness: interrupted; the same command goes on from what is stored\n"

FORKS = """
import os, signal, sys
from robharness.cli import entry_point

class Countdown:
    def __init__(self, calls):
        self.calls = calls

    def __call__(self, frame, event, argument):
        self.calls -= event == "call"
        if self.calls == 0:
            self.calls = -1
            signal.raise_signal(signal.SIGINT)

for calls in map(int, sys.argv[1].split()):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{calls}.out", os.O_CREAT | os.O_WRONLY), 1)
        os.dup2(os.open(f"{calls}.err", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv[1:] = ["list", "plugins"]
        sys.setprofile(Countdown(calls))
        entry_point()
    print(calls, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_ctrl_c_at_any_moment_of_the_start_is_no_traceback(run_process, tmp_path):
    """Each fork of a process has its Ctrl-C at another call of a Python function: imports, streams, discovery."""
    moments = [2, 3, 5, 20, 50, 200, 1000, 3000, 8000, 20000, 40000]  # of fewer than 80,000 calls
    found = run_process(" ".join(map(str, moments)), program=["-c", FORKS], cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.split() == [word for calls in moments for word in (str(calls), "130")]
    said = [(tmp_path / f"{calls}.err").read_text() for calls in moments]
    assert {*said} == {"", SENTENCE}
    assert all(not (tmp_path / f"{calls}.out").read_text() for calls in moments)


CATCHES = {
    "exec": "exec('import os, signal; os.kill(os.getpid(), signal.SIGINT)')",
    "destructor": (
        "import os, signal, time\n"
        "class Last:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
        "Last()\n"
        "time.sleep(60)\n"
    ),
    "twice": (
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\nfinally:\n    os.kill(os.getpid(), signal.SIGINT)\n"
    ),
    "other error": (
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException:\n    raise ImportError('no multiarray') from None\n"
    ),
}
"""Plugins at whose import Ctrl-C is typed, where Python or the plugin makes something else of it."""


@pytest.mark.parametrize("way", CATCHES)
def test_ctrl_c_that_is_caught_elsewhere_ends_the_command(run_process, tmp_path, way):
    (tmp_path / "catches.py").write_text(CATCHES[way])
    found = run_process("list", "plugins", "-p", "catches.py", cwd=tmp_path, timeout=30)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", SENTENCE)


WRAPPED = """
import os, signal
from robharness import interrupts
from robharness.plugins.calls import plugin_errors

interrupts.handle_interrupts()
with plugin_errors():
    pass
try:
    with plugin_errors():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            pass
except KeyboardInterrupt:
    print("passed on")
"""


def test_ctrl_c_that_a_plugin_catches_is_raised_after_its_call(run_process):
    assert run_process(program=["-c", WRAPPED]).stdout == "passed on\n"


class Hostile(Exception):
    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    "error",
    [EOFError("truncated"), BrokenPipeError(32, "Broken pipe"), SystemExit(0), Hostile()],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_ours_is_neither_ctrl_c_nor_success(shell, suite, tmp_path, monkeypatch, error):
    """Those that click takes for Ctrl-C or for a reader that is gone, and those whose text cannot be printed."""
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(suite()))

    error.add_note("\ud800")

    def fail(*words):
        raise error

    monkeypatch.setattr(planner, "plan", fail)
    found = shell("plan", "toys.yaml")
    assert (found.returncode, found.stdout) == (5, "")
    assert found.stderr.startswith(f"robharness: a bug of ours: {type(error).__name__}")
    path = re.search(r"please report (\S+)$", found.stderr).group(1)
    assert os.stat(path).st_mode & 0o777 == 0o600
    with open(path, encoding="utf-8") as file:
        assert "in fail" in file.read()
    os.unlink(path)


def test_what_the_core_says_about_ctrl_c_passes_through_a_plugins_block():
    """The sentence that names what is kept is no failure of the plugin whose block Ctrl-C ended."""
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupts.arm()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="its unfinished files are kept"), plugin_code():
            raise Interrupted("its unfinished files are kept")
        with pytest.raises(KeyboardInterrupt), plugin_code():
            raise ValueError("a consequence")
    finally:
        interrupts.arm()
        signal.signal(signal.SIGINT, before)
