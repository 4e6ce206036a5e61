"""What the plugin declares: names, options, advice, and nothing imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from robharness import Budget, discover
from robharness_attacks import PGDParams, robharness_attacks

SPECS = {spec.name: spec for spec in robharness_attacks()}


def test_it_is_found_under_its_namespace():
    registry = discover()
    assert {"attacks/fgsm", "attacks/pgd"} <= set(registry.attacks)


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
    ({"norm": "l1"}, ("norm", "'linf' or 'l2'")),
    ({"keep": "first"}, ("keep", "'best' or 'last'")),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, words):
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
def test_steps_that_cannot_reach_the_edge_are_pointed_out(options, advised):
    advice = SPECS["pgd"].advise(PGDParams(**options), Budget("8/255"))
    assert len(advice) == advised
    assert all(word in line for line in advice for word in ("10 steps", "eps", "raise steps or"))


def test_ten_steps_of_the_default_of_foolbox_go_a_quarter():
    (line,) = SPECS["pgd"].advise(PGDParams(norm="l2", rel_step=Budget("0.025")), Budget(0.5))
    assert "0.25 eps" in line
    assert "rel_step" in line
