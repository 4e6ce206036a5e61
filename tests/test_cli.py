"""The command line as a user types it: what is printed where, and how it ends."""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile

import pytest
import yaml

from robharness.errors import ExitCode
from robharness.planning import planner


@pytest.fixture
def path(tmp_path, suite):
    path = tmp_path / "toys.yaml"
    path.write_text(yaml.safe_dump(suite(title="Toys under attack")))
    return path


def test_plan_run_again_and_report(shell, path):
    planned = shell("plan", path)
    assert planned.returncode == 0
    assert "4 cells of 40 examples: 0 done, 0 partial, 4 missing; 440 forward and 280 backward passes" in planned.stdout
    first = shell("run", path)
    assert first.returncode == 0
    assert "Toys under attack" in first.stdout
    assert "climb(linf, 1/4)" in first.stdout
    assert "4 cells to compute, 160 examples in all" in first.stderr
    assert "Attacks" not in first.stderr
    second = shell("run", path)
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert "nothing to compute: all outcomes are stored" in second.stderr
    assert "computed nothing again" in second.stderr
    reported = shell("report", path)
    assert reported.stdout == first.stdout
    assert "4 cells of 40 examples: 4 done, 0 partial, 0 missing" in shell("plan", path).stdout


def test_every_verb_prints_json(shell, path, tmp_path):
    run = json.loads(shell("run", path, "--json").stdout)
    assert run["complete"] is True
    assert run["cells"][0]["perturbation"] == "clean"
    assert json.loads(shell("report", path, "--json").stdout) == run
    assert shell("report", path, "-o", "out.json").returncode == 0
    assert json.loads((tmp_path / "out.json").read_text()) == run
    assert shell("report", path, "-o", "out.md").returncode == 0
    assert (tmp_path / "out.md").read_text().startswith("# Toys under attack")
    assert len(json.loads(shell("plan", path, "--json").stdout)["cells"]) == 4
    assert {row["name"] for row in json.loads(shell("list", "models", "toys/*", "--json").stdout)} >= {"toys/net"}


RENDERERS = """
from robharness import hookimpl

class Renderer:
    def __init__(self, suffix, render):
        self.name, self.suffix, self.render = suffix, suffix, render

def fail(report):
    raise RuntimeError("no ink")

@hookimpl
def robharness_renderers():
    yield Renderer(".names", lambda report: "".join(f"{cell.perturbation}\\n" for cell in report.cells))
    yield Renderer(".raw", lambda report: bytes([0, 255]))
    yield Renderer(".broken", fail)
    yield Renderer(".number", lambda report: 1)
"""


@pytest.fixture
def ink(tmp_path):
    """A plugin with renderers, as words of a command line."""
    (tmp_path / "ink.py").write_text(RENDERERS)
    return "-p", "ink.py"


def test_reports_are_rendered_by_the_suffix_of_the_file(shell, path, tmp_path, ink):
    assert shell("run", path).returncode == 0
    output = shell("report", path).stdout
    for name in ("out.txt", "out.names", "out.raw"):
        found = shell("report", path, "-o", name, *ink)
        assert (found.returncode, found.stdout) == (0, "")
        assert f"wrote {name}\n" in found.stderr
    assert (tmp_path / "out.txt").read_text() == output
    names = ["clean", "climb(linf, 1/8)", "climb(linf, 1/4)", "sign(linf, 1/8)"]
    assert (tmp_path / "out.names").read_text().splitlines() == names
    assert (tmp_path / "out.raw").read_bytes() == b"\x00\xff"
    listed = json.loads(shell("list", "plugins", "ink", "--json", *ink).stdout)
    assert [row["provides"] for row in listed] == ["4 renderers"]


@pytest.mark.parametrize(
    ("suffix", "error"),
    [(".broken", "RuntimeError: no ink"), (".number", "TypeError: it returned int, not str or bytes")],
)
def test_a_failing_renderer_is_named_and_writes_nothing(shell, path, tmp_path, ink, suffix, error):
    (tmp_path / f"out{suffix}").write_text("an earlier report")
    before = sorted(tmp_path.iterdir())
    found = shell("report", path, "-o", f"out{suffix}", *ink)
    assert found.returncode == 2
    assert f"robharness: the renderer of {suffix} files of ink.py failed: {error}\n" in found.stderr
    assert (tmp_path / f"out{suffix}").read_text() == "an earlier report"
    assert sorted(tmp_path.iterdir()) == before


def test_a_suffix_claimed_by_two_plugins_is_given_to_neither(shell, path, tmp_path, ink):
    (tmp_path / "more.py").write_text(RENDERERS)
    found = shell("report", path, "-o", "out.raw", *ink, "-p", "more.py")
    assert found.returncode == 2
    message = "-o out.raw: several plugins render '.raw' files: ink.py, more.py. Try: -p no:ink"
    assert message in found.stderr
    assert not (tmp_path / "out.raw").exists()
    other = shell("report", path, "-o", "out.docx", *ink)
    assert (
        "there are .html, .json, .csv, .parquet, .tex, .md, .txt, .names, .raw, .broken, .number. Try: -o out.json"
        in other.stderr
    )


def test_reports_have_models_as_rows_and_intervals_on_demand(shell, path, tmp_path):
    assert shell("run", path, "--by", "model").returncode == 0
    for words in (("report", path), ("report", path, "-o", "r.txt"), ("report", path, "-o", "r.md"), ("run", path)):
        found = shell(*words, "--by", "model", "--intervals")
        assert found.returncode == 0
        text = found.stdout or (tmp_path / words[-1]).read_text()
        row = next(line for line in text.splitlines() if re.match(r"(\| )?Net ", line))
        assert row.count("[") == 2 * 4 - 1  # clean and three attacks, which have drops with intervals
    found = shell("report", path, "--by", "models")
    assert found.returncode == 2 and "'models' is not one of 'perturbation', 'model'" in found.stderr


def test_a_plan_for_programs_has_one_line_per_cell(shell, path):
    lines = shell("plan", path).stdout.splitlines()
    assert lines[0] == "model   perturbation   done   forward   backward   key"
    assert [line.split("   ")[:3] for line in lines[1:5]] == [
        ["Net", "clean", "0 of 40"], ["Net", "climb(linf, 1/8)", "0 of 40"], ["Net", "climb(linf, 1/4)", "0 of 40"],
        ["Net", "sign(linf, 1/8)", "0 of 40"]]  # fmt: skip


def test_a_list_for_programs_has_one_line_per_row(shell):
    listed = shell("list", "models", "toys/*", COLUMNS="40").stdout.splitlines()
    names = [row["name"] for row in json.loads(shell("list", "models", "toys/*", "--json").stdout)]
    assert listed[0].split("   ")[0] == "name"
    assert [line.split("   ")[0] for line in listed[1:]] == names
    assert all(line == line.rstrip() for line in listed) and not any("    " in line for line in listed)  # no padding


def test_only_limit_and_fresh_select_cells_and_examples(shell, path):
    part = shell("run", path, "--only", "clean", "--limit", "10", "--json")
    assert part.returncode == 0
    cells = {cell["perturbation"]: cell for cell in json.loads(part.stdout)["cells"]}
    assert cells["clean"]["complete"]
    assert cells["climb(linf, 1/4)"]["n"] == 0
    assert shell("run", path).returncode == 0
    fresh = shell("run", path, "--fresh", "sign*")
    assert "1 cell to compute, 40 examples in all" in fresh.stderr
    nothing = shell("run", path, "--only", "pgd*")
    assert nothing.returncode == 2
    assert "no cell matches 'pgd*'. Try: robharness plan" in nothing.stderr


def test_failed_cells_exit_with_code_3_and_are_named(shell, path, suite, toys):
    path.write_text(yaml.safe_dump(suite(attacks=[{"attack": "toys/rogue", "how": "oversteps", "eps": "1/8"}])))
    found = shell("run", path)
    assert found.returncode == 3
    assert "its budget is linf 0.125" in found.stdout
    assert toys in found.stdout
    again = f"1 cell is incomplete; to try again: robharness run {path} -p {toys}"
    assert again in found.stderr.splitlines()
    fresh = shell("run", path, "--fresh", "rogue*")
    assert again in fresh.stderr.splitlines()  # without --fresh, which would forget what is stored by then
    assert shell("report", path).returncode == 3
    assert "Traceback" not in found.stderr + found.stdout


def test_missing_data_is_reported_before_the_run(shell, path, suite, tmp_path):
    path.write_text(yaml.safe_dump(suite(data={"name": "toys/pixels", "split": "lost"})))
    for verb in ("plan", "run"):
        found = shell(verb, path, ROBHARNESS_DATA=str(tmp_path / "root"))
        assert found.returncode == 2
        where = "root/pixels"  # below the working directory
        assert found.stderr == f"robharness: the lost pixels: not found at {where}. To get it: make pixels\n"
    elsewhere = shell("plan", path, "--data-root", tmp_path / "mine")
    assert "not found at mine/pixels." in elsewhere.stderr
    assert not (tmp_path / ".robharness").exists()


def test_errors_of_a_suite_are_reported_with_their_positions(shell, path, toys):
    path.write_text(path.read_text().replace("toys/sign", "toys/sing").replace("label: Net", "lable: Net"))
    found = shell("plan", path)
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert any(
        re.search(r"toys.yaml:\d+:\d+: attacks.1.attack: no attack 'toys/sing'; did you mean 'toys/sign'\?", line)
        for line in lines
    )
    assert any("unknown key 'lable'; did you mean 'label'?" in line for line in lines)
    assert lines[-1] == f"Correct the suite. Try: robharness plan {path} -p {toys}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rnu", "x.yaml"], "no verb 'rnu'; did you mean 'run'?"),
        (["run", "absent.yaml"], "absent.yaml: cannot read the suite: No such file or directory"),
        (["run"], "Missing argument 'SUITE'"),
        (["run", "SUITE", "--device", "cuda:7"], "the device 'cuda:7' is not available:"),
        (["run", "SUITE", "--device", "abacus"], "the device 'abacus' is not available: torch finds cpu"),
        (["run", "SUITE", "--device", "CPU"], "did you mean 'cpu'? Try: cpu"),
        (["run", "SUITE", "--device", "cpu:0"], "did you mean 'cpu'? Try: cpu"),
        (["run", "SUITE", "--device", "gpu"], "the device 'gpu' is not available: torch finds cpu"),
        (["run", "SUITE", "--device", "cuda:x"], "the device 'cuda:x' is not available: torch finds cpu"),
        (["run", "SUITE", "--device", "mps"], "the device 'mps' is not available: torch finds cpu"),
        (["train", "SUITE", "--device", "cpu,meta"], "torch computes no network on the device 'meta'. Try: cpu"),
        (
            ["run", "SUITE", "--device", ""],
            "the argument after '--device' is empty; perhaps a variable of the shell is not set",
        ),
        (["run", "SUITE", "-p", "absent.py"], "-p absent.py: no such Python file"),
        (["run", "SUITE", "-p", "no:absent"], "-p no:absent: no such plugin is installed"),
        (["run", "SUITE", "--limit", "0"], "Invalid value for '--limit'"),
        (
            ["report", "SUITE", "-o", "x.docx"],
            "-o x.docx: no renderer has the suffix '.docx'; there are .html, .json, .csv, .parquet, .tex, .md, .txt. "
            "Try: -o x.json",
        ),
        (
            ["report", "SUITE", "-o", "no/where/x.md"],
            "-o no/where/x.md: cannot be written: No such file or directory. Try: mkdir -p no/where",
        ),
        (
            ["report", "SUITE", "--figures", "toys.yaml"],
            "toys.yaml: cannot be created: File exists. Try: ls -ld toys.yaml",
        ),
        (["list", "modles"], "Invalid value for"),
        (["list", "models", "zzz*"], "no models match 'zzz*'. Try: robharness list models"),
        (
            ["run", "SUITE", "--store", "toys.yaml"],
            "the store toys.yaml cannot be used: it is not a folder. Try: ls -ld toys.yaml",
        ),
    ],
)
def test_a_usage_error_is_one_sentence_without_a_traceback(shell, path, words, sentence):
    found = shell(*[str(path) if word == "SUITE" else word for word in words])
    assert sentence in found.stderr
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


def test_an_internal_error_prints_one_line_and_writes_a_traceback_file(run_process, toys, path, tmp_path):
    """A broken installation stands for a bug: torch is there, but not what we expect of it."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import robharness.planning.planner as planner\n"
        "def plan(*words): raise RuntimeError('boom')\nplanner.plan = plan\n"
    )
    search = os.pathsep.join(filter(None, [str(broken), os.environ.get("PYTHONPATH", "")]))
    found = run_process("plan", path, "-p", toys, cwd=tmp_path, environment={"PYTHONPATH": search})
    assert found.returncode == ExitCode.INTERNAL
    assert "a bug of ours: RuntimeError: boom" in found.stderr
    report = re.search(r"please report (\S+)", found.stderr).group(1)
    with open(report) as file:
        assert "RuntimeError: boom" in file.read()
    os.unlink(report)


@pytest.mark.parametrize("fault", ["absent", "full"])
def test_a_bug_whose_file_cannot_be_written_is_no_second_bug(shell, path, tmp_path, monkeypatch, fault):
    folder = tmp_path / "temporary"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if fault == "full":
        folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fail(*words):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if fault == "full" else soft, hard))
        raise RuntimeError("boom")

    monkeypatch.setattr(planner, "plan", fail)
    try:
        found = shell("plan", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (found.returncode, found.stdout) == (ExitCode.INTERNAL, "")
    assert found.stderr.count("Traceback") == 1 and "in fail" in found.stderr
    assert found.stderr.endswith("a bug of ours: RuntimeError: boom; please report the traceback above\n")
    assert not folder.exists() or not list(folder.iterdir())


def test_python_m_robharness_is_the_same_command(shell, run_process, path, toys, tmp_path):
    assert shell("run", path).returncode == 0
    words = ["report", path, "-p", toys, "--json"]
    assert run_process(*words, cwd=tmp_path) == shell(*words, plugins=[])
    assert run_process("plan", cwd=tmp_path).returncode == ExitCode.USAGE


def test_a_closed_pipe_is_no_error(shell, path, toys, tmp_path):
    line = f"{sys.executable} -m robharness list attacks -p {toys} | head -1"
    found = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in found.stderr


def test_no_color_disables_colours(shell, path):
    assert "\x1b[" not in shell("run", path, NO_COLOR="1", FORCE_COLOR="1").stdout.replace("\x1b[1m", "").replace(
        "\x1b[0m", ""
    ).replace("\x1b[2m", "")


def test_help_names_every_verb_and_version(shell):
    text = shell("--help").stdout
    assert all(verb in text for verb in ("run", "plan", "report", "list"))
    assert re.fullmatch(r"robharness, version \d+\.\d+\.\d+\n", shell("--version").stdout)
