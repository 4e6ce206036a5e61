"""`robharness check --junit --markdown --github`: files, annotations and the summary of a job."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from rich.console import Console

from gated_suites import HALVES
from robharness.cli.ci import SUMMARY_BYTES
from robharness.comparison.outputs.tables import LAYOUT
from robharness.errors import ExitCode
from robharness.gate.outputs.tables import document_of_check
from robharness.gate.records import VERDICTS
from robharness.report.renderers.terminal import show_document
from synthetic_checks import checked

PLUGIN = str(Path(__file__).with_name("gated.py"))
BROKEN = "Net · brighter(1)"
OUTPUTS = ("--junit", "junit.xml", "--markdown", "check.md", "--github")


@pytest.fixture
def shell_plugins():
    return [PLUGIN]


@pytest.fixture
def folder(tmp_path, shell):
    """A folder with a suite, its weight and its baseline."""
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(HALVES))
    (tmp_path / "net.json").write_text("0")
    assert shell("check", "s.yaml", "--update").returncode == 0
    return tmp_path


@pytest.fixture
def broken(folder):
    """The same, with a weight that breaks one cell of three."""
    (folder / "net.json").write_text("4.1")
    return folder


def annotations(text):
    return [line for line in text.splitlines() if line.startswith("::")]


def test_all_outputs_of_a_regression(broken, shell):
    found = shell("check", "s.yaml", *OUTPUTS, GITHUB_STEP_SUMMARY=broken / "summary.md")
    assert found.returncode == ExitCode.REGRESSION
    assert f"  {BROKEN}: its accuracy fell by" in found.stdout
    [line] = annotations(found.stdout)
    assert line.startswith(f"::error title=halves%3A {BROKEN}::regressed: its accuracy fell by ")
    assert "wrote junit.xml\nwrote check.md\n" in found.stderr
    root = ElementTree.parse(broken / "junit.xml")
    assert [case.get("name") for case in root.iter("testcase")] == ["clean", "dim(linf, 10/255)", "brighter(1)"]
    assert [case.get("name") for case in root.findall(".//failure/..")] == ["brighter(1)"]
    text = (broken / "check.md").read_text()
    assert text.startswith("<!-- robharness check halves -->\n") and "Not passed: 1 regressed." in text
    assert (broken / "summary.md").read_text() == text


def test_all_outputs_of_a_check_that_passes(folder, shell):
    found = shell("check", "s.yaml", *OUTPUTS, GITHUB_STEP_SUMMARY=folder / "summary.md")
    assert found.returncode == 0
    assert not annotations(found.stdout + found.stderr)
    assert ElementTree.parse(folder / "junit.xml").findall(".//failure") == []
    assert "Passed." in (folder / "check.md").read_text()


def test_json_stays_json(broken, shell):
    found = shell("check", "s.yaml", *OUTPUTS, "--json", GITHUB_STEP_SUMMARY=broken / "summary.md")
    assert found.returncode == ExitCode.REGRESSION
    assert json.loads(found.stdout)["exit_code"] == 1
    assert len(annotations(found.stderr)) == 1


def test_an_absent_summary_is_said(folder, shell, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    found = shell("check", "s.yaml", "--github")
    assert found.returncode == 0
    assert "there is no summary to append to, since GITHUB_STEP_SUMMARY is not set" in found.stderr


def test_a_summary_is_appended_to_and_keeps_its_limit(broken, shell):
    path = broken / "summary.md"
    path.write_bytes(b"earlier\n")
    for count in (1, 2):
        shell("check", "s.yaml", "--github", GITHUB_STEP_SUMMARY=path)
        text = path.read_text()
        assert text.startswith("earlier\n<!--") and text.count("Not passed") == count
    path.write_bytes(b"x" * (SUMMARY_BYTES - 1000))
    shell("check", "s.yaml", "--github", GITHUB_STEP_SUMMARY=path)
    text = path.read_text()[SUMMARY_BYTES - 1000 :]
    assert "Not passed" in text and "Shortened: " in text and len(text.encode()) <= 1000
    path.write_bytes(b"x" * SUMMARY_BYTES)
    found = shell("check", "s.yaml", "--github", GITHUB_STEP_SUMMARY=path)
    assert found.returncode == ExitCode.REGRESSION
    assert f"the summary {path} is full" in found.stderr and path.stat().st_size == SUMMARY_BYTES


def test_a_summary_that_cannot_be_written_changes_no_exit_code(broken, shell):
    found = shell("check", "s.yaml", "--github", GITHUB_STEP_SUMMARY=broken / "absent" / "summary.md")
    assert found.returncode == ExitCode.REGRESSION
    assert "absent/summary.md cannot be written: No such file or directory" in found.stderr


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_places_are_checked_before_anything_is_computed(tmp_path, shell, option):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(HALVES))
    found = shell("check", "s.yaml", "--update", option, "absent/x")
    assert found.returncode == ExitCode.USAGE
    assert found.stderr == (
        f"robharness: {option} absent/x: cannot be written: No such file or directory. Try: mkdir -p absent\n"
    )
    assert not (tmp_path / ".robharness").exists()


def test_two_outputs_in_one_file_are_refused(tmp_path, shell):
    found = shell("check", "s.yaml", "--junit", "x.md", "--markdown", "./x.md")
    assert found.returncode == ExitCode.USAGE
    assert found.stderr == "robharness: --junit and --markdown name the same file. Try: --markdown x.markdown\n"


def test_an_earlier_file_is_replaced_whole(broken, shell):
    for name in ("junit.xml", "check.md"):
        (broken / name).write_text("earlier" * 100_000)
    shell("check", "s.yaml", *OUTPUTS, GITHUB_STEP_SUMMARY=broken / "summary.md")
    assert "earlier" not in (broken / "junit.xml").read_text() + (broken / "check.md").read_text()


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_fits_the_terminal(width):
    """Lines with commands, and findings, are not broken, so that they can be copied."""
    file = io.StringIO()
    report = checked({("Net", f"climb({name})"): name for name in VERDICTS})
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    show_document(document_of_check(report), console, LAYOUT)
    text = file.getvalue()
    lines = [line for line in text.splitlines() if not line.startswith("  Net · climb(failed): before has")]
    commands = [line for line in lines if line.endswith("robharness check toys.yaml --baseline base.json --update")]
    assert [line[:6] for line in commands] == ["To mak", "Not pa"]
    assert all(len(line) <= width for line in lines if line not in commands)
    assert "examples per cell are compared" in text and "-30.00 [-31.98, -27.96]" in text
