"""The JSON Schema of suites takes what the reader takes, and refuses what the reader refuses."""

import json
import subprocess
import sys

import jsonschema
import pytest

from robharness.errors import SuiteError
from robharness.suite import json_schema, load
from toy_suites import (
    HEAD,
    REGISTRY,
    RIGHT,
    CallableParams,
    attack,
    json_head,
    make_registry,
)

# --- the JSON Schema --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator():
    schema = json_schema(REGISTRY)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_accepts_what_the_reader_accepts(read, validator):
    import yaml

    defaults = "models: [{model: toy/net}]\nattacks: [{attack: toy/fgsm}]\ndefaults: {attacks: {eps: 1}}\n"
    extends = "extends: s.yaml\nattacks: [{attack: toy/pgd}]\n"  # whose `eps` may be a default of the other file
    for text in (HEAD, RIGHT, HEAD.replace("models: [{model: toy/net}]\n", defaults)):
        read(text)
        assert not list(validator.iter_errors(yaml.safe_load(text)))
    assert not list(validator.iter_errors(yaml.safe_load(extends)))


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
        {"extends": ["a.yaml"]},
        {"defaults": {"modles": {}}},
        {"defaults": {"models": 3}},
        {"defaults": {"attacks": {"eps": 1}}, "attacks": [{"attack": "toy/fgsm", "esp": 1}]},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(validator, changes):
    assert validator.is_valid(json_head())
    suite = json_head() | changes
    assert not validator.is_valid(suite)
    with pytest.raises(SuiteError):
        load(suite, REGISTRY)


def test_options_without_a_json_schema_are_left_open():
    registry = make_registry()
    registry.add("attacks", attack("odd", CallableParams), registry.origins[0])
    schema = json_schema(registry)
    titles = [variant["title"] for variant in schema["properties"]["attacks"]["items"]["anyOf"]]
    assert titles[:3] + titles[-2:] == ["toy/fgsm", "toy/pgd", "toy/flat", "toy/odd", "AttackRef"]


def test_the_program_prints_the_schema():
    found = subprocess.run([sys.executable, "-m", "robharness", "schema"], capture_output=True, text=True, check=True)
    schema = json.loads(found.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"robharness", "name", "data", "models", "attacks", "expected", "check"} <= schema["properties"].keys()
