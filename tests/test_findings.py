"""Findings: their codes, where they are documented, and that a later report shows those of stored outcomes again."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from robharness import api
from robharness.engine.provenance import differences, pass_findings
from robharness.findings import CODES, Finding, finding, sentences
from robharness.report import build
from robharness.report.findings import cell_findings
from robharness.report.renderers.json import render

ROOT = Path(__file__).parents[1]


def test_every_code_is_documented_with_its_severity_and_meaning():
    page = (ROOT / "docs/reference/findings.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (error|warning|note) \| (.*?) \| .+ \|$", page, re.MULTILINE)
    assert {code: (severity, meaning) for code, severity, meaning in rows} == CODES
    assert [code for code, _, _ in rows] == list(CODES)


def test_every_code_is_used_and_no_other_one():
    source = "".join(path.read_text() for path in (ROOT / "robharness").rglob("*.py"))
    used = set(re.findall(r"""\bfinding\(\s*"([a-z0-9-]+)\"""", source))
    assert used == set(CODES)


def test_an_unknown_code_is_refused():
    with pytest.raises(KeyError):
        finding("no-such-code", "nothing")


def test_a_finding_reads_as_one_sentence():
    whole = finding("few-examples", "few", subject="Net", hint="use the intervals")
    assert str(whole) == "Net: few; use the intervals"
    assert str(finding("few-examples", "few")) == "few"
    assert whole.severity == "warning"
    assert sentences([whole, whole, finding("cell-failed", "x")], "warning") == ("Net: few; use the intervals",)


def test_the_json_has_findings_beside_their_sentences(suite, run):
    results = run(suite(models=[{"model": "toys/net", "label": "Net"}], canvas=8,
                        corruptions=[{"corruption": "toys/speckle", "severity": 1}],
                        attacks=[{"attack": "toys/rogue", "eps": "1/4", "how": "raises"}]))  # fmt: skip
    report = build(results)
    data = json.loads(render(report))
    found = [Finding(**each) for each in data["findings"]]
    assert found == list(report.findings)
    assert data["warnings"] == list(sentences(found, "warning"))
    assert data["problems"] == list(sentences(found, "error"))
    assert [each.code for each in found if each.severity == "error"] == ["cell-failed"]
    assert "no-reference" in [each.code for each in found]


def inexact(results):
    """The results as a device would store them whose logits depend on the neighbours in a pass."""
    cells = tuple(
        dataclasses.replace(
            result,
            provenance=tuple(
                entry | {"exact": entry["exact"] | {"rows": False, "gradients": None}} for entry in result.provenance
            ),
        )
        for result in results.cells
    )
    return dataclasses.replace(results, cells=cells)


def test_a_later_report_repeats_findings_of_inexact_passes(suite, run, tmp_path, teams):
    run(suite())
    later = api.load(suite(), store=tmp_path / "store", plugins=teams)
    assert "inexact-passes" not in [each.code for each in build(later).findings]
    [found] = [each for each in build(inexact(later)).findings if each.code == "inexact-passes"]
    assert found.subject == "Net"
    assert "logits depend on the neighbours in a pass" in found.message


@pytest.mark.parametrize(
    ("exact", "facts"),
    [
        ({}, []),
        ({"rows": True, "gradients": True, "grad_mode": True}, []),
        ({"rows": False, "gradients": True, "grad_mode": True}, ["logits depend on the neighbours in a pass"]),
        ({"rows": True, "gradients": False, "grad_mode": False}, ["gradients depend", "logits differ where gradients"]),
        ({"rows": True, "gradients": None, "grad_mode": False}, []),  # no cell takes gradients
    ],
)
def test_passes_are_inexact_only_as_far_as_cells_use_them(exact, facts):
    found = list(pass_findings("Net", {"exact": exact, "device": "cuda"}))
    assert len(found) == len(facts)
    for each, fact in zip(found, facts, strict=True):
        assert each.message.startswith(f"on this device (cuda) rounding makes its {fact}")


def test_provenance_differs_where_both_sides_have_a_value():
    before = {"device": "cpu", "threads": 1, "versions": {"torch": "2.6.0", "timm": "1.0"}, "old": 1}
    now = {"device": "cpu", "threads": 2, "versions": {"torch": "2.7.0"}, "new": 2}
    assert list(differences(before, now)) == [("threads", 1, 2), ("versions.torch", "2.6.0", "2.7.0")]


def test_a_later_report_repeats_findings_of_changed_code(suite, tmp_path, toys):
    """Installed plugins change under their name; a loose file would get other keys."""
    api.run(suite(), store=tmp_path, plugins=[toys])
    results = api.load(suite(), store=tmp_path, plugins=[toys])
    older = tuple(
        dataclasses.replace(
            result,
            provenance=tuple(
                entry | {"model_plugin": entry["model_plugin"] | {"source": "0123456789ab"}}
                for entry in result.provenance
            ),
        )
        for result in results.cells
    )
    codes = [each.code for each in build(dataclasses.replace(results, cells=older)).findings]
    assert codes.count("code-changed") == 1
    assert "code-changed" not in [each.code for each in build(results).findings]


def test_several_versions_of_a_library_are_reported(suite, run):
    results = run(suite())
    first, *others = results.cells
    old = {"versions": {"torch": "2.6.0"}}
    changed = dataclasses.replace(first, provenance=tuple(entry | old for entry in first.provenance))
    found = list(build(dataclasses.replace(results, cells=(changed, *others))).findings)
    [versions] = [each for each in found if each.code == "library-versions-differ"]
    assert re.search(r"torch 2\.6\.0 and |torch .* and 2\.6\.0", versions.message)


def test_a_cause_of_several_cells_is_one_finding_that_counts_the_others():
    failures = ["no such layer"]
    cells = [SimpleNamespace(cell=SimpleNamespace(name=name), failures=failures) for name in ("a", "b", "c")]
    results = SimpleNamespace(every=cells, invalid=(), perhaps_invalid=(), cells=())
    assert [each.subject for each in cell_findings(results)] == ["a and 2 more cells"]
    assert [
        each.subject
        for each in cell_findings(SimpleNamespace(every=cells[:1], invalid=(), perhaps_invalid=(), cells=()))
    ] == ["a"]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, "1 example of the data cannot be read and counts as wrong everywhere: 0"),
        (5, "5 examples of the data cannot be read and count as wrong everywhere: 0, 1, 2, 3, 4"),
        (7, "7 examples of the data cannot be read and count as wrong everywhere: 0, 1, 2, 3, 4 and 2 more"),
    ],
)
def test_broken_examples_are_named_up_to_five(count, message):
    clean = SimpleNamespace(cell=SimpleNamespace(kind="clean"), unreadable=[str(each) for each in range(count)],
                            provenance=[])  # fmt: skip
    plan = SimpleNamespace(command=lambda *words: " ".join(("robharness", *words)))
    [found] = cell_findings(
        SimpleNamespace(every=(), invalid=(), perhaps_invalid=(), cells=[clean, clean], outline=plan)
    )
    assert found.hint == "after mending the files: robharness run --fresh '*'"
    assert (found.code, found.message) == ("unreadable-examples", message)
