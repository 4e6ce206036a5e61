"""The records that plugins yield: what they refuse, and budgets that are exact and shown as written."""

import copy
import pickle
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from robharness import (
    AttackSpec,
    Budget,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    File,
    InputSpec,
    MetricSpec,
    ModelSpec,
    ThreatModel,
    Train,
)

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy one too


@pytest.mark.parametrize(
    ("written", "exact", "text"),
    [
        ("0.25/255", Fraction(1, 1020), "0.25/255"),
        ("8/255", Fraction(8, 255), "8/255"),
        (" 8 / 255 ", Fraction(8, 255), "8/255"),
        ("2.5/40", Fraction(1, 16), "2.5/40"),
        ("1e-3", Fraction(1, 1000), "1e-3"),
        ("1.5E+2/3e1", Fraction(5), "1.5E+2/3e1"),
        (".5", Fraction(1, 2), ".5"),
        ("1.", Fraction(1), "1."),
        ("-1/2", Fraction(-1, 2), "-1/2"),
        ("+0.50", Fraction(1, 2), "+0.50"),
        (0.1, Fraction(1, 10), "0.1"),
        (1e-7, Fraction(1, 10**7), "1e-07"),
        (1, Fraction(1), "1"),
        (Fraction(8, 255), Fraction(8, 255), "8/255"),
        (Budget("0.50"), Fraction(1, 2), "0.50"),
    ],
)
def test_a_budget_is_exact_and_shown_as_written(written, exact, text):
    budget = Budget(written)
    assert budget == exact
    assert str(budget) == text
    assert repr(budget) == f"Budget({text!r})"


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "abc", "8/0", "8/255/2", "8//255", "/255", "8/", "8/-255", "1 0/255", "1_0", "0x10", "٣/255", "1e9999",
     "1e99999999", "1/1e99999999", "nan", "inf", "-inf", float("nan"), float("inf"), True, None, [1], 1j, Decimal(1),
     "5%", "8/255\n", "1" * 5000],
)  # fmt: skip
def test_an_invalid_budget_is_refused_with_an_example(wrong):
    with pytest.raises(ValueError, match=r"is not a number such as 0\.5 or 8/255$"):
        Budget(wrong)


def test_budgets_of_equal_value_are_equal():
    same = [Budget("1/2"), Budget("0.5"), Budget(0.5), Budget("127.5/255"), Fraction(1, 2)]
    assert len(set(same)) == 1
    assert Budget("0.25/255") < Budget("1e-3") < Budget(0.5)
    assert float(Budget("8/255")) == 8 / 255


@ANY_MACHINE
@given(st.integers(-(10**6), 10**6), st.integers(-6, 6), st.integers(1, 10**6))
def test_a_quotient_of_decimals_is_kept_exactly(digits, exponent, denominator):
    text = f"{Decimal(digits).scaleb(exponent)}/{denominator}"
    assert Budget(text) == Fraction(digits) * Fraction(10) ** exponent / denominator
    assert Budget(text).text == text


@ANY_MACHINE
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_means_its_shortest_decimal(value):
    assert Budget(value) == Fraction(Decimal(repr(value)))
    assert float(Budget(value)) == value


@ANY_MACHINE
@given(st.sampled_from(["0.25/255", "2.50", "1e-3", "8/255"]) | st.fractions() | st.floats(-9, 9))
def test_budgets_survive_pickling(value):
    budget = Budget(value)
    for other in (pickle.loads(pickle.dumps(budget)), copy.copy(budget), copy.deepcopy(budget)):
        assert type(other) is Budget
        assert (other, other.text, hash(other)) == (budget, budget.text, hash(budget))


STEP = Budget("2.5/10")


@dataclass(frozen=True, kw_only=True)
class Params:
    step: Budget = STEP


def test_budgets_survive_in_records():
    assert asdict(Params())["step"].text == "2.5/10"
    assert replace(Params(), step=Budget("1/4")) == Params()
    read = TypeAdapter(Params).validate_json('{"step": "0.25/255"}')
    assert (read.step, read.step.text) == (Fraction(1, 1020), "0.25/255")
    with pytest.raises(ValidationError, match="'a lot' is not a number"):
        TypeAdapter(Params).validate_json('{"step": "a lot"}')


# --- records ----------------------------------------------------------------------------------------------------------

MODEL = {"name": "net", "summary": "s", "input": InputSpec(shape=(3, 8, 8)), "labels": "x", "build": lambda p, w: None}
ATTACK = {
    "name": "fgsm",
    "summary": "s",
    "access": "gradient",
    "params": Params,
    "threat": lambda params: ThreatModel(norm="linf"),
    "cost": lambda params: Cost(),
    "build": lambda params: None,
}
CORRUPTION = {"name": "fog", "summary": "s", "group": "weather", "build": lambda params: None}
DATASET = {"name": "set", "summary": "s", "labels": "x", "splits": ("test",), "open": lambda root, split: None}
METRIC = {"name": "wrong", "summary": "s", "compute": lambda results: {}}


@pytest.mark.parametrize(
    ("record", "right", "changes", "message"),
    [
        (
            ModelSpec,
            MODEL,
            {"name": "ResNet 50"},
            "name='ResNet 50' must be lower-case letters, digits and . _ - /, 200 characters at most",
        ),
        (
            ModelSpec,
            MODEL,
            {"name": "a//b"},
            "name='a//b' must be lower-case letters, digits and . _ - /, 200 characters at most",
        ),
        (
            ModelSpec,
            MODEL,
            {"name": "../x"},
            "name='../x' must be lower-case letters, digits and . _ - /, 200 characters at most",
        ),
        (
            ModelSpec,
            MODEL,
            {"name": None},
            "name=None must be lower-case letters, digits and . _ - /, 200 characters at most",
        ),
        (ModelSpec, MODEL, {"input": (3, 8, 8)}, "input=(3, 8, 8) must be an InputSpec"),
        (ModelSpec, MODEL, {"labels": 10}, "labels=10 must be a text that is not empty"),
        (ModelSpec, MODEL, {"summary": None}, "summary=None must be a text"),
        (
            ModelSpec,
            MODEL,
            {"weights": "net.pt"},
            "weights='net.pt' must be a File, a Download or a Train, or Files and Downloads by name",
        ),
        (ModelSpec, MODEL, {"preprocessing": {}}, "preprocessing={} must be a Preprocessing"),
        (ModelSpec, MODEL, {"build": None}, "build=None must be a function or 'module:function'"),
        (ModelSpec, MODEL, {"params": dict}, "params=<class 'dict'> must be a dataclass"),
        (ModelSpec, MODEL, {"params": Cost()}, f"params={Cost()!r} must be a dataclass"),
        (ModelSpec, MODEL, {"revision": "2"}, "revision='2' must be an integer"),
        (
            AttackSpec,
            ATTACK,
            {"access": "logits"},
            "access='logits' must be one of gradient, scores, decision, features",
        ),
        (AttackSpec, ATTACK, {"access": None}, "access=None must be one of gradient, scores, decision, features"),
        (AttackSpec, ATTACK, {"randomness": "yes"}, "randomness='yes' must be one of none, example, global"),
        (AttackSpec, ATTACK, {"params": None}, "params=None must be a dataclass"),
        (AttackSpec, ATTACK, {"threat": "linf"}, "threat='linf' must be a function or 'module:function'"),
        (AttackSpec, ATTACK, {"cost": 1}, "cost=1 must be a function or 'module:function'"),
        (AttackSpec, ATTACK, {"advise": []}, "advise=[] must be a function or 'module:function'"),
        (AttackSpec, ATTACK, {"minimal": 1}, "minimal=1 must be true or false, or a function or 'module:function'"),
        (AttackSpec, ATTACK, {"refuses": ""}, "refuses='' must be a function or 'module:function'"),
        (AttackSpec, ATTACK, {"ensemble": "yes"}, "ensemble='yes' must be true or false"),
        (AttackSpec, ATTACK, {"blocks": True}, "blocks=True must be a function or 'module:function'"),
        (AttackSpec, ATTACK, {"alarms": "count"}, "alarms='count' must be a tuple of texts"),
        (AttackSpec, ATTACK, {"inputs": "image"}, "inputs='image' must be a set of image and video"),
        (AttackSpec, ATTACK, {"inputs": {"images"}}, "inputs={'images'} must be a set of image and video"),
        (
            CorruptionSpec,
            CORRUPTION,
            {"severities": 5},
            "severities=5 must be a tuple of different whole numbers of at least 1, such as (1, 2, 3)",
        ),
        (CorruptionSpec, CORRUPTION, {"group": 1}, "group=1 must be a text"),
        (DatasetSpec, DATASET, {"splits": "test"}, "splits='test' must be a tuple of texts"),
        (DatasetSpec, DATASET, {"kind": "audio"}, "kind='audio' must be one of image, video"),
        (DatasetSpec, DATASET, {"open": "here"}, "open='here' must be a function or 'module:function'"),
        (MetricSpec, METRIC, {"compute": 0.5}, "compute=0.5 must be a function or 'module:function'"),
    ],
)
def test_a_record_refuses_invalid_fields(record, right, changes, message):
    spec = record(**right)
    assert spec.name == right["name"]
    with pytest.raises(ValueError, match="must be") as caught:
        record(**right | changes)
    assert str(caught.value) == f"{record.__name__}: {message}"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"shape": (8, 8)}, "shape=(8, 8) must be (C, H, W) for images"),
        ({"shape": [3, 8, 8]}, "shape=[3, 8, 8] must be (C, H, W) for images"),
        ({"shape": 224}, "shape=224 must be (C, H, W) for images"),
        ({"shape": (3, 0, 8)}, "shape=(3, 0, 8) must be (C, H, W) for images"),
        ({"shape": (3, 8.0, 8)}, "shape=(3, 8.0, 8) must be (C, H, W) for images"),
        ({"kind": "video", "shape": (3, 8, 8)}, "shape=(3, 8, 8) must be (C, T, H, W) for videos"),
        ({"kind": "audio", "shape": (1, 8, 8)}, "kind='audio' must be one of image, video"),
    ],
)
def test_an_input_has_the_axes_of_its_kind(facts, message):
    with pytest.raises(ValueError, match="must be") as caught:
        InputSpec(**facts)
    assert str(caught.value) == f"InputSpec: {message}"


def test_records_are_frozen_and_keyword_only():
    spec = ModelSpec(**MODEL, weights=File(path="net.pt"))
    with pytest.raises(FrozenInstanceError):
        spec.name = "other"
    with pytest.raises(TypeError):
        InputSpec((3, 8, 8))


def test_a_function_can_be_named_and_is_imported_at_its_first_call(tmp_path, monkeypatch):
    (tmp_path / "late_code.py").write_text(
        "def build(params, weights=None):\n    return params\n\ndef train(job):\n    1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = ModelSpec(**MODEL | {"build": "late_code:build", "given": "late_code:build"})
    trained = Train(data="late_code:build", train="late_code:train", base="late_code:build")
    fog = CorruptionSpec(**CORRUPTION | {"build": None, "open": "late_code:build"})
    attack = AttackSpec(**ATTACK | dict.fromkeys(("build", "threat", "cost", "advise", "blocks"), "late_code:build"))
    named = [DatasetSpec(**DATASET | {"open": "late_code:build"}).open, attack.build, attack.threat, attack.cost]
    named += [MetricSpec(**METRIC | {"compute": "late_code:build"}).compute, attack.advise, attack.blocks]
    assert "late_code" not in sys.modules
    assert spec.build("a", None) == spec.given("a") == fog.open("a", "root") == "a"
    assert trained.data("a") == trained.base("a") == "a"
    assert all(function("a") == "a" for function in named)
    with pytest.raises(ZeroDivisionError):
        trained.train(None)
    assert spec == ModelSpec(**MODEL | {"build": "late_code:build", "given": "late_code:build"})


@pytest.mark.parametrize("target", ["late_code:other", "no_such_code:build", "late_code.part:build"])
def test_a_function_that_does_not_exist_is_named(target, tmp_path, monkeypatch):
    (tmp_path / "late_code.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=f"'{target}' cannot be imported: "):
        ModelSpec(**MODEL | {"build": target}).build(None, None)


@pytest.mark.parametrize("target", ["late_code.build", "late_code:", ":build", "late code:build", "a:b:c"])
def test_a_function_is_named_by_its_module_and_its_name(target):
    with pytest.raises(ValueError, match="must be a function or 'module:function'"):
        ModelSpec(**MODEL | {"build": target})
