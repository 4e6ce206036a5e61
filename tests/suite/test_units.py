"""Units: budgets beyond the range of inputs, fractions where percent are meant, free texts of records."""

from dataclasses import dataclass

import pytest

from robharness import (
    AttackSpec,
    Clips,
    CorruptionSpec,
    Cost,
    DataRef,
    Download,
    File,
    InputSpec,
    ModelSpec,
    ThreatModel,
    api,
)
from robharness.errors import SuiteError, UserError
from robharness.evaluation.normalize import Normalize
from robharness.specs.types import SUITE_KEYS
from robharness.suite import load
from robharness.suite.fields import field_names
from robharness.suite.records import AttackRef, CorruptionRef, ModelRef
from toy_suites import FgsmParams, attack, json_head, make_registry


def registry():
    made = make_registry()
    for norm in ("linf", "l2", "l1"):
        threat = ThreatModel(norm=norm)
        made.add("attacks", attack(norm, FgsmParams, threat=lambda params, threat=threat: threat), made.origins[0])
    return made


def errors(**changes):
    """The errors of a suite of the toys, whose inputs have 64 values."""
    with pytest.raises(SuiteError) as caught:
        load(json_head() | changes, registry())
    return [line.partition(": ")[2] for line in caught.value.errors]


@pytest.mark.parametrize(
    ("norm", "eps", "sentence"),
    [
        ("linf", 8, "eps 8 under linf is more than the whole range of a pixel, [0, 1]; did you mean 8/255?"),
        ("linf", 1.01, "eps 1.01 under linf is more than the whole range of a pixel, [0, 1]; did you mean 1.01/255?"),
        ("linf", "300/255", "eps 300/255 under linf is more than the whole range of a pixel, [0, 1]"),
        ("linf", 300, "eps 300 under linf is more than the whole range of a pixel, [0, 1]"),
        ("l2", "8.001", "eps 8.001 under l2 is more than the distance of any two inputs of 64 values in [0, 1], 8; "
                        "did you mean 8.001/255?"),
        ("l1", 65, "eps 65 under l1 is more than the distance of any two inputs of 64 values in [0, 1], 64; "
                   "did you mean 65/255?"),
    ],
)  # fmt: skip
def test_a_budget_beyond_the_range_is_an_error_with_its_place(norm, eps, sentence):
    found = errors(attacks=[{"attack": f"toy/{norm}", "eps": ["1/255", eps]}])
    assert found == [f"attacks.0.eps.1: {sentence}"]
    assert errors(attacks=[{"attack": f"toy/{norm}", "eps": eps}]) == [f"attacks.0.eps: {sentence}"]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1), ("l2", 8), ("l1", 64), ("linf", "255/255")])
def test_the_whole_range_is_allowed(norm, eps):
    suite = load(json_head() | {"attacks": [{"attack": f"toy/{norm}", "eps": eps}]}, registry())
    assert len(suite.perturbations) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": [{"model": "toy/net", "clean_at_least": 0.7}]},
         "models.0.clean_at_least: 0.7 means 0.7 %, since accuracies are in percent; did you mean 70?"),
        ({"expected": {"toy/net": {"clean": 0.761}}},
         "expected.toy/net.clean: 0.761 means 0.761 %, since accuracies are in percent; did you mean 76.1?"),
        ({"expected": {"toy/net": {"clean": 761}}},
         "expected.toy/net.clean: 761 is no accuracy in percent, which is in [0, 100]"),
    ],
)  # fmt: skip
def test_fractions_where_percent_are_meant(changes, sentence):
    assert errors(**changes) == [sentence]


def test_plausible_percentages_are_allowed():
    attacks = [{"attack": "toy/fgsm", "eps": "8/255"}]
    numbers = {"clean": 95.0, "fgsm(linf, 8/255)": 0.4}
    models = [{"model": "toy/net", "clean_at_least": 90}]
    expected = {"toy/net": numbers}
    suite = load(json_head() | {"attacks": attacks, "models": models, "expected": expected}, make_registry())
    assert [each.numbers for each in suite.expected] == [expected]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"threat": lambda params: ThreatModel(norm="l7")},
            "ThreatModel: norm='l7' must be one of linf, l2, l1, l0, l0-pixels; a plugin's own measure is a `Measure`",
        ),
        (
            {"threat": lambda params: ThreatModel(norm="l2", targeted=1)},
            "ThreatModel: targeted=1 must be true or false",
        ),
        ({"threat": lambda params: "l2"}, "its function `threat` returned 'l2', not a ThreatModel"),
        ({"blocks": lambda params: "yes"}, "its function `blocks` returned 'yes', not a bool"),
    ],
)
def test_what_functions_of_a_plugin_return_is_checked(changes, sentence):
    registry = make_registry()
    registry.add("attacks", attack("odd", FgsmParams, **changes), registry.origins[0])
    with pytest.raises(SuiteError) as caught:
        load(json_head() | {"attacks": [{"attack": "toy/odd", "eps": "1/255"}]}, registry)
    (line,) = caught.value.errors
    assert line.endswith(f": attacks.0: toy/odd (robharness-toy 1.0): {sentence}")


ODD = """
from dataclasses import dataclass
from robharness import AttackSpec, Cost, ThreatModel, hookimpl

@dataclass(frozen=True, kw_only=True)
class Params:
    pass

@hookimpl
def robharness_attacks():
    yield AttackSpec(name="odd", summary="", access="decision", params=Params, build=lambda params: None, {fields})
"""
THREAT, COST = 'threat=lambda params: ThreatModel(norm="l2")', "cost=lambda params: Cost()"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (f"{THREAT}, cost=lambda params: 3", "TypeError: its function `cost` returned 3, not a Cost"),
        (f"{THREAT}, cost=lambda params: Cost(gradients=-1)", "ValueError: Cost: gradients=-1 must be a whole number"),
        (f"{THREAT}, {COST}, advise=lambda params, eps: 'text'", "TypeError: its function `advise` returned 'text'"),
        (
            f"{THREAT}, {COST}, travel=lambda params, eps: 'far'",
            "TypeError: its function `travel` returned 'far', not a",
        ),
        (
            f"{THREAT}, {COST}, travel=lambda params, eps: True",
            "TypeError: its function `travel` returned True, not a",
        ),
    ],
)
def test_what_functions_return_to_the_planner_is_checked(fields, sentence, tmp_path, toys, suite):
    plugin = tmp_path / "odd.py"
    plugin.write_text(ODD.replace("{fields}", fields))
    with pytest.raises(UserError) as caught:
        api.plan(suite(attacks=[{"attack": "odd/odd", "eps": 0.5}]), plugins=[toys, str(plugin)])
    assert str(caught.value).startswith(f"odd/odd of {plugin} cannot be planned: {sentence}")


@pytest.mark.parametrize(("length", "message"), [
    ("eps / 4", "its steps reach at most 0.25 eps, so they cannot reach the edge of the ball from the input"),
    ("eps", None),
    ("None", None),
])  # fmt: skip
def test_a_plan_says_which_steps_are_too_short(length, message, tmp_path, toys, suite):
    plugin = tmp_path / "odd.py"
    plugin.write_text(ODD.replace("{fields}", f"{THREAT}, {COST}, travel=lambda params, eps: {length}"))
    plan = api.plan(suite(attacks=[{"attack": "odd/odd", "eps": 0.5}]), plugins=[toys, str(plugin)])
    found = [(each.subject, each.message) for each in plan.findings if each.code == "steps-too-short"]
    assert found == ([] if message is None else [("odd(l2, 0.5)", message)])


def test_a_record_that_is_refused_is_a_problem_of_its_plugin(tmp_path, run_process):
    """The other plugin works, and `list plugins` names the first, as it does for an installed one."""
    plugin = tmp_path / "odd.py"
    plugin.write_text(ODD.replace("{fields}", f"{THREAT}, {COST}, alarms=('lost',)"))
    found = run_process("list", "plugins", "-p", plugin)
    assert found.returncode == 2
    assert "ValueError: AttackSpec: the alarm 'lost' is not declared in `notes`" in found.stderr


@dataclass(frozen=True, kw_only=True)
class Named:
    label: str = "x"
    eps: float = 1.0
    severity: int = 1


MODEL = {"name": "net", "summary": "s", "input": InputSpec(shape=(1, 8, 8)), "labels": "x", "build": lambda p, w: None}
ATTACK = {"name": "a", "summary": "s", "access": "scores", "params": FgsmParams, "build": lambda params: None,
          "threat": lambda params: ThreatModel(norm="l2"), "cost": lambda params: Cost()}  # fmt: skip
CORRUPTION = {"name": "fog", "summary": "s", "group": "weather", "build": lambda params: None}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSpec(**MODEL, expected={"clean": 76.1}), "expected={'clean': 76.1} must be fractions in"),
        (lambda: ModelSpec(**MODEL, expected={1: 0.7}), "fractions in [0, 1] by name, such as clean"),
        (lambda: ModelSpec(**MODEL, expected={"clean": True}), "must be fractions in"),
        (lambda: ModelSpec(**MODEL | {"labels": ""}), "labels='' must be a text that is not empty"),
        (lambda: ModelSpec(**MODEL, weights={"": File(path="x")}), "must be a File, a Download or a Train"),
        (lambda: ModelSpec(**MODEL, weights={}), "must be a File, a Download or a Train"),
        (lambda: ModelSpec(**MODEL, params=Named), "the option 'label' has the name of a key of every suite"),
        (lambda: ModelSpec(**MODEL, features=3), "features=3 must be a text"),
        (lambda: ModelSpec(**MODEL, revision=True), "revision=True must be an integer"),
        (lambda: AttackSpec(**ATTACK | {"params": Named}), "the option 'eps' has the name of a key of every suite"),
        (lambda: AttackSpec(**ATTACK, alarms=("odd",), notes={"even": int}),
         "the alarm 'odd' is not declared in `notes`; declared: even"),
        (lambda: CorruptionSpec(**CORRUPTION, params=Named), "the option 'severity' has the name of a key"),
        (lambda: CorruptionSpec(**CORRUPTION, severities=()), "must be a tuple of different whole numbers"),
        (lambda: CorruptionSpec(**CORRUPTION, severities=(0, 1)), "must be a tuple of different whole numbers"),
        (lambda: CorruptionSpec(**CORRUPTION, severities=(1, 1)), "must be a tuple of different whole numbers"),
        (lambda: CorruptionSpec(**CORRUPTION, severities=(True,)), "must be a tuple of different whole numbers"),
        (lambda: CorruptionSpec(**CORRUPTION, canvas=22.5), "canvas=22.5 must be a side in pixels"),
        (lambda: CorruptionSpec(**CORRUPTION, canvas=0), "canvas=0 must be a side in pixels"),
        (lambda: File(path="x", sha256="no digest"), "sha256='no digest' must be up to 64 hexadecimal digits"),
        (lambda: File(path="x", sha256=""), "sha256='' must be up to 64 hexadecimal digits"),
        (lambda: File(path=""), "path='' must be a text"),
        (lambda: File(path="x", package=3), "package=3 must be a text"),
        (lambda: Download(url="https://example.org/"), "has no name of a file; give `name`"),
        (lambda: Download(url="https://example.org/x", sha256="a" * 65), "must be up to 64 hexadecimal digits"),
        (lambda: DataRef(name="", split="test"), "name='' must be a text"),
        (lambda: DataRef(name="mine/x", split=1), "split=1 must be a text"),
        (lambda: InputSpec(shape=(True, 8, 8)), "shape=(True, 8, 8) must be (C, H, W)"),
        (lambda: Clips(length=True), "length=True must be a whole number"),
        (lambda: Normalize((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), "is on the scale 0 to 255"),
        (lambda: Normalize((0.5,), (0.5, 0.5)), "need one number per channel"),
        (lambda: Normalize((0.5,), (0.0,)), "std above 0"),
    ],
)  # fmt: skip
def test_records_refuse_what_no_later_code_can_use(make, message):
    with pytest.raises(ValueError, match=r".") as caught:
        make()
    assert message in str(caught.value)


def test_the_reserved_names_of_options_are_the_keys_of_a_suite():
    shared = {"seed", "seeds"}  # a model that is not trained may have them as options
    for record, keys in (("ModelSpec", ModelRef), ("AttackSpec", AttackRef), ("CorruptionSpec", CorruptionRef)):
        assert {*field_names(keys)} - shared <= {*SUITE_KEYS[record]}
