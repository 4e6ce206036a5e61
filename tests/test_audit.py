"""The checks of an audit on outcomes that are known, and its place in plans, stores and reports."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from robharness import PROBE_NOTES, api
from robharness.audit.build import audit_findings, audits, iterated_findings
from robharness.audit.records import CHECKS
from robharness.audit.shares import ALPHA, FEW, Share
from robharness.audit.subject import compare
from robharness.errors import SuiteError
from robharness.findings import CODES, finding
from robharness.planning.outline import CellOutline, DataOutline, ModelOutline, PerturbationOutline
from robharness.report import tidy
from robharness.report.audit_tables import audit_table
from robharness.specs import Budget, Cost
from robharness.store.failures import Failure
from robharness.store.results import CellResult, Results

ROOT = Path(__file__).parents[1]
AUDITOR = str(Path(__file__).parent / "auditor.py")
N = 200
EPS = Budget("1/8")


# --- outcomes that are made up --------------------------------------------------------------------------------------


def right(count, n=N, first=0):
    """Examples of which `count`, from the one at `first` on, are right."""
    return np.roll(np.arange(n) < count, first)


def result(perturbation=None, correct=None, columns=None, failures=(), **facts):
    correct = right(190) if correct is None else correct
    shared = {"correct": correct, "margin": np.ones(len(correct)), "logit_range": np.full(len(correct), 9.0)}
    model, data = (
        ModelOutline(label="net", name="toys/net"),
        DataOutline(name="toys/pixels", spec="toys/pixels", size=N),
    )
    cell = CellOutline(
        key="0" * 24, model=model, data=data, perturbation=perturbation, count="all", with_features=False
    )
    values = {"failures": failures, "provenance": (), "not_numbers": 0, "n_unreadable": 0, "totals": {}} | facts
    columns = shared | (columns or {})
    return CellResult(cell=cell, n_expected=N, positions=np.arange(len(correct)), columns=columns, **values)


def attack(name="pgd", count=100, first=0, *, eps=EPS, gradients=20, columns=None, **facts):
    """The outcome of an attack that leaves `count` examples right."""
    given = {"norm": "linf", "access": "gradient", "cost": Cost(gradients=gradients), "title": name} | facts
    perturbation = PerturbationOutline(
        kind="attack", name=f"{name}(linf, {eps})", spec=f"toys/{name}", eps=Budget(eps), **given
    )
    size = {"size": np.full(N, float(Budget(eps)))}
    return result(perturbation, right(count, first=first), size | (columns or {}))


def probe(**notes):
    honest = {"gradient_rise": 1.0, "random_rise": 0.1, "predicted_rise": 1.0}
    columns = {name: np.full(N, honest.get(name, 0.0)) for name in PROBE_NOTES}
    return attack("probe", 190, audit="probe", columns=columns | {name: np.asarray(v) for name, v in notes.items()})


def audit(*cells, findings=(), clean=None):
    own = tuple(cell for cell in cells if not cell.cell.perturbation.audit)
    added = tuple(cell for cell in cells if cell.cell.perturbation.audit)
    suite, run = SimpleNamespace(audit=True), SimpleNamespace(findings=tuple(findings))
    outline = SimpleNamespace(suite=suite, run=run, n=N)
    results = Results(outline=outline, cells=(clean or result(), *own), audit_cells=added)
    [found] = audits(results)
    return found


def some(count):
    return np.arange(N) < count


FAILING = {
    "deterministic": [probe(repeat_difference=some(1) * 1e-3)],
    "independent": [probe(neighbour_difference=some(1) * 1e-3)],
    "saturation": [probe(underflow=some(20))],
    "gradient-zero": [probe(zero_gradient=some(20))],
    "gradient-finite": [probe(nan_gradient=some(1))],
    "gradient-direction": [probe(random_rise=some(100) * 2.0)],
    "gradient-slope": [probe(predicted_rise=np.full(N, 0.1))],
    "resolution": [probe(blind_step=some(20) * 0.01)],
    "budget-used": [attack(columns={"size": np.full(N, 0.5 / 8)})],
    "eps-scale": [attack(eps="8")],
    "monotone": [attack(count=50), attack(count=120, eps="1/4")],
    "iterated": [attack(count=120), attack("fgsm", 60, gradients=1)],
    "stronger": [attack(count=120), attack("apgd", 60, audit="stronger")],
    "union": [attack(count=100), attack("other", 100, first=50)],
    "noise": [attack(count=150), attack("noise", 90, audit="noise", access="decision")],
    "black-box": [attack(count=120), attack("square", 60, audit="black-box", access="scores")],
    "transfer": [attack(count=120), attack("pgd", 60, audit="transfer", surrogate="other")],
    "unbounded": [attack(count=120), attack("pgd", 20, audit="unbounded", eps="1")],
}


@pytest.mark.parametrize("code", FAILING)
def test_a_check_fails_on_its_defect_and_no_other_check_does(code):
    found = audit(*FAILING[code])
    assert [check.code for check in found.failed] == [code]
    assert found[code].figures and found[code].advice


PASSING = {
    "deterministic": [probe(repeat_difference=some(1) * 1e-6)],
    "saturation": [probe(underflow=some(3))],
    "gradient-zero": [probe(zero_gradient=some(3))],
    "gradient-direction": [probe(random_rise=some(30) * 2.0)],  # 170 of 200 may be 90 %
    "gradient-slope": [probe(predicted_rise=np.where(np.arange(N) % 2, 0.1, 1.0))],
    "resolution": [probe(blind_step=some(2) * 0.01)],
    "budget-used": [attack(columns={"size": np.where(np.arange(N) % 2, 0.5 / 8, 1 / 8)})],
    "monotone": [attack(count=100), attack(count=104, eps="1/4", first=1)],
    "iterated": [attack(count=103), attack("fgsm", 100, gradients=1)],
    "stronger": [attack(count=100), attack("apgd", 90, audit="stronger")],
    "union": [attack(count=100), attack("other", 100, first=16)],
    "noise": [attack(count=100), attack("noise", 180, audit="noise", access="decision")],
    "black-box": [attack(count=100), attack("square", 97, first=1, audit="black-box", access="scores")],
    "transfer": [attack(count=100), attack("pgd", 97, first=1, audit="transfer", surrogate="other")],
    "unbounded": [attack(count=100), attack("pgd", 7, audit="unbounded", eps="1")],
}


@pytest.mark.parametrize("code", PASSING)
def test_a_check_allows_for_sampling_noise_and_rounding(code):
    found = audit(*PASSING[code])[code]
    assert found.verdict == "passed" and not found.advice


def half(cell, first, count=N):
    """The outcomes of every other example, as those of one part of a run; the first `count` of them."""
    columns = {name: values[first::2][:count] for name, values in cell.columns.items()}
    return replace(cell, positions=cell.positions[first::2][:count], columns=columns)


@pytest.mark.parametrize("code", FAILING)
def test_cells_without_a_common_example_are_not_compared(code):
    parts = [half(cell, number % 2) for number, cell in enumerate(FAILING[code])]
    found = audit(*parts)
    assert len(parts) < 2 or code == "unbounded" or not found.failed


def test_few_survivors_do_not_tell_the_median_of_their_sizes():
    """Nine that moved little may be chance, 0.5 ** 9 > 0.001; those that an attack returned unchanged do not count."""
    sizes = np.full(N, 0.5 / 8)
    for count, verdict in ((9, "passed"), (10, "failed")):
        assert audit(attack(count=count, columns={"size": sizes}))["budget-used"].verdict == verdict
    unmoved = audit(attack(columns={"size": np.zeros(N)}))["budget-used"]
    assert unmoved.verdict == "not measured" and "no example withstood" in unmoved.figures


def test_a_few_slopes_do_not_tell_their_median():
    """At half the level, 0.0005, eleven of eleven tell, and ten of ten do not: 0.5 ** 10 > 0.0005."""
    for count, verdict in ((10, "passed"), (11, "failed")):
        for predicted in (0.1, 10.0):
            found = audit(half(probe(predicted_rise=np.full(N, predicted)), 0, count))
            assert found["gradient-slope"].verdict == verdict


@pytest.mark.parametrize("role", ["probe", "noise", "stronger", "black-box", "transfer", "unbounded"])
def test_a_check_whose_attack_failed_gives_the_reason(role):
    failure = Failure(start=0, stop=N, blame="mine", error="toys/broken: it raised KeyError: 'delta'")
    nothing = attack("broken", columns={"size": np.zeros(0)}, audit=role)
    nothing = replace(half(nothing, 0, 0), failures=(failure,))
    found = audit(attack(), nothing)
    code = "gradient-zero" if role == "probe" else role
    assert found[code].verdict == "not measured" and "KeyError: 'delta'" in found[code].figures


def test_the_worst_case_stands_beside_each_attack():
    found = audit(attack(count=100), attack("other", 100, first=50), attack("third", 150, first=0))
    assert found["union"].figures == (
        "50 of 200 withstand all attacks in the ball; alone: 100 other(linf, 1/8), 100 pgd(linf, 1/8), "
        "150 third(linf, 1/8)"
    )
    many = audit(*(attack(f"a{number}", 100 + number) for number in range(10)))
    assert many["union"].figures.endswith("107 a7(linf, 1/8), 2 weaker attacks")


def test_noise_is_not_measured_where_no_attack_does_anything():
    found = audit(attack(count=186), attack("noise", 187, audit="noise", access="decision"))
    assert found["noise"].verdict == "not measured" and "too few" in found["noise"].figures


def test_checks_without_their_cells_are_not_measured():
    found = audit()
    measured = {check.code for check in found.checks if check.verdict != "not measured"}
    assert measured == {"probe", "unchanged", "pass-shapes", "finite", "outputs", "logit-scale"}
    assert not found.failed and list(CHECKS) == [check.code for check in found.checks]


def test_facts_of_the_clean_outcomes_and_findings_of_the_plan_are_checked():
    clean = result(columns={"logit_range": np.full(N, 1e6)}, not_numbers=3)
    advised = [
        finding("attack-advice", "an option has no effect", subject="pgd"),
        finding("steps-too-short", "its steps reach at most 0.5 eps", subject="pgd"),
        finding("budget-below-half-level", "less than half a grey level", subject="pgd"),
    ]
    found = audit(attack(), clean=clean, findings=advised)
    assert [check.code for check in found.failed] == ["finite", "logit-scale", "step-reach", "half-level"]
    [reported] = audit_findings([found])  # the others have findings of their own
    assert (reported.code, reported.hint) == ("audit-failed", found["logit-scale"].advice) != ("audit-failed", "")
    assert found["step-reach"].figures == "pgd: its steps reach at most 0.5 eps"
    other = audit(attack(), findings=advised[:1])
    assert other["step-reach"].verdict == "passed"  # advice on other options is no matter of steps


def test_a_refused_model_fails_by_the_reason_alone():
    failure = Failure(start=0, stop=N, blame="mine", error="net: its forward pass draws random numbers")
    found = audit(clean=result(correct=np.zeros(0, bool), failures=(failure,)))
    assert [check.code for check in found.failed] == ["probe"] and "draws random numbers" in found["probe"].figures
    assert {(check.verdict, check.figures) for check in found.checks[1:]} == {
        ("not measured", "the model gives no results")
    }
    assert not list(audit_findings([found]))  # the cell's failure is the finding


@pytest.mark.parametrize("code", ["deterministic", "independent", "unchanged"])
def test_a_failure_fails_the_check_that_it_refutes(code):
    failure = Failure(start=0, stop=N, blame="mine", error="net: it does something", refutes=code)
    refused = audit(clean=result(correct=np.zeros(0, bool), failures=(failure,)))
    assert [check.code for check in refused.failed] == ["probe", code]
    assert refused[code].figures == str(failure) and refused[code].advice
    assert not list(audit_findings([refused]))
    partly = audit(replace(attack(), failures=(failure,)))
    assert [check.code for check in partly.failed] == [code]


def test_the_tests_of_two_attacks_keep_their_level():
    """Two attacks that are equally strong fail a check in at most about ALPHA of samples."""
    draws, failed, samples = np.random.default_rng(0), 0, 3000
    for _ in range(samples):
        broken = draws.permutation(N)
        one, other = attack(count=100), attack("square", 100, audit="black-box", access="scores")
        other.columns["correct"] = one.correct.copy()
        swapped = broken[:40]  # examples on which the two differ, by a fair coin
        other.columns["correct"][swapped] = draws.random(40) < 0.5
        one.columns["correct"] = one.correct.copy()
        one.columns["correct"][swapped] = ~other.correct[swapped]
        failed += compare(one, other).p_fall <= ALPHA
    assert failed / samples < 3 * ALPHA


def test_a_share_is_bounded_exactly():
    from scipy.stats import beta

    share = Share(7, 100)
    assert share.low == pytest.approx(beta.ppf(ALPHA, 7, 94), rel=1e-6)
    assert share.high == pytest.approx(beta.ppf(1 - ALPHA, 8, 93), rel=1e-6)
    assert Share(0, 100).low == 0 and Share(7, 100).low > FEW > Share(5, 100).low


# --- which cells and examples a check reads -------------------------------------------------------------------------


def passes(hint, subject="net"):
    return finding("inexact-passes", "rounding makes its logits depend on neighbours", subject=subject, hint=hint)


def test_passes_of_other_shapes_fail_by_a_large_difference_only():
    near = result(columns={"margin": np.where(some(5), -4e-4, 1.0)})  # 1e-4 of the range, 9, is 9e-4
    exact = "; passes are exact on this device"
    figures = "5 of 200 examples are so near the boundary that a pass of another shape can change their prediction"
    small, large, other = passes("nothing needs doing"), passes("compare"), passes("compare", "another")
    for found, verdict, end in ((small, "passed", ""), (large, "failed", ""), (other, "passed", exact)):
        check = audit(clean=near, findings=[found])["pass-shapes"]
        assert (check.verdict, check.figures) == (verdict, figures + end)
    for by, verdict in ((1e-2, "failed"), (1e-6, "passed")):
        recorded = result(provenance=({"exact": {"rows": False, "rows_by": by}, "device": "cpu"},))
        assert audit(clean=recorded)["pass-shapes"].verdict == verdict


def test_outputs_fail_by_the_finding_of_the_model():
    for subject, verdict in (("net", "failed"), ("another", "passed")):
        more = finding("more-outputs-than-classes", "it has 12 outputs", subject=subject, hint="leave two out")
        check = audit(findings=[more])["outputs"]
        assert check.verdict == verdict
        assert verdict == "passed" or (check.figures, check.advice) == ("it has 12 outputs", "leave two out")


def test_the_range_of_logits_is_that_of_the_median():
    for count, verdict in ((90, "passed"), (110, "failed")):
        assert audit(clean=result(columns={"logit_range": np.where(some(count), 1e6, 9.0)}))["logit-scale"].verdict == (
            verdict
        )


def test_notes_count_the_examples_that_the_probe_saw():
    unseen = np.where(some(50), np.nan, 1.0)
    found = audit(probe(gradient_rise=unseen))
    assert found["gradient-direction"].numbers == {"share": 1, "n": 150}
    assert found["gradient-zero"].numbers["n"] == N
    none = audit(probe(gradient_rise=np.full(N, np.nan)))
    assert none["gradient-direction"].verdict == none["gradient-slope"].verdict == "not measured"
    flat = audit(probe(gradient_rise=np.zeros(N), random_rise=np.zeros(N), predicted_rise=np.zeros(N)))
    assert flat["gradient-direction"].verdict == "failed"  # a step that changes nothing does not raise the loss more
    assert flat["gradient-slope"].figures == "no example has a gradient that predicts a rise"
    assert audit(probe(predicted_rise=some(150) * 1.0))["gradient-slope"].numbers == {"median": 1, "n": 150}
    assert "a step of all pixels of up to 2.55/255" in audit(probe(blind_step=some(9) * 0.01))["resolution"].figures


def test_checks_of_all_cells_count_those_with_outcomes():
    found = audit(replace(attack(), not_numbers=3), half(attack("empty"), 0, 0))
    assert found["finite"].figures == "3 of 400 outcomes have logits that are not numbers"
    assert found["unchanged"].figures == "compared after each batch of 2 cells"
    nothing, failure = half(attack(), 0, 0), Failure(start=0, stop=N, blame="mine", error="net: it fails")
    begun = audit(nothing, clean=result(correct=np.zeros(0, bool), failures=(failure,)))
    assert begun["probe"].verdict == "not measured"  # other cells may yet have outcomes


def small_sizes(share=0.5):
    return {"size": np.full(N, share / 8)}


def test_the_budget_is_used_by_iterated_attacks_where_they_did_not_succeed():
    wrong = ~right(100)
    assert audit(attack(columns={"size": np.where(wrong, 0.1, 1.0) / 8}))["budget-used"].verdict == "passed"
    reason = "no iterated white-box attack under linf, l2 or l1 has outcomes"
    others = (
        {"gradients": 1}, {"norm": "patch"}, {"surrogate": "other"}, {"access": "scores"}, {"is_targeted": True},
        {"access": "features"},
    )  # fmt: skip
    for facts in others:
        check = audit(attack(columns=small_sizes(), **facts))["budget-used"]
        assert (check.verdict, check.figures) == ("not measured", reason)
    two = [attack(name, 10, columns=small_sizes(share)) for name, share in (("a", 0.5), ("b", 0.4))]
    found = audit(*two)["budget-used"]  # ten tell at the level of one test, 0.5 ** 10, and not at that of two
    assert found.verdict == "passed" and found.figures.startswith("b(linf, 1/8) moved the 10 examples")
    assert audit(attack(), attack("c", 20, columns=small_sizes()))["budget-used"].figures.startswith("c(")
    assert "moved the 1 example that" in audit(attack(count=1))["budget-used"].figures


def test_steps_that_are_too_short_are_all_named():
    short = [finding("steps-too-short", "its steps are short", subject=name) for name in ("pgd", "apgd")]
    assert (
        audit(attack(), findings=short)["step-reach"].figures == "pgd: its steps are short; apgd: its steps are short"
    )


def test_budgets_of_linf_are_below_one():
    assert audit(attack(eps="1"))["eps-scale"].verdict == "failed"
    assert audit(attack(eps="2", norm="l2"))["eps-scale"].verdict == "passed"


def test_budgets_of_one_attack_are_compared_in_their_order():
    assert audit(attack(count=120, eps="1/4"), attack(count=50))["monotone"].verdict == "failed"
    for facts in ({"is_targeted": True}, {"access": "features"}, {"title": "pgd with more steps"}):
        assert audit(attack(count=50), attack(count=120, eps="1/4", **facts))["monotone"].verdict == "not measured"
    found = audit(attack(count=100), attack(count=110, eps="1/4"), attack(count=110, eps="1/2"))["monotone"]
    assert found.verdict == "passed" and "(linf, 1/4) 110 (p = 0.00098)" in found.figures  # 0.5 ** 10, two tests
    assert audit(attack(count=100), attack(count=110, eps="1/4"))["monotone"].verdict == "failed"


def test_a_single_step_is_compared_in_its_ball():
    step = attack("fgsm", 60, gradients=1, audit="single-step")
    assert audit(attack(count=120), step)["iterated"].verdict == "failed"
    for facts in ({"eps": "1/4"}, {"cost": Cost(gradients=1, shared_gradients=40)}):
        other = attack("fgsm", 60, gradients=1, **facts)
        assert audit(attack(count=120), other)["iterated"].verdict == "not measured"


def test_more_effort_counts_together_at_the_largest_budget():
    added = [attack(name, 100, first, eps="1/4", audit="stronger") for name, first in (("a", 0), ("b", 40))]
    found = audit(attack(), attack(eps="1/4"), attack("weak", 150, eps="1/4"), *added)["stronger"]
    assert found.verdict == "failed"
    assert found.figures == "pgd(linf, 1/4) leaves 100 of 200 right, together with a(linf, 1/4) and b(linf, 1/4) 60"
    assert audit(attack(), attack("a", 89, audit="stronger"))["stronger"].verdict == "failed"  # the bound: 90


def test_the_worst_ball_is_that_of_the_union():
    apart = [attack(count=100, norm="l2"), attack("other", 100, first=50, norm="l2")]
    alike = [attack(count=100), attack("other", 100)]
    for cells in ([*apart, *alike], [*alike, *apart]):
        assert audit(*cells)["union"].figures.startswith("50 of 200 withstand")
    scores = attack("square", 100, first=50, access="scores")
    assert audit(attack(count=100), scores)["union"].verdict == "failed"


def noise(count, **facts):
    return attack("noise", count, audit="noise", access="decision", **facts)


def test_noise_is_compared_in_each_ball():
    two = [attack(count=100), attack("two", 100, norm="l2")]
    unclear = audit(*two, noise(110), noise(180, norm="l2"))["noise"]  # 0.5 ** 10 does not tell at the level of two
    assert unclear.verdict == "not measured" and "noise(linf, 1/8) 110" in unclear.figures
    assert audit(two[0], noise(110))["noise"].verdict == "passed"
    worse = audit(*two, noise(100), noise(60, norm="l2"))["noise"]
    assert worse.verdict == "failed" and worse.figures.startswith("two(")


def test_attacks_of_the_suite_without_gradients_and_from_other_models_count():
    assert audit(attack(count=120), attack("square", 60, access="scores"))["black-box"].verdict == "failed"
    assert audit(attack(count=120), attack("other", 60, surrogate="other"))["transfer"].verdict == "failed"
    both = attack("ensemble", 60, surrogate=("net", "other"))
    assert audit(attack(count=120), both)["transfer"].verdict == "not measured"
    boxes = [attack(name, count, audit="black-box", access="scores") for name, count in (("a", 100), ("b", 90))]
    found = audit(attack(count=100), *boxes)["black-box"]
    assert found.verdict == "passed" and "b(linf, 1/8) 90 (p = 0.00098)" in found.figures  # two tests
    assert audit(attack(count=100), boxes[1])["black-box"].verdict == "failed"


def test_a_single_step_as_strong_as_an_iterated_attack_is_no_finding():
    for count, codes in ((100, []), (99, ["weaker-iterated-attack"])):
        run = SimpleNamespace(findings=())
        outline = SimpleNamespace(suite=SimpleNamespace(audit=True), run=run, n=N)
        cells = (result(), attack(count=100), attack("fgsm", count, gradients=1))
        assert [each.code for each in iterated_findings(Results(outline=outline, cells=cells))] == codes


def test_the_table_says_if_examples_are_few():
    for n, is_few in ((99, True), (100, False)):
        table = audit_table(SimpleNamespace(audits=(audit(attack()),), n=n))
        assert table.caption.endswith("; few examples refute little") == is_few


# --- in a suite -----------------------------------------------------------------------------------------------------


@pytest.fixture
def audited(suite, tmp_path, toys):
    def run(**changes):
        return api.run(suite(**{"audit": True} | changes), store=tmp_path / "store", plugins=[toys, AUDITOR])

    return run


def test_an_audit_adds_cells_and_changes_nothing_else(audited, suite, run):
    with_audit, without = audited().report(), run(suite()).report()
    assert with_audit.cells == without.cells and with_audit.worst_cases == without.worst_cases
    assert without.audits == () and [each.model for each in with_audit.audits] == ["Net"]


def is_of_tests(cell):
    """Whether a cell is declared here, and not by a plugin that is installed."""
    return cell.perturbation.spec.startswith(("auditor/", "toys/"))


def test_the_cells_of_an_audit_are_those_that_plugins_declare(audited):
    results = audited()
    cells = {each.cell.perturbation.audit: each.cell for each in results.audit_cells if is_of_tests(each.cell)}
    assert {role: cell.what for role, cell in cells.items()} == {
        "probe": "probe(linf, 1/8)",
        "noise": cells["noise"].what,
        "stronger": "climb(linf, 1/4, steps=9)",
    }
    assert cells["noise"].what in ("noise(linf, 1/4)", "auditor/noise(linf, 1/4)")  # the second beside other plugins
    assert {cell.kind for cell in cells.values()} == {"audit"} and not any(cell.is_own for cell in cells.values())
    assert results.is_complete and all(each.is_complete for each in results.audit_cells)


def test_the_report_shows_verdicts_figures_and_advice(audited, tmp_path):
    results = audited()
    [found] = results.report().audits
    assert found["deterministic"].verdict == "passed" and found["transfer"].verdict == "not measured"
    for suffix in (".txt", ".md", ".html", ".tex"):
        results.save(tmp_path / f"report{suffix}")
        text = (tmp_path / f"report{suffix}").read_text()
        assert "audit" in text.lower() and "not measured" in text
        assert suffix != ".html" or ">Check<" in text  # the heading of the first column
        assert found["deterministic"].figures[:30].lower() in text.lower() or suffix == ".tex"


def test_tidy_rows_have_a_verdict_per_measured_check_and_its_figures(audited):
    rogue = {"attack": "toys/rogue", "eps": "1/4", "how": "train-mode"}
    report = audited(attacks=[{"attack": "toys/climb", "eps": "1/4"}, rogue]).report()
    found = [row for row in tidy.rows(report) if row["kind"] == "audit"]
    [audit] = report.audits
    rows = {row["part"]: row["value"] for row in found if row["statistic"] == "audit_passed"}
    measured = [check for check in audit.checks if check.verdict != "not measured"]
    assert rows == {check.code: float(check.verdict == "passed") for check in measured}
    assert rows["unchanged"] == 0 and rows["probe"] == 1
    figures = {(row["part"], row["statistic"]): (row["value"], row["n"], row["model"]) for row in found}
    slope = audit["gradient-slope"].numbers
    assert figures["gradient-slope", "audit_median"] == (slope["median"], slope["n"], "Net")
    assert "audit_n" not in {row["statistic"] for row in found}


def test_a_store_alone_has_the_same_audit(audited, tmp_path):
    report = audited().report()
    assert api.load("toys", store=tmp_path / "store").report().audits == report.audits != ()


def test_the_option_audits_a_suite_that_does_not_ask_for_it(suite, shell, tmp_path):
    (tmp_path / "suite.yaml").write_text(json.dumps(suite()))

    def plan(*options):
        plugins = [ROOT / "tests/toys.py", AUDITOR]
        return shell("plan", "suite.yaml", *options, "--json", plugins=plugins).stdout

    planned = json.loads(plan("--audit"))
    names = [cell["perturbation"] for cell in planned["cells"]]
    assert {"probe(linf, 1/8)", "noise(linf, 1/4)", "climb(linf, 1/4, steps=9)"} <= set(names)
    assert "noise(linf, 1/4)" not in [cell["perturbation"] for cell in json.loads(plan())["cells"]]


def test_a_declaration_that_is_wrong_is_an_error_that_names_the_plugin(suite, tmp_path, toys):
    plugin = tmp_path / "wrong.py"
    plugin.write_text(
        "from robharness import AuditSpec, hookimpl\n\n\n@hookimpl\ndef robharness_audits():\n"
        "    yield AuditSpec(role='noise', items=lambda target: [{'attack': 3}])\n"
    )
    with pytest.raises(SuiteError, match=r"audit: the role noise of .*wrong.py.*key 'attack'"):
        api.plan(suite(audit=True), store=tmp_path / "store", plugins=[toys, str(plugin)])
    plugin.write_text(plugin.read_text().replace("'noise'", "'probe'").replace("3", "'toys/climb'"))
    with pytest.raises(SuiteError, match=r"audit: the role probe .*toys/climb must declare the notes"):
        api.plan(suite(audit=True), store=tmp_path / "store", plugins=[toys, str(plugin)])


class Refused(nn.Module):
    """A network that the core refuses: it draws random numbers, mixes the examples of a pass, or moves a buffer."""

    def __init__(self, how):
        super().__init__()
        self.how, self.layer = how, nn.Linear(64, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        x = x.flatten(1)
        if self.how == "deterministic":
            x = x + torch.empty_like(x).uniform_()
        if self.how == "independent":
            x = x - x.mean(0)
        if self.how == "unchanged":
            self.calls += 1
        return self.layer(x)


def test_the_check_that_a_refusal_refutes_fails(suite, tmp_path, toys):
    nets = {how: Refused(how) for how in ("deterministic", "independent", "unchanged")}
    source = suite(audit=True, models=None)
    results = api.run(source, models=nets, store=tmp_path / "store", plugins=[toys, AUDITOR])
    assert {each.model: [check.code for check in each.failed] for each in results.report().audits} == {
        how: ["probe", how] for how in nets
    }


def test_an_attack_that_changes_the_model_fails_a_check(audited):
    """The attack's cell fails, the others have outcomes; a cell that fails for another reason fails no check."""
    for how, verdict in (("train-mode", "failed"), ("changes-weights", "failed"), ("writes-labels", "passed")):
        results = audited(attacks=[{"attack": "toys/climb", "eps": "1/4"}, {"attack": "toys/rogue", "eps": "1/4",
                                                                             "how": how}])  # fmt: skip
        found = results.report().audits[0]["unchanged"]
        assert found.verdict == verdict
        assert verdict == "passed" or "toys/rogue: it changed the model's" in found.figures


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_reference_lists_the_checks_and_the_notes():
    text = (ROOT / "docs/reference/audit.md").read_text()
    checks = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| [^|]+ \| `([a-z-]+)` \| [^|]+ \|$", text, re.MULTILINE)
    expected = [(code, title, reported or "audit-failed") for code, (title, reported) in CHECKS.items()]
    assert checks == expected and {reported for *_, reported in checks} <= set(CODES)
    notes = re.findall(r"^\| `([a-z_]+)` \| (bool|float) \|", text, re.MULTILINE)
    assert notes == [(name, kind.__name__) for name, kind in PROBE_NOTES.items()]
