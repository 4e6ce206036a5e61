"""Checks as JUnit XML: valid for two schemas that CI systems read, and read back by two readers."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import junitparser
import pytest
from lxml import etree

from hostile_text import TEXTS, check
from robharness.comparison.baseline import BaselineUpdate
from robharness.errors import ExitCode
from robharness.findings import finding
from robharness.gate.outputs import junit
from robharness.gate.records import VERDICTS, BenchmarkCheck
from robharness.statistics import Interval
from synthetic_checks import checked

SCHEMAS = {path.stem: etree.XMLSchema(file=path) for path in (Path(__file__).parent / "schemas").glob("*.xsd")}
TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVERY = {("Net", "clean"): "passed"} | {("Net", f"climb({name})"): name for name in VERDICTS}
BENCHMARKS = (
    BenchmarkCheck(name="run / passes", verdict="regressed", reason="it is slower", before=1.05,
                   spread_before=Interval(1.0, 1.1), after=2.0, spread_after=Interval(1.9, 2.1)),
    BenchmarkCheck(name="import", verdict="passed", before=1.0, after=1.0),
)  # fmt: skip
REPORTS = {
    "every verdict": checked(EVERY),
    "two models": checked({(model, name): "passed" for model in ("A", "B v1.5") for name in ("clean", "fgsm")}),
    "benchmarks": checked({}, benchmarks=BENCHMARKS),
    "finding": checked({("Net", "clean"): "passed"}, findings=(finding("clean-accuracy-too-low", "10 %"),)),
    "empty": checked({}),
}


def validate(text):
    """Return the parsed XML, valid for every schema."""
    document = etree.fromstring(text.encode())
    assert len(SCHEMAS) == 2
    for name, schema in SCHEMAS.items():
        assert schema.validate(document), (name, schema.error_log)
    return document


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_it_is_valid(report):
    validate(junit.render(report, TIME))


def test_the_schemas_refuse_other_files():
    text = junit.render(REPORTS["every verdict"], TIME)
    for wrong in (text.replace('tests="', 'test="'), text.replace("<failure", "<fallure").replace("/fail", "/fall")):
        assert not any(schema.validate(etree.fromstring(wrong.encode())) for schema in SCHEMAS.values())


def test_a_reader_of_ci_systems_finds_verdicts_and_numbers():
    text = junit.render(REPORTS["every verdict"], TIME)
    [suite] = junitparser.JUnitXml.fromstring(text.encode())
    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == ("Net", 8, 1, 3, 0)
    assert suite.timestamp == "2026-01-02T03:04:05"
    properties = {each.name: each.value for each in suite.properties()}
    assert (properties["n"], properties["tolerance"], properties["alpha"]) == ("2000", "0.5 points", "0.01")
    cases = {case.name: case for case in suite}
    assert {name: [type(each).__name__ for each in case.result] for name, case in cases.items() if case.result} == {
        "climb(regressed)": ["Failure"],
        "climb(missing)": ["Error"],
        "climb(failed)": ["Error"],
        "climb(incompatible)": ["Error"],
    }
    assert {(case.classname, case.time) for case in suite} == {("toys.Net", 0)}
    [failure] = cases["climb(regressed)"].result
    assert failure.type == "regressed"
    assert failure.message == "its accuracy fell by 30.00 points, from 60.00 % to 30.00 %"
    assert "before: 60.00 %\nafter: 30.00 %\ndifference: -30.00 [" in failure.text
    assert failure.text.endswith("to accept: robharness check toys.yaml --baseline base.json --update")
    [output] = (each.text for each in ElementTree.fromstring(text).iter("system-out"))
    assert "\nclimb(improved): improved; n: 2000; before: 60.00 %; after: 90.00 %; difference: +30.00 [" in output


def test_a_suite_per_model_and_names_that_are_unique():
    suites = list(junitparser.JUnitXml.fromstring(junit.render(REPORTS["two models"], TIME).encode()))
    assert [(suite.name, suite.tests) for suite in suites] == [("A", 2), ("B v1.5", 2)]
    names = [(case.classname, case.name) for suite in suites for case in suite]
    assert len(set(names)) == 4


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_cases_fail_if_and_only_if_the_exit_code_does(report):
    root = ElementTree.fromstring(junit.render(report, TIME))
    assert bool(root.findall(".//failure") or root.findall(".//error")) == (report.exit_code != ExitCode.FINE)


def test_a_failed_cell_is_told_once():
    report = checked({("Net", "clean"): "failed"}, findings=(finding("cell-failed", "why", subject="Net · clean"),))
    assert len(ElementTree.fromstring(junit.render(report, TIME)).findall(".//error")) == 1


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_foreign_text_is_shown(text):
    """XML 1.0 has no control characters, and lone surrogates cannot be encoded."""
    report = checked({(text, text): "regressed", (text, "clean"): "missing"}, suite=text, baseline=text, accept=text,
                     findings=(finding("metric-failed", text, subject=text),))  # fmt: skip
    document = validate(junit.render(report, TIME))
    for element in document.iter():
        for value in (element.text, *element.attrib.values()):
            check(value or "", is_data=True)
    assert document.find(".//failure") is not None


def test_white_space_around_names_is_no_fault():
    validate(junit.render(checked({("", ""): "passed", (" a ", "\n"): "failed"}, suite=""), TIME))


def test_what_a_new_baseline_accepts_is_no_failure():
    written = replace(REPORTS["every verdict"], update=BaselineUpdate(path="base.json", is_written=True))
    assert not re.search("<(failure|error)", junit.render(written, TIME))
    refused = replace(written, update=BaselineUpdate(path="base.json", refused="1 cell is incomplete"))
    assert "base.json was not written: 1 cell is incomplete" in junit.render(refused, TIME)
