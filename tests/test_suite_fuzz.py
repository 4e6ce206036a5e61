"""Mutants of suites, with a fixed seed: each loads and is planned, or is refused in sentences with places in its file.

A mutant that fails is named by its number; `make_mutant(number)` makes it again.
"""

import copy
import json
import random
import re
import zlib
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import yaml

from robharness.errors import SuiteError, UserError
from robharness.planning.planner import plan
from robharness.suite import load
from robharness.suite.settings import parse_setting
from toy_planning import registry_of
from toy_suites import RIGHT, WRONG
from work import counted

REGISTRY = registry_of()
CALLS = 5_000_000
"""Most calls of functions that a mutant may need."""
SMALL = """\
robharness: 1
name: small
data: {name: toy/pixels, split: test, limit: 4, classes: present}
models:
  - &net {model: toy/net, label: Net, reference: true}
  - {<<: *net, label: Wide, width: 16, reference: false}
  - {model: toy/taught, label: Taught, seeds: 2, seed: 1}
attacks:
  - {attack: toy/pgd, eps: [1/255, 8/255], steps: 5}
  - {attack: toy/pgd, norm: l2, eps: 0.5, source: Net}
corruptions: [{corruption: toy/fog, severity: [1, 3]}]
baseline: Net
gap: [Net, Taught]
metrics: [toy/wrong]
expected: {source: Table 1, Net: {clean: 76.5, "fog(1)": 60}}
"""
BASE = """\
robharness: 1
name: base
data: {name: toy/pixels, split: test, limit: 8}
models: [{model: toy/net, label: Net}, {model: toy/taught, label: Taught}]
corruptions: [{corruption: toy/fog}, {corruption: toy/fog, severity: 2}]
defaults: {corruptions: {severity: 1}}
expected: {Net: {clean: 76.5, "fog(1)": 60}}
"""
"""The file base.yaml beside the mutants."""
COMPOSED = """\
extends: base.yaml
name: composed
data: {limit: 4}
models:
  - {model: toy/net, label: Net, reference: true}
  - {model: toy/taught, label: Taught}
attacks: [{attack: toy/pgd}, {attack: toy/pgd, norm: l2, eps: 0.5}, {eps: 1/8}]
defaults:
  models: {width: 16, clean_at_least: 5}
  attacks: {attack: toy/pgd, eps: [1/255, 8/255], steps: 5}
expected: {Net: {clean: 70}}
"""
SETTINGS = [
    "models.*.width=3", "models.Net.label=Other", "attacks.0.eps=[1/255]", "attacks.*.steps=x", "data.limit=2",
    "data={name: toy/exam, split: test}", "models=[]", "models.0={model: toy/net, seeds: 2}", "seed=3", "defaults=",
    "defaults.models.width=4", "corruptions.*.severity=[1, 3]", "expected.*.clean=50", "check.alpha=0.5", "name=[a",
    "metrics.0=toy/wrong", "extends=x", "models.9.width=1", "attacks.toy/pgd.eps=1/4", 'expected."Net".clean=!!x 1',
]  # fmt: skip
NAMES = {
    "model": ["toy/net", "toy/taught", "toy/filed", "toy/large"],
    "attack": ["toy/fgsm", "toy/pgd", "toy/noise", "toy/folder"],
    "corruption": ["toy/fog", "toy/negative", "toy/*"],
    "name": ["toy/pixels", "toy/exam"],
}
TOKENS = [
    "!!python/object/apply:os.system [ls]", "!!int 5", "&a ", "*a", "*net", "<<: *net", "<<: [1]", "---", "...",
    "%YAML 9.9\n---\n", "%TAG ! x", "\t", "\0", "\x1b", "\ufeff", "\u202e", "\x85", "\u2028", "\ud800",
    '"\\UFFFFFFFF"', '"\\ud800"', '"\\0"', "1e999", "1e999/1", "1e-999/1", "1/0", "0/1", "0x10", "1_000", "1:30",
    "010", ".inf", ".nan", "-0", "9" * 5000, "1/" + "9" * 5000, "1" * 300, "[" * 60, "{" * 60, "? ", "- ", ": ", ":",
    "|\n", ">-\n", "'", '"', "#", "null", "~", "true", "no", "{}", "[]", "[[]]", "[a]: b", "{a: b}: c", "1: 2",
    "seeds: 2147483648", "seeds: 3", "seed: -1", "seed: 4294967295", "toy/*", "toy/[!a-", "*" * 50, "../..",
    "/dev/zero", "~nobodyx/y", "~", "x" * 11_000, "y" * 600 + ": 1", "source: Net", "gap: [Net, Net]",
    "baseline: Net", "eps: []", "nested: true", "canvas: none", "label: Net", "model:",
    "preprocessing: {crop: 100000}", "preprocessing: {clips: {length: 3}}", "weights: {a: b}", "inside: x",
    "extends: base.yaml", "extends: mutant.yaml", "extends: absent.yaml", "defaults: {models: {width: 3}}",
    "defaults: {attacks: {eps: 1/8, step: 3}}", "defaults:",
    "compat: imagenet-c", ", ", "}", "]", "\n", "\r\n", "\r", " ", "  ", "@", "`", "%", "absent/net", "é",
    "\U0001f600",
]  # fmt: skip
NUMBERS = ["0", "1", "2", "3", "7", "0.5", "0.1", "1/8", "8/255", "1e-3", "100", "-1"]
VALUES = [
    None, True, False, 0, 1, -1, 3, 0.5, float("nan"), float("inf"), -0.0, 1e300, 10**299, 10**5000, "", "x", "Net",
    "1/255", "8/255", "toy/net", "toy/*", "test", "clean", [], {}, [[]], [None], {"a": None}, ["Net", "Net"],
    {"Net": {"clean": 5}},
    "9" * 5000, "\ud800", "\0", b"x", {1, 2}, object(), 1j, Path("x"), (1, 2), {1: 2}, {None: 1}, {(): 1}, "\U0001f600",
]  # fmt: skip


def translated(text):
    """Return a suite of the repository with the names of the toys."""

    def toy(match):
        names = NAMES[match[1]]
        return f"{match[1]}: {names[zlib.crc32(match[2].encode()) % len(names)]}"

    text = re.sub(r"\b(model|attack|corruption|name): ([\w.-]+/[\w.*/-]+)", toy, text)
    return re.sub(r"\bsplit: [\w-]+", "split: test", text)


FILES = [path.read_text("utf-8") for path in sorted((Path(__file__).parents[1] / "suites").rglob("*.yaml"))]
TEXTS = [text for text in [*FILES, *map(translated, FILES)] if len(text) < 3000] + [RIGHT, WRONG]


def make_mutant(number):
    """Return the bytes of a suite's file, or a mapping."""
    rng = random.Random(number)
    text = rng.choice([SMALL, SMALL, COMPOSED]) if rng.random() < 0.7 else rng.choice(TEXTS)
    if rng.random() < 0.3:
        tree = yaml.safe_load(text if text is not WRONG else RIGHT)
        for _ in range(rng.randint(1, 3)):
            tree = mutated_tree(rng, tree)
        if rng.random() < 0.5:
            return tree if isinstance(tree, dict) else {"models": tree}
        try:
            return json.dumps(tree, default=str, skipkeys=True).encode("utf-8", "surrogatepass")
        except ValueError:  # a mapping in itself, or an integer with more digits than Python writes
            return {"models": tree}
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        text = mutated_text(rng, text)
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.15 and content:
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content) if rng.random() < 0.98 else text.encode("utf-16", "surrogatepass")


def make_settings(number):
    """Return the settings of a mutant, which most have none of."""
    rng = random.Random(-1 - number)
    texts = rng.sample(SETTINGS, rng.choice([0, 0, 0, 0, 0, 1, 2]))
    found = []
    for text in texts:
        with suppress(ValueError):  # a mutant that is no KEY=VALUE
            found.append(parse_setting(mutated_text(rng, text) if rng.random() < 0.3 else text))
    return tuple(found)


def mutated_text(rng, text):
    start = rng.randrange(len(text) + 1)
    stop = min(len(text), start + rng.choice([0, 1, 1, 2, 5, 20]))
    how = rng.randrange(9)
    if how < 3:
        return text[:start] + rng.choice(TOKENS) + text[stop:]
    if how == 3 and (numbers := list(re.finditer(r"\b[0-9.]+(/[0-9]+)?\b", text))):
        found = rng.choice(numbers)
        return text[: found.start()] + rng.choice(NUMBERS) + text[found.end() :]
    if how == 4:
        found, other = (rng.choice(list(re.finditer(r"[\w/-]+", text))) for _ in range(2))
        return text[: found.start()] + other.group() + text[found.end() :]
    if how == 5:
        lines = text.splitlines(keepends=True)
        del lines[rng.randrange(len(lines))]
        return "".join(lines) or "\n"
    if how == 6:
        return text[:start] + text[stop:]
    words = re.split(r"(\W+)", text)
    one, other = rng.randrange(len(words)), rng.randrange(len(words))
    if how == 7:
        words[one], words[other] = words[other], words[one]
    else:
        words[one:one] = words[other : other + rng.randint(1, 30)]
    return "".join(words)


def mutated_tree(rng, tree):
    """Change a random node of the tree in place. Returns the tree, or what replaces it."""
    nodes = [(None, None)]
    seen = set()

    def collect(node):
        if isinstance(node, dict | list) and id(node) not in seen:
            seen.add(id(node))
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                nodes.append((node, key))
                collect(node[key])

    collect(tree)
    parent, key = rng.choice(nodes)
    if parent is None:
        return copy.deepcopy(rng.choice(VALUES)) if rng.random() < 0.1 else tree
    how = rng.randrange(6)
    other, name = rng.choice(nodes[1:])
    if how < 2:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    elif how == 2:
        del parent[key]
    elif how == 3:
        parent[key] = other[name]  # which may contain the parent
    elif how == 4:
        parent[key] = [parent[key]] * rng.choice([1, 2, 1200])
    elif isinstance(parent, dict):
        parent[rng.choice(["x" * 600, "eps", "label", "seeds", "models", 3, None, "\0"])] = parent[key]
    return tree


def check(number, path, *, is_counted):
    """Load and plan a mutant; assert that it is right, or refused well, and with bounded work if it is counted."""
    source, text, settings = make_mutant(number), None, make_settings(number)
    if isinstance(source, bytes):
        path.write_bytes(source)
        text, source = source, path
    refusal, kind = None, "refused"
    with counted() if is_counted else nullcontext() as work:
        try:
            planned = plan(load(source, REGISTRY, settings=settings), path.parent / "data", store=path.parent / "store")
            kind = "missing" if planned.missing else "planned"
        except UserError as error:
            refusal = error
    assert work is None or work.calls < CALLS, f"{work.calls} calls"
    assert refusal is None or str(refusal)
    if isinstance(refusal, SuiteError):
        check_places(refusal.errors, str(path), text)
    return kind


def check_places(errors, path, text):
    """Assert that each error of a suite is a line of bounded length with a place in the file."""
    lines = 1 + len(re.findall("\r\n|\r|\n|\x85|\u2028|\u2029", (text or b"").decode("utf-8", "replace")))
    assert 1 <= len(errors) <= 101
    assert len(set(errors)) == len(errors)
    base = Path(path).with_name("base.yaml")
    for error in errors:
        assert len(error) < 5000
        if re.match(r"--set .+: .", error):
            continue
        if found := re.match(rf"{re.escape(str(base))}:([0-9]+):([0-9]+): .", error):
            assert int(found[1]) <= BASE.count("\n") + 1
            continue
        found = re.match(rf"(?:{re.escape(path)}|<mapping>):([0-9]+):([0-9]+): .", error)
        assert found, error
        assert int(found[1]) >= 1, error
        assert int(found[2]) >= 1, error
        assert text is None or (int(found[1]) <= lines and int(found[2]) <= len(text) + 1), error


def check_all(numbers, path, counts_each):
    """Check these mutants, and count the work of each of that many, since counting takes most of the time."""
    failed, kinds = {}, []
    path.with_name("base.yaml").write_text(BASE)
    for number in numbers:
        try:
            kinds.append(check(number, path, is_counted=number % counts_each == 0))
        except Exception as error:  # all that fail are named
            failed[number] = f"{type(error).__name__}: {error}"[:300]
    assert not failed
    return kinds


def test_mutants_of_suites_are_planned_or_refused(tmp_path):
    kinds = check_all(range(1200), tmp_path / "mutant.yaml", counts_each=6)
    assert kinds.count("planned") > 40  # the mutants reach the planner
    assert kinds.count("refused") > 300


@pytest.mark.slow
def test_many_mutants_of_suites_are_planned_or_refused(tmp_path):
    check_all(range(1200, 20_000), tmp_path / "mutant.yaml", counts_each=1)
