"""The promises of a store, which a folder, objects in memory and a server of S3 keep alike.

A part is whole or absent, never changes, and is checked when it is read; several writers may write at once.
"""

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from robharness.errors import StoreError
from robharness.locations import location
from robharness.store import Failure, Store
from robharness.store.artefacts import ArtefactStore
from robharness.store.merge import merge

KEY, OTHER = "abcdef0123456789abcdef01", "bacdef0123456789abcdef01"
KINDS = ("folder", "memory", "s3")


def columns(start, stop, shift=0):
    positions = np.arange(start, stop)
    return {
        "example": [f"e{i}" for i in positions],
        "label": positions % 7,
        "prediction": (positions + shift) % 7,
        "correct": np.full(len(positions), shift % 7 == 0),
    }


@dataclass
class Place:
    """A place for stores of one kind.

    kind: one of KINDS.
    proxy: before the server of S3; None for the others.
    """

    kind: str
    folder: Any
    proxy: Any = None

    def __post_init__(self):
        names = {"folder": str(self.folder / "store"), "memory": f"memory://{uuid4().hex}/store"}
        self.root = names.get(self.kind) or f"{self.proxy.url}/store"

    def store(self, name="", **options):
        """Open the store, or another one of this name, as another process would: it shares no object of Python."""
        return Store(location(self.root + name), **options)

    def names(self, key=KEY):
        """The names of all files of a cell."""
        store = self.store()
        return store.names(store.folder(key))

    def damage(self, name, key=KEY):
        """Flip a bit of a file in the store, and remove the copies on this machine."""
        store = self.store()
        path = store.folder(key) / name
        content = bytearray(store.files.read(path))
        content[len(content) // 2] ^= 1
        store.files.unlink(path)
        store.files.write(path, bytes(content))


@pytest.fixture(params=KINDS)
def place(request, tmp_path, monkeypatch):
    if request.param == "s3":
        return Place("s3", tmp_path, request.getfixturevalue("s3"))
    monkeypatch.setenv("ROBHARNESS_CACHE", str(tmp_path / "cache"))
    return Place(request.param, tmp_path)


def test_parts_are_read_back_in_order_and_once(place):
    for start, stop in ((20, 30), (0, 12), (8, 20)):  # the last overlaps the second
        place.store().write_part(KEY, start, columns(start, stop), {"rows": 4})
        assert (start, stop) in place.store().spans(KEY)  # a listing has what was written
    table = place.store().read(KEY, 30).table
    assert table["position"].to_pylist() == list(range(30))
    assert table["example"].to_pylist() == [f"e{i}" for i in range(30)]
    assert place.store().missing(KEY, 35) == [(30, 35)]
    assert place.store().provenance(KEY) == [{"rows": 4}]
    assert place.store().cell_keys() == [KEY]


def test_an_empty_store_has_nothing_and_reading_makes_nothing(place):
    store = place.store()
    assert store.parts(KEY) == [] and store.cell_keys() == [] and store.runs() == [] and store.failures(KEY) == []
    assert store.read(KEY, 5).table.num_rows == 0 and store.description(KEY) is None
    store.verify(KEY, 5)
    store.join(KEY, 5)
    store.forget(KEY)
    assert place.names() == [] and not place.store().files.is_folder(store.root / "cells")


def test_a_part_that_is_written_again_stays_as_it_is(place):
    place.store().write_part(KEY, 0, columns(0, 8), {"rows": 4})
    [name] = place.names()
    store = place.store()
    before = store.files.read(store.folder(KEY) / name)
    place.store().write_part(KEY, 0, columns(0, 8), {"rows": 4})
    assert place.names() == [name] and store.files.read(store.folder(KEY) / name) == before
    place.store().write_part(KEY, 0, columns(0, 8, shift=1), {"rows": 4})  # other outcomes have another name
    assert len(place.names()) == 2 and store.files.read(store.folder(KEY) / name) == before


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_damaged_part_is_set_aside_and_counts_as_missing(place, is_listed):
    for start in (0, 8):
        place.store().write_part(KEY, start, columns(start, start + 8), {})
    first, second = place.names()
    place.damage(first)
    store = place.store()
    store = store.listed() if is_listed else store
    assert store.verify(KEY, 16).n == 8
    assert store.missing(KEY, 16) == place.store().missing(KEY, 16) == [(0, 8)]
    assert [found.code for found in store.findings] == ["part-damaged"]
    assert place.names() == sorted([f"{first}.damaged", second])
    store.write_part(KEY, 0, columns(0, 8), {})
    assert place.store().read(KEY, 16).table.num_rows == store.read(KEY, 16).table.num_rows == 16


def test_a_complete_cell_becomes_one_part(place):
    for start in range(0, 40, 8):
        place.store().write_part(KEY, start, columns(start, start + 8), {"from": start})
    before = place.store().read(KEY, 40)
    place.store().join(KEY, 41)  # which has a gap
    assert len(place.names()) == 5
    place.store().join(KEY, 40)
    [name] = place.names()
    assert name.startswith("00000-00040.")
    after = place.store().read(KEY, 40)
    assert after.table.equals(before.table) and after.provenance == before.provenance


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_reader_finds_what_another_run_joined_meanwhile(place, is_listed):
    for start in (0, 8):
        place.store().write_part(KEY, start, columns(start, start + 8), {})
    reader = place.store()
    reader = reader.listed() if is_listed else reader
    read_part, tries = reader.files.read_part, []

    def joined_meanwhile(path, checksum):
        if not tries:
            place.store().join(KEY, 16)
            for copy in (place.folder / "cache").rglob("*.parquet"):
                copy.unlink()
        tries.append(path.name)
        return read_part(path, checksum)

    reader.files.read_part = joined_meanwhile
    assert reader.read(KEY, 16).table["position"].to_pylist() == list(range(16))
    assert len(tries) == 2


def test_failures_descriptions_and_runs_are_kept(place):
    failure = Failure(start=0, stop=8, blame="toys", error="boom")
    described = SimpleNamespace(key=KEY, name="Net", identity={"a": 1})
    place.store().write_failure(KEY, failure)
    place.store().describe(described)
    store = place.store()
    for number in range(3):
        store.write_json(store.new_run(), {"number": number, "workers": 1})
    assert place.store().failures(KEY) == [failure]
    assert place.store().description(KEY)["identity"] == {"a": 1}
    assert [run["number"] for run in place.store().runs()] == [0, 1, 2]
    place.store().write_part(KEY, 0, columns(0, 8), {})
    assert place.store().failures(KEY) == []
    place.store().forget(KEY)
    assert place.names() == [] and place.store().cell_keys() == []


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_damaged_description_is_noted_and_an_absent_one_is_not(place, is_listed):
    writer = place.store()
    writer.write_part(KEY, 0, columns(0, 8), {})
    writer.files.write(writer.folder(OTHER) / "cell.json", b"no description")
    store = place.store().listed() if is_listed else place.store()
    for key in (KEY, OTHER):
        store.note_damaged_description(key)
    [found] = store.findings
    assert found.code == "record-damaged" and OTHER in str(found)


def test_one_listing_knows_the_changes_of_its_own_store(place):
    for key in (KEY, OTHER):
        place.store().write_part(key, 0, columns(0, 8), {})
    listed = place.store().listed()
    assert listed.cell_keys() == [KEY, OTHER]
    listed.write_part(KEY, 8, columns(8, 16), {})
    listed.write_part("c" * 24, 0, columns(0, 8), {})
    assert listed.spans(KEY) == [(0, 8), (8, 16)] and "c" * 24 in listed.cell_keys()
    listed.join(KEY, 16)
    listed.forget(OTHER)
    assert listed.spans(KEY) == [(0, 16)] and listed.spans(OTHER) == [] == place.store().spans(OTHER)


def test_a_store_that_is_opened_to_be_read_refuses_changes(place):
    place.store().write_part(KEY, 0, columns(0, 8), {})
    [name] = place.names()
    place.damage(name)
    reader = place.store(is_read_only=True).listed()
    assert reader.read(KEY, 8).table.num_rows == 0  # the damaged part is skipped, and left
    assert place.names() == [name]
    with pytest.raises(StoreError, match="cannot be written"):
        reader.write_part(KEY, 8, columns(8, 16), {})
    with pytest.raises(StoreError, match="cannot be written"):
        reader.forget(KEY)


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_store_contract import write_many
write_many(sys.argv[2], int(sys.argv[3]))
"""


def write_many(root, number):
    """Write overlapping parts of two cells, and join what is complete, as one of several writers at once."""
    store = Store(location(root))
    for start in range(0, 60, 6):
        for key in (KEY, OTHER):
            store.write_part(key, start, columns(start, start + 6 + number), {"writer": number})
        store.verify(KEY, 60)
        store.join(OTHER, 12)
    store.describe(SimpleNamespace(key=KEY, name="Net", identity={"a": 1}))


def test_two_writers_at_once_lose_and_damage_nothing(place):
    """In two processes, or in two threads for objects in memory. Both join the same parts."""
    if place.kind == "memory":
        writers = [threading.Thread(target=write_many, args=(place.root, number)) for number in (0, 1)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    else:
        words = [sys.executable, "-c", WRITER, str(__file__).rpartition("/")[0], place.root]
        writers = [subprocess.Popen([*words, str(number)]) for number in (0, 1)]
        assert [writer.wait(120) for writer in writers] == [0, 0]
    store = place.store()
    for key in (KEY, OTHER):
        rows = store.read(key, 61)
        assert rows.table["position"].to_pylist() == list(range(61))
        assert rows.table["example"].to_pylist() == [f"e{i}" for i in range(61)]
        assert {each["writer"] for each in rows.provenance} <= {0, 1}
    assert store.verify(KEY, 61).n == 61 and store.notes == []
    assert not any(name.endswith((".tmp", ".damaged")) for key in (KEY, OTHER) for name in place.names(key))
    assert place.store().description(KEY)["name"] == "Net"


def test_readers_never_see_half_a_part(place):
    """A reader lists and reads all the time while another writes and joins."""
    stop, seen, problems = threading.Event(), [], []

    def read():
        while not stop.is_set():
            reader = place.store().listed()
            spans = reader.spans(KEY)
            rows = reader.read(KEY, 400)
            seen.append(len(spans))
            found = rows.table["example"].to_pylist() if len(rows.positions) else []
            if reader.notes or found != [f"e{i}" for i in rows.positions]:
                problems.append((reader.notes, spans))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for start in range(0, 400, 20):
            place.store().write_part(KEY, start, columns(start, start + 20), {})
            if start % 100 == 80:
                place.store().join(KEY, start + 20)
            while len(seen) < start // 40 and reader.is_alive():  # a writer of folders is far faster
                time.sleep(0.001)
    finally:
        stop.set()
        reader.join()
    assert problems == [] and len(seen) >= 9
    assert place.store().read(KEY, 400).table.num_rows == 400


def artefact_in(folder, text):
    """Make a folder of trained weights by hand, and return it."""
    import hashlib
    import json

    from robharness.planning.identity import key_of

    spec = {"model": "toys/net", "seed": 1}
    made = folder / key_of(spec)
    made.mkdir(parents=True)
    (made / "recipe.json").write_text(json.dumps(spec))
    (made / "weights.safetensors").write_bytes(text)
    (made / "more").mkdir()
    (made / "more" / "log.txt").write_text("curve")
    (made / "provenance.json").write_text(json.dumps({"sha256": hashlib.sha256(text).hexdigest(), "label": "Net"}))
    return made


@pytest.mark.parametrize("into", KINDS)
def test_a_merge_copies_between_stores_of_all_kinds(place, into, request, tmp_path):
    theirs = place.store()
    for start in (0, 8):
        theirs.write_part(KEY, start, columns(start, start + 8), {"model_state": "x"})
    described = SimpleNamespace(key="", name="Net", identity={"a": 1})
    from robharness.planning.identity import key_of

    described.key = key_of(described.identity)
    theirs.write_part(described.key, 0, columns(0, 8), {"model_state": "x"})
    theirs.describe(described)
    theirs.write_json(theirs.new_run(), {"workers": 2})
    made = artefact_in(tmp_path / "made", b"weights")
    ArtefactStore(theirs).copy(made)
    target = Place(into, tmp_path, request.getfixturevalue("s3") if into == "s3" else None)
    target.root += "-into"
    ours = target.store()
    ours.write_part(described.key, 4, columns(4, 6), {"model_state": "x"})
    merged = merge(ours, place.store())
    assert [problem for problem in merged.problems if "cell.json" not in problem] == []
    assert (merged.copied, merged.cells, merged.artefacts, merged.common) == (1, 1, 1, 2)
    assert target.store().read(described.key, 8).table.equals(place.store().read(described.key, 8).table)
    assert target.store().runs() == place.store().runs() != []
    [copied] = ArtefactStore(target.store()).folders()
    assert {path.relative_to(copied): path.read_bytes() for path in copied.rglob("*") if path.is_file()} == {
        path.relative_to(made): path.read_bytes() for path in made.rglob("*") if path.is_file()
    }
    again = merge(target.store(), place.store())
    assert (again.copied, again.artefacts, again.present) == (0, 0, 1)


def test_a_merge_goes_on_although_an_artefact_is_there_without_a_record(tmp_path):
    theirs, ours = (Store(tmp_path / name) for name in ("theirs", "ours"))
    [made] = [artefact_in(store.root / "artefacts", b"weights") for store in (theirs, ours)][1:]
    (made / "provenance.json").write_text("{")
    theirs.write_part(KEY, 0, columns(0, 8), {})
    theirs.write_json(theirs.new_run(), {"workers": 2})
    merged = merge(ours, theirs)
    assert any("other weights of the same training" in problem for problem in merged.problems)
    assert merged.artefacts == 0 and ours.runs() == theirs.runs() != []
