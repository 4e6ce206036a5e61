"""Terminals of other encodings, closed pipes and full disks: real processes, whose output is read as bytes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "posix": POSIX,
}
TITLE, LABEL = "Größe ±1 → 漢字 😀", "Größe 漢"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a suite of non-ASCII texts, whose outcomes are stored in `.robharness`."""
    made = tmp_path_factory.mktemp("streams")
    suite = {
        "robharness": 1, "name": "toys", "title": TITLE, "data": {"name": "toys/pixels", "split": "test"},
        "models": [{"model": "toys/net", "label": LABEL}], "attacks": [{"attack": "toys/climb", "eps": ["1/8"]}],
    }  # fmt: skip
    text = yaml.safe_dump(suite, allow_unicode=True)
    (made / "toys.yaml").write_text(text, encoding="utf-8")
    (made / "incomplete.yaml").write_text(text.replace("1/8", "1/4"), encoding="utf-8")
    assert bash("robharness run toys.yaml", made)[0] == 0
    return made


def bash(command, folder, **environment):
    """Run a command line of bash with `robharness` and the toys; return the exit codes of its last pipe, and texts."""
    toys = os.path.join(os.path.dirname(__file__), "toys.py")
    words = shlex.join([sys.executable, "-m", "robharness"])
    lines = [f"TOYS={shlex.quote(toys)}", f'robharness() {{ {words} "$@" ${{TOYS:+-p "$TOYS"}}; }}', command]
    codes = 'echo "${PIPESTATUS[*]}" >codes'
    (folder / "codes").unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, codes])], cwd=folder, capture_output=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    return int((folder / "codes").read_text().split()[0]), done.stdout, done.stderr


@pytest.mark.parametrize("name", ENCODINGS)
def test_tables_are_printed_in_any_encoding(folder, name):
    encoding = "cp1252" if name == "cp1252" else "ascii"
    code, stdout, _ = bash("robharness report toys.yaml", folder, **ENCODINGS[name])
    assert code == 0
    text = stdout.decode(encoding)
    assert ("Größe ±1 ? ?? ?" if encoding == "cp1252" else "Gr??e ?1 ? ?? ?") in text
    assert "climb(linf, 1/8)" in text
    for verb in ("plan toys.yaml", "list attacks", "list plugins"):
        code, stdout, _ = bash(f"robharness {verb}", folder, **ENCODINGS[name])
        assert code == 0
        assert "toys" in stdout.decode(encoding) or "climb" in stdout.decode(encoding)


@pytest.fixture(scope="module")
def utf8_json(folder):
    """The JSON of the report where the encoding has all characters."""
    return bash("robharness report toys.yaml --json", folder, PYTHONIOENCODING="utf-8")[1].decode("utf-8")


@pytest.mark.parametrize("name", ENCODINGS)
def test_json_is_whole_in_any_encoding(folder, utf8_json, name):
    expected = json.loads(utf8_json)
    assert expected["title"] == TITLE
    code, stdout, _ = bash("robharness report toys.yaml --json", folder, **ENCODINGS[name])
    assert code == 0
    assert json.loads(stdout.decode("cp1252" if name == "cp1252" else "ascii")) == expected
    assert json.loads(bash("robharness plan toys.yaml --json", folder, **ENCODINGS[name])[1].decode("ascii"))["title"] \
        == TITLE  # fmt: skip


def test_json_stays_readable_where_the_encoding_has_all_characters(utf8_json):
    assert TITLE in utf8_json


@pytest.mark.parametrize(("name", "style"), [("ascii", "rich"), ("cp1252", "plain"), ("posix", "rich")])
def test_a_run_ends_well_in_any_encoding(folder, name, style):
    store = f"{name}-{style}"
    code, stdout, stderr = bash(
        f"robharness run toys.yaml --store {store} --display {style} --json", folder, **ENCODINGS[name]
    )
    assert code == 0
    assert json.loads(stdout)["complete"] is True
    assert b"computed 80 examples" in stderr


def test_files_are_utf8_in_any_locale(folder):
    for suffix in ("json", "md", "txt"):
        assert bash(f"robharness report toys.yaml -o out.{suffix}", folder, **POSIX)[0] == 0
        assert TITLE in (folder / f"out.{suffix}").read_text(encoding="utf-8")
    assert bash("robharness export-adversarial toys.yaml -o adversarial", folder, **POSIX)[0] == 0
    assert json.loads((folder / "adversarial" / LABEL / "climb(linf, 1_8)" / "cell.json")
                      .read_text(encoding="utf-8"))["model"] == LABEL  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "robharness list models | head -n 1",
        "robharness list models | true",
        "robharness report toys.yaml | true",
        "robharness report toys.yaml --json | head -c 1",
        "robharness report incomplete.yaml | true",
        "robharness plan toys.yaml | true",
        "TOYS= robharness --help | true",
        "robharness list plugins | true",
        "robharness schema | head -c 10",
        "robharness report toys.yaml >&-",
        "robharness report toys.yaml 2>&-",
        "robharness report toys.yaml >&- 2>&- <&-",
    ],
)
def test_a_closed_output_is_no_failure(folder, command):
    code, _, stderr = bash(command, folder)
    assert (code, stderr) == (0, b"")


def test_a_closed_output_changes_no_verdict_of_a_check(folder):
    assert bash("robharness check toys.yaml --baseline b.json --update", folder)[0] == 0
    check = "robharness check incomplete.yaml --baseline b.json --store checked"
    assert bash(f"{check} | true", folder)[0] == bash(check, folder)[0] == 3
    assert bash("robharness check toys.yaml --baseline b.json | true", folder)[0] == 0


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("pipe", "2>&1 >out | true"),
        ("rich", "--display rich 2>&1 >out | true"),
        ("workers", "--workers 2 2>&1 >out | true"),
        ("closed", "2>&- >out"),
        ("closed-workers", "--workers 1 2>&- >out"),
        ("full", "2>/dev/full >out"),
    ],
)
def test_progress_that_cannot_be_shown_ends_no_run(folder, name, end):
    assert bash(f"robharness run toys.yaml --store closed-{name} --json {end}", folder)[0] == 0
    assert json.loads((folder / "out").read_text(encoding="utf-8"))["complete"] is True


def test_a_run_computes_all_though_nobody_reads_its_report(folder):
    assert bash("robharness run toys.yaml --store unread | true", folder)[0] == 0
    assert bash("robharness report toys.yaml --store unread", folder)[0] == 0


@pytest.mark.parametrize(
    "verb",
    ["robharness report toys.yaml", "robharness report toys.yaml --json", "robharness list models",
     "TOYS= robharness --version"],
)  # fmt: skip
def test_a_full_disk_is_one_sentence(folder, verb):
    code, _, stderr = bash(f"{verb} >/dev/full", folder)
    assert code == 2
    assert stderr.decode().count("\n") == 1
    assert stderr.decode().startswith("robharness: standard output cannot be written: No space left on device.")


def test_a_closed_output_gives_its_number_to_no_other_file(folder):
    """The plugin writes to descriptor 1 from C; with a free descriptor 1, a file of the store would get the text."""
    (folder / "writes.py").write_text(
        "import os\nos.write(1, b'x' * 99)\nheld = open('held', 'w')\nos.write(1, b'y')\n"
    )
    assert bash("robharness list models -p ./writes.py >&-", folder)[0] == 0
    assert (folder / "held").read_text() == ""


WAYS = {
    "print", "stdout", "bytes", "write", "printf", "child", "system", "logging", "held", "reopened", "fork", "thread",
}  # fmt: skip
"""The ways to print in noisy.py."""


STAGES = ("import", "hook", "threat", "cost", "build", "perturb", "finished", "exit")


def test_what_plugins_print_by_any_means_from_any_process_goes_to_standard_error(folder):
    suite = yaml.safe_load((folder / "toys.yaml").read_text(encoding="utf-8"))
    (folder / "noisy.yaml").write_text(yaml.safe_dump({**suite, "attacks": [{"attack": "noisy/none", "eps": "1/8"}]}))
    shutil.copy(os.path.join(os.path.dirname(__file__), "noisy.py"), folder)
    bash(
        "robharness run noisy.yaml -p noisy.py --store noisy --workers 1 --json >run.json 2>>run.err; echo $? >end\n"
        "robharness plan noisy.yaml -p noisy.py --store noisy >plan.txt 2>>plan.err\n"
        "TOYS= robharness list attacks 'noisy/*' -p noisy.py --json >list.json 2>>list.err\n"
        "TOYS= robharness speak -p noisy.py >speak.txt 2>>speak.err; echo $? >>end",
        folder,
    )
    text = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}
    assert text["end"].split() == ["0", "3"]
    assert json.loads(text["run.json"])["complete"] is True
    assert [row["name"] for row in json.loads(text["list.json"])] == ["noisy/none"]
    assert "2 cells of 40 examples: 2 done" in text["plan.txt"] and "NOISE" not in text["plan.txt"]
    late = [line for line in text["speak.txt"].splitlines() if line.startswith("NOISE thread")]
    text["speak.err"] += "\n".join(["", *late])  # a verb of a plugin has standard output, for threads as well
    for name, stages in {
        "run.err": STAGES,
        "plan.err": ["import", "hook", "threat", "cost", "exit"],
        "list.err": ["import", "hook", "exit"],
        "speak.err": ["import", "hook", "exit"],
    }.items():
        printed = re.findall(
            rf"NOISE (\w+) ({'|'.join(STAGES)})", text[name]
        )  # threads write between a line and its end
        for stage in stages:
            ways = WAYS - {"thread"} if stage == "exit" else WAYS
            assert {way for way, at in printed if at == stage} == ways, (name, stage)
    results = {line for line in text["speak.txt"].splitlines() if "NOISE thread" not in line}
    assert results == {f"RESULT {way}" for way in ("print", "write", "printf", "child")}


CLOSES = """
import io, sys
sys.stderr.close(); sys.stdout.buffer.close(); sys.__stdout__.buffer.raw.close()
sys.stderr = io.TextIOWrapper(sys.stderr.detach(), encoding="utf-8")
sys.stdout.detach()
"""


def test_streams_that_a_plugin_closes_stay_open(folder):
    (folder / "closes.py").write_text(CLOSES)
    code, stdout, stderr = bash("TOYS= robharness list plugins closes -p closes.py", folder)
    assert (code, stderr) == (0, b"")
    assert b"closes.py" in stdout
    code, stdout, stderr = bash("TOYS= robharness list models 'no*ne' -p closes.py", folder)
    assert (code, stdout) == (2, b"")
    assert stderr == b"robharness: no models match 'no*ne'. Try: robharness list models\n"
