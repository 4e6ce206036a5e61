"""The pages of docs/ are typed as a reader would: files written, commands run, output compared. Needs all plugins.

A block ```python mine.py is a file; ```python mine.py (more) is added to it; ```python without a name runs, with the
names of those before it; ```yaml without a name is a suite or a part of one; ```console is what a terminal shows, where
`...` stands for any lines.
"""

import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from robharness import discover
from robharness import suite as suites
from robharness.cli import main

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs/tutorial/first-plugin.md"
PAGES = sorted(ROOT.glob("docs/**/*.md"))
READMES = sorted([*ROOT.glob("README.md"), *ROOT.glob("plugins/*/README.md")])
PHOTOS = {
    "robharness": 1,
    "name": "part",
    "data": {"name": "samples/imagenet-photos", "split": "val"},
    "models": [{"model": "samples/efficientnet-lite0"}],
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. language: the fence's first word; name: the rest of it."""

    page: Path
    line: int
    language: str
    name: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page):
    text = page.read_text()
    for found in re.finditer(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[1], found[2], found[3])


def commands(block):
    """(command, lines shown below it) in turn."""
    typed = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            typed.append((line[2:], []))
        else:
            typed[-1][1].append(line)
    return typed


def scripts(block):
    """The commands of the jobs of a file for GitLab CI, without those that install."""
    jobs = yaml.safe_load(block.text).values() if block.name.endswith(".gitlab-ci.yml") else ()
    return [line for job in jobs for line in job["script"] if not line.startswith("pip ")]


class Terminal:
    """Types a page's blocks in a folder. The commands run in this process, which has torch in memory already, but from
    the first `pip` on in a virtual environment of the folder's own."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch, self.code, self.environment = folder, monkeypatch, 0, None
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.delenv("ROBHARNESS_DATA", raising=False)
        monkeypatch.setattr(sys, "argv", ["robharness"])

    def write(self, block):
        name, more, _ = block.name.partition(" (more)")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if more else "w") as file:
            file.write("\n\n" * bool(more) + block.text)

    def type(self, command):
        """Return what the command prints, both streams together; its exit code is in `code`."""
        if command == "echo $?":
            code, self.code = self.code, 0
            return f"{code}\n"
        if command.startswith("pip ") and self.environment is None:
            self.environment = environment(self.folder / ".venv")
        words = shlex.split(command)
        is_simple = ">" not in words and "|" not in words and "-m" not in words
        if self.environment is None and words[0] in ("robharness", "python") and is_simple:
            return self.run_in_process(words)
        here = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no xdist worker
        variables = here | (self.environment or {"PATH": path_with(sysconfig.get_path("scripts"))})
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
            check=False,
        )
        self.code = done.returncode
        return done.stdout

    def run_in_process(self, words):
        printed, self.code = io.StringIO(), 0
        self.monkeypatch.setattr(sys, "argv", words)
        with redirect_stdout(printed), redirect_stderr(printed):
            if words[0] == "robharness":
                self.code = int(main(words[1:]))
            else:
                runpy.run_path(words[1], run_name="__main__")
        return printed.getvalue()


def path_with(folder):
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def environment(folder):
    """Variables for a new virtual environment in which all that is installed here is installed, too."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in (("pip", "pip._internal.cli.main"), ("robharness", "robharness.cli")):
        script = folder / "bin" / name
        script.write_text(f"#!{folder}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    return {"PATH": path_with(folder / "bin"), "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1",
            "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip


def essential(text):
    """The lines that are the same on every machine: no blank ones, no rules, no progress, no seconds."""
    lines = [re.sub(r"\b\d+\.\d s\b", "_ s", re.sub(r"[ ─]+", " ", line).strip()) for line in text.splitlines()]
    return [line for line in lines if line and not re.match(r"\d+/\d+ examples, ", line)]


def is_shown(expected, printed):
    """Whether the lines are those printed; `...` stands for any number of them."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in expected)
    return re.fullmatch(pattern, "".join(line + "\n" for line in printed)) is not None


def type_page(page, terminal):
    names = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "console":
            typed = commands(block)
            for index, (command, below) in enumerate(typed):
                printed = terminal.type(command)
                expected, found = essential("\n".join(below)), essential(printed)
                assert is_shown(expected, found), f"{block}: $ {command}\n{printed}\nThe page shows\n" + "\n".join(
                    below
                )
                asks = index + 1 < len(typed) and typed[index + 1][0] == "echo $?"
                assert terminal.code == 0 or asks, f"{block}: $ {command} ended with {terminal.code}; show `echo $?`"
        elif block.name:
            terminal.write(block)
            for command in scripts(block):
                printed = terminal.type(command)
                assert terminal.code == 0, f"{block}: {command} ended with {terminal.code}\n{printed}"
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(block.page), "exec"), names)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """A folder with the files that the tutorial leaves, before they become a package."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        terminal = Terminal(tmp_path_factory.mktemp("tutorial") / "files", monkeypatch)
        for block in blocks(TUTORIAL):
            if block.name.split(" ")[0] in ("mine.py", "digits.yaml", "make_means.py"):
                terminal.write(block)
        terminal.type("python make_means.py")
    return terminal.folder


def test_the_tutorial_runs_as_printed(tmp_path, monkeypatch):
    type_page(TUTORIAL, Terminal(tmp_path / "empty", monkeypatch))


@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL], ids=lambda page: page.stem)
def test_the_page_runs_as_printed(page, tutorial, tmp_path, monkeypatch):
    terminal = Terminal(tmp_path / "files", monkeypatch)
    shutil.copytree(tutorial, terminal.folder, dirs_exist_ok=True)
    type_page(page, terminal)


@pytest.mark.parametrize(
    "block",
    [block for page in [*PAGES, *READMES] for block in blocks(page) if block.language == "yaml" and not block.name],
    ids=str,
)
def test_every_suite_on_the_pages_can_be_loaded(block):
    suites.load(PHOTOS | yaml.safe_load(block.text), discover())
