"""All that is wrong with a suite is reported at once: where, what, and what was probably meant."""

import pytest

from robharness.errors import SuiteError
from robharness.suite import load
from toy_suites import HEAD, WRONG, FgsmParams, attack, json_head, make_registry, place

SAID = [
    "2:7: name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$'; got 'every mistake'",
    "3:1: titel: unknown key 'titel'; did you mean 'title'?",
    "4:33: data.split: toy/pixels has no split 'tset'; it has train, test; did you mean 'test'?",
    "4:39: data.limti: unknown key 'limti'; did you mean 'limit'?",
    "4:57: data.limit: Input should be greater than 0; got -1",
    "5:12: precision: 'float16' is not one of float32, tf32; did you mean 'float32'?",
    "6:7: seed: Input should be a valid integer; got 1.5",
    "8:58: models.0.width: Input should be greater than 0; got 0",
    "10:13: models.2.model: no model 'toy/nett'; did you mean 'toy/net'? Try: robharness list models",
    "11:13: models.3.model: 'swav/resnet50' needs a plugin 'swav', which is not there. "
    "Try: pip install robharness-swav",
    "12:13: models.4.model: no model 'rotten/net': plugin 'rotten' of robharness-rotten 0.3 was left out at import: "
    "ImportError: no module named 'tensorflow'. Try: robharness list plugins",
    "13:5: models.5: missing key 'model'",
    "15:24: attacks.0.nrom: unknown key 'nrom'; did you mean 'norm'?",
    "15:47: attacks.0.eps.1: '8/0' is not a number such as 0.5 or 8/255",
    "15:52: attacks.0.eps.2: 'abc' is not a number such as 0.5 or 8/255",
    "15:57: attacks.0.eps.3: Input should be greater than 0; got 0",
    "15:60: attacks.0.eps.4: Input should be greater than 0; got '-1/255'",
    "15:68: attacks.0.eps.5: True is not a number such as 0.5 or 8/255",
    "16:14: attacks.1.attack: no attack 'toy/pdg'; did you mean 'toy/pgd'? Try: robharness list attacks",
    "16:28: attacks.1.eps: '.nan' is not a number such as 0.5 or 8/255",
    "17:29: attacks.2.norm: 'l3' is not one of linf, l2, l1",
    "17:38: attacks.2.eps: at least one is needed",
    "17:49: attacks.2.steps: Input should be a valid integer; got 'ten'",
    "18:5: attacks.3: steps must be at least 1",
    "19:5: attacks.4: toy/pgd (robharness-toy 1.0): the options PgdParams cannot be read: KeyError: 'unlucky'",
    "20:5: attacks.5: missing key 'eps'",
    "21:50: attacks.6.rel_step: '2.5/0' is not a number such as 0.5 or 8/255",
    "21:71: attacks.6.random_start: Input should be a valid boolean; got 'no'",
    "22:5: attacks.7: fgsm(l2, 1/2) is already in line 22",
    "23:44: attacks.8.eps: the key 'eps' is there already, in line 23",
    "24:5: attacks.9: one of 'attacks' is a mapping such as {attack: NAME}; got 'toy/fgsm'",
    "25:14: attacks.10.attack: the name of one attack goes here; got ['toy/fgsm']",
    "27:42: corruptions.0.severity: toy/negative has severities 1; got 2",
    "28:18: corruptions.1.corruption: no corruption 'toy/frog'; did you mean 'toy/fog'? "
    "Try: robharness list corruptions",
    "28:38: corruptions.1.severity: the tag !!int is not allowed",
    "29:5: corruptions.2: negative(1) is already in line 27",
    "30:9: canvas: Input should be greater than or equal to 8; got 4",
    "31:22: metrics.1: no metric 'toy/worng'; did you mean 'toy/wrong'? Try: robharness list metrics",
    "35:3: expected.Nett: no model has the label 'Nett'; did you mean 'Net'?",
    "36:9: expected.Net.claen: no cell and no metric is called 'claen'; did you mean 'clean'?",
    "36:47: expected.Net.clean: Input should be a valid number; got 'high'",
    "37:20: check.tolerance: Input should be greater than or equal to 0; got -1",
    "37:24: check.alhpa: unknown key 'alhpa'; did you mean 'alpha'?",
]


def test_all_errors_are_reported_at_once_in_the_order_of_their_positions(errors):
    assert errors(WRONG) == [f"s.yaml:{line}" for line in SAID]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            "models: [{model: toy/clips}]",
            "18: models.0.model: toy/clips takes videos, toy/pixels holds images. Try: robharness list",
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
            "18: models.0.model: no model 'tyo/net'; did you mean 'toy/net'? Try: robharness list models",
        ),
        ("models: [{model: swav/*}]", "18: models.0.model: 'swav/*' needs a plugin 'swav', which is not there."),
        ("models: [{model: toy/net, eps: 1}]", "27: models.0.eps: unknown key 'eps'; known: model, label, reference"),
        ("canvas: none\ncorruptions: [{corruption: toy/fog, severity: 1}]", "9: canvas: corruptions need a canvas"),
        ("attacks:", "9: attacks: 'attacks' is a list of mappings"),
        ("expected: 1", "11: expected: 'expected' is a mapping of labels to mappings of cells to percentages"),
        ("expected: [1]", "12: expected.0: one of 'expected' is a mapping of labels to mappings of cells to"),
        ("expected: {toy/net: 76}", "21: expected.toy/net: Input should be an object; got 76"),
        ("data: {name: toy/*, split: test}", "14: data.name: no data set 'toy/*'"),
        ("data: toy/pixels", "7: data: missing key 'split'; toy/pixels has train, test"),
        ("data: [toy/pixels]", "7: data: data are the name of a data set, or a mapping such as {name: NAME}"),
        ("attacks: [{attack: toy/fgsm, eps: 8/255/2}]", "35: attacks.0.eps: '8/255/2' is not a number such as"),
        ("attacks: [{attack: toy/fgsm, eps: 1e99999999}]", "35: attacks.0.eps: '1e99999999' is not a number such as"),
        ("attacks: [{attack: toy/fgsm, eps: '1e99999999'}]", "35: attacks.0.eps: '1e99999999' is not a number"),
        ("attacks: [{attack: toy/fgsm, eps: 1, nested: 2}]", "46: attacks.0.nested: Input should be a valid boolean"),
        ("gap: [toy/net, toy/nte]", "16: gap.1: no model has the label 'toy/nte'; did you mean 'toy/net'?"),
        ("gap: [toy/net, toy/net]", "6: gap: the gap lies between two models, and 'toy/net' is one"),
        ("gap: toy/net", "6: gap: Input should be a valid array"),
        ("gain: {toy/nte: toy/net}", "8: gain.toy/nte: no model has the label 'toy/nte'; did you mean 'toy/net'?"),
        ("gain: {toy/net: toy/nte}", "17: gain.toy/net: no model has the label 'toy/nte'; did you mean 'toy/net'?"),
        ("gain: {toy/net: toy/net}", "17: gain.toy/net: 'toy/net' has no gain over itself; name the model it builds"),
        ("gain: [toy/net, toy/net]", "7: gain: Input should be an object"),
        ("gain: {toy/net: [toy/net]}", "17: gain.toy/net: Input should be a valid string"),
        ("seed: '5'", "7: seed: Input should be a valid integer; got '5'"),
        ("seed: true", "7: seed: Input should be a valid integer; got True"),
        ("canvas: Auto", "9: canvas: 'Auto' is not one of none, auto; did you mean 'auto'?"),
        ("canvas: [7]", "9: canvas: Input should be a valid integer or 'none' or 'auto'"),
        (f"seed: {'1' * 5000}", "7: seed: Input should be a valid integer"),
    ],
)
def test_each_error_is_reported_with_its_position(errors, changes, message):
    keys = {line.partition(":")[0] for line in changes.splitlines()}
    head = [line for line in HEAD.splitlines() if line.partition(":")[0] not in keys]
    found = place(errors("\n".join([*head, changes])))
    assert any(line.startswith(f"{len(head) + 1}:{message}") for line in found), found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("inside: 0", "s.yaml:4:35: models.0.inside: Input should be a valid string or an object; got 0"),
        ("strip: 1.5", "s.yaml:4:34: models.0.strip: Input should be a valid string or an object; got 1.5"),
        ("strip: [a]", "s.yaml:4:34: models.0.strip: Input should be a valid string or an object"),
        ("weights: {a: b, c: 3}", "s.yaml:4:46: models.0.weights.c: Input should be a valid string; got 3"),
    ],
)
def test_a_value_of_no_allowed_type_has_one_line_that_names_all_types(errors, keys, message):
    head = "robharness: 1\nname: x\ndata: {name: toy/pixels, split: test}\n"
    assert errors(f"{head}models: [{{model: toy/net, {keys}}}]\n") == [message]


@pytest.mark.parametrize(
    "text",
    [
        "models: [{<<: *word, label: B}]",
        "models: [{model: toy/net}]\nattacks: [{<<: *word, eps: 1}, {<<: 1, attack: toy/fgsm}]",
        "models: [{model: toy/net}]\ncorruptions: [{<<: *word, corruption: toy/fog}]",
    ],
)
def test_a_merge_that_fails_is_the_only_error_of_its_mapping(errors, text):
    head = "robharness: 1\nname: x\ndata: {name: toy/pixels, split: test}\ntitle: &word scalar\n"
    lines = errors(head + text + "\n")
    assert lines and all("'<<' merges a mapping, or a list of mappings, such as *base" in line for line in lines)


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
    message = ["6:14: attacks.0.attack: toy/flat does not take videos, as toy/clips does"]
    assert place(errors(text)) == message


def test_an_attack_that_refuses_inputs_says_why(errors):
    text = """\
robharness: 1
name: clips
data: {name: toy/clips, split: test}
models: [{model: toy/clips}]
attacks:
  - {attack: toy/choosy, eps: 1/255}
  - {attack: toy/choosy, eps: 1/255, steps: 23}
  - {attack: toy/choosy, eps: 1/255, steps: 24}
"""
    assert place(errors(text)) == [
        "7:14: attacks.1.attack: toy/choosy does not take the inputs of toy/clips: 23 steps need 23 frames, not 4",
        "8:5: attacks.2: toy/choosy (robharness-toy 1.0): its function `refuses` returned None, not a str",
    ]


def test_a_missing_key_does_not_hide_other_errors(errors):
    assert place(errors("title: x\n")) == [
        "1:1: models: a suite needs at least one model",
        "1:1: missing key 'data'",
        "1:1: missing key 'name'",
        "1:1: missing key 'robharness'",
    ]


def test_a_future_suite_is_refused(errors):
    assert place(errors(HEAD.replace("robharness: 1", "robharness: 2"))) == ["1:13: robharness: 2 is not one of 1"]


def test_a_failing_threat_function_is_reported_with_its_attack():
    registry = make_registry()
    source = registry.origins[0]
    registry.add("attacks", attack("odd", FgsmParams, threat=lambda params: None), source)
    suite = {"attacks": [{"attack": "toy/odd", "eps": 1}], **json_head()}
    with pytest.raises(
        SuiteError, match=r"attacks\.0: toy/odd \(robharness-toy 1\.0\): its function `threat` returned None,"
    ):
        load(suite, registry)
