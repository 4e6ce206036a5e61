"""A report's numbers against NumPy and closed forms over the stored rows, and its renderings."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from robharness.report import build
from robharness.report.renderers import json as report_json
from robharness.report.renderers import markdown, terminal

ATTACKS = [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": ["1/8", "1/2"]}]
CORRUPTIONS = [{"corruption": "toys/speckle", "severity": [1, 2, 4]}, {"corruption": "toys/negative", "severity": 1}]


@pytest.fixture
def results(suite, run):
    models = [
        {"model": "toys/net", "label": "Net", "reference": True},
        {"model": "toys/net", "what": "not-numbers", "label": "NaN"},
    ]
    expected = {"source": "a book", "Net": {"clean": 80.0, "toys/wrong": 0.25}}
    return run(suite(models=models, attacks=ATTACKS, corruptions=CORRUPTIONS, canvas=8, expected=expected,
                     metrics=["toys/wrong", "toys/broken"]))  # fmt: skip


def rows(results, label, name):
    found = next(r for r in results.cells if (r.cell.model.label, r.cell.short_name) == (label, name))
    return found.columns["prediction"] == found.columns["label"]


def test_every_number_follows_from_the_rows(results):
    data = report_json.as_data(build(results))
    assert data["schema"] == 1
    assert len(data["cells"]) == 2 * 9
    for cell in data["cells"]:
        right = rows(results, cell["model"], cell["perturbation"])
        clean = rows(results, cell["model"], "clean")
        assert cell["n"] == 40
        assert cell["accuracy"] == right.mean()
        assert cell["interval"][0] < right.mean() < cell["interval"][1] or right.mean() in (0, 1)
        if cell["kind"] != "clean":
            assert cell["robust_accuracy"] == (right & clean).mean()
            assert cell["relative_drop"] == pytest.approx(1 - right.mean() / clean.mean(), abs=1e-15)


def test_an_interval_by_its_closed_form(results):
    """Wilson's score interval with continuity correction, Newcombe (1998), written out again."""
    cell = next(c for c in report_json.as_data(build(results))["cells"] if c["kind"] == "clean")
    n, p, z = 40, cell["accuracy"], 1.959963984540054
    low = (2 * n * p + z**2 - 1 - z * np.sqrt(z**2 - 2 - 1 / n + 4 * p * (n * (1 - p) + 1))) / (2 * (n + z**2))
    high = (2 * n * p + z**2 + 1 + z * np.sqrt(z**2 + 2 - 1 / n + 4 * p * (n * (1 - p) - 1))) / (2 * (n + z**2))
    assert cell["interval"] == pytest.approx((low, high), abs=1e-12)


def test_the_worst_case_is_per_example_within_the_budget(results):
    worst = {(w["model"], w["eps"]): w for w in report_json.as_data(build(results))["worst_cases"]}
    assert {eps for _, eps in worst} == {"1/8", "1/4", "1/2"}
    eighth = rows(results, "Net", "climb(linf, 1/8)") & rows(results, "Net", "sign(linf, 1/8)")
    half = eighth & rows(results, "Net", "climb(linf, 1/4)") & rows(results, "Net", "sign(linf, 1/2)")
    assert worst["Net", "1/8"]["accuracy"] == eighth.mean()
    assert worst["Net", "1/2"]["accuracy"] == half.mean()
    assert worst["Net", "1/2"]["attacks"] == 4


def test_slopes_are_least_squares_through_the_origin(results):
    every = report_json.as_data(build(results))["slopes"]
    slopes = {(s["model"], s["group"]): s for s in every if s["severity"] is None}
    assert set(slopes) == {("NaN", None), ("NaN", "noise"), ("NaN", "light")}
    names = ["speckle(1)", "speckle(2)", "speckle(4)", "negative(1)"]
    drops = {
        label: np.array(
            [1 - rows(results, label, name).mean() / rows(results, label, "clean").mean() for name in names]
        )
        for label in ("Net", "NaN")
    }
    for group, part in ((None, slice(0, 4)), ("noise", slice(0, 3)), ("light", slice(3, 4))):
        expected = np.linalg.lstsq(drops["Net"][part, None], drops["NaN"][part], rcond=None)[0][0]
        assert slopes["NaN", group]["slope"] == pytest.approx(expected, abs=1e-12)
        assert slopes["NaN", group]["few_examples"]
    assert slopes["NaN", "light"]["corruption_interval"] is None


def terminal_text(results):
    stream = io.StringIO()
    terminal.show(build(results), Console(file=stream, width=100))
    return " ".join(stream.getvalue().split())


def test_tables_show_drops_intervals_flags_and_failures(results):
    text, md = terminal_text(results), markdown.render(build(results))
    clean, attacked = rows(results, "Net", "clean").mean(), rows(results, "Net", "climb(linf, 1/4)").mean()
    drop = int(np.floor(100 * (1 - attacked / clean) + 0.5))
    for output in (text, md):
        assert re.search(rf"\b{100 * attacked:.1f} \[[\d., ]+\] ↓{drop}% \[[-\d, ]+\]", output)
        assert "published 80.00" in output and "published 0.25" in output
        assert "examples have logits that are not numbers; they count as wrong" in output
        assert "slopes come from 40 examples, fewer than 1000" in output
        assert "ZeroDivisionError: division by zero" in output
    assert "worst case" not in text  # at each budget it repeats the attack of that budget
    assert "speckle(4), noise" in text
    assert "toys/wrong" in text


def test_markdown_is_tables_of_equal_rows(results):
    text = markdown.render(build(results))
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    assert len(tables) == 8
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


def test_json_has_no_nan(results):
    text = report_json.render(build(results))
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) is not None


def test_nothing_stored_is_an_incomplete_report(suite, toys, tmp_path):
    from robharness import api

    found = api.load(suite(), store=tmp_path / "empty", plugins=[toys])
    report = build(found)
    assert not report.complete
    assert all(cell.numbers.accuracy is None for cell in report.cells)
    assert "Incomplete" in terminal_text(found)
    assert "examples 0 of 40" in terminal_text(found)


@pytest.mark.parametrize(("clean_has", "attack_has"), [(30, 20), (20, 30)])
def test_an_incomplete_cell_is_compared_on_the_common_examples(suite, run, toys, tmp_path, clean_has, attack_has):
    from robharness import api
    from robharness.engine import listeners
    from robharness.engine.run import run_plan
    from robharness.store import Store

    store = Store(tmp_path / "s")
    run_plan(api.plan(suite(), plugins=[toys], limit=clean_has).only("clean"), store, listeners.Silent())
    run_plan(api.plan(suite(), plugins=[toys], limit=attack_has).only("climb(linf, 1/4)"), store, listeners.Silent())
    found = api.load(suite(), store=tmp_path / "s", plugins=[toys])
    whole = run(suite())
    cell = next(c for c in report_json.as_data(build(found))["cells"] if c["perturbation"] == "climb(linf, 1/4)")
    clean, attacked = rows(whole, "Net", "clean")[:20], rows(whole, "Net", "climb(linf, 1/4)")[:20]
    assert (cell["n"], cell["complete"]) == (attack_has, False)
    assert cell["relative_drop"] == pytest.approx(1 - attacked.mean() / clean.mean())


def test_a_robust_count_has_no_accuracy_over_all(suite, run):
    data = report_json.as_data(build(run(suite(count="robust"))))
    for cell in data["cells"]:
        if cell["kind"] == "attack":
            assert cell["accuracy"] is None
            assert cell["interval"] is None
            clean = next(c for c in data["cells"] if c["kind"] == "clean")
            assert cell["relative_drop"] == pytest.approx(1 - cell["robust_accuracy"] / clean["accuracy"])


def test_a_worst_case_names_its_missing_attacks(suite, run):
    attacks = [{"attack": "toys/sign", "eps": "1/8"}, {"attack": "toys/rogue", "how": "raises", "eps": "1/8"}]
    found = run(suite(attacks=attacks))
    (worst,) = report_json.as_data(build(found))["worst_cases"]
    assert (worst["attacks"], worst["asked"]) == (1, 2)
    assert "attacks 1 of 2" in terminal_text(found)


def test_a_slope_names_its_missing_corruptions(suite, run):
    models = [{"model": "toys/net", "label": "One", "reference": True}, {"model": "toys/net", "label": "Two"}]
    corruptions = [*CORRUPTIONS, {"corruption": "toys/bad", "severity": 1}]
    found = run(suite(models=models, attacks=None, corruptions=corruptions, canvas=8))
    slopes = {s["group"]: s for s in report_json.as_data(build(found))["slopes"] if s["severity"] is None}
    assert (slopes[None]["corruptions"], slopes[None]["asked"]) == (4, 5)
    assert (slopes["light"]["corruptions"], slopes["light"]["asked"]) == (1, 1)
    assert "corruptions 4 of 5" in terminal_text(found)


def test_an_attack_weaker_than_a_single_step_is_reported(suite, run):
    """Four steps that go nowhere leave more right than one that does; from elsewhere or at a target they may."""
    step, still = {"attack": "teams/step", "eps": ["1/8", "1/4"]}, {"attack": "teams/ascend", "eps": "1/4"}
    models = [{"model": "toys/net", "label": "Net"}, {"model": "teams/net", "label": "Real"}]
    weak = still | {"step": "1/1000"}

    def weaker_attack_warnings(*attacks):
        warnings = build(run(suite(models=models, attacks=list(attacks)))).warnings
        return [line for line in warnings if "single step" in line]

    results = run(suite(models=models, attacks=[step, weak]))
    warnings = weaker_attack_warnings(step, weak)
    assert [line.partition(":")[0] for line in warnings] == ["Net", "Real"]
    one, many = rows(results, "Net", "step(linf, 1/4)"), rows(results, "Net", "ascend(linf, 1/4, step=1/1000)")
    assert warnings[0].startswith(
        f"Net: ascend(linf, 1/4, step=1/1000) leaves {many.sum()} of 40 right, step(linf, 1/4), a single step, "
        f"{one.sum()}: "
    )
    assert weaker_attack_warnings(step, still) == weaker_attack_warnings(step, weak | {"source": "Net"}) == []
    assert weaker_attack_warnings(step, weak | {"eps": "1/2"}) == []  # another ball


def test_alarm_notes_become_warnings_and_other_notes_numbers(suite, run):
    attacks = [{"attack": "teams/ascend", "eps": "1/4"}, {"attack": "teams/nearest"}]
    report = build(run(suite(attacks=attacks)))
    cells = {cell.perturbation: cell for cell in report.cells}
    total = cells["ascend(linf, 1/4)"].notes["gradient"]
    assert report.warnings == (f"Net, ascend(linf, 1/4): gradient {total:g} over 40 examples",)
    assert cells["nearest(linf)"].notes == {"found": 40}
    assert "alarms" not in report_json.as_data(report)["cells"][1]
