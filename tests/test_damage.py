"""A store that is damaged in any way: no bug, no wrong number, a sentence that names the file, a remedy that works.

The store is one that an earlier version wrote; reports of it need no network and no torch.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from robharness.errors import StoreError, UserError
from robharness.planning import artefacts
from robharness.planning.identity import key_of
from robharness.plugins.discovery import discover
from robharness.report import build
from robharness.report.renderers.files import write
from robharness.report.renderers.json import render
from robharness.session import plan_suite
from robharness.store import SCHEMA, Store, results
from robharness.store.listing import check_folders
from robharness.store.merge import merge
from robharness.store.parts import Part, checksum

EARLIER = Path(__file__).parent / "earlier"
RUN = "runs/20260101T000000.000000Z-1-0.json"


@pytest.fixture(scope="module")
def plan():
    """Three cells with outcomes and one that failed."""
    folder = Path.cwd()
    os.chdir(EARLIER)
    planned = plan_suite("suite.yaml", discover(["plugin.py"]))
    os.chdir(folder)
    wanted = ("clean", "sign(linf, 32/255)", "speckle(2)", "rogue(linf, 8/255)")
    cells = [cell for cell in planned.cells if cell.model.label == "Sharp" and cell.short_name in wanted]
    return dataclasses.replace(planned, cells=tuple(cells))


@pytest.fixture(scope="module")
def healthy(plan, tmp_path_factory):
    """The store of these cells, whose parts this version has written again, and the record of a run."""
    root = tmp_path_factory.mktemp("healthy") / "store"
    for cell in plan.cells:
        folder = Store(EARLIER / "store").folder(cell.key)
        shutil.copytree(folder, Store(root).folder(cell.key))
        for part in Store(root).parts(cell.key):
            rows = Store(root).read(cell.key, part.stop)
            (Store(root).folder(cell.key) / part.name).unlink()
            columns = {name: rows.table[name] for name in rows.table.column_names if name != "position"}
            Store(root).write_part(cell.key, 0, columns, rows.provenance[0])
    Store(root).write_json(root / RUN, {"suite": "suite.yaml", "workers": 1, "speed": {}})
    return root


@pytest.fixture(scope="module")
def expected(plan, healthy):
    return numbers(plan, healthy)


@pytest.fixture
def root(healthy, tmp_path):
    return Path(shutil.copytree(healthy, tmp_path / "store"))


def numbers(plan, root):
    """Return the numbers of each cell that is complete, and the text of the whole report."""
    found = results.load(plan, Store(root))
    report = build(found)
    text = render(report)
    shown = {cell.perturbation: (cell.numbers.accuracy, cell.numbers.relative_drop, cell.notes) for cell in report.cells
             if cell.complete}  # fmt: skip
    json.loads(text)
    return shown, text


def unless_refused(call):
    """Return the result of a call, or None after a refusal, whose sentence has a remedy."""
    try:
        return call()
    except StoreError as error:
        refusal = str(error)
    assert "Try: " in refusal
    return None


def assert_known(plan, root, expected, damaged):
    """Every number is what it was or is absent, and what is absent is named, in a report and in a merge."""
    found = unless_refused(lambda: numbers(plan, root))
    if found is None:
        return
    shown, text = found
    assert_equal(shown, expected)
    if len(shown) < len(expected[0]):
        assert damaged.name in text and "is damaged" in text
    into = Store(root.parent / "into")
    merged = unless_refused(lambda: merge(into, Store(root)))
    if merged is None:
        return
    copied, _ = numbers(plan, into.root)
    assert_equal(copied, expected)
    lost = len(copied) < len(expected[0])
    is_aside = any(root.rglob("*.parquet*.damaged"))  # the report before has named it
    assert not lost or merged.problems or is_aside


def assert_equal(shown, expected):
    for name, (accuracy, drop, notes) in shown.items():
        assert (accuracy, notes) == (expected[0][name][0], expected[0][name][2])
        assert drop is None or drop == expected[0][name][1]


def files(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


# --- bytes -----------------------------------------------------------------------------------------------------------


def mutated(content, chance):
    """Return the content with a few bytes changed, inserted, removed or repeated."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(content) + 1) if content else 0
        match chance.randrange(6):
            case 0 | 1 if place < len(content):
                content[place] ^= 1 << chance.randrange(8)
            case 2:
                del content[place:]
            case 3:
                content[place:place] = chance.choice((b"\0", b"\xff", b"[", b"9" * 50, b"\n", b'"', b"null", b"1e999"))
            case 4:
                del content[place : place + chance.randrange(1, 30)]
            case _:
                content[place:place] = content[place : place + chance.randrange(1, 30)]
    return bytes(content)


def with_checksum(path, content):
    """Write the content of a part under a name that has its checksum."""
    start, stop = map(int, path.name.partition(".")[0].split("-"))
    path.unlink()
    place = path.with_name(Part(start, stop, checksum(content)).name)
    place.write_bytes(content)
    return place


def check_mutants(plan, healthy, expected, tmp_path, seeds):
    for seed in seeds:
        chance = random.Random(seed)
        root = Path(shutil.copytree(healthy, tmp_path / str(seed) / "store"))
        path = chance.choice(files(root))
        content = mutated(path.read_bytes(), chance)
        if path.suffix == ".parquet" and chance.random() < 0.6:
            path = with_checksum(path, content)
        else:
            path.write_bytes(content)
        try:
            assert_known(plan, root, expected, path)
        except BaseException as error:
            error.add_note(f"seed {seed}, {path.relative_to(root)}")
            raise
        shutil.rmtree(tmp_path / str(seed))


def test_no_changed_bytes_are_a_bug_or_a_wrong_number(plan, healthy, expected, tmp_path):
    check_mutants(plan, healthy, expected, tmp_path, range(100))


@pytest.mark.slow
def test_no_changed_bytes_are_a_bug_or_a_wrong_number_at_length(plan, healthy, expected, tmp_path):
    check_mutants(plan, healthy, expected, tmp_path, range(1000, 8000))


# --- records ---------------------------------------------------------------------------------------------------------


KEYS = ("schema", "identity", "name", "start", "stop", "error", "blame", "traceback", "speed", "workers")
CONTENTS = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "text": b'"cell"',
    "an empty object": b"{}",
    "lists for all": json.dumps({key: [[]] for key in KEYS}).encode(),
    "numbers for all": json.dumps(dict.fromkeys(KEYS, 1)).encode(),
    "endless numbers": b'{"schema": 1e999, "start": 1e999, "stop": 1e999, "speed": {"a": 1e999}, "workers": 1e999}',
    "many digits": b'{"schema": ' + b"9" * 10**6 + b"}",
    "a huge schema": b'{"schema": ' + b"9" * 99 + b"}",
    "true for a number": b'{"schema": true, "identity": {}, "name": "", "start": false, "stop": true, "error": "e"}',
    "no number": b'{"schema": NaN, "start": NaN, "stop": NaN, "workers": NaN, "speed": {"a": {"rows": NaN}}}',
    "one key twice": b'{"schema": 1, "schema": 1, "start": 0, "start": 0}',
    "deep lists": b"[" * 10**5 + b"]" * 10**5,
    "deep objects": b'{"identity": ' * 500 + b"1" + b"}" * 500,
    "no UTF-8": b'{"schema": "\xff\xfe"}',
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
    "surrogates": b'{"schema": 1, "name": "\\ud800", "identity": {"\\ud800": "\\udfff"}}',
}  # fmt: skip


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def link_to(target):
    def make(path):
        path.unlink()
        path.symlink_to(target.format(path=path))

    return make


def folder(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


KINDS = {
    "gone": Path.unlink,
    "a folder": folder,
    "a pipe": fifo,
    "a link to nothing": link_to("/nowhere/at/all"),
    "a link to itself": link_to("{path}"),
    "a link to a folder": link_to("/"),
    "a device": link_to("/dev/zero"),
}
CHANGES = {name: lambda path, content=content: path.write_bytes(content) for name, content in CONTENTS.items()} | KINDS
RECORDS = {"description": "cells/*/*/cell.json", "failure": "cells/*/*/*.failed.json", "run": "runs/*.json"}


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_record_changes_no_number_and_is_named(plan, root, expected, record, change):
    path = sorted(root.glob(RECORDS[record]))[0]
    CHANGES[change](path)
    found = results.load(plan, Store(root))
    report = build(found)
    assert_equal(numbers(plan, root)[0], expected)
    noted = [each for each in report.findings if each.code == "record-damaged"]
    assert bool(noted) == (record != "run" and change != "gone")
    assert all(str(path) in str(each) and "the next run" in str(each) for each in noted)
    problems = merge(Store(root.parent / "into"), Store(root)).problems
    no_run = {"gone", "an empty object", "a huge schema", "true for a number", "surrogates"}  # keys of other records
    assert bool(problems) == (change not in (no_run if record == "run" else {"gone"}) or record == "description")
    assert all(path.name in each for each in problems)
    if record == "run" and problems:
        assert f"To leave it out: rm -r {path}" in problems[0]
        os.system(problems[0].partition("leave it out: ")[2])
        assert not merge(Store(root.parent / "into"), Store(root)).problems


def test_a_record_of_a_newer_version_is_refused_with_its_remedy(plan, root):
    path = sorted(root.glob(RECORDS["description"]))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 3}))
    with pytest.raises(StoreError, match=r"has schema 3.*Try: pip install -U robharness"):
        results.load(plan, Store(root))


@pytest.mark.parametrize(
    "change", ["gone", "nothing", "a folder", "a pipe", "a link to itself", "one key twice", "other key"]
)
def test_the_next_run_writes_a_description_again(plan, root, change):
    cell = plan.cells[0]
    path = Store(root).folder(cell.key) / "cell.json"
    before = json.loads(path.read_text())
    if change == "other key":
        path.write_text(json.dumps(before | {"identity": {"model": {"name": "another"}}}))
    else:
        CHANGES[change](path)
    Store(root).describe(cell)
    assert json.loads(path.read_text()) == before | {"schema": SCHEMA}
    assert not merge(Store(root.parent / "into"), Store(root)).problems


# --- parts -----------------------------------------------------------------------------------------------------------


def column(name, make):
    """Return a change of one column of a part."""

    def change(table):
        place = table.column_names.index(name)
        return table.set_column(place, name, make(table[name]))

    return change


def meta(**changes):
    """Return a change of a part's metadata."""

    def change(table):
        keys = {b"cell": b"robharness-cell", b"span": b"robharness-span", b"provenance": b"robharness"}
        return table.replace_schema_metadata(
            table.schema.metadata | {keys[name.encode()]: value for name, value in changes.items()}
        )

    return change


def provenance(**changes):
    return meta(provenance=json.dumps([{"rows": 4} | changes]).encode())


def gap(values):
    return pa.chunked_array([[None, *values.to_pylist()[1:]]], values.type)


def swapped(values):
    listed = values.to_pylist()
    return pa.chunked_array([[listed[1], listed[0], *listed[2:]]], values.type)


TABLES = {
    "predictions as text": column("prediction", lambda values: pc.cast(values, pa.string())),
    "verdicts as numbers": column("correct", lambda values: pc.cast(values, pa.int64())),
    "labels as floats": column("label", lambda values: pc.cast(values, pa.float64())),
    "margins as integers": column("margin", lambda values: pa.chunked_array([[0] * len(values)])),
    "confidences as integers": lambda table: table.append_column("confidence", pa.array([1] * len(table))),
    "a note as text": column("dead", lambda values: pc.cast(values, pa.string())),
    "a gap in the verdicts": column("correct", gap),
    "a gap in the examples": column("example", gap),
    "other labels": column("label", swapped),
    "other examples": column("example", swapped),
    "one example twice": column("example", lambda values: pa.chunked_array([[values[0].as_py()] * len(values)])),
    "other predictions": column("prediction", lambda values: pc.add(values, 1)),
    "other verdicts": column("correct", pc.invert),
    "a row fewer": lambda table: table.slice(1),
    "a row more": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    "no rows": lambda table: table.slice(0, 0),
    **{f"no {name}": lambda table, name=name: table.drop_columns([name])
       for name in ("example", "label", "prediction", "correct", "margin", "size", "attacked", "position")},
    "two columns of one name": lambda table: table.append_column("correct", table["correct"]),
    "only positions": lambda table: table.select(["position"]),
    "another cell": meta(cell=b"0" * 24),
    "no text for a cell": meta(cell=b"\xff\x1b[31m"),
    "another span": meta(span=b"24-48"),
    "provenance: no JSON": meta(provenance=b"["),
    "provenance: deep": meta(provenance=b"[" * 10**5),
    "provenance: an object": meta(provenance=b"{}"),
    "provenance: numbers": meta(provenance=b"[1, 2]"),
    "provenance: a list for the network": provenance(model_state=[1]),
    "provenance: text for rows": provenance(rows="many"),
    "provenance: a list of versions": provenance(versions=["torch"]),
    "provenance: numbers as versions": provenance(versions={"torch": 2}),
    "provenance: exact in words": provenance(exact={"rows": "no"}),
    "provenance: size of rounding in words": provenance(exact={"rows": False, "rows_by": "large"}),
    "provenance: unreadable as a list": provenance(unreadable=["square-01"]),
    "provenance: restored as text": provenance(restored={"net": "modes"}),
    "provenance: one output": provenance(surplus_outputs=[1]),
    "provenance: what is left over in words": provenance(left_over="head"),
    "provenance: what is left over without a count": provenance(left_over=[{"file": "a.pt", "network": "vit"}]),
    "provenance: a plugin in words": provenance(model_plugin="x"),
    "provenance: a list as source": provenance(model_plugin={"plugin": "x", "source": []}),
}  # fmt: skip


@pytest.mark.parametrize("change", TABLES)
def test_a_part_with_a_right_checksum_and_other_content_is_set_aside(plan, root, expected, change):
    store = Store(root)
    cell = next(cell for cell in plan.cells if cell.short_name == "sign(linf, 32/255)")
    (part,) = store.parts(cell.key)
    path = store.folder(cell.key) / part.name
    sink = io.BytesIO()
    pq.write_table(TABLES[change](pq.read_table(path)), sink)
    path = with_checksum(path, sink.getvalue())
    shown, text = numbers(plan, root)
    assert "sign(linf, 32/255)" not in shown and f"{path} is damaged (" in text and "\\u001b" not in text
    assert len(shown) == len(expected[0]) - 1 and store.missing(cell.key, 24) == [(0, 24)]
    assert path.with_name(f"{path.name}.damaged").exists()


@pytest.mark.parametrize("change", KINDS)
def test_what_is_no_part_is_set_aside(plan, root, expected, change):
    store, cell = Store(root), plan.cells[0]
    path = store.folder(cell.key) / store.parts(cell.key)[0].name
    KINDS[change](path)
    shown, text = numbers(plan, root)
    assert "clean" not in shown and len(shown) == len(expected[0]) - 1
    assert change == "gone" or f"{path} is damaged (" in text
    assert store.missing(cell.key, 24) == [(0, 24)]


def test_a_part_of_another_cell_is_no_outcome(plan, root, expected):
    """Copied by hand, or by a synchronisation that broke."""
    store = Store(root)
    mine, other = (store.folder(cell.key) for cell in plan.cells[:2])
    part = store.parts(plan.cells[1].key)[0]
    for old in store.parts(plan.cells[0].key):
        (mine / old.name).unlink()
    shutil.copy(other / part.name, mine / part.name)
    shown, text = numbers(plan, root)
    assert "clean" not in shown and f"it holds outcomes of the cell {plan.cells[1].key}" in text
    assert merge(Store(root.parent / "into"), Store(root)).copied == 2


def test_parts_of_earlier_versions_carry_no_cell_and_are_read(plan, tmp_path, expected):
    """Their positions are compared with their name."""
    root = Path(shutil.copytree(EARLIER / "store", tmp_path / "store"))
    assert_equal(numbers(plan, root)[0], expected)
    store, key = Store(root), plan.cells[0].key
    path = store.folder(key) / store.parts(key)[0].name
    assert b"robharness-cell" not in path.read_bytes()
    path.rename(path.with_name(path.name.replace("00000-00024", "00024-00048")))
    assert store.read(key, 48).positions.tolist() == []
    assert "it holds other positions than its name says" in store.notes[0]


@pytest.mark.parametrize("differ", [True, False])
def test_parts_that_overlap_and_disagree_are_named(plan, root, expected, differ):
    """The first of them counts, as before."""
    store, cell = Store(root), plan.cells[0]
    rows = store.read(cell.key, 24)
    columns = {name: rows.table[name].to_numpy()[8:12] for name in rows.table.column_names if name != "position"}
    columns["example"] = columns["example"].tolist()
    if differ:
        columns |= {"prediction": columns["label"] + 1, "correct": [False] * 4}
    store.write_part(cell.key, 8, columns, {})
    shown, text = numbers(plan, root)
    assert_equal(shown, expected)
    sentence = f"files of outcomes in {store.folder(cell.key)} overlap, and 4 of the 4 predictions that they hold twice"
    assert (sentence in text) == differ
    store.join(cell.key, 24)
    assert (sentence in " ".join(store.notes)) == differ and store.spans(cell.key) == [(0, 24)]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_merge_names_every_cell_that_it_does_not_copy(plan, root):
    """Also one without a description, one that is a file, and one under another name."""
    store = Store(root)
    folders = [store.folder(cell.key) for cell in plan.cells]
    (folders[0] / "cell.json").unlink()
    shutil.rmtree(folders[1])
    folders[1].write_text("no folder")
    folders[2].rename(folders[2].with_name(f"{folders[2].name} (copy)"))
    merged = merge(Store(root.parent / "into"), store)
    assert merged.copied == 1 and len(merged.problems) == 3
    named = " ".join(merged.problems)
    assert all(str(path) in named for path in (*folders[:2], f"{folders[2]} (copy)"))


NO_FOLDERS = ("a file", "a pipe", "a link to nothing", "a link to itself")


def make_no_folder(path, change):
    shutil.rmtree(path)
    path.write_text("")
    if change != "a file":
        CHANGES[change](path)


@pytest.mark.parametrize("which", ["cells", "cells/*", "cells/*/*", "runs"])
@pytest.mark.parametrize("change", NO_FOLDERS)
def test_what_is_no_folder_is_named_and_nothing_is_computed(plan, root, healthy, which, change):
    path = sorted(root.glob(which))[0]
    make_no_folder(path, change)
    (root / "artefacts").mkdir()
    unless_refused(lambda: numbers(plan, root))
    unless_refused(lambda: Store(root).write_json(Store(root).new_run(), {}))
    unless_refused(lambda: Store(root).describe(plan.cells[0]))
    merged = merge(Store(root.parent / "into"), Store(root))
    assert merged.problems and all(f"ls -ld {path}" in each for each in merged.problems)
    if which != "cells/*/*":
        with pytest.raises(StoreError, match=rf"Try: ls -ld {path}$"):
            check_folders(Store(root))
    into = unless_refused(lambda: merge(Store(root), Store(healthy)))
    assert into is None or any(each.endswith(f" {path}") for each in into.problems)


@pytest.mark.parametrize("change", NO_FOLDERS)
def test_a_store_that_is_no_folder_is_refused(root, change):
    make_no_folder(root, change)
    for store in (root, root / "inner"):
        with pytest.raises(UserError, match=rf"the store {store} cannot be used: .*\. Try: ls -ld {root}"):
            plan_suite(EARLIER / "suite.yaml", discover([str(EARLIER / "plugin.py")]), store=store)


def test_files_that_others_leave_beside_cells_and_artefacts_are_no_problem(root):
    for folder in ("cells", "artefacts"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / ".DS_Store").write_text("")
        (root / folder / "README").symlink_to("/nowhere/at/all")
    assert not merge(Store(root.parent / "into"), Store(root)).problems
    check_folders(Store(root))


# --- artefacts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def artefact(tmp_path):
    """The folder of trained weights in a store that has nothing else."""
    recipe = {"model": "mine/net", "seed": 3}
    folder = tmp_path / "store" / "artefacts" / key_of(recipe)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "provenance.json").write_text(
        json.dumps({"sha256": hashlib.sha256(b"weights").hexdigest(), "time": "now"})
    )
    (folder / "metrics.jsonl").write_text('{"loss": 1}\n')
    return folder


@pytest.mark.parametrize("file", ["weights.safetensors", "recipe.json", "provenance.json", "metrics.jsonl"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_artefact_is_listed_refused_and_not_copied(artefact, tmp_path, file, change):
    CHANGES[change](artefact / file)
    (row,) = artefacts.listing(tmp_path / "store")
    assert row["name"] == artefact.name and json.dumps(row)
    is_damaged = file in ("weights.safetensors", "provenance.json")
    assert bool(artefacts.damage(artefact)) == is_damaged
    shows = is_damaged and (file != "weights.safetensors" or change in KINDS or change == "nothing")
    assert bool(row["problem"]) == shows and ("missing" in row["problem"]) == (shows and change == "gone")
    if is_damaged:
        with pytest.raises(UserError, match=rf"is damaged: its .*Try: rm -r {artefact}"):
            artefacts.Artefact(folder=artefact, training_spec={}, datasets={}).weights()
    into, source = Store(tmp_path / "into"), Store(tmp_path / "store")
    problems = merge(into, source).problems
    harmless = file == "metrics.jsonl" and (change in CONTENTS or change in ("gone", "a folder"))
    assert bool(problems) != harmless and (into.root / "artefacts" / artefact.name).exists() == harmless
    if problems:
        os.system(problems[0].partition("leave the artefact out: ")[2])
        assert not artefact.exists() and not merge(into, source).problems


@pytest.mark.parametrize("change", NO_FOLDERS)
def test_an_artefact_that_is_no_folder_is_named_and_not_trained_again(artefact, tmp_path, change):
    make_no_folder(artefact, change)
    (row,) = artefacts.listing(tmp_path / "store")
    assert row["name"] == artefact.name and row["problem"]
    with pytest.raises(UserError, match=rf"{artefact} is damaged: .*Try: rm -r {artefact}$"):
        artefacts.Artefact(folder=artefact, training_spec={}, datasets={}).weights()
    (problem,) = merge(Store(tmp_path / "into"), Store(tmp_path / "store")).problems
    assert str(artefact) in problem
    os.system(problem.partition("leave the artefact out: ")[2])
    assert not merge(Store(tmp_path / "into"), Store(tmp_path / "store")).problems


@pytest.mark.parametrize("change", NO_FOLDERS)
def test_a_folder_of_artefacts_that_is_none_is_named(artefact, tmp_path, change):
    folder = artefact.parent
    make_no_folder(folder, change)
    (tmp_path / "store" / "cells").mkdir()
    (problem,) = merge(Store(tmp_path / "into"), Store(tmp_path / "store")).problems
    assert problem.endswith(f"Try: ls -ld {folder}")
    trained = artefacts.Artefact(folder=artefact, training_spec={}, datasets={})
    for read in (trained.weights, lambda: artefacts.listing(tmp_path / "store")):
        with pytest.raises(UserError, match=rf"{folder} cannot be used: .*\. Try: ls -ld {folder}$"):
            read()


@pytest.mark.parametrize("change", NO_FOLDERS)
def test_a_merge_replaces_no_artefact_that_is_no_folder(artefact, tmp_path, change):
    place = tmp_path / "into" / "artefacts" / artefact.name
    place.mkdir(parents=True)
    make_no_folder(place, change)
    (problem,) = merge(Store(tmp_path / "into"), Store(tmp_path / "store")).problems
    assert f"{place} can be no folder: " in problem and os.path.lexists(place) and not place.is_dir()


# --- reports ---------------------------------------------------------------------------------------------------------


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write(Path("x.json"), b"first", tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"-o x\.json: cannot be written: No space left on device\. Try: ls -ld \."):
        write(Path("x.json"), b"second", tmp_path)
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("change", ["a folder", "a pipe", "a device"])
def test_a_report_replaces_files_alone(tmp_path, change):
    (path := tmp_path / "x.json").write_text("")
    CHANGES[change](path)
    (tmp_path / "out").symlink_to("/nowhere/at/all")
    with pytest.raises(UserError, match=r"-o out/x\.json: cannot be written: .*\. Try: ls -ld out$"):
        write(Path("out/x.json"), b"content", tmp_path)
    with pytest.raises(UserError, match=r"-o x\.json: cannot be written: it is a .*, not a file\. Try: "):
        write(Path("x.json"), b"content", tmp_path)
    assert not path.is_file()
