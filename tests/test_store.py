"""Parts on disk: whole or absent, each position once, nothing that a name does not say."""

import errno
import json
import os
import re
import stat
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import robharness
from robharness import api
from robharness.errors import StoreError
from robharness.planning.artefacts import UNFINISHED
from robharness.session import Session
from robharness.store import Failure, FileSystem, Store, uncovered
from robharness.store.artefacts import ArtefactStore
from robharness.store.parts import Part, checksum

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


def test_missing_spans_follow_from_the_file_names(store):
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


@pytest.mark.parametrize("is_joined", [False, True])
def test_rows_of_the_first_schema_have_no_confidence(store, is_joined):
    """Beside rows that have one, they have NaN, never a gap."""
    store.write_part(KEY, 0, columns(0, 5), {})
    assert "p_true" not in store.read(KEY, 5).names
    confidences = np.linspace(0.1, 0.9, 4, dtype="float32")
    store.write_part(KEY, 5, columns(5, 9) | {"confidence": confidences, "p_true": confidences}, {})
    if is_joined:
        store.join(KEY, 9)
        assert store.spans(KEY) == [(0, 9)]
    for names in (None, ["p_true"], ["correct", "p_true"]):
        column = store.read(KEY, 9, names).table["p_true"]
        assert column.null_count == 0 and str(column.type) == "float"
        assert np.isnan(column.to_numpy()[:5]).all() and column.to_numpy()[5:].tolist() == confidences.tolist()
    assert store.notes == []


def test_joining_stops_at_a_gap(store):
    for start, stop in ((0, 5), (5, 10), (15, 20)):
        store.write_part(KEY, start, columns(start, stop), {})
    store.join(KEY, 10)
    assert store.spans(KEY) == [(0, 10), (15, 20)]
    assert store.read(KEY, 20).table["position"].to_pylist() == [*range(10), *range(15, 20)]


def test_pyarrow_alone_reads_a_part(store, tmp_path):
    store.write_part(KEY, 0, columns(0, 8), {})
    pattern = tmp_path / "store" / "cells" / "*" / "*" / "*.parquet"
    rows = duckdb.sql(f"select count(*), sum(correct::int), max(margin) from '{pattern}'").fetchall()
    assert rows == [(8, 4, 7.0)]


def test_failures_are_recorded_and_resolved(store):
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
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 3}))
    message = r"has schema 3, but this version of robharness reads schema 2\. Try: pip install -U robharness"
    with pytest.raises(StoreError, match=message):
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
    assert str(path) in note and note.endswith("the next run of the suite computes it again")
    store.write_part(KEY, 0, columns(0, 4), {"rows": 4})
    assert store.read(KEY, 8).positions.tolist() == list(range(8))


def test_every_flipped_bit_is_detected(store):
    store.write_part(KEY, 0, columns(0, 4), {})
    path = part(store)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(flipped(content, place))
        assert store.read(KEY, 4).positions.tolist() == []
        store = Store(store.root)
    path.write_bytes(content)
    assert Store(store.root).read(KEY, 4).positions.tolist() == [0, 1, 2, 3]


def test_pages_of_parts_have_checksums_and_footers_no_statistics(store):
    """A change that fits the checksum of the name shows. By damaged statistics, pyarrow would end the process."""
    store.write_part(KEY, 0, columns(0, 8), {})
    path = part(store)
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = [group.column(at) for at in range(group.num_columns)]
    assert not any(chunk.is_stats_set for chunk in chunks)
    [chunk] = [chunk for chunk in chunks if chunk.path_in_schema == "margin"]
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size - 1] ^= 1
    place = path.with_name(Part(0, 8, checksum(bytes(content))).name)
    path.unlink()
    place.write_bytes(content)
    assert store.read(KEY, 8).table.num_rows == 0
    assert any(finding.code == "part-damaged" for finding in store.findings)


def test_a_run_checks_parts_before_it_relies_on_their_names(store):
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


@pytest.mark.parametrize("place", [0, 1])
def test_a_column_of_two_names_is_damage(store, place):
    """The file names it in its schema and beside its values; else a note with such a name would be absent unnoticed."""
    store.write_part(KEY, 0, {**columns(0, 4), "dead": np.zeros(4, bool)}, {})
    path = part(store)
    names = path.read_bytes().split(b"dead")
    assert len(names) == 3
    changed = b"dead".join(names[: place + 1]) + b"deaf" + b"dead".join(names[place + 1 :])
    renamed = path.with_name(Part(0, 4, checksum(changed)).name)
    path.unlink()
    renamed.write_bytes(changed)
    assert store.read(KEY, 4, ["example", "dead"]).positions.tolist() == []
    assert "has another name beside its values" in store.notes[0]


def test_old_temporary_files_of_killed_writers_are_removed(store):
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
def test_uncovered_spans(covered, span, gaps):
    assert uncovered(covered, span) == gaps


class FailingSync(FileSystem):
    """A file system whose fsync fails with this error."""

    def __init__(self, code):
        super().__init__()
        self.code = code

    def fsync(self, descriptor):
        raise OSError(self.code, os.strerror(self.code))


def test_incomplete_files_are_never_visible(store):
    store.write_part(KEY, 0, columns(0, 4), {})
    before, content = part(store), part(store).read_bytes()
    store = Store(store.root, FailingSync(errno.ENOSPC))
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        store.write_part(KEY, 4, columns(4, 8), {})
    assert os.listdir(store.folder(KEY)) == [before.name]
    assert before.read_bytes() == content


def test_the_order_of_writing_survives_a_power_cut(store):
    """File to disk, then its name, then the folder to disk."""
    done = []

    class Recording(FileSystem):
        def fsync(self, descriptor):
            done.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
            super().fsync(descriptor)

        def rename(self, source, target):
            done.append("rename")
            super().rename(source, target)

    Store(store.root, Recording()).write_part(KEY, 0, columns(0, 4), {})
    assert done == ["fsync file", "rename", "fsync folder"]


def test_every_write_goes_through_the_file_system_class():
    """Failures that tests inject reach every write of a store and of its artefacts."""
    calls = r"\.(write_text|write_bytes|rename|replace|unlink|rmdir|symlink_to)\((?!\"|')|\bos\.(replace|rename|fsync)"
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for folder in ("store", "training")
        for path in sorted((Path(robharness.__file__).parent / folder).glob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if path.name != "files.py" and re.search(calls, line) and ".files." not in line and "_files." not in line
    ]
    assert found == []


def test_forgetting_deletes_everything_of_a_cell(store):
    store.describe(cell())
    store.write_part(KEY, 0, columns(0, 4), {})
    store.write_failure(KEY, Failure(start=4, stop=8, blame="x", error="y"))
    store.forget(KEY)
    assert store.missing(KEY, 4) == [(0, 4)]
    assert store.failures(KEY) == []
    assert store.description(KEY) is None


def test_reading_creates_nothing(store):
    assert store.spans(KEY) == []
    assert store.failures(KEY) == []
    assert store.provenance(KEY) == []
    assert not store.root.exists()


def test_a_failure_resolved_in_several_parts_is_removed(store):
    store.write_part(KEY, 0, columns(0, 4), {})
    store.write_failure(KEY, Failure(start=0, stop=8, blame="x", error="y"))
    assert len(store.failures(KEY)) == 1
    store.write_part(KEY, 4, columns(4, 8), {})
    assert store.failures(KEY) == []


@pytest.mark.parametrize("read", ["read", "provenance"])
def test_a_reader_retries_when_another_run_joins_the_parts(store, read):
    store.write_part(KEY, 0, columns(0, 4), {})
    store.write_part(KEY, 4, columns(4, 8), {})
    tries = []

    class JoinedMeanwhile(FileSystem):
        def read(self, path, most=None):
            tries.append(path.name)
            Store(store.root).join(KEY, 8)
            return super().read(path, most)

    reader = Store(store.root, JoinedMeanwhile())
    if read == "read":
        assert reader.read(KEY, 8).table["position"].to_pylist() == list(range(8))
    else:
        assert reader.provenance(KEY) == [{}]
    assert [name[:11] for name in tries] == ["00000-00004", "00000-00008"]


def test_parts_that_keep_disappearing_are_an_error(store):
    store.write_part(KEY, 0, columns(0, 4), {})

    class Gone(FileSystem):
        def read(self, path, most=None):
            raise FileNotFoundError(path)

    with pytest.raises(StoreError, match=r"disappeared 5 times while they were read.* Try: ls -la "):
        Store(store.root, Gone()).read(KEY, 4)


@pytest.mark.parametrize(("code", "sentence"), [(errno.EIO, None), (errno.EACCES, "cannot be read: Permission denied")])
def test_damaged_and_unreadable_parts_are_told_apart(store, code, sentence):
    store.write_part(KEY, 0, columns(0, 4), {})

    class Failing(FileSystem):
        def read(self, path, most=None):
            raise OSError(code, os.strerror(code))

    reader = Store(store.root, Failing())
    if sentence:
        with pytest.raises(StoreError, match=sentence):
            reader.read(KEY, 4)
    else:
        assert reader.read(KEY, 4).positions.tolist() == []
        (note,) = reader.notes
        assert "is damaged (Input/output error)" in note


def test_a_part_is_named_by_its_positions_and_the_checksum_of_its_bytes(store):
    store.write_part(KEY, 99_998, columns(99_998, 100_003), {})
    store.write_part(KEY, 3, columns(3, 8), {})
    first, last = part(store, 0), part(store, 1)
    assert first.name == f"00003-00008.{zlib.crc32(first.read_bytes()):08x}.parquet"
    assert last.name == f"99998-100003.{zlib.crc32(last.read_bytes()):08x}.parquet"
    assert store.read(KEY, 100_001).positions.tolist() == [3, 4, 5, 6, 7, 99_998, 99_999, 100_000]


def test_overlapping_parts_give_the_rows_of_the_first(store):
    for start, stop, name in ((0, 4, "first"), (2, 8, "second"), (1, 3, "third")):
        store.write_part(KEY, start, columns(start, stop) | {"by": [name] * (stop - start)}, {"by": name})
    expected = ["first"] * 4 + ["second"] * 4
    assert store.read(KEY, 8).table["by"].to_pylist() == expected
    store.join(KEY, 8)
    assert store.spans(KEY) == [(0, 8)]
    assert store.read(KEY, 8).table["by"].to_pylist() == expected
    assert store.provenance(KEY) == [{"by": "first"}, {"by": "second"}]


def test_joining_keeps_a_part_that_has_all_outcomes(store):
    """The joined file has the bytes and the name of the part."""
    store.write_part(KEY, 0, columns(0, 8), {"rows": 4})
    before = part(store)
    store.write_part(KEY, 2, columns(2, 6), {"rows": 4})
    store.join(KEY, 8)
    assert [before] == [path for path in store.folder(KEY).iterdir() if path.suffix == ".parquet"]
    assert store.read(KEY, 8).positions.tolist() == list(range(8))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP], ids=errno.errorcode.get)
def test_a_file_system_without_fsync_is_noted_once(store, code):
    store = Store(store.root, FailingSync(code))
    for start in (0, 4):
        store.write_part(KEY, start, columns(start, start + 4), {})
    (note,) = store.notes
    assert note.startswith(f"the file system of the store {store.root} has no fsync: a power cut may damage")
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


def test_an_unreadable_store_is_reported(store):
    store.folder(KEY).parent.mkdir(parents=True)
    store.folder(KEY).write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot be read: Not a directory\. Try: ls -ld "):
        store.spans(KEY)


# --- how often parts are read ----------------------------------------------------------------------------------------


class CountingReads(FileSystem):
    """Counts how often each part is read, by its name."""

    def __init__(self):
        super().__init__()
        self.reads = Counter()

    def read(self, path, most=None):
        if path.suffix == ".parquet":
            self.reads[path.name] += 1
        return super().read(path, most)


def test_provenance_is_cached_until_the_parts_change(store):
    for start in (0, 4):
        store.write_part(KEY, start, columns(start, start + 4), {"rows": start})
    files = CountingReads()
    reader = Store(store.root, files)
    reader.verify(KEY, 8)
    for _ in range(3):
        assert reader.provenance(KEY) == [{"rows": 0}, {"rows": 4}]
    assert set(files.reads.values()) == {1}
    store.write_part(KEY, 8, columns(8, 12), {"rows": 8})
    for _ in range(3):
        assert reader.provenance(KEY) == [{"rows": 0}, {"rows": 4}, {"rows": 8}]
    assert set(files.reads.values()) == {1} and len(files.reads) == 3
    store.join(KEY, 12)
    assert reader.provenance(KEY) == [{"rows": 0}, {"rows": 4}, {"rows": 8}]
    store.forget(KEY)
    assert reader.provenance(KEY) == []


def test_the_provenance_of_a_new_part_equals_what_is_read_later(store):
    store.write_part(KEY, 0, columns(0, 4), {"exact": {"rows": None}, "pair": (1, 2), 3: "number"})
    assert store.provenance(KEY) == Store(store.root).provenance(KEY) == [
        {"exact": {"rows": None}, "pair": [1, 2], "3": "number"}
    ]  # fmt: skip


@pytest.mark.parametrize("computed", ["all", "half"])
def test_a_run_reads_each_part_once_to_check_it_and_once_for_its_outcomes(suite, toys, tmp_path, computed):
    shard = {"all": None, "half": (1, 2)}[computed]
    api.run(suite(), store=tmp_path, plugins=[toys], shard=shard)
    before = {path.name for path in tmp_path.rglob("*.parquet")}
    files = CountingReads()
    session = Session.open(suite(), store=tmp_path, plugins=[toys])
    session.store = Store(tmp_path, files)
    session.compute()
    assert session.results().is_complete
    after = {path.name for path in tmp_path.rglob("*.parquet")}
    if computed == "all":
        assert before == after
        assert dict(files.reads) == dict.fromkeys(before, 2)  # verify; results
    else:
        joined, new = after - before, set(files.reads) - before - after
        assert len(before) == len(joined) == len(new) == 4
        assert dict(files.reads) == {
            **dict.fromkeys(before, 2),  # verify; join
            **dict.fromkeys(new, 1),  # join
            **dict.fromkeys(joined, 1),  # results
        }


def test_a_folder_is_on_disk_before_its_name(tmp_path):
    """All files, then the folder, then its name, then the folder above; temporary copies are no artefacts."""
    done = []

    class Recording(FileSystem):
        def fsync(self, descriptor):
            done.append(os.readlink(f"/proc/self/fd/{descriptor}"))

        def rename(self, source, target):
            done.append("rename")
            super().rename(source, target)

    source, target = tmp_path / "unfinished", tmp_path / "trained"
    source.mkdir()
    (source / "weights").write_text("1")
    Recording().put_in_place(source, target)
    assert done == [str(source / "weights"), str(source), "rename", str(tmp_path)]
    assert (target / "weights").read_text() == "1"


def test_only_whole_artefacts_are_listed(store):
    kept = ArtefactStore(store)
    for name in ("0123", ".0123.5f.tmp", f"4567{UNFINISHED}"):
        (kept.root / name).mkdir(parents=True)
    assert kept.folders() == [kept.root / "0123"]
