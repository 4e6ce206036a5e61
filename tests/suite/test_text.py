"""Any text is read as a suite, or refused with a sentence."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robharness.errors import UserError
from robharness.suite import Suite, load
from toy_suites import (
    HEAD,
    REGISTRY,
    WRONG,
    json_head,
    place,
)

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy one too


# --- YAML and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: a suite is a mapping of keys; see docs/reference/suite.md"),
        ("# nothing\n", "1:1: a suite is a mapping of keys; see docs/reference/suite.md"),
        ("- a\n- b\n", "1:1: a suite is a mapping of keys; see docs/reference/suite.md"),
        ("a: b: c", "1:5: not YAML: mapping values are not allowed here"),
        ("a: [1", "1:6: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("a: *b", "1:4: not YAML: found undefined alias 'b'"),
        ("a: \x01", "1:4: not YAML: the character U+0001 is not allowed"),
        ("a: 1\n---\nb: 1\n", "2:1: not YAML: expected a single document in the stream, but found another document"),
        ("!!python/object/apply:os.system [ls]", "1:1: the tag !!python/object/apply:os.system is not allowed"),
    ],
)
def test_text_that_is_no_suite_is_refused(errors, text, message):
    assert place(errors(text))[0].startswith(message)


def test_an_unreadable_file_is_one_sentence(tmp_path):
    for name, reason in (("none.yaml", "No such file or directory"), (".", "it is a folder, not a file")):
        path = tmp_path / name
        with pytest.raises(UserError) as caught:
            load(path, REGISTRY)
        assert str(caught.value) == f"{path}: cannot read the suite: {reason}. Try: ls {path.parent}"


def test_words_that_yaml_1_1_would_change_stay_as_they_are(read):
    suite = read(HEAD.replace("toy/net}", "toy/net, label: no}") + "title: 1:30\n")
    assert suite.models[0].label == "no"
    assert suite.title == "1:30"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "any.yaml"


def loads_or_refuses(path, text):
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
    loads_or_refuses(scratch, text)


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
    loads_or_refuses(scratch, json.dumps(suite, ensure_ascii=False))


@ANY_MACHINE
@given(st.data())
def test_any_change_of_a_line_is_a_suite_or_a_sentence(scratch, data):
    lines = WRONG.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        cut = data.draw(st.integers(0, len(lines[index])))
        extra = data.draw(st.text(st.sampled_from("{}[]:,-*&!|>'\"%@`#?<~ \t\naeé0/"), max_size=3))
        lines[index] = lines[index][:cut] + extra + lines[index][cut + 1 :]
    loads_or_refuses(scratch, "\n".join(lines))
