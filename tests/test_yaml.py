"""YAML as data: every value in its place, nothing run, nothing changed, nothing lost in silence."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robharness.suite.yaml import parse, quoted

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy one too


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0x1F", "0x1F"),
        ("-3", -3),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.5e+1", -25.0),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("8/255", "8/255"),
        ("0.25/255", "0.25/255"),
        ("2026-11-22", "2026-11-22"),
        ("'5'", "5"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    document = parse(f"key: {text}")
    assert document.errors == []
    assert document.data == {"key": value}
    assert type(document.data["key"]) is type(value)


@pytest.mark.parametrize("text", ["1" * 310, "1" * 5000, "1e999", "-1e309", "1." + "0" * 400 + "e309"])
def test_a_number_that_no_float_can_hold_is_a_text(text):
    """As `.inf` is; what expects a number then quotes it."""
    assert parse(text).data == text


def test_a_long_number_is_an_integer_or_a_float():
    assert parse("1" * 300).data == int("1" * 300)
    assert parse("1" * 308).data == float("1" * 308)


TEXT = """\
a: 1
b:
  - x
  - {c: [2, 3], "d e": z}
"""


def test_every_value_and_key_has_its_position():
    document = parse(TEXT)
    assert document.data == {"a": 1, "b": ["x", {"c": [2, 3], "d e": "z"}]}
    assert document.errors == []
    assert document.values == {
        (): (1, 1),
        ("a",): (1, 4),
        ("b",): (3, 3),
        ("b", 0): (3, 5),
        ("b", 1): (4, 5),
        ("b", 1, "c"): (4, 9),
        ("b", 1, "c", 0): (4, 10),
        ("b", 1, "c", 1): (4, 13),
        ("b", 1, "d e"): (4, 24),
    }
    assert document.keys == {("a",): (1, 1), ("b",): (2, 1), ("b", 1, "c"): (4, 6), ("b", 1, "d e"): (4, 17)}


def test_a_byte_order_mark_is_no_part_of_the_first_key():
    document = parse("\ufeffa: 1")
    assert (document.data, document.errors) == ({"a": 1}, [])


def test_a_duplicate_key_is_an_error_and_the_first_value_is_kept():
    document = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert document.data == {"a": 1, "b": {"c": 1}}
    assert document.errors == [
        (2, 11, ("b", "c"), "the key 'c' is there already, in line 2"),
        (3, 1, ("a",), "the key 'a' is there already, in line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("!!python/object/apply:os.system [ls]", "!!python/object/apply:os.system"),
        ("!!python/name:os.system", "!!python/name:os.system"),
        ("!!int 5", "!!int"),
        ("!!int five", "!!int"),
        ("!!bool x", "!!bool"),
        ("!!str 5", "!!str"),
        ("!!seq {}", "!!seq"),
        ("!!binary aGVs", "!!binary"),
        ("!local x", "!local"),
        ("! 5", "!"),
    ],
)
def test_tags_are_refused_and_their_values_are_not_read(text, tag):
    document = parse(f"key: {text}")
    assert document.data == {"key": None}
    assert document.errors == [(1, 6, ("key",), f"the tag {tag} is not allowed")]


@pytest.mark.parametrize("text", ["? [a]\n: 1", "? {a: 1}\n: 1", "!!str a: 1"])
def test_a_key_must_be_text(text):
    [(line, column, path, sentence)] = parse(text).errors
    assert (line, path, sentence) == (1, (), "a key must be a word")
    assert column in (1, 3)


def test_an_alias_repeats_the_value_of_its_anchor():
    document = parse("a: &common {x: 1}\nb: *common\nc: [*common]\n")
    assert document.data == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}]}
    assert document.errors == []
    assert document.values["b", "x"] == (1, 16)


BILLION = "a: &a [x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


MANY, DEEP = "more than 20000 values", "nested more than 50 deep"


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        (BILLION, (1, 8), MANY),
        ("a: &a [*a]", (1, 4), DEEP),
        ("a: &a {b: *a, c: *a}", (1, 4), DEEP),
        ("- " * 3000, (1, 101), DEEP),
        ("[" * 3000, (1, 51), DEEP),
        ("? " * 3000, (1, 101), DEEP),
        ("a:\n" + "  - 1\n" * 20_000, (19_999, 5), MANY),
        ("[" + "[], " * 30_000 + "]", (1, 79_998), MANY),
    ],
)
def test_what_is_endless_is_an_error_with_its_place(text, place, sentence):
    document = parse(text)
    assert document.data is None
    [(line, column, path, found)] = document.errors
    assert (line, column, path, found) == (*place, (), sentence)


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("a: b: c", (1, 5), "not YAML: mapping values are not allowed here"),
        ("a: 1\n b: 2", (2, 3), "not YAML: mapping values are not allowed here"),
        ("a: 'x", (1, 6), "not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: 'x\n---\n'", (2, 1), "not YAML: while scanning a quoted scalar, found unexpected document separator"),
        ("a: 1\n---\nb: 1", (2, 1), "not YAML: expected a single document in the stream, but found another document"),
        ("a: *b", (1, 4), "not YAML: found undefined alias 'b'"),
    ],
)  # fmt: skip
def test_invalid_yaml_is_one_sentence_with_its_position(text, place, sentence):
    document = parse(text)
    assert document.data is None
    assert document.errors == [(*place, (), sentence)]


@pytest.mark.parametrize(
    ("text", "place", "path", "sentence"),
    [
        ("a: \x00", (1, 4), (), "not YAML: the character U+0000 is not allowed"),
        ("\ufeffa: 1\r\nb: x\x1b[2J", (2, 5), (), "not YAML: the character U+001B is not allowed"),
        ("a: 1\nb: \ud800", (2, 4), (), "not YAML: the character U+D800 is not allowed"),
        ('a: "x\\0"', (1, 4), ("a",), "the character U+0000 is not allowed"),
        ('a: ["\\ud83d\\ude00"]', (1, 5), ("a", 0), "the character U+D83D is not allowed"),
        ('"\\0": 1', (1, 1), (), "the character U+0000 is not allowed"),
        ('a: "\\UFFFFFFFF"', (1, 7), (), "not YAML: an escape or a version is out of range"),
        ('a: 1\nb: "\\U00110000"', (2, 7), (), "not YAML: an escape or a version is out of range"),
        ("%YAML " + "1" * 5000 + ".1\n---\na: 1", (1, 7), (), "not YAML: an escape or a version is out of range"),
        (f"a: {'x' * 20_000}", (1, 4), ("a",), "a text of 20000 characters; at most 10000"),
        (f"a: {{{'x' * 600}: 1}}", (1, 5), ("a",), "a key of 600 characters; at most 500"),
        (f"a: !{'x' * 600} 1", (1, 4), ("a",), f"the tag !{'x' * 99}…{'x' * 99} is not allowed"),
    ],
)
def test_a_text_that_no_suite_has_is_one_sentence_with_its_place(text, place, path, sentence):
    assert parse(text).errors == [(*place, path, sentence)]


def test_a_symbol_beyond_the_basic_plane_is_text():
    assert parse('a: "\\U0001F600"').data == {"a": "\U0001f600"}


SAFE = st.characters(
    codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co", "Zl", "Zp"), exclude_characters="\ufeff"
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(SAFE),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(SAFE, max_size=20), inner),
    max_leaves=10,
)


@ANY_MACHINE
@given(PLAIN)
def test_all_json_is_read_as_json_reads_it(value):
    import json

    document = parse(json.dumps(value, ensure_ascii=False, indent=1))
    assert document.errors == []
    assert document.data == value


@ANY_MACHINE
@given(st.text(st.characters(codec="utf-8")) | st.text(st.sampled_from("a1 \n\t-:?[]{},&*!|>'\"%@`#~<=/.")))
def test_no_text_raises(text):
    document = parse(text)
    assert all(len(error) == 4 and error[3] for error in document.errors)


@ANY_MACHINE
@given(st.text(st.sampled_from("ab1: \n-[]{},'\"")))
def test_valid_yaml_reads_as_by_a_standard_reader(text):
    import yaml

    document = parse(text)
    if not document.errors:
        assert document.data == _words(yaml.load(text, yaml.BaseLoader), document.data)


def _words(stock, ours):
    """The stock reader's texts, where ours has something better than a text."""
    if isinstance(stock, list):
        return [_words(s, o) for s, o in zip(stock, ours, strict=True)]
    if isinstance(stock, dict):
        return {key: _words(stock[key], ours[key]) for key in stock}
    return ours if ours is None or str(ours) == stock or float(ours) == float(stock) else stock


# --- merge keys -------------------------------------------------------------------------------------------------------

MERGES = [
    "base: &base {a: 1, b: 2}\nmade: {<<: *base, b: 3, c: 4}\n",
    "base: &base {a: 1, b: 2}\nmade: {b: 3, <<: *base}\n",
    "one: &one {a: 1, b: 2}\ntwo: &two {b: 3, c: 4}\nmade: {<<: [*one, *two], d: 5}\n",
    "one: &one {a: 1}\ntwo: &two {<<: *one, b: 2}\nthree: {<<: *two, a: 9}\n",
    "one: &one {a: {x: 1, y: 2}}\ntwo: {<<: *one, a: {x: 3}}\n",  # a merge is not deep
    "list:\n  - &first {model: m, label: A, eps: [1, 2]}\n  - {<<: *first, label: B}\n",
    "made: {<<: {a: 1, b: 2}, b: 3}\n",
    "made: {<<: [], a: 1}\n",
    "same: &same [1, 2]\nmade: {a: *same, b: *same}\n",
]


@pytest.mark.parametrize("text", MERGES)
def test_merge_keys_are_those_of_pyyaml(text):
    document = parse(text)
    assert document.errors == []
    assert document.data == yaml.safe_load(text)


def test_a_quoted_merge_key_is_an_ordinary_key():
    assert parse("{'<<': {a: 1}}").data == {"<<": {"a": 1}}


def test_merged_values_have_the_place_where_they_are_written():
    document = parse("models:\n  - &first\n    model: a\n    eps: 1\n  - <<: *first\n    label: B\n")
    path = ("models", 1)
    assert document.data["models"][1] == {"model": "a", "eps": 1, "label": "B"}
    assert document.values[(*path, "eps")] == (4, 10)
    assert document.keys[(*path, "eps")] == (4, 5)
    assert document.values[(*path, "label")] == (6, 12)
    assert document.keys[(*path, "label")] == (6, 5)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: {<<: 1}", (1, 9)),
        ("a: {<<: text, b: 2}", (1, 9)),
        ("a:\n  <<: [{b: 1}, 2]\n", (2, 16)),
        ("x: &x [1]\na: {<<: *x}", (1, 8)),
        ("a: {<<: null}", (1, 9)),
    ],
)
def test_a_merge_of_no_mapping_is_an_error_with_its_place(text, place):
    ((line, column, path, sentence),) = parse(text).errors
    assert (line, column) == place
    assert path == ("a", "<<")
    assert sentence == "'<<' merges a mapping, or a list of mappings, such as *base"


def test_a_second_merge_key_is_an_error():
    ((_, _, path, sentence),) = parse("b: &b {x: 1}\na: {<<: *b, <<: *b}").errors
    assert (path, sentence) == (("a", "<<"), "the key '<<' is there already, in line 2")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: {<<: {x: 1, x: 2}}", (1, 16, ("a", "x"), "the key 'x' is there already, in line 1")),
        ("a: {<<: [{x: 1}, {y: 1,\n y: 2}]}", (2, 2, ("a", "y"), "the key 'y' is there already, in line 1")),
        ("a: {<<: {x: 1, <<: {y: 1, y: 2}}}", (1, 27, ("a", "y"), "the key 'y' is there already, in line 1")),
        ("a: {<<: {x: 1, [b]: 2}}", (1, 16, ("a",), "a key must be a word")),
        ("a: {<<: {x: 1, !!str b: 2}}", (1, 16, ("a",), "a key must be a word")),
        ("a: {<<: {<<: 3}}", (1, 14, ("a", "<<"), "'<<' merges a mapping, or a list of mappings, such as *base")),
    ],
)
def test_an_inline_merge_has_the_errors_of_any_mapping(text, error):
    assert parse(text).errors == [error]


def test_an_error_of_an_anchor_is_not_repeated_by_a_merge():
    document = parse("b: &b {x: 1, x: 2}\na: {<<: *b}\nc: {<<: *b}")
    assert document.errors == [(1, 14, ("b", "x"), "the key 'x' is there already, in line 1")]
    assert document.data == {"b": {"x": 1}, "a": {"x": 1}, "c": {"x": 1}}


# --- writing ----------------------------------------------------------------------------------------------------------

SPECIAL = ["1.", "0", "null", "true", "~", "1e3", "007", "*ema", "&a", "@x", "a: b", "a,b", "[0]", "- x", " sp "]
SPECIAL += [
    "a #b",
    "",
    "<<",
    "a:",
    "?",
    "!x",
    "%x",
    "`x`",
    "it's",
    "'x'",
    '"x"',
    "a\nb",
    "\t",
    "---",
    "{x}",
    "|",
    ">",
    "\x7f",
]


@pytest.mark.parametrize("text", SPECIAL)
def test_a_quoted_text_is_read_as_that_text(text):
    assert_read_as_written(text)


@ANY_MACHINE
@given(st.text(SAFE, max_size=80) | st.text(st.sampled_from("a1 \n\t-:?[]{},&*!|>'\"%@`#~<=/.")))
def test_any_quoted_text_is_read_as_that_text(text):
    """With escapes it has fewer than 1,024 characters, the bound of a key in YAML."""
    assert_read_as_written(text)


def assert_read_as_written(text):
    written = quoted(text)
    assert "\n" not in written
    document = parse(f"strip: {written}\nnested: {{inside: {{{written}: {written}}}, strip: {written}}}\n")
    assert document.errors == []
    assert document.data == {"strip": text, "nested": {"inside": {text: text}, "strip": text}}


@pytest.mark.parametrize("text", ["state_dict", "model.", "module.0.", "it's", 'say "x"', "a:b", "a b", "\u00e9"])
def test_a_plain_text_has_no_quotes(text):
    assert quoted(text) == text


def test_a_mapping_that_merges_itself_ends():
    assert parse("a: &a {<<: *a, b: 1}").data == {"a": {"b": 1}}


def test_merges_of_merges_take_no_exponential_time():
    """A mapping in 40 levels of lists of two: 2**40 merges, and one key; values of aliases are counted as ever."""
    lines = ["l0: &l0 {a: 1}", *(f"l{n}: &l{n} {{<<: [*l{n - 1}, *l{n - 1}]}}" for n in range(1, 41))]
    document = parse("\n".join(lines))
    assert document.errors == []
    assert document.data["l40"] == {"a": 1}
    lines = ["l0: &l0 {a: 1, b: 2}"]
    lines += [f"l{n}: &l{n} {{<<: *l0, x: *l{n - 1}, y: *l{n - 1}}}" for n in range(1, 41)]
    ((_, _, _, sentence),) = parse("\n".join(lines)).errors
    assert sentence == MANY


def test_long_chains_and_many_pairs_of_merges_end():
    chain = "l0: &l0 {a: 1}\n" + "".join(f"l{n}: &l{n} {{<<: *l{n - 1}}}\n" for n in range(1, 1000))
    assert parse(chain).data["l999"] == {"a": 1}
    backwards = "a: " + "{<<: " * 1000 + "{b: 1}" + "}" * 1000
    assert parse(backwards).errors[0][3] == DEEP
    base = "base: &base {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\n"
    wide = base + "made: {<<: [" + ", ".join(["{<<: *base}"] * 1000) + "]}\n"
    assert parse(wide).errors[0][3] == MANY
