"""Commands that messages print, typed as they are printed in the same folder, do what the message says."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from robharness import api
from robharness.cli import main
from robharness.errors import ContractViolation, UserError, describe
from robharness.findings import named_examples
from robharness.store.failures import Failure
from robharness.text import attributed, quoted_commands, sentence

FILES = '''
import os
from dataclasses import dataclass

import numpy as np

from robharness import AttackSpec, Cost, DatasetSpec, MissingResource, ThreatModel, UnreadableExample, hookimpl

BAD = "it is bad. Try: rm -rf ~ # x"

class Files:
    """Four images below the data root; the second cannot be read while there is a file `broken`."""

    def __init__(self, root, split):
        if not (root / "here").exists():
            raise MissingResource("the files", where=str(root), get="touch here")
        self.root, self.labels = root, [0, 1, 2, 0]
        self.ids = [f"{'../' if split == 'odd' else ''}{index}.png" for index in range(4)]
        self.remarks = [BAD]

    def read(self, index):
        if (index == 1 or os.environ.get("ALL_BROKEN")) and (self.root / "broken").exists():
            raise UnreadableExample(BAD)
        return np.full((8, 8, 1), 60 * index, np.uint8)

@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="files", summary="Files", labels="toys", splits=(), open=Files)

@dataclass(frozen=True)
class Params:
    pass

class Bad:
    def perturb(self, model, batch, eps, rng):
        raise RuntimeError(BAD)

@hookimpl
def robharness_attacks():
    yield AttackSpec(name="bad", summary="Raises", build=lambda params: Bad(), access="gradient",
                     randomness="none", params=Params, cost=lambda params: Cost(gradients=1),
                     advise=lambda params, eps: [BAD], threat=lambda params: ThreatModel(norm="linf"))
'''
NET = {"model": "toys/net", "label": "My Net"}
LEARNER = {"model": "learner/net", "label": "Net", "epochs": 1}
SUITE = {"robharness": 1, "name": "s", "data": {"name": "files/files", "split": "test"}, "models": [NET],
         "attacks": [{"attack": "toys/sign", "eps": ["1/8"]}]}  # fmt: skip
TAUGHT = SUITE | {"data": {"name": "learner/shades", "split": "test", "limit": 4}, "models": [LEARNER]}
COMMAND = re.compile(
    r"(?:Try|[tT]o (?:train|train only|compute again|compute all of it again)|the files): (robharness .*)"
)


class Folder:
    """A folder with plugins, a store and data, none of them where a command looks by default."""

    options = ("-p", "./toys.py", "-p", "files.py", "-p", "learner.py", "--store", "my store")
    data_root = ("--data-root", "my data")

    def __init__(self, path, monkeypatch, capsys):
        self.path, self.set, self._capsys = path, monkeypatch.setenv, capsys
        monkeypatch.chdir(path)
        for name in ("toys.py", "learner.py"):
            shutil.copy(Path(__file__).parent / name, path / name)
        (path / "files.py").write_text(FILES)
        (path / "my data").mkdir()
        (path / "my data" / "here").touch()
        self.write(SUITE)

    def write(self, suite):
        (self.path / "my suite.yaml").write_text(yaml.safe_dump(suite))

    def typed(self, *words):
        """Run the command, and return its exit code and what it printed."""
        code = main(list(map(str, words)))
        return int(code), "".join(self._capsys.readouterr())

    def call(self, verb, *words):
        """Run a verb on the suite with all options."""
        return self.typed(verb, "my suite.yaml", *self.options, *self.data_root, *words)


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    return Folder(tmp_path, monkeypatch, capsys)


def untrained(folder):
    folder.write(TAUGHT)
    return folder.call("report")


def planned_untrained(folder):
    folder.write(TAUGHT)
    return folder.call("plan")


def untrained_shard(folder):
    folder.write(TAUGHT)
    return folder.call("run", "--shard", "1/2")


def unreadable(folder):
    broken = folder.path / "my data" / "broken"
    broken.touch()
    printed = folder.call("run")
    broken.unlink()
    return printed


def none_readable(folder):
    broken = folder.path / "my data" / "broken"
    broken.touch()
    folder.set("ALL_BROKEN", "1")
    folder.call("run")
    printed = folder.call("report")
    broken.unlink()
    return printed


def other_runtime(folder):
    folder.call("run", "--threads", "1", "--limit", "2")
    return folder.call("run", "--threads", "2")


def other_network(folder):
    folder.write(SUITE | {"models": [NET | {"what": "drifting"}]})
    folder.set("TOYS_DRIFT", "0")
    folder.call("run", "--limit", "2")
    folder.set("TOYS_DRIFT", "0.5")
    return folder.call("run")


def wrong_suite(folder):
    folder.write(SUITE | {"count": "none"})
    printed = folder.call("plan")
    folder.write(SUITE)
    return printed


def no_cell(folder):
    return folder.call("run", "--only", "nothing")


def fresh_shard(folder):
    return folder.call("run", "--fresh", "My*", "--shard", "1/2")


def no_attack(folder):
    folder.write(SUITE | {"attacks": [], "corruptions": [{"corruption": "toys/negative", "severity": 1}], "canvas": 8})
    return folder.call("export-adversarial", "-o", "my out")


def no_names(folder):
    folder.write(SUITE | {"data": {"name": "files/files", "split": "odd"}, "canvas": 8,
                          "corruptions": [{"corruption": "toys/negative", "severity": 1}]})  # fmt: skip
    plugins = (word for option in folder.options[1:6:2] for word in ("-p", option))
    return folder.typed("export-corruptions", "my suite.yaml", *plugins, *folder.data_root, "-o", "my out")


@pytest.mark.parametrize(
    ("situation", "finding"),
    [
        (untrained, "not trained yet"),
        (planned_untrained, "wait for the training"),
        (untrained_shard, "not trained yet"),
        (unreadable, "cannot be read"),
        (none_readable, "examples can be read"),
        (other_runtime, "when some of it was computed"),
        (other_network, "another network"),
        (wrong_suite, "Correct the suite"),
        (no_cell, "no cell matches"),
        (fresh_shard, "--fresh forgets whole cells"),
        (no_attack, "no attack to export"),
        (no_names, "is not a path below a folder"),
    ],
)
def test_the_printed_command_works_in_the_same_folder(folder, situation, finding):
    _, printed = situation(folder)
    lines = [line for line in printed.splitlines() if finding in line and COMMAND.search(line)]
    assert lines, printed
    command = shlex.split(COMMAND.search(lines[0])[1])
    is_training, verb = command[1] == "train", command[1]
    code, done = folder.typed(*command[1:])
    assert code == 0 and finding not in done, done
    words = folder.call("report" if verb in ("run", "train") else "plan")[1]
    assert finding not in words
    if is_training:
        assert "My Net" not in words and "Train" not in words
    assert not (folder.path / ".robharness").exists() and not (folder.path / "data").exists()


def test_options_at_their_defaults_are_left_out(folder):
    folder.path.joinpath("data").mkdir()
    planned = api.plan("my suite.yaml", plugins=["./toys.py", "files.py"], data="data", limit=3)
    assert planned.command("run", "--limit", "1") == "robharness run 'my suite.yaml' -p ./toys.py -p files.py --limit 1"
    assert planned.command("train") == "robharness train 'my suite.yaml' -p ./toys.py -p files.py"
    folder.set("ROBHARNESS_DATA", str(folder.path / "elsewhere"))
    assert "--data-root data --limit 3" in planned.command("plan")


def test_a_suite_without_a_file_prints_no_command_line(folder):
    planned = api.plan(SUITE, plugins=["toys.py", "files.py"], data="my data")
    assert planned.command("plan") == "robharness.plan with it again"
    assert (
        planned.command("export-adversarial", "-o", "x")
        == "robharness export-adversarial --help, with the suite in a file"
    )
    assert planned.command("run", "--fresh", "'*'") == "robharness.run with it and another `store`"
    folder.write(SUITE)
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    live = api.plan("my suite.yaml", plugins=["toys.py", "files.py"], data="my data", models={"mine": net})
    assert live.command("report") == 'robharness.run with it again, and .save("report.html")'


# --- texts of plugins, which are no commands of ours ------------------------------------------------------------------


def test_what_a_plugin_says_to_type_is_never_the_command_of_a_message(folder):
    folder.write(SUITE | {"attacks": [{"attack": "files/bad", "eps": "1/8"}]})
    (folder.path / "my data" / "broken").touch()
    printed = [folder.call(verb)[1] for verb in ("plan", "run", "report")]
    printed.append("\n".join(json.loads(folder.call("report", "--json")[1])["warnings"]))
    for text in printed:
        assert '"Try:" rm -rf ~ # x' in text
        assert not re.search(r"(?<!\")\b(Try|To go on|To get it): rm", text)


@pytest.mark.parametrize(
    "text", ["bad. Try: rm x", "Try: rm x", "bad.\tTry:\trm x", "bad; To  go on: rm x", "Try:", "To do it: x"]
)
def test_words_that_introduce_a_command_are_quoted_in_foreign_text(text):
    assert re.search(r'"(Try|To\s+go on|To do it):"', quoted_commands(text))
    assert quoted_commands("it failed To open: x, and to try: y") == 'it failed "To open:" x, and to try: y'
    for shown in (describe(RuntimeError(text)), named_examples(["a"], {"a": text})):
        assert not re.search(r"(?<!\")(Try|To go on|To do it):", shown)
    assert describe(UserError("bad. Try: ls")) == "UserError: bad. Try: ls"


def test_a_command_stays_at_the_end_of_a_failure():
    assert attributed("bad. Try: ls w.pt", "toys 1.0") == "bad (toys 1.0). Try: ls w.pt"
    assert attributed("bad. To compute it again: x", "toys 1.0") == "bad (toys 1.0). To compute it again: x"
    assert attributed("bad", "toys 1.0") == "bad (toys 1.0)"
    assert attributed("bad: it is. To get it: ls; true", "toys 1.0") == "bad: it is (toys 1.0). To get it: ls; true"
    command = "x" * 4000
    failure = Failure(start=0, stop=1, blame="toys 1.0", error=f"{'long ' * 1000}. Try: {command}")
    assert str(failure).endswith(f" (toys 1.0). Try: {command}") and sentence(str(failure)).endswith(command)
    assert str(ContractViolation("bad. Try: ls")) == "bad. Try: ls"
