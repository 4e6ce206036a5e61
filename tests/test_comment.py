"""A check as one comment: Markdown that GitHub shows as it is meant, within its limits."""

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from hostile_text import TEXTS, check
from robharness.comparison import comment
from robharness.comparison.records import VERDICTS, BaselineUpdate
from robharness.findings import finding
from synthetic_checks import checked

EVERY = checked({("Net", f"climb({name})"): name for name in VERDICTS})
TAGS = {
    "h1",
    "h2",
    "p",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "li",
    "sub",
    "br",
    "details",
    "summary",
    "pre",
    "code",
}
PAGE = MarkdownIt("commonmark", {"html": True}).enable("table")


def headings(text):
    return re.findall("<h.>(.*?)</h.>", PAGE.render(text))


def rows(text):
    """The first two columns of all rows of the tables, below their headers."""
    return re.findall(r"<tr>\n<td[^>]*>(.*?)</td>\n<td[^>]*>(.*?)</td>", PAGE.render(text))


def test_the_verdict_and_what_did_not_pass_come_first():
    text = comment.render(EVERY)
    assert text.startswith(f"{comment.marker(EVERY)}\n\n# Toys: check against base.json\n\nNot passed: 1 regressed")
    shown, folded = text.split("<details>")
    names = ["regressed", "improved", "missing", "failed", "incompatible"]
    assert rows(shown) == [(f"Net · climb({name})", name) for name in names]
    assert rows(folded) == [(f"Net · climb({name})", name) for name in ("passed", "new")]
    assert "<summary>Cells: 1 passed, 1 new</summary>" in folded
    command = "robharness check toys.yaml --baseline base.json --update"
    assert f"To accept the present results:\n\n```\n{command}\n```" in shown, "as a block that is copied whole"
    assert "1 of 7 cells regressed:\n\n- Net · climb(regressed): " in shown
    for verdict in ("passed", "new"):
        assert "```" not in comment.render(checked({("Net", "clean"): verdict}))
    assert "To make the improvement the baseline:\n\n```" in comment.render(checked({("Net", "clean"): "improved"}))
    for fact in ("2000 examples per cell", "more than 0.5 points", "level 0.01", "smallest fall"):
        assert fact in shown


def test_a_check_has_a_line_of_its_own_in_python():
    counts = ", ".join(f"1 {verdict}" for verdict in VERDICTS)
    assert repr(EVERY) == f"<CheckReport of toys against base.json: {counts}; exit code 1>"


def test_a_check_that_passes_says_so():
    text = comment.render(checked({("Net", "clean"): "passed"}))
    assert text.split("\n\n")[2] == "Passed."
    assert "Nothing regressed. The smallest fall that is found with a probability of 90 % is" in text
    assert rows(text.split("<details>")[0]) == []
    updated = replace(EVERY, update=BaselineUpdate(path="base.json", is_written=True))
    assert "Not passed" not in comment.render(updated)


@pytest.mark.parametrize("limit", [2_000, 10_000, comment.COMMENT_LENGTH])
def test_a_comment_keeps_its_limit(limit):
    report = checked(
        {("Net" * 60, f"fgsm({at:04})"): "regressed" if at % 2 else "passed" for at in range(400)},
        findings=tuple(finding("few-examples", f"slope {at}") for at in range(400)),
    )
    text = comment.render(report, limit)
    assert len(text) <= limit
    assert "Not passed: 200 regressed" in text
    [lines] = re.findall(r"each list and each table has its first (\d+) lines? alone", text)
    assert len(rows(text.split("<details>")[0])) == int(lines) if int(lines) else "<table>" not in PAGE.render(text)
    assert len(comment.render(report, 10**9)) > 2 * comment.COMMENT_LENGTH


def test_a_limit_in_bytes():
    report = checked({("模" * 100, f"fgsm({at})"): "regressed" for at in range(200)})
    text = comment.render(report, 50_000, lambda text: len(text.encode()))
    assert 20_000 < len(text.encode()) <= 50_000


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_foreign_text_is_only_shown(text):
    report = checked({(text, text): "regressed", ("Net", text): "passed"}, suite=text, title=text, baseline=text,
                     accept=text, findings=(finding("few-examples", text, subject=text),))  # fmt: skip
    written = comment.render(report)
    assert len(written) <= comment.COMMENT_LENGTH
    check(written, is_data=True)
    page = PAGE.render(written)
    shown = set(re.findall(r"<(\w+)", page))
    assert shown <= TAGS
    assert page.count("<details>") == page.count("</details>") == 1


@pytest.mark.parametrize("name", ["a-->b", "--", "a--b->", "-->", "é -", *TEXTS.values()])
def test_the_marker_is_a_line_that_is_not_shown(name):
    marker = comment.marker(checked({("Net", "clean"): "passed"}, suite=name))
    assert re.fullmatch(r"<!-- robharness check (?!.*--.*--)[\x21-\x7e ]* -->", marker)
    assert PAGE.render(f"{marker}\n\nx").strip() == f"{marker}\n<p>x</p>"


def test_markers_of_suites_differ():
    reports = [checked({("Net", "clean"): "passed"}, suite=name) for name in ("a", "b", "a--b", "a-%2Db", "a-b")]
    assert len({comment.marker(report) for report in reports}) == 5
