"""Declarations of the plugin: names, options and advice, without an import of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

import robharness
from robharness import Budget, discover
from robharness_attacks import AutoAttackParams, PGDParams, robharness_attacks
from robharness_attacks.params import DensePGDParams, FeatureParams, FGSMParams, PatchParams

SPECS = {spec.name: spec for spec in robharness_attacks()}


def test_attacks_are_found_under_the_namespace():
    registry = discover()
    assert {f"attacks/{name}" for name in SPECS} <= set(registry.attacks)


def test_declaring_imports_no_torch():
    script = "import sys, robharness_attacks as a; list(a.robharness_attacks()); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.split() == ["False"]


def test_options_as_a_suite_writes_them():
    params = TypeAdapter(PGDParams).validate_python({"steps": 40, "rel_step": "2.5/40", "keep": "last"})
    assert params == PGDParams(steps=40, rel_step=Budget("2.5/40"), keep="last")
    assert params.step(Budget("8/255")) == PGDParams(steps=40).step(Budget("8/255"))


@pytest.mark.parametrize(("options", "words"), [
    ({"rel_step": 0.1, "abs_step": 0.1}, ("rel_step", "abs_step")),
    ({"restarts": 2, "random_start": False}, ("restarts", "random_start")),
    ({"steps": 0}, ("steps", "greater than 0")),
    ({"rel_step": "-1/4"}, ("rel_step", "greater than 0")),
    ({"restarts": 0}, ("restarts", "greater than 0")),
    ({"norm": "l0"}, ("norm", "'linf', 'l2' or 'l1'")),
    ({"target": -1}, ("target", "greater than or equal to 0")),
    ({"sparsity": 1}, ("sparsity", "less than 1")),
    ({"keep": "first"}, ("keep", "'best' or 'last'")),
])  # fmt: skip
def test_invalid_options_are_refused(options, words):
    with pytest.raises(ValidationError) as error:
        TypeAdapter(PGDParams).validate_python(options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(("options", "advised"), [
    ({}, False),
    ({"steps": 10, "rel_step": Budget("1/10")}, False),
    ({"steps": 10, "rel_step": Budget("0.025")}, True),
    ({"steps": 10, "abs_step": Budget("0.8/255")}, False),
    ({"steps": 10, "abs_step": Budget("0.79/255")}, True),
])  # fmt: skip
def test_steps_that_cannot_reach_the_edge_say_so(options, advised):
    eps = Budget("8/255")
    for name in ("pgd", "pgd-dense", "features"):
        assert (SPECS[name].travel(PGDParams(**options), eps) < eps) == advised


def test_attacks_that_run_to_their_end_say_so():
    assert SPECS["fgsm"].runs_to_end(FGSMParams()) and SPECS["features"].runs_to_end(FeatureParams())
    assert [SPECS["pgd"].runs_to_end(PGDParams(keep=keep)) for keep in ("best", "last")] == [False, True]
    assert [SPECS["pgd-dense"].runs_to_end(DensePGDParams(keep=keep)) for keep in ("best", "last")] == [False, True]
    assert all(SPECS[name].runs_to_end is None for name in ("apgd", "autoattack", "square"))


def test_a_patch_whose_budget_is_no_square_is_advised_against():
    advise = SPECS["patch"].advise
    assert advise(PatchParams(), Budget("3")) == ["eps 3 is no square number: the patch has 1 x 1 = 1 pixel"]
    assert advise(PatchParams(), Budget("8")) == ["eps 8 is no square number: the patch has 2 x 2 = 4 pixels"]
    assert advise(PatchParams(), Budget("4")) == []


@pytest.mark.parametrize(("options", "advised"), [
    ({"diversity": Budget("0.5")}, True),
    ({"translation_kernel": 3}, True),
    ({"diversity": Budget("0.5"), "translation_kernel": 3, "keep": "last"}, False),
    ({"momentum": Budget(1)}, False),
])  # fmt: skip
def test_options_for_transfer_want_the_last_iterate(options, advised):
    advice = SPECS["pgd"].advise(PGDParams(**options), Budget("8/255"))
    assert ["keep: last" in line for line in advice] == [True] * advised


def test_ten_steps_of_foolboxs_default_reach_a_quarter_of_eps():
    assert SPECS["pgd"].travel(PGDParams(norm="l2", rel_step=Budget("0.025")), Budget(0.5)) == Budget("0.125")


TABLES = {
    "Table 1": [
        {"attack": "attacks/fgsm", "eps": ["0.25/255", "0.5/255", "1/255"]},
        {"attack": "attacks/pgd", "eps": ["0.25/255", "1/255"], "steps": 40, "keep": "last"},
        {"attack": "attacks/pgd", "norm": "l2", "eps": 0.5, "steps": 10, "keep": "last"},
    ],
    "Tables 2 and 7": [
        {"attack": "attacks/fgsm", "eps": ["1/255", "2/255", "4/255"]},
        {"attack": "attacks/pgd", "eps": ["1/255", "2/255"], "steps": 4, "keep": "last"},
        {"attack": "attacks/autoattack", "eps": "1/255"},
    ],
    "Table 3": [
        {"attack": "attacks/fgsm", "eps": ["8/255", "16/255"]},
        {"attack": "attacks/pgd", "norm": "l2", "eps": [0.1, 0.25], "keep": "last"},
        {"attack": "attacks/pgd", "norm": "l1", "eps": 8, "keep": "last"},
        {"attack": "attacks/pgd-dense", "eps": 8, "keep": "last"},
    ],
    "Table 5": [
        {"attack": "attacks/pgd", "eps": ["8/255", "16/255"], "steps": 20, "rel_step": "1/10", "keep": "last"},
        {"attack": "attacks/pgd", "norm": "l2", "eps": 0.25, "steps": 20, "rel_step": "1/10", "keep": "last"},
        {"attack": "attacks/pgd", "norm": "l1", "eps": 12, "steps": 20, "rel_step": "1/10", "keep": "last"},
        {"attack": "attacks/autoattack", "eps": ["8/255", "16/255"], "nested": False},
    ],
    "Table 8": [{"attack": "attacks/pgd", "eps": ["1/255", "4/255"], "steps": 4, "abs_step": "1/255", "restarts": 2}],
}


@pytest.mark.parametrize("table", TABLES)
def test_the_settings_of_the_paper_are_accepted(table):
    import torch

    suite = {"robharness": 1, "name": "paper", "data": {"name": "samples/digits", "split": "test"}}
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    planned = robharness.plan(suite | {"attacks": TABLES[table]}, models={"Net": net})
    eps = [
        value
        for attack in TABLES[table]
        for value in (attack["eps"] if isinstance(attack["eps"], list) else [attack["eps"]])
    ]
    assert [str(cell.perturbation.eps) for cell in planned.cells[1:]] == [str(value) for value in eps]
    assert len({cell.key for cell in planned.cells}) == 1 + len(eps)


@pytest.mark.parametrize(
    ("norm", "forwards", "gradients"), [("linf", 5901, 1910), ("l2", 5901, 1910), ("l1", 5901, 1910)]
)
def test_autoattack_costs_what_the_authors_count(norm, forwards, gradients):
    """An example that withstands it takes 7,864 passes, 1,910 with a gradient, as counted in the authors' code."""
    cost = SPECS["autoattack"].cost(AutoAttackParams(norm=norm))
    assert (cost.forwards, cost.gradients) == (forwards, gradients)
    if norm == "linf":
        assert abs(cost.forwards + cost.gradients - 7864) < 79


def test_custom_members_exclude_a_version():
    with pytest.raises(ValidationError, match="version and members are both given"):
        TypeAdapter(AutoAttackParams).validate_python({"version": "plus", "members": ["square"]})
    with pytest.raises(ValidationError, match="twice"):
        TypeAdapter(AutoAttackParams).validate_python({"members": ["square", "square"]})
