"""A suite is right, or all that is wrong with it is said at once: where, what, and what was probably meant."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from robharness import (
    AttackSpec,
    Budget,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    InputSpec,
    MetricSpec,
    ModelSpec,
    ThreatModel,
)
from robharness.errors import SuiteError, UserError
from robharness.plugins import PluginOrigin, Problem, Registry, discover
from robharness.suite import Precision, Suite, json_schema, load

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy one too
IMAGE, CLIP = InputSpec(shape=(1, 8, 8)), InputSpec(kind="video", shape=(1, 4, 8, 8))


@dataclass(frozen=True, kw_only=True)
class NetParams:
    width: Annotated[int, Field(gt=0)] = 8
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FgsmParams:
    norm: Literal["linf", "l2"] = "linf"


@dataclass(frozen=True, kw_only=True)
class PgdParams:
    norm: Literal["linf", "l2", "l1"] = "linf"
    steps: int = 10
    rel_step: Budget | None = None
    random_start: bool = True
    note: str = field(default="", metadata={"runtime": True})

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be at least 1")
        if self.steps == 13:
            raise KeyError("unlucky")


@dataclass(frozen=True, kw_only=True)
class CallableParams:
    callback: Callable[[int], int] | None = None


def attack(name, params, **changes):
    facts = {
        "summary": name,
        "access": "gradient",
        "params": params,
        "threat": lambda params: ThreatModel(norm=params.norm),
        "cost": lambda params: Cost(),
        "build": lambda params: None,
    }
    return AttackSpec(name=name, **facts | changes)


def corruption(name, **changes):
    return CorruptionSpec(name=name, summary=name, group="light", build=lambda params: None, **changes)


def model(name, **changes):
    facts = {"summary": name, "input": IMAGE, "labels": "toys", "build": lambda params, weights: None}
    return ModelSpec(name=name, **facts | changes)


def dataset(name, **changes):
    facts = {"summary": name, "labels": "toys", "splits": ("train", "test"), "open": lambda root, split: None}
    return DatasetSpec(name=name, **facts | changes)


def make_registry():
    registry = Registry()
    source = PluginOrigin(namespace="toy", distribution="robharness-toy", version="1.0")
    registry.origins.append(source)
    specs = {
        "models": [
            model("net", params=NetParams),
            model("wide", input=InputSpec(shape=(1, 8, 9))),
            model("insightful", features="body"),
            model("letters", labels="letters"),
            model("clips", input=CLIP, labels="letters"),
        ],
        "attacks": [
            attack("fgsm", FgsmParams),
            attack("pgd", PgdParams),
            attack("flat", PgdParams, inputs=frozenset({"image"})),
            attack("nearest", PgdParams, minimal=True),
            attack("team", PgdParams, ensemble=True),
            attack("team-nearest", PgdParams, ensemble=True, minimal=True),
            attack("insight", FgsmParams, access="features"),
        ],
        "corruptions": [
            corruption("fog"),
            corruption("frost"),
            corruption("far/fog"),
            corruption("negative", severities=(1,)),
        ],
        "datasets": [
            dataset("pixels"),
            dataset("letters", labels="letters"),
            dataset("clips", kind="video", labels="letters"),
        ],
        "metrics": [MetricSpec(name="wrong", summary="wrong", compute=lambda results: {})],
    }
    for kind, some in specs.items():
        for spec in some:
            registry.add(kind, spec, source)
    rotten = PluginOrigin(namespace="rotten", distribution="robharness-rotten", version="0.3")
    registry.problems.append(Problem(origin=rotten, stage="import", error="ImportError: no module named 'tensorflow'"))
    return registry


REGISTRY = make_registry()
HEAD = """\
robharness: 1
name: small
data: {name: toy/pixels, split: test}
models: [{model: toy/net}]
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load a suite from this text, in the file s.yaml of the working directory."""
    monkeypatch.chdir(tmp_path)

    def go(text):
        Path("s.yaml").write_text(text, encoding="utf-8")
        return load("s.yaml", REGISTRY)

    return go


@pytest.fixture
def errors(read):
    """The lines that are said of a suite with this text, its last line (what to type next) checked and left out."""

    def go(text):
        with pytest.raises(SuiteError) as caught:
            read(text)
        lines = str(caught.value).splitlines()
        assert lines[:-1] == caught.value.errors
        assert lines[-1] == "Mend the suite, then type: robharness plan s.yaml"
        return lines[:-1]

    return go


WRONG = """\
robharness: 1
name: every mistake
titel: Every mistake
data: {name: toy/pixels, split: tset, limti: 10, limit: -1}
precision: float16
seed: 1.5
models:
  - {model: toy/net, label: Net, reference: true, width: 0}
  - {model: toy/letters, label: Net, reference: true}
  - {model: toy/nett}
  - {model: swav/resnet50, label: SwAV}
  - {model: rotten/net}
  - {label: Nameless}
attacks:
  - {attack: toy/fgsm, nrom: l2, eps: [8/255, 8/0, abc, 0, -1/255, true]}
  - {attack: toy/pdg, eps: .nan}
  - {attack: toy/pgd, norm: l3, eps: [], steps: ten}
  - {attack: toy/pgd, eps: 1/255, steps: 0}
  - {attack: toy/pgd, eps: 1/255, steps: 13}
  - {attack: toy/pgd, steps: 5}
  - {attack: toy/pgd, eps: [0.5, 1/2], rel_step: 2.5/0, random_start: no}
  - {attack: toy/fgsm, norm: l2, eps: [0.5, 1/2]}
  - {attack: toy/fgsm, norm: l2, eps: 0.5, eps: 1}
  - toy/fgsm
  - {attack: [toy/fgsm], eps: 1}
corruptions:
  - {corruption: toy/negative, severity: [1, 2]}
  - {corruption: toy/frog, severity: !!int "1"}
  - {corruption: toy/*, severity: 1}
canvas: 4
metrics: [toy/wrong, toy/worng]
expected:
  source: 5
  SwAV: {clean: 1}
  Nett: {clean: 1}
  Net: {claen: 1, "fgsm(l2, 0.25)": 1, clean: high}
check: {tolerance: -1, alhpa: 0.1}
"""

SAID = [
    "2:7: name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$'; got 'every mistake'",
    "3:1: titel: unknown key 'titel'; did you mean 'title'?",
    "4:33: data.split: toy/pixels has no split 'tset'; it has train, test; did you mean 'test'?",
    "4:39: data.limti: unknown key 'limti'; did you mean 'limit'?",
    "4:57: data.limit: Input should be greater than 0; got -1",
    "5:12: precision: 'float16' is not one of float32, tf32; did you mean 'float32'?",
    "6:7: seed: Input should be a valid integer; got 1.5",
    "8:58: models.0.width: Input should be greater than 0; got 0",
    "9:13: models.1.model: toy/letters has labels 'letters', toy/pixels has 'toys'. See: robharness list models",
    "10:13: models.2.model: no model 'toy/nett'; did you mean 'toy/net'? See: robharness list models",
    "11:13: models.3.model: 'swav/resnet50' needs a plugin 'swav', which is not there. "
    "Try: pip install robharness-swav",
    "12:13: models.4.model: no model 'rotten/net': plugin 'rotten' of robharness-rotten 0.3 was left out at import: "
    "ImportError: no module named 'tensorflow'. See: robharness list plugins",
    "13:5: models.5: missing key 'model'",
    "15:24: attacks.0.nrom: unknown key 'nrom'; did you mean 'norm'?",
    "15:47: attacks.0.eps.1: '8/0' is not a number such as 0.5 or 8/255",
    "15:52: attacks.0.eps.2: 'abc' is not a number such as 0.5 or 8/255",
    "15:57: attacks.0.eps.3: Input should be greater than 0; got 0",
    "15:60: attacks.0.eps.4: Input should be greater than 0; got '-1/255'",
    "15:68: attacks.0.eps.5: True is not a number such as 0.5 or 8/255",
    "16:14: attacks.1.attack: no attack 'toy/pdg'; did you mean 'toy/pgd'? See: robharness list attacks",
    "16:28: attacks.1.eps: '.nan' is not a number such as 0.5 or 8/255",
    "17:29: attacks.2.norm: 'l3' is not one of linf, l2, l1",
    "17:38: attacks.2.eps: at least one is needed",
    "17:49: attacks.2.steps: Input should be a valid integer; got 'ten'",
    "18:5: attacks.3: steps must be at least 1",
    "19:5: attacks.4: the options PgdParams cannot be read: KeyError: 'unlucky'",
    "20:5: attacks.5: missing key 'eps'",
    "21:50: attacks.6.rel_step: '2.5/0' is not a number such as 0.5 or 8/255",
    "21:71: attacks.6.random_start: Input should be a valid boolean; got 'no'",
    "22:5: attacks.7: fgsm(l2, 1/2) is already in line 22",
    "23:5: attacks.8: fgsm(l2, 0.5) is already in line 22",
    "23:44: attacks.8.eps: the key 'eps' is there already, in line 23",
    "24:5: attacks.9: one of 'attacks' is a mapping such as {attack: NAME}; got 'toy/fgsm'",
    "25:14: attacks.10.attack: the name of one attack goes here; got ['toy/fgsm']",
    "27:42: corruptions.0.severity: toy/negative has severities 1; got 2",
    "28:18: corruptions.1.corruption: no corruption 'toy/frog'; did you mean 'toy/fog'? "
    "See: robharness list corruptions",
    "28:38: corruptions.1.severity: Input should be a valid integer; got None",
    "28:38: corruptions.1.severity: the tag !!int is not allowed",
    "29:5: corruptions.2: negative(1) is already in line 27",
    "30:9: canvas: 4 is not one of none, auto",
    "30:9: canvas: Input should be greater than or equal to 8; got 4",
    "31:22: metrics.1: no metric 'toy/worng'; did you mean 'toy/wrong'? See: robharness list metrics",
    "35:3: expected.Nett: no model has the label 'Nett'; did you mean 'Net'?",
    "36:9: expected.Net.claen: no cell and no metric is called 'claen'; did you mean 'clean'?",
    "36:19: expected.Net.fgsm(l2, 0.25): no cell and no metric is called 'fgsm(l2, 0.25)'; "
    "did you mean 'fgsm(l2, 0.5)'?",
    "36:47: expected.Net.clean: Input should be a valid number; got 'high'",
    "37:20: check.tolerance: Input should be greater than or equal to 0; got -1",
    "37:24: check.alhpa: unknown key 'alhpa'; did you mean 'alpha'?",
]


def test_all_mistakes_are_said_at_once_in_the_order_of_their_places(errors):
    assert errors(WRONG) == [f"s.yaml:{line}" for line in SAID]


def place(text):
    """The sentences without the file's name."""
    return [line.removeprefix("s.yaml:") for line in text]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            "models: [{model: toy/clips}]",
            "18: models.0.model: toy/clips takes videos, toy/pixels holds images. See: robharness list",
        ),
        (
            "models: [{model: toy/net}, {model: toy/net}]",
            "28: models.1: the label 'toy/net' is taken by the model in line 4; give it a `label:`",
        ),
        (
            "models: [{model: toy/net, reference: true}, {model: toy/net, label: B, reference: true}]",
            "83: models.1.reference: only one model can be the reference",
        ),
        ("models: []", "1: models: a suite needs at least one model"),
        ("models: {model: toy/net}", "9: models: 'models' is a list of mappings"),
        ("models: [{model: net}]", "18: models.0.model: no model 'net'; did you mean 'toy/net'?"),
        (
            "models: [{model: tyo/net}]",
            "18: models.0.model: no model 'tyo/net'; did you mean 'toy/net'? See: robharness list models",
        ),
        ("models: [{model: swav/*}]", "18: models.0.model: 'swav/*' needs a plugin 'swav', which is not there."),
        ("models: [{model: toy/net, eps: 1}]", "27: models.0.eps: unknown key 'eps'; known: model, label, reference"),
        ("canvas: none\ncorruptions: [{corruption: toy/fog, severity: 1}]", "9: canvas: corruptions need a canvas"),
        ("attacks:", "9: attacks: 'attacks' is a list of mappings"),
        ("expected: [1]", "11: expected: 'expected' is a mapping of labels to mappings of cells to percentages"),
        ("expected: {toy/net: 76}", "21: expected.toy/net: Input should be an object; got 76"),
        ("data: {name: toy/*, split: test}", "14: data.name: no data set 'toy/*'"),
        ("data: toy/pixels", "7: data: Input should be an object; got 'toy/pixels'"),
        ("attacks: [{attack: toy/fgsm, eps: 8/255/2}]", "35: attacks.0.eps: '8/255/2' is not a number such as"),
        ("attacks: [{attack: toy/fgsm, eps: 1e99999999}]", "35: attacks.0.eps: inf is not a number such as"),
        ("attacks: [{attack: toy/fgsm, eps: '1e99999999'}]", "35: attacks.0.eps: '1e99999999' is not a number"),
        ("attacks: [{attack: toy/fgsm, eps: 1, nested: 1}]", "46: attacks.0.nested: Input should be a valid boolean"),
        ("gap: [toy/net, toy/nte]", "16: gap.1: no model has the label 'toy/nte'; did you mean 'toy/net'?"),
        ("gap: [toy/net, toy/net]", "6: gap: the gap lies between two models, and 'toy/net' is one"),
        ("gap: toy/net", "6: gap: Input should be a valid array"),
        ("seed: '5'", "7: seed: Input should be a valid integer; got '5'"),
        ("seed: true", "7: seed: Input should be a valid integer; got True"),
        (f"seed: {'1' * 5000}", "7: seed: Input should be a valid integer"),
    ],
)
def test_a_mistake_alone(errors, changes, said):
    keys = {line.partition(":")[0] for line in changes.splitlines()}
    head = [line for line in HEAD.splitlines() if line.partition(":")[0] not in keys]
    found = place(errors("\n".join([*head, changes])))
    assert any(line.startswith(f"{len(head) + 1}:{said}") for line in found), found


def test_an_image_attack_on_a_video_model(errors):
    text = """\
robharness: 1
name: clips
data: {name: toy/clips, split: test}
models: [{model: toy/clips}]
attacks:
  - {attack: toy/flat, eps: 1/255}
  - {attack: toy/pgd, eps: 1/255}
"""
    said = ["6:14: attacks.0.attack: toy/flat does not take videos, as toy/clips does"]
    assert place(errors(text)) == said


def test_what_a_missing_part_leaves_to_be_said(errors):
    assert place(errors("title: x\n")) == [
        "1:1: models: a suite needs at least one model",
        "1:1: missing key 'data'",
        "1:1: missing key 'name'",
        "1:1: missing key 'robharness'",
    ]


def test_a_future_suite_is_refused(errors):
    assert place(errors(HEAD.replace("robharness: 1", "robharness: 2"))) == ["1:13: robharness: 2 is not one of 1"]


def test_an_attack_whose_threat_fails_is_blamed():
    registry = make_registry()
    source = registry.origins[0]
    registry.add("attacks", attack("odd", FgsmParams, threat=lambda params: None), source)
    suite = {"attacks": [{"attack": "toy/odd", "eps": 1}], **json_head()}
    with pytest.raises(SuiteError, match=r"attacks\.0: toy/odd \(robharness-toy 1\.0\): 'NoneType' object has no"):
        load(suite, registry)


# --- YAML and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: a suite is a mapping of keys; see docs/reference/suite.md"),
        ("# nothing\n", "1:1: a suite is a mapping of keys; see docs/reference/suite.md"),
        ("- a\n- b\n", "1:1: a suite is a mapping of keys; see docs/reference/suite.md"),
        ("a: b: c", "1:5: not YAML: mapping values are not allowed here"),
        ("a: [1", "1:6: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("a: *b", "1:4: not YAML: found undefined alias 'b'"),
        ("a: \x01", "1:1: not YAML: unacceptable character #x0001"),
        ("a: 1\n---\nb: 1\n", "2:1: not YAML: expected a single document in the stream, but found another document"),
        ("!!python/object/apply:os.system [ls]", "1:1: the tag !!python/object/apply:os.system is not allowed"),
    ],
)
def test_what_is_no_suite_at_all(errors, text, said):
    assert place(errors(text))[0].startswith(said)


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("title: Prüfung".encode("latin-1"))
    for name, reason in (
        ("none.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("latin.yaml", "not a text file"),
    ):
        path = tmp_path / name
        with pytest.raises(UserError) as caught:
            load(path, REGISTRY)
        assert str(caught.value) == f"{path}: cannot read the suite: {reason}. See: ls {path.parent}"


def test_words_that_yaml_1_1_would_change_stay_as_they_are(read):
    suite = read(HEAD.replace("toy/net}", "toy/net, label: no}") + "title: 1:30\n")
    assert suite.models[0].label == "no"
    assert suite.title == "1:30"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "any.yaml"


def loads_or_says_so(path, text):
    """Neither a traceback nor an endless loop comes of this text."""
    path.write_text(text, encoding="utf-8", newline="")
    try:
        found = load(path, REGISTRY)
    except UserError as error:
        found = error
    assert isinstance(found, Suite | UserError)
    assert str(found)


@ANY_MACHINE
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_suite_or_a_sentence(scratch, text):
    loads_or_says_so(scratch, text)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(
        ["toy/net", "toy/fgsm", "toy/pgd", "toy/fog", "toy/*", "toy/pixels", "test", "8/255", "1e-3", "l2"]
    ),
)
KEYS = st.sampled_from(
    ["robharness", "name", "title", "data", "canvas", "models", "attacks", "corruptions", "metrics", "expected",
     "check", "seed", "model", "attack", "corruption", "label", "reference", "weights", "eps", "nested", "severity",
     "split", "limit", "norm", "steps", "rel_step", "width", "sizes", "source", "clean", "tolerance", "alpha", "count"]
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@ANY_MACHINE
@given(st.dictionaries(KEYS, VALUES), st.dictionaries(KEYS, SCALARS), st.dictionaries(KEYS, SCALARS))
def test_any_keys_and_values_are_a_suite_or_a_sentence(scratch, keys, attack_keys, model_keys):
    suite = {
        **json_head(),
        "attacks": [{"attack": "toy/pgd", "eps": "8/255"} | attack_keys],
        "models": [{"model": "toy/net"} | model_keys],
        **keys,
    }
    loads_or_says_so(scratch, json.dumps(suite, ensure_ascii=False))


@ANY_MACHINE
@given(st.data())
def test_any_change_of_a_line_is_a_suite_or_a_sentence(scratch, data):
    lines = WRONG.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        cut = data.draw(st.integers(0, len(lines[index])))
        extra = data.draw(st.text(st.sampled_from("{}[]:,-*&!|>'\"%@`#?<~ \t\naeé0/"), max_size=3))
        lines[index] = lines[index][:cut] + extra + lines[index][cut + 1 :]
    loads_or_says_so(scratch, "\n".join(lines))


# --- suites that are right --------------------------------------------------------------------------------------------

RIGHT = """\
robharness: 1
name: small
title: All keys
data: {name: toy/pixels, split: test, limit: 10}
canvas: 16
models:
  - {model: toy/net, label: Net, reference: true, weights: ./net.pt, width: 4, sizes: [1, 2]}
  - {model: toy/net}
attacks:
  - {attack: toy/fgsm, eps: [0.25/255, 1e-3, 1], norm: l2}
  - {attack: toy/pgd, eps: 8 / 255, steps: 40, rel_step: 2.5/40, note: slow}
  - {attack: toy/pgd, eps: [0.5, 1/8], norm: l1, random_start: false, nested: true}
corruptions: [{corruption: toy/f*, severity: [3, 1]}]
metrics: [toy/wrong]
count: robust
precision: tf32
compile: true
seed: 7
expected:
  source: Table 1
  Net: {clean: 76.71, "fgsm(l2, 0.25/255)": 38}
check: {tolerance: 0, alpha: 0.05}
"""


def test_a_suite_with_every_key(read, tmp_path):
    suite = read(RIGHT)
    assert suite.path == tmp_path / "s.yaml"
    assert (suite.name, suite.title, suite.canvas, suite.seed) == ("small", "All keys", 16, 7)
    assert (suite.count, suite.precision, suite.reference) == ("robust", Precision(judge="tf32"), "Net")
    assert suite.compile
    assert (suite.data.split, suite.data.limit, suite.dataset.name) == ("test", 10, "toy/pixels")
    assert [model.label for model in suite.models] == ["Net", "toy/net"]
    assert suite.models[0].params == NetParams(width=4, sizes=(1, 2))
    assert suite.models[0].weights == tmp_path / "net.pt"
    assert (suite.models[1].params, suite.models[1].weights) == (NetParams(), None)
    assert [perturbation.name for perturbation in suite.perturbations] == [
        "fgsm(l2, 0.25/255)",
        "fgsm(l2, 0.001)",
        "fgsm(l2, 1)",
        "pgd(linf, 8/255, steps=40, rel_step=2.5/40)",
        "pgd(l1, 1/8, random_start=no, nested)",
        "pgd(l1, 0.5, random_start=no, nested)",
        "fog(3)",
        "fog(1)",
        "frost(3)",
        "frost(1)",
    ]
    assert suite.perturbations[0].eps == Fraction(1, 1020)
    assert suite.perturbations[1].eps == Fraction(1, 1000)
    assert suite.perturbations[3].params == PgdParams(steps=40, rel_step=Budget("1/16"), note="slow")
    assert [perturbation.smaller for perturbation in suite.perturbations[4:6]] == [(), (Budget("1/8"),)]
    assert [perturbation.norm for perturbation in suite.perturbations[2:5]] == ["l2", "linf", "l1"]
    assert suite.perturbations[-1].norm is None
    assert [metric.name for metric in suite.metrics] == ["toy/wrong"]
    assert suite.expected == {"Net": {"clean": 76.71, "fgsm(l2, 0.25/255)": 38}}
    assert suite.expected_source == "Table 1"
    assert (suite.check.tolerance, suite.check.alpha) == (0, 0.05)


def test_what_a_suite_is_without_its_optional_keys(read):
    suite = read(HEAD)
    assert (suite.canvas, suite.count, suite.precision, suite.seed) == (None, "all", Precision(), 0)
    assert (suite.precision.judge, suite.precision.gradient, suite.compile) == ("float32", "same", False)
    assert (suite.perturbations, suite.metrics, suite.expected, suite.reference) == ((), (), {}, None)
    assert (suite.check.tolerance, suite.check.alpha) == (0.5, 0.01)


@pytest.mark.parametrize(
    ("canvas", "corrupted", "side"),
    [("", True, 224), ("", False, None), ("canvas: 32", True, 32), ("canvas: 32", False, 32),
     ("canvas: none", False, None), ("canvas: auto", True, 224)],
)  # fmt: skip
def test_the_canvas_is_for_corruptions_unless_asked_for(read, canvas, corrupted, side):
    perturbations = "corruptions: [{corruption: toy/fog, severity: 1}]\n" if corrupted else ""
    assert read(HEAD + perturbations + canvas).canvas == side


def test_a_pattern_means_every_model_that_fits(read):
    text = HEAD.replace("toy/net}", "'toy/[ln]et*'}").replace("toy/pixels", "toy/letters")
    with pytest.raises(SuiteError, match=r"toy/net has labels 'toys', toy/letters has 'letters'"):
        read(text)  # both are there: one fits, and the other one does not
    assert [model.label for model in read(text.replace("[ln]et*", "l*")).models] == ["toy/letters"]


def test_a_star_of_a_pattern_stops_at_a_slash(read):
    def named(pattern):
        suite = read(HEAD + f"corruptions: [{{corruption: '{pattern}', severity: 1}}]\n")
        return [perturbation.entry.name for perturbation in suite.perturbations]

    assert named("toy/f*") == ["toy/fog", "toy/frost"]
    assert named("toy/*") == ["toy/fog", "toy/frost", "toy/negative"]
    assert named("toy/*/*") == named("toy/far/fog") == ["toy/far/fog"]


def json_head():
    return {
        "robharness": 1,
        "name": "small",
        "data": {"name": "toy/pixels", "split": "test"},
        "models": [{"model": "toy/net"}],
    }


def test_a_mapping_is_read_as_a_file_would_be(read, tmp_path):
    mapping = json_head() | {
        "models": [{"model": "toy/net", "label": "no", "weights": Path("net.pt")}],
        "attacks": [
            {"attack": "toy/fgsm", "eps": [Budget("0.25/255"), "1e-3", 0.5]},
            {"attack": "toy/pgd", "eps": Fraction(1, 3), "rel_step": "2.5/40"},
        ],
    }
    suite = load(mapping, REGISTRY)
    names = ["fgsm(linf, 0.25/255)", "fgsm(linf, 1e-3)", "fgsm(linf, 0.5)", "pgd(linf, 1/3, rel_step=2.5/40)"]
    assert [perturbation.name for perturbation in suite.perturbations] == names
    assert suite.models[0].weights == Path.cwd() / "net.pt"
    with pytest.raises(SuiteError) as caught:
        load(json_head() | {"titel": "x"}, REGISTRY)
    assert "titel: unknown key 'titel'; did you mean 'title'?" in str(caught.value)
    assert str(caught.value).endswith("Mend the suite, then call robharness.plan with it")


def test_a_caller_that_brings_its_models_needs_none_in_the_suite():
    suite = {key: value for key, value in json_head().items() if key != "models"}
    assert load(suite, REGISTRY, models_follow=True).models == ()
    with pytest.raises(SuiteError, match="a suite needs at least one model"):
        load(suite, REGISTRY)


# --- attacks without a budget, in teams, on other models ------------------------------------------------------------


def named(*attacks, **changes):
    suite = load(json_head() | {"attacks": list(attacks)} | changes, REGISTRY)
    return [perturbation.name for perturbation in suite.perturbations]


def refused(*attacks, **changes):
    """What the reader says, without the places."""
    with pytest.raises(SuiteError) as caught:
        load(json_head() | {"attacks": list(attacks)} | changes, REGISTRY)
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()[:-1]]


def test_a_minimal_attack_needs_no_budget_and_may_have_some():
    nearest = {"attack": "toy/nearest", "norm": "l2"}
    assert named(nearest, nearest | {"eps": [0.5, 1]}) == ["nearest(l2)", "nearest(l2, 0.5)", "nearest(l2, 1)"]
    assert refused({"attack": "toy/fgsm"}) == ["attacks.0: missing key 'eps'"]
    assert refused(nearest | {"nested": True}) == ["attacks.0: missing key 'eps'"]
    assert refused({"attack": "toy/team-nearest"}) == ["attacks.0: missing key 'eps'"]
    assert named({"attack": "toy/team-nearest", "nested": False}) == ["team-nearest(linf)"]


def test_a_team_is_nested_unless_told_otherwise():
    team = {"attack": "toy/team", "eps": [2, 1]}
    assert named(team) == ["team(linf, 1)", "team(linf, 2)"]
    assert named(team | {"nested": False}) == ["team(linf, 2, nested=no)", "team(linf, 1, nested=no)"]
    assert named({"attack": "toy/pgd", "eps": 1, "nested": True}) == ["pgd(linf, 1, nested)"]


TWO = [{"model": "toy/net", "label": "A"}, {"model": "toy/net", "label": "B"}]


def test_the_same_attack_on_another_model_or_in_8_bits_is_another_cell():
    pgd = {"attack": "toy/pgd", "eps": 1}
    ways = [pgd, pgd | {"source": "A"}, pgd | {"source": "B"}, pgd | {"eight_bit": True}]
    assert named(*ways, models=TWO) == [
        "pgd(linf, 1)",
        "pgd(linf, 1, source=A)",
        "pgd(linf, 1, source=B)",
        "pgd(linf, 1, 8 bit)",
    ]
    for way in ways:
        [said] = refused(way, way | {"eps": "2/2"}, models=TWO)
        assert "is already in line" in said


def test_the_source_is_a_model_of_the_suite_that_takes_the_same():
    pgd = {"attack": "toy/pgd", "eps": 1}
    [said] = refused(pgd | {"source": "C"}, models=TWO)
    assert said == "attacks.0.source: no model has the label 'C'; there are A, B"
    wide = TWO[1] | {"model": "toy/wide"}
    [said] = refused(pgd | {"source": "A"}, models=[TWO[0], wide])
    assert said == (
        "attacks.0.source: B takes other inputs than A, on which the attack is crafted; both need one `input` and "
        "`preprocessing`"
    )


def test_features_can_be_attacked_where_a_model_declares_them():
    insight = {"attack": "toy/insight", "eps": 1}
    assert named(insight, models=[{"model": "toy/insightful"}]) == ["insight(linf, 1)"]
    [said] = refused(insight)
    assert said == (
        "attacks.0.attack: toy/net declares no `features`, which toy/insight attacks. See: robharness list models"
    )
    both = [{"model": "toy/net", "label": "A"}, {"model": "toy/insightful", "label": "B"}]
    assert named(insight | {"source": "B"}, models=both) == ["insight(linf, 1, source=B)"]


def test_precision_is_a_word_or_two():
    both = load(json_head() | {"precision": {"judge": "tf32", "gradient": "bfloat16"}}, REGISTRY).precision
    assert both == Precision(judge="tf32", gradient="bfloat16")
    assert load(json_head() | {"precision": "tf32"}, REGISTRY).precision == Precision(judge="tf32")
    assert refused(precision={"gradeint": "bfloat16"}) == [
        "precision.gradeint: unknown key 'gradeint'; did you mean 'gradient'?"
    ]


# --- the JSON Schema --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator():
    schema = json_schema(REGISTRY)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_takes_what_the_reader_takes(read, validator):
    import yaml

    for text in (HEAD, RIGHT):
        read(text)
        assert not list(validator.iter_errors(yaml.safe_load(text)))


@pytest.mark.parametrize(
    "changes",
    [
        {"titel": "x"},
        {"robharness": 2},
        {"name": "a b"},
        {"models": [{"model": "toy/nett"}]},
        {"models": [{"model": "toy/net", "widht": 4}]},
        {"models": [{"model": "toy/net", "width": 0}]},
        {"models": [{"label": "Net"}]},
        {"data": {"name": "toy/pixels", "split": "test", "limti": 3}},
        {"data": {"name": "toy/pixels"}},
        {"attacks": [{"attack": "toy/fgsm", "eps": "8/255", "steps": 3}]},
        {"attacks": [{"attack": "toy/fgsm", "eps": "abc"}]},
        {"attacks": [{"attack": "toy/fgsm", "eps": []}]},
        {"attacks": [{"attack": "toy/fgsm"}]},
        {"attacks": [{"attack": "toy/team"}]},
        {"attacks": [{"attack": "toy/nearest", "eps": []}]},
        {"attacks": [{"attack": "toy/fgsm", "eps": 1, "source": 3}]},
        {"attacks": [{"attack": "toy/fgsm", "eps": 1, "eight_bit": "yes"}]},
        {"attacks": [{"attack": "toy/pgd", "eps": 1, "norm": "l3"}]},
        {"precision": "float16"},
        {"precision": {"gradient": "float16"}},
        {"precision": {"gradeint": "bfloat16"}},
        {"compile": "yes"},
        {"corruptions": [{"corruption": "toy/fog", "severity": "1"}]},
        {"corruptions": [{"corruption": "toy/fog"}]},
        {"check": {"alhpa": 0.1}},
        {"expected": {"Net": {"clean": "high"}}},
        {"models": None},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(validator, changes):
    assert validator.is_valid(json_head())
    suite = json_head() | changes
    assert not validator.is_valid(suite)
    with pytest.raises(SuiteError):
        load(suite, REGISTRY)


def test_options_that_no_schema_can_say_do_not_spoil_the_schema():
    registry = make_registry()
    registry.add("attacks", attack("odd", CallableParams), registry.origins[0])
    schema = json_schema(registry)
    titles = [variant["title"] for variant in schema["properties"]["attacks"]["items"]["anyOf"]]
    assert titles[:3] + titles[-2:] == ["toy/fgsm", "toy/pgd", "toy/flat", "toy/odd", "AttackRef"]


def test_the_module_prints_the_schema():
    found = subprocess.run([sys.executable, "-m", "robharness.suite"], capture_output=True, text=True, check=True)
    schema = json.loads(found.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"robharness", "name", "data", "models", "attacks", "expected", "check"} <= schema["properties"].keys()


def test_two_plugins_of_the_same_word_keep_apart(tmp_path):
    """Tables and `expected` go by a cell's name, so names must differ."""
    text = """
from dataclasses import dataclass
from robharness import AttackSpec, CorruptionSpec, Cost, DatasetSpec, InputSpec, ModelSpec, ThreatModel, hookimpl

@dataclass(frozen=True, kw_only=True)
class Params:
    pass

@hookimpl
def robharness_attacks():
    yield AttackSpec(name="push", summary="", access="decision", params=Params, build=lambda params: None,
                     threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost())

@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="", input=InputSpec(shape=(1, 8, 8)), labels="l", build=lambda p, w: None)

@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="set", summary="", labels="l", splits=("test",), open=lambda root, split: None)
"""
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(text)
    registry = discover([str(tmp_path / "one.py"), str(tmp_path / "two.py")])
    attacks = [{"attack": "one/push", "eps": [1, 2]}, {"attack": "two/push", "eps": [2]}]
    source = {"robharness": 1, "name": "x", "data": {"name": "one/set", "split": "test"},
              "models": [{"model": "one/net"}], "attacks": attacks}  # fmt: skip
    loaded = load(source, registry)
    assert [p.name for p in loaded.perturbations] == ["push(linf, 1)", "one/push(linf, 2)", "two/push(linf, 2)"]
