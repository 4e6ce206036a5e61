"""The HTML page of a comparison in a browser: numbers, sorting, filters, changed examples, figures, hostile text."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pages import CONTRAST, launched, opened
from robharness.comparison.compare import compare
from robharness.comparison.outputs import page as comparison_page
from robharness.comparison.outputs.figures import MOST_ROWS, figures
from robharness.comparison.outputs.tables import document_of
from robharness.comparison.records import LEVEL, MeasuredCell, RunsDifference, Side
from robharness.findings import finding
from robharness.report.figures import svg
from robharness.statistics import Interval, accuracy_interval

HOSTILE = "</style></script><script>top.hacked=1</script><img src=x onerror=top.hacked=1>\x1b[31m\u202e&amp; \"'"
N = 400


def cells(model, fall, seed, count=N):
    """The cells of a model: an attack at three budgets, another one at one, and corruptions."""
    draw, difficulty = np.random.default_rng(seed), np.random.default_rng(0).random(count)
    kinds = [("clean", "clean", "clean", {}, 0.85)]
    kinds += [(f"fgsm(linf, {eps})", "fgsm(linf)", "attack", {"norm": "linf", "eps": eps}, 0.7 / (at + 1) - fall)
              for at, eps in enumerate(("1/255", "2/255", "4/255"))]  # fmt: skip
    kinds.append(("pgd(l2, 0.5)", "pgd(l2)", "attack", {"norm": "l2", "eps": "0.5"}, 0.3))
    kinds += [(f"{name}({severity})", name, "corruption", {"severity": severity, "group": "noise"}, 0.8 - severity / 10)
              for name in ("shot_noise", HOSTILE) for severity in (1, 3)]  # fmt: skip
    return [
        MeasuredCell(model=model, data="toys/test", perturbation=name, title=title, kind=kind, key=name,
                     conditions="same", n_expected=count, positions=np.arange(count),
                     right=0.9 * difficulty + 0.1 * draw.random(count) < chance, **facts)
        for name, title, kind, facts, chance in kinds
    ]  # fmt: skip


@pytest.fixture(scope="module")
def comparison():
    """Two models before and after, one of which lost robustness, with findings, runs, and a cell of one side alone."""
    labels, ids = ("Net", HOSTILE), tuple(f"{number}{HOSTILE}.jpg" for number in range(N))
    before, after = (
        Side(name=f"{name} in .robharness", suite="toys", cells=tuple(each for at, label in enumerate(labels)
             for each in cells(label, fall * (at == 0), seed + at)), ids=ids, n=N)
        for name, fall, seed in (("before", 0.0, 1), ("after", 0.12, 11))
    )  # fmt: skip
    found = compare(before, after, title=f"toys: {HOSTILE}", changed=5)
    runs = RunsDifference(model="Seeds", other="Seeds", perturbation="clean", n=N, runs_before=2, runs_after=3,
                          asked_before=2, asked_after=4, before=0.8, before_deviation=0.01, after=0.75,
                          after_deviation=0.02, difference=-0.05, interval=Interval(-0.09, -0.01))  # fmt: skip
    message = "computed in different environments: device cpu before, cuda:0 after"
    differing = finding("environments-differ", message, subject=HOSTILE)
    only = (f"Net · {HOSTILE}",)
    return replace(found, runs=(runs,), only_before=only, n_before=N, n_after=N, findings=(differing,))


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def path(comparison, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "comparison.html"
    file.write_text(comparison_page.render(comparison))
    return file


@pytest.fixture
def page(browser, path):
    with opened(browser, path) as found:
        yield found


def column(page, at):
    return page.eval_on_selector_all(
        "#cell-table tbody tr:not([hidden])", "(rows, at) => rows.map((row) => row.cells[at].dataset.value ?? null)", at
    )


# --- content --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scripted", [True, False], ids=["script", "no script"])
def test_the_answer_the_cells_and_the_findings_are_there(browser, path, comparison, scripted):
    with opened(browser, path, java_script_enabled=scripted) as page:
        text = " ".join(page.inner_text("body").split())
        document = document_of(comparison)
        assert document.answer and document.answer[-1].startswith("The accuracy differs significantly in ")
        for words in (document.answer[-1], "computed in different environments", "Incomplete", "before in .robharness",
                      "1 cell of the side before alone", "Net · fgsm(linf, 4/255)"):  # fmt: skip
            assert words in text
        assert page.locator("#cell-table tbody tr").count() == len(comparison.cells) == 18
        assert (page.locator("button:visible, select:visible").count() > 0) == scripted


def test_numbers_have_full_precision(page, comparison):
    for at, cell in enumerate(comparison.cells):
        row = page.locator("#cell-table tbody tr").nth(at).locator("td")
        values = (cell.n, cell.before, cell.after, cell.difference, cell.lost, cell.gained, cell.p_holm,
                  cell.drop_before, cell.drop_after, cell.drop_difference)  # fmt: skip
        written = [None if value is None else repr(float(value)) for value in values]
        assert row.evaluate_all("(all) => all.map((each) => each.dataset.value ?? null)") == written
        assert [row.nth(3).get_attribute(f"data-{end}") for end in ("low", "high")] == [*map(repr, cell.interval)]
        assert row.nth(3).inner_text().startswith(f"{100 * cell.difference:+.1f}" if cell.difference else "0.0")


def test_significant_differences_stand_out(page, comparison):
    weights = page.locator("#cell-table tbody td:nth-of-type(7)").evaluate_all(
        "(all) => all.map((e) => getComputedStyle(e).fontWeight)"
    )
    expected = [cell.p_holm <= LEVEL for cell in comparison.cells]
    assert [weight == "600" for weight in weights] == expected and any(expected) and not all(expected)


def test_means_over_runs_have_their_own_table(page, comparison):
    row = page.locator("#run-table tbody tr").nth(0)
    assert "80.0 ± 1.0" in row.inner_text() and "3 of 4" in row.inner_text()
    assert float(row.locator("td").nth(5).get_attribute("data-low")) == -0.09


# --- tables ---------------------------------------------------------------------------------------------------------


def test_differences_are_sorted(page, comparison):
    head = page.locator("#cell-table thead th").nth(5)
    for direction, sign in (("descending", -1), ("ascending", 1)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        found = [sign * float(each) for each in column(page, 5)]
        assert all(a <= b for a, b in pairwise(found)) and len(set(found)) > 3


def test_pairs_and_kinds_are_filtered(page, comparison):
    page.select_option("#cell-table-model", label="Net")
    page.select_option("#cell-table-kind", "attack")
    names = page.locator("#cell-table tbody tr:visible th:first-child").all_inner_texts()
    assert names == [cell.perturbation for cell in comparison.cells if cell.model == "Net" and cell.kind == "attack"]
    assert page.inner_text("[data-filters=cell-table] [role=status]") == "4 of 18 cells"


def test_a_perturbation_leads_to_its_changed_examples(page, comparison):
    at, cell = next((at, cell) for at, cell in enumerate(comparison.cells) if cell.lost > 5)
    target = page.locator(f"#x{at}")
    assert target.is_hidden()
    link = page.locator(f"a[href='#x{at}']")
    link.focus()
    page.keyboard.press("Enter")
    assert target.is_visible()
    text = target.inner_text()
    assert text.count(".jpg") == len(cell.lost_ids) + len(cell.gained_ids) and f"and {cell.lost - 5} more" in text
    for id in cell.lost_ids:
        assert id.partition("<")[0] in text


# --- people ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser, path, theme):
    with opened(browser, path, color_scheme=theme) as page:
        found = page.evaluate(CONTRAST)
        assert len(found) > 15 and [each for each in found if each[1] < 4.5] == []


def test_structure_for_screen_readers(page):
    levels = page.eval_on_selector_all("h1, h2, h3", "(all) => all.map((h) => +h.tagName[1])")
    assert levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1
    assert page.eval_on_selector_all("table", "(all) => all.every((t) => t.caption.textContent.trim())")
    assert page.eval_on_selector_all("th", "(all) => all.every((h) => ['row', 'col'].includes(h.scope))")
    assert page.eval_on_selector_all("select, input", "(all) => all.every((each) => each.labels.length === 1)")
    ids = page.eval_on_selector_all("[id]", "(all) => all.map((each) => each.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("""() => [...document.querySelectorAll('a[href^="#"]')]
      .every((link) => document.getElementById(link.getAttribute("href").slice(1)))""")


def test_a_phone_scrolls_the_table_and_not_the_page(browser, path):
    with opened(browser, path, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        scroller = page.locator(".scroller:has(#cell-table)")
        scroller.evaluate("(each) => each.scrollBy(300, 0)")
        head = page.locator("#cell-table tbody tr >> nth=0 >> th >> nth=0")
        assert head.evaluate("(each) => each.getBoundingClientRect().left") == pytest.approx(16, abs=1)
        assert head.inner_text() == "clean"


def test_paper_has_everything_and_no_controls(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("button:visible:not(th button), select:visible, nav:visible").count() == 0
    assert page.locator(".changed dl").nth(0).is_visible()
    assert page.locator("#cell-table").evaluate("(each) => getComputedStyle(each.parentElement).overflow") == "visible"


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_say_their_finding_in_words(page, comparison):
    found = figures(comparison)
    assert [figure.name for figure in found] == [
        "differences-1", "budgets-linf-1", "corruptions-1", "differences-2", "budgets-linf-2", "corruptions-2",
    ]  # fmt: skip
    for figure in found:
        drawing = page.locator(f"#figure-{figure.name}")
        assert " ".join(drawing.locator("svg desc").text_content().split())[:60] == figure.alt[:60]
        assert drawing.locator("[style]").count() == 0
    significant = [cell for cell in comparison.significant if cell.model == "Net"]
    assert found[0].alt.startswith(
        f"Of 9 cells, the accuracy fell significantly in {len(significant)} and rose significantly in 0."
    )
    clean, *_, last = (
        cell for cell in comparison.cells if cell.model == "Net" and cell.title in ("clean", "fgsm(linf)")
    )
    for side in ("before", "after"):
        first, end = (f"{100 * getattr(cell, side):.0f} %" for cell in (clean, last))
        assert f"{side} from {first} to {end}" in found[1].alt


def test_drawn_numbers_are_those_of_the_cells(comparison):
    forest, budgets, corruptions = figures(comparison)[:3]
    net = [cell for cell in comparison.cells if cell.model == "Net"]
    axis = forest.draw().axes[0]
    assert [line.get_xdata()[0] for line in axis.lines[1:]] == [100 * cell.difference for cell in net]
    bars = [tuple(segment[:, 0]) for part in axis.collections[1:] for segment in part.get_segments()]
    assert bars == [tuple(100 * end for end in cell.interval) for cell in net]
    axis = budgets.draw().axes[0]
    attack = [cell for cell in net if cell.title in ("clean", "fgsm(linf)")]
    for side, line in zip(("before", "after"), (axis.lines[0], axis.lines[2]), strict=True):
        assert line.get_xdata().tolist() == [0, 1, 2, 4]
        assert line.get_ydata() == pytest.approx([100 * getattr(cell, side) for cell in attack])
    band = axis.collections[0].get_paths()[0].vertices
    at_clean = band[np.isclose(band[:, 0], 0), 1]
    low, high = accuracy_interval(round(attack[0].before * N), N)
    assert (at_clean.min(), at_clean.max()) == pytest.approx((100 * low, 100 * high))
    axis = corruptions.draw().axes[0]
    shown = [cell for cell in net if cell.kind != "attack"]
    assert [line.get_xdata().tolist() for line in axis.lines] == [
        [100 * getattr(cell, side) for cell in shown] for side in ("before", "after")
    ]


def test_many_cells_are_the_largest_differences(comparison):
    first = comparison.cells[0]
    many = [replace(first, perturbation=f"noise({at})", kind="corruption", difference=at / 1000) for at in range(90)]
    found = figures(replace(comparison, cells=(first, *many)))
    drawn = svg(found[0])
    assert "The 48 of 91 cells with the largest differences" in found[0].caption and MOST_ROWS == 48
    assert "noise(89)" in drawn and ">noise(2)<" not in drawn and ">clean<" in drawn


def test_cells_without_common_examples_have_no_numbers(browser, comparison, tmp_path):
    empty = replace(comparison.cells[1], n=0, before=None, after=None, difference=None, interval=None, lost=0, gained=0,
                    p=None, p_holm=None, drop_before=None, drop_after=None, drop_difference=None, lost_ids=(),
                    gained_ids=())  # fmt: skip
    file = tmp_path / "empty.html"
    for cells_of, rows in (((comparison.cells[0], empty), 2), ((), 0)):
        file.write_text(comparison_page.render(replace(comparison, cells=cells_of, pairs=comparison.pairs[:1])))
        with opened(browser, file) as page:
            assert page.locator("#cell-table tbody tr").count() == rows
            assert (
                not rows or page.locator("#cell-table tbody tr").nth(1).locator("td").all_inner_texts()[1:] == ["–"] * 9
            )


# --- trust ----------------------------------------------------------------------------------------------------------


def test_hostile_text_is_text(page, path):
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, script:not([type])").count() == 2  # the scripts of the page
    text = path.read_text()
    assert "\x1b" not in text and "\u202e" not in text and "<script>top" not in text and "<img" not in text
    assert "<script>top.hacked=1</script>" in page.inner_text("h1")
