"""Annotations of GitHub Actions, read back as the runner reads lines of output."""

import re

import pytest

from hostile_text import TEXTS, check
from robharness.comparison import github
from robharness.comparison.records import VERDICTS
from robharness.findings import finding
from synthetic_checks import checked

LINE = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)")


def read(line):
    """Return level, title and message of a line, as the runner reads it: unescaped, % last."""
    level, title, message = LINE.fullmatch(line).groups()
    for name, value in (("%0D", "\r"), ("%0A", "\n")):
        title, message = title.replace(name, value), message.replace(name, value)
    title = title.replace("%3A", ":").replace("%2C", ",")
    return level, title.replace("%25", "%"), message.replace("%25", "%")


def test_a_line_per_verdict_and_finding():
    verdicts = {("Net", f"climb(linf, {name})"): name for name in sorted(VERDICTS)}
    report = checked(verdicts, findings=(finding("metric-failed", "why"), finding("few-examples", "n = 200")))
    found = [read(line) for line in github.annotate(report)]
    assert [(level, title) for level, title, _ in found] == [
        *(("error", f"toys: Net · climb(linf, {name})") for name in ("regressed", "missing", "failed", "incompatible")),
        ("error", "toys: metric-failed"),
        ("warning", "toys: few-examples"),
        ("notice", "toys: Net · climb(linf, improved)"),
    ]
    message = (
        "regressed: its accuracy fell by 30.00 points, from 60.00 % to 30.00 % (n 2000, changed -600 +0, p <0.0001"
    )
    assert found[0][2].startswith(f"{message}, smallest fall ")


def test_a_check_that_passes_has_no_annotations():
    assert github.annotate(checked({("Net", "clean"): "passed"})) == []


@pytest.mark.parametrize(("number", "shown", "more"), [(10, 10, 0), (11, 9, 2), (500, 9, 491)])
def test_the_last_of_too_many_counts_the_others(number, shown, more):
    report = checked({("Net", f"fgsm({at})"): "regressed" for at in range(number)})
    found = [read(line) for line in github.annotate(report)]
    assert [title for _, title, _ in found][:shown] == [f"toys: Net · fgsm({at})" for at in range(shown)]
    assert [(level, title) for level, title, _ in found[shown:]] == ([("error", f"toys: {more} more")] if more else [])


@pytest.mark.parametrize("text", [*TEXTS.values(), "%0A::error::x", "a,b:c%"])
def test_foreign_text_stays_in_its_line(text):
    report = checked({(text, text): "regressed", ("Net", text): "improved"}, suite=text,
                     findings=(finding("few-examples", text, subject=text),))  # fmt: skip
    lines = github.annotate(report)
    assert [read(line)[0] for line in lines] == ["error", "warning", "notice"]
    for line in lines:
        check(line)
        assert all(len(part) < 3000 for part in read(line))


def test_escapes_are_undone_exactly():
    text = "100%25: a,b\r\n::%3A"
    assert read(f"::error title={github.escape_property(text)}::{github.escape_data(text)}")[1:] == (text, text)
