"""One report with everything at once in every format: the same numbers, and nothing that is missing is hidden.

The suite has runs over seeds, budgets, an attack without one, severities, a reference, a gap, published numbers, a
robust count, a cell that fails, a model with a part of its examples, and a model without any.
"""

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from html import unescape
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from robharness import api
from robharness.report import build
from robharness.report.answer import answer
from robharness.report.details import Environment
from robharness.report.figures import figures
from robharness.report.renderers import csv as report_csv
from robharness.report.renderers import html, latex, markdown, parquet, terminal
from robharness.report.renderers import json as report_json
from robharness.report.renderers.base import Layout
from robharness.report.renderers.html.provenance import provenance
from robharness.report.tables import tables
from robharness.text import markdown as shown_in_markdown

HERE = Path(__file__).parent
PLUGINS = [str(HERE / name) for name in ("toys.py", "teams.py", "learner.py")]
SUITE = {
    "robharness": 1,
    "name": "everything",
    "data": {"name": "learner/shades", "split": "test"},
    "canvas": 8,
    "count": "robust",
    "models": [
        {"model": "learner/net", "label": "Base", "reference": True, "epochs": 3},
        {"model": "learner/net", "label": "Seeds", "epochs": 2, "seeds": 2},
        {"model": "learner/net", "label": "Better", "epochs": 4, "rate": 0.4},
        {"model": "learner/net", "label": "Pending", "epochs": 5},
    ],
    "gap": ["Base", "Better"],
    "gain": {"Better": "Base", "Seeds": "Better"},
    "attacks": [
        {"attack": "toys/climb", "eps": ["1/32", "1/8"]},
        {"attack": "toys/rogue", "eps": "1/4", "how": "raises"},
        {"attack": "teams/nearest"},
        {"attack": "teams/aim", "eps": "1/16"},
    ],
    "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2]}, {"corruption": "toys/negative", "severity": 1}],
    "expected": [
        {
            "source": "a book",
            "Base": {"clean": 80.0, "climb(linf, 1/32)": 61.5},
            "Seeds": {"clean": 91.25},
            "Better": {"negative(1)": 10.0},
        },
        {"source": "a public rerun", "Base": {"climb(linf, 1/32)": 41.5}, "Better": {"clean": 88.5}},
    ],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Outcomes of all models but "Pending", which is not trained; those of "Base" of 20 examples alone."""
    options = {"store": tmp_path_factory.mktemp("everything") / "store", "plugins": PLUGINS}
    base, *others, _ = SUITE["models"]
    part = {key: value for key, value in SUITE.items() if key not in ("gap", "gain", "expected")}
    api.run(part | {"models": [base]}, limit=20, **options)
    api.run(part | {"models": others}, **options)
    return api.load(SUITE, **options)


@pytest.fixture(scope="module")
def report(results):
    return build(results)


def plain(text):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def printed(report):
    """The text with lines of any length, in which no table is divided."""
    file = io.StringIO()
    terminal.show(
        report, Console(file=file, width=1000, force_terminal=True, color_system=None), Layout(intervals=True)
    )
    return file.getvalue()


# --- the same numbers -----------------------------------------------------------------------------------------------


def exact(numbers):
    """The numbers of a cell that have a value: {statistic: (value, low, high)}."""
    found = {}
    for name, interval in (("accuracy", "interval"), ("robust_accuracy", "robust_interval"),
                           ("relative_drop", "relative_drop_interval")):  # fmt: skip
        if numbers[name] is not None:
            found[name] = (numbers[name], *numbers[interval])
    return found


def from_rows(rows):
    found = {}
    for row in rows:
        if row["key"] and row["statistic"] in ("accuracy", "robust_accuracy", "relative_drop"):
            numbers = found.setdefault((row["model"], row["perturbation"]), {})
            numbers[row["statistic"]] = tuple(float(row[name]) for name in ("value", "low", "high"))
    return found


def from_page(page):
    found = {}
    table = page[page.index('id="cell-table"') :]
    for row in re.findall(r'<tr id="c\d+".*?</tr>', table, re.S):
        heads = [plain(each) for each in re.findall(r"<th[^>]*>(.*?)</th>", row)]
        entries = re.findall(r"<td([^>]*)>", row)[1:4]
        numbers = {}
        for name, attributes in zip(("accuracy", "robust_accuracy", "relative_drop"), entries, strict=True):
            values = dict(re.findall(r'data-(value|low|high)="([^"]*)"', attributes))
            if values:
                numbers[name] = tuple(float(values[each]) for each in ("value", "low", "high"))
        found[tuple(heads)] = numbers
    return {key: numbers for key, numbers in found.items() if numbers}


def test_all_formats_have_the_same_numbers(report, tmp_path):
    data = json.loads(report_json.render(report))
    cells = {(cell["model"], cell["perturbation"]): exact(cell) for cell in data["cells"] if exact(cell)}
    assert len(cells) > 30 and any(len(numbers) == 3 for numbers in cells.values())
    (tmp_path / "r.parquet").write_bytes(parquet.render(report))
    assert from_rows(pq.read_table(tmp_path / "r.parquet").to_pylist()) == cells
    assert from_rows(csv.DictReader(io.StringIO(report_csv.render(report)))) == cells
    assert from_page(html.render(report)) == cells
    assert data["answer"] == list(report.answer)


def test_texts_have_these_numbers_rounded(report):
    """Tables of the terminal and of Markdown have every accuracy, drop and interval of single models, as entries."""
    text, page, tex = printed(report), markdown.render(report), latex.render(report)
    columns = len(report.columns)
    count = 0
    for cell in report.cells:
        numbers = cell.numbers
        is_robust = numbers.accuracy is None
        accuracy = numbers.robust_accuracy if is_robust else numbers.accuracy
        if accuracy is None or cell.is_unbounded or cell.model in report.run_of:
            continue
        at = list(report.columns).index(cell.model)
        low, high = numbers.robust_interval if is_robust else numbers.interval
        shown = f"{100 * accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        if numbers.relative_drop is not None:
            drop = numbers.relative_drop_interval
            shown += f" ↓{int(100 * numbers.relative_drop + 0.5)}% [{100 * drop.low:.0f}, {100 * drop.high:.0f}]"
        name = f"{cell.perturbation}, {cell.group}" if cell.kind == "corruption" else cell.perturbation
        row = next(line for line in page.splitlines() if line.startswith(f"| {shown_in_markdown(name)} |"))
        entry = row.strip("| ").split(" | ")[1:][at]
        assert plain(entry).replace("\\", "").startswith(shown), (cell.model, name)
        line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert shown in " ".join(re.sub(r"\[ +", "[", line).split()), (cell.model, name)
        assert f"{100 * accuracy:.1f}" in tex
        assert len(row.strip("| ").split(" | ")) == columns + 1
        count += 1
    assert count > 12


# --- what is missing, what is published, captions ---------------------------------------------------------------------


def formats(report):
    return {
        "text": " ".join(printed(report).split()),
        "Markdown": plain(markdown.render(report)).replace("\\", ""),
        "LaTeX": " ".join(latex.render(report).split()),
        "HTML": plain(html.render(report)),
    }


def test_what_is_missing_or_failed_is_visible_in_every_format(report):
    """A model that is not trained yet has no cells, hence no entries: the findings name it."""
    for name, text in formats(report).items():
        assert "Incomplete" in text and "20 of 48" in text and "0 of 48" in text, name
        if name != "LaTeX":
            assert "not trained yet: Pending; 9 cells wait" in text, name
            assert "it raised KeyError: 'delta'" in text, name
    data = json.loads(report_json.render(report))
    assert not data["complete"] and {"cell-failed", "not-trained"} <= {each["code"] for each in data["findings"]}
    incomplete = {cell["key"] for cell in data["cells"] if not cell["complete"]}
    assert len(incomplete) == sum(not cell.complete for cell in report.cells) > 10
    rows = list(csv.DictReader(io.StringIO(report_csv.render(report))))
    assert {row["complete"] for row in rows if row["model"] == "Base" and row["key"]} == {"false"}
    found = {table.title: table for table in tables(report)}
    rogue = next(row for row in found["Attacks"].rows if row and row.name.startswith("rogue"))
    assert [each.number for each in rogue.values] == 3 * [None] and all(each.notes for each in rogue.values)


def test_numbers_of_fewer_examples_say_so(report):
    """Means, slopes, errors, distances and worst classes of "Base", too, which has 20 of 48 examples."""
    for table in tables(report):
        if "Base" not in table.header:
            continue
        at = table.header.index("Base") - 1
        for row in table.rows:
            if row and row.values[at].number is not None and not row.name.startswith("area"):
                assert "examples" in str(row.values[at].notes), (table.title, row.name)
    slopes = next(table for table in tables(report) if table.title.startswith("Slopes"))
    assert all("examples" in str(value.notes) for row in slopes.rows for value in row.values[1:])


def test_an_attack_without_a_budget_stands_in_its_own_table_also_without_outcomes(report):
    found = {table.title: [row.name for row in table.rows if row] for table in tables(report)}
    assert "nearest(linf)" in found["Smallest perturbations"] and "nearest(linf)" not in found["Attacks"]


def test_published_numbers_stand_beside_ours_with_the_difference_in_every_format(report):
    cells = {(cell.model, cell.perturbation): cell for cell in report.cells}
    for cell in (cells["Base", "climb(linf, 1/32)"], cells["Better", "negative(1)"]):
        numbers = cell.numbers
        ours = numbers.robust_accuracy if numbers.accuracy is None else numbers.accuracy
        assert cell.published
        for each in cell.published:
            number = f"{100 * each.value:.2f} ({100 * (ours - each.value):+.1f})"
            for name, text in formats(report).items():
                assert re.search(r"the number in a source, in brackets ours minus it; \[1\]: a book", text)
                shown = text.replace("\\(-\\)", "-").replace("( ", "(").replace(" )", ")")
                assert number in shown, name
                assert f"published [{1 if each.source == 'a book' else 2}]" in shown, name


def test_captions_of_latex_name_the_accuracy_that_their_table_has(report):
    captions = re.findall(r"\\caption\[\{[^}]*: ([^}]*)\}\]\{(.*)\}\\label", latex.render(report))
    found = dict(captions)
    assert "Robust accuracy (correct both clean and attacked) in" in found["Attacks"]
    assert "Robust" not in found["Corruptions"] and "Accuracy in" in found["Corruptions"]
    assert "Lowest accuracy of a class" in found["Worst class"] and "hold for a minimum" in found["Worst class"]
    assert "in brackets the 95" in found["Smallest perturbations"]
    for text in found.values():
        assert text.count("sample standard deviation over runs") <= 1
    pages = latex.render(report)
    assert not re.search(r"published(?: &)+ *\\\\\\\\", pages)
    assert not re.search(r"[\[(, ]-\d", re.sub(r"%.*|\\label.*", "", pages))  # but \(-\)1


# --- the answer -----------------------------------------------------------------------------------------------------


def test_the_answer_does_not_speak_of_models_without_outcomes(results):
    """A clean cell that is not computed is no model that is never right."""
    made = build(results)
    text = " ".join(made.answer)
    assert "Pending" not in text and "no clean image right" not in text
    assert "(± " in text and "over 2 runs)" in text
    lacking = [replace(cell, numbers=replace(cell.numbers, relative_drop=None)) for cell in made.cells]
    assert "no clean image" not in " ".join(answer(results, replace(made, cells=tuple(lacking))))


# --- few examples, provenance ----------------------------------------------------------------------------------------


def test_what_few_examples_say_little_of_is_left_out_of_tables_and_figures(report):
    """48 examples: no diagram of reliability; of 3 classes, worst classes; of 19, none. The page says so."""
    names = {figure.name.rstrip("-0123456789") for figure in figures(report)}
    assert "reliability" not in names and {"classes", "worst-classes"} <= names
    page = plain(html.render(report))
    assert re.search(r"figures: \d+ of \d+ cells that have fewer than 100 examples with a confidence", page)
    many = [cell if cell.classes is None else replace(cell, classes=replace(cell.classes, classes=19))
            for cell in report.cells]  # fmt: skip
    few = replace(report, cells=tuple(many))
    assert not {"classes", "worst-classes"} & {figure.name.rstrip("-0123456789") for figure in figures(few)}
    assert "fewer than 5 examples per class" in plain(html.render(few))
    assert "Worst class" not in {table.title for table in tables(few)}


def test_environments_share_their_facts_and_differ_in_their_titles(report):
    found = provenance(report)
    assert found.facts["device"] and "torch" in found.facts["versions"]
    titles = Counter(title for title, _ in found.environments)
    assert len(titles) > 3
    for (_, differing), environment in zip(found.environments, report.environments, strict=True):
        assert "device" not in differing and "versions" not in differing
        joined = {**found.facts, **differing}
        assert joined.keys() == environment.facts.keys()
    assert any("Base" in title for title in titles) and all("cell" in title for title in titles)
    one = replace(report, environments=(Environment(facts={"device": "cpu", "exact": {"rows": True}}, cells=()),))
    assert provenance(one).facts == {"device": "cpu", "exact": {"rows": True}}
    assert provenance(one).environments == [("cpu, 0 cells", {})]


def test_facts_that_are_equal_but_of_another_type_are_not_shared(report):
    facts = ({"rows": 1, "a": {"x": 1, "y": 2}}, {"rows": True, "a": {"x": 1, "y": 3}})
    found = provenance(replace(report, environments=tuple(Environment(facts=each, cells=()) for each in facts)))
    assert found.facts == {"a": {"x": 1}}
    assert [each for _, each in found.environments] == [{"rows": 1, "a": {"y": 2}}, {"rows": True, "a": {"y": 3}}]


def test_json_is_printed_or_written_but_not_both(shell, suite, tmp_path):
    (tmp_path / "toys.yaml").write_text(json.dumps(suite()))
    done = shell("report", "toys.yaml", "-o", "my page.html", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("only one is possible. Try: -o 'my page.json'\n")
    assert not (tmp_path / "my page.html").exists()
