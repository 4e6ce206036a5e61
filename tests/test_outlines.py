"""Records of suites that somebody else wrote: each is read whole, or refused in one sentence."""

import copy
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from robharness import api
from robharness.planning.outline import PublicationOutline
from robharness.planning.outline_files import as_record, parse, stem_of
from robharness.planning.outlining import outline
from robharness.report import build
from robharness.report.renderers import markdown, terminal
from robharness.report.renderers.json import render
from robharness.store import Store
from robharness.store.merge import merge
from robharness.store.suites import record_suite

NAMES = {
    "html": "<script>alert(1)</script>",
    "terminal": "\x1b[31mred\x1b[0m\r\a",
    "direction": "\u202eright to left\u202c",
    "markdown": "[x](javascript:y) | `z` | **b**",
    "long": "x" * 10_000,
    "lines": "one\ntwo\u2028three",
    "command": "fine. Try: rm -rf ~",
}


@pytest.fixture(scope="module")
def record():
    """The content of the record of a suite that has every kind of cell."""
    plugins = [str(Path(__file__).parent / name) for name in ("toys.py", "teams.py")]
    source = {
        "robharness": 1,
        "name": "toys",
        "data": {"name": "toys/pixels", "split": "test"},
        "canvas": 8,
        "models": [{"model": "toys/net", "label": "Net", "reference": True}, {"model": "teams/net", "label": "Real"}],
        "attacks": [{"attack": "toys/climb", "eps": "1/8"}, {"attack": "teams/nearest"}],
        "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2]}],
        "metrics": ["teams/near", "toys/wrong"],
        "gain": {"Real": "Net"},
        "expected": [{"source": "a book", "Net": {"clean": 80.0}}, {"source": "a rerun", "Real": {"clean": 9.0}}],
    }
    planned = outline(api.plan(source, plugins=plugins))
    return json.loads(json.dumps(as_record(planned, datetime(2026, 1, 2, 3, tzinfo=UTC))))


def put(root, record, stem=None):
    """Write a record as somebody would who knows how its name is made."""
    folder = root / "suites"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem or stem_of(record)}.json"
    path.write_text(json.dumps(record))
    return path


def changed(record, place, value):
    """Return a copy with another value at a place such as "suite.models.0.label"; without it for `...`."""
    found = inner = copy.deepcopy(record)
    *folders, last = (int(word) if word.isdigit() else word for word in place.split("."))
    for name in folders:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return found


WRONG = {
    "schema": (2, "later version is needed"),
    "time": ("yesterday", "no time with a time zone"),
    "time ": ("2026-01-02", "no time with a time zone"),
    "suite.title": (3, "suite.title"),
    "suite.compat": ("none of these", "suite.compat"),
    "suite.data.size": (-1, "suite.data.size"),
    "suite.data.size ": (10**400, "suite.data.size"),
    "run.n": (41, "the data have 40 examples"),
    "run.n ": ("40", "run.n"),
    "run.n  ": (True, "run.n"),
    "run.plugins": ("x", "run.plugins"),
    "run.findings": ([{"code": "x", "severity": "fatal", "subject": "", "message": ""}], "run.findings"),
    "pixels": ([], "pixels"),
    "pixels.sides": ([8], "pixels.sides"),
    "suite.models": ({}, "suite.models"),
    "suite.models ": ([], "does not exist"),
    "suite.models.0.label": ("Real", "two of them have one label"),
    "suite.models.0.label ": ("\x1b[2J", "suite.models.0.label"),
    "suite.models.0.clean_at_least": (float("nan"), "suite.models.0.clean_at_least"),
    "suite.models.0.artefact": ("../../etc", "suite.models.0.artefact"),
    "suite.expected.0.numbers.Net.clean": (float("inf"), "suite.expected.0.numbers.Net.clean"),
    "suite.expected.0.source": (1, "suite.expected.0.source"),
    "suite.gain": ([], "suite.gain"),
    "suite.perturbations.0.eps": ("1/0", "suite.perturbations.0.eps"),
    "suite.perturbations.0.eps ": ("9" * 1000, "suite.perturbations.0.eps"),
    "suite.perturbations.0.norm": (7, "suite.perturbations.0.norm"),
    "suite.perturbations.0.severity": (1, "an attack has no severity"),
    "suite.perturbations.2.severity": (..., "an attack has no severity"),
    "suite.perturbations.0.columns": ({"found": "object"}, "suite.perturbations.0.columns"),
    "suite.perturbations.0.cost": ({"gradients": -1}, "suite.perturbations.0.cost"),
    "suite.cells.0.key": ("../../../secret", "suite.cells.0.key"),
    "suite.cells.0.key ": ("", "has no key"),
    "suite.cells.0.model": (2, "does not exist"),
    "suite.cells.0.model ": (-1, "suite.cells.0.model"),
    "suite.cells.1.perturbation": (4, "does not exist"),
    "suite.cells.0.perturbation": (0, "one model and one perturbation"),
    "suite.cells.0.with_features": (True, "one model and one perturbation"),
    "suite.cells.0": (None, "suite.cells.0"),
    "suite.pending_cells": ([{"key": "0" * 24, "model": 0}], "waits for a training has one"),
    "suite.metrics.0.needs": (["everything"], "suite.metrics.0.needs"),
    "suite": (..., "suite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_one_sentence(record, case, tmp_path, shell):
    value, sentence = WRONG[case]
    found = changed(record, case.strip(), value)
    if case == "suite.cells.0.perturbation":  # the clean cell of a model, made a second attack
        found["suite"]["cells"][0] = dict(found["suite"]["cells"][1])
    elif case == "suite.cells.0.with_features":
        found["suite"]["cells"].append(dict(found["suite"]["cells"][0]))
    path = put(tmp_path / "s", found, None if "suite" in found and "cells" in found["suite"] else "toys-0123456789ab")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse(path.read_bytes(), path.stem)
    assert sentence in str(caught.value)
    shown = shell("report", "toys", "--store", "s", plugins=[])
    assert shown.returncode == 2 and shown.stderr.count("\n") == 1 and shown.stdout == ""
    assert "suites/toys-" in shown.stderr and "cannot be read: " in shown.stderr


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "it is not JSON"),
    (b"[]", "it is no JSON object"),
    (b"{}", "it has no schema"),
    (b'{"schema": true}', "it has no schema"),
    (b"\xff\xfe", "it is not UTF-8"),
    (b'{"schema": 1, "schema": 1}', "has a key twice"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    (b'{"schema": 1, "time": "\\ud800"}', "one of its texts is not valid"),
    (b" " * (2**24 + 1), "it has more than 16 MiB"),
])  # fmt: skip
def test_a_file_that_is_no_record(tmp_path, shell, content, sentence):
    (tmp_path / "s" / "suites").mkdir(parents=True)
    (tmp_path / "s" / "suites" / "toys-0123456789ab.json").write_bytes(content)
    shown = shell("report", "toys", "--store", "s", plugins=[])
    assert shown.returncode == 2 and sentence in shown.stderr and shown.stderr.count("\n") == 1
    listed = shell("report", "--store", "s", "--json", plugins=[])
    assert listed.returncode == 3 and sentence in json.loads(listed.stdout)[0]["problem"]
    into = Store(tmp_path / "into")
    (tmp_path / "s" / "cells").mkdir()
    assert any(sentence in problem for problem in merge(into, Store(tmp_path / "s")).problems)
    assert not (tmp_path / "into" / "suites").exists()


def test_a_changed_content_is_not_that_of_its_name(record, tmp_path, shell):
    put(tmp_path / "s", changed(record, "suite.models.0.reference", False), stem_of(record))
    assert "its content is not that of its name" in shell("report", "toys", "--store", "s", plugins=[]).stderr


def test_what_is_no_file_is_named(record, tmp_path, shell):
    (tmp_path / "s" / "suites" / "toys-0123456789ab.json").mkdir(parents=True)
    (tmp_path / "s" / "suites" / "nothing.json").symlink_to("nowhere")
    put(tmp_path / "s", record)
    shown = shell("report", "--store", "s", plugins=[])
    assert shown.returncode == 3 and "it is a folder, not a file" in shown.stdout and "nothing" in shown.stdout
    report = shell("report", "toys", "--store", "s", plugins=[])  # the other record can be read
    assert report.returncode == 3 and "it is a folder, not a file" in report.stdout


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("place", [
    "suite.perturbations.0.name", "suite.perturbations.2.group", "suite.perturbations.0.title", "suite.data.name",
    "suite.expected.0.source", "suite.metrics.0.name", "run.path", "run.findings",
])  # fmt: skip
def test_hostile_names_are_only_shown(record, kind, place, tmp_path):
    text = NAMES[kind]
    value = [{"code": "x", "severity": "warning", "subject": text, "message": text}] if "findings" in place else text
    put(tmp_path, changed(record, place, value))
    report = build(api.load("toys", store=tmp_path))
    stream = io.StringIO()
    terminal.show(report, Console(file=stream, width=100))
    for shown in (stream.getvalue(), render(report), markdown.render(report)):
        assert not set("\x1b\r\a\u202e\u2028") & set(shown)
    assert "<script>" not in markdown.render(report)
    if "findings" in place:
        assert "Try: " not in str(report.findings[0])


def test_fields_of_later_versions_are_ignored(record, tmp_path):
    found = copy.deepcopy(record)
    found["suite"]["models"][0] |= {"planned": "x", "colour": "red"}
    found["later"] = {}
    path = put(tmp_path, found)
    file = parse(path.read_bytes(), path.stem)
    assert not hasattr(file.suite.models[0], "planned") and file.suite.models[0].label == "Net"


def test_a_record_is_read_as_it_was_written(record, tmp_path):
    path = put(tmp_path, record)
    file = parse(path.read_bytes(), path.stem)
    assert json.loads(json.dumps(as_record(file.outline(tmp_path), file.moment))) == record


def test_a_record_of_one_source_of_published_numbers_is_read_as_an_earlier_version_wrote_it(record, tmp_path):
    suite = copy.deepcopy(record["suite"])
    del suite["gain"]
    earlier = record | {"suite": suite | {"expected": {"Net": {"clean": 80.0}}, "expected_source": "a book"}}
    path = put(tmp_path, earlier)
    file = parse(path.read_bytes(), path.stem)
    assert file.suite.expected == (PublicationOutline(source="a book", numbers={"Net": {"clean": 80.0}}),)
    assert file.suite.gain is None
    report = build(api.load("toys", store=tmp_path))
    assert report.published_sources == ("a book",) and report.cells[0].published[0].value == 0.8


def test_the_order_and_the_place_of_plugins_do_not_change_the_digest(record):
    """Shards on machines with other folders write one record."""
    other = changed(record, "run.plugins", ["/elsewhere/toys.py"])
    other["run"]["origins"] = {"toys/net": "/elsewhere/toys.py"}
    assert stem_of(changed(other, "run.n", 3)) == stem_of(record)
    assert stem_of(changed(record, "suite.models.0.label", "Other")) != stem_of(record)


def test_merge_keeps_the_record_of_the_later_run(record, tmp_path):
    for name, hour in (("early", 1), ("late", 5)):
        put(tmp_path / name, changed(record, "time", f"2026-01-02T0{hour}:00:00+00:00"))
        (tmp_path / name / "cells").mkdir()
    assert merge(Store(tmp_path / "early"), Store(tmp_path / "late")).suites == 1
    assert merge(Store(tmp_path / "late"), Store(tmp_path / "early")).suites == 0
    for name in ("early", "late"):
        assert [each.file.moment.hour for each in api.stored(tmp_path / name)] == [5]


def test_a_record_that_cannot_be_written_stops_a_run_with_work_alone(suite, toys, tmp_path):
    planned = outline(api.plan(suite(), plugins=[toys]))
    store = Store(tmp_path / "s")
    record_suite(store, planned, is_computed=True)
    [path] = (tmp_path / "s" / "suites").iterdir()
    before = path.stat().st_mtime_ns
    record_suite(store, planned, is_computed=False)
    assert path.stat().st_mtime_ns == before
    path.write_text("{")
    record_suite(store, planned, is_computed=False)
    assert api.stored(tmp_path / "s")[0].file is not None
