"""One mistake is one error: the names of what is wrong are not reported again where they are used."""

import pytest

from robharness.errors import SuiteError
from robharness.suite import load, yaml
from toy_planning import registry_of
from toy_suites import HEAD, REGISTRY, json_head, place

TOP = "robharness: 1\nname: small\ndata: {name: toy/pixels, split: test}\n"
USES = """\
baseline: Net
gap: [Net, Two]
attacks:
  - {attack: toy/pgd, eps: 1/16, source: Net}
  - {attack: toy/pgd, eps: 1/16, source: Two}
expected: {Net: {clean: 90, "pgd(linf, 1/16, source=Net)": 1}, Two: {clean: 80}}
"""


@pytest.mark.parametrize(
    ("net", "error"),
    [
        ("reference: 2", "models.0.reference: Input should be a valid boolean; got 2"),
        ("width: 0", "models.0.width: Input should be greater than 0; got 0"),
        ("widht: 1", "models.0.widht: unknown key 'widht'; did you mean 'width'?"),
        ("seeds: 3", "models.0.seeds: toy/net is not trained here, so that it has no seed; leave 'seeds' out"),
        ("width: !!int 5", "models.0.width: the tag !!int is not allowed"),
        ("[width]: 5", "models.0: a key must be a word"),
        ("preprocessing: {corp: 4}", "models.0.preprocessing.corp: unknown key 'corp'; did you mean 'crop'?"),
        ("preprocessing: {antialias: 3}",
         "models.0.preprocessing: Preprocessing: antialias=3 must be true or false"),
        ("weights: ~nobody-of-that-name/x",
         "models.0.weights: the home folder in '~nobody-of-that-name/x' is not known; write the path in full"),
    ],
)  # fmt: skip
def test_a_model_with_an_error_has_its_label_elsewhere(errors, net, error):
    models = f"models:\n  - {{model: toy/net, label: Net, {net}}}\n  - {{model: toy/net, label: Two}}\n"
    found = [line.partition(" ")[2] for line in place(errors(TOP + models + USES))]
    assert found == [error]


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("{model: toy/nett}",
         "models.0.model: no model 'toy/nett'; did you mean 'toy/net'? Try: robharness list models"),
        ("{model: far/net, label: toy/net}",
         "models.0.model: 'far/net' needs a plugin 'far', which is not there. Try: pip install robharness-far"),
        ("{model: toy/net, label: 5}", "models.0.label: Input should be a valid string; got 5"),
        ("{label: toy/net}", "models.0: missing key 'model'"),
        ("toy/net", "models.0: one of 'models' is a mapping such as {model: NAME}; got 'toy/net'"),
        ("{<<: 1, label: toy/net}", "models.0.<<: '<<' merges a mapping, or a list of mappings, such as *base"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_known_may_have_the_label_that_is_meant(errors, item, error):
    text = f"models:\n  - {item}\n  - {{model: toy/net, label: Two}}\n{USES.replace('Net', 'toy/net')}"
    assert [line.partition(" ")[2] for line in place(errors(TOP + text))] == [error]


def test_a_label_that_no_model_has_is_an_error_beside_a_model_with_errors(errors):
    text = "models:\n  - {model: toy/net, label: Net, width: 0}\n  - {model: toy/net, label: Two}\nbaseline: Nett\n"
    lines = place(errors(TOP + text))
    assert [line.partition(" ")[2] for line in lines] == [
        "models.0.width: Input should be greater than 0; got 0",
        "baseline: no published table and no model's label is 'Nett'; did you mean 'Net'?",
    ]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ("attacks: [{attack: toy/fgsm, eps: 1/8, norm: l7}]\nexpected: {toy/net: {'fgsm(linf, 1/8)': 1}}",
         "attacks.0.norm: 'l7' is not one of linf, l2"),
        ("attacks: [{attack: toy/fgms, eps: 1/8}]\nexpected: {toy/net: {'fgsm(linf, 1/8)': 1}}",
         "attacks.0.attack: no attack 'toy/fgms'; did you mean 'toy/fgsm'? Try: robharness list attacks"),
        ("corruptions: [{corruption: toy/f*, severity: 6}]\nexpected: {toy/net: {'fog(1)': 1}}", None),
        ("corruptions: {corruption: toy/fog, severity: 1}\nexpected: {toy/net: {'fog(1)': 1}}",
         "corruptions: 'corruptions' is a list of mappings"),
        ("metrics: [toy/worng]\nexpected: {toy/net: {wrong: 1}}",
         "metrics.0: no metric 'toy/worng'; did you mean 'toy/wrong'? Try: robharness list metrics"),
        ("metrics: toy/wrong\nexpected: {toy/net: {wrong: 1}}", None),
        ("attacks: [{attack: toy/fgsm, eps: !!str 1/8}]", "attacks.0.eps: the tag !!str is not allowed"),
        ("title: !!str x", "title: the tag !!str is not allowed"),
    ],
)  # fmt: skip
def test_a_cell_with_an_error_may_be_expected(errors, changes, error):
    found = [line.partition(" ")[2] for line in place(errors(f"{HEAD}{changes}\n"))]
    assert found == [error] if error else not any("expected" in line for line in found)


def test_a_number_of_a_right_attack_must_exist_beside_an_attack_with_errors(errors):
    attacks = "attacks: [{attack: toy/fgsm, eps: 1/8, norm: l7}, {attack: toy/pgd, eps: 1/8}]\n"
    lines = errors(HEAD + attacks + "expected: {toy/net: {claen: 5, 'team(linf, 1/4)': 1, 'fgsm(linf, 1/9)': 1}}\n")
    assert [line.split(": ")[1] for line in lines] == [
        "attacks.0.norm", "expected.toy/net.claen", "expected.toy/net.team(linf, 1/4)",
    ]  # fmt: skip


def test_a_plugin_that_is_not_there_is_one_error(errors):
    models = "models:\n  - {model: rotten/net, label: A}\n  - {model: rotten/wide, label: B}\n"
    lines = errors(f"{TOP}{models}attacks: [{{attack: rotten/pgd, eps: 1, source: A}}]\nmetrics: [rotten/x]\n")
    assert len(lines) == 1
    assert "plugin 'rotten' of robharness-rotten 0.3 was left out at import" in lines[0]


def test_data_that_fit_no_model_are_one_error(errors):
    text = TOP.replace("toy/pixels", "toy/letters")
    models = "models:\n  - {model: toy/net, label: A}\n  - {model: toy/wide, label: B}\nbaseline: A\n"
    assert place(errors(text + models)) == [
        "3:14: data.name: toy/letters has images with labels 'letters', all models take images with labels 'toys'. "
        "Try: robharness list datasets"
    ]
    wrong = text.replace("split: test", "split: tset")
    assert [line.split(": ")[1] for line in errors(wrong + models)] == ["data.split"]


def test_the_first_hundred_errors_are_shown(errors):
    attacks = "".join(f"  - {{attack: toy/pgd, eps: 1/8, steps: {n}, nrom: l2}}\n" for n in range(1, 300))
    lines = errors(f"{HEAD}attacks:\n{attacks}")
    assert len(lines) == yaml.MOST_ERRORS + 1
    assert lines[-1] == "s.yaml:1:1: there may be more errors; these are the first 100 that were found"


EVERYTHING = f"""\
{TOP}models:
  - {{model: toy/net, label: Sup}}
  - {{model: toy/wide, label: Sim}}
baseline: Sim
gap: [Sim, Sup]
metrics: [toy/wrong]
attacks:
  - {{attack: toy/pgd, eps: 1/16}}
corruptions: [{{corruption: toy/f*, severity: [1, 2]}}]
expected: {{source: T, Sim: {{clean: 90, "pgd(linf, 1/16)": 1, "fog(1)": 3, toy/wrong: 1}}, Sup: {{clean: 80}}}}
"""
NO_TAG = "the tag !!{} is not allowed"


def test_the_suite_of_the_changes_below_is_right(read):
    read(EVERYTHING)


def sole_error(errors, before, after, text=EVERYTHING):
    """Return the one error of a suite in which something was replaced, without its position."""
    assert before in text
    (line,) = place(errors(text.replace(before, after, 1)))
    return line.partition(" ")[2]


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("attacks", "atacks"), ("corruptions", "corruption"), ("metrics", "metric"), ("models", "model"),
        ("data", "dta"), ("expected", "expectd"), ("baseline", "basline"), ("gap", "gpa"), ("name", "nmae"),
        ("  label", "models.1.lable"), ("eps", "attacks.0.esp"), ("severity", "corruptions.0.severty"),
        ("split", "data.splt"), ("{name", "data.nam"),
    ],
)  # fmt: skip
def test_a_misspelt_key_counts_as_the_key_that_is_meant(errors, word, wrong):
    text = EVERYTHING.replace("wide, label", "wide,  label")
    bare, key = word.strip(" {"), wrong.rpartition(".")[2]
    line = sole_error(errors, f"{word}:", f"{word.replace(bare, key)}:", text)
    assert line == f"{wrong}: unknown key '{key}'; did you mean '{bare}'?"


@pytest.mark.parametrize("key", ["canvs: 16", "seeed: 1", "canvs: 224\ncompat: imagenet-c"])
def test_a_misspelt_key_that_others_follow_is_one_error(errors, key):
    assert sole_error(errors, "gap:", f"{key}\ngap:").startswith(f"{key[:5].strip(':')}: unknown key")


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("label: Sim", "label: !!str Sim", f"models.1.label: {NO_TAG.format('str')}"),
        ("label: Sim", 'label: "a\\x1bb"', "models.1.label: it must be one line of visible characters; got 'a\\x1bb'"),
        ("label: Sim", 'label: " "',
         "models.1.label: it has no visible character; leave it out, or give a name; got ' '"),
        ("label: Sim", 'label: ""',
         "models.1.label: it has no visible character; leave it out, or give a name; got ''"),
        ("label: Sim", "label: Sup", "models.1: the label 'Sup' is taken by the model in line 5; give it a `label:`"),
        ("toy/wide, label", "toy/wied, lable",
         "models.1.model: no model 'toy/wied'; did you mean 'toy/wide'? Try: robharness list models"),
        ("models:", "models: !!seq", f"models: {NO_TAG.format('seq')}"),
        ("attacks:", "attacks: !!seq", f"attacks: {NO_TAG.format('seq')}"),
        ("source: T", "sorce: T", "expected.sorce: no model has the label 'sorce'; did you mean 'source'?"),
        ("eps: 1/16", "eps: 1/16, norm: !!str linf", f"attacks.0.norm: {NO_TAG.format('str')}"),
        ("eps: 1/16", "eps: 1/16, steps: !!int 3", f"attacks.0.steps: {NO_TAG.format('int')}"),
        ("eps: 1/16", "eps: 1/16, rel_step: !!int 3", f"attacks.0.rel_step: {NO_TAG.format('int')}"),
        ("eps: 1/16", "eps: 1/16, norm: {[a]: b}", "attacks.0.norm: a key must be a word"),
        ("eps: 1/16", "eps: 1/16, source: !!str Sup", f"attacks.0.source: {NO_TAG.format('str')}"),
        ('eps: 1/16}', "eps: 16}", "attacks.0.eps: eps 16 under linf is more than the whole range of a pixel, [0, 1]; "
         "did you mean 16/255?"),
        ("toy/f*", "toy/g*",
         "corruptions.0.corruption: no corruption 'toy/g*'; did you mean 'toy/fog'? Try: robharness list corruptions"),
        ("[1, 2]", "[1, 7]", "corruptions.0.severity: toy/fog has severities 1, 2, 3, 4, 5; got 7"),
        ("[1, 2]", "[1, 1]", "corruptions.0: fog(1) is already in line 12"),
        ("[1, 2]", "1, foo: 1", "corruptions.0.foo: unknown key 'foo'; known: corruption, severity"),
        ("toy/pgd, eps: 1/16", "'toy/[fp]g*', eps: 1/16, steps: 3",
         "attacks.0.steps: the pattern means toy/fgsm, too, which has no option 'steps'"),
        ("attack: toy/pgd, eps", "attack: 'toy/[fp]g*', foo: 1, eps",
         "attacks.0.foo: unknown key 'foo'; known: attack, eps, nested, source, eight_bit, norm"),
        ("model: toy/net", "model: 'toy/[in]*'",
         "models.0.label: the pattern means several models, which cannot share the label 'Sup'; leave it out"),
    ],
)  # fmt: skip
def test_a_value_with_an_error_is_one_error(errors, before, after, error):
    assert sole_error(errors, before, after) == error


def test_a_video_model_on_images_is_one_error(errors):
    text = EVERYTHING.replace("eps: 1/16}", "eps: 1/16, source: Sim}").replace("1/16)", "1/16, source=Sim)")
    line = sole_error(errors, "toy/wide", "toy/clips", text)
    assert line.startswith("models.1.model: toy/clips takes videos, toy/pixels holds images. Try: ")


SEEDS = {"models": [{"model": "toy/taught", "label": "N", "seeds": 2, "seed": 1}], "baseline": "N seed 1"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, None),
        ({"models": [SEEDS["models"][0] | {"weights": "x"}]},
         "models.0.seeds: toy/taught is not trained here, so that it has no seed; leave 'seeds' and 'seed' out"),
        ({"models": [{"model": "toy/taught", "label": "N", "sedes": 2, "seed": 1}]},
         "models.0.sedes: unknown key 'sedes'; did you mean 'seeds'?"),
        ({"models": [{"model": "toy/taught", "label": "N", "seeds": 2}], "seed": "x"},
         "seed: Input should be a valid integer; got 'x'"),
        ({"models": [{"model": "toy/taught", "label": "N", "seeds": 2}], "seeed": 1},
         "seeed: unknown key 'seeed'; did you mean 'seed'?"),
        ({"models": []}, "models: a suite needs at least one model"),
    ],
)  # fmt: skip
def test_a_mistake_of_seeds_is_one_error(changes, error):
    suite = json_head() | SEEDS | changes
    if error is None:
        load(suite, registry_of())
        return
    with pytest.raises(SuiteError) as caught:
        load(suite, registry_of())
    assert [line.partition(" ")[2] for line in caught.value.errors] == [error]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), "a suite has mappings, lists, texts, numbers, true, false and None; got object"),
        ({1: 2}, "a key must be a text; got 1"),
    ],
)
def test_an_option_from_python_that_cannot_be_read_is_one_error(value, error):
    with pytest.raises(SuiteError) as caught:
        load(json_head() | {"attacks": [{"attack": "toy/pgd", "eps": "1/8", "norm": value}]}, REGISTRY)
    assert [line.partition(" ")[2] for line in caught.value.errors] == [f"attacks.0.norm: {error}"]
