"""`robharness check` and `robharness.check`: a network whose weight breaks one cell, and all that is no pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from gated_suites import HALVES
from robharness import api
from robharness.comparison.baseline import read_baseline
from robharness.errors import BaselineError, ExitCode, UserError

PLUGIN = str(Path(__file__).with_name("gated.py"))
CELLS = ("clean", "dim(linf, 10/255)", "brighter(1)")
BROKEN = "Net · brighter(1)"


@pytest.fixture
def shell_plugins():
    return [PLUGIN]


def suite(**changes):
    return {key: value for key, value in (HALVES | changes).items() if value is not None}


@pytest.fixture
def folder(tmp_path):
    """A folder with the suite s.yaml and its weight; `folder.weight(w)` and `folder.suite(**changes)` change them."""
    put(tmp_path)
    weight(tmp_path, 0)
    return tmp_path


def put(folder, **changes):
    (folder / "s.yaml").write_text(yaml.safe_dump(suite(**changes)))


def weight(folder, value, name="net.json"):
    (folder / name).write_text(json.dumps(value))


@pytest.fixture
def accepted(folder, shell):
    """Write a baseline in the folder of the suite, and return the folder."""
    assert shell("check", "s.yaml", "--update").returncode == 0
    return folder


def verdicts(shell, *words, code, **environment):
    """Run a check; give the verdicts by cell."""
    found = shell("check", "s.yaml", "--json", *words, **environment)
    assert found.returncode == code, found.stderr
    data = json.loads(found.stdout)
    assert data["exit_code"] == code
    return {cell["name"]: cell["verdict"] for cell in data["cells"]}


def all_of(verdict, **changes):
    return {f"Net · {name}": verdict for name in CELLS} | changes


def test_an_absent_baseline_is_an_error_before_anything_is_computed(folder, shell):
    found = shell("check", "s.yaml")
    assert found.returncode == ExitCode.BASELINE and not found.stdout
    assert found.stderr == (
        f"robharness: there is no baseline s.baseline.json. "
        f"Try: robharness check s.yaml -p {PLUGIN} --baseline s.baseline.json --update\n"
    )
    assert not (folder / ".robharness").exists()


def test_the_first_baseline_and_an_equal_one(folder, shell):
    found = shell("check", "s.yaml", "--update")
    assert found.returncode == 0
    assert "Wrote s.baseline.json: 3 cells added." in found.stdout
    path = folder / "s.baseline.json"
    before = path.read_bytes()
    assert "s.baseline.json has these results already, and is unchanged." in shell("check", "s.yaml", "--update").stdout
    assert path.read_bytes() == before
    found = shell("check", "s.yaml")
    assert found.returncode == 0
    assert "Nothing regressed. The smallest fall that is found with a probability of 90 % is" in found.stdout
    assert "computed nothing again" in found.stderr


def test_a_broken_weight_is_exit_code_1_and_names_the_cell(accepted, shell):
    weight(accepted, 4.1)
    found = shell("check", "s.yaml")
    assert found.returncode == ExitCode.REGRESSION
    assert "1 of 3 cells regressed:" in found.stdout and f"  {BROKEN}: its accuracy fell by" in found.stdout
    assert "Net · clean: its" not in found.stdout
    accept = f"robharness check s.yaml -p {PLUGIN} --baseline s.baseline.json --update"
    assert found.stdout.rstrip().endswith(f"To accept the present results: {accept}")
    assert verdicts(shell, code=1) == all_of("passed", **{BROKEN: "regressed"})
    found = shell(*accept.split()[1:], plugins=[])
    assert found.returncode == 0
    assert f"Wrote s.baseline.json: 3 cells changed. It accepts 1 regression: {BROKEN}." in found.stdout
    assert verdicts(shell, code=0) == all_of("passed")
    weight(accepted, 0)
    assert verdicts(shell, code=0) == all_of("passed", **{BROKEN: "improved"})


def test_the_numbers_are_those_of_the_outcomes(accepted, shell):
    """The weight moves the score by 41 levels; each class has 50 differences of 2 to 100 levels, each twice."""
    weight(accepted, 4.1)
    data = json.loads(shell("check", "s.yaml", "--json").stdout)
    found = next(cell for cell in data["cells"] if cell["name"] == BROKEN)
    differences = 2 * (1 + np.arange(200) // 2 % 50) * np.where(np.arange(200) % 2, 1, -1)
    right = (differences + 4.1 * 10 > 0) == (np.arange(200) % 2 == 1)
    assert found["before"] == 1 and found["after"] == pytest.approx(right.mean())
    assert found["difference"]["lost"] == (~right).sum() and found["difference"]["gained"] == 0
    assert found["p_holm"] == pytest.approx(3 * 0.5 ** (~right).sum())


def test_the_same_model_passes_with_another_batch_and_fewer_examples(accepted, shell):
    assert verdicts(shell, "--batch-size", "3", "--store", "other", code=0) == all_of("passed")
    assert verdicts(shell, "--limit", "30", "--store", "few", code=0) == all_of("passed")
    found = shell("check", "s.yaml", "--limit", "30", "--store", "few")
    assert "before has 200 examples and after 30; the 30 that both have are compared" in found.stdout
    weight(accepted, 4.1)
    assert verdicts(shell, "--limit", "100", code=1) == all_of("passed", **{BROKEN: "regressed"})


def test_a_baseline_on_fewer_examples(folder, shell):
    assert shell("check", "s.yaml", "--update", "--limit", "60").returncode == 0
    assert read_baseline(folder / "s.baseline.json").n == 60
    found = shell("check", "s.yaml")
    assert found.returncode == 0 and "before has 60 examples and after 200" in found.stdout
    fewer = shell("check", "s.yaml", "--update", "--limit", "40").stdout
    assert "Wrote s.baseline.json: 3 cells changed. Its cells have 40 examples in place of 60" in fewer
    assert "in place of" not in shell("check", "s.yaml", "--update").stdout


def test_files_that_are_no_baseline_are_left_alone(folder, shell):
    """The proposed command names another file, and never removes this one."""
    (folder / "notes.json").write_text("{}")
    check = f"robharness check s.yaml -p {PLUGIN}"
    for options in ([], ["--update"]):
        for name in ("notes.json", "s.yaml"):
            found = shell("check", "s.yaml", "--baseline", name, *options)
            assert found.returncode == 4 and found.stderr.endswith(f"no baseline of robharness. Try: {check}\n")
    (folder / "s.baseline.json").write_text("{}")
    other = f"{check} --baseline s.baseline-2.json --update"
    assert shell("check", "s.yaml").stderr.endswith(f"no baseline of robharness. Try: {other}\n")
    assert shell(*other.split()[1:], plugins=[]).returncode == 0
    assert (folder / "s.baseline.json").read_text() == "{}"


def test_new_and_missing_cells(accepted, shell):
    put(accepted, attacks=[{"attack": "gated/dim", "eps": ["5/255", "10/255"]}])
    assert verdicts(shell, code=0) == all_of("passed", **{"Net · dim(linf, 5/255)": "new"})
    put(accepted, attacks=None)
    assert verdicts(shell, code=3) == all_of("passed", **{"Net · dim(linf, 10/255)": "missing"})
    put(accepted, attacks=[{"attack": "gated/dim", "eps": "10/255", "steps": 2}])
    changed = {"Net · dim(linf, 10/255)": "missing", "Net · dim(linf, 10/255, steps=2)": "new"}
    assert verdicts(shell, code=3) == all_of("passed", **changed)
    found = shell("check", "s.yaml", "--update")
    assert found.returncode == 0 and "1 cell added, 1 cell removed" in found.stdout


def test_a_failed_cell_is_no_pass_and_no_baseline(accepted, shell):
    before = (accepted / "s.baseline.json").read_bytes()
    failed = all_of("passed", **{"Net · dim(linf, 10/255)": "failed"})
    assert verdicts(shell, "--store", "other", code=3, GATED_FAILS="1") == failed
    found = shell("check", "s.yaml", "--store", "other", GATED_FAILS="1")
    assert found.stdout.endswith("\n\nNot passed: 1 failed.\n"), "once, and without a command that would write nothing"
    assert "examples and after 0" not in found.stdout
    found = shell("check", "s.yaml", "--store", "other", "--update", GATED_FAILS="1")
    assert found.returncode == ExitCode.INCOMPLETE
    assert "s.baseline.json was not written: 1 cell is incomplete." in found.stdout
    assert "1 cell is incomplete; to try again: robharness check" in found.stderr
    assert (accepted / "s.baseline.json").read_bytes() == before
    assert verdicts(shell, "--store", "other", code=0) == all_of("passed")


@pytest.mark.parametrize("changes", [{"GATED_DATA": "i"}, {"GATED_WRONG": "199"}])
def test_other_data_are_incompatible(accepted, shell, changes):
    found = shell("check", "s.yaml", "--store", "other", **changes)
    assert found.returncode == ExitCode.BASELINE
    assert "3 cells cannot be compared" in found.stdout and "Not passed: 3 incompatible." in found.stdout


def test_another_precision_is_incompatible(accepted, shell):
    put(accepted, precision="tf32")
    assert verdicts(shell, code=4) == all_of("incompatible")


def test_clusters_are_told(accepted, shell):
    weight(accepted, 4.1)
    put(accepted, clusters="^h-(\\d)")
    found = shell("check", "s.yaml", "--junit", "junit.xml")
    assert found.returncode == 0
    assert "200 examples in 2 clusters per cell are compared" in found.stdout
    assert "Nothing regressed. So few clusters cannot show a fall" in found.stdout
    assert "n: 200; clusters: 2; before: " in (accepted / "junit.xml").read_text()


def test_tolerance_and_level_are_those_of_the_suite(accepted, shell):
    weight(accepted, 4.1)
    put(accepted, check={"tolerance": 50})
    assert verdicts(shell, code=0) == all_of("passed")
    put(accepted, check={"alpha": 1e-12})
    assert verdicts(shell, code=0) == all_of("passed")
    put(accepted, check={"alpha": 1e-9, "tolerance": 10})
    assert verdicts(shell, code=1)[BROKEN] == "regressed"


def test_baselines_that_cannot_be_used(accepted, shell):
    path = accepted / "s.baseline.json"
    whole = path.read_text()
    put(accepted, name="others")
    found = shell("check", "s.yaml")
    assert found.returncode == 4 and "is of the suite 'halves', not of 'others'" in found.stderr
    assert shell("check", "s.yaml", "--update").returncode == 4 and path.read_text() == whole
    put(accepted)
    path.write_text(whole.replace('"correct": 200', '"correct": 100'))
    found = shell("check", "s.yaml")
    assert found.returncode == 4 and "it was edited. To write it anew: robharness check s.yaml -p" in found.stderr
    assert shell("check", "s.yaml", "--update").returncode == 0 and path.read_text() == whole
    (accepted / "other.json").write_text("{}")
    assert shell("check", "s.yaml", "--baseline", "other.json", "--update").returncode == 4
    assert (accepted / "other.json").read_text() == "{}"


def test_a_store_as_the_baseline(folder, shell):
    assert shell("run", "s.yaml", "--store", "before").returncode == 0
    assert verdicts(shell, "--baseline", "before", "--limit", "20", code=0) == all_of("passed")
    weight(folder, 4.1)
    assert verdicts(shell, "--baseline", "before", code=1) == all_of("passed", **{BROKEN: "regressed"})
    found = shell("check", "s.yaml", "--baseline", "before")
    assert "check against halves@" in found.stdout and " in before\n" in found.stdout
    assert shell("run", "s.yaml", "--store", "small", "--limit", "30").returncode == 0
    found = shell("check", "s.yaml", "--baseline", "small")
    assert found.returncode == 0 and "before has 30 examples and after 200" in found.stdout
    found = shell("check", "s.yaml", "--baseline", ".robharness")
    assert found.returncode == 2 and "would be compared with themselves" in found.stderr
    (folder / "empty").mkdir()
    found = shell("check", "s.yaml", "--baseline", "empty")
    assert found.returncode == 4 and "has no record of a suite 'halves'" in found.stderr


def test_a_model_of_the_suite_as_the_baseline(folder, shell):
    models = [{"model": "gated/net", "label": label, "weights": f"./{label}.json"} for label in ("Old", "New", "Same")]
    put(folder, models=models)
    for label, value in (("Old", 0), ("New", 4.1), ("Same", 0)):
        weight(folder, value, f"{label}.json")
    found = verdicts(shell, "--baseline", "Old", code=1)
    assert len(found) == 6 and [name for name in found if found[name] != "passed"] == ["Old → New · brighter(1)"]
    found = shell("check", "s.yaml", "--baseline", "Odl")
    assert found.returncode == 4 and "did you mean 'Old'?" in found.stderr
    put(folder, models=models[:1])
    found = shell("check", "s.yaml", "--baseline", "Old")
    assert found.returncode == 2 and "'Old' is the only model of the suite" in found.stderr


def test_an_update_needs_a_file(folder, shell):
    (folder / "store").mkdir()
    for words in (("--baseline", "store"), ("--baseline", "Net")):
        found = shell("check", "s.yaml", *words, "--update")
        assert found.returncode == 2 and "an update writes a file. Try: robharness check s.yaml" in found.stderr


def test_another_path(folder, shell):
    assert shell("check", "s.yaml", "--baseline", "b/of.json", "--update").returncode == 0
    assert (folder / "b/of.json").exists()
    (folder / "b/of.json").rename(folder / "of")
    assert verdicts(shell, "--baseline", "of", code=0) == all_of("passed")


def test_python(folder):
    source, options = folder / "s.yaml", {"store": folder / "store", "plugins": [PLUGIN]}
    with pytest.raises(BaselineError, match=r"there is no baseline .*s\.baseline\.json\. Try: robharness check"):
        api.check(source, **options)
    report = api.check(source, update=True, **options)
    assert report.exit_code == 0 and report.update.is_written and len(report.update.added) == 3
    weight(folder, 4.1)
    report = api.check(source, **options)
    assert report.exit_code == ExitCode.REGRESSION and [cell.name for cell in report.of("regressed")] == [BROKEN]
    mapping = suite(models=[{"model": "gated/net", "label": "Net", "weights": str(folder / "net.json")}])
    assert api.check(mapping, str(folder / "s.baseline.json"), **options).exit_code == ExitCode.REGRESSION
    with pytest.raises(UserError, match="a suite that is no file has no baseline beside it"):
        api.check(mapping, **options)


# --- clean_at_least ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bar", "limit", "code", "word"), [
    (99, 45, 3, "the run is invalid"), (99, 8, 0, "all examples of the data may reach it"), (40, 45, 0, ""),
    (99, None, 3, "the run is invalid"),
])  # fmt: skip
def test_a_bar_holds_on_fewer_examples(folder, shell, bar, limit, code, word):
    """Every 9th label is wrong: 1 of the first 8 in the fixed order, 6 of the first 45 and 23 of all 200."""
    put(folder, models=[{"model": "gated/net", "label": "Net", "weights": "./net.json", "clean_at_least": bar}],
        attacks=None, corruptions=None, canvas="none")  # fmt: skip
    words = ["--limit", limit] if limit else []
    environment = {"GATED_WRONG": "9"}
    found = shell("run", "s.yaml", *words, **environment)
    assert found.returncode == code and word in found.stdout
    assert ("the suite demands" in found.stdout) == bool(word)
    assert shell("check", "s.yaml", "--update", "--baseline", "a.json", *words, **environment).returncode == code
    assert (folder / "a.json").exists() == (code == 0)
