"""Every input has a bound and a sentence: files, mappings, numbers, counts, paths."""

import collections
import enum
import itertools
import os
import socket
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from robharness import Budget, api
from robharness.cli import main
from robharness.errors import SuiteError, UserError, glob_matches
from robharness.planning.files import content_digest
from robharness.planning.planner import plan
from robharness.plugins.discovery import discover
from robharness.suite import load, yaml
from toy_planning import registry_of
from toy_suites import HEAD, REGISTRY, json_head, place
from work import assert_linear, counted

CALLS = 20_000_000
"""Most calls of functions that any of these inputs may need: a thousand for each of the 20,000 values of a suite."""

pytestmark = pytest.mark.timeout(300)  # for loops in C, in which no function is called


@pytest.fixture(autouse=True)
def bounded():
    with counted() as work:
        yield
    assert work.calls < CALLS


# --- files ------------------------------------------------------------------------------------------------------------


def make(kind, path):
    """Put something that is no regular file at a path, and return its path."""
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "a folder":
        path.mkdir()
    return Path("/dev/zero") if kind == "a device" else path


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a folder", "a device"])
def test_a_suite_that_is_no_file_is_refused_at_once(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = make(kind, Path("s.yaml"))
    with pytest.raises(UserError) as caught:
        load(path, REGISTRY)
    assert str(caught.value) == f"{path}: cannot read the suite: it is {kind}, not a file. Try: ls {path.parent}"


def test_a_suite_of_gigabytes_is_refused_at_once(tmp_path):
    path = tmp_path / "s.yaml"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(UserError, match=r"it has more than 0\.5 MiB"):
        load(path, REGISTRY)


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 5000, "loop", "loop/x", "s.yaml/x", "a\0b", ""])
def test_a_path_that_leads_nowhere_is_one_sentence(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("s.yaml").write_text(HEAD)
    with pytest.raises(UserError, match="cannot read the suite: "):
        load(path, REGISTRY)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("title: Prüfung".encode("latin-1"), "1:10: the byte 0xfc is no UTF-8; save the file as UTF-8"),
        ("a: é\r\nb: x".encode() + b"\x80", "2:5: the byte 0x80 is no UTF-8; save the file as UTF-8"),
        ("\ufeffa: 1\rb: ".encode() + b"\xff", "2:4: the byte 0xff is no UTF-8; save the file as UTF-8"),
        (HEAD.encode("utf-16"), "1:1: the file is UTF-16; save it as UTF-8"),
        (HEAD.encode() + b"\0", "5:1: not YAML: the character U+0000 is not allowed"),
    ],
)
def test_an_error_of_the_encoding_has_its_place(tmp_path, monkeypatch, content, error):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_bytes(content)
    with pytest.raises(SuiteError) as caught:
        load("s.yaml", REGISTRY)
    assert place(caught.value.errors) == [error]


# --- numbers and counts -----------------------------------------------------------------------------------------------

DIGITS = "1" * 9_000


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("1" * 100_000 + "x", "a text of 100001 characters; at most 10000"),
        (DIGITS + "x", "'1111111111"),
        (f"1/{DIGITS}", "'1/11111111"),
        ("1e999/1", "'1e999/1' is too large for a floating-point number"),
        ("1/1e999", "'1/1e999' is too small for a floating-point number"),
        ("1e-999/1", "'1e-999/1' is too small for a floating-point number"),
        ("1e9999999", "'1e9999999' is not a number such as 0.5 or 8/255"),
        ("0x10", "'0x10' is not a number such as 0.5 or 8/255"),
        ("1_0", "'1_0' is not a number such as 0.5 or 8/255"),
        ("1:30", "'1:30' is not a number such as 0.5 or 8/255"),
        (".nan", "'.nan' is not a number such as 0.5 or 8/255"),
    ],
)
def test_a_budget_is_a_finite_number_of_a_hundred_characters(errors, value, sentence):
    (line,) = errors(f"{HEAD}attacks: [{{attack: toy/pgd, norm: l2, eps: {value}}}]\n")
    assert line.startswith(f"s.yaml:5:44: attacks.0.eps: {sentence}")
    assert len(line) < 500


def test_the_digits_of_a_budget_take_linear_time():
    """A quadratic look at 10**8 digits takes hours."""
    with pytest.raises(ValueError, match="is not a number"):
        Budget("1" * 10**8 + "x")
    with pytest.raises(ValueError, match="is not a number"):
        Budget(10**6000)


@pytest.mark.parametrize("value", ["5e-324", "1.7976931348623157e308", "1e400/1e400", "0"])
def test_any_float_is_a_budget(value):
    assert str(Budget(value)) == value


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ("seed: 4294967296", "seed: Input should be less than or equal to 4294967295; got 4294967296"),
        ("canvas: 1000000", "canvas: Input should be less than or equal to 4096; got 1000000"),
        ("attacks: [{attack: toy/pgd, eps: 1/8, steps: 9223372036854775808}]",
         "attacks.0.steps: an integer of an option is at most 9223372036854775807; got 9223372036854775808"),
        ("models: [{model: toy/net, sizes: [1, -1" + "0" * 30 + "]}]",
         "models.0.sizes.1: an integer of an option is at least -9223372036854775807; got -1" + "0" * 30),
        ("check: {tolerance: 1e999}", "check.tolerance: Input should be a valid number; got '1e999'"),
        ("attacks: [{attack: toy/pgd, eps: [" + ",".join(f"{n}/9999" for n in range(1, 1500)) + "]}]",
         "attacks.0: more than 1000 attacks, with each budget and severity as one; split the suite"),
        ("attacks: [{attack: toy/pgd, nested: true, eps: [" + ",".join(f"{n}/9999" for n in range(1, 150)) + "]}]",
         "attacks.0.eps: more than 100 nested budgets; add `nested: false`"),
    ],
)  # fmt: skip
def test_a_suite_has_bounds(errors, changes, error):
    head = HEAD[: HEAD.index("models")] if changes.startswith("models") else HEAD
    assert [line.partition(" ")[2] for line in errors(f"{head}{changes}\n")] == [error]


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("seeds: 2147483648", "models.0.seeds: Input should be less than or equal to 1000; got 2147483648"),
        ("seeds: 2, seed: 4294967295", "models.0.seeds: the last seed is 4294967296; at most 4294967295"),
    ],
)
def test_seeds_have_bounds(model, error):
    text = {**json_head(), "data": {"name": "toy/pixels", "split": "test"}}
    keys = dict(part.split(": ") for part in model.split(", "))
    text["models"] = [{"model": "toy/taught", **{key: int(value) for key, value in keys.items()}}]
    with pytest.raises(SuiteError) as caught:
        load(text, registry_of())
    assert [line.partition(" ")[2] for line in caught.value.errors] == [error]


def test_a_thousand_models_and_a_thousand_budgets_are_read():
    eps = [f"{n}/9999" for n in range(1, 1001)]
    suite = json_head() | {"attacks": [{"attack": "toy/pgd", "eps": eps}]}
    assert len(load(suite, REGISTRY).perturbations) == 1000
    models = [{"model": "toy/net", "label": f"Net {n}"} for n in range(1001)]
    with pytest.raises(SuiteError, match="more than 1000 models; split the suite"):
        load(json_head() | {"models": models}, REGISTRY)
    with pytest.raises(SuiteError, match="more than 50000 cells; split the suite"):
        load(suite | {"models": models[:60]}, REGISTRY)


def budgets(count):
    return {"attacks": [{"attack": "toy/pgd", "eps": [f"{n}/9999" for n in range(1, count + 1)]}]}


def models(count):
    return {"models": [{"model": "toy/net", "label": f"Net {n}"} for n in range(count)]}


def values(count):
    return {"title": [0.1234567890123456] * count}


@pytest.mark.parametrize(("keys", "count"), [(budgets, 400), (models, 200), (values, 1000)])
def test_a_suite_of_twice_the_size_takes_twice_the_work(keys, count):
    def read(count):
        with suppress(SuiteError):
            load(json_head() | keys(count), REGISTRY)

    assert_linear(read, count, 2 * count)


# --- values of Python -------------------------------------------------------------------------------------------------


class Hostile(collections.abc.Mapping):
    def __getitem__(self, key):
        raise OSError("boom")

    def __iter__(self):
        return iter(["a"])

    def __len__(self):
        return 1


class Endless(collections.abc.Mapping):
    """A mapping whose keys do not end."""

    key = "n{}"

    def __getitem__(self, key):
        return key

    def __iter__(self):
        return map(self.key.format, itertools.count())

    def __len__(self):
        return 1


class EndlessList(list):
    def __iter__(self):
        return itertools.count()


class Exits(dict):
    def items(self):
        yield "inside", object()
        raise SystemExit(0)


class Word(str):
    __slots__ = ()

    def __str__(self):
        return "another"


CYCLE = {"name": "x"}
CYCLE["inside"] = [CYCLE]
DEEP = []
for _ in range(5000):
    DEEP = [DEEP]
NO_VALUE = "a suite has mappings, lists, texts, numbers, true, false and None; got "


@pytest.mark.parametrize(
    ("value", "path", "sentence"),
    [
        (CYCLE, "title.inside.0: ", "the value contains itself"),
        (DEEP, "", "nested more than 50 deep"),
        ([1] * 10**6, "", "more than 20000 values"),
        (["x" * 9000] * 100, "", "the mapping has more than 524288 characters as JSON"),
        ([0.1234567890123456] * 19_000 + ["x" * 9000] * 20, "", "the mapping has more than 524288 characters as JSON"),
        (Endless(), "", "more than 20000 values"),
        (type("Long", (Endless,), {"key": "n{:0400}"})(), "", "the mapping has more than 524288 characters"),
        (EndlessList(), "", "more than 20000 values"),
        (Exits(), "title: ", "cannot be read: SystemExit: 0"),
        ([*({"a": 1} for _ in range(9_000)), b"x"], "", "more than 20000 values"),  # keys count in the text alone
        ({1: 2}, "title: ", "a key must be a text; got 1"),
        ({None: 2}, "title: ", "a key must be a text; got None"),
        ({"k" * 600: 2}, "title: ", "a key of 600 characters; at most 500"),
        ({1, 2}, "title: ", f"{NO_VALUE}set"),
        ((n for n in ()), "title: ", f"{NO_VALUE}generator"),
        (b"x", "title: ", f"{NO_VALUE}bytes"),
        (np.ones(3), "title: ", f"{NO_VALUE}ndarray"),
        (1j, "title: ", f"{NO_VALUE}complex"),
        (Hostile(), "title: ", "cannot be read: OSError: boom"),
        (10**5000, "title: ", "an integer of more than 300 digits"),
        ("\ud800", "title: ", "the character U+D800 is not allowed"),
        ("\0", "title: ", "the character U+0000 is not allowed"),
        ("x" * 10**7, "title: ", "a text of 10000000 characters; at most 10000"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_no_suite_has_is_an_error_with_its_place(value, path, sentence):
    with pytest.raises(SuiteError) as caught:
        load({**json_head(), "title": value}, REGISTRY)
    lines = [line.partition(" ")[2] for line in caught.value.errors]
    assert f"{path}{sentence}" in [line[: len(path + sentence)] for line in lines]


@pytest.mark.parametrize(
    ("suite", "sentence"), [(Endless(), "more than 20000 values"), (Exits(), "cannot be read: SystemExit: 0")]
)
def test_a_suite_that_is_such_a_mapping_is_an_error(suite, sentence):
    with pytest.raises(SuiteError) as caught:
        load(suite, REGISTRY)
    assert caught.value.errors == [f"<mapping>:1:1: {sentence}"]


def test_the_first_hundred_values_that_no_suite_has_are_shown():
    with pytest.raises(SuiteError) as caught:
        load({**json_head(), "title": [b"x"] * 15_000}, REGISTRY)
    assert len(caught.value.errors) == yaml.MOST_ERRORS + 1


def test_numbers_paths_and_texts_of_other_types_are_read_as_what_they_are():
    kind = enum.Enum("Kind", {"NET": "toy/net"}, type=str)
    suite = json_head() | {
        "title": Word("\U0001f600 é"),
        "compile": np.bool_(True),
        "seed": np.int8(3),
        "models": ({"model": kind.NET, "weights": Path("a.pt")},),
        "attacks": [
            {"attack": "toy/pgd", "steps": np.int64(3), "eps": (np.float64(0.5), Fraction(1, 3), Budget("8/255"))}
        ],
    }
    found = load(suite, REGISTRY)
    assert (found.title, found.compile, found.seed) == ("\U0001f600 é", True, 3)
    assert [str(p.eps) for p in found.perturbations] == ["0.5", "1/3", "8/255"]
    assert found.models[0].weights.name == "a.pt"


# --- the command line and its functions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--workers", "999999999999"), ("--workers", "9" * 5000), ("--threads", "999999999999"),
        ("--batch-size", "9" * 20), ("--limit", "9" * 5000), ("--shard", "1/" + "9" * 5000), ("--shard", "1/99999999"),
        ("--device", "meta"), ("--device", ""), ("--device", "cpu,vulkan"), ("--device", "cpu," * 2000),
        ("--device", "x" * 10_000), ("--store", "x" * 300), ("--store", "x/" * 5000), ("--store", "s.yaml"),
        ("--store", "pipe"), ("--store", "loop"), ("--store", "/dev/null"), ("--store", "a\0b"),
        ("--data-root", "s.yaml"), ("--data-root", "loop"), ("--data-root", "x" * 300), ("-p", "x" * 300 + ".py"),
        ("-p", "pipe.py"), ("-p", "big.py"), ("-p", "deep.py"), ("-p", "x/" * 5000 + "a.py"),
    ],
    ids=lambda words: f"{words[0]} {words[1][:12]!r}",
)  # fmt: skip
def test_an_option_out_of_bounds_is_one_sentence(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(HEAD)
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    os.mkfifo("pipe.py")
    Path("deep.py").write_text(f"x = {'-' * 100_000}1")
    with Path("big.py").open("wb") as file:
        file.truncate(2**33)
    assert main(["run", "s.yaml", *words]) == 2
    printed = capsys.readouterr().err
    assert printed
    assert "s.yaml:" not in printed  # before the suite is read
    assert len(printed) < 30_000


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "s.yaml", "--store", ""], "the argument after '--store' is empty"),
        (["run", "s.yaml", "--store="], "'--store=' has no value"),
        (["run", "s.yaml", "--data-root", ""], "the argument after '--data-root' is empty"),
        (["run", "s.yaml", "--only", "", "--fresh", "*"], "the argument after '--only' is empty"),
        (["run", "s.yaml", "--fresh="], "'--fresh=' has no value"),
        (["report", "s.yaml", "-o", ""], "the argument after '-o' is empty"),
        (["export-adversarial", "s.yaml", "-o", ""], "the argument after '-o' is empty"),
        (["plan", ""], "the argument after 'plan' is empty"),
        (["merge", "", "x"], "the argument after 'merge' is empty"),
        (["verify", ""], "the argument after 'verify' is empty"),
        (["list", "artefacts", "--store", ""], "the argument after '--store' is empty"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_an_empty_argument_is_named_and_is_not_the_working_directory(tmp_path, monkeypatch, capsys, words, named):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert f"{named}; perhaps a variable of the shell is not set." in capsys.readouterr().err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("options", [{"store": ""}, {"data": ""}])
def test_an_empty_path_is_refused_in_python(options):
    with pytest.raises(UserError, match="is empty"):
        api.plan({}, **options)


@pytest.mark.parametrize(
    "options", [{"workers": 10**12}, {"threads": 10**12}, {"batch_size": 10**12}, {"limit": 0}, {"limit": 10**5000},
                {"shard": (1, 10**12)}, {"shard": (1,)}, {"shard": "1/2"}, {"shard": (2, 1)},
                {"device": "meta"}, {"workers": True}, {"threads": "4"}, {"device": 3}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_count_from_python_has_a_bound(tmp_path, toys, suite, options):
    with pytest.raises(
        UserError, match=r"must be a whole number from 1|a shard is|torch computes no network|no device is named"
    ):
        api.run(suite(), store=tmp_path / "store", plugins=[toys], **options)


@pytest.mark.parametrize("value", [[1], 5, None, b"x", object()], ids=lambda value: type(value).__name__)
def test_an_argument_that_is_no_path_is_one_sentence(tmp_path, monkeypatch, suite, value):
    monkeypatch.chdir(tmp_path)
    kind = type(value).__name__
    for verb in (api.plan, api.run, api.train, api.load):
        with pytest.raises(UserError, match=f"a suite is the path of a YAML file, or a mapping, not .* type {kind}"):
            verb(value)
        with pytest.raises(UserError, match=f"`store` is the path of a folder, not a value of the type {kind}"):
            verb(suite(), store=value)
        if value is not None:
            with pytest.raises(UserError, match=f"`data` is the path of a folder, not a value of the type {kind}"):
                verb(suite(), data=value)
        if value != [1]:
            with pytest.raises(UserError, match="`plugins` is a list of values"):
                verb(suite(), plugins=value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("plugins", ["x.py", [1], [Path("x.py")]])
def test_plugins_are_a_list_of_texts(plugins):
    with pytest.raises(UserError, match=r'`plugins` is a list .* Try: plugins=\["mine.py"\]'):
        discover(plugins)


def test_long_globs_match_nothing():
    assert not glob_matches("x", "[" * 100_000)
    assert not glob_matches("a" * 500, "*a" * 400 + "b")
    assert glob_matches("a" * 500, "*a" * 400)


def test_weights_that_are_no_file_are_named_by_the_planner(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place_of_weights in (tmp_path / "pipe", tmp_path / "loop", "/dev/zero", tmp_path, "x" * 300, "x/" * 4000):
        models = [{"model": "toy/filed", "weights": str(place_of_weights)}]
        planned = plan(load(json_head() | {"models": models}, registry_of()), tmp_path)
        assert len(planned.missing) == 1
        assert str(planned.missing[0]).startswith("the weights of toy/filed: ")


def test_the_content_of_a_pipe_or_a_device_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"cannot be read: it is a (named pipe|device), not a file"):
            content_digest(path)


@pytest.mark.parametrize("words", [("list", "artefacts", "--store"), ("merge", "into"), ("merge",)])
@pytest.mark.parametrize("path", ["x" * 300, "x/" * 5000, "pipe"])
def test_a_store_of_any_verb_is_a_folder(tmp_path, monkeypatch, capsys, words, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    assert main([*words, path, *(["from"] if words == ("merge",) else [])]) == 2
    assert capsys.readouterr().err.startswith("robharness: the store ")


def test_a_loose_plugin_that_cannot_be_parsed_is_one_error(tmp_path):
    (tmp_path / "deep.py").write_text("x = " + "(" * 5000)
    with pytest.raises(UserError, match="SyntaxError: too many nested parentheses"):
        discover([str(tmp_path / "deep.py")])
