"""Reports from a store alone: without the data, the weights and the plugins of the suite."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import robharness
from robharness import api
from robharness.errors import StoreError, UserError
from robharness.findings import CODES
from robharness.report import build
from robharness.report.renderers.json import render
from robharness.store import Store
from robharness.store.merge import merge
from sharing import made_once

EARLIER = Path(__file__).parent / "earlier"
SUITE = {
    "robharness": 1,
    "name": "toys",
    "title": "Toys in a store",
    "data": {"name": "toys/pixels", "split": "test"},
    "canvas": 8,
    "models": [
        {"model": "toys/net", "label": "Net", "reference": True, "clean_at_least": 90},
        {"model": "teams/net", "label": "Real"},
        {"model": "toys/net", "what": "not-numbers", "label": "NaN"},
    ],
    "attacks": [
        {"attack": "toys/climb", "eps": ["1/8", "1/4"], "eight_bit": True},
        {"attack": "teams/step", "eps": "1/4"},
        {"attack": "teams/ascend", "eps": "1/4", "step": "1/1000"},
        {"attack": "teams/team", "eps": ["1/8", "1/4"]},
        {"attack": "teams/aim", "eps": "1/4"},
        {"attack": "teams/nearest"},
        {"attack": "teams/step", "eps": "1/8", "source": "Net"},
        {"attack": "toys/rogue", "how": "raises", "eps": "1/8"},
    ],
    "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2]}, {"corruption": "toys/negative", "severity": 1}],
    "metrics": ["toys/wrong", "teams/near"],
    "baseline": "Net",
    "gap": ["NaN", "Net"],
    "gain": {"NaN": "Net"},
    "expected": [
        {"source": "a book", "Net": {"clean": 80.0, "toys/wrong": 0.25}},
        {"source": "a rerun", "Net": {"clean": 79.0}},
    ],
}
NEEDS_PLUGINS = {"metrics-not-computed", "code-changed", "training-code-changed", "metric-failed", "metric-unavailable"}
"""Codes of findings that depend on the plugins' code."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The folder of a suite's file and of its store, `store`; the tests change copies of it."""
    toys, teams = (Path(__file__).parent / name for name in ("toys.py", "teams.py"))

    def make(folder):
        folder.mkdir()
        (folder / "toys.yaml").write_text(yaml.safe_dump(SUITE, sort_keys=False))
        api.run(folder / "toys.yaml", store=folder / "store", plugins=[str(toys), str(teams)])

    return made_once(tmp_path_factory, "stored-toys", make)


@pytest.fixture
def store(source, tmp_path):
    """A copy of the store on another path, without the suite beside it."""
    return Path(shutil.copytree(source / "store", tmp_path / "colleague" / "store"))


def numbers(results):
    """The JSON of a report without what plugins alone compute."""
    found = json.loads(render(build(results)))
    kept = [each for each in found["findings"] if each["code"] not in NEEDS_PLUGINS]
    for each in kept:  # the commands name the suite's and the data's places
        each["hint"] = each["hint"].partition("robharness ")[0]
        each["message"] = each["message"].partition("Try: ")[0]
    for key in ("metrics", "metric_details", "problems", "warnings", "notes"):
        del found[key]
    return found | {"findings": kept}


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_suite(source, store, plugins, **options):
    return api.load(source / "toys.yaml", store=store, plugins=plugins, **options)


def only_file(store):
    [path] = (store / "suites").iterdir()
    return path


# --- the same numbers -------------------------------------------------------------------------------------------------


def test_every_number_is_that_of_the_suite(source, store, teams):
    with_plugins, alone = with_suite(source, store, teams), api.load("toys", store=store)
    expected, found = numbers(with_plugins), numbers(alone)
    assert {key for key in expected if expected[key] != found.get(key)} == set()
    assert len(found["cells"]) == 3 * 14 and found["slopes"] and found["gaps_closed"] and found["worst_cases"]
    assert {"clean-accuracy-too-low", "weaker-iterated-attack", "cell-failed", "attack-alarm"} <= {
        each["code"] for each in found["findings"]
    }
    assert any(cell["components"] for cell in found["cells"]) and any(cell["distances"] for cell in found["cells"])
    assert any(cell["success"] is not None for cell in found["cells"])


def test_metrics_are_said_to_be_missing_with_the_command(store, shell):
    shown = shell("report", "toys", "--store", store, "--json", plugins=[])
    found = json.loads(shown.stdout)
    [missing] = [each for each in found["findings"] if each["code"] == "metrics-not-computed"]
    assert missing["severity"] == CODES["metrics-not-computed"][0] == "warning"
    assert "toys/wrong, teams/near" in missing["message"] and "toys.py" in missing["message"]
    assert missing["hint"].startswith("to compute them: robharness report ") and "toys.yaml" in missing["hint"]
    assert f"--store {store}" in missing["hint"].replace("colleague/store", str(store))
    assert found["metrics"] == {} and found["expected_metrics"] == {"toys/wrong": {"Net": 0.25}, "teams/near": {}}
    assert found["published_sources"] == ["a book", "a rerun"] and found["expected_source"] == "a book; a rerun"
    assert found["gain"] == {"NaN": "Net"} and found["gains"]


def test_no_plugin_and_no_torch_is_imported(store, run_process, tmp_path):
    program = (
        "import sys; from robharness.cli import main; code = main(sys.argv[1:]); "
        "files = [str(getattr(module, '__file__', '')) for module in sys.modules.values()]; "
        "loaded = [file for file in files if file.endswith(('toys.py', 'teams.py'))]; "
        "print(code, loaded, sorted({'torch', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    shown = run_process("report", "toys", "--store", store, program=("-c", program), cwd=tmp_path)
    assert shown.stderr.splitlines()[-1] == "3 [] []"
    assert "climb(linf, 1/4, 8 bit)" in shown.stdout


def test_the_store_is_not_changed_and_may_be_read_only(store, shell):
    part = next(store.rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    before = files(store)
    for folder in (part.parent, store / "suites", store):
        os.chmod(folder, 0o555)
    shown = shell("report", "toys", "--store", store, plugins=[])
    assert shown.returncode == 3 and files(store) == before
    assert "is damaged" in shown.stdout


def test_a_cell_that_is_absent_or_partial_is_incomplete(store, shell):
    results = api.load("toys", store=store)
    whole, partial = results.of("Net", "attack")[:2]
    shutil.rmtree(Store(store).folder(whole.cell.key))
    folder = Store(store)
    rows = folder.read(partial.cell.key, 25)
    provenance = folder.provenance(partial.cell.key)[0]
    folder.forget(partial.cell.key)
    folder.write_part(partial.cell.key, 0, {name: rows.table[name] for name in rows.names if name != "position"},
                      provenance)  # fmt: skip
    again = {cell.cell.key: cell for cell in api.load("toys", store=store).cells}
    assert (again[whole.cell.key].n, again[partial.cell.key].n) == (0, 25)
    shown = shell("report", "toys", "--store", store, plugins=[])
    assert shown.returncode == 3 and re.search(r"examples +25 of 40", shown.stdout)
    [row] = json.loads(shell("report", "--store", store, "--json", plugins=[]).stdout)
    assert row["cells"] - row["complete"] == 2 + 3  # and the attack that raises, for three models


def test_a_merged_store_of_two_shards_is_enough(source, tmp_path, teams):
    for index in (1, 2):
        api.run(source / "toys.yaml", store=tmp_path / str(index), plugins=teams, shard=(index, 2))
    merged = [merge(Store(tmp_path / "both"), Store(tmp_path / str(index))) for index in (1, 2)]
    assert merged[0].suites == 1 and not any(each.problems for each in merged)
    assert [each.suites for each in (merge(Store(tmp_path / "both"), Store(tmp_path / "1")),)] == [0]
    found = numbers(api.load("toys", store=tmp_path / "both"))
    assert found["cells"] == numbers(api.load("toys", store=source / "store"))["cells"]
    assert found == numbers(with_suite(source, tmp_path / "both", teams))


@pytest.mark.parametrize("limit", [1, 13, 40])
def test_a_limit_is_a_prefix(source, store, teams, limit):
    expected = numbers(with_suite(source, store, teams, limit=limit))
    assert numbers(api.load("toys", store=store, limit=limit)) == expected


def test_a_limit_beyond_the_last_run_shows_what_is_missing(suite, toys, tmp_path):
    for limit, complete in ((None, False), (10, True), (40, False), (999, False)):
        api.run(suite(), store=tmp_path, plugins=[toys], limit=10)
        found = api.load("toys", store=tmp_path, **({} if limit is None else {"limit": limit}))
        assert found.is_complete == (complete or limit is None)
        assert found.outline.n == min(limit or 10, 40)


# --- several suites ---------------------------------------------------------------------------------------------------


def test_a_changed_suite_has_a_record_of_its_own(suite, toys, tmp_path, shell):
    base = [{"attack": "toys/sign", "eps": "1/8"}]
    first = api.run(suite(attacks=base), store=tmp_path / "s", plugins=[toys], limit=8)
    api.run(suite(name="other", attacks=None), store=tmp_path / "s", plugins=[toys], limit=8)
    api.run(
        suite(attacks=[*base, {"attack": "toys/climb", "eps": "1/4"}]), store=tmp_path / "s", plugins=[toys], limit=8
    )
    api.run(suite(attacks=base), store=tmp_path / "s", plugins=[toys], limit=9)  # replaces the first record
    listed = api.stored(tmp_path / "s")
    assert sorted((each.name, each.cells, each.outline.n) for each in listed) == [
        ("other", 1, 8), ("toys", 2, 9), ("toys", 3, 8)
    ]  # fmt: skip
    digests = {each.cells: each.digest for each in listed if each.name == "toys"}
    for cells in (2, 3):
        results = api.load(f"toys@{digests[cells][:6]}", store=tmp_path / "s")
        assert len(results.cells) == cells
    assert len(first.cells) == 2
    rows = shell("report", "--store", "s", plugins=[]).stdout.splitlines()[1:]
    assert len(rows) == 3 and sum(f"toys@{digests[cells]}" in row for row in rows for cells in digests) == 1
    shown = shell("report", "toys", "--store", "s", plugins=[])
    assert "other versions: toys@" in shown.stderr and shown.returncode == 0


def test_a_name_that_the_store_does_not_hold(store, shell):
    for word, end in (
        ("toy", "did you mean 'toys'? Try: robharness report --store"),
        ("zebra", "it holds toys. Try: robharness report --store"),
        ("toys@0", "did you mean 'toys'?"),
        ("toys@latest", "did you mean 'toys'?"),
    ):
        shown = shell("report", word, "--store", store, plugins=[])
        assert shown.returncode == 2 and end in shown.stderr and shown.stderr.count("\n") == 1
    assert "cannot read the suite" in shell("report", "toys.yaml", "--store", store, plugins=[]).stderr
    assert "has no use" in shell("report", "toys", "--store", store, "--data-root", "x", plugins=[]).stderr


@pytest.mark.parametrize("lacks", ["file", "plugins", "data"])
def test_a_suite_that_cannot_be_planned_can_be_shown_from_the_store_alone(store, shell, lacks, teams, tmp_path):
    """The note is below the error, whose exit code and text are as ever, and only if the store has a record."""
    if lacks != "file":
        missing = {"data": {"name": "toys/nowhere", "split": "test"}} if lacks == "data" else {}
        (tmp_path / "toys.yaml").write_text(yaml.safe_dump(SUITE | missing, sort_keys=False))
    plugins = [] if lacks == "plugins" else teams
    *_, last = shell("report", "toys.yaml", "--store", store, plugins=plugins).stderr.splitlines()
    command = f"robharness report toys --store {store}"
    assert last == f"a report of what is stored needs no data, weights or plugins. Try: {command}"
    assert shell(*command.split()[1:], plugins=[]).returncode in (0, 3)
    (tmp_path / "other.yaml").write_text("[")
    for words in (("other.yaml", "--store", store), ("toys.yaml", "--store", "absent")):
        done = shell("report", *words, plugins=[])
        assert done.returncode == 2 and "a report of what is stored" not in done.stderr


def test_a_file_takes_precedence_over_a_name(store, shell, suite, tmp_path):
    (tmp_path / "toys").write_text(json.dumps(suite(title="The file", attacks=None)))
    assert "The file" in shell("report", "toys", "--store", store).stdout
    (tmp_path / "toys").unlink()
    (tmp_path / "toys").mkdir()
    assert "Toys in a store" in shell("report", "toys", "--store", store, plugins=[]).stdout


def test_an_equal_run_leaves_the_record_as_it_is(source, store, teams):
    before = only_file(store).read_bytes()
    with_suite(source, store, teams)
    assert only_file(store).read_bytes() == before
    path = only_file(store)
    api.run(source / "toys.yaml", store=store, plugins=teams, limit=20)
    assert only_file(store) == path and path.read_bytes() != before  # n is that of the last run


# --- earlier stores ---------------------------------------------------------------------------------------------------


def test_an_earlier_store_says_what_to_type(tmp_path, shell):
    shutil.copytree(EARLIER / "store", tmp_path / "old")
    shown = shell("report", "--store", "old", plugins=[])
    assert shown.returncode == 0 and shown.stdout == ""
    assert "no record of their suites" in shown.stderr and "Try: robharness run" in shown.stderr
    assert shell("report", "squares", "--store", "old", plugins=[]).returncode == 2
    (tmp_path / "old" / "runs").mkdir()
    (tmp_path / "old" / "runs" / "1.json").write_text(json.dumps({"suite": "/x/my suite.yaml"}))
    assert "Try: robharness run '/x/my suite.yaml' --store old" in shell("report", "--store", "old", plugins=[]).stderr
    shutil.copy(EARLIER / "suite.yaml", tmp_path)
    shutil.copy(EARLIER / "plugin.py", tmp_path)
    parts = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*.parquet")}
    assert shell("run", "suite.yaml", "--store", "old", plugins=["./plugin.py"]).returncode == 3
    assert {path: path.read_bytes() for path in (tmp_path / "old").rglob("*.parquet")} == parts
    [found] = api.stored(tmp_path / "old")
    ours, theirs = found.results(), api.load(tmp_path / "suite.yaml", store=tmp_path / "old",
                                             plugins=[str(tmp_path / "plugin.py")])  # fmt: skip
    assert numbers(ours) == numbers(theirs)


def test_an_empty_store_lists_nothing(tmp_path, shell):
    shown = shell("report", "--store", tmp_path / "none", plugins=[])
    assert shown.returncode == 0 and "nothing has run there" in shown.stderr
    assert shell("report", "--store", tmp_path / "none", "--json", plugins=[]).stdout == "[]\n"
    assert shell("report", "-o", "x.md", plugins=[]).returncode == 2


# --- examples ---------------------------------------------------------------------------------------------------------


def relabel(store, key, change):
    """Write the outcomes of a cell again with other labels, and verdicts that follow from them."""
    folder = Store(store)
    rows, provenance = folder.read(key, 40), folder.provenance(key)[0]
    columns = {name: rows.table[name].to_numpy() for name in rows.names if name != "position"}
    columns |= change(columns)
    columns["correct"] = columns["prediction"] == columns["label"]
    folder.forget(key)
    folder.write_part(key, 0, columns, provenance)


@pytest.mark.parametrize("change", [
    lambda columns: {"label": (columns["label"] + 1) % 2},
    lambda columns: {"example": np.array([*columns["example"][:-1], "another"], object)},
])  # fmt: skip
@pytest.mark.parametrize("which", [0, 4])
def test_a_cell_of_other_examples_is_left_out_and_named(store, change, which):
    before = api.load("toys", store=store)
    changed = before.of("Real", "attack")[which] if which else before.clean("Net")
    relabel(store, changed.cell.key, change)
    after = api.load("toys", store=store)
    again = {cell.cell.name: cell for cell in after.cells}
    assert again[changed.cell.name].n == 0 and not after.is_complete
    [failure] = [each for each in again[changed.cell.name].failures if "ids or labels" in each.error]
    assert "--fresh" in str(failure)
    others = [name for name in again if name != changed.cell.name]
    assert all(again[cell.cell.name].n == cell.n for cell in before.cells if cell.cell.name in others)


def test_verdicts_must_follow_from_predictions_and_labels(store):
    key = api.load("toys", store=store).clean("Real").cell.key
    folder = Store(store)
    rows, provenance = folder.read(key, 40), folder.provenance(key)[0]
    columns = {name: rows.table[name].to_numpy() for name in rows.names if name != "position"}
    folder.forget(key)
    folder.write_part(key, 0, columns | {"correct": ~columns["correct"]}, provenance)
    results = api.load("toys", store=store)
    assert results.clean("Real").n == 0
    assert any("verdicts do not follow" in note for note in results.notes)


# --- from Python ------------------------------------------------------------------------------------------------------


def test_results_from_a_store_alone_have_no_plan(store):
    [suite] = robharness.stored(store)
    assert (suite.name, suite.cells, suite.complete_cells) == ("toys", 42, 39)
    results = suite.results()
    assert results.labels == ["Net", "Real", "NaN"] and results.clean("Net").n == 40
    cell = results.of("Net", "attack")[0].cell
    assert (cell.perturbation.norm, str(cell.perturbation.eps), cell.kind) == ("linf", "1/8", "attack")
    assert cell.identity["perturbation"]["name"] == "toys/climb"
    for use in (
        lambda: results.plan,
        lambda: results.suite,
        lambda: cell.perturbation.entry,
        lambda: cell.perturbation.params,
        lambda: cell.model.entry,
        lambda: cell.data.entry,
    ):
        with pytest.raises(UserError, match="from the store alone"):
            use()
    assert len(results.to_pandas()) == sum(cell.n for cell in results.cells)


def test_a_suite_with_a_live_network_has_no_command(suite, toys, tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    source = suite(attacks=[{"attack": "toys/sign", "eps": "1/8"}], models=None, metrics=["toys/wrong"])
    results = api.run(source, store=tmp_path, plugins=[toys], models={"mine": net})
    alone = api.load("toys", store=tmp_path)
    assert numbers(alone) == numbers(results)
    [missing] = [each for each in build(alone).findings if each.code == "metrics-not-computed"]
    assert missing.hint == 'to compute them: robharness.run with it again, and .save("report.html")'


def test_a_damaged_record_is_named(store):
    only_file(store).write_text("{")
    with pytest.raises(StoreError, match="cannot be read: it is not JSON"):
        api.load("toys", store=store)
    with pytest.raises(UserError, match="path of a folder"):
        robharness.stored(3)
