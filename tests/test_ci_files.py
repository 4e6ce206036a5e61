"""The files for CI systems: valid for published schemas, and scripts of the action that run as its runner runs them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gated_suites import HALVES
from robharness.cli import main
from robharness.statistics import smallest_fall

ROOT = Path(__file__).parents[1]
ACTION = ROOT / ".github/actions/check/action.yml"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PAGE = ROOT / "docs/how-to/ci.md"
PLUGIN = Path(__file__).with_name("gated.py")
SUITE = {key: value for key, value in HALVES.items() if key != "attacks"}
RECORD = """
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
GH = (
    RECORD
    + """
if "--jq" in sys.argv:
    print(os.environ.get("EARLIER", ""))
elif os.environ.get("REFUSES"):
    sys.exit("HTTP 403")
"""
)


def published(path, schema):
    """Validate a file with a schema of schemastore.org, without a network."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def blocks():
    """The YAML files that the page of CI shows: name -> text."""
    return dict(re.findall(r"^```yaml (\S+\.yml)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def action():
    return yaml.safe_load(ACTION.read_text())


def step(name):
    [found] = [step for step in action()["runs"]["steps"] if step.get("name") == name]
    return found


def uses(workflow):
    """The inputs of each use of the action in a workflow."""
    steps = [step for job in yaml.safe_load(workflow)["jobs"].values() for step in job["steps"]]
    return [step["with"] for step in steps if step.get("uses", "").partition("@")[0].endswith(".github/actions/check")]


# --- schemas -------------------------------------------------------------------------------------------------------


def test_the_action_is_valid():
    done = published(ACTION, "github-actions")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_workflows_are_valid(path):
    done = published(path, "github-workflows")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", blocks())
def test_the_files_of_the_page_are_valid(name, tmp_path):
    path = tmp_path / "file.yml"
    path.write_text(blocks()[name])
    done = published(path, "gitlab-ci" if "gitlab" in name else "github-workflows")
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(re.sub(r"^( +)(script|steps):", r"\1skript:", blocks()[name], flags=re.MULTILINE))
    assert published(path, "gitlab-ci" if "gitlab" in name else "github-workflows").returncode != 0


@pytest.mark.parametrize(
    "text", [*(path.read_text() for path in WORKFLOWS), *(text for name, text in blocks().items() if "github" in name)]
)
def test_the_inputs_of_the_action_exist(text):
    inputs = action()["inputs"]
    for given in uses(text):
        assert set(given) <= set(inputs)
        assert {name for name, each in inputs.items() if each.get("required")} <= set(given)


def test_this_repository_checks_the_quickstart():
    [given] = uses((ROOT / ".github/workflows/check.yml").read_text())
    assert (ROOT / given["suite"]).is_file() and (ROOT / given["baseline"]).is_file()
    for word in given["plugins"].split():
        assert (ROOT / "plugins" / word.partition("[")[0]).is_dir()


def test_no_script_holds_an_expression():
    """The runner puts the value of an expression into the script, so that an input could be code."""
    scripts = [step["run"] for step in action()["runs"]["steps"] if "run" in step]
    assert len(scripts) == 4 and not any("${{" in script for script in scripts)
    for name in ("suite", "baseline", "options", "plugins"):
        assert ACTION.read_text().count(f"${{{{ inputs.{name} }}}}") == 1


# --- scripts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with a suite and its baseline, and programs that record how they are called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("gh", GH), ("pip", RECORD)):
        (tmp_path / f"{name}.py").write_text(text)
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/{name}.py "$@"\n')
    # the interpreter of the tests, whose pip records
    (programs / "python").write_text(
        f'#!/bin/sh\nif [ "$2" = pip ]; then shift 2; exec {programs}/pip "$@"; fi\nexec {sys.executable} "$@"\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "s.yaml").write_text(yaml.safe_dump(SUITE))
    (work / "net.json").write_text("0")
    return tmp_path


def run_script(folder, name, **variables):
    """Run the script of a step as the runner does; give the process, and the outputs of the step."""
    script = folder / "script.sh"
    script.write_text(step(name)["run"])
    for file in ("outputs", "summary.md", "calls"):
        (folder / file).write_text("")
    environment = {**os.environ, "PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}", "RUNNER_TEMP": str(folder),
                   "GITHUB_OUTPUT": f"{folder}/outputs", "GITHUB_STEP_SUMMARY": f"{folder}/summary.md",
                   "CALLS": f"{folder}/calls", "OMP_NUM_THREADS": "1", "BASELINE": "", "OPTIONS": "",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script], cwd=folder / "work", check=False,
        env=environment | {key: str(value) for key, value in variables.items()}, capture_output=True, text=True,
    )  # fmt: skip
    outputs = dict(line.split("=", 1) for line in (folder / "outputs").read_text().splitlines())
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return done, outputs, calls


def test_the_install_takes_plugins_from_the_repository_of_the_action(folder):
    words = "robharness-samples robharness-corruptions[reference]\n  timm==1.0.9 robharness-absent ./plugin"
    done, _, [call] = run_script(folder, "Install", PLUGINS=words, ACTION_PATH=ACTION.parent)
    assert done.returncode == 0, done.stderr
    plugins = [f"{ROOT}/plugins/robharness-samples", f"{ROOT}/plugins/robharness-corruptions[reference]"]
    assert call == ["install", str(ROOT), *plugins, "timm==1.0.9", "robharness-absent", "./plugin"]
    assert run_script(folder, "Install", PLUGINS="", ACTION_PATH=ACTION.parent)[2] == [["install", str(ROOT)]]


def test_the_check_runs_and_its_exit_code_is_the_result(folder, monkeypatch):
    options = f"-p {shlex.quote(str(PLUGIN))}"
    monkeypatch.chdir(folder / "work")
    assert main(["check", "s.yaml", "-p", str(PLUGIN), "--update"]) == 0
    (folder / "work/net.json").write_text("4.1")
    assert main(["check", "s.yaml", "-p", str(PLUGIN)]) == 1  # so that the process below computes nothing
    done, outputs, _ = run_script(folder, "Check", SUITE="s.yaml", OPTIONS=f"{options}\n--limit  150")
    assert (done.returncode, outputs["exit-code"]) == (0, "1"), done.stderr
    assert "::error title=halves%3A Net · brighter(1)::regressed" in done.stdout
    text = Path(outputs["markdown"]).read_text()
    assert "150 examples" in text and (folder / "summary.md").read_text() == text
    assert "<failure " in Path(outputs["junit"]).read_text()
    assert {path.name for path in Path(outputs["folder"]).iterdir()} == {"junit.xml", "check.md"}
    for code in ("0", "1", "3", "4"):
        assert run_script(folder, "Result", CODE=code)[0].returncode == int(code)
    done, outputs, _ = run_script(folder, "Check", SUITE="s.yaml", BASELINE="absent.json", OPTIONS=options)
    assert outputs["exit-code"] == "4" and not Path(outputs["markdown"]).exists()


@pytest.mark.parametrize(
    "hostile", ["$(touch owned)", "`touch owned`", "; touch owned", "*", "a\nb", "--help", "'a b'"]
)
def test_inputs_are_words_and_never_code(folder, hostile):
    """Each word that robharness gets is recorded in its place."""
    (folder / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/pip.py "$@"\n')
    done, _, [call] = run_script(folder, "Check", SUITE=hostile, BASELINE=hostile, OPTIONS=f"--limit 5 {hostile}")
    assert done.returncode == 0, done.stderr
    assert call[:3] == ["-m", "robharness", "check"] and call[3] == hostile
    assert call[call.index("--baseline") + 1] == hostile
    assert call[call.index("--baseline") + 2 :] == ["--limit", "5", *shlex.split(hostile)]
    assert not (folder / "work/owned").exists()
    for name, variable in (("Install", "PLUGINS"), ("Comment", "COMMENTS"), ("Result", "CODE")):
        run_script(folder, name, **{"ACTION_PATH": ACTION.parent, "MARKDOWN": "absent", variable: hostile})
        assert not (folder / "work/owned").exists()


def test_options_with_an_open_quote_are_an_error(folder):
    done, outputs, calls = run_script(folder, "Check", SUITE="s.yaml", OPTIONS="-p 'a")
    assert done.returncode == 2 and not calls and not outputs


@pytest.mark.parametrize("earlier", ["", "7\n12"])
def test_the_comment_replaces_the_last_one(folder, earlier):
    page = folder / "check.md"
    page.write_text("<!-- robharness check halves -->\n\n# Halves\n")
    places = {"COMMENTS": "repos/a/b/issues/3/comments", "EDIT": "repos/a/b/issues/comments"}
    done, _, [search, write] = run_script(folder, "Comment", MARKDOWN=page, EARLIER=earlier, **places)
    assert done.returncode == 0, done.stderr
    assert search[:3] == ["api", "--paginate", places["COMMENTS"]]
    target = ["PATCH", f"{places['EDIT']}/12"] if earlier else ["POST", places["COMMENTS"]]
    assert write == ["api", "--silent", "--method", *target, "-F", f"body=@{page}"]
    bodies = ("x", page.read_text(), "<!-- robharness check")
    jq = subprocess.run(
        ["jq", "-r", search[-1]], capture_output=True, text=True, check=True,
        env={**os.environ, "MARKER": page.read_text().splitlines()[0]},
        input=json.dumps([{"id": at, "body": body} for at, body in enumerate(bodies)]),
    )  # fmt: skip
    assert jq.stdout == "1\n"


def test_a_comment_that_is_refused_is_a_warning(folder):
    page = folder / "check.md"
    page.write_text("<!-- robharness check halves -->\n")
    done, _, _ = run_script(folder, "Comment", MARKDOWN=page, REFUSES="1", COMMENTS="c", EDIT="e")
    assert done.returncode == 0 and done.stdout.startswith("::warning title=robharness check::")
    assert run_script(folder, "Comment", MARKDOWN=folder / "absent", COMMENTS="c", EDIT="e")[2] == []


def test_the_smallest_falls_of_the_page_are_those_of_the_check():
    rows = re.findall(
        r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert [row[0] for row in rows] == ["100", "1,000", "5,000", "10,000", "50,000"]
    for n, *shown in rows:
        cases = [(changed, cells) for changed in (0.03, 0.1) for cells in (1, 22)]
        falls = (
            smallest_fall(int(n.replace(",", "")), changed, 0.01 / cells, tolerance=0.005) for changed, cells in cases
        )
        assert shown == [f"{100 * fall:.2f}" for fall in falls]
