"""The HTML page in a browser: numbers, sorting, filters, details, keyboard, themes, paper, small screens."""

import json
from itertools import pairwise

import pytest

from pages import CONTRAST, everything, launched, opened
from robharness.report.renderers import html


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def report():
    return everything()


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(html.render(report))
    return file


@pytest.fixture
def page(browser, path):
    with opened(browser, path) as found:
        yield found


def column(page, table, at):
    """Return the numbers of a column, of the rows that are seen."""
    return page.eval_on_selector_all(
        f"{table} tbody tr:not([hidden])", "(rows, at) => rows.map((row) => row.cells[at].dataset.value ?? null)", at
    )


def matrix(page, number=0):
    """Return (row, column) -> the entry's numbers in full precision, of what is seen in a table of results."""
    return {
        tuple(key): value
        for key, value in page.evaluate(
            """(number) => {
              const table = document.querySelectorAll("table.matrix")[number], found = [];
              const heads = [...table.tHead.rows[0].cells];
              for (const row of table.tBodies[0].rows) {
                [...row.cells].forEach((entry, i) => {
                  const isSeen = i && entry.getClientRects().length;
                  if (isSeen) found.push([[row.cells[0].textContent, heads[i].textContent], { ...entry.dataset }]);
                });
              }
              return found;
            }""",
            number,
        )
    }


# --- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scripted", [True, False], ids=["script", "no script"])
def test_everything_essential_is_there(browser, path, report, scripted):
    with opened(browser, path, java_script_enabled=scripted) as page:
        text = page.inner_text("body")
        facts = ("size mismatch", "use the intervals", "cudnn.benchmark", "cell-failed", "0 of 1000 examples",
                 "412 of 1000", "published 75.10", "Environment 1: cpu, Lite0, Lite1 seed 0, 20 cells")  # fmt: skip
        for words in (*report.answer, report.command, *facts):
            assert words in text
        assert page.locator("#findings .box h3").all_inner_texts() == [
            "Incomplete",
            "Errors 1",
            "Warnings 1",
            "Notes 1",
        ]
        for cell in report.cells:
            row = page.locator("#cell-table tbody tr").nth(report.cells.index(cell))
            assert row.locator("th").all_inner_texts() == [cell.model, cell.perturbation]
            assert cell.key in row.inner_text()
        assert page.locator("figure svg[role=img]").count() == page.locator("#figures figure").count() > 5
        assert (page.locator("button:visible, select:visible, input:visible").count() > 0) == scripted


def test_entries_have_full_precision_and_lead_to_their_cells(page, report):
    found = matrix(page)
    for at, cell in enumerate(report.cells):
        row = page.locator(f"#c{at} td")
        assert row.nth(0).get_attribute("data-value") == repr(float(cell.numbers.n))
        names = [("accuracy", "interval"), ("robust_accuracy", "robust_interval"),
                 ("relative_drop", "relative_drop_interval")]  # fmt: skip
        for number, (name, interval) in enumerate(names, 1):
            entry = row.nth(number)
            value, ends = getattr(cell.numbers, name), getattr(cell.numbers, interval)
            expected = [None if each is None else repr(float(each)) for each in (value, *(ends or (None, None)))]
            assert [entry.get_attribute(f"data-{each}") for each in ("value", "low", "high")] == expected
        if cell.model == "Lite0" and cell.kind == "attack" and cell.distances is None and cell.numbers.n:
            assert float(found[cell.perturbation, "Lite0"]["value"]) == cell.numbers.accuracy


def test_published_numbers_stand_beside_ours(page, report):
    ours = report.cells[0].numbers.accuracy
    entry = page.locator("#results table >> nth=0 >> tbody tr >> nth=0 >> td >> nth=0")
    assert f"published 75.10 (-{100 * (0.751 - ours):.2f})" in entry.inner_text()
    assert float(entry.locator(".difference").get_attribute("data-value")) == ours - 0.751
    assert float(page.locator("#c0 td").nth(5).get_attribute("data-value")) == ours - 0.751


def test_the_spread_over_runs_is_apart_from_that_over_examples(page, report):
    row = page.locator("#run-table tbody tr").nth(0)
    numbers = report.runs[0]
    assert float(row.locator("td").nth(1).get_attribute("data-value")) == numbers.accuracy
    assert float(row.locator("td").nth(2).get_attribute("data-value")) == numbers.accuracy_deviation
    each = [cell.numbers for cell in report.cells if cell.perturbation == "clean" and cell.model in report.run_of]
    spans = row.locator("td").nth(5).locator("span")
    assert [float(span.get_attribute("data-low")) for span in spans.all()] == [run.interval.low for run in each]
    assert "spread over runs" in page.inner_text("#runs") and "over examples" in page.inner_text("#runs")


# --- tables ---------------------------------------------------------------------------------------------------------


def test_a_heading_sorts_down_up_and_back(page):
    table = "#cell-table"
    original = column(page, table, 3)
    head = page.locator(f"{table} thead th").nth(3)
    for direction in ("descending", "ascending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        found = column(page, table, 3)
        known = [float(each) for each in found if each is not None]
        assert found[len(known) :] == [None, None]
        assert all(a >= b if direction == "descending" else a <= b for a, b in pairwise(known))
        assert sorted(known) != known or direction == "ascending"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, table, 3) == original
    page.locator(f"{table} thead th").nth(1).locator("button").click()
    names = page.locator(f"{table} tbody tr th:nth-child(2)").all_inner_texts()
    assert names[0].startswith("clean") and names[-1].startswith("shot_noise")


def test_models_become_rows_and_perturbations_again(page):
    before = matrix(page)
    page.click("[data-rows=models]")
    after = matrix(page)
    assert {(row, name): value for (name, row), value in after.items()} == before
    assert page.get_attribute("[data-rows=models]", "aria-pressed") == "true"
    head = page.locator("table.matrix >> nth=0 >> thead th").nth(2)
    head.locator("button").click()
    name = head.inner_text()
    values = [float(value["value"]) for (_, perturbation), value in matrix(page).items() if perturbation == name]
    assert values == sorted(values, reverse=True) and len(values) == 2
    page.click("[data-rows=perturbations]")
    assert matrix(page) == before


def test_filters_leave_what_matches(page):
    everything = matrix(page)
    page.select_option("#results-model", label="Lite1")
    assert {model for _, model in matrix(page)} == {"Lite1"}
    page.fill("#results-text", "PGD l2")
    assert matrix(page) == {key: value for key, value in everything.items() if "pgd(l2" in key[0] and key[1] == "Lite1"}
    heads = page.locator("#results h3:visible").all_inner_texts()
    assert heads == ["Attacks", "Calibration", "Worst class"]
    assert page.inner_text("[data-filters=results] [role=status]").startswith("15 of ")
    page.fill("#results-text", "")
    page.select_option("#results-kind", "corruption")
    assert page.locator("#table-1").is_hidden() and not matrix(page)
    page.select_option("#cell-table-kind", "attack")
    page.fill("#cell-table-text", "fgsm SEED")
    rows = page.locator("#cell-table tbody tr:visible").all_inner_texts()
    assert len(rows) == 8 and all("seed" in row and "fgsm" in row for row in rows)
    assert page.inner_text("[data-filters=cell-table] [role=status]") == "8 of 42 cells"


def test_the_details_of_a_cell_are_a_dialog(page, report):
    page.locator("table.matrix a").nth(2).click()
    dialog = page.locator("dialog")
    cell = report.cells[2]
    assert dialog.get_by_role("heading", level=2).inner_text() == f"{cell.model}, {cell.perturbation}"
    text = dialog.inner_text()
    for words in (cell.key, "weights", "5f2c", "torch", "2.6.0", f"{100 * cell.numbers.accuracy:.2f}"):
        assert words in text
    assert len(json.loads(page.text_content("#data"))["pool"]) == len(report.models) + 1
    page.keyboard.press("Escape")
    assert dialog.is_hidden()


def test_the_first_rows_of_a_long_table_are_shown_and_all_on_paper(browser, tmp_path, report):
    few = [cell for cell in report.cells if cell.model == "Lite0"]
    path = tmp_path / "long.html"
    path.write_text(html.render(type(report)(**vars(report) | {
        "cells": tuple(few * 30), "runs": (), "gallery": (), "run_of": {}, "models": ("Lite0",), "identities": {},
        "metrics": {}, "slopes": (), "environments": ()})))  # fmt: skip
    with opened(browser, path) as page:
        rows = page.locator("#cell-table tbody tr:visible")
        assert rows.count() == 200
        assert column(page, "#cell-table", 3)[0] is not None
        page.emulate_media(media="print")
        assert rows.count() == 30 * len(few)
        page.emulate_media(media="screen")
        page.get_by_role("button", name=f"Show all {30 * len(few)} rows").last.click()
        assert rows.count() == 30 * len(few)


# --- people ---------------------------------------------------------------------------------------------------------


def test_the_keyboard_reaches_everything(page):
    def focused():
        return page.evaluate("[document.activeElement.tagName, document.activeElement.textContent.trim()]")

    page.keyboard.press("Tab")
    assert focused()[1] == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen = []
    for _ in range(200):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.href"
            )
        )
        if page.evaluate("document.activeElement.matches('table.matrix td a')"):
            break
    assert {"results-model", "results-kind", "results-text", "scroller"} <= set(seen)
    first = focused()
    page.keyboard.press("ArrowDown")
    second = focused()
    assert second != first and second[0] == "A"
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert focused() == second
    page.keyboard.press("ArrowUp")
    assert focused() == first
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.matches('table.matrix td a')")  # a table is one stop


def test_structure_for_screen_readers(page):
    levels = page.eval_on_selector_all(
        "h1, h2, h3", "(all) => all.filter((h) => !h.closest('dialog')).map((h) => +h.tagName[1])"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1
    assert page.eval_on_selector_all("table", "(all) => all.every((t) => t.caption.textContent.trim())")
    assert page.eval_on_selector_all("th", "(all) => all.every((h) => ['row', 'col'].includes(h.scope))")
    assert page.eval_on_selector_all("img", "(all) => all.every((image) => image.alt.length > 9)")
    assert page.eval_on_selector_all("select, input", "(all) => all.every((each) => each.labels.length === 1)")
    assert page.evaluate("""() => {
      const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
      return ids.filter((id, at) => ids.indexOf(id) !== at);
    }""") == []  # fmt: skip
    assert page.evaluate("""() => [...document.querySelectorAll('a[href^="#"]')]
      .every((link) => document.getElementById(link.getAttribute("href").slice(1)))""")
    assert page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser, path, theme):
    with opened(browser, path, color_scheme=theme) as page:
        found = page.evaluate(CONTRAST)
        assert len(found) > 25
        assert [each for each in found if each[1] < 4.5] == []


def test_the_theme_can_be_changed_and_stays(browser, path):
    with opened(browser, path, color_scheme="light") as page:
        colour = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.evaluate(colour)
        page.click("#theme")
        dark = page.evaluate(colour)
        assert light != dark and page.inner_text("#theme") == "Light theme"
        for _ in range(20):  # the browser stores what a page keeps some time after it says so
            page.reload()
            if page.evaluate(colour) == dark:
                break
            page.wait_for_timeout(200)
        assert page.evaluate(colour) == dark
        page.click("#theme")
        assert page.evaluate(colour) == light
        page.evaluate("Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } })")
        page.click("#theme")
        assert page.evaluate(colour) == dark


def test_a_phone_shows_all_without_scrolling_the_page(browser, path):
    with opened(browser, path, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        scroller = page.locator(".scroller:has(#cell-table)")
        assert scroller.evaluate("(each) => each.scrollWidth > each.clientWidth")
        scroller.evaluate("(each) => each.scrollBy(300, 0)")
        head = page.locator("#cell-table tbody tr >> nth=0 >> th >> nth=0")
        assert head.evaluate("(each) => each.getBoundingClientRect().left") == pytest.approx(16, abs=1)
        page.locator("#cell-table a").nth(0).click()
        box = page.locator("dialog").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_paper_has_everything_and_no_controls(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("button:visible:not(th button), select:visible, input:visible, nav:visible").count() == 0
    assert page.locator("details p").nth(0).is_visible()
    assert page.locator("#cell-table").evaluate("(each) => getComputedStyle(each.parentElement).overflow") == "visible"
    assert page.evaluate("getComputedStyle(document.documentElement).color") == "rgb(27, 29, 33)"


# --- gallery and figures --------------------------------------------------------------------------------------------


def test_the_gallery_is_filtered(page):
    def shown():
        return [text.split(",")[0] for text in page.locator(".gallery li:visible figcaption").evaluate_all(
            "(all) => all.map((each) => each.innerText.split('\\n')[1])")]  # fmt: skip

    status = page.locator("[data-gallery] [role=status]")
    assert status.inner_text() == "8 of 8 examples"
    page.select_option("#gallery-model", label="Lite0")
    assert shown() == [f"photo-{number}.jpg" for number in (0, 1, 2, 3)]
    page.select_option("#gallery-fooled", label="fooled")
    assert shown() == ["photo-2.jpg", "photo-3.jpg"]
    page.fill("#gallery-low", "-1")
    assert shown() == ["photo-2.jpg"] and status.inner_text() == "1 of 8 examples"
    for name, value in (("model", ""), ("fooled", "")):
        page.select_option(f"#gallery-{name}", value)
    page.fill("#gallery-low", "")
    page.fill("#gallery-high", "0.25")
    page.select_option("#gallery-perturbation", label="shot_noise(1)")
    page.select_option("#gallery-label", label="1")
    assert shown() == ["photo-3.jpg", "photo-7.jpg"]
    page.keyboard.press("Tab")
    assert page.eval_on_selector_all(".gallery img", "(all) => all.every((each) => each.naturalWidth === 12)")


def test_figures_of_plugins_are_images_that_run_nothing(page):
    image = page.locator("#plugin-figures img")
    assert image.evaluate("(each) => each.naturalWidth") == 200
    assert page.evaluate("window.hacked") is None
    assert "Left out: a.pdf" in page.inner_text("#plugin-figures")


def test_a_figure_leads_to_its_numbers(page):
    for figure in page.locator("#figures figure").all():
        link = figure.locator("figcaption > a")
        assert page.locator(f"{link.get_attribute('href')} table").count() > 0
        assert figure.locator("details p").text_content().strip()
        assert figure.locator("svg desc").count() == 1
        assert figure.locator("[style]").count() == 0
