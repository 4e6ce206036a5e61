"""`robharness show` prints each option of a part of a plugin, from its dataclass alone."""

import json
import subprocess
import sys

import pytest

from robharness.planning.description import options, type_text

PLUGIN = '''
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import Field

from robharness import (
    AttackSpec, Budget, Component, ComponentSpec, Cost, CorruptionSpec, DatasetSpec, Download, Encoder, File, InputSpec,
    MetricSpec, ModelSpec, ThreatModel, Train, hookimpl,
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A classifier.

    kind: how it is
        trained.
    """

    kind: Literal["sgd", "no"] = "no"
    lr: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Base:
    """Options of all.

    steps: of the whole.
    """

    steps: Annotated[int, Field(gt=0)] = 3


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """Options.

    share: of the pixels.
    encoder: to be probed.
    """

    share: Annotated[Budget, Ge(0), Lt(1)] = Budget("1/4")
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] | None = None
    file: Path
    encoder: Encoder
    network: Annotated[Component, "network"]
    probe: Probe | None = Probe(lr=0.5)
    extra: Mapping[str, int | str] = field(default_factory=dict)
    note: str = field(default="", metadata={"runtime": True})


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Options.

    norm: of the ball.
    """

    norm: Literal["l2", "linf"] = "l2"


def never(*arguments):
    raise AssertionError("nothing is built")


IMAGE = InputSpec(shape=(3, 8, 8))


@hookimpl
def robharness_models():
    yield ModelSpec(name="twin", summary="A trained one", input=IMAGE, labels="toys", params=Options,
                    weights=Train(data=never, train=never), build="heavy:never", paper="https://arxiv.org/abs/1")
    files = {"a": File(path="a.pt", get="make a"), "b": Download(url="https://example.org/b.pt")}
    yield ModelSpec(name="filed", summary="Files", input=IMAGE, labels="toys", weights=files, build=never,
                    licence="MIT", features="body")


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="twin", summary="An attack", access="scores", params=Norm, build=never,
                     threat=lambda params: ThreatModel(norm=params.norm), cost=lambda params: Cost())


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="dust", summary="Dust", group="noise", build=never, severities=(2, 3))


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="pixels", summary="Pixels", labels="toys", splits=("train", "test"), open=never)


@hookimpl
def robharness_metrics():
    yield MetricSpec(name="wrong", summary="Wrong", compute=never)


@hookimpl
def robharness_components():
    yield ComponentSpec(name="tiny", role="network", summary="Tiny", build=never)
'''


@pytest.fixture
def shell_plugins(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    return ["./mine.py"]


@pytest.fixture
def show(shell):
    def call(*words):
        found = shell("show", *words, "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return call


def test_every_option_has_its_type_its_default_and_its_meaning(show):
    model, attack = show("twin")
    assert (model["kind"], attack["kind"]) == ("model", "attack")
    assert {each["name"]: (each["type"], each["default"], each["meaning"]) for each in model["options"]} == {
        "steps": ("integer > 0", "3", "of the whole."),
        "share": ("number or fraction >= 0 and < 1", "1/4", "of the pixels."),
        "sizes": ("list of integer", "[1, 2]", ""),
        "pair": ("[integer, text] | null", "null", ""),
        "file": ("path", "required", ""),
        "encoder": ("encoder", "required", "to be probed."),
        "network": ("network, a component", "required", ""),
        "probe": ("mapping | null", "{lr: 0.5}", ""),
        "probe.kind": ("sgd | no", "no", "how it is trained."),
        "probe.lr": ("number", "0.1", ""),
        "extra": ("mapping of text to (integer | text)", "{}", ""),
        "note": ("text", '""', ""),
    }
    assert [each["name"] for each in model["options"] if not each["identity"]] == ["note"]
    assert attack["options"] == [
        {"name": "norm", "type": "l2 | linf", "default": "l2", "meaning": "of the ball.", "identity": True}
    ]


def test_the_facts_of_a_model(show, tmp_path):
    [trained] = show("mine/twin")[:1]
    assert (trained["trained"], trained["weights"], trained["paper"]) == (True, [], "https://arxiv.org/abs/1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.pt").touch()
    [filed] = show("mine/filed")
    assert filed["input"] == {"kind": "image", "shape": [3, 8, 8]}
    assert (filed["licence"], filed["features"], filed["trained"]) == ("MIT", "body", False)
    path = tmp_path / "data/weights/b.pt"
    assert filed["weights"] == [
        {"name": "a", "path": str(tmp_path / "data/a.pt"), "is_there": True, "hint": ""},
        {"name": "b", "path": str(path), "is_there": False,
         "hint": f"To get it: curl --create-dirs -fL -o {path} https://example.org/b.pt"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("twin", "models:\n  - {model: mine/twin, file: ./FILE, encoder: {model: MODEL}, network: COMPONENT}"),
        ("filed", "models:\n  - {model: mine/filed}"),
        ("dust", "corruptions:\n  - {corruption: mine/dust, severity: [3]}"),
        ("pixels", "data: {name: mine/pixels, split: train}"),
        ("wrong", "metrics: [mine/wrong]"),
        ("tiny", "network: mine/tiny"),
    ],
)
def test_an_item_for_a_suite(show, name, example):
    assert show(name)[0]["example"] == example


def test_the_text_has_what_the_json_has(shell):
    shown = shell("show", "mine/twin").stdout
    lines = shown.splitlines()
    assert lines[0] == "mine/twin, a model of mine.py"
    assert "weights: trained by a suite" in lines
    assert "input: image 3x8x8" in lines
    assert "option   type   default   meaning" in lines
    assert "probe.kind   sgd | no   no   how it is trained." in lines
    assert lines[-2:] == ["attacks:", "  - {attack: mine/twin, eps: 0.5}"]
    assert "mine/twin, an attack of mine.py" in lines  # of the same name
    filed = shell("show", "mine/filed").stdout
    assert "(missing). To get it: curl" in filed
    assert "(missing). To get it: make a" in filed


def test_patterns_and_names_that_do_not_exist(show, shell):
    assert [each["name"] for each in show("mine/t*")] == ["mine/twin", "mine/twin", "mine/tiny"]
    for name, hint in (("twni", "did you mean 'twin'?"), ("mine/twni", "did you mean 'mine/twin'?"),
                       ("absent/x", "Try: pip install robharness-absent")):  # fmt: skip
        found = shell("show", name)
        assert found.returncode == 2
        assert hint in found.stderr
    assert "robharness list plugins" in shell("show", "zzz").stderr


def test_options_that_cannot_be_described_name_the_plugin(shell, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace('norm: Literal["l2", "linf"]', "norm: 'Absent'"))
    found = shell("show", "mine/twin")
    assert found.returncode == 2
    assert "mine/twin of mine.py cannot be described: NameError: name 'Absent' is not defined" in found.stderr


def test_other_types():
    assert type_text(dict) == "dict"
    assert type_text(list[bool | None]) == "list of (true | false | null)"
    assert list(options(type("Empty", (), {"__dataclass_fields__": {}}))) == []


def test_showing_imports_neither_torch_nor_numpy(shell_plugins, tmp_path):
    code = "import sys; from robharness.cli import main; code = main(['show', 'mine/*', '-p', './mine.py']); " \
           "sys.exit(code or 9 * bool({'torch', 'numpy'} & set(sys.modules)))"  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
