"""A check as annotations of GitHub Actions: lines of output that its runner reads as commands.

Source: "Workflow commands for GitHub Actions" of GitHub's documentation; escapes as in actions/toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from robharness.gate.outputs.facts import errors_of, failed_of, sentence_of
from robharness.gate.records import BenchmarkCheck, CellCheck, CheckReport
from robharness.text import printable, sentence

Level = Literal["error", "warning", "notice"]
MOST = 10
"""The number of annotations of each level that GitHub shows for a step."""


def annotate(report: CheckReport) -> list[str]:
    """Return a line per annotation.

    Errors: cells and benchmarks that do not pass, regressed ones first, and all else that makes the exit code one of
    failure. Warnings: findings. Notices: improved cells. The last of more than ten of one level counts the others.
    """
    errors = [_of(report, "error", check) for check in failed_of(report)]
    errors += [_line(report, "error", subject, message) for subject, message in errors_of(report)]
    warnings = [
        _line(report, "warning", found.code, str(found)) for found in report.findings if found.severity == "warning"
    ]
    notices = [_of(report, "notice", check) for check in report.of("improved")]
    return [
        *_shown(report, "error", errors), *_shown(report, "warning", warnings), *_shown(report, "notice", notices)
    ]  # fmt: skip


def _of(report: CheckReport, level: Level, check: CellCheck | BenchmarkCheck) -> str:
    return _line(report, level, check.name, sentence_of(check))


def _line(report: CheckReport, level: Level, subject: str, message: str) -> str:
    title = escape_property(printable(f"{report.suite}: {subject}"))
    return f"::{level} title={title}::{escape_data(sentence(message))}"


def _shown(report: CheckReport, level: Level, lines: Sequence[str]) -> Iterable[str]:
    """Return the lines, or if there are too many, one less than are shown and one that counts the others."""
    if len(lines) <= MOST:
        return lines
    more = len(lines) - MOST + 1
    return [*lines[: MOST - 1], _line(report, level, f"{more} more", f"{more} more are in the summary of the job")]


def escape_data(text: str) -> str:
    """Return a message of an annotation with escapes for what ends it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Return a property of an annotation, such as its title, with escapes for what ends it."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")
