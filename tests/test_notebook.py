"""Results in a notebook or a Python shell: short texts, HTML, data frames, figures, files."""

import html.parser
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from robharness import Results, UserError, api, load, stored
from robharness.report import build, notebook
from robharness.report.renderers.json import as_data
from synthetic_reports import cell, invented, report

HERE = Path(__file__).parent
TOYS = str(HERE / "toys.py")
TAGS = "</td><script>alert(1)</script>|`code`&amp;" + "x" * 100
"""A label that a suite may have."""
TEXT = "\x1b[31mred\x1b[0m\r\n\u202eright" + TAGS
"""A text that moves the cursor, begins lines, and is HTML."""
RENDERER = """
from robharness import hookimpl


class Names:
    name, suffix = "names", ".names"

    def render(self, report):
        return "".join(f"{cell.model} {cell.perturbation}\\n" for cell in report.cells)


@hookimpl
def robharness_renderers():
    yield Names()
"""

SOURCE = {
    "robharness": 1, "name": "toys", "data": {"name": "toys/pixels", "split": "test"},
    "models": [{"model": "toys/net", "label": "Net", "reference": True},
               {"model": "toys/net", "label": "B & C", "what": "undecided"}],
    "attacks": [{"attack": "toys/sign", "eps": ["1/8", "1/4"]},
                {"attack": "toys/rogue", "eps": "1/8", "how": "raises"}],
    "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2, 3]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results of three models under an attack, one that fails, and corruptions, with a plugin's renderer."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "names.py").write_text(RENDERER)
    return api.run(SOURCE, store=folder / "store", plugins=[TOYS, str(folder / "names.py")])


class Page(html.parser.HTMLParser):
    """The tags, the attributes and the table cells of a piece of HTML; each tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.tables, self.text = [], Counter(), set(), [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attributes}
        if tag != "br":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += f"{data}|"


HARMLESS = {"div", "p", "b", "table", "caption", "tr", "th", "td", "br", "small"}


# --- short texts ------------------------------------------------------------------------------------------------------


def test_texts_are_short_and_say_the_state(found):
    assert repr(found) == "<Results of toys: Net, B & C; 12 of 14 cells complete, 40 examples each>"
    assert repr(found.plan) == "<Plan of toys: Net, B & C; 14 cells of 40 examples>"
    assert repr(found.report()).startswith("<Report of toys: Net, B & C; 12 of 14 cells complete, 40 examples each, ")
    texts = [repr(result) for result in found.cells]
    assert f"<CellResult {found.cells[0].cell.name}: 40 of 40 examples, accuracy 0.775>" == texts[0]
    assert [text for text in texts if "failed" in text] == [text for text in texts if ": 0 of 40" in text] != []
    for text in (*texts, repr(found), repr(found.copied())):
        assert "\n" not in text and "array" not in text and len(text) < 250


def test_foreign_names_stay_on_the_line(suite, run):
    strange = run(suite(models=[{"model": "toys/net", "label": TAGS}]), limit=2)
    for text in (repr(strange), repr(strange.plan), repr(strange.report()), *map(repr, strange.cells)):
        assert text.isprintable() and TAGS in text and len(text) < 500
    page = Page(strange._repr_html_())
    assert set(page.tags) <= HARMLESS and page.text.count(TAGS[:20]) == 2  # in the answer and in the table


# --- HTML -------------------------------------------------------------------------------------------------------------


def test_the_html_has_the_numbers_of_the_report(found):
    page = Page(found._repr_html_())
    assert set(page.tags) <= HARMLESS and page.attributes <= {"style"}
    attacks, differences, corruptions, *_ = page.tables
    assert differences[0] == ["", "B & C|"]
    assert attacks[0] == corruptions[0] == ["", "Net|", "B & C|"]
    shown = {row[0].rstrip("|").removesuffix(", noise"): row[1:] for row in (*attacks, *corruptions)}
    for numbers in as_data(found.report())["cells"]:
        if numbers["accuracy"] is None:
            assert shown[numbers["perturbation"]] == ["–|", "–|"] or "0 of 40" in shown[numbers["perturbation"]][0]
            continue
        number, *below = shown[numbers["perturbation"]][found.labels.index(numbers["model"])].rstrip("|").split("|")
        accuracy, _, drop = number.partition(" ↓")
        assert float(accuracy) == pytest.approx(100 * numbers["accuracy"], abs=0.05)
        low, high = re.match(r"\[(.+?), (.+?)\]", below[0]).groups()
        assert (float(low), float(high)) == pytest.approx([100 * bound for bound in numbers["interval"]], abs=0.05)
        assert bool(drop) == (numbers["relative_drop"] is not None)
        if drop:
            assert float(drop.rstrip("%")) == pytest.approx(100 * numbers["relative_drop"], abs=0.51)
    codes = Counter(each.code for each in found.report().findings)
    assert codes["cell-failed"] == 1 and "1 error (cell-failed)" in page.text
    assert "incomplete: 12 of 14 cells are complete" in page.text and "n = 40" in page.text


def test_the_html_of_20_models_and_20_perturbations_is_small_and_whole():
    models, names = [f"Model {i}" for i in range(20)], ["clean", *(f"fgsm(linf, {i}/255)" for i in range(1, 20))]
    draw = np.random.default_rng(0).uniform(0.1, 0.7, (20, 20))
    cells = [cell(model, name, 0.9, 0.9 if name == "clean" else draw[i, j], eps=None if name == "clean" else f"{j}/255")
             for i, model in enumerate(models) for j, name in enumerate(names)]  # fmt: skip
    text = notebook.render(report(cells, answer=("Model 1 loses 40 % of its accuracy.",)))
    page = Page(text)
    assert len(text.encode()) < 20_000 and page.text.startswith("Model 1 loses 40 % of its accuracy.")
    assert "intervals are left out here" in page.text and "left out here, " not in page.text
    numbers = [[float(value.rstrip("|").partition(" ↓")[0]) for value in row[1:]] for row in page.tables[0][1:]]
    expected = [[100 * each.numbers.accuracy for each in cells if each.perturbation == name] for name in names]
    np.testing.assert_allclose(numbers, expected, atol=0.00501)


def test_the_html_of_more_is_as_small_and_counts_what_is_left_out():
    text = notebook.render(
        invented([f"Model {i} {'x' * 300}" for i in range(22)], severities=range(1, 4), details=False)
    )
    page = Page(text)
    assert len(text.encode()) < 20_000 and "2 columns are left out here" in page.text
    assert re.search(r"\d+ rows( and 2 columns)? are left out here", page.text)


def test_foreign_text_in_the_html_is_shown_and_does_nothing():
    strange = '<script>alert(1)</script><img src=x onerror="alert(1)">' + TEXT
    cells = [cell(strange, name, 0.9, 0.9) for name in ("clean", strange)]
    page = Page(notebook.render(report(cells, title=strange, answer=(strange,), data=strange)))
    assert set(page.tags) <= HARMLESS and page.attributes <= {"style"}
    assert "<script>alert(1)</script>" in page.text and not {"\x1b", "\u202e", "\x00"} & set(page.text)


# --- data frames ------------------------------------------------------------------------------------------------------


def test_the_summary_has_the_numbers_of_the_report(found):
    frame, cells = found.summary(), as_data(found.report())["cells"]
    assert len(frame) == len(cells) == 14 and frame.complete.dtype == bool and frame.n.dtype == int
    for row, expected in zip(frame.itertuples(), cells, strict=True):
        for name in ("model", "perturbation", "kind", "n", "complete", "key"):
            assert getattr(row, name) == expected[name]
        for name, interval in (("accuracy", "interval"), ("robust_accuracy", "robust_interval"),
                               ("relative_drop", "relative_drop_interval")):  # fmt: skip
            written = [getattr(row, f"{name}{end}") for end in ("", "_low", "_high")]
            np.testing.assert_array_equal(
                written, np.array([expected[name], *(expected[interval] or (None, None))], float)
            )
    attacks = frame[frame.kind == "attack"]
    assert set(attacks.eps) == {0.125, 0.25} and set(attacks.norm) == {"linf"} and attacks.severity.isna().all()
    assert set(frame[frame.kind == "corruption"].severity) == {1, 2, 3}
    for (model, name), group in found.to_pandas().groupby(["model", "perturbation"]):
        [row] = frame[(frame.model == model) & (frame.perturbation == name)].itertuples()
        assert row.accuracy == group.correct.mean() and row.n == len(group)


@pytest.mark.parametrize("call", ["summary", "to_pandas"])
def test_frames_without_pandas_are_a_sentence(found, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"^data frames need pandas, which is not installed\. Try: pip install pandas$"):
        getattr(found, call)()


# --- figures and files ------------------------------------------------------------------------------------------------


def test_figures_are_drawn_by_name(found):
    assert {"corruptions", "budgets-linf"} <= set(found.figures())
    drawn = found.figure("corruptions")
    [axes, *_] = drawn.axes
    assert axes.get_xlabel() and drawn._repr_png_().startswith(b"\x89PNG")
    for name in ("corruption", 3):
        with pytest.raises(UserError, match=r"no figure .*; there are .*budgets-linf, corruptions"):
            found.figure(name)
    bare = api.load({**SOURCE, "attacks": [], "corruptions": []}, store=found.plan.store, plugins=[TOYS])
    with pytest.raises(UserError, match=r"no figure 'corruptions'; there (is none|are )"):
        bare.figure("corruptions")


def test_a_file_has_the_format_of_its_suffix(found, tmp_path, monkeypatch, shell):
    monkeypatch.chdir(tmp_path)
    written = found.save("report.json")
    assert written == Path("report.json")
    assert json.loads(written.read_text())["cells"] == json.loads(json.dumps(as_data(build(found))["cells"]))
    assert found.save(tmp_path / "report.names").read_text().startswith("Net clean\nNet sign(linf, 1/8)\n")
    (tmp_path / "kept.md").mkdir()
    for path, said in (
        (
            "x.docx",
            r"results\.save\('x\.docx'\): no renderer has the suffix '\.docx'; .* Try: results\.save\('x\.json'\)",
        ),
        ("no/where.md", r"results\.save\('no/where\.md'\): cannot be written: No such file .* Try: mkdir -p no"),
        ("kept.md", r"results\.save\('kept\.md'\): cannot be written: it is a folder, not a file"),
        (3, r"`path` is the path of a file, not a value of the type int"),
    ):
        with pytest.raises(UserError, match=said):
            found.save(path)


def test_results_of_a_store_alone_show_the_same(found):
    [suite] = stored(found.plan.store)
    for alone in (suite.results(), load("toys", store=found.plan.store)):
        assert repr(alone) == repr(found) and alone.figures() == found.figures()
        assert alone.summary().equals(found.summary())
        assert Page(alone._repr_html_()).tables == Page(found._repr_html_()).tables


def test_results_for_plugins_have_no_other_plugins(found, tmp_path):
    copied = found.copied()
    assert isinstance(copied, Results) and not copied.registry.models
    copied.cells[0].correct[:] = False
    with pytest.raises(UserError, match=r"no renderer has the suffix '\.names'"):
        copied.save(tmp_path / "x.names")
    assert copied.report().cells[0].numbers.accuracy == 0 and found.report().cells[0].numbers.accuracy == 0.775
