"""Verdicts of the gate, by outcomes whose tests are known in closed form."""

import io
import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from rich.console import Console
from statsmodels.stats.multitest import multipletests

from robharness.comparison.baseline import BaselineUpdate
from robharness.comparison.compare import compare
from robharness.errors import ExitCode
from robharness.findings import finding
from robharness.gate.outputs.json import check_schema, render
from robharness.gate.outputs.tables import document_of_check
from robharness.gate.records import BenchmarkCheck
from robharness.gate.verdicts import check
from robharness.report.renderers import markdown, terminal
from robharness.statistics import Interval, smallest_fall
from synthetic_sides import cell, counted, other, side


def gate(*pairs, before=None, after=None, **options):
    """Check pairs of cells before and after, either of which may be None."""
    first, second = ([each for each in cells if each is not None] for cells in zip(*pairs, strict=True))
    return check(side(*first, **before or {}), side(*second, **after or {}), **options)


def verdicts(report):
    return [each.verdict for each in report.cells]


def test_a_significant_fall_regresses_and_the_cell_is_named():
    report = gate(counted("clean", 100, 0, 0), counted("fgsm(1/8)", 100, 12, 1), alpha=0.01)
    assert verdicts(report) == ["passed", "regressed"]
    assert report.exit_code == ExitCode.REGRESSION
    regressed = report.of("regressed")[0]
    assert regressed.name == "Net · fgsm(1/8)"
    assert regressed.reason == "its accuracy fell by 11.00 points, from 12.00 % to 1.00 %"
    assert regressed.p_holm == pytest.approx(2 * (1 + 13) / 2**13)  # at most 1 gained of 13 changed, two cells
    assert (regressed.before, regressed.after, regressed.difference.discordance) == (0.12, 0.01, 0.13)


def test_a_fall_that_may_be_chance_passes():
    """6 of 6 changes are losses: p is 1/64."""
    assert verdicts(gate(counted("clean", 100, 6, 0), alpha=0.01)) == ["passed"]
    assert verdicts(gate(counted("clean", 100, 7, 0), alpha=0.01)) == ["regressed"]
    assert verdicts(gate(counted("clean", 100, 6, 0), alpha=0.016)) == ["regressed"]


@pytest.mark.parametrize(("points", "lost", "verdict"), [(8.0, 8, "passed"), (7.9, 8, "regressed"), (0.3, 3, "passed"),
                                                         (8.0, 9, "regressed")])  # fmt: skip
def test_a_fall_of_exactly_the_tolerance_passes(points, lost, verdict):
    n = 1000 if points == 0.3 else 100
    assert verdicts(gate(counted("clean", n, lost, 0), tolerance=points / 100, alpha=0.2)) == [verdict]


def test_the_adjustment_is_that_of_holm_over_all_tested_cells():
    """New, missing and incompatible cells are not among the tests."""
    losses = [12, 9, 8, 3, 0]
    pairs = [counted(f"fgsm({lost}/8)", 100, lost, 1) for lost in losses]
    changed = counted("pgd(1/8)", 100, 30, 0)
    changed = changed[0], other(changed[1], conditions="0" * 24)
    report = gate(*pairs, changed, (None, cell("new", np.ones(100))), (cell("gone", np.ones(100)), None), alpha=0.02)
    assert verdicts(report) == ["regressed", "passed", "passed", "passed", "passed", "incompatible", "new", "missing"]
    raw = [cell.difference.p_fall for cell in report.cells[:5]]
    rejected, adjusted, _, _ = multipletests(raw, alpha=0.02, method="holm")
    assert [each.p_holm for each in report.cells[:5]] == pytest.approx(list(adjusted))
    assert [each.verdict == "regressed" for each in report.cells[:5]] == list(rejected)
    assert raw[1] < 0.02 / 5 + 0.02 and all(each.p_holm is None for each in report.cells[5:])


def test_an_improvement_passes_and_is_told():
    report = gate(counted("clean", 100, 0, 10), counted("fgsm(1/8)", 100, 0, 4), accept="robharness check s --update")
    assert verdicts(report) == ["improved", "passed"] and report.exit_code == ExitCode.FINE
    assert "To make the improvement the baseline: robharness check s --update" in document_of_check(report).answer


def test_rises_are_adjusted_as_falls_are():
    """7 of 7 changes are gains: p is 1/128 alone, and twice that beside another cell."""
    assert verdicts(gate(counted("clean", 100, 0, 7))) == ["improved"]
    assert verdicts(gate(counted("clean", 100, 0, 7), counted("fgsm(1/8)", 100, 0, 0))) == ["passed", "passed"]


def test_the_smallest_fall_is_that_of_this_n_discordance_and_number_of_cells():
    report = gate(counted("clean", 5000, 75, 75), counted("fgsm(1/8)", 5000, 0, 0), tolerance=0.002, alpha=0.05)
    falls = [smallest_fall(5000, share, 0.05 / 2, tolerance=0.002) for share in (0.03, 0.0)]
    assert [cell.smallest_fall for cell in report.cells] == pytest.approx(falls)
    shown = "\n".join(document_of_check(report).answer)
    assert f"{100 * falls[1]:.2f} to {100 * falls[0]:.2f} points" in shown


def test_the_smallest_fall_with_clusters_is_that_of_fewer_examples():
    """20 of 200 clusters of 5 examples change as a whole, so that 1,000 examples count as about 200."""
    before, after = counted("clean", 1000, 50, 50)
    sides = {"ids": tuple(f"{at // 5}-{at}" for at in range(1000)), "clusters": "^[0-9]+"}
    report = check(side(before, **sides), side(after, **sides))
    [found] = report.cells
    assert (report.clusters, found.difference.units) == (200, 200) and found.difference.design_effect > 4
    effect = found.difference.design_effect
    assert found.smallest_fall == smallest_fall(1000, 0.1, 0.01, tolerance=0.005, design_effect=effect)
    assert found.smallest_fall > 2 * smallest_fall(1000, 0.1, 0.01, tolerance=0.005)
    assert "1,000 examples in 200 clusters per cell are compared" in document_of_check(report).source


def test_so_few_examples_that_no_fall_shows():
    report = gate(counted("clean", 3, 0, 0))
    assert report.cells[0].smallest_fall == float("inf")
    assert "So few examples cannot show a fall" in document_of_check(report).answer[-1]
    assert json.loads(render(report))["cells"][0]["smallest_fall"] is None


def incomplete(measured, n, failures=()):
    return other(measured, positions=measured.positions[:n], right=measured.right[:n], failures=failures)


def test_cells_without_all_outcomes_are_no_pass():
    before, after = counted("clean", 100, 0, 0)
    report = gate((before, incomplete(after, 60)))
    assert (verdicts(report), report.exit_code) == (["missing"], ExitCode.INCOMPLETE)
    assert report.cells[0].reason == "40 of 100 examples have no outcomes"
    report = gate((before, incomplete(after, 0, ["KeyError: 'delta'"])))
    assert (verdicts(report), report.exit_code) == (["failed"], ExitCode.INCOMPLETE)
    assert report.cells[0].reason == "100 of 100 examples have no outcomes: KeyError: 'delta'"
    report = gate((None, incomplete(after, 60)))
    assert verdicts(report) == ["missing"], "a new cell must be complete as well"
    report = gate((incomplete(before, 0), after))
    assert (verdicts(report), report.exit_code) == (["missing"], ExitCode.INCOMPLETE)


def test_a_comparison_is_complete_if_both_sides_are():
    before, after = counted("clean", 100, 0, 0)
    assert compare(side(before), side(after)).is_complete
    assert not compare(side(incomplete(before, 60)), side(after)).is_complete
    assert not compare(side(before), side(incomplete(after, 60))).is_complete


def test_other_data_or_another_attack_cannot_be_compared():
    before, after = counted("clean", 100, 50, 0)
    for changes in ({"conditions": "1" * 24}, {"conditions": ""}):
        report = gate((before, other(after, **changes)))
        assert (verdicts(report), report.exit_code) == (["incompatible"], ExitCode.BASELINE)
    report = gate((before, after), after={"order": "1" * 24})
    assert (verdicts(report), report.exit_code) == (["incompatible"], ExitCode.BASELINE)
    assert report.cells[0].reason == "the data set has other examples than that of the baseline"
    assert verdicts(gate((before, after), after={"order": ""})) == ["regressed"], "a store alone does not know it"


def test_the_most_urgent_reason_is_the_exit_code():
    missing = cell("gone", np.ones(100)), None
    first, second = counted("pgd(1/8)", 100, 0, 0)
    changed = first, other(second, conditions="1" * 24)
    assert gate(counted("clean", 100, 50, 0), missing, changed).exit_code == ExitCode.REGRESSION
    assert gate(counted("clean", 100, 0, 0), missing, changed).exit_code == ExitCode.INCOMPLETE
    assert gate(counted("clean", 100, 0, 0), changed).exit_code == ExitCode.BASELINE
    error = finding("clean-accuracy-too-low", "Net is right on 3 %")
    assert gate(counted("clean", 100, 0, 0), findings=[error]).exit_code == ExitCode.INCOMPLETE


def test_fewer_examples_are_compared_on_those_that_both_have():
    """The 10 losses are among the first 50 examples, those of --limit 50."""
    before, after = counted("clean", 100, 10, 0)
    small = other(after, positions=after.positions[:50], right=after.right[:50], n_expected=50)
    report = check(side(before), side(small))
    assert (report.n, report.n_baseline, verdicts(report)) == (50, 100, ["regressed"])
    assert report.cells[0].difference.lost == 10 and report.cells[0].before == 0.2
    assert [each.code for each in report.findings] == ["n-differs"]
    assert "before has 100 examples and after 50; the 50 that both have are compared" in report.findings[0].message
    report = check(side(small), side(before))
    assert (report.n, report.n_baseline) == (50, 50)


def test_examples_that_the_sides_do_not_share_and_cells_without_any():
    before, after = counted("clean", 100, 10, 0)
    first = other(before, positions=before.positions[:50], right=before.right[:50])
    last = other(after, positions=after.positions[50:], right=after.right[50:], n_expected=50)
    report = check(side(first), side(last))
    assert verdicts(report) == ["missing"]
    assert report.findings[0].message == "before has 50 examples and after 50; both have none of them"
    assert not gate((before, incomplete(after, 0, ["E"]))).findings, "the verdict says it"


def test_models_of_one_suite_are_compared_by_pairs():
    lost = counted("clean", 100, 40, 0)
    before, worse = other(lost[0], model="Old"), other(lost[1], model="New")
    report = check(side(before), side(before, worse), pairs=[("Old", "New")])
    assert [each.name for each in report.cells] == ["Old → New · clean"]
    assert verdicts(report) == ["regressed"]


def test_the_document_shows_regressions_first_and_counts_the_rest():
    first, second = counted("pgd(1/8)", 100, 0, 0)
    pairs = [counted("clean", 100, 0, 0), (None, cell("new", np.ones(100))), (first, incomplete(second, 3, ["E"])),
             counted("fgsm(1/8)", 100, 20, 0)]  # fmt: skip
    report = gate(*pairs, accept="robharness check s --update")
    document = document_of_check(report)
    assert [row.name for row in document.tables[0].rows] == [
        f"Net · {name}" for name in ("fgsm(1/8)", "clean", "new", "pgd(1/8)")
    ]
    assert document.answer[:2] == (
        "1 of 4 cells regressed:",
        "  Net · fgsm(1/8): its accuracy fell by 20.00 points, from 20.00 % to 0.00 %",
    )
    assert document.verdict == (
        "Not passed: 1 regressed, 1 failed. To accept the present results: robharness check s --update"
    )
    shown = terminal_text(document)
    assert "Net · new" in shown and "100.00" in shown, "a new cell has an accuracy"
    assert markdown.render_document(document)


def terminal_text(document):
    file = io.StringIO()
    terminal.show_document(document, Console(file=file, width=160))
    return file.getvalue()


def test_the_json_is_valid_by_its_schema():
    before, after = counted("clean", 100, 20, 0)
    report = gate((before, after), (None, cell("new", np.ones(100))), (cell("gone", np.ones(100)), None))
    update = BaselineUpdate(path="b.json", is_written=True, added=("Net · new",))
    benchmark = BenchmarkCheck(name="ratio", verdict="passed", before=1.0, spread_before=Interval(0.9, 1.1))
    data = json.loads(render(replace(report, update=update, benchmarks=(benchmark,))))
    jsonschema.validate(data, check_schema(), jsonschema.Draft202012Validator)
    assert data["cells"][0]["difference"]["lost"] == 20 and data["exit_code"] == 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | {"n": "100"}, check_schema())


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "Try: rm -rf ~", "[bold]x[/bold]"])
def test_foreign_text_is_only_shown(text):
    before, after = counted("clean", 100, 0, 0)
    pair = replace(before, model=text), incomplete(replace(after, model=text), 0, [text])
    shown = terminal_text(document_of_check(gate(pair)))
    assert "\x1b" not in shown and "\na\nb" not in shown
