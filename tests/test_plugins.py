"""One broken plugin never breaks the tool: each is taken by itself, and what is wrong with it is said and kept."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from textwrap import dedent

import click
import pytest

from robharness import api, discover
from robharness.cli import VERBS, cli, main
from robharness.errors import PluginLoadError, PluginNotFound
from robharness.plugins import PluginOrigin, Problem, Registry, dependency_versions, hookspecs, observers
from robharness.plugins.registry import BUILT_IN_COMMANDS, BUILT_IN_SUFFIXES
from robharness.report import build
from robharness.report.renderers import BUILT_IN, render, renderers
from robharness.specs import InputSpec, ModelSpec

MODEL = """
from robharness import InputSpec, ModelSpec, hookimpl

def spec(name):
    return ModelSpec(name=name, summary="s", input=InputSpec(shape=(1, 8, 8)), labels="x", build=lambda p, w: None)
"""
GOOD = f"""{MODEL}
@hookimpl
def robharness_models():
    yield spec("net")
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution on the path as pip leaves it there, and forget its module afterwards."""
    site = tmp_path / "site"
    before = set(sys.modules)

    def call(name, text=GOOD, *, namespace=None, version="1.0", requires=(), value=None, metadata=None):
        module = name.replace("-", "_")
        info = site / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires]
        if metadata is None:
            (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[robharness]\n{namespace or module} = {value or module}\n")
        (site / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    yield call
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).is_relative_to(tmp_path):
            del sys.modules[name]


def problems(registry, namespace):
    return [problem for problem in registry.problems if problem.origin.namespace == namespace]


def problem_of(registry, namespace):
    [problem] = problems(registry, namespace)
    assert not [
        name for kind in ("models", "attacks") for name in getattr(registry, kind) if name.startswith(namespace)
    ]
    assert namespace not in [source.namespace for source in registry.origins]
    return problem


def test_an_installed_plugin_is_found_under_its_namespace(install):
    install("zeta-nets", namespace="zeta", version="1.2")
    registry = discover()
    entry = registry.find("models", "zeta/net")
    assert (entry.name, entry.spec.name, str(entry.origin)) == ("zeta/net", "net", "zeta-nets 1.2")
    assert entry.origin.digest is None
    assert entry.origin in registry.origins
    assert not problems(registry, "zeta")


def test_an_entry_point_may_name_an_object_of_its_module(install):
    text = "class Plugin:\n    @hookimpl\n    def robharness_models(self):\n        yield spec('net')\n"
    install("zeta", f"{MODEL}\n{text}\nplugin = Plugin()\n", value="zeta:plugin")
    assert "zeta/net" in discover().models


BROKEN = {
    "import-error": ("import no_such_module_at_all", "import", "ModuleNotFoundError: No module named 'no_such_module"),
    "syntax": ("def f(:", "import", "SyntaxError: invalid syntax"),
    "exit": ("import sys; sys.exit(3)", "import", "SystemExit: 3"),
    "division": ("1 / 0", "import", "ZeroDivisionError: division by zero"),
    "raises": (
        f"{MODEL}\n@hookimpl\ndef robharness_models():\n    raise OSError('no disk')\n",
        "collection",
        "OSError: no disk",
    ),
    "half-way": (
        f"{MODEL}\n@hookimpl\ndef robharness_models():\n    yield spec('one')\n    raise KeyError('two')\n",
        "collection",
        "KeyError: 'two'",
    ),
    "late": (
        f"{GOOD}\n@hookimpl\ndef robharness_metrics():\n    raise ValueError('no metric')\n",
        "collection",
        "ValueError: no metric",
    ),
    "misspelt": (
        f"{GOOD}\n@hookimpl\ndef robharness_model():\n    return []\n",
        "registration",
        "there is no hook 'robharness_model'; did you mean 'robharness_models'?",
    ),
    "unmarked": (
        f"{GOOD}\ndef robharness_attacks():\n    return []\n",
        "registration",
        "the function 'robharness_attacks' lacks @robharness.hookimpl",
    ),
    "arguments": (
        f"{GOOD}\n@hookimpl\ndef robharness_run_finished(result):\n    pass\n",
        "registration",
        "PluginValidationError: ",
    ),
    "record": (
        f"{MODEL}\n@hookimpl\ndef robharness_attacks():\n    yield spec('net')\n",
        "collection",
        "TypeError: robharness_attacks yielded ModelSpec, not AttackSpec",
    ),
    "renderer-of-json": (
        f"{GOOD}\nclass JSON:\n    name, suffix, render = 'JSON', '.json', repr\n"
        "@hookimpl\ndef robharness_renderers():\n    yield JSON()\n",
        "collection",
        "ValueError: the suffix '.json' has a built-in renderer",
    ),
    "renderer-without-render": (
        f"{GOOD}\nclass Form:\n    name, suffix = 'form', '.form'\n"
        "@hookimpl\ndef robharness_renderers():\n    yield Form()\n",
        "collection",
        "TypeError: robharness_renderers yielded Form, which needs `name`, `suffix` and `render`",
    ),
    "renderer-without-a-dot": (
        f"{GOOD}\nclass Form:\n    name, suffix, render = 'form', 'form', repr\n"
        "@hookimpl\ndef robharness_renderers():\n    yield Form()\n",
        "collection",
        "ValueError: a renderer's suffix is a dot with lower-case letters or digits, not 'form'",
    ),
    "renderers-of-one-suffix": (
        f"{GOOD}\nclass Form:\n    name, suffix, render = 'form', '.form', repr\n"
        "@hookimpl\ndef robharness_renderers():\n    yield Form()\n    yield Form()\n",
        "collection",
        "ValueError: the suffix '.form' is declared twice",
    ),
    "nothing-to-iterate": (
        f"{MODEL}\n@hookimpl\ndef robharness_models():\n    return spec('net')\n",
        "collection",
        "TypeError: 'ModelSpec' object is not iterable",
    ),
    "twice": (
        f"{MODEL}\n@hookimpl\ndef robharness_models():\n    yield spec('net')\n    yield spec('net')\n",
        "collection",
        "ValueError: the name 'zeta/net' is declared twice",
    ),
    "invalid": (
        f"{MODEL}\n@hookimpl\ndef robharness_models():\n    yield spec('Big Net')\n",
        "collection",
        "ValueError: ModelSpec: name='Big Net' must be lower-case",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_becomes_a_problem_and_registers_nothing(install, case):
    text, stage, error = BROKEN[case]
    install("zeta", text)
    install("eta")
    registry = discover()
    problem = problem_of(registry, "zeta")
    assert problem.stage == stage
    assert problem.error.startswith(error)
    assert str(problem) == f"plugin 'zeta' of zeta 1.0 was left out at {stage}: {' '.join(problem.error.split())}"
    assert "eta/net" in registry.models  # the others are there
    assert not [source for takers in registry.observers.values() for source, _ in takers if source.namespace == "zeta"]
    with pytest.raises(PluginNotFound) as caught:
        registry.find("models", "zeta/net")
    assert str(caught.value) == f"no model 'zeta/net': {problem}. Try: robharness list plugins"


@pytest.mark.parametrize(
    ("requires", "fits"),
    [
        (["robharness>=99"], False),
        (["RobHarness >= 99"], False),
        (["robharness<0.0.1"], False),
        (["numpy", "this is no requirement!", "robharness>=99"], False),
        (["robharness>=0.0.1"], True),
        (["robharness>=99; extra == 'next'"], True),
        (["robharness>=99; python_version < '3'"], True),
        (["robharness-zeta>=99"], True),
    ],
)
def test_a_plugin_for_another_version_is_not_even_imported(install, requires, fits):
    install("zeta", GOOD if fits else "raise RuntimeError('imported')", requires=requires)
    registry = discover()
    if fits:
        assert "zeta/net" in registry.models
        return
    problem = problem_of(registry, "zeta")
    assert problem.stage == "version"
    assert re.fullmatch(r"it needs robharness[<>]=?[0-9.]+, this is \S+; pip install -U robharness", problem.error)


def test_a_namespace_claimed_by_two_plugins_is_given_to_neither(install):
    install("zeta-one", namespace="zeta")
    install("zeta-two", namespace="zeta", version="2.0")
    registry = discover()
    assert "zeta/net" not in registry.models
    found = problems(registry, "zeta")
    assert {str(problem.origin) for problem in found} == {"zeta-one 1.0", "zeta-two 2.0"}
    for problem in found:
        assert problem.stage == "registration"
        names = re.fullmatch(
            r"both (.*) claim the name 'zeta'; uninstall one, or block both with -p no:zeta", problem.error
        )
        assert sorted(names[1].split(" and ")) == ["zeta-one 1.0", "zeta-two 2.0"]
    with pytest.raises(PluginNotFound, match=r"both zeta-.* and zeta-.* claim the name 'zeta'"):
        registry.find("models", "zeta/net")
    assert not problems(discover(["no:zeta"]), "zeta")


def test_a_distribution_that_the_path_lists_twice_is_one(install, tmp_path, monkeypatch):
    install("zeta")
    copy = tmp_path / "copy"
    info = copy / "Zeta-1.0.dist-info"
    info.mkdir(parents=True)
    for file in (tmp_path / "site" / "zeta-1.0.dist-info").iterdir():
        (info / file.name).write_text(file.read_text().replace("Name: zeta", "Name: Zeta"))
    monkeypatch.syspath_prepend(copy)
    registry = discover()
    assert "zeta/net" in registry.models
    assert not problems(registry, "zeta")


def test_a_half_deleted_distribution_does_no_harm(install, tmp_path):
    install("zeta", metadata="none")
    site = tmp_path / "site"
    (site / "empty-1.0.dist-info").mkdir()
    (site / "mangled-1.0.dist-info").mkdir()
    (site / "mangled-1.0.dist-info" / "entry_points.txt").write_text("[robharness]\nno equals sign\n")
    importlib.invalidate_caches()
    assert str(discover().find("models", "zeta/net").origin) == "a nameless package"


def test_a_plugin_can_be_blocked(install):
    install("zeta", "1 / 0")
    install("eta")
    registry = discover(["no:zeta", "no:eta"])
    assert not problems(registry, "zeta")
    assert "eta/net" not in registry.models
    with pytest.raises(PluginLoadError) as caught:
        discover(["no:zetta"])
    assert str(caught.value) == (
        "-p no:zetta: no such plugin is installed; did you mean 'zeta'? Try: robharness list plugins"
    )


# --- loose files ------------------------------------------------------------------------------------------------------


def test_a_loose_file_is_a_plugin_named_by_its_stem(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    entry = discover([str(file), str(file)]).find("models", "mine/net")
    assert str(entry.origin) == str(file)
    digests = {entry.origin.digest}
    file.write_text(GOOD + "\n# changed\n")
    digests.add(discover([str(file)]).find("models", "mine/net").origin.digest)
    assert len(digests) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_records_of_a_loose_file_can_be_pickled(tmp_path):
    import pickle

    file = tmp_path / "mine.py"
    file.write_text("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Params:\n    steps: int = 3\n")
    discover([str(file)])
    params = sys.modules["robharness_loose_mine"].Params(4)
    assert pickle.loads(pickle.dumps(params)) == params


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_loose_file_stops_with_its_problem(tmp_path, case):
    text, _, error = BROKEN[case]
    file = tmp_path / "zeta.py"
    file.write_text(text)
    with pytest.raises(PluginLoadError) as caught:
        discover([str(file)])
    assert str(caught.value).startswith(f"-p {file}: {error}")


def test_a_loose_file_that_takes_an_installed_name_is_refused(install, tmp_path):
    install("zeta")
    file = tmp_path / "zeta.py"
    file.write_text(GOOD)
    with pytest.raises(PluginLoadError, match=rf"-p {file}: both zeta 1\.0 and {file} claim the name 'zeta'"):
        discover([str(file)])


@pytest.mark.parametrize("name", ["none.py", ".", "text.txt", "folder.py"])
def test_a_path_that_is_no_python_file_is_one_sentence(tmp_path, name):
    (tmp_path / "text.txt").write_text(GOOD)
    (tmp_path / "folder.py").mkdir()
    path = tmp_path / name
    with pytest.raises(PluginLoadError) as caught:
        discover([str(path)])
    assert str(caught.value) == (
        f"-p {path}: no such Python file. Try: -p ./FILE.py, or -p no:NAME to exclude a plugin"
    )


# --- what is said of a name that is not there -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "models",
            "zeta/resnet5",
            "no model 'zeta/resnet5'; did you mean 'zeta/resnet50'? Try: robharness list models",
        ),
        (
            "models",
            "zeat/resnet50",
            "no model 'zeat/resnet50'; did you mean 'zeta/resnet50'? Try: robharness list models",
        ),
        ("models", "resnet50", "no model 'resnet50'; did you mean 'zeta/resnet50'? Try: robharness list models"),
        ("models", "zeta/vit", "no model 'zeta/vit'. Try: robharness list models"),
        ("models", "fc", "no model 'fc'; did you mean 'omega/fc'? Try: robharness list models"),
        ("models", "vit", "no model 'vit'. Try: robharness list models"),
        (
            "models",
            "swav/resnet50",
            "'swav/resnet50' needs a plugin 'swav', which is not there. Try: pip install robharness-swav",
        ),
        ("attacks", "zeta/pgd", "no attack 'zeta/pgd'. Try: robharness list attacks"),
        ("datasets", "zeta/cifar", "no data set 'zeta/cifar'. Try: robharness list datasets"),
        (
            "models",
            "rotten/net",
            "no model 'rotten/net': plugin 'rotten' of robharness-rotten 0.3 was left out at import: ImportError: x. "
            "Try: robharness list plugins",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_suggestions(kind, name, message):
    registry = Registry()
    for namespace, known in {"zeta": "resnet50", "omega": "fc"}.items():
        source = PluginOrigin(namespace=namespace, distribution=f"robharness-{namespace}", version="1.0")
        registry.origins.append(source)
        spec = ModelSpec(
            name=known, summary="s", input=InputSpec(shape=(3, 8, 8)), labels="x", build=lambda params, weights: None
        )
        registry.add("models", spec, source)
    rotten = PluginOrigin(namespace="rotten", distribution="robharness-rotten", version="0.3")
    registry.problems.append(Problem(origin=rotten, stage="import", error="ImportError: x"))
    with pytest.raises(PluginNotFound) as caught:
        registry.find(kind, name)
    assert str(caught.value) == message


def test_a_plugin_records_its_dependency_versions(install):
    requires = ["robharness", "click>=8", "not-there-at-all", "numpy; extra == 'big'", "no requirement!"]
    install("zeta", requires=requires)
    source = discover().find("models", "zeta/net").origin
    click = importlib.metadata.version("click")
    assert dependency_versions(source) == [f"click {click}", "not-there-at-all (not installed)"]
    assert dependency_versions(PluginOrigin(namespace="x", distribution="./x.py")) == []


# --- the hooks' own examples ------------------------------------------------------------------------------------------

HOOKS = [name for name in vars(hookspecs) if name.startswith("robharness_")]


@pytest.fixture
def examples(tmp_path):
    """Every hook's example as a loose file: hook -> path."""
    files = {}
    for hook in HOOKS:
        [text] = re.findall(r"```python\n(.*?)```", inspect.getdoc(getattr(hookspecs, hook)), flags=re.DOTALL)
        files[hook] = tmp_path / f"example_{hook.removeprefix('robharness_')}.py"  # a name that nobody installs
        files[hook].write_text(dedent(text))
    return files


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_every_hook_is_a_plugin(examples, hook):
    path = examples[hook]
    registry = discover([str(path)])
    assert not problems(registry, path.stem)
    takers = registry.observers | {
        "robharness_figures": registry.figure_hooks,
        "robharness_renderers": registry.renderers,
        "robharness_audits": registry.audits,
    }
    if hook == "robharness_executors":
        assert [origin.namespace for origin, _ in registry.executors.values()].count(path.stem) == 1
    elif hook in takers:
        assert [source.namespace for source, _ in takers[hook] if source.namespace == path.stem] == [path.stem]
    elif hook == "robharness_commands":
        assert {name: origin.namespace for name, (origin, _) in registry.commands.items()}["labels"] == path.stem
    else:
        kind = hook.removeprefix("robharness_")
        assert [entry.origin.namespace for entry in getattr(registry, kind).values()].count(path.stem) == 1


def test_the_examples_run_together_in_a_suite(examples, tmp_path, capsys):
    suite = {
        "robharness": 1,
        "name": "examples",
        "data": {"name": "example_datasets/squares", "split": "test"},
        "canvas": 8,
        "models": [{"model": "example_models/linear", "label": "Zero"}],
        "attacks": [
            {"attack": "example_attacks/fade", "eps": ["1/4"]},
            {"attack": "example_attacks/fade", "eps": 1, "darker": True},
        ],
        "corruptions": [{"corruption": "example_corruptions/negative", "severity": 1}],
        "metrics": ["example_metrics/clean-error"],
    }
    found = api.run(suite, store=tmp_path / "store", plugins=[str(path) for path in examples.values()])
    assert found.is_complete
    assert [result.failures for result in found.cells] == [()] * 4
    # a network of zeros says 0 to everything: one square of ten
    assert [result.accuracy for result in found.cells] == [0.1] * 4
    brighter, darker = (
        dict(zip(r.columns["example"], r.columns["size"], strict=True)) for r in found.of("Zero", "attack")
    )
    assert brighter["square-0"] == 0.25
    assert brighter["square-8"] == 0  # white all over
    assert darker["square-0"] == 0
    assert darker["square-8"] == 1
    [metric] = found.suite.metrics
    assert metric.spec.compute(found) == {"Zero": 0.9}
    assert capsys.readouterr().out.splitlines() == [
        "examples: 4 cells, 10 examples, seed 0",
        *(
            f"Zero, {name}: 0.100 [0.005, 0.459]"
            for name in ("clean", "fade(linf, 1/4)", "fade(linf, 1, darker=yes)", "negative(1)")
        ),
        "4 cells of examples",
    ]
    registry = discover([str(path) for path in examples.values()])
    [polite] = [name for name in registry.executors if name.endswith("/polite")]  # installed plugins have others
    options = {"plugins": [str(path) for path in examples.values()], "executor": polite}
    polite_found = api.run(suite, store=tmp_path / "polite", **options)
    assert [result.accuracy for result in polite_found.cells] == [0.1] * 4
    written, warnings = observers.draw_figures(found, registry, tmp_path / "pictures")
    assert written == [tmp_path / "pictures/accuracy.svg"] and not warnings
    assert 'width="10.0"' in written[0].read_text()
    rendered = render(build(found), *renderers(registry)[".tsv"])
    assert rendered.decode().splitlines()[:3] == [
        "model\tperturbation\taccuracy",
        "Zero\tclean\t0.1",
        "Zero\tfade(linf, 1/4)\t0.1",
    ]


def test_a_plugin_cannot_claim_the_suffix_of_a_built_in_renderer():
    assert tuple(renderer.suffix for renderer in BUILT_IN) == BUILT_IN_SUFFIXES


def test_a_command_of_a_plugin_is_a_verb(examples):
    command = ["-p", str(examples["robharness_commands"])]
    with pytest.raises(
        click.UsageError, match=r"no verb 'label'; did you mean 'labels'\? Verbs: run, .*, schema, labels"
    ):
        cli.main(["label", *command], standalone_mode=False)
    with pytest.raises(click.UsageError, match=r"no verb 'labels'"):
        cli.main(["labels", "nobody/net"], standalone_mode=False)
    with pytest.raises(PluginNotFound, match="needs a plugin 'nobody'"):
        cli.main(["labels", "nobody/net", *command], standalone_mode=False)
    assert frozenset(VERBS) == BUILT_IN_COMMANDS


@pytest.mark.parametrize(
    ("body", "code", "error"),
    [
        ("return 7", 7, ""),
        (
            "raise ValueError('no host')",
            2,
            "the verb 'ask' of {path} failed: ValueError: no host. Try: the same command",
        ),
        ("return 'fine'", 2, "the verb 'ask' of {path} failed: TypeError: it returned str, not an exit code. Try: the"),
        ("raise robharness.UserError('no such host. Try: ping')", 2, "robharness: no such host. Try: ping"),
    ],
)
def test_a_verb_that_fails_is_named_with_its_plugin(tmp_path, capsys, body, code, error):
    path = tmp_path / "asking.py"
    path.write_text(
        "import click, robharness\n@robharness.hookimpl\ndef robharness_commands():\n"
        f"    @click.command('ask')\n    def ask():\n        {body}\n    yield ask\n"
    )
    assert main(["ask", "-p", str(path)]) == code
    shown = capsys.readouterr().err
    assert error.format(path=path) in shown and "Traceback" not in shown
    assert main(["ask", "-p", str(path), "--debug"]) == code
    assert ("Traceback" in capsys.readouterr().err) == bool(error)


def test_an_unknown_verb_ends_its_sentence():
    with pytest.raises(click.UsageError, match=r"no verb 'zzzzzz'\. Verbs: run, "):
        cli.main(["zzzzzz"], standalone_mode=False)


@pytest.mark.parametrize(
    ("yielded", "error"),
    [
        ("click.Command('run')", "ValueError: the command 'run' is built in; give it another name"),
        ("click.Command(None)", "ValueError: the command 'None' is built in; give it another name"),
        ("click.Command('a'), click.Command('a')", "ValueError: the command 'a' is declared twice"),
        ("print,", "TypeError: robharness_commands yielded builtin_function_or_method, not a click.Command"),
    ],
)
def test_commands_that_cannot_be_registered(yielded, error, tmp_path):
    path = tmp_path / "verbose.py"
    path.write_text(
        f"import click, robharness\n@robharness.hookimpl\ndef robharness_commands():\n    yield from [{yielded}]\n"
    )
    with pytest.raises(PluginLoadError, match=re.escape(error)):
        discover([str(path)])


def test_a_command_of_two_plugins_is_a_problem_of_the_second(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(
            "import click, robharness\n\n@robharness.hookimpl\ndef robharness_commands():\n"
            "    yield click.Command('same')\n"
        )
    with pytest.raises(PluginLoadError, match=r"two\.py: ValueError: the command 'same' is one of .*one\.py already"):
        discover([str(tmp_path / "one.py"), str(tmp_path / "two.py")])


# --- what is loaded ---------------------------------------------------------------------------------------------------

HEAVY = ("torch", "torchvision", "numpy", "pyarrow")


@pytest.mark.parametrize(
    "arguments",
    ["--help", "run --help", "list plugins", "list models", "list attacks", "list corruptions", "list datasets",
     "list metrics"],
)  # fmt: skip
def test_help_and_lists_load_nothing_heavy(arguments, examples, run_process, tmp_path):
    options = []
    if arguments.startswith("list"):
        options = [word for path in examples.values() for word in ("-p", str(path))]
    code = (
        "import sys\n"
        "from robharness.cli import main\n"
        "status = main()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    found = run_process(*arguments.split(), *options, program=["-c", code], cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines()[-1] == "[]"
    assert found.stdout
