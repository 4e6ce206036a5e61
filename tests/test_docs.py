"""The pages of docs/ list exactly what the code has."""

import dataclasses
import inspect
import json
import pkgutil
import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import robharness
from robharness import api, suite
from robharness.cli import VERBS, cli
from robharness.cli.plan import as_data as plan_as_data
from robharness.cli.verify import as_data as verify_as_data
from robharness.errors import ExitCode
from robharness.planning import planner
from robharness.plugins import discover, hookspecs
from robharness.report import build
from robharness.report.renderers.json import as_data
from robharness.specs.tables import RECORDS, meanings, table
from robharness.store import Store
from robharness.suite.taking import SUITE_KEYS
from robharness.verify import Configuration, Verification

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("**/*.md"), *ROOT.glob("*.md")])
SUITE, COMMANDS, PLUGINS = (DOCS / f"reference/{name}.md" for name in ("suite", "commands", "plugins"))

OTHER_PIXELS = """
from robharness import DatasetSpec, hookimpl

class Pixels:
    ids, labels = ["a", "b"], [0, 1]

@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="pixels", summary="Others", labels="toys", splits=("test",), open=lambda *where: Pixels())
"""


def section(page, heading):
    """The text below a heading, down to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", outside_fences(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no heading '{heading}'"
    return found[1]


def outside_fences(page):
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def tables(text):
    """The tables of a text: each a list of rows, each row a list of texts; headers and rules left out."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.split(r" *\| *", line[1:-1].strip()) for line in table.splitlines()[2:]] for table in found]


def ticked(text):
    return re.findall(r"`([^`]+)`", text)


def first_column(text, table=0):
    return [name for row in tables(text)[table] for name in ticked(row[0])]


def test_the_hooks():
    written = first_column(section(PLUGINS, "Hooks"))
    assert written == [name for name in vars(hookspecs) if name.startswith("robharness_")]


def test_the_public_names():
    written = {*first_column(section(PLUGINS, "Records")), *first_column(section(PLUGINS, "Public names"))}
    assert written == set(robharness.__all__)


def test_the_fields_of_records():
    """`python -m robharness.specs` prints the tables as they should be."""
    declared = [value for name in robharness.__all__ if dataclasses.is_dataclass(value := getattr(robharness, name))]
    assert set(RECORDS) == {value for value in declared if value.__module__.startswith("robharness.specs.")}
    for record in RECORDS:
        fields = [item.name for item in dataclasses.fields(record)]
        assert sorted(meanings(record)) == sorted(fields), f"{record.__name__}: a line of the docstring for each field"
        assert section(PLUGINS, record.__name__).strip() == table(record).strip()


@pytest.mark.parametrize("name", ["Batch", "Classifier", "ExampleRNG"])
def test_the_parameters_of_perturb(name):
    rows, of, written = tables(section(PLUGINS, "Arguments of perturb"))[0], "", set()
    for row in rows:
        of = "".join(ticked(row[0])) or of
        written |= {re.match(r"\w+", ticked(row[1])[0])[0]} if of == name else set()
    public = {item for item, value in vars(getattr(robharness, name)).items()
              if not item.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))}  # fmt: skip
    attributes = {"Batch": {"x", "labels", "ids", "clip_layout", "frames"}}
    for_the_core = {"Batch": {"for_model"}, "Classifier": {"with_access", "require", "with_clips", "has_same_passes"}}
    assert written == public - for_the_core.get(name, set()) | attributes.get(name, set())


def test_the_options():
    written, defaults = set(), {}
    for row in tables(section(COMMANDS, "Options"))[0]:
        names = {name.split(" ")[0] for name in ticked(row[0])}
        written |= {(verb, name) for verb in row[1].split(", ") for name in names}
        defaults |= {name: row[2].strip("`") for name in names}
    expected = {(verb, "-h") for verb in VERBS} | {(verb, "--help") for verb in VERBS}
    for verb in VERBS:
        for option in cli.get_command(None, verb).params:
            if option.param_type_name == "option":
                expected |= {(verb, name) for name in option.opts}
                shown = str(option.default) if option.show_default else ""
                assert {defaults.get(name, "") for name in option.opts} == {shown}, f"default of {option.opts}"
    assert written == expected
    assert [parameter.opts for parameter in cli.params] == [["--version"]]
    assert "`robharness --version`" in section(COMMANDS, "Options")


def test_the_verbs():
    assert re.findall(r"^robharness ([\w-]+)", COMMANDS.read_text(), re.MULTILINE) == list(VERBS)


def test_the_exit_codes():
    rows = tables(section(COMMANDS, "Exit codes"))[0]
    assert [(int(row[0]), row[1].strip("`")) for row in rows] == [(code.value, code.name) for code in ExitCode]


def test_the_environment_variables():
    source = "".join(path.read_text() for path in (ROOT / "robharness").glob("**/*.py"))
    used = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", source))
    used = (used - {"PYTHONHASHSEED"}) | {"NO_COLOR"}  # Python's own; and rich asks for this
    assert set(first_column(section(COMMANDS, "Environment variables"))) == used


@pytest.fixture(scope="module")
def toy_results(tmp_path_factory):
    """Two toy models under an attack that notes something down, a failing one and three corruptions; and the store."""
    plugins = [str(ROOT / f"tests/{name}.py") for name in ("toys", "teams")]
    learner = tmp_path_factory.mktemp("learner") / "learner.py"
    learner.write_text((ROOT / "tests/learner.py").read_text().replace('"labels": "shades"', '"labels": "toys"'))
    store = tmp_path_factory.mktemp("docs") / "store"
    wanted = {
        "robharness": 1,
        "name": "docs",
        "canvas": 8,
        "data": {"name": "toys/pixels", "split": "test"},
        "models": [
            {"model": "toys/net", "label": "A", "reference": True},
            {"model": "toys/net", "label": "B"},
            {"model": "learner/net", "label": "C", "seeds": 2},
        ],
        "attacks": [
            {"attack": "toys/sign", "eps": "1/4"},
            {"attack": "toys/rogue", "eps": "1/4", "how": "raises"},
            {"attack": "teams/nearest"},
            {"attack": "teams/nearest", "step": "1/2"},
        ],
        "corruptions": [{"corruption": "toys/speckle", "severity": [1, 2, 3]}],
    }
    return api.run(wanted, store=store, plugins=[*plugins, str(learner)]), Store(store)


@pytest.mark.parametrize(
    ("heading", "pick"),
    [
        ("JSON", lambda report: report),
        ("cells", lambda report: report["cells"][0]),
        ("distances", lambda report: next(cell["distances"] for cell in report["cells"] if cell["distances"])),
        ("optimality", lambda report: next(cell["optimality"] for cell in report["cells"] if cell["optimality"])),
        ("optimalities", lambda report: report["optimalities"][0]),
        ("best_distances", lambda report: report["best_distances"][0]),
        ("calibration", lambda report: report["cells"][0]["calibration"]),
        ("classes", lambda report: report["cells"][0]["classes"]),
        ("runs", lambda report: report["runs"][0]),
        ("worst_cases", lambda report: report["worst_cases"][0]),
        ("corruption_means", lambda report: report["corruption_means"][0]),
        ("slopes", lambda report: report["slopes"][0]),
        ("corruption_errors", lambda report: report["corruption_errors"][0]),
    ],
)
def test_the_keys_of_the_json(heading, pick, toy_results):
    assert set(first_column(section(COMMANDS, heading))) == set(pick(as_data(build(toy_results[0]))))


def test_the_keys_of_a_plan(toy_results):
    facts = plan_as_data(toy_results[0].plan, toy_results[1], why=True)
    assert set(ticked(section(COMMANDS, "plan --json"))) == {*facts, *facts["passes_left"], *facts["cells"][0]}


def test_the_keys_of_verify():
    outcomes = {"correct": np.array([True, False]), "log_probability": np.array([-0.1, -2.0])}
    declared, other = (Configuration(name=name, keys={}, **outcomes) for name in ("as declared", "BGR"))
    found = Verification(model="toys/net", data="toys/pixels/test", expected=None, own_weights=False, unreadable=(),
                         configurations=(declared, other))  # fmt: skip
    facts, text = verify_as_data(found), section(COMMANDS, "verify --json")
    assert first_column(text) == list(facts)
    assert set(facts["ways"][1]) <= set(ticked(text))


def test_the_columns_of_the_store(toy_results):
    results, store = toy_results
    key = next(result for result in results.cells if result.cell.kind == "attack" and result.n).cell.key
    part = next(store.folder(key).glob("*.parquet"))
    assert first_column(section(COMMANDS, "The store"), table=0) == pq.read_schema(part).names


def test_the_files_of_the_store(toy_results):
    results, store = toy_results
    failed = next(result for result in results.cells if result.failures).cell.key
    expected = {
        "cell.json": store.folder(failed) / "cell.json",
        ".failed.json": next(store.folder(failed).glob("*.failed.json")),
        "runs/*.json": next((store.root / "runs").glob("*.json")),
        "suites/*.json": next((store.root / "suites").glob("*.json")),
    }
    rows = {row[0].strip("`"): ticked(row[1]) for row in tables(section(COMMANDS, "The store"))[1]}
    assert rows == {name: list(json.loads(path.read_text())) for name, path in expected.items()}


SUITE_RECORDS = {"data": suite.DataRef, "models": suite.ModelRef, "attacks": suite.AttackRef,
           "corruptions": suite.CorruptionRef, "check": suite.Check, "precision": suite.Precision}  # fmt: skip


def test_the_keys_of_a_suite():
    header = [item.name for item in dataclasses.fields(suite.Header)]
    assert set(first_column(section(SUITE, "The file"))) == {*SUITE_KEYS}
    assert {*header} < {*SUITE_KEYS}
    for heading, record in SUITE_RECORDS.items():
        assert first_column(section(SUITE, heading)) == [item.name for item in dataclasses.fields(record)]


def test_the_defaults_of_a_suite():
    words = {dataclasses.MISSING: ["required"], (): ["none"], "": ["the name"], False: ["false"],
             None: ["all", "the model's name", "what the plugin declares", "required, but for minimal attacks",
                    "true for ensembles alone", "the model itself", "none", "the suite's"],
             suite.Check(): ["see there"], suite.Precision(): ["float32"]}  # fmt: skip
    for heading, record in {"The file": suite.Header, **SUITE_RECORDS}.items():
        written = {ticked(row[0])[0]: row[2].strip("`") for row in tables(section(SUITE, heading))[0]}
        for item in dataclasses.fields(record):
            known = next((text for value, text in words.items() if value is item.default or (
                type(value) is type(item.default) and value == item.default)), [str(item.default)])  # fmt: skip
            assert written[item.name] in known, f"{heading}: default of {item.name}"


# For every key: another value, and where it goes. A new key fails `test_what_is_identity` until it stands here and in
# docs/reference/suite.md, with its word on identity.
CHANGES = {
    "name": ("other", []), "title": ("Other", []), "canvas": (16, []), "baseline": ("Net", []),
    "gap": (["Net", "learner/net"], []),
    "gain": ({"Net": "learner/net"}, []),
    "compat": ("imagenet-c", []),
    "metrics": (["toys/wrong"], []), "count": ("robust", []), "precision": ("tf32", []), "seed": (1, []),
    "expected": ({"Net": {"clean": 50}}, []), "data.name": ("others/pixels", ["data"]),
    "data.classes": ([0, 1, 2], ["data"]),
    "data.split": ("reversed", ["data"]), "data.limit": (3, ["data"]), "models.model": ("toys/large", ["models", 0]),
    "models.label": ("Other", ["models", 0]), "models.reference": (False, ["models", 0]),
    "models.weights": ("weights.pt", ["models", 0]), "models.inside": ("ema", ["models", 0]),
    "models.strip": ("module.", ["models", 0]), "attacks.attack": ("toys/seeded", ["attacks", 0]),
    "models.preprocessing": ({"channel_order": "bgr"}, ["models", 0]),
    "models.clean_at_least": (50, ["models", 0]), "models.seed": (1, ["models", 1]), "models.seeds": (2, ["models", 1]),
    "attacks.eps": ("1/2", ["attacks", 0]), "attacks.nested": (True, ["attacks", 0]),
    "attacks.source": ("Net", ["attacks", 0]), "attacks.eight_bit": (True, ["attacks", 0]), "compile": (True, []),
    "precision.judge": ("tf32", ["precision"]), "precision.gradient": ("bfloat16", ["precision"]),
    "corruptions.corruption": ("toys/bad", ["corruptions", 0]), "corruptions.severity": (2, ["corruptions", 0]),
    "check.tolerance": (1.0, ["check"]), "check.alpha": (0.1, ["check"]),
    "clusters": ("img_[0-9]+", []), "audit": (True, []),
}  # fmt: skip
WHOLES = (
    "extends",
    "defaults",
    "robharness",
    "data",
    "models",
    "attacks",
    "corruptions",
    "check",
)  # one value only, or changed in their parts


def test_the_fields_of_the_identity(tmp_path):
    toys, others = str(ROOT / "tests/toys.py"), tmp_path / "others.py"
    others.write_text(OTHER_PIXELS)
    (tmp_path / "weights.pt").write_bytes(b"weights")
    (tmp_path / "base.pt").write_bytes(b"other weights")
    learner = tmp_path / "learner.py"
    learner.write_text((ROOT / "tests/learner.py").read_text().replace('labels="shades"', 'labels="toys"')
                       .replace('"labels": "shades"', '"labels": "toys"'))  # fmt: skip
    registry = discover([toys, str(others), str(learner)])
    base = {
        "robharness": 1,
        "name": "docs",
        "canvas": 224,
        "check": {},
        "precision": {},
        "data": {"name": "toys/pixels", "split": "test"},
        "models": [
            {"model": "toys/net", "label": "Net", "reference": True, "weights": "base.pt"},
            {"model": "learner/net"},
        ],
        "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}],
        "corruptions": [{"corruption": "toys/speckle", "severity": 1}],
    }

    def keys(wanted):
        path = tmp_path / "suite.yaml"
        path.write_text(json.dumps(wanted))
        planned = planner.plan(suite.load(path, registry), tmp_path, store=tmp_path)
        assert not planned.missing
        cells = [cell for cell in (*planned.cells, *planned.pending_cells) if cell.kind != "audit"]
        return {cell.key or cell.model.artefact.hash for cell in cells}

    written = {f"{heading}." * (heading != "The file") + ticked(row[0])[0]: row[3].split(",")[0]
               for heading in ("The file", *SUITE_RECORDS) for row in tables(section(SUITE, heading))[0]}  # fmt: skip
    assert set(written) == {*CHANGES, *WHOLES}
    for name, (value, location) in CHANGES.items():
        changed = json.loads(json.dumps(base))
        place = changed
        for step in location:
            place = place[step]
        place[name.rpartition(".")[2]] = value
        makes_others = not keys(changed) <= keys(base)
        assert written[name] == ("yes" if makes_others else "no"), f"{name}: is it identity?"


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", outside_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_fences(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_the_index_has_every_page():
    linked = re.findall(r"\]\(([^)#]+)\)", (DOCS / "README.md").read_text())
    assert set(linked) == {str(page.relative_to(DOCS)) for page in DOCS.glob("*/*") if page.suffix in (".md", ".ipynb")}


def test_named_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^\$ )make ([\w-]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test", "test-slow", "lint", "bench"} <= named <= targets


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/explanation/architecture.md"])
def test_named_paths_exist(name):
    named = re.findall(r"`((?:robharness|plugins|tests|docs|suites)/[\w./-]+)`", (ROOT / name).read_text())
    assert named
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, f"{name} names paths that do not exist: {missing}"


def test_the_architecture_names_every_package():
    text = (DOCS / "explanation/architecture.md").read_text()
    packages = sorted(path.parent.name for path in (ROOT / "robharness").glob("*/__init__.py"))
    assert not [name for name in packages if f"**`robharness/{name}/`**" not in text]


def test_the_architecture_shows_the_import_direction():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.replace(" : ", ", ") for layer in contracts[0]["layers"]]
    assert "```text\n" + "\n".join(layers) + "\n```" in (DOCS / "explanation/architecture.md").read_text()


def test_the_architecture_names_every_module_outside_the_packages():
    modules = {f"robharness/{path.name}" for path in (ROOT / "robharness").glob("*.py")} - {"robharness/__init__.py"}
    assert set(first_column(section(DOCS / "explanation/architecture.md", "Packages"))) == modules


def test_named_modules_and_names_of_the_core_exist():
    for page in PAGES:
        for dotted in set(re.findall(r"(?<![\w/-])robharness(?:\.[A-Za-z]\w*)+", page.read_text())):
            try:
                found = pkgutil.resolve_name(dotted)
            except (ImportError, AttributeError) as error:
                pytest.fail(f"{page.name}: {dotted}: {error}")
            assert found is not None


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text and len(text) == 11358
