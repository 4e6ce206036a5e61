"""A check as JUnit XML, which CI systems show as test results.

Valid against the schemas of Jenkins' xUnit plugin and of Apache Ant's JUnit task, which together are what CI systems
read. Therefore test cases have neither properties nor output of their own: numbers of cells that pass are in the output
of their suite.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from xml.etree import ElementTree

from robharness.gate.outputs.facts import errors_of, facts_of, facts_of_check, failed_of
from robharness.gate.records import BenchmarkCheck, CellCheck, CheckReport
from robharness.text import COMMAND_LENGTH, TITLE_LENGTH, printable, sentence

BENCHMARKS, WHOLE = "benchmarks", "suite"
"""The names of the test suites of benchmarks, and of errors that belong to no cell."""


@dataclass(frozen=True)
class _Case:
    """A test case. outcome: the element that says why it did not pass; None if it passed. lines: its numbers."""

    name: str
    verdict: str
    reason: str
    outcome: Literal["failure", "error"] | None
    lines: Sequence[str] = ()


def render(report: CheckReport, time: datetime | None = None) -> str:
    """Return a check as XML: a test suite per model and a test case per cell.

    A regressed cell is a failure. A missing, failed or incompatible cell is an error, and so is all else that makes
    the exit code one of failure. Times are 0, because outcomes may be stored, and cells share passes.
    time: of the check; by default now.
    """
    stamp = (time or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    root = ElementTree.Element("testsuites")
    for number, (name, cases) in enumerate(_suites(report)):
        root.append(_suite(report, name, cases, number, stamp))
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _suites(report: CheckReport) -> Iterable[tuple[str, list[_Case]]]:
    """Yield the test suites with their test cases: models, benchmarks, and errors that belong to no cell."""
    failed = {id(check) for check in failed_of(report)}
    for model in dict.fromkeys(cell.model for cell in report.cells):
        cells = [cell for cell in report.cells if cell.model == model]
        yield model, [_case(cell.perturbation, cell, id(cell) in failed) for cell in cells]
    if report.benchmarks:
        yield BENCHMARKS, [_case(each.name, each, id(each) in failed) for each in report.benchmarks]
    if errors := errors_of(report):
        yield WHOLE, [_Case(subject, "error", reason, "error") for subject, reason in errors]


def _case(name: str, check: CellCheck | BenchmarkCheck, is_failed: bool) -> _Case:
    outcome: Literal["failure", "error"] = "failure" if check.verdict == "regressed" else "error"
    return _Case(
        name=name,
        verdict=check.verdict,
        reason=check.reason or check.verdict,
        outcome=outcome if is_failed else None,
        lines=[f"{name}: {text}" for name, text in facts_of(check)],
    )


def _suite(report: CheckReport, name: str, cases: Sequence[_Case], number: int, stamp: str) -> ElementTree.Element:
    shown, suite = printable(name) or "-", printable(report.suite) or "-"
    element = ElementTree.Element(
        "testsuite", id=str(number), package=suite, name=shown, timestamp=stamp,
        hostname=printable(platform.node()) or "localhost", tests=str(len(cases)),
        failures=str(sum(case.outcome == "failure" for case in cases)),
        errors=str(sum(case.outcome == "error" for case in cases)), skipped="0", time="0",
    )  # fmt: skip
    properties = ElementTree.SubElement(element, "properties")
    for fact, text in facts_of_check(report):
        ElementTree.SubElement(properties, "property", name=fact, value=text)
    for case in cases:
        title = printable(case.name, TITLE_LENGTH)
        test = ElementTree.SubElement(element, "testcase", name=title, classname=f"{suite}.{shown}", time="0")
        if case.outcome:
            failed = ElementTree.SubElement(test, case.outcome, type=case.verdict, message=sentence(case.reason))
            failed.text = "\n".join([sentence(case.reason), *case.lines, *_accept(report, case)])
    out = ElementTree.SubElement(element, "system-out")
    out.text = "\n".join(
        f"{printable(case.name, TITLE_LENGTH)}: {case.verdict}{''.join(f'; {line}' for line in case.lines)}"
        for case in cases
    )
    ElementTree.SubElement(element, "system-err")
    return element


def _accept(report: CheckReport, case: _Case) -> list[str]:
    """Return the line with the command that accepts a fall, if this case fell."""
    is_shown = case.outcome == "failure" and report.accept
    return [f"to accept: {printable(report.accept, COMMAND_LENGTH)}"] if is_shown else []
