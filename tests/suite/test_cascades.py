"""One mistake is one error: the names of what is wrong are not reported again where they are used."""

import pytest

from robharness.suite import yaml
from toy_suites import HEAD, place

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
