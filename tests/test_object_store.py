"""Stores in an object store: faults on the way, the number of requests, kills, and results as in a folder."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from obstore.store import LocalStore

from robharness import api
from robharness.engine.listeners import Silent
from robharness.engine.run import run_plan
from robharness.engine.units import next_unit
from robharness.errors import StoreError, UserError
from robharness.locations import ObjectPath, local_folder, location
from robharness.planning.files import LARGEST_RECORD
from robharness.planning.outline_files import parse
from robharness.store import Store, objects
from robharness.store.merge import merge

KEY = "abcdef0123456789abcdef01"
COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size", "attacked")


def columns(start, stop):
    positions = np.arange(start, stop)
    return {"example": [f"e{i}" for i in positions], "correct": positions % 2 == 0}


def outcomes(results):
    """{(label, perturbation): its outcomes, bit by bit}."""
    return {
        (each.cell.model.label, each.cell.short_name): [each.columns[name].tobytes() for name in COLUMNS]
        for each in results.cells
        if each.is_complete
    }


def strengths(number):
    """An attack with so many budgets."""
    return [{"attack": "toys/sign", "eps": [f"{i}/255" for i in range(1, number + 1)]}]


def another_machine(tmp_path):
    """Remove the copies of objects on this machine."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


# --- faults on the way ------------------------------------------------------------------------------------------------


class Faults:
    """Breaks the first requests of some kinds.

    kinds: of the requests.
    what: the fault; see `object_server.Proxy`.
    number: of the requests of each object that are broken.
    """

    def __init__(self, what, kinds, number=1):
        self.what, self.kinds, self.number, self.seen = what, kinds, number, Counter()

    def __call__(self, request):
        mark = request.kind, request.key
        if request.kind in self.kinds and self.seen[mark] < self.number:
            self.seen[mark] += 1
            return self.what
        return None


ALL = ("get", "create", "put", "list", "delete", "copy")


@pytest.mark.parametrize(
    "faults",
    [
        Faults("lost", ALL),
        Faults("lost", ["create"], 3),
        Faults("repeated", ALL, 10**9),
        Faults(503, ALL),
        None,
    ],
    ids=["every answer lost once", "three answers lost", "everything twice", "busy", "none"],
)
def test_a_store_is_the_same_whatever_happens_to_requests(s3, faults, tmp_path):
    """All that a run, a join, a repair and a merge do."""
    s3.fault = faults
    store = Store(location(s3.url))
    for start in range(0, 40, 10):
        store.write_part(KEY, start, columns(start, start + 10), {"from": start})
    store.write_json(store.new_run(), {"workers": 1})
    [first, *_] = store.parts(KEY)
    path = store.folder(KEY) / first.name
    store.files.write(path, b"damaged")
    another_machine(tmp_path)
    assert store.verify(KEY, 40).n == 30 and store.missing(KEY, 40) == [(0, 10)]
    store.write_part(KEY, 0, columns(0, 10), {"from": 0})
    store.join(KEY, 40)
    s3.fault = None
    [joined] = Store(location(s3.url)).parts(KEY)
    names = [f"cells/ab/{KEY}/{joined.name}", f"cells/ab/{KEY}/{first.name}.damaged"]
    assert sorted(name for name in store.files.sizes(store.root) if not name.startswith("runs")) == sorted(names)
    assert len(store.runs()) == 1
    rows = Store(location(s3.url)).read(KEY, 40)
    assert rows.table["example"].to_pylist() == [f"e{i}" for i in range(40)]
    assert [each["from"] for each in rows.provenance] == [0, 10, 20, 30]


def test_a_part_whose_put_never_arrives_is_absent_and_an_error(s3, monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE", objects.timedelta(seconds=0.5))
    s3.fault = Faults(503, ["create"], 10**9)
    store = Store(location(s3.url))
    store.spans(KEY)  # a server has answered
    with pytest.raises(StoreError, match=r"cannot be written: http://127.* answers '503 .*What is stored is intact"):
        store.write_part(KEY, 0, columns(0, 4), {})
    assert len(s3.requests) > 3 and Store(location(s3.url)).parts(KEY) == []
    s3.fault = None
    store.write_part(KEY, 0, columns(0, 4), {})
    assert store.spans(KEY) == [(0, 4)]


def test_an_object_that_exists_is_never_replaced_by_a_part(s3):
    """Not even by other bytes, which a part of this name cannot have."""
    files = Store(location(s3.url)).files
    path = ObjectPath(location(s3.url)) / "cells" / "x.parquet"
    files.create(path, b"first")
    files.create(path, b"second")
    assert files.read(path) == b"first" and s3.counts() == {"create": 2, "get": 1}


def test_what_is_gone_can_be_removed_from_a_server_that_refuses_that(tmp_path, monkeypatch):
    """Google's servers refuse it, and so does a folder that `obstore` uses."""
    store = Store(location(f"memory://{tmp_path.name}-refuses/store"))
    folder = LocalStore(tmp_path)
    monkeypatch.setattr(store.files._bucket, "_first", folder)
    monkeypatch.setattr(store.files._bucket, "_later", folder)
    store.forget(KEY)  # of which nothing is stored
    for start in (0, 8):
        store.write_part(KEY, start, columns(start, start + 8), {})
    paths = [store.folder(KEY) / name for name in store.names(store.folder(KEY))]
    store.files.remove([paths[0].with_name("absent"), paths[0]])
    store.files.unlink(paths[0])
    assert store.spans(KEY) == [(8, 16)]


def test_bytes_that_are_damaged_on_their_way_are_read_again(s3, tmp_path, monkeypatch):
    """And a copy on this machine that is damaged is not used; the object stays where it is."""
    store = Store(location(s3.url))
    store.write_part(KEY, 0, columns(0, 10), {})
    [copy] = (tmp_path / "cache").rglob("*.parquet")
    copy.write_bytes(copy.read_bytes()[:-1])
    read, tries = store.files.read, []

    def damaged_once(path, most=None):
        tries.append(path)
        return read(path, most)[: None if len(tries) > 1 else -1]

    store.files.read = damaged_once
    assert store.read(KEY, 10).table.num_rows == 10
    assert len(tries) == 2 and store.notes == []
    assert store.read(KEY, 10).table.num_rows == 10 and len(tries) == 2  # from the copy, which is right again


def test_a_slow_listing_of_several_pages_misses_nothing_that_was_there_before(s3, monkeypatch):
    """A writer adds and joins parts between the pages of a reader's listing."""
    store = Store(location(s3.url))
    paths = [
        store.root / "cells" / key[:2] / key / "cell.json" for key in (f"{i:024x}" for i in range(0, 1500 * 16, 16))
    ]
    store.map(lambda path: store.files.write(path, b"{}"), paths)
    for start in (0, 10, 20):
        store.write_part(KEY, start, columns(start, start + 10), {})
    s3.forget()
    between = threading.Event()

    def slowly(request):
        if request.kind == "list" and between.is_set():
            between.clear()
            writer = Store(location(s3.url))
            writer.write_part("0" * 24, 0, columns(0, 4), {})
            writer.join(KEY, 30)
        return 0.2 if request.kind == "list" else 0

    s3.delay = slowly
    between.set()
    reader = store.listed()
    assert s3.counts()["list"] >= 2
    assert (
        sum(len(reader.names(reader.root / "cells" / group)) for group in reader.names(reader.root / "cells")) == 1501
    )
    assert reader.read(KEY, 30).table["position"].to_pylist() == list(range(30))


# --- the number of requests ----------------------------------------------------------------------------------------


def test_a_part_costs_one_request_to_write_and_one_to_read(s3, tmp_path):
    store = Store(location(s3.url))
    for start in range(0, 40, 10):
        store.write_part(KEY, start, columns(start, start + 10), {})
    assert s3.counts() == {"create": 4}
    s3.forget()
    another_machine(tmp_path)
    reader = Store(location(s3.url)).listed()
    reader.read(KEY, 40)
    assert s3.counts() == {"list": 1, "get": 4}
    reader.read(KEY, 40, ["example"])  # from the copies
    assert s3.counts() == {"list": 1, "get": 4}
    s3.forget()
    reader.join(KEY, 40)
    assert s3.counts() == {"create": 1, "delete": 1}


def test_a_run_makes_two_requests_for_each_further_part_and_two_to_join_a_cell(s3, suite, toys, tmp_path):
    """One creates the part, one lists its cell; then all parts of a cell become one."""
    plan = api.plan(suite(attacks=strengths(3)), store=s3.url, plugins=[toys])
    counts = {}
    for size in (40, 8):
        s3.forget()

        def units(keys, missing, _, multiple, size=size):
            return next_unit(keys, missing, size)

        run_plan(plan, Store(location(f"{s3.url}/{size}")), Silent(), plan_unit=units)
        counts[size] = Counter(s3.counts())
        assert s3.counts(".parquet")["create"] == len(plan.cells) * (1 if size == 40 else 6)
    cells, further = len(plan.cells), len(plan.cells) * 4
    counts[8].subtract(counts[40])
    assert +counts[8] == {"create": further + cells, "list": further, "delete": cells, "put": 4}  # four units more


@pytest.mark.parametrize("cells", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_cells_from_far_away_are_read_at_once(s3, suite, toys, tmp_path, cells):
    """Rounds are requests of which each begins after the one before was answered."""
    models = [{"model": "toys/net", "label": "Net"}, {"model": "toys/net", "megabytes": 1, "label": "Big"}]
    eps = [f"{i}/25500" for i in range(1, cells // 2)]
    source = suite(models=models, attacks=[{"attack": "toys/sign", "eps": eps}])
    expected = api.run(source, store=tmp_path / "store", plugins=[toys], limit=8)
    merge(Store(location(s3.url)), Store(tmp_path / "store"))
    another_machine(tmp_path)
    s3.delay = 0.1
    s3.forget()
    found = api.load("toys", store=s3.url)
    assert outcomes(found) == outcomes(expected) and len(found.cells) == cells
    assert s3.counts("/cells/") == {"get": 3 * cells}  # a part, and its description twice
    assert s3.counts()["list"] <= 4 + cells // 200
    assert s3.rounds() <= 20 + cells // 10
    s3.forget()
    plan = api.plan(source, store=s3.url, plugins=[toys], limit=8)
    found.to_pandas()
    assert found.report().complete and s3.rounds() <= 4
    s3.forget()
    assert run_plan(plan, Store(location(s3.url)), Silent()).computed == 0
    assert s3.rounds() <= 20 + cells // 10


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_and_its_report_equal_those_of_a_folder(s3, suite, shell, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(suite()))
    there = shell("run", "s.json", "--store", s3.url)
    here = shell("run", "s.json", "--store", "here")
    assert (there.returncode, here.returncode) == (0, 0)
    assert there.stderr.splitlines()[-1].endswith(f"results in {s3.url}")
    assert there.stdout == here.stdout
    reports = [shell("report", "s.json", "--store", place, "--json").stdout for place in (s3.url, "here")]
    assert reports[0].replace(s3.url, "here").count("accuracy") == reports[1].count("accuracy") > 0
    for words in (["report", "toys"], ["report", "toys", "--intervals"], ["plan", "s.json"]):
        plugins = [] if words[1] == "toys" else None
        there, here = (shell(*words, "--store", place, plugins=plugins) for place in (s3.url, "here"))
        assert there.stdout == here.stdout != "", there.stderr
    results = [api.load("toys", store=place) for place in (s3.url, tmp_path / "here")]
    assert outcomes(results[0]) == outcomes(results[1])
    assert shell("run", "s.json", "--store", s3.url).stderr.splitlines()[-1].startswith("computed nothing again")
    fresh = shell("run", "s.json", "--store", s3.url, "--fresh", "*sign*")
    assert "computed 40 examples" in fresh.stderr
    assert shell("compare", s3.url, "here", plugins=[]).returncode == 0
    listed = shell("report", "--store", s3.url, plugins=[])
    assert "4 of 4" in listed.stdout
    assert not (tmp_path / "s3:").exists()


def test_workers_write_into_an_object_store(s3, suite, toys, tmp_path):
    source = suite(attacks=strengths(6))
    here = api.run(source, store=tmp_path / "here", plugins=[toys])
    there = api.run(source, store=s3.url, plugins=[toys], workers=2)
    assert outcomes(there) == outcomes(here)


def test_a_run_that_is_killed_goes_on(s3, suite, start_process, run_process, toys, tmp_path):
    """By SIGKILL at the third, then at the eighth part, each time just before the server has it."""
    (tmp_path / "s.json").write_text(json.dumps(suite(attacks=strengths(12))))
    words = ("run", "s.json", "-p", toys, "--store", s3.url, "--display", "none")
    for number in (3, 8):
        process, parts = start_process(*words, cwd=tmp_path), []

        def kill(request, process=process, parts=parts, number=number):
            if request.kind == "create" and "/cells/" in request.key:
                parts.append(request.key)
                if len(parts) == number:
                    process.send_signal(signal.SIGKILL)

        s3.fault = kill
        assert process.wait(120) == -signal.SIGKILL
    s3.fault = None
    s3.forget()
    done = run_process(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert s3.counts(".parquet")["create"] <= 13 - 8  # those before the kills are kept
    expected = api.run(suite(attacks=strengths(12)), store=tmp_path / "here", plugins=[toys])
    assert outcomes(api.load("toys", store=s3.url)) == outcomes(expected)
    store = Store(location(s3.url))
    assert all(len(store.names(store.folder(cell.cell.key))) == 2 for cell in expected.cells)


def test_two_runs_at_once_end_with_the_same_outcomes(s3, suite, start_process, toys, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(suite(attacks=strengths(5))))
    words = ("run", "s.json", "-p", toys, "--store", s3.url, "--display", "none")
    processes = [
        start_process(*words, cwd=tmp_path, environment={"ROBHARNESS_CACHE": tmp_path / name}) for name in "ab"
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    expected = api.run(suite(attacks=strengths(5)), store=tmp_path / "here", plugins=[toys])
    found = api.load("toys", store=s3.url)
    assert outcomes(found) == outcomes(expected) and not found.findings


def test_a_part_in_the_bucket_is_a_file_that_others_read(s3, suite, toys, tmp_path):
    api.run(suite(), store=s3.url, plugins=[toys])
    store = Store(location(s3.url))
    [name] = [name for name in store.files.sizes(store.root) if name.startswith("suites/")]
    assert parse(store.files.read(store.root / name), name.removeprefix("suites/").removesuffix(".json")).run.n == 40
    [part, *_] = [name for name in store.files.sizes(store.root) if name.endswith(".parquet")]
    store.files.download(store.root / part, tmp_path / "part.parquet")
    assert pq.read_table(tmp_path / "part.parquet").num_rows == 40


# --- what a user can do wrong ----------------------------------------------------------------------------------------

NO_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": None,
    "AWS_SECRET_ACCESS_KEY": None,
    "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",  # which on a machine of AWS has the credentials of its role
}


@pytest.mark.parametrize(
    ("place", "environment", "sentence"),
    [
        ("s3://absent/x", {}, "there is no bucket s3://absent. Try: aws s3 mb s3://absent --endpoint-url http://127"),
        (
            "s3://bucket/x",
            NO_CREDENTIALS,
            "no credentials are set (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY). Try: ex",
        ),
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": None}, "no credentials are set (AWS_ACCESS_KEY_ID and"),
        (
            "s3://bucket/x",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "http://127.0.0.1:9 does not answer. Try: curl -I",
        ),
        (
            "s3://bucket/x",
            {"AWS_ENDPOINT_URL": "http://192.0.2.1"},
            "no encryption (https). Try: export AWS_ALLOW_HTTP",
        ),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "nonsense"}, "'nonsense', which is no address. Try: export AWS_"),
        ("s3://", {}, "'s3://' names no bucket and prefix. Try: --store s3://BUCKET/PREFIX"),
        ("s3://bucket/../x", {}, "names no bucket and prefix"),
        ("ftp://host/x", {}, "'ftp://host/x' is no place of results"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_sentence(
    s3, shell, suite, tmp_path, monkeypatch, place, environment, sentence
):
    (tmp_path / "s.json").write_text(json.dumps(suite()))
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    for words in ("run s.json", "report s.json", "plan s.json", "report toys", "list artefacts"):
        done = shell(*words.split(), "--store", place)
        errors = [line for line in done.stderr.splitlines() if line.startswith("robharness: ")]
        assert done.returncode == 2 and sentence in errors[0] and len(errors) == 1, (words, done.stderr)
        assert "Traceback" not in done.stderr


def test_refused_credentials_are_one_sentence(s3, shell):
    s3.fault = lambda request: 403
    done = shell("report", "--store", s3.url, plugins=[])
    assert done.returncode == 2 and f"the credentials have no right to {s3.url}" in done.stderr


def test_without_the_library_the_extra_is_named(s3, shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    objects._bucket.cache_clear()
    done = shell("report", "--store", s3.url, plugins=[])
    assert done.returncode == 2
    assert done.stderr.endswith("obstore is not installed. Try: pip install 'robharness[s3]'\n")


def test_a_forked_process_is_refused(s3):
    """The library's threads do not survive a fork, and it would wait for ever."""
    store = Store(location(s3.url))
    store.write_part(KEY, 0, columns(0, 4), {})
    receiver, sender = multiprocessing.Pipe()
    process = os.fork()
    if not process:
        try:
            sender.send(str(store.spans(KEY)))
        except UserError as error:
            sender.send(str(error))
        finally:
            os._exit(0)
    try:
        assert receiver.poll(20) and "opened before this process was forked" in receiver.recv()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def test_places_are_told_from_paths(tmp_path, monkeypatch):
    assert str(location("s3://b/p/") / "cells") == "s3://b/p/cells"
    assert location("s3:/b/p") == location("S3://b//p") == location("s3://b/p")  # as `pathlib` writes it
    assert str(location("s3://b/p").relative_to(location("s3://b"))) == "p"
    assert local_folder(location("s3://b/p")) != local_folder(location("s3://b/q"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    before = local_folder(location("s3://b/p"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    assert local_folder(location("s3://b/p")) != before  # another server has other objects
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert local_folder(location("s3://b/p")) == before  # the variable of S3 counts first
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    assert location("s3:/") == (tmp_path / "s3:").relative_to(tmp_path)
    assert location("s3-results") == (tmp_path / "s3-results").relative_to(tmp_path)


def test_a_record_that_is_too_large_is_named_with_a_command_of_its_server(s3):
    store = Store(location(s3.url))
    store.files.write(store.folder(KEY) / "cell.json", b" " * (LARGEST_RECORD + 1))
    with pytest.raises(StoreError, match=r"has more than 64 MiB. Try: aws s3 ls --recursive s3://\S+/$"):
        store.description(KEY)
