"""The models, perturbations and settings that a correct suite is read as."""

import dataclasses
import shlex
from fractions import Fraction
from pathlib import Path

import pytest

from robharness import Budget
from robharness.errors import SuiteError
from robharness.plugins import discover
from robharness.suite import Precision, Publication, load
from toy_suites import HEAD, REGISTRY, RIGHT, NetParams, PgdParams, json_head, named, refused


def test_a_suite_with_every_key(read, tmp_path):
    suite = read(RIGHT)
    assert suite.path == tmp_path / "s.yaml"
    assert (suite.name, suite.title, suite.canvas, suite.seed) == ("small", "All keys", 16, 7)
    assert (suite.count, suite.precision, suite.reference) == ("robust", Precision(judge="tf32"), "Net")
    assert suite.compile
    assert (suite.data.split, suite.data.limit, suite.data.entry.name) == ("test", 10, "toy/pixels")
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
    assert suite.expected == (
        Publication(source="Table 1", numbers={"Net": {"clean": 76.71, "fgsm(l2, 0.25/255)": 38}}),
    )
    assert (suite.check.tolerance, suite.check.alpha) == (0, 0.05)


def test_optional_keys_have_defaults(read):
    suite = read(HEAD)
    assert (suite.canvas, suite.count, suite.precision, suite.seed) == (None, "all", Precision(), 0)
    assert (suite.precision.judge, suite.precision.gradient, suite.compile) == ("float32", "same", False)
    assert (suite.perturbations, suite.metrics, suite.expected, suite.reference) == ((), (), (), None)
    assert (suite.gap, suite.gain) == (None, None)
    assert (suite.check.tolerance, suite.check.alpha) == (0.5, 0.01)


@pytest.mark.parametrize(
    ("canvas", "corrupted", "side"),
    [("", True, "auto"), ("", False, None), ("canvas: 32", True, 32), ("canvas: 32", False, 32),
     ("canvas: none", False, None), ("canvas: auto", True, "auto")],
)  # fmt: skip
def test_the_canvas_is_used_for_corruptions_or_when_given(read, canvas, corrupted, side):
    perturbations = "corruptions: [{corruption: toy/fog, severity: 1}]\n" if corrupted else ""
    assert read(HEAD + perturbations + canvas).canvas == side


def test_a_pattern_selects_every_matching_model(read):
    text = HEAD.replace("toy/net}", "'toy/[ln]et*'}").replace("toy/pixels", "toy/letters")
    with pytest.raises(SuiteError, match=r"toy/net has labels 'toys', toy/letters has 'letters'"):
        read(text)  # both are there: one fits, and the other one does not
    assert [model.label for model in read(text.replace("[ln]et*", "l*")).models] == ["toy/letters"]


@pytest.mark.parametrize(
    ("name", "written"),
    [("s.yaml", "s.yaml"), ("my suite.yaml", "'my suite.yaml'"), ("$x's.yaml", "'$x'\"'\"'s.yaml'")],
)
def test_the_path_in_a_command_is_one_word_of_a_shell(read, tmp_path, monkeypatch, name, written):
    suite = dataclasses.replace(read(RIGHT), path=tmp_path / "below" / name, working_directory=tmp_path.parent)
    assert shlex.split(suite.command("plan")) == ["robharness", "plan", f"{tmp_path.name}/below/{name}"]
    suite = dataclasses.replace(suite, working_directory=tmp_path / "below")
    assert suite.command("plan") == f"robharness plan {written}"
    monkeypatch.chdir(tmp_path)  # as a plugin may do after the suite was read
    assert suite.command("plan") == f"robharness plan {written}"


def test_a_star_of_a_pattern_stops_at_a_slash(read):
    def named(pattern):
        suite = read(HEAD + f"corruptions: [{{corruption: '{pattern}', severity: 1}}]\n")
        return [perturbation.entry.name for perturbation in suite.perturbations]

    assert named("toy/f*") == ["toy/fog", "toy/frost"]
    assert named("toy/*") == ["toy/fog", "toy/frost", "toy/negative"]
    assert named("toy/*/*") == named("toy/far/fog") == ["toy/far/fog"]


def test_a_mapping_is_read_like_a_file(read, tmp_path):
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
    assert str(caught.value).endswith("Correct the suite. Try: robharness.plan with it again")


def test_live_models_replace_the_models_of_a_suite():
    suite = {key: value for key, value in json_head().items() if key != "models"}
    assert load(suite, REGISTRY, models_follow=True).models == ()
    with pytest.raises(SuiteError, match="a suite needs at least one model"):
        load(suite, REGISTRY)


# --- attacks without a budget, in teams, on other models ------------------------------------------------------------


def test_a_minimal_attack_needs_no_budget_and_may_have_some():
    nearest = {"attack": "toy/nearest", "norm": "l2"}
    assert named(nearest, nearest | {"eps": [0.5, 1]}) == ["nearest(l2)", "nearest(l2, 0.5)", "nearest(l2, 1)"]
    assert refused({"attack": "toy/fgsm"}) == ["attacks.0: missing key 'eps'"]
    assert refused(nearest | {"nested": True}) == ["attacks.0: missing key 'eps'"]
    assert refused({"attack": "toy/often-nearest"}) == ["attacks.0: missing key 'eps'"]
    assert named({"attack": "toy/often-nearest", "norm": "l2"}) == ["often-nearest(l2)"]
    assert refused({"attack": "toy/team-nearest"}) == ["attacks.0: missing key 'eps'"]
    assert named({"attack": "toy/team-nearest", "nested": False}) == ["team-nearest(linf)"]


def test_an_ensemble_is_nested_by_default():
    team = {"attack": "toy/team", "eps": [1, 0.5]}
    assert named(team) == ["team(linf, 0.5)", "team(linf, 1)"]
    assert named(team | {"nested": False}) == ["team(linf, 1, nested=no)", "team(linf, 0.5, nested=no)"]
    assert named({"attack": "toy/pgd", "eps": 1, "nested": True}) == ["pgd(linf, 1, nested)"]


TWO = [{"model": "toy/net", "label": "A"}, {"model": "toy/net", "label": "B"}]


def test_the_same_attack_on_another_model_or_in_8_bits_is_another_cell():
    pgd = {"attack": "toy/pgd", "eps": 1}
    variants = [pgd, pgd | {"source": "A"}, pgd | {"source": "B"}, pgd | {"eight_bit": True}]
    assert named(*variants, models=TWO) == [
        "pgd(linf, 1)",
        "pgd(linf, 1, source=A)",
        "pgd(linf, 1, source=B)",
        "pgd(linf, 1, 8 bit)",
    ]
    for variant in variants:
        [message] = refused(variant, variant | {"eps": "2/2"}, models=TWO)
        assert "is already in line" in message


def test_a_surrogate_is_a_model_of_the_suite_with_the_same_input():
    pgd = {"attack": "toy/pgd", "eps": 1}
    [message] = refused(pgd | {"source": "C"}, models=TWO)
    assert message == "attacks.0.source: no model has the label 'C'; there are A, B"
    wide = TWO[1] | {"model": "toy/wide"}
    [message] = refused(pgd | {"source": "A"}, models=[TWO[0], wide])
    assert message == (
        "attacks.0.source: B takes other inputs than A, on which the attack is crafted: 1x8x9 and 1x8x8; both need one "
        "`input` and `preprocessing`"
    )


def test_a_source_may_be_a_pattern_a_list_or_an_ensemble():
    models = [*TWO, TWO[0] | {"label": "Big"}]

    def sources(source):
        return [
            name.partition("=")[2][:-1]
            for name in named({"attack": "toy/pgd", "eps": 1, "source": source}, models=models)
        ]

    assert sources("*") == ["A", "B", "Big"]
    assert sources("B*") == ["B", "Big"]
    assert sources(["Big", "A"]) == ["Big", "A"]
    assert sources(["A", "*"]) == ["A", "B", "Big"]
    assert sources({"ensemble": ["B", "A"]}) == ["A+B"]
    assert sources({"ensemble": "*"}) == ["A+B+Big"]
    assert sources(["A", {"ensemble": ["A", "B"]}, {"ensemble": "B*"}, {"ensemble": "A"}]) == ["A", "A+B", "B+Big"]
    starred = [*TWO, TWO[0] | {"label": "*"}]
    assert len(named({"attack": "toy/pgd", "eps": 1, "source": "*"}, models=starred)) == 1  # a label comes first


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("X*", "source: no model has the label 'X*'; there are A, B"),
        (["A", "C"], "source: no model has the label 'C'; there are A, B"),
        ({"ensemble": ["A", "C"]}, "source: no model has the label 'C'; there are A, B"),
        ([], "source: at least one is needed"),
        ({"ensemble": []}, "source.ensemble: at least one is needed"),
        ({}, "source: missing key 'ensemble'"),
        ({"ensembel": ["A"]}, "source.ensembel: unknown key 'ensembel'; did you mean 'ensemble'?"),
        (3, "source: Input should be a valid string or an object; got 3"),
    ],
)
def test_a_wrong_source_is_named_with_its_place(source, message):
    assert refused({"attack": "toy/pgd", "eps": 1, "source": source}, models=TWO) == [f"attacks.0.{message}"]


def test_members_of_an_ensemble_take_the_inputs_of_all_models():
    pgd, wide = {"attack": "toy/pgd", "eps": 1}, TWO[1] | {"model": "toy/wide", "label": "W"}
    [message] = refused(pgd | {"source": {"ensemble": ["A", "B"]}}, models=[*TWO, wide])
    assert message.startswith("attacks.0.source: W takes other inputs than A, on which the attack is crafted")
    insightful = [{"model": "toy/insightful", "label": label} for label in "AB"]
    [message] = refused({"attack": "toy/insight", "eps": 1, "source": {"ensemble": "*"}}, models=insightful)
    assert message == (
        "attacks.0.source: toy/insight attacks features, and an ensemble has the mean of logits alone; name models one "
        "by one"
    )
    [message] = refused(pgd | {"source": ["A+B", {"ensemble": ["A", "B"]}]}, models=[*TWO, TWO[0] | {"label": "A+B"}])
    assert message == ("attacks.0.source: 'A+B' names the ensemble and another source; give a model another label")


def test_feature_attacks_need_a_model_with_declared_features():
    insight = {"attack": "toy/insight", "eps": 1}
    assert named(insight, models=[{"model": "toy/insightful"}]) == ["insight(linf, 1)"]
    [message] = refused(insight)
    assert message == (
        "attacks.0.attack: toy/net declares no `features`, which toy/insight attacks. Try: robharness list models"
    )
    both = [{"model": "toy/net", "label": "A"}, {"model": "toy/insightful", "label": "B"}]
    assert named(insight | {"source": "B"}, models=both) == ["insight(linf, 1, source=B)"]


def test_precision_is_one_word_or_two():
    both = load(json_head() | {"precision": {"judge": "tf32", "gradient": "bfloat16"}}, REGISTRY).precision
    assert both == Precision(judge="tf32", gradient="bfloat16")
    assert load(json_head() | {"precision": "tf32"}, REGISTRY).precision == Precision(judge="tf32")
    assert refused(precision={"gradeint": "bfloat16"}) == [
        "precision.gradeint: unknown key 'gradeint'; did you mean 'gradient'?"
    ]


def test_equal_names_in_two_plugins_get_different_cell_names(tmp_path):
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
    attacks = [{"attack": "one/push", "eps": [0.5, 1]}, {"attack": "two/push", "eps": [1]}]
    source = {"robharness": 1, "name": "x", "data": {"name": "one/set", "split": "test"},
              "models": [{"model": "one/net"}], "attacks": attacks}  # fmt: skip
    loaded = load(source, registry)
    assert [p.name for p in loaded.perturbations] == ["push(linf, 0.5)", "one/push(linf, 1)", "two/push(linf, 1)"]
