"""Tables of text: every name and every number is there, whole, at any width, and can be read back."""

import io
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from robharness.findings import finding
from robharness.report.details import Published
from robharness.report.records import CellNumbers, Numbers, Report, WorstCase
from robharness.report.renderers import Layout, markdown, terminal
from robharness.report.renderers.blocks import table_lines
from robharness.report.renderers.formatting import format_value
from robharness.report.tables import tables
from robharness.report.values import Number, Row, Table, Value
from robharness.statistics import Interval, relative_drop_bounds, wilson_bounds
from work import assert_linear

WORDS = "abcdefghijXYZ0123456789-_ ./()=,:äß模型網é한"


def names(most):
    """Up to `most` distinct names of 1 to 60 characters, long ones as often as short ones, some characters wide."""
    texts = st.integers(1, 60).flatmap(lambda size: st.text(WORDS, min_size=size, max_size=size)).map(str.strip)
    return st.lists(texts.filter(bool), min_size=1, max_size=most, unique_by=joined)


def joined(text):
    """A name without the spaces at which it may have been broken."""
    return re.sub(r"\s", "", text)


def report_of(labels, perturbations, n=1000, *, sources=("a book", "a rerun")):
    """A report with other numbers in every cell."""
    count = len(labels) * (1 + len(perturbations))
    cells = []
    for at, (label, name) in enumerate((label, name) for label in labels for name in ["clean", *perturbations]):
        right = 1 + at * (n - 2) // count
        low, high = (float(end) for end in wilson_bounds(right, n, 1.96))
        numbers = Numbers(n=n, accuracy=right / n, interval=Interval(low, high))
        if name != "clean":
            drops = (float(end) for end in relative_drop_bounds(right, n - right, 0))
            numbers = replace(numbers, relative_drop=1 - right / n, relative_drop_interval=Interval(*drops))
        published = [
            Published(source=source, value=value + at / 1e4)
            for source, value, every in (("a book", 0.123, 3), ("a rerun", 0.234, 2))
            if at % every == 0 and source in sources
        ]
        cells.append(cell_of(label, name, numbers, published=tuple(published)))
    return empty_report(tuple(labels), tuple(cells), n, published_sources=tuple(sources))


def cell_of(label, name, numbers, **facts):
    is_clean = name == "clean"
    return CellNumbers(model=label, data="d", kind="clean" if is_clean else "attack", perturbation=name,
                       norm=None if is_clean else "linf", eps=None if is_clean else "1/8", severity=None, group=None,
                       numbers=numbers, complete=True, key="", **facts)  # fmt: skip


def empty_report(models, cells, n, **facts):
    return Report(
        suite="s", title="A title", data="d", n=n, compat="none", reference=None, count="all", complete=True,
        models=models, cells=cells, corruption_means=(), slopes=(), corruption_errors=(), gap=None, gaps_closed=(),
        gain=None, gains=(), gain_summaries=(), metrics={}, published_metrics={},
        **{"findings": (), "worst_cases": (), "published_sources": ()} | facts,
    )  # fmt: skip


def printed(report, width, layout, *, is_terminal=True):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=is_terminal, color_system=None, legacy_windows=False)
    terminal.show(report, console, layout)
    return file.getvalue()


def columns_of(line, spans):
    """The parts of a line between these columns of a terminal, where wide characters take two."""
    cells = "".join(c + "\0" * (cell_len(c) - 1) for c in line)
    return [cells[start:stop].replace("\0", "").strip() for start, stop in spans]


def read_back(text):
    """Read the tables of a text: {(name of the row, of the column, of the note or ""): entry}."""
    found, lines = {}, text.splitlines()
    for at, line in enumerate(lines):
        if not re.fullmatch(r"─+(?:  ─+)+", line):
            continue
        spans = [each.span() for each in re.finditer("─+", line)]
        top = max(index for index in range(at) if not lines[index]) + 1
        columns = ["".join(parts) for parts in zip(*(columns_of(head, spans) for head in lines[top:at]), strict=True)]
        rows = []  # [row, note, entries]
        for below in lines[at + 1 :]:
            name, *entries = columns_of(below, spans)
            if below.startswith("accuracy in %") or (below and not name):
                break  # the caption, or the headings of the next block
            if any(entries):
                is_note = below.startswith("  ")
                rows.append([rows[-1][0] if is_note else name, name if is_note else "", entries])
            elif below:
                assert below.startswith("  ")
                rows[-1][1 if rows[-1][1] else 0] += name
        for row, note, entries in rows:
            for column, entry in zip(columns[1:], entries, strict=True):
                if entry:
                    assert found.setdefault((joined(row), joined(column), joined(note)), entry) == entry
    return found


def check_entry(entry, numbers, *, intervals):
    """Compare an entry with a record's numbers."""
    drop = "" if numbers.relative_drop is None else f" ↓{math.floor(round(100 * numbers.relative_drop, 9) + 0.5)}%"
    plain = re.sub(r"\s*\[[^]]*\]", "", entry)
    assert " ".join(plain.split()) == f"{100 * numbers.accuracy:.2f}{drop}"
    ends = [float(end) for end in re.findall(r"(?<=\[|,)\s*-?[\d.]+", entry)]
    expected = [*numbers.interval, *(numbers.relative_drop_interval or ())] if intervals else []
    assert len(ends) == len(expected)
    for end, value, half in zip(ends, expected, (0.005, 0.005, 0.5, 0.5), strict=False):
        assert abs(end - 100 * value) <= half + 1e-9


@settings(max_examples=100, deadline=None)
@given(
    labels=names(20),
    perturbations=names(4).filter(lambda names: "clean" not in names),
    width=st.integers(60, 200),
    layout=st.builds(Layout, by=st.sampled_from(["perturbation", "model"]), intervals=st.booleans()),
    is_terminal=st.booleans(),
)
def test_every_number_can_be_read_back(labels, perturbations, width, layout, is_terminal):
    report = report_of(labels, perturbations)
    text = printed(report, width, layout, is_terminal=is_terminal)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= (width if is_terminal else max(width, terminal.FILE_WIDTH))
    assert all(line == line.rstrip() for line in lines)
    found = read_back(text)
    intervals = "leftout" not in joined(text)
    assert intervals or not layout.intervals
    for cell in report.cells:
        names_of_entry = [joined(cell.perturbation), joined(cell.model)]
        key = tuple(names_of_entry if layout.by == "perturbation" else names_of_entry[::-1])
        check_entry(found.pop((*key, "")), cell.numbers, intervals=intervals)
        for published in cell.published:
            difference = f"{100 * (cell.numbers.accuracy - published.value):+.2f}"
            name = f"published[{1 if published.source == 'a book' else 2}]"
            assert found.pop((*key, name)) == f"{100 * published.value:.2f} ({difference})"
    assert not found


def lines_of(table, width, **options):
    return [line for line, _ in table_lines(table, width, **options)[0]]


def test_a_terminal_shows_intervals_where_all_columns_have_room():
    report = report_of(["One", "Two", "Three"], ["fgsm(linf, 1/8)"], sources=())
    wide, narrow = (" ".join(printed(report, width, Layout()).split()) for width in (140, 80))
    assert "]" in wide and "left out" not in wide
    assert "]" not in narrow and "95 % intervals are left out" in narrow
    asked = printed(report, 80, Layout(intervals=True))
    assert asked.count("─\n") == 3 and "]" in asked and "left out" not in asked  # a block a column


def test_names_and_notes_wrap_below_the_first_line():
    values = (Value(number=0.5, digits=1, notes=(("published in a long book", Number(0.25, "percentage", 1)),)),)
    table = Table("T", ("", "supervised-resnet50-a"), (Row("pgd(linf, 1/16, steps=10, keep=last)", values),))
    assert lines_of(table, 42) == [
        "                               supervised-",
        "                                resnet50-a",
        "────────────────────────────  ────────────",
        "pgd(linf, 1/16, steps=10,             50.0",
        "  keep=last)",
        "  published in a long book            25.0",
    ]
    assert lines_of(table, 200)[0].strip() == "supervised-resnet50-a"


def test_a_note_that_all_rows_share_is_written_once():
    def value(number):
        return Value(number=number, digits=1, deviation=0.01, notes=((Number(3), "runs"),))

    rows = (Row("clean", (value(0.5), value(0.6))), None, Row("fgsm", (value(0.3), value(0.4))))
    lines = lines_of(Table("T", ("", "A", "B"), rows), 80)
    assert [line.split() for line in lines if "3" in line.split()] == [["runs", "3", "3"]]
    assert lines.index(next(line for line in lines if line.startswith("runs"))) == len(lines) - 1


def test_a_transposed_table_has_the_same_values():
    (table,) = tables(report_of(["One", "Two"], ["fgsm", "pgd"]))
    turned = table.transposed()
    assert turned.header == ("", "clean", "fgsm", "pgd") and [row.name for row in turned.rows] == ["One", "Two"]
    values = {(row.name, column): value for row in turned.rows
              for column, value in zip(turned.header[1:], row.values, strict=True)}  # fmt: skip
    for row in filter(None, table.rows):
        for column, value in zip(table.header[1:], row.values, strict=True):
            assert values[column, row.name] is value
    page = markdown.render(report_of(["One", "Two"], ["fgsm", "pgd"]), Layout(by="model"))
    assert "|  | clean | fgsm | pgd |" in page and "| One | " in page


def test_numbers_stand_below_numbers_and_notes_below_them():
    values = [Value(number=n, digits=1, drop=Value(number=d, kind="drop")) for n, d in ((0.05, 1.0), (0.5, 0.05))]
    values[1] = replace(values[1], notes=(("published", Number(0.512, "percentage", 1)),))
    rows = (Row("clean", (Value(number=1.0, digits=1),)), *(Row(f"r{n}", (v,)) for n, v in enumerate(values)))
    assert lines_of(Table("T", ("", "A"), rows), 80)[2:] == [
        "clean        100.0",
        "r0             5.0 ↓100%",
        "r1            50.0   ↓5%",
        "  published   51.2",
    ]


def test_hostile_names_stay_in_their_columns():
    """Long, right-to-left and escape characters; a report shows at most the first and the last characters."""
    names = ["x" * 200, "\u202eright\x1b[31m", "é" * 60, "模" * 100]
    text = printed(report_of(names, ["y" * 10_000]), 80, Layout())
    assert max(map(cell_len, text.splitlines())) <= 80 and "\x1b" not in text and "\u202e" not in text
    found = read_back(text)
    assert len(found) == 4 * 2 + sum(note.startswith("published[") for _, _, note in found)
    assert {column for _, column, _ in found} == {"x" * 200, "\\u202eright\\x1b[31m", "é" * 60, "模" * 100}


# --- worst cases, findings, answer ---------------------------------------------------------------------------------


def worst_case(report, model, eps, attacks, asked, numbers):
    return WorstCase(model=model, norm="linf", eps=eps, attacks=attacks, asked=asked, numbers=numbers)


@pytest.mark.parametrize(
    ("attacks", "asked", "same", "is_shown"),
    [(1, 1, True, False), (2, 2, True, False), (2, 2, False, True), (1, 2, True, True)],
    ids=["one-attack", "equal-to-one", "lower", "incomplete"],
)
def test_a_worst_case_that_repeats_an_attack_is_left_out(attacks, asked, same, is_shown):
    report = report_of(["A", "B"], ["fgsm(linf, 1/8)", "pgd(linf, 1/8)"])
    numbers = {cell.model: cell.numbers for cell in report.cells if cell.perturbation.startswith("pgd")}
    if not same:
        numbers["B"] = replace(numbers["B"], accuracy=0.001)
    cases = [worst_case(report, label, "1/8", attacks, asked, numbers[label]) for label in "AB"]
    text = printed(replace(report, worst_cases=tuple(cases)), 100, Layout())
    assert ("worst case linf ≤ 1/8" in text) == is_shown


def test_the_answer_is_first_and_findings_are_by_severity():
    findings = [finding("inexact-passes", "a note"), finding("few-examples", "a warning"), finding("cell-failed", "no")]
    report = replace(report_of(["A"], ["fgsm"]), answer=("In words.",), findings=tuple(findings))
    for text in (printed(report, 80, Layout()), markdown.render(report)):
        order = ["A title", "In words.", "Attacks", "Failed", "Warnings", "Notes"]
        assert [text.index(word) for word in order] == sorted(text.index(word) for word in order)


@pytest.mark.parametrize("large", [(20, 40), (10, 80)])
def test_twice_the_models_or_cells_take_twice_the_work(large):
    def show(counts):
        labels, names = (
            [f"{what}-{n}" for n in range(many)] for what, many in zip(["model", "fgsm"], counts, strict=True)
        )
        assert printed(report_of(labels, names), 120, Layout(intervals=True)).count("%") > counts[0] * counts[1]

    assert_linear(show, (10, 40), large)


def test_lines_of_a_value_remain_for_other_renderers():
    value = Value(number=0.5, details=(("quartiles", Number(1.0), "to", Number(2.0)),), notes=(("of", Number(3)),))
    assert format_value(value) == ("50", ("quartiles 1 to 2", "of 3"))
