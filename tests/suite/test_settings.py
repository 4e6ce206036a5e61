"""Values that `--set KEY=VALUE` or `overrides` change: where, how they are read, and errors that name them."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from robharness import Encoder
from robharness.errors import SuiteError, UserError
from robharness.suite import load
from robharness.suite.settings import as_settings, parse_setting
from toy_suites import HEAD, REGISTRY, make_registry, model

TEXT = """\
robharness: 1
name: small
data: {name: toy/pixels, split: test}
models:
  - {model: toy/net, label: Net, width: 4}
  - {model: toy/net, label: v1.0, weights: ./net.pt}
  - {model: toy/wide}
attacks:
  - {attack: toy/fgsm, eps: [1/255, 2/255]}
  - {attack: toy/pgd, eps: 1, norm: l2}
  - {attack: toy/pgd, eps: 2, norm: l1}
corruptions: [{corruption: toy/f*, severity: 1}]
expected: {Net: {"fgsm(linf, 1/255)": 60.5}}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load the suite, from its file in the folder `suites` of the working directory, with settings."""
    monkeypatch.chdir(tmp_path)

    def call(*settings, text=TEXT):
        Path("suites").mkdir(exist_ok=True)
        Path("suites/s.yaml").write_text(text)
        return load("suites/s.yaml", REGISTRY, settings=tuple(map(parse_setting, settings)))

    return call


@pytest.fixture
def refused(read):
    def call(*settings, text=TEXT):
        with pytest.raises(SuiteError) as caught:
            read(*settings, text=text)
        return str(caught.value).splitlines()

    return call


def widths(suite):
    return [getattr(model.params, "width", None) for model in suite.models]


def names(suite):
    return [perturbation.name for perturbation in suite.perturbations]


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("models.*.width=2", [2, 2, None]),  # the third model has no such option
        ("models.0.width=3", [3, 8, None]),
        ("models.Net.width=3", [3, 8, None]),
        ('models."v1.0".width=3', [4, 3, None]),
        ("models=[{model: toy/net, width: 5}]", [5]),
        ("models.1={model: toy/net, width: 5}", [4, 5, None]),
    ],
)
def test_a_value_of_models_is_set(read, setting, found):
    assert widths(read(setting)) == found


def test_a_label_goes_before_the_name_of_another_model(read):
    models = "[{model: toy/net, label: wide}, {model: toy/wide, label: W}]"
    text = f"{HEAD.partition('models')[0]}models: {models}\n"
    assert widths(read("models.wide.width=3", text=text)) == [3, None]


def test_values_are_read_as_in_the_file(read):
    suite = read(
        "attacks.0.eps=[0.25/255]", "attacks.1.steps=3", "seed=7", "count=robust", "data.limit=100", "title='5'",
        "attacks.fgsm.norm=l2",
    )  # fmt: skip
    assert names(suite)[:2] == ["fgsm(l2, 0.25/255)", "pgd(l2, 1, steps=3)"]
    assert (suite.seed, suite.count, suite.data.limit, suite.title) == (7, "robust", 100, "5")
    assert suite.perturbations[0].eps == Fraction(1, 1020)


def test_mappings_on_the_way_are_created_and_an_empty_value_is_null(read):
    suite = read("check.tolerance=2", "precision.judge=tf32", "clusters=")
    assert (suite.check.tolerance, suite.precision.judge, suite.clusters) == (2, "tf32", None)


def test_keys_of_mappings_may_be_in_quotes_or_all_at_once(read):
    for setting, percent in (('expected.Net."fgsm(linf, 1/255)"=70', 70), ("expected.*.*=50", 50)):
        assert [each.numbers for each in read(setting).expected] == [{"Net": {"fgsm(linf, 1/255)": percent}}]


def test_published_numbers_of_cells_and_models_that_are_set_away_are_left_out(read, refused):
    assert [each.numbers for each in read("attacks.0.eps=1/4").expected] == [{"Net": {}}]
    assert [each.numbers for each in read("models.0.label=Other").expected] == [{}]
    text = TEXT.replace("fgsm(linf, 1/255)", "fgsm(linf, 1/256)")
    assert "no cell and no metric is called 'fgsm(linf, 1/256)'" in refused(text=text)[0]
    assert "no cell" in refused("expected.Net.clena=50")[0]


def test_a_later_setting_wins(read):
    assert widths(read("models.0.width=2", "models.*.width=3")) == [3, 3, None]
    assert widths(read("models.*.width=3", "models.0.width=2")) == [2, 3, None]


def test_a_path_that_is_set_is_relative_to_the_working_directory(read, tmp_path):
    suite = read("models.0.weights=./mine.pt")
    assert [model.weights for model in suite.models] == [tmp_path / "mine.pt", tmp_path / "suites/net.pt", None]


@dataclass(frozen=True, kw_only=True)
class ProbeParams:
    encoder: Encoder
    k: int = 1


def test_a_value_inside_of_an_encoder_is_set_and_the_others_stay_beside_their_file(tmp_path, monkeypatch):
    registry = make_registry()
    registry.add("models", model("probe", params=ProbeParams), registry.origins[0])
    encoder = "{model: toy/insightful, weights: {a: ./a.pt, b: ./b.pt}}"
    (tmp_path / "suites").mkdir()
    path = tmp_path / "suites/s.yaml"
    path.write_text(f"{HEAD.replace('toy/net', 'toy/probe')}defaults: {{models: {{encoder: {encoder}}}}}\n")
    monkeypatch.chdir(tmp_path)
    for settings, other in ([], tmp_path / "suites/b.pt"), (["models.0.encoder.weights.b=./c.pt"], tmp_path / "c.pt"):
        suite = load(path, registry, settings=tuple(map(parse_setting, settings)))
        assert suite.models[0].params.encoder.model.weights == {"a": tmp_path / "suites/a.pt", "b": other}
    with pytest.raises(SuiteError) as caught:
        load(path, registry, settings=(parse_setting("models.*.encoder.wieghts=x"),))
    assert caught.value.errors == [
        "--set models.*.encoder.wieghts=x: models.0.encoder.wieghts: unknown key 'wieghts'; did you mean 'weights'?"
    ]


PLACES = [
    ("modles.*.width=1", "a suite has no key 'modles'; did you mean 'models'?"),
    ("models.3.width=1", "'models' has no item 3; it has 3, from models.0 to models.2"),
    ("models.Nett.width=1", "'models' has no item 'Nett'; did you mean 'Net'?"),
    ("attacks.pgd.steps=1", "several items of 'attacks' are called 'pgd'; write attacks.1 or attacks.2"),
    ("attacks.pgdd.steps=1", "'attacks' has no item 'pgdd'; did you mean 'pgd'?"),
    ("models.0.zises.0=1", "'models.0' has no 'zises'"),
    ("metrics.0=toy/wrong", "the suite has no 'metrics'"),
    ("name.x=1", "'name' is 'small', which has no 'x'"),
    ("check.*=1", "the suite has no 'check'"),
    ("extends=other.yaml", "`extends` is a key of files alone; write it into the suite"),
    ("seed=[1", "not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
    ("seed=!!int 5", "the tag !!int is not allowed"),
]


@pytest.mark.parametrize(("setting", "sentence"), PLACES)
def test_a_setting_that_cannot_be_applied_is_a_sentence_that_names_it(refused, setting, sentence):
    line, remedy = refused(setting)
    assert line.startswith(f"--set {setting[:80]}")
    assert sentence in line
    assert remedy == "Correct what is set. Try: robharness plan suites/s.yaml"


@pytest.mark.parametrize(
    ("setting", "lines"),
    [
        ("models.*.width=x", ["--set models.*.width=x: models.0.width: Input should be a valid integer; got 'x'"]),
        ("models.0.widht=1", [
            "--set models.0.widht=1: models.0.widht: unknown key 'widht'; did you mean 'width'?"]),
        ("models.*.widht=1", ["--set models.*.widht=1: no item of 'models' takes the key 'widht'; did you mean "
                              "'width'?"]),
        ("attacks.0.eps=[1/255, 0]", ["--set attacks.0.eps=[1/255, 0]: attacks.0.eps.1: Input should be greater than "
                                      "0; got 0"]),
        ("attacks.2={attack: toy/pgd, eps: 1, norm: l2}", [
            "--set attacks.2={attack: toy/pgd, eps: 1, norm: l2}: attacks.2: pgd(l2, 1) is already in "
            "suites/s.yaml:10:5"]),
        ("models.2.label=Net", ["suites/s.yaml:7:5: models.2: the label 'Net' is taken by the model in line 5; give "
                                "it a `label:`"]),
        ("chek.tolerance=1", ["--set chek.tolerance=1: a suite has no key 'chek'; did you mean 'check'?"]),
    ],
)  # fmt: skip
def test_an_error_at_a_value_that_was_set_has_the_setting_as_its_place(refused, setting, lines):
    found = refused(setting)
    assert found[:-1] == lines


def test_the_command_of_other_errors_repeats_the_settings(refused):
    found = refused("data.limit=100", text=TEXT.replace("robharness: 1", "robharness: 2"))
    assert found[-1] == "Correct the suite. Try: robharness plan suites/s.yaml --set data.limit=100"


@pytest.mark.parametrize("text", ["seed", "=1", ".=1", "a..b=1", 'a"b=1', "models.=1"])
def test_a_text_that_is_no_setting_is_refused(text):
    with pytest.raises(ValueError, match="is not KEY=VALUE"):
        parse_setting(text)


def test_the_parts_of_a_setting():
    setting = parse_setting('models."a.b=c".eps=[1=2]')
    assert (setting.steps, setting.value) == (["models", "a.b=c", "eps"], "[1=2]")


# --- from Python ------------------------------------------------------------------------------------------------------


def test_overrides_are_values_of_python(read):
    path = Path("mine.pt")
    given = {"models.0.weights": path, "attacks.0.eps": [Fraction(1, 4)], "seed": np.int64(3), "title": "a: [b"}
    texts = [str(setting) for setting in as_settings(given)]
    assert texts == ['models.0.weights="mine.pt"', 'attacks.0.eps=["1/4"]', "seed=3", 'title="a: [b"']
    suite = read(*texts)
    assert (suite.title, suite.seed, suite.models[0].weights) == ("a: [b", 3, Path.cwd() / path)
    assert suite.settings == tuple(texts)


def test_errors_of_overrides_name_them():
    settings = as_settings({"seed": -1})
    with pytest.raises(SuiteError) as caught:
        load({"robharness": 1, "name": "x"}, REGISTRY, settings=settings)
    assert "overrides seed=-1: seed: Input should be greater than or equal to 0; got -1" in caught.value.errors


class Endless(dict):
    def items(self):
        while True:
            yield "seed", 1


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([1], "`overrides` is a mapping of keys to values"),
        ("seed=1", "`overrides` is a mapping of keys to values"),
        ({1: 2}, "a key is a text; got 1"),
        ({"": 2}, "'=2' is not KEY=VALUE"),
        ({"seed": object()}, "a suite has mappings, lists, texts, numbers"),
        ({"a": {"b": {1}}}, "b: a suite has mappings"),
        (Endless(), "more than 1000 settings"),
    ],
)
def test_overrides_that_are_none_are_refused(overrides, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        as_settings(overrides)


def test_a_setting_for_many_items_cannot_make_a_suite_too_large(refused):
    many = "\n".join(f"  - {{model: toy/net, label: m{at}}}" for at in range(500))
    found = refused(f"models.*.sizes=[{'1, ' * 50}]", text=TEXT.replace("attacks:", f"{many}\nattacks:"))
    assert "more than 20000 values" in found[0]
