"""Measures: counts of changed values, a plugin's own size of perturbations, and attacks that are fitted first."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from robharness import Measure, ThreatModel, api, discover
from robharness.errors import ContractViolation, SuiteError, UserError
from robharness.evaluation import referee
from robharness.report import build
from robharness.specs import NORMS
from robharness.testing import Broken, checks

TOYS = str(Path(__file__).parent / "toys.py")
PLUGIN = """
from dataclasses import dataclass

import torch

from robharness import AttackSpec, Cost, Measure, ThreatModel, hookimpl


@dataclass(frozen=True, kw_only=True)
class Params:
    bottom: bool = False


def changed(clean, perturbed):
    return (clean != perturbed).any(1).any(2).sum(1).double()


ROWS = Measure(name="rows", unit="rows", distance=changed, is_count=True, is_batched=True, typical="2")


class Invert:
    def __init__(self, params):
        self.params = params

    def perturb(self, model, batch, eps, rng):
        x, rows = batch.x.clone(), int(eps)
        part = x[:, :, x.shape[2] - rows :] if self.params.bottom else x[:, :, :rows]
        part.neg_().add_(1)
        return x


def spec(**more):
    return AttackSpec(**dict(
        name="invert", summary="Rows", access="decision", params=Params,
        threat=lambda params: ThreatModel(measure=ROWS), cost=lambda params: Cost(), build=Invert, randomness="none",
        inputs=frozenset({"image"}),
    ) | more)


@hookimpl
def robharness_attacks():
    yield spec()
"""


@pytest.fixture
def plugin(tmp_path):
    """A function that writes a plugin, with parts of its text replaced, and returns its path."""

    def write(name="rows", **changes):
        text = PLUGIN
        for old, new in changes.get("replace", {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.py"
        path.write_text(dedent(text) + changes.get("more", ""))
        return str(path)

    return write


@pytest.mark.parametrize("norm", ["l0", "l0-pixels"])
def test_counts_are_those_of_numpy(norm):
    draws = np.random.default_rng(0)
    clean = draws.random((6, 3, 2, 4, 5), np.float32)  # clips of two frames
    perturbed = clean.copy()
    for row in range(1, 6):
        for _ in range(2 * row):
            perturbed[(row, *(draws.integers(n) for n in clean.shape[1:]))] = 0
    moved = clean != perturbed
    wanted = moved.reshape(6, -1).sum(1) if norm == "l0" else moved.any(1).reshape(6, -1).sum(1)
    found = referee.distance(torch.from_numpy(clean), torch.from_numpy(perturbed), NORMS[norm])
    assert found.tolist() == wanted.tolist() and found[0] == 0


def test_a_count_has_no_tolerance():
    clean, moved = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    moved[0, :2, 1, 1] = 0.5
    for norm, size, budget in (("l0", 2, "1 value"), ("l0-pixels", 1, "0 pixels")):
        assert referee.checked(moved, clean, notes={}, eps=size, measure=NORMS[norm])[1].tolist() == [size]
        with pytest.raises(ContractViolation, match=f"its budget is {norm} {budget}, and example 0 .* {size}"):
            referee.checked(moved, clean, notes={}, eps=size - 1, measure=NORMS[norm])


@pytest.mark.parametrize(
    ("distance", "sentence"),
    [
        (lambda a, b: 1 / 0, "its measure 'own' raised ZeroDivisionError"),
        (lambda a, b: (b - a).flatten(1).sum(1).double(), "returned -1, not a size of at least 0"),
        (lambda a, b: torch.full((1,), torch.nan).double(), "returned nan, not a size"),
        (lambda a, b: torch.zeros(1), r"returned \(1,\) float32, not \(1,\) float64"),
        (lambda a, b: torch.zeros(2).double(), r"returned \(2,\) float64, not \(1,\) float64"),
        (lambda a, b: np.random.random(1), "changed the global generator of numpy.random"),
        (lambda a, b: torch.full((1,), torch.inf).double(), "example 0 of the batch lies outside of its threat model"),
        (lambda a, b: a.zero_().flatten(1).sum(1).double() + 7, "its budget is own 5 m, and example 0 .* by 7"),
    ],
)
def test_a_measure_that_breaks_its_contract_is_named(distance, sentence):
    clean, x = torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    x[:, 0, 0, 0] = 0
    with pytest.raises(ContractViolation, match=sentence) as caught:
        referee.checked(x, clean, notes={}, eps=5.0, measure=Measure(name="own", unit="m", distance=distance))
    assert caught.value.by == "perturbation"
    assert (clean == 1).all()


def test_a_size_may_exceed_the_budget_by_its_slack():
    clean = torch.zeros(1, 1, 1, 1)
    measure = Measure(name="own", distance=lambda a, b: torch.tensor([5.0004], dtype=torch.float64))
    assert referee.checked(clean, clean, notes={}, eps=5.0, measure=measure)[1].tolist() == [5.0004]
    with pytest.raises(ContractViolation):
        referee.checked(clean, clean, notes={}, eps=5.0003 / 1.0002, measure=measure)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "one of norm and measure is needed, and not both"),
        ({"norm": "l2", "measure": Measure(name="m", distance=len)}, "one of norm and measure is needed"),
        ({"norm": "l7"}, "norm='l7' must be one of linf, l2, l1, l0, l0-pixels; a plugin's own measure is a `Measure`"),
        ({"measure": Measure(name="l2", distance=len)}, "the measure 'l2' has the name of a norm"),
        ({"measure": "rows"}, "measure='rows' must be a Measure"),
    ],
)
def test_mistakes_of_threat_models(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        ThreatModel(**fields)


def test_a_measure_has_its_own_worst_case_and_is_reported_without_its_plugin(suite, plugin, tmp_path):
    source = suite(
        attacks=[
            {"attack": "rows/invert", "eps": [1, 2]},
            {"attack": "rows/invert", "eps": [2], "bottom": True},
            {"attack": "toys/climb", "eps": ["1/8", "1/4"]},
        ]
    )
    path = tmp_path / "rows.yaml"
    path.write_text(json.dumps(source))
    results = api.run(path, store=tmp_path / "store", plugins=[TOYS, plugin()])
    names = [cell.cell.perturbation.name for cell in results.cells if cell.cell.perturbation]
    assert names[:3] == ["invert(rows, 1 row)", "invert(rows, 2 rows)", "invert(rows, 2 rows, bottom=yes)"]
    by_name = {cell.cell.perturbation.name: cell for cell in results.cells if cell.cell.perturbation}
    assert set(by_name["invert(rows, 2 rows)"].columns["size"]) == {2.0}
    cases = {(case.norm, case.unit, case.eps): case for case in build(results).worst_cases}
    assert list(cases) == [("linf", "", "1/8"), ("linf", "", "1/4"), ("rows", "rows", "1"), ("rows", "rows", "2")]
    both = [by_name[name] for name in names[:3]]
    right = np.logical_and.reduce([cell.correct for cell in both])
    case = cases["rows", "rows", "2"]
    assert (case.numbers.accuracy, case.attacks) == (right.mean(), 3)
    assert case.name == "worst case rows ≤ 2 rows"
    alone = api.stored(tmp_path / "store")[0].results()
    assert [(each.norm, each.unit, each.eps) for each in build(alone).worst_cases] == list(cases)


def test_budgets_of_counts_are_whole_numbers(suite, plugin):
    source = suite(attacks=[{"attack": "rows/invert", "eps": ["8/255", 2]}])
    with pytest.raises(SuiteError, match="eps 8/255 under rows is no whole number, but rows counts rows"):
        api.plan(source, plugins=[TOYS, plugin()])


def test_half_a_grey_level_is_no_matter_of_counts(suite, plugin):
    counted = plugin(replace={"ThreatModel(measure=ROWS)": 'ThreatModel(norm="l0")'})
    plan = api.plan(suite(attacks=[{"attack": "rows/invert", "eps": 1}]), plugins=[TOYS, counted])
    assert "budget-below-half-level" not in {finding.code for finding in plan.findings}
    assert plan.cells[-1].perturbation.name == "invert(l0, 1 value)"


def test_different_measures_of_one_name_are_refused(suite, plugin):
    attacks = [{"attack": "rows/invert", "eps": 1}, {"attack": "other/invert", "eps": 1}]
    plugins = [TOYS, plugin(), plugin("other")]
    both = r"rows/invert \(.*rows.py\) and other/invert \(.*other.py\) have different measures of the name 'rows'"
    with pytest.raises(SuiteError, match=both):
        api.plan(suite(attacks=attacks), plugins=plugins)


def test_measures_are_told_apart_by_their_function():
    from functools import partial

    def made():
        return lambda a, b: None

    same = [Measure(name="m", distance=each) for each in (made(), made(), partial(made(), c=1))]
    assert len({measure.function for measure in same}) == 1
    assert Measure(name="m", distance=np.sum).function == Measure(name="m", distance=np.sum).function
    assert Measure(name="m", distance=len).function != Measure(name="m", distance=sum).function


def test_an_unknown_norm_is_a_problem_of_its_attack_alone(suite, plugin, tmp_path):
    odd = plugin("odd", replace={"ThreatModel(measure=ROWS)": 'ThreatModel(norm="l7")'})
    both = f'{PLUGIN}    yield spec(name="odd", threat=lambda params: ThreatModel(norm="l7"))\n'
    Path(tmp_path / "both.py").write_text(both)
    registry = discover([odd, str(tmp_path / "both.py")])
    found = [problem for problem in registry.problems if problem.part]
    assert [problem.part for problem in found] == ["both/odd", "odd/invert"]
    assert "norm='l7' must be one of linf, l2" in found[0].error
    assert "both/invert" in registry.attacks and "odd/invert" not in registry.attacks
    assert api.plan(suite(), plugins=[TOYS, odd]).cells
    with pytest.raises(UserError, match=r"attack 'odd/invert' of .* was left out at collection: .*norm='l7'"):
        api.plan(suite(attacks=[{"attack": "odd/invert", "eps": 1}]), plugins=[TOYS, odd])


FAULTS = {
    "float32": ("sum(1).double()", "sum(1).float()", "float32, not"),
    "not zero": ("sum(1).double()", "sum(1).double() + 1", "returned 1 for a clean input, not 0"),
    "neighbours": (
        "return (clean != perturbed).any(1).any(2).sum(1).double()",
        "n = (clean != perturbed).any(1).any(2).sum(1).double(); return n * (len(n) > 1)",
        "returned other sizes beside other examples",
    ),
    "counter": (
        "return (clean != perturbed)",
        "CALLS.append(1)\n    return (len(CALLS) > 2) * (clean != perturbed)",
        "returned other sizes at a second call",
    ),
}


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_the_author_kit_checks_a_measure(plugin, fault):
    old, new, sentence = FAULTS.get(fault, ("ROWS = ", "ROWS = ", ""))
    path = plugin(f"fault_{list(FAULTS).index(fault) if fault else 'none'}", replace={old: new}, more="\nCALLS = []\n")
    [check] = checks(path, only="*measures_as_declared")
    if fault is None:
        check()
    else:
        with pytest.raises(Broken, match=sentence):
            check()


FITTED = """

class Mean:
    def __init__(self, params):
        pass

    def fit(self, model, batch, eps, rng):
        FITS.append((batch.ids, eps))
        return Shift(eps * (batch.x.mean(0, keepdim=True) - 0.5).sign())

    def perturb(self, model, batch, eps, rng):
        raise RuntimeError("only what is fitted perturbs")


class Shift:
    def __init__(self, step):
        self.step = step

    def perturb(self, model, batch, eps, rng):
        return (batch.x + self.step).clamp(0, 1)


FITS = []


@hookimpl
def robharness_attacks():
    yield spec(name="mean", build=Mean, threat=lambda params: ThreatModel(norm="linf"), fitted_on=lambda params: 5)
"""


def test_an_attack_is_fitted_on_the_first_examples_whatever_is_run(suite, plugin, tmp_path):
    path = tmp_path / "rows.py"
    path.write_text(PLUGIN.partition("@hookimpl")[0] + FITTED)
    source = suite(attacks=[{"attack": "rows/mean", "eps": ["1/8", "1/4"]}])
    outcomes = []
    for name, options in {"whole": {}, "few": {"limit": 3}, "shard": {"shard": (2, 2)}}.items():
        results = api.run(source, store=tmp_path / name, plugins=[TOYS, str(path)], batch_size=4, **options)
        cell = results.cells[-1]
        assert cell.n and not cell.failures
        outcomes.append(dict(zip(cell.columns["example"], cell.columns["margin"], strict=True)))
    whole, few, shard = outcomes
    assert few and few.items() <= whole.items()
    assert shard and shard.items() <= whole.items()
