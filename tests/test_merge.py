"""Merging stores: complete parts are copied, and existing ones are kept."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from robharness import api
from robharness.errors import StoreError
from robharness.planning.identity import key_of
from robharness.store import Failure, FileSystem, Store
from robharness.store.merge import merge


def tree(root):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


# --- stores made by hand -------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path):
    return Store(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path):
    return Store(tmp_path / "theirs")


IDENTITY = {"model": {"name": "toys/net"}, "data": {"name": "toys/pixels"}}
KEY = key_of(IDENTITY)


def put(store, *spans, value=0.0, state="one", identity=IDENTITY, **columns):
    """A cell whose outcomes of these spans are all `value`, made by a network in this state; returns its key."""
    key = key_of(identity)
    store.describe(SimpleNamespace(key=key, name="Net · toys · clean", identity=identity))
    for start, stop in spans:
        margin = np.full(stop - start, value, "float32")
        more = {name: column[start:stop] for name, column in columns.items()}
        store.write_part(key, start, {"correct": margin >= 0, "margin": margin, **more}, {"model_state": state})
    return key


def margins(store, key=KEY):
    rows = store.read(key, 10**6)
    return dict(zip(rows.positions.tolist(), rows.table["margin"].to_pylist(), strict=True))


def counts(merged):
    return {name: value for name, value in vars(merged).items() if value and name != "problems"}


@pytest.mark.parametrize("exists", [True, False])
def test_into_an_empty_or_a_new_folder_all_is_copied_byte_by_byte(ours, theirs, tmp_path, exists):
    put(theirs, (0, 4), (6, 9), value=1.0)
    put(theirs, (0, 4), value=2.0, identity={"model": {"name": "toys/other"}})
    theirs.write_json(theirs.new_run(), {"suite": "x"})
    into = Store(tmp_path / "deep" / "in" / "a" / "folder")
    if exists:
        into.root.mkdir(parents=True)
    merged = merge(into, theirs)
    assert counts(merged) == {"copied": 3, "cells": 2}
    assert merged.problems == []
    assert tree(into.root) == tree(theirs.root)


def test_cells_of_both_stores_are_kept(ours, theirs):
    mine = put(ours, (0, 4), value=1.0)
    other = put(theirs, (0, 4), value=2.0, state="two", identity={"model": {"name": "toys/other"}})
    before = tree(ours.root)
    assert counts(merge(ours, theirs)) == {"copied": 1, "cells": 1}
    assert set(margins(ours, mine).values()) == {1.0}
    assert set(margins(ours, other).values()) == {2.0}
    assert tree(ours.root) == before | tree(theirs.root)


@pytest.mark.parametrize("span", [(0, 10), (0, 4), (3, 7), (9, 10)])
def test_existing_parts_are_not_copied(ours, theirs, span):
    put(ours, (0, 6), (6, 10))
    put(theirs, span)
    before = tree(ours.root)
    merged = merge(ours, theirs)
    assert counts(merged) == {"present": 1, "common": span[1] - span[0]}
    assert tree(ours.root) == before


def test_only_new_outcomes_of_overlapping_parts_are_copied(ours, theirs):
    put(ours, (0, 6))
    put(theirs, (4, 10), (20, 22))
    assert counts(merge(ours, theirs)) == {"copied": 2, "cells": 1, "common": 2}
    assert list(margins(ours)) == [*range(10), 20, 21]
    assert ours.missing(KEY, 30) == [(10, 20), (22, 30)]


def test_differing_outcomes_are_counted_and_not_overwritten(ours, theirs):
    put(ours, (0, 6), value=1.0)
    put(theirs, (0, 4), (4, 10), value=2.0)
    merged = merge(ours, theirs)
    assert counts(merged) == {"copied": 1, "cells": 1, "present": 1, "common": 6, "differing": 6}
    assert margins(ours) == dict.fromkeys(range(6), 1.0) | dict.fromkeys(range(6, 10), 2.0)


def test_an_example_differs_if_any_of_its_columns_differs(ours, theirs):
    names = [f"e{i}" for i in range(6)]
    numbers = np.arange(6)
    size = np.array([0.5, np.nan, np.nan, 1.0, 2.0, np.inf])
    put(ours, (0, 6), example=names, prediction=numbers, size=size)
    put(theirs, (0, 6), example=[*names[:5], "x"], prediction=[0, 1, 2, 3, 9, 9],
        size=np.array([0.5, np.nan, 3.0, 1.0, 2.0, np.inf]))  # fmt: skip
    merged = merge(ours, theirs)
    assert (merged.common, merged.differing) == (6, 3)


def test_nan_in_both_stores_is_equal(ours, theirs):
    for store in (ours, theirs):
        put(store, (0, 3), size=np.array([np.nan, 1.0, -np.inf]), count=[None, 2, None], note=["a", None, None])
    merged = merge(ours, theirs)
    assert (merged.common, merged.differing) == (3, 0)


def test_a_column_that_one_store_lacks_is_no_difference(ours, theirs):
    put(ours, (0, 3))
    put(theirs, (0, 3), more=[1, 2, 3])
    assert merge(ours, theirs).differing == 0


def test_a_confidence_that_an_earlier_version_did_not_store_is_no_difference(ours, theirs):
    """It is NaN in a cell of which other examples have one."""
    put(ours, (0, 3), confidence=np.float32([np.nan, 0.5, 0.5]))
    put(theirs, (0, 3), confidence=np.float32([0.5, np.nan, 0.6]))
    assert merge(ours, theirs).differing == 1


def test_merging_again_changes_nothing(ours, theirs):
    put(ours, (0, 2))
    put(theirs, (0, 4), (6, 9))
    theirs.write_failure(KEY, Failure(start=4, stop=6, blame="someone 1.0", error="it broke", traceback="..."))
    theirs.write_json(theirs.new_run(), {"suite": "x"})
    merge(ours, theirs)
    before = tree(ours.root)
    again = merge(ours, theirs)
    assert counts(again) == {"present": 2, "common": 7}
    assert tree(ours.root) == before
    assert counts(merge(theirs, ours)) == {"present": 3, "common": 7}
    assert counts(merge(ours, ours)) == {"present": 3, "common": 7}
    assert tree(ours.root) == before


def test_failures_are_copied_if_neither_store_has_outcomes(ours, theirs):
    put(ours, (0, 4))
    put(theirs)
    old, new, mixed = (
        Failure(start=start, stop=stop, blame="someone 1.0", error="it broke", traceback="...")
        for start, stop in ((0, 4), (8, 12), (2, 6))
    )
    for failure in (old, new, mixed):
        theirs.write_failure(KEY, failure)
    merged = merge(ours, theirs)
    assert counts(merged) == {}
    assert ours.failures(KEY) == [mixed, new]
    assert not (ours.folder(KEY) / "00000-00004.failed.json").exists()


def test_a_resolved_failure_is_not_copied(ours, theirs):
    put(theirs)
    theirs.write_failure(KEY, Failure(start=0, stop=4, blame="someone 1.0", error="it broke"))
    put(theirs, (0, 4))
    merge(ours, theirs)
    assert [path for path in tree(ours.root) if "failed" in path] == []


def test_records_of_runs_are_copied_and_existing_ones_kept(ours, theirs):
    mine, their = ours.new_run(), theirs.new_run()
    ours.write_json(mine, {"suite": "mine"})
    theirs.write_json(their, {"suite": "theirs"})
    theirs.write_json(theirs.root / "runs" / mine.name, {"suite": "not mine"})
    put(theirs, (0, 4))
    merge(ours, theirs)
    assert sorted(run["suite"] for run in ours.runs()) == ["mine", "theirs"]
    assert (ours.root / "runs" / their.name).read_bytes() == their.read_bytes()


DAMAGES = {
    "truncated": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "a bit of it": lambda content: content[:99] + bytes([content[99] ^ 4]) + content[100:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_reported_and_the_others_are_copied(ours, theirs, damage):
    put(theirs, (0, 4), (4, 8), (8, 12))
    other = put(theirs, (0, 4), identity={"model": {"name": "toys/other"}})
    path = theirs.folder(KEY) / theirs.parts(KEY)[1].name
    path.write_bytes(damage(path.read_bytes()))
    merged = merge(ours, theirs)
    assert counts(merged) == {"copied": 3, "cells": 2}
    (problem,) = merged.problems
    assert str(path) in problem and "is damaged" in problem
    assert not path.exists() and path.with_name(f"{path.name}.damaged").exists()
    assert list(margins(ours)) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert len(margins(ours, other)) == 4
    assert not [name for name in tree(ours.root) if "damaged" in name or name.endswith(".tmp")]


def test_a_damaged_part_of_the_target_is_replaced(ours, theirs):
    put(ours, (0, 4), (4, 8))
    put(theirs, (4, 8))
    path = ours.folder(KEY) / ours.parts(KEY)[1].name
    path.write_bytes(b"not what it was")
    assert counts(merge(ours, theirs)) == {"copied": 1, "cells": 1}
    for store in (ours, Store(ours.root)):
        assert store.missing(KEY, 8) == []
        assert list(margins(store)) == list(range(8))


def test_a_description_that_does_not_belong_to_its_key_is_refused(ours, theirs):
    put(theirs, (0, 4))
    other = put(theirs, (0, 4), identity={"model": {"name": "toys/other"}})
    path = theirs.folder(KEY) / "cell.json"
    path.write_text(path.read_text().replace("toys/net", "toys/not"))
    merged = merge(ours, theirs)
    assert merged.problems == [
        f"{theirs.folder(KEY)}: cell.json does not belong to its key. To leave the cell out: rm -r {theirs.folder(KEY)}"
    ]
    assert ours.cell_keys() == [other]
    assert not ours.folder(KEY).exists()


def test_a_differing_description_of_the_target_is_refused(ours, theirs):
    put(ours, (0, 4))
    put(theirs, (4, 8))
    path = ours.folder(KEY) / "cell.json"
    path.write_text(path.read_text().replace("toys/net", "toys/not"))
    before = tree(ours.root)
    (problem,) = merge(ours, theirs).problems
    assert "cell.json does not belong to its key" in problem
    assert tree(ours.root) == before


@pytest.mark.parametrize("span", [(0, 4), (4, 8)], ids=["the same examples", "other examples"])
def test_outcomes_of_another_network_are_refused(ours, theirs, span):
    put(ours, (0, 4), state="one")
    put(theirs, span, state="two")
    other = put(theirs, (0, 4), state="two", identity={"model": {"name": "toys/other"}})
    before = tree(ours.root)
    merged = merge(ours, theirs)
    assert merged.problems == [
        f"{theirs.folder(KEY)}: its model is another network than the one in {ours}, built from the same weights "
        "and options; compute it again in one of the stores. "
        f"To leave the cell out: rm -r {theirs.folder(KEY)}"
    ]
    assert counts(merged) == {"copied": 1, "cells": 1}
    assert len(margins(ours, other)) == 4
    assert {name: content for name, content in tree(ours.root).items() if KEY in name} == before


@pytest.mark.parametrize("which", ["ours", "theirs"])
def test_a_newer_schema_is_refused(ours, theirs, which):
    put(ours, (0, 4))
    put(theirs, (4, 8))
    path = {"ours": ours, "theirs": theirs}[which].folder(KEY) / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 3}))
    before = tree(ours.root)
    with pytest.raises(
        StoreError,
        match=r"has schema 3, but this version of robharness reads schema 2\. Try: pip install -U robharness",
    ):
        merge(ours, theirs)
    assert tree(ours.root) == before


def test_parts_that_another_run_joins_meanwhile_are_copied_all_the_same(ours, theirs):
    put(theirs, (0, 4), (4, 8))

    class JoinedMeanwhile(FileSystem):
        def read(self, path, most=None):
            Store(theirs.root).join(KEY, 8)
            return super().read(path, most)

    theirs = Store(theirs.root, JoinedMeanwhile())
    assert counts(merge(ours, theirs)) == {"copied": 1, "cells": 1}
    assert list(margins(ours)) == list(range(8))


# --- stores of real runs, by the command line ----------------------------------------------------------------------


SUITE = {
    "robharness": 1,
    "name": "toys",
    "data": {"name": "toys/pixels", "split": "test"},
    "models": [{"model": "toys/net", "label": "Net", "reference": True}],
    "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": "1/8"}],
}


@pytest.fixture(scope="module")
def suite_stores(tmp_path_factory):
    """Stores of a suite that ran undivided and in three shards; and the plugin of toys that they ran with."""
    root = tmp_path_factory.mktemp("suite_stores")
    toys = str(Path(__file__).parent / "toys.py")
    (root / "toys.yaml").write_text(yaml.safe_dump(SUITE))
    for name, shard in {"whole": None, "a": (1, 3), "b": (2, 3), "c": (3, 3)}.items():
        api.run(root / "toys.yaml", store=root / name, plugins=[toys], shard=shard)
    return root


@pytest.fixture
def workdir(suite_stores, tmp_path):
    """Return the folder of the test with copies of these stores."""
    shutil.copytree(suite_stores, tmp_path, dirs_exist_ok=True)
    return tmp_path


def outcomes(root):
    store = Store(root)
    tables = {key: store.read(key, 10**6).table for key in store.cell_keys()}
    return {key: [(name, table[name].combine_chunks().to_pylist() if name == "example" else
                   (table[name].type, table[name].to_numpy().tobytes())) for name in table.column_names]
            for key, table in tables.items()}  # fmt: skip


def test_three_shards_merged_are_one_run_bit_by_bit(shell, workdir):
    found = shell("merge", "all", "c", "a", "b")
    assert found.returncode == 0
    assert found.stdout == "".join(f"{name}: 4 parts of 4 cells copied, 0 existed already\n" for name in "cab")
    assert found.stderr == ""
    report = shell("report", "toys.yaml", "--store", "all", "--json")
    assert report.returncode == 0
    assert report.stdout == shell("report", "toys.yaml", "--store", "whole", "--json").stdout
    assert json.loads(report.stdout)["complete"] is True
    plans = [json.loads(shell("plan", "toys.yaml", "--store", name, "--json").stdout) for name in ("all", "whole")]
    assert plans[0] == plans[1]
    assert {cell["done"] for cell in plans[0]["cells"]} == {40}
    assert plans[0]["passes_left"] == {"forward": 0, "backward": 0}
    assert outcomes(workdir / "all") == outcomes(workdir / "whole")
    assert len(Store(workdir / "all").runs()) == 3


def test_a_cell_without_a_description_is_named_and_a_run_on_its_store_writes_it_again(shell, workdir):
    path = sorted((workdir / "whole").rglob("cell.json"))[0]
    path.unlink()
    found = shell("merge", "all", "whole")
    assert found.returncode == 3 and "3 parts of 3 cells copied" in found.stdout
    folder = path.parent.relative_to(workdir)
    sentence = "cell.json cannot be read. To write it again, run its suite on that store"
    assert found.stderr == f"whole: not copied: {folder}: {sentence}\n"
    assert shell("run", "toys.yaml", "--store", "whole").returncode == 0
    again = shell("merge", "all", "whole")
    assert again.returncode == 0 and "1 parts of 1 cells copied" in again.stdout
    assert outcomes(workdir / "all") == outcomes(workdir / "whole")


def test_the_next_run_joins_what_was_merged_and_computes_nothing(shell, workdir):
    shell("merge", "all", "a", "b", "c")
    store = Store(workdir / "all")
    assert {len(store.parts(key)) for key in store.cell_keys()} == {3}
    before, runs = outcomes(workdir / "all"), len(store.runs())
    again = shell("run", "toys.yaml", "--store", "all")
    assert again.returncode == 0
    assert "nothing to compute: all outcomes are stored" in again.stderr
    assert [store.spans(key) for key in store.cell_keys()] == [[(0, 40)]] * 4
    assert outcomes(workdir / "all") == before
    assert len(store.runs()) == runs
    assert again.stdout == shell("report", "toys.yaml", "--store", "whole").stdout


def test_some_shards_are_some_of_it(shell, workdir):
    assert shell("merge", "some", "a", "c").returncode == 0
    assert shell("report", "toys.yaml", "--store", "some").returncode == 3
    facts = json.loads(shell("plan", "toys.yaml", "--store", "some", "--json").stdout)
    assert {cell["done"] for cell in facts["cells"]} == {13 + 14}
    assert facts["passes_left"] == {"forward": 13 * 11, "backward": 13 * 7}
    assert facts["seconds_left"] > 0  # the speed travelled with the records
    rest = shell("run", "toys.yaml", "--store", "some", "--json")
    assert rest.returncode == 0
    assert rest.stdout == shell("report", "toys.yaml", "--store", "whole", "--json").stdout
    assert outcomes(workdir / "some") == outcomes(workdir / "whole")


def test_merging_twice_copies_nothing(shell, workdir):
    shell("merge", "all", "a", "b", "c")
    before = tree(workdir / "all")
    again = shell("merge", "all", "a", "b", "whole")
    assert again.returncode == 0
    assert again.stdout == "".join(
        f"{name}: 0 parts of 0 cells copied, 4 existed already\n" for name in ("a", "b", "whole")
    )
    assert set(tree(workdir / "all")) - set(before) == {
        f"runs/{path.name}" for path in (workdir / "whole" / "runs").iterdir()
    }
    assert {name: content for name, content in tree(workdir / "all").items() if name in before} == before


def test_differing_outcomes_are_reported(shell, workdir):
    """The same cell, whose outcomes somebody made otherwise."""
    store = Store(workdir / "other")
    for key in Store(workdir / "whole").cell_keys():
        rows = Store(workdir / "whole").read(key, 40)
        columns = {name: rows.table[name].to_numpy() for name in rows.names if name != "position"}
        columns["margin"] = np.where(np.arange(40) < 3, columns["margin"] + 1, columns["margin"])
        store.write_part(key, 0, columns, rows.provenance[0])
        shutil.copy(Store(workdir / "whole").folder(key) / "cell.json", store.folder(key))
    before = outcomes(workdir / "whole")
    found = shell("merge", "whole", "other")
    assert found.returncode == 0
    assert "other: 0 parts of 0 cells copied, 4 existed already\n" in found.stdout
    summary = "other: 12 of 160 outcomes that both stores have differ; those of whole are kept\n"
    assert found.stdout.endswith(summary)
    assert outcomes(workdir / "whole") == before


def test_a_damaged_part_exits_with_code_3_and_its_name(shell, workdir):
    path = next((workdir / "b" / "cells").glob("*/*/*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    found = shell("merge", "all", "a", "b", "c")
    assert found.returncode == 3
    assert [line.partition(",")[0] for line in found.stdout.splitlines()] == [
        "a: 4 parts of 4 cells copied",
        "b: 3 parts of 3 cells copied",
        "c: 4 parts of 4 cells copied",
    ]
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"b: not copied: {path.relative_to(workdir)} is damaged (its ")
    assert line.endswith("the next run of the suite computes it again")
    assert shell("run", "toys.yaml", "--store", "all").returncode == 0
    assert outcomes(workdir / "all") == outcomes(workdir / "whole")


def test_another_network_exits_with_code_3_and_a_sentence(shell, workdir, monkeypatch, toys):
    drifting = SUITE | {"models": [{"model": "toys/net", "label": "Net", "what": "drifting"}], "attacks": []}
    for name, drift, shard in (("one", "0", (1, 2)), ("two", "0.5", (2, 2))):
        monkeypatch.setenv("TOYS_DRIFT", drift)
        api.run(drifting, store=workdir / name, plugins=[toys], shard=shard)
    found = shell("merge", "one", "two")
    assert found.returncode == 3
    assert found.stdout == "two: 0 parts of 0 cells copied, 0 existed already\n"
    assert "its model is another network than the one in one, built from the same weights and options" in found.stderr
    assert {len(Store(workdir / "one").parts(key)) for key in Store(workdir / "one").cell_keys()} == {1}


@pytest.mark.parametrize("source", ["absent", "empty", "toys.yaml", "whole/cells"])
def test_a_folder_that_is_no_store_is_refused(shell, workdir, source):
    (workdir / "empty").mkdir()
    found = shell("merge", "all", source)
    assert found.returncode == 2
    sentence = f"{source} is no store: it has no folder 'cells'. Try: ls -la {source}"
    if source == "toys.yaml":
        sentence = "the store toys.yaml cannot be used: it is not a folder. Try: ls -ld toys.yaml"
    assert found.stderr == f"robharness: {sentence}\n"
    assert not (workdir / "all").exists()


@pytest.mark.parametrize("words", [[], ["whole"], ["whole", "a", "--fast"]], ids=" ".join)
def test_a_merge_needs_two_stores(shell, workdir, words):
    before = tree(workdir)
    found = shell("merge", *words)
    assert found.returncode == 2
    assert "Usage: robharness merge [OPTIONS] INTO FROM..." in found.stderr
    assert tree(workdir) == before


def test_a_killed_merge_resumes(shell, workdir):
    """Some of the files are not there yet, and some are temporary ones still."""
    shell("merge", "all", "a", "b")
    for path in sorted(path for path in (workdir / "all").rglob("*.*") if path.is_file())[::3]:
        path.rename(path.with_name(f".{path.name}.0123.tmp"))
    assert shell("merge", "all", "a", "b", "c").returncode == 0
    assert len(Store(workdir / "all").runs()) == 3
    assert shell("report", "toys.yaml", "--store", "all").returncode == 0
    assert outcomes(workdir / "all") == outcomes(workdir / "whole")
