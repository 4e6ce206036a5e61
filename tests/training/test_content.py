"""Files are content everywhere: options of every kind that name a file count by what it holds."""

from pathlib import Path

import pytest

from robharness import MissingResource, api
from robharness.errors import ContractViolation
from robharness.evaluation.loading import load_model
from robharness.evaluation.unchanged import check_perturbation
from toy_probing import PLUGINS

PLUGIN = """
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from robharness import (AttackSpec, Component, ComponentSpec, CorruptionSpec, Cost, DatasetSpec, InputSpec, ModelSpec,
                        Train, DataRef, ThreatModel, hookimpl)

DEFAULT, OTHER = Path({default!r}), Path({other!r})


@dataclass(frozen=True, kw_only=True)
class Inner:
    file: Path | None = None
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DefaultPart:
    file: Path = OTHER


@dataclass(frozen=True, kw_only=True)
class Options:
    file: Path | None = None
    some: tuple[Path, ...] = ()
    many: list[Path] = field(default_factory=list)
    several: frozenset[Path] = frozenset()
    named: dict[str, Path] = field(default_factory=dict)
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    part: Annotated[Component, "part"] | None = None
    default: Path = DEFAULT
    default_part: Annotated[Component, "part"] = Component("standard")
    read: str = ""


@dataclass(frozen=True, kw_only=True)
class AttackOptions(Options):
    norm: str = "linf"


def build(params, weights):
    import torch

    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


def inputs(params):
    return {{"file": Path(params.read)}} if params.read else {{}}


@hookimpl
def robharness_components():
    yield ComponentSpec(name="piece", role="part", summary="-", build=lambda params: None, params=Part)
    yield ComponentSpec(name="standard", role="part", summary="-", build=lambda params: None, params=DefaultPart)


@hookimpl
def robharness_models():
    common = {{"input": InputSpec(shape=(1, 8, 8)), "labels": "shades", "build": build, "params": Options}}
    yield ModelSpec(name="net", summary="-", **common)
    yield ModelSpec(name="trained", summary="-", weights=Train(
        data=lambda params: {{"train": DataRef(name="probes/shades", split="train")}}, train=lambda job: None,
        inputs=inputs), **common)
    yield ModelSpec(name="encoder", summary="-", input=InputSpec(shape=(1, 8, 8)), labels="none", features="",
                    build=build, params=Options)


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="stab", summary="-", build=lambda params: None, params=AttackOptions,
                     threat=lambda params: ThreatModel(norm="linf"), access="gradient", cost=lambda params: Cost())


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="smear", summary="-", group="noise", params=Options, build=lambda params: None)
"""

OPTIONS = {
    "path": lambda file: {"file": file},
    "tuple": lambda file: {"some": [file]},
    "list": lambda file: {"many": [file]},
    "set": lambda file: {"several": [file]},
    "mapping": lambda file: {"named": {"a": file}},
    "record": lambda file: {"inner": {"file": file}},
    "records in a tuple": lambda file: {"inners": [{"size": 2}, {"file": file}]},
    "component": lambda file: {"part": {"name": "piece", "file": file}},
    "default": lambda file: {},
    "component at its default": lambda file: {},
}
DEFAULTS = {"default": "default.bin", "component at its default": "other.bin"}
ITEMS = {
    "model": lambda options: {"models": [{"model": "content/net", "label": "N", **options}]},
    "training": lambda options: {"models": [{"model": "content/trained", "label": "N", **options}]},
    "encoder": lambda options: {"models": [
        {"model": "probes/linear", "label": "N", "encoder": {"model": "content/encoder", **options}}]},
    "attack": lambda options: {"attacks": [{"attack": "content/stab", "eps": ["1/8"], **options}]},
    "corruption": lambda options: {"corruptions": [{"corruption": "content/smear", "severity": [1], **options}]},
}  # fmt: skip


@pytest.fixture
def planned(tmp_path, store):
    """Return the plan of a suite with one item, and its names: keys of cells, or hashes of trainings."""
    for name in DEFAULTS.values():
        (tmp_path / name).write_bytes(b"0")
    plugin = tmp_path / "content.py"
    plugin.write_text(PLUGIN.format(default=str(tmp_path / "default.bin"), other=str(tmp_path / "other.bin")))

    def make(item, options):
        source = {
            "robharness": 1, "name": "content", "canvas": 8, "data": {"name": "probes/shades", "split": "test"},
            "models": [{"model": "content/net", "label": "N"}], **ITEMS[item](options),
        }  # fmt: skip
        found = api.plan(source, store=store, plugins=[*PLUGINS, str(plugin)])
        hashes = [model.artefact.hash for model in found.untrained]
        return found, hashes or [cell.key for cell in found.cells if cell.perturbation or item == "model"]

    return make


@pytest.mark.parametrize("item", ITEMS)
def test_options_of_every_kind_count_by_the_content_of_their_files(item, planned, tmp_path):
    file = tmp_path / "file.bin"
    for kind, options in OPTIONS.items():
        written = tmp_path / DEFAULTS.get(kind, file.name)
        written.write_bytes(b"1")
        _, first = planned(item, options(str(file)))
        written.write_bytes(b"2")
        _, second = planned(item, options(str(file)))
        assert first and set(first).isdisjoint(second), kind
        moved = tmp_path / "moved.bin"
        moved.write_bytes(b"2")
        _, third = planned(item, options(str(moved)))
        assert third == second, f"{kind}: the place of a file counts"
        written.write_bytes(b"0")


@pytest.mark.parametrize("item", ITEMS)
def test_a_missing_file_is_named_before_anything_runs(item, planned, tmp_path):
    for kind, options in OPTIONS.items():
        if kind in DEFAULTS:
            continue
        found, _ = planned(item, options("gone.bin"))
        [error] = found.missing
        assert isinstance(error, MissingResource) and "gone.bin" in str(error), kind
        assert "of N" in str(error) or item != "encoder", kind


def test_inputs_of_a_training_and_folders_count_by_content(planned, tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"1")
    _, first = planned("training", {"read": str(folder)})
    _, same = planned("model", {"file": str(folder)})
    (folder / "deep" / "file").write_bytes(b"2")
    assert planned("training", {"read": str(folder)})[1] != first and planned("model", {"file": str(folder)})[1] != same
    [error] = planned("training", {"read": str(tmp_path / "gone")})[0].missing
    assert str(error).startswith("the training input 'file' of content/trained: not found at")


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_file_that_changes_before_its_use_is_found(kind, planned, tmp_path):
    """In every process that computes: each checks its model and its perturbations when it uses them."""
    file: Path = tmp_path / DEFAULTS.get(kind, "file.bin")
    for item in ("model", "attack", "corruption"):
        file.write_bytes(b"1")
        found, _ = planned(item, OPTIONS[kind](str(tmp_path / "file.bin")))
        file.write_bytes(b"2")
        use = load_model if item == "model" else check_perturbation
        arguments = (found, found.models[0]) if item == "model" else (found.cells[1],)
        with pytest.raises(ContractViolation, match="changed since the run was planned"):
            use(*arguments)
