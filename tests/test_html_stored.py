"""The page of stored results: its numbers are those of the Parquet files, and text of others only stands there."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy.optimize import brentq

from pages import everything, launched, opened, png
from robharness import api
from robharness.report import build
from robharness.report.plugin_figures import MOST_BYTES, read_figures
from robharness.report.renderers import html
from robharness.report.renderers.html import page as page_module
from robharness.text import TITLE_LENGTH, is_printable, printable
from synthetic_reports import invented
from work import assert_linear

MARKUP = (
    "</script></style></title>--><script>hacked=1</script><img src=x onerror=hacked=1>\"'>{{ 7*7 }}\u2028<!--<script>"
)
CONTROL = "\u202eturned\u2066\x1b[31m\x07 \x00 \ud800 &lt;b&gt; &amp; \"'`"
LONG = 10_000 * "x"
PAINTER = """
from pathlib import Path
from robharness import hookimpl

@hookimpl
def robharness_figures(results, folder):
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
        yield folder / name
"""


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A suite of toys that was run, one model of which has logits that are no numbers: the results and the store."""
    store = tmp_path_factory.mktemp("run") / "store"
    suite = {
        "robharness": 1,
        "name": "toys",
        "data": {"name": "toys/pixels", "split": "test"},
        "canvas": 8,
        "models": [{"model": "toys/net", "label": "Net", "reference": True},
                   {"model": "toys/net", "what": "not-numbers", "label": "NaN"}],
        "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": ["1/8"]}],
        "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2]}],
        "gain": {"NaN": "Net"},
        "expected": [{"source": "a book", "Net": {"clean": 80.0}},
                     {"source": "a rerun", "Net": {"sign(linf, 1/8)": 30.0}}],
    }  # fmt: skip
    return api.run(suite, store=store, plugins=[str(Path(__file__).with_name("toys.py"))]), store


@pytest.fixture(scope="module")
def shown(browser, stored, tmp_path_factory):
    """Everything that the page of the stored suite has as numbers, without its script: rows of cells, and tables."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.render(build(stored[0])))
    with opened(browser, path) as page:
        return page.evaluate("""() => {
          const texts = (row) => [...row.cells].map((entry) => entry.textContent);
          const numbers = (row) => [...row.cells].map((entry) => Object.fromEntries(
            Object.entries(entry.dataset).map(([name, value]) => [name, Number(value)])));
          const drop = (entry) => entry.querySelector(".drop")?.dataset;
          const rows = [...document.querySelectorAll("#cell-table tbody tr")].map((row) => [texts(row), numbers(row)]);
          const matrices = [...document.querySelectorAll("table.matrix")];
          const tables = matrices.map((table) => [...table.rows].map((row) => [texts(row), numbers(row),
            [...row.cells].map((entry) => drop(entry) && Object.fromEntries(Object.entries(drop(entry))
              .map(([name, value]) => [name, Number(value)])))]));
          const heads = texts(document.querySelector("#cell-table thead tr"));
          return { rows, tables, heads };
        }""")


def right(store, key):
    """Return the outcomes of a cell by example, read from its Parquet files by DuckDB."""
    files = [str(path) for path in store.glob(f"cells/*/{key}/*.parquet")]
    assert files
    rows = duckdb.sql(f"SELECT example, prediction = label FROM read_parquet({files}) ORDER BY example").fetchall()
    return np.array([each for _, each in rows])


def wilson(count, n, z=1.959963984540054):
    """Return both ends of the score interval with continuity correction, as roots of its equation."""

    def excess(p, sign):
        return sign * (p - count / n) - 1 / (2 * n) - z * np.sqrt(p * (1 - p) / n)

    low = 0.0 if count == 0 else brentq(excess, 0, count / n, args=(-1,))
    high = 1.0 if count == n else brentq(excess, count / n, 1, args=(1,))
    return low, high


def drop_interval(clean, after):
    """Return Bonett's and Price's interval of the relative drop, 1 minus the ratio of paired proportions."""
    union, a, b = np.sum(clean | after), clean.sum(), after.sum()
    spread = [np.sqrt((1 - (x + 1) / (union + 2)) / (x + 1)) for x in (a, b)]
    paired = np.sqrt((np.sum(clean != after) + 2) / ((a + 1) * (b + 1)))
    z = 1.959963984540054 * paired / sum(spread)
    (a_low, a_high), (b_low, b_high) = wilson(a, union, z), wilson(b, union, z)
    return 1 - b_high / a_low, 1 - b_low / a_high


def test_every_number_is_that_of_the_parquet_files(shown, stored):
    _, store = stored
    clean = {texts[0]: right(store, texts[-1]) for texts, _ in shown["rows"] if texts[1] == "clean"}
    assert len(shown["rows"]) == 2 * 6 and set(clean) == {"Net", "NaN"}
    for texts, numbers in shown["rows"]:
        model, name, key = texts[0], texts[1], texts[-1]
        after, before = right(store, key), clean[model]
        n, accuracy, robust, drop = numbers[2:6]
        assert n["value"] == len(after) == 40
        assert accuracy["value"] == after.mean()
        assert (accuracy["low"], accuracy["high"]) == pytest.approx(wilson(after.sum(), 40), abs=1e-12)
        if name == "clean":
            assert not robust and not drop
            continue
        both = before & after
        assert robust["value"] == both.mean()
        assert (robust["low"], robust["high"]) == pytest.approx(wilson(both.sum(), 40), abs=1e-12)
        assert drop["value"] == pytest.approx(1 - after.mean() / before.mean(), abs=1e-15)
        assert (drop["low"], drop["high"]) == pytest.approx(drop_interval(before, after), abs=1e-9)
        assert f"{100 * after.mean():.1f}" in texts[3]


def test_differences_from_the_reference_are_those_of_the_parquet_files(shown, stored):
    rows = {tuple(texts[:2]): (right(stored[1], texts[-1]), numbers[10]) for texts, numbers in shown["rows"]}
    models = {model for model, _ in rows}
    [reference] = [model for model in models if all(not rows[key][1] for key in rows if key[0] == model)]
    assert models == {reference, "NaN"} and len(rows) == 12
    for (model, name), (own, shown_difference) in rows.items():
        if model != reference:
            assert shown_difference["value"] == pytest.approx(own.mean() - rows[reference, name][0].mean(), abs=1e-15)
            assert shown_difference["low"] < shown_difference["value"] < shown_difference["high"]


def test_the_paper_s_table_has_the_same_numbers(shown):
    cells = {(texts[0], texts[1]): numbers for texts, numbers in shown["rows"]}
    count = 0
    for table in shown["tables"][0:3:2]:  # each is followed by its differences from the reference
        heads = table[0][0]
        for texts, numbers, drops in table[1:]:
            name = texts[0].partition(", noise")[0]
            for model, number, drop in zip(heads[1:], numbers[1:], drops[1:], strict=True):
                if (model, name) in cells:
                    assert number == cells[model, name][3]
                    assert (drop or {}) == cells[model, name][5]
                    count += 1
    assert count == 2 * (1 + 3 + 1 + 2)


def test_the_published_number_and_the_difference(shown):
    texts, numbers = next((texts, numbers) for texts, numbers in shown["rows"] if texts[:2] == ["Net", "clean"])
    assert numbers[6]["value"] == 0.8 and texts[6] == "80.00"
    assert numbers[7]["value"] == pytest.approx(numbers[3]["value"] - 0.8, abs=1e-15)
    assert texts[8:10] == ["–", "–"]


def test_each_source_of_published_numbers_has_its_columns(shown):
    heads = ["Published, a book", "Difference, a book", "Published, a rerun", "Difference, a rerun"]
    assert shown["heads"][6:10] == heads
    texts, numbers = next((texts, numbers) for texts, numbers in shown["rows"] if texts[1] == "sign(linf, 1/8)")
    assert texts[6:8] == ["–", "–"] and texts[8] == "30.00" and numbers[8]["value"] == 0.3
    assert numbers[9]["value"] == pytest.approx(numbers[3]["value"] - 0.3, abs=1e-15)


def test_gains_with_their_interval_and_their_median(shown, stored):
    report = build(stored[0])
    (table,) = [table for table in shown["tables"] if table[-1][0][0] == "median"]
    assert [texts[0] for texts, *_ in table[1:-1]] == [gain.perturbation for gain in report.gains]
    assert table[0][0][1:] == ["NaN"] and len(report.gains) == 3
    for (texts, numbers, _), gain in zip(table[1:-1], report.gains, strict=True):
        low, high = gain.interval
        assert numbers[1] == {"value": gain.gain, "low": low, "high": high}
        assert texts[1] == f"{100 * gain.gain:.1f}[{100 * low:.1f},\u00a0{100 * high:.1f}]"
    assert table[-1][1][1]["value"] == np.median([gain.gain for gain in report.gains])


# --- text of others -------------------------------------------------------------------------------------------------


def hostile(value, text):
    """Return a record with this text in place of every text that others may have written."""
    if is_dataclass(value):
        kept = ("kind", "severity", "code", "media_type", "norm", "eps", "unit", "count", "compat")
        changed = {
            each.name: hostile(getattr(value, each.name), text) for each in fields(value) if each.name not in kept
        }
        return replace(value, **changed)
    if isinstance(value, dict):
        return {hostile(key, text): hostile(each, text) for key, each in value.items()}
    if isinstance(value, tuple):
        made = [hostile(each, text) for each in value]
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    return f"{value} {text} {value}" if isinstance(value, str) else value


@pytest.mark.parametrize("text", [MARKUP, CONTROL, LONG], ids=["markup", "control", "long"])
def test_text_of_others_runs_nothing_and_breaks_nothing(browser, tmp_path, text):
    report = hostile(everything(), text)
    path = tmp_path / "report.html"
    content = html.render(report)
    path.write_text(content)
    assert is_printable(re.sub("[\n\u00a0]", " ", content))
    with opened(browser, path, viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("window.hacked") is None
        assert page.locator("script").count() == 3 and page.locator("style").count() == 1
        assert page.inner_text("h1") == " ".join(printable(report.title, TITLE_LENGTH).split())
        assert page.title() == f"{printable(report.title, TITLE_LENGTH)} – robharness".strip()
        assert len(json.loads(page.text_content("#data"))["cells"]) == len(report.cells)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator("#cell-table a").nth(0).click()
        assert page.locator("dialog").is_visible()
        assert page.evaluate("window.hacked") is None
        assert page.locator("#cell-table tbody tr").count() == len(report.cells)


def test_the_policy_refuses_scripts_styles_and_requests(browser, tmp_path):
    """An element that came into the page in spite of all escapes does nothing."""
    path = tmp_path / "report.html"
    foreign = (
        "<p id=p onclick='hacked=1' style='color: red'>x</p><script>hacked = 1</script><style>p {color: red}</style>"
    )
    path.write_text(html.render(replace(everything(), gallery=())).replace("<main", f"{foreign}<main", 1))
    context = browser.new_context()
    page, answered, refused = context.new_page(), [], set()
    page.on("requestfinished", lambda request: answered.append(request.url))
    page.on("requestfailed", lambda request: refused.add(request.failure))
    page.goto(path.as_uri())
    page.click("#p")
    page.evaluate("""() => {
      for (const [name, key] of [["img", "src"], ["script", "src"], ["link", "href"], ["iframe", "src"]]) {
        const made = document.createElement(name);
        document.body.append(Object.assign(made, { [key]: "https://example.org/x", rel: "stylesheet" }));
      }
    }""")
    assert page.evaluate("fetch('https://example.org/').then(() => 'loaded', () => 'refused')") == "refused"
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("getComputedStyle(document.querySelector('#p')).color") != "rgb(255, 0, 0)"
    assert {url for url in answered if not url.startswith("data:")} == {path.as_uri()}
    assert refused == {"csp"}
    context.close()


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_page_is_one_file_with_the_plugins_figures(suite, shell, toys, browser, tmp_path):
    files = {"map.png": png(0), "map.svg": b"<svg xmlns='http://www.w3.org/2000/svg'>" + 9000 * b" " + b"</svg>",
             "density.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='7' height='7'/>",
             "late.pdf": b"%PDF"}  # fmt: skip
    (tmp_path / "painter.py").write_text(f"FILES = {files!r}\n{PAINTER}")
    (tmp_path / "s.yaml").write_text(json.dumps(suite()))
    plugins = [toys, "painter.py"]
    assert shell("run", "s.yaml", plugins=plugins).returncode == 0
    found = shell("report", "s.yaml", "-o", "r.html", "--gallery", "0", plugins=plugins)
    assert (found.returncode, found.stdout) == (0, "") and "wrote r.html" in found.stderr
    assert not list(tmp_path.glob("map.*"))
    with opened(browser, tmp_path / "r.html") as page:
        assert page.locator("#plugin-figures h3").all_inner_texts() == ["Map", "Density", "Late"]
        sizes = page.eval_on_selector_all("#plugin-figures img", "(all) => all.map((each) => each.naturalWidth)")
        assert sizes == [12, 7]
        assert "Left out: late.pdf" in page.inner_text("#plugin-figures")
        assert "--gallery 24" in page.inner_text("#gallery")


def test_figures_that_a_page_cannot_hold_are_left_out(tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(MOST_BYTES + 1))
    (tmp_path / "gone.svg").mkdir()
    large, gone = read_figures([tmp_path / "large.png", tmp_path / "gone.svg"])
    assert "has more than 2 MiB; the option --figures" in large.left_out and large.content == b""
    assert "it is a folder" in gone.left_out and "--figures" not in gone.left_out


def test_twice_the_models_take_twice_the_work(monkeypatch):
    """Without figures, whose work is Matplotlib's."""
    monkeypatch.setattr(page_module, "figures", lambda report: [])
    labels = [f"Model {number}" for number in range(16)]
    assert_linear(html.render, invented(labels[:8]), invented(labels))


def test_a_large_page_is_small_and_sorts_with_little_work(browser, tmp_path, monkeypatch):
    """20 models and 86 cells each: a heading sorts once, moves every row once and lays the page out once."""
    monkeypatch.setattr(page_module, "figures", lambda report: [])
    content = html.render(invented([f"Model {number}" for number in range(20)]))
    assert len(content.encode()) < 6e6
    (tmp_path / "r.html").write_text(content)
    with opened(browser, tmp_path / "r.html") as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")

        def layouts():
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(each["value"] for each in metrics if each["name"] == "LayoutCount")

        for column in (3, 5, 0):
            before = layouts()
            rows, compared, moved = page.evaluate(
                """(column) => {
                  const table = document.querySelector("#cell-table"), sort = Array.prototype.sort;
                  let compared = 0;
                  Array.prototype.sort = function (compare) {
                    return sort.call(this, (a, b) => (compared++, compare(a, b)));
                  };
                  const observer = new MutationObserver(() => {});
                  observer.observe(table.tBodies[0], { childList: true });
                  table.querySelectorAll("thead button")[column].click();
                  document.body.offsetHeight;
                  Array.prototype.sort = sort;
                  const moved = observer.takeRecords().reduce((sum, each) => sum + each.addedNodes.length, 0);
                  return [table.tBodies[0].rows.length, compared, moved];
                }""",
                column,
            )
            assert rows == moved == 20 * 86
            assert 0 < compared <= rows * np.log2(rows)
            assert layouts() - before <= 2


def test_equal_reports_make_equal_pages():
    report = everything()
    small = replace(report, cells=report.cells[:3], slopes=(), runs=(), gallery=())
    assert html.render(small) == html.render(small)
