"""`robharness compare`: its operands, labels, numbers, formats and errors, from stores of toys."""

import io
import json
import re
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from rich.console import Console
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

import robharness
from robharness import api, statistics
from robharness.comparison.baseline import write_baseline
from robharness.comparison.outputs import json as comparison_json
from robharness.comparison.outputs.tables import LAYOUT, document_of
from robharness.comparison.sides import side_of
from robharness.errors import ExitCode, UserError
from robharness.report.renderers.terminal import show_document
from robharness.store import Store
from robharness.store.merge import merge
from sharing import made_once

HERE = Path(__file__).parent
EARLIER = HERE / "earlier"
PLUGINS = [str(HERE / name) for name in ("toys.py", "teams.py")]
SUITE = {
    "robharness": 1,
    "name": "toys",
    "title": "Toys",
    "data": {"name": "toys/pixels", "split": "test"},
    "canvas": 8,
    "models": [{"model": "toys/net", "label": "Net", "reference": True}, {"model": "toys/net", "label": "Same"}],
    "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "teams/step", "eps": "1/4"}],
    "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2]}],
}
OTHER = [{"model": "teams/net", "label": "Net", "reference": True}, {"model": "toys/net", "label": "Same"}]
"""The models of the suite after the weights of Net were replaced."""
NAMES = ["clean", "climb(linf, 1/8)", "climb(linf, 1/4)", "step(linf, 1/4)", "speckle(1)", "speckle(2)"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the suite before and after, `toys.yaml`, in `one` and `two`, and both together in `both`."""

    def make(folder):
        folder.mkdir()
        for name, models in (("one", SUITE["models"]), ("two", OTHER)):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(SUITE | {"models": models}, sort_keys=False))
            api.run(folder / f"{name}.yaml", store=folder / name, plugins=PLUGINS)
            time.sleep(1)  # the times of records, by which the last one is chosen, are in seconds
            merge(Store(folder / "both"), Store(folder / name))

    return made_once(tmp_path_factory, "compared-toys", make)


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it in the working directory of `shell`, since tests change the stores."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def compare(shell, folder):
    """Run `robharness compare` without plugins."""
    return lambda *words, **options: shell("compare", *words, **{"plugins": []} | options)


def data(compare, *words, code=0):
    shown = compare(*words, "--json")
    assert shown.returncode == code, shown.stderr
    found = json.loads(shown.stdout)
    jsonschema.Draft202012Validator(comparison_json.comparison_schema()).validate(found)
    return found


def codes(found):
    return [each["code"] for each in found["findings"]]


# --- operands ---------------------------------------------------------------------------------------------------------


def versions(folder):
    """The digests of both versions in the store `both`, that before first."""
    return [each.digest for each in reversed(api.stored(folder / "both"))]


def test_every_kind_of_operand_gives_the_same_numbers(compare, folder):
    before, after = versions(folder)
    for name in ("one", "two"):
        write_baseline(folder / f"{name}.json", side_of(api.load("toys", store=folder / name), name))
    pairs = {
        "stores": ("one", "two"),
        "versions": (f"toys@{before}", f"toys@{after}", "--store", "both"),
        "prefixes": (f"toys@{before[:3]}", f"toys@{after[:3]}", "--store", "both"),
        "a name and a store": ("toys", "two", "--store", "one"),
        "baselines": ("one.json", "two.json"),
        "a baseline and a store": ("one.json", "two"),
        "a store and a baseline": ("one", "two.json"),
    }
    found = {name: data(compare, *words) for name, words in pairs.items()}
    plain = found["stores"]
    assert [each["perturbation"] for each in plain["cells"]] == 2 * NAMES
    for name, each in found.items():
        known = [{key: value for key, value in cell.items() if not key.endswith("_ids")} for cell in each["cells"]]
        expected = [{key: value for key, value in cell.items() if not key.endswith("_ids")} for cell in plain["cells"]]
        order = str if "baseline" in name else lambda cell: 0
        assert sorted(known, key=order) == sorted(expected, key=order), name
        assert each["complete"] and (each["n"], each["n_before"], each["n_after"]) == (40, 40, 40)
    assert found["versions"]["before"] == f"toys@{before} in both"
    assert found["baselines"]["before"] == "one.json"
    assert found["a baseline and a store"]["cells"][0]["perturbation"] == "clean"  # the order of the suite


def test_a_suites_file_needs_its_plugins(compare, folder):
    words = ("one.yaml", "two.yaml", "--store", "both", "--json")
    found = compare(*words, plugins=PLUGINS)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["cells"] == data(compare, "one", "two")["cells"]
    refused = compare(*words)
    assert refused.returncode == 2 and "robharness report toys --store both" in refused.stderr


def test_two_models_of_one_suite(compare, folder):
    found = data(compare, "two", "--models", "Same", "Net")
    assert found["pairs"] == [["Same", "Net"]] and found["before"] == found["after"] and codes(found) == []
    assert data(compare, "two", "two", "--models", "Same", "Net")["cells"] == found["cells"]
    assert data(compare, "toys", "--store", "two", "--models", "Same", "Net")["cells"] == found["cells"]
    crossed = data(compare, "one", "two", "--models", "Same", "Net")
    assert crossed["pairs"] == [["Same", "Net"]] and crossed["cells"] == found["cells"]


def test_the_newest_record_of_a_name_is_meant(compare, folder):
    found = data(compare, "one", "both")
    assert found["after"] == f"toys@{versions(folder)[1]} in both"
    assert found["cells"] == data(compare, "one", "two")["cells"]


def test_a_suite_is_chosen_in_stores_with_several(compare, folder):
    for store in ("one", "two"):
        named = SUITE | {"name": "others", "attacks": [], "corruptions": []}
        api.run(named, store=folder / store, plugins=PLUGINS)
    refused = compare("one", "two")
    assert refused.returncode == 2 and "several suites can be meant: others, toys" in refused.stderr.replace(
        "toys, others", "others, toys"
    )
    command = shlex.split(refused.stderr.rpartition("Try: robharness ")[2])
    assert command[:3] == ["compare", "one", "two"] and compare(*command[1:]).returncode == 0
    found = data(compare, "one", "two", "--suite", "toys")
    assert len(found["cells"]) == 12
    assert data(compare, "one", "toys", "--store", "both")["cells"] == found["cells"]  # the name of the other side
    wrong = compare("one", "two", "--suite", "toyz")
    assert wrong.returncode == 2 and "did you mean 'toys'?" in wrong.stderr
    assert compare("one", "two", "--suite", f"toys@{'0' * 12}").returncode == 2
    useless = compare("toys", "two.yaml", "--suite", "toys", "--store", "both", plugins=PLUGINS)
    assert useless.returncode == 2 and "no operand is a store" in useless.stderr


def test_a_misspelled_file_and_a_side_with_one_model(compare, folder):
    wrong = compare("one", "twoo.yaml", "--store", "two", plugins=PLUGINS)
    assert "did you mean 'two.yaml'?" in wrong.stderr and wrong.stderr.count("\n") == 1
    command = shlex.split(wrong.stderr.rpartition("Try: robharness ")[2])
    assert compare(*command[1:], plugins=[]).returncode == 0
    whole = side_of(api.load("toys", store=folder / "one"), "one")
    write_baseline(folder / "net.json", replace(whole, cells=tuple(c for c in whole.cells if c.model == "Net")))
    for words in (("net.json",), ("net.json", "net.json")):
        assert compare(*words).stderr.endswith("net.json has one model. Try: robharness compare --help\n")
    wrong = compare("net.json", "--models", "Net", "Nett").stderr
    assert "no model 'Nett'; its only model is Net. Try: robharness compare --help" in wrong


ERRORS = {
    "same": (("one", "one"), "both operands are the same results", "compare one --models Net Same"),
    "same by name": (("toys", "one", "--store", "one"), "both operands are the same results", "compare toys --models"),
    "alone": (("toys", "--store", "both"), "one operand alone has no other side", "--models Net Same --store both"),
    "itself": (("one", "--models", "Net", "Net"), "'Net' is compared with itself", "--models Net Same"),
    "label": (("one", "two", "--models", "Nett", "Net"), "did you mean 'Net'?", "one two --models Net Net"),
    "label after": (("one", "two", "--models", "Net", "xyz"), "has no model 'xyz'; it has Net, Same.", "Net Same"),
    "name": (("toyz", "one", "--store", "one"), "did you mean 'toys'?", "report --store one"),
    "digest": (("toys@0000", "one", "--store", "one"), "holds no suite of this name", "report --store one"),
    "path": (("no/such", "one"), "there is no such file, and no store", "ls ."),
    "baseline": (("xyzuvw.json", "one"), "there is no such file", "ls ."),
    "near store": (("one", "twoo"), "did you mean 'two'?", "robharness compare one two"),
    "no store": (("empty", "one"), "nothing has run there", "robharness run --help"),
    "suffix": (("one", "two", "-o", "x.pdf"), "there are .html, .json, .md, .txt", "-o x.json"),
    "near suffix": (("one", "two", "-o", "x.htm"), "no renderer has the suffix '.htm'", "-o x.html"),
    "place": (("one", "two", "-o", "no/x.md"), "cannot be written", "mkdir -p no"),
    "data": (("one", "two", "--data-root", "x"), "--data-root has no use", "robharness compare one two"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_one_sentence_with_a_command(compare, folder, case):
    words, sentence, command = ERRORS[case]
    (folder / "empty").mkdir()
    shown = compare(*words)
    assert shown.returncode == 2 and shown.stdout == "" and shown.stderr.count("\n") == 1
    assert sentence in shown.stderr and command in shown.stderr.rpartition("Try: ")[2]
    proposed = shlex.split(shown.stderr.rpartition("Try: ")[2])
    if proposed[:2] == ["robharness", "compare"]:
        assert compare(*proposed[2:]).returncode == 0


def test_no_common_label(compare, folder):
    suite = SUITE | {"models": [{"model": "toys/net", "label": "Other"}]}
    api.run(suite, store=folder / "three", plugins=PLUGINS)
    shown = compare("one", "three")
    assert shown.returncode == 2 and "no label is on both sides: toys@" in shown.stderr
    assert "Try: robharness compare one three --models Net Other" in shown.stderr
    assert data(compare, "one", "three", "--models", "Net", "Other")["pairs"] == [["Net", "Other"]]


def test_records_that_cannot_be_read(compare, folder):
    [path] = (folder / "two" / "suites").iterdir()
    path.write_text("{")
    for words in (("one", "two"), ("one", "toys", "--store", "two")):
        shown = compare(*words)
        assert shown.returncode == 2 and shown.stdout == "" and "cannot be read: it is not JSON" in shown.stderr
    path.unlink()
    shown = compare("one", "two")
    assert shown.returncode == 2 and "no record of their suites, as stores of earlier versions" in shown.stderr
    (folder / "edited.json").write_text("{}")
    assert compare("one", "edited.json").returncode == ExitCode.BASELINE


def test_a_store_of_an_earlier_version(shell, tmp_path, monkeypatch):
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    plain = shell("compare", "store", "--models", "A", "B", plugins=[])
    assert plain.returncode == 2 and "stores of earlier versions" in plain.stderr
    results = api.load(tmp_path / "suite.yaml", store=tmp_path / "store", plugins=[str(tmp_path / "plugin.py")])
    first, second = results.labels[:2]
    found = shell("compare", "suite.yaml", "--store", "store", "--models", first, second, "--json",
                  plugins=["plugin.py"])  # fmt: skip
    cells = json.loads(found.stdout)["cells"]
    assert found.returncode in (0, 3) and any(cell["n"] == 24 for cell in cells)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_json_against_a_computation_by_hand(compare, folder):
    found = data(compare, "one", "two", "--changed", "1000")
    sides = [api.load("toys", store=folder / name) for name in ("one", "two")]
    columns = [
        {(c.cell.model.label, c.cell.short_name): dict(zip(c.columns["example"], c.columns["correct"], strict=True))
         for c in side.cells} for side in sides
    ]  # fmt: skip
    raw = []
    for cell in found["cells"]:
        at = cell["model"], cell["perturbation"]
        before, after = (np.array([side[at][id] for id in sorted(side[at])]) for side in columns)
        ids = np.array(sorted(columns[0][at]))
        assert cell["before"] == before.mean() and cell["after"] == after.mean()
        assert cell["difference"] == pytest.approx(after.mean() - before.mean())
        assert set(cell["lost_ids"]) == set(ids[before & ~after]) and cell["lost"] == len(cell["lost_ids"])
        assert set(cell["gained_ids"]) == set(ids[~before & after]) and cell["gained"] == len(cell["gained_ids"])
        table = [[(before & after).sum(), cell["lost"]], [cell["gained"], (~before & ~after).sum()]]
        assert cell["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        raw.append(cell["p"])
        assert cell["interval"] == pytest.approx(statistics.paired_difference(before, after).interval)
        if cell["kind"] != "clean":
            clean = [np.array([side[at[0], "clean"][id] for id in ids]).mean() for side in columns]
            drops = [1 - before.mean() / clean[0], 1 - after.mean() / clean[1]]
            assert [cell["drop_before"], cell["drop_after"]] == pytest.approx(drops)
            assert cell["drop_difference"] == pytest.approx(drops[1] - drops[0])
            assert cell["drop_interval"][0] < cell["drop_difference"] < cell["drop_interval"][1]
    adjusted = multipletests(raw, method="holm")[1]
    assert [cell["p_holm"] for cell in found["cells"]] == pytest.approx(list(adjusted))
    assert min(raw) < 0.05 and {cell["lost"] > 0 for cell in found["cells"]} == {True, False}
    shown = [cell for cell in found["cells"] if cell["p_holm"] <= 0.05]
    fell = sum(cell["difference"] < 0 for cell in shown)
    assert f" in {len(shown)} of 12 cells: it fell in {fell} and rose in {len(shown) - fell} (" in found["answer"][-1]


def test_equal_outcomes(compare, folder):
    found = data(compare, "one", "--models", "Net", "Same")
    assert found["answer"][-1] == "In 6 cells, every example has the same outcome on both sides."
    assert found["answer"][0].startswith("Same is right on as many examples as Net under climb(linf, 1/8), ")
    assert {cell["p_holm"] for cell in found["cells"]} == {1.0}


def test_changed_examples_are_named(compare, folder):
    assert max(len(cell["lost_ids"]) for cell in data(compare, "one", "two")["cells"]) == 5
    assert (
        max(len(c["lost_ids"] + c["gained_ids"]) for c in data(compare, "one", "two", "--changed", "0")["cells"]) == 0
    )
    plain, named = compare("one", "two").stdout, compare("one", "two", "--changed", "2").stdout
    assert "test-0" not in plain and "Changed examples of Net" in named
    [first, *_] = data(compare, "one", "two", "--changed", "2")["cells"]
    for id in (*first["lost_ids"], *first["gained_ids"]):
        assert id in named
    assert f"and {first['lost'] - 2} more" in named


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_fits_the_terminal_and_keeps_intervals(made, width):
    found = robharness.compare(made / "one", made / "two")
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    show_document(document_of(found, changed=3), console, LAYOUT)
    lines = file.getvalue().splitlines()
    table = [line for line in lines if re.match(r"(clean|climb|step|speckle)", line)]
    assert all(len(line) <= width for line in table)
    assert sum(bool(re.search(r"\[-?\d+\.\d, -?\d+\.\d\]", line)) for line in table) == 12  # a line per accuracy
    assert lines[0] == "toys: 2 models before and after"
    assert any(line.startswith("Net is right on ") and "after than before under climb(linf, 1/8)" in line for line in
               [" ".join(lines[1:5])])  # fmt: skip


def test_the_files(compare, folder):
    for suffix in (".html", ".md", ".txt", ".json"):
        shown = compare("one", "two", "-o", f"x{suffix}")
        assert shown.returncode == 0 and shown.stdout == "" and f"wrote x{suffix}" in shown.stderr
    assert (folder / "x.txt").read_text() == compare("one", "two").stdout
    assert json.loads((folder / "x.json").read_text()) == data(compare, "one", "two")
    text = (folder / "x.md").read_text()
    assert text.startswith("# toys: 2 models before and after\n") and "| clean | " in text
    compare("one", "two", "-o", "y.md", "--changed", "1")
    assert "## Changed examples of Net" in (folder / "y.md").read_text()


def test_the_schema(shell):
    printed = json.loads(shell("schema", "comparison", plugins=[]).stdout)
    jsonschema.Draft202012Validator.check_schema(printed)
    assert printed == comparison_json.comparison_schema()
    cell = printed["$defs"]["CellDifference"]["properties"]
    assert cell["lost"]["type"] == "integer" and cell["difference"]["description"] == "after - before."


@pytest.mark.parametrize("change", [
    lambda found: found.pop("answer"), lambda found: found.update(schema=2), lambda found: found["cells"][0].pop("p"),
    lambda found: found["cells"][0].update(n="3"), lambda found: found["pairs"][0].append("x"),
])  # fmt: skip
def test_the_schema_refuses_what_is_no_comparison(made, change):
    found = json.loads(comparison_json.render(robharness.compare(made / "one", made / "two")))
    change(found)
    assert not jsonschema.Draft202012Validator(comparison_json.comparison_schema()).is_valid(found)


# --- common examples --------------------------------------------------------------------------------------------------


def test_only_common_examples_are_compared_and_that_is_said(compare, folder):
    for limit in (25, 10):
        shutil.copytree(folder / "two", folder / f"at{limit}")
        api.run(folder / "two.yaml", store=folder / f"at{limit}", plugins=PLUGINS, limit=limit)
    found = data(compare, "one", "at25")
    whole = data(compare, "one", "two", "--limit", "25")
    assert (found["n"], found["n_before"], found["n_after"], found["complete"]) == (25, 40, 25, True)
    assert "on the 25 examples that both have (before has 40)" in found["answer"][0]
    [differs] = [each for each in found["findings"] if each["code"] == "n-differs"]
    assert differs["subject"] == "Net · clean and 11 more"
    assert differs["message"] == "before has 40 examples and after 25; the 25 that both have are compared"
    numbers = ("before", "after", "lost", "gained", "p", "drop_difference")
    assert [[c[name] for name in numbers] for c in found["cells"]] == [[c[n] for n in numbers] for c in whole["cells"]]
    assert codes(whole) == [] and whole["n_before"] == 25
    back = data(compare, "at10", "at25")
    assert "on the 10 examples that both have (after has 25)" in back["answer"][0]


def test_missing_outcomes_are_incomplete(compare, folder):
    results = api.load("toys", store=folder / "two")
    whole, partial = results.of("Net", "attack")[:2]
    store = Store(folder / "two")
    store.forget(whole.cell.key)
    rows, provenance = store.read(partial.cell.key, 25), store.provenance(partial.cell.key)[0]
    store.forget(partial.cell.key)
    columns = {name: rows.table[name] for name in rows.names if name != "position"}
    store.write_part(partial.cell.key, 0, columns, provenance)
    found = data(compare, "one", "two", code=3)
    assert not found["complete"]
    by_name = {(cell["model"], cell["perturbation"]): cell for cell in found["cells"]}
    none, some = by_name["Net", whole.cell.short_name], by_name["Net", partial.cell.short_name]
    assert (none["n"], none["difference"], none["p_holm"], none["complete"]) == (0, None, None, False)
    assert (some["n"], some["n_before"], some["n_after"], some["complete"]) == (25, 40, 25, False)
    before, after = (api.load("toys", store=folder / name) for name in ("one", "two"))
    assert some["after"] == after.of("Net", "attack")[1].correct.mean()
    assert some["before"] == before.of("Net", "attack")[1].correct[:25].mean()
    messages = {each["message"] for each in found["findings"] if each["code"] == "cells-incomplete"}
    assert messages == {f"after: outcomes of {count} of 40 examples are missing" for count in (40, 15)}
    shown = compare("one", "two")
    assert shown.returncode == 3 and "Incomplete: some cells are missing" in shown.stdout
    assert "25 of 40" in shown.stdout and "0 of 40" in shown.stdout


def test_shards_have_no_common_examples(compare, folder):
    for store, shard in (("first", (1, 2)), ("second", (2, 2))):
        api.run(folder / "one.yaml", store=folder / store, plugins=PLUGINS, shard=shard)
    found = data(compare, "first", "second", code=3)
    assert found["n"] == 0 and found["answer"][-1] == "None of 12 cells has examples that both sides have."
    assert {cell["difference"] for cell in found["cells"]} == {None}


# --- from Python ------------------------------------------------------------------------------------------------------


def test_from_python(made):
    before, after = (api.load("toys", store=made / name) for name in ("one", "two"))
    found = robharness.compare(before, after)
    assert [cell.name for cell in found.cells] == [f"{model} · {name}" for model in ("Net", "Same") for name in NAMES]
    assert found.cells == robharness.compare(made / "one", str(made / "two")).cells
    assert found.cells == robharness.compare("toys", after, store=made / "one").cells
    assert repr(found).startswith("<Comparison of toys in ") and "2 pairs of models, 12 cells, n = 40;" in repr(found)
    one = robharness.compare(after, models=("Same", "Net"))
    assert one.cells == robharness.compare("toys", models=["Same", "Net"], store=made / "two").cells
    assert "1 pair of models" in repr(one)
    limited = robharness.compare(made / "one", made / "two", limit=7)
    assert limited.n == 7 == robharness.compare(before, after, limit=7).n
    assert limited.cells == robharness.compare(before, after, limit=7).cells


@pytest.mark.parametrize(("words", "sentence"), [
    ({"models": "Net"}, '`models` are two labels, before and after. Try: models=("Before", "After")'),
    ({"models": ("Net", "Sam")}, "did you mean 'Same'? Try: robharness.compare(before, models=('Net', 'Same'))"),
    ({}, "Try: robharness.compare(before, models=('Net', 'Same'))"),
    ({"suite": "x", "models": ("Net", "Same")}, "no operand is a store"),
    ({"limit": 0}, "limit"),
])  # fmt: skip
def test_errors_in_python_propose_calls(made, words, sentence):
    with pytest.raises(UserError) as caught:
        robharness.compare(api.load("toys", store=made / "one"), **words)
    assert sentence in str(caught.value)


def test_no_torch_and_no_plugin_is_imported(folder, run_process):
    write_baseline(folder / "one.json", side_of(api.load("toys", store=folder / "one"), "one"))
    program = (
        "import sys; from robharness.cli import main; code = main(sys.argv[1:]); "
        "files = [str(getattr(module, '__file__', '')) for module in sys.modules.values()]; "
        "loaded = [file for file in files if file.endswith(('toys.py', 'teams.py'))]; "
        "print(code, loaded, sorted({'torch', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    shown = run_process("compare", "one.json", "two", program=("-c", program), cwd=folder)
    assert shown.stderr.splitlines()[-1] == "0 [] []" and "climb(linf, 1/4)" in shown.stdout


def test_the_stores_are_not_changed(compare, folder):
    def files():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = files()
    compare("one", "two")
    assert files() == before
