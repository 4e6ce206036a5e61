"""Parts on disk: whole or absent, each position once, nothing that a name does not say."""

import errno
import json
import os
import zlib
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest

from robharness.errors import StoreError
from robharness.store import Failure, Store, uncovered

KEY = "abcdef0123456789abcdef01"


def cell(key=KEY):
    return SimpleNamespace(key=key, name="Net · toys · clean", identity={"model": {"name": "toys/net"}})


def columns(start, stop):
    positions = np.arange(start, stop)
    return {
        "example": [f"e{i}" for i in positions],
        "correct": positions % 2 == 0,
        "margin": positions.astype("float32"),
    }


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_parts_are_read_back_in_order_and_once(store):
    for start, stop in ((20, 30), (0, 12), (8, 20)):  # the last overlaps the second
        store.write_part(KEY, start, columns(start, stop), {"rows": 4})
    table = store.read(KEY, 30).table
    assert table["position"].to_pylist() == list(range(30))
    assert table["example"].to_pylist() == [f"e{i}" for i in range(30)]
    assert store.read(KEY, 9).table["position"].to_pylist() == list(range(9))
    assert store.missing(KEY, 30) == []
    assert store.missing(KEY, 35) == [(30, 35)]


def test_what_is_missing_is_read_off_the_names(store):
    assert store.missing(KEY, 10) == [(0, 10)]
    store.write_part(KEY, 2, columns(2, 4), {})
    store.write_part(KEY, 6, columns(6, 7), {})
    assert store.missing(KEY, 10) == [(0, 2), (4, 6), (7, 10)]
    assert store.missing(KEY, 3) == [(0, 2)]
    assert store.read(KEY, 10).table["position"].to_pylist() == [2, 3, 6]


def test_a_complete_cell_becomes_one_file(store):
    store.write_part(KEY, 0, columns(0, 5), {"rows": 4})
    store.write_part(KEY, 5, columns(5, 9), {"rows": 8})
    store.join(KEY, 12)
    assert len(store.spans(KEY)) == 2
    store.join(KEY, 9)
    assert store.spans(KEY) == [(0, 9)]
    assert store.read(KEY, 9).table["margin"].to_pylist() == list(range(9))
    assert store.provenance(KEY) == [{"rows": 4}, {"rows": 8}]


def test_joining_below_a_gap_leaves_what_is_beyond_it(store):
    for start, stop in ((0, 5), (5, 10), (15, 20)):
        store.write_part(KEY, start, columns(start, stop), {})
    store.join(KEY, 10)
    assert store.spans(KEY) == [(0, 10), (15, 20)]
    assert store.read(KEY, 20).table["position"].to_pylist() == [*range(10), *range(15, 20)]


def test_a_stranger_can_read_it(store, tmp_path):
    store.write_part(KEY, 0, columns(0, 8), {})
    pattern = tmp_path / "store" / "cells" / "*" / "*" / "*.parquet"
    rows = duckdb.sql(f"select count(*), sum(correct::int), max(margin) from '{pattern}'").fetchall()
    assert rows == [(8, 4, 7.0)]


def test_failures_are_recorded_and_made_good(store):
    failure = Failure(start=4, stop=8, blame="someone 1.0", error="it broke", traceback="...")
    store.write_failure(KEY, failure)
    assert store.failures(KEY) == [failure]
    assert store.missing(KEY, 8) == [(0, 8)]
    store.write_part(KEY, 0, columns(0, 4), {})
    assert store.failures(KEY) == [failure]
    store.write_part(KEY, 4, columns(4, 8), {})
    assert store.failures(KEY) == []


def test_a_newer_schema_is_refused(store):
    store.describe(cell())
    path = store.folder(KEY) / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    with pytest.raises(StoreError, match=r"has schema 2, this robharness knows 1\. Type: pip install -U robharness"):
        store.describe(cell())


def part(store, index=0):
    return store.folder(KEY) / store.parts(KEY)[index].name


DAMAGES = {
    "truncated": lambda content: content[:-1],
    "cut to half": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "a bit of the data": lambda content: flipped(content, len(content) // 3),
    "a bit of the footer": lambda content: flipped(content, len(content) - 40),
    "the first bit": lambda content: flipped(content, 0),
    "the last bit": lambda content: flipped(content, len(content) - 1),
}


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_set_aside(store, damage):
    store.write_part(KEY, 0, columns(0, 4), {"rows": 4})
    store.write_part(KEY, 4, columns(4, 8), {"rows": 4})
    path = part(store)
    path.write_bytes(damage(path.read_bytes()))
    assert store.read(KEY, 8).positions.tolist() == [4, 5, 6, 7]
    assert store.missing(KEY, 8) == [(0, 4)]
    assert not path.exists() and path.with_name(f"{path.name}.damaged").exists()
    (note,) = store.notes
    assert str(path) in note and note.endswith("computed again by: robharness run SUITE")
    store.write_part(KEY, 0, columns(0, 4), {"rows": 4})
    assert store.read(KEY, 8).positions.tolist() == list(range(8))


def test_every_flipped_bit_is_seen(store):
    store.write_part(KEY, 0, columns(0, 4), {})
    path = part(store)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(flipped(content, place))
        assert store.read(KEY, 4).positions.tolist() == []
        store = Store(store.root)
    path.write_bytes(content)
    assert Store(store.root).read(KEY, 4).positions.tolist() == [0, 1, 2, 3]


def test_a_run_looks_for_damage_before_it_trusts_the_names(store):
    store.write_part(KEY, 0, columns(0, 4), {})
    part(store).write_bytes(b"")
    assert store.missing(KEY, 4) == []
    store.verify(KEY, 4)
    assert store.missing(KEY, 4) == [(0, 4)]


def test_a_part_under_another_name_is_set_aside(store):
    store.write_part(KEY, 0, columns(0, 8), {})
    path = part(store)
    path.rename(path.with_name(path.name.replace("00008", "00009")))
    assert store.read(KEY, 9).positions.tolist() == []
    assert "it has 8 rows" in store.notes[0]


def test_what_killed_writers_leave_is_swept_up_when_it_is_old(store):
    store.write_part(KEY, 0, columns(0, 4), {})
    old, new = (store.folder(KEY) / f".00004-00008.{name}.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    store.verify(KEY, 8)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize(
    ("covered", "span", "gaps"),
    [
        ([], (0, 4), [(0, 4)]),
        ([], (4, 4), []),
        ([(0, 9)], (2, 4), []),
        ([(6, 9), (0, 2), (1, 3)], (1, 8), [(3, 6)]),
        ([(0, 2), (8, 9)], (3, 5), [(3, 5)]),
        ([(2, 4)], (0, 6), [(0, 2), (4, 6)]),
    ],
)
def test_what_is_left_of_a_span(covered, span, gaps):
    assert uncovered(covered, span) == gaps


def test_nothing_half_written_is_ever_seen(store, monkeypatch):
    store.write_part(KEY, 0, columns(0, 4), {})
    before, content = part(store), part(store).read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        store.write_part(KEY, 4, columns(4, 8), {})
    assert os.listdir(store.folder(KEY)) == [before.name]
    assert before.read_bytes() == content


def test_the_order_of_writing_survives_a_power_cut(store, monkeypatch):
    """File to disk, then its name, then the folder to disk."""
    done = []
    fsync, replace = os.fsync, type(store.root).replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("fsync"), fsync(number)))
    monkeypatch.setattr(type(store.root), "replace", lambda self, to: (done.append("rename"), replace(self, to))[1])
    store.write_part(KEY, 0, columns(0, 4), {})
    assert done == ["fsync", "rename", "fsync"]


def test_forgetting_takes_all_of_it_away(store):
    store.describe(cell())
    store.write_part(KEY, 0, columns(0, 4), {})
    store.write_failure(KEY, Failure(start=4, stop=8, blame="x", error="y"))
    store.forget(KEY)
    assert store.missing(KEY, 4) == [(0, 4)]
    assert store.failures(KEY) == []
    assert store.description(KEY) is None


def test_nothing_is_made_before_something_is_written(store):
    assert store.spans(KEY) == []
    assert store.failures(KEY) == []
    assert store.provenance(KEY) == []
    assert not store.root.exists()


def test_a_failure_that_was_made_good_piece_by_piece_is_over(store):
    store.write_part(KEY, 0, columns(0, 4), {})
    store.write_failure(KEY, Failure(start=0, stop=8, blame="x", error="y"))
    assert len(store.failures(KEY)) == 1
    store.write_part(KEY, 4, columns(4, 8), {})
    assert store.failures(KEY) == []


def test_a_reader_looks_again_when_another_run_joins_the_parts(store, monkeypatch):
    store.write_part(KEY, 0, columns(0, 4), {})
    store.write_part(KEY, 4, columns(4, 8), {})
    other, spans = Store(store.root), store.spans

    def joined_meanwhile(key):
        found = spans(key)
        other.join(key, 8)
        return found

    monkeypatch.setattr(store, "spans", joined_meanwhile)
    assert store.read(KEY, 8).table["position"].to_pylist() == list(range(8))
    assert store.provenance(KEY) == [{}]


def test_a_part_is_named_by_its_positions_and_the_checksum_of_its_bytes(store):
    store.write_part(KEY, 99_998, columns(99_998, 100_003), {})
    store.write_part(KEY, 3, columns(3, 8), {})
    first, last = part(store, 0), part(store, 1)
    assert first.name == f"00003-00008.{zlib.crc32(first.read_bytes()):08x}.parquet"
    assert last.name == f"99998-100003.{zlib.crc32(last.read_bytes()):08x}.parquet"
    assert store.read(KEY, 100_001).positions.tolist() == [3, 4, 5, 6, 7, 99_998, 99_999, 100_000]


def test_of_parts_that_overlap_the_first_ones_rows_are_read_and_joined(store):
    for start, stop, name in ((0, 4, "first"), (2, 8, "second"), (1, 3, "third")):
        store.write_part(KEY, start, columns(start, stop) | {"by": [name] * (stop - start)}, {"by": name})
    expected = ["first"] * 4 + ["second"] * 4
    assert store.read(KEY, 8).table["by"].to_pylist() == expected
    store.join(KEY, 8)
    assert store.spans(KEY) == [(0, 8)]
    assert store.read(KEY, 8).table["by"].to_pylist() == expected
    assert store.provenance(KEY) == [{"by": "first"}, {"by": "second"}]


def test_joining_what_one_part_holds_already_keeps_that_part(store):
    """The joined file has the bytes and the name of the part."""
    store.write_part(KEY, 0, columns(0, 8), {"rows": 4})
    before = part(store)
    store.write_part(KEY, 2, columns(2, 6), {"rows": 4})
    store.join(KEY, 8)
    assert [before] == [path for path in store.folder(KEY).iterdir() if path.suffix == ".parquet"]
    assert store.read(KEY, 8).positions.tolist() == list(range(8))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP], ids=errno.errorcode.get)
def test_a_file_system_without_fsync_is_noted_once(store, monkeypatch, code):
    def fail(number):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    for start in (0, 4):
        store.write_part(KEY, start, columns(start, start + 4), {})
    (note,) = store.notes
    assert note.startswith(f"the file system of the store {store.root} has no fsync: a power cut may cost")
    assert store.read(KEY, 8).positions.tolist() == list(range(8))


def test_the_records_of_runs_come_in_order_without_those_that_cannot_be_read(store):
    paths = [store.new_run() for _ in range(3)]
    assert len(set(paths)) == 3
    for number, path in enumerate(paths):
        store.write_json(path, {"number": number})
    store.write_json(paths[0], {"number": 0, "finished": True})
    (store.root / "runs" / "half.json").write_text('{"number": 3')
    assert sorted(run["number"] for run in store.runs()) == [0, 1, 2]
    store.write_json(store.root / "runs" / "20000101T000000.json", {"number": -1})
    assert store.runs()[0] == {"number": -1}


def test_a_store_that_cannot_be_read_is_said(store):
    store.folder(KEY).parent.mkdir(parents=True)
    store.folder(KEY).write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot be read: Not a directory\. Give another one: --store"):
        store.spans(KEY)
