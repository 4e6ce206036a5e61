"""Components: what a suite may write, what counts in identities, provenance, and the JSON Schema."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from robharness import Component, ComponentSpec, Encoder, api, discover
from robharness.engine.provenance import outdated_trainings
from robharness.errors import ContractViolation, MissingResource, SuiteError
from robharness.planning import artefacts
from robharness.planning.artefacts import PROVENANCE
from robharness.planning.identity import canonical
from robharness.report import build
from robharness.specs.references import references_in
from robharness.suite import Model, identity_fields, json_schema, load

ASSEMBLER = str(Path(__file__).parent / "assembler.py")
GUEST = """
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from robharness import Component, ComponentSpec, hookimpl


@dataclass(frozen=True, kw_only=True)
class Steep:
    slope: float = 1.0
    inner: Annotated[Component, "stem"] = Component("flat")
    note: str = field(default="", metadata={"runtime": True})

    def __post_init__(self):
        if self.slope <= 0:
            raise ValueError(f"slope={self.slope} must be above 0")


def steep(params, side):
    weights = np.tile(np.linspace(-1, 1, side, dtype=np.float32) * params.slope * params.inner.build(side), side)
    return np.stack([-weights, weights])


@hookimpl
def robharness_components():
    yield ComponentSpec(name="steep", role="stem", summary="A slope", params=Steep, build=steep)
    yield ComponentSpec(name="flat", role="stem", summary="One", build=lambda params, side: 1)
    yield ComponentSpec(name="newer", role="stem", summary="One", build=lambda params, side: 1, revision=2)
"""


@pytest.fixture
def guest(tmp_path):
    path = tmp_path / "guest.py"
    path.write_text(GUEST)
    return path


def suite(**options):
    return {"robharness": 1, "name": "parts", "data": {"name": "assembler/halves", "split": "all"},
            "models": [{"model": "assembler/net", "label": "Net", **options}]}  # fmt: skip


def params(guest, **options):
    return load(suite(**options), discover([ASSEMBLER, str(guest)])).models[0].params


def identity(guest, **options):
    return canonical(identity_fields(params(guest, **options)))


# --- identities ---


@pytest.mark.parametrize(("options", "expected"), [
    ({}, {}),
    ({"stem": "plain"}, {}),
    ({"stem": {"name": "plain"}}, {}),
    ({"stem": {"name": "assembler/plain", "gain": 1.0}}, {}),
    ({"stem": {"gain": 2.0}}, {"stem": {"gain": 2.0}}),
    ({"stem": {"name": "plain", "gain": 2.0}}, {"stem": {"gain": 2.0}}),
    ({"stem": "doubled"}, {"stem": "doubled"}),
    ({"stem": "assembler/doubled"}, {"stem": "doubled"}),
    ({"head": {"kind": "identity"}}, {}),
    ({"head": {"scale": 2.0}}, {"head": {"scale": 2.0}}),
    ({"shape": {}}, {"shape": {"form": "square"}}),
    ({"shape": "square"}, {"shape": {"form": "square"}}),
    ({"shape": {"gain": 2.0}}, {"shape": {"gain": 2.0}}),
    ({"shape": None}, {}),
])  # fmt: skip
def test_components_of_the_models_own_plugin_count_as_written_at_shortest(guest, options, expected):
    assert identity(guest, **options) == expected


def test_foreign_components_count_with_their_options_revision_and_file(guest):
    [digest] = [origin.digest for origin in discover([str(guest)]).origins if origin.namespace == "guest"]
    source = {"source": digest}
    assert identity(guest, stem="guest/steep") == {"stem": {"name": "guest/steep", **source}}
    assert identity(guest, stem={"name": "guest/steep", "slope": 2.0, "note": "x"}) == {
        "stem": {"name": "guest/steep", "params": {"slope": 2.0}, **source}
    }
    inner = {"name": "assembler/doubled", "source": _digest(ASSEMBLER)}
    assert identity(guest, stem={"name": "guest/steep", "inner": "assembler/doubled"}) == {
        "stem": {"name": "guest/steep", "params": {"inner": inner}, **source}
    }
    assert identity(guest, stem="guest/newer") == {"stem": {"name": "guest/newer", "revision": 2, **source}}


def _digest(path):
    return next(origin.digest for origin in discover([path]).origins if origin.location == path)


def test_a_build_gets_options_of_its_own():
    spec = ComponentSpec(name="list", role="stem", summary="s", build=lambda params: params.append(1) or params)
    component = Component("mine/list", spec=spec, params=[])
    assert component.build() == component.build() == [1] and component.params == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfTheModel:
    stem: Component


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfTheProbe:
    encoder: Encoder


def test_references_in_the_options_of_an_encoders_model_are_found():
    options = OfTheModel(stem=Component("guest/steep"))
    inner = Model(entry=None, params=options, label="Inner", reference=False, weights=None)
    outer = OfTheProbe(encoder=Encoder({"model": "guest/net"}, model=inner))
    assert [name for name, _ in references_in(outer)] == ["encoder", "encoder.stem"]


def test_references_are_found_at_any_depth(guest):
    found = {name: str(each) for name, each in references_in(params(guest, stem="guest/steep", shape="square"))}
    assert found == {"stem": "guest/steep", "stem.inner": "flat", "head.kind": "identity", "shape": "square"}


def test_a_failed_training_names_the_plugin_of_its_components(guest, tmp_path):
    guest.write_text(GUEST.replace("return np.stack([-weights, weights])", "raise RuntimeError('a mistake')"))
    results = api.run(suite(stem="guest/steep"), store=tmp_path / "store", plugins=[ASSEMBLER, str(guest)])
    [problem] = build(results).problems
    named = f"guest/steep of {guest}, guest/flat of {guest}"
    assert f"RuntimeError: a mistake; it was trained with {named} ({ASSEMBLER})" in problem
    [row] = artefacts.listing(tmp_path / "store")
    assert (row["label"], row["state"]) == ("Net", "failed")


@dataclasses.dataclass
class Required:
    file: Path


@dataclasses.dataclass
class HoldsAType:
    """A record as a data set's spec is one, which holds the type of its options."""

    kind: type = Required


def test_a_type_in_a_record_has_no_references():
    assert list(references_in(HoldsAType())) == []


def test_a_changed_file_of_a_component_trains_again_and_its_code_is_provenance(guest, tmp_path):
    store, plugins, source = tmp_path / "store", [ASSEMBLER, str(guest)], suite(stem="guest/steep")
    first = api.run(source, store=store, plugins=plugins)
    assert first.is_complete and first.clean("Net").accuracy == 1.0
    [model] = first.plan.models
    trained = json.loads((model.artefact.folder / PROVENANCE).read_text())
    digest = _digest(str(guest))[:12]
    assert trained["components"]["stem"] == {"plugin": str(guest), "source": digest, "stands_on": []}
    [part] = first.clean("Net").provenance
    assert part["model_stem_plugin"] == trained["components"]["stem"] and "model_head_kind_plugin" not in part
    assert api.run(source, store=store, plugins=plugins).plan.models[0].artefact.hash == model.artefact.hash
    guest.write_text(GUEST.replace("np.linspace(-1, 1", "np.linspace(1, -1"))
    again = api.run(source, store=store, plugins=plugins)
    assert again.plan.models[0].artefact.hash != model.artefact.hash
    assert again.clean("Net").accuracy == 0.0


def test_code_of_a_component_that_changed_since_the_training_is_a_finding(guest, tmp_path):
    store, plugins, source = tmp_path / "store", [ASSEMBLER, str(guest)], suite(stem="guest/steep")
    first = api.run(source, store=store, plugins=plugins)
    path = first.plan.models[0].artefact.folder / PROVENANCE
    facts = json.loads(path.read_text())
    for broken in ({"stem": "x"}, "x"):
        path.write_text(json.dumps(facts | {"components": broken}))
        assert not list(outdated_trainings(api.plan(source, store=store, plugins=plugins)))
    facts["components"]["stem"]["source"] = "0123456789ab"  # as of an installed plugin, whose files are no identity
    path.write_text(json.dumps(facts))
    [found] = outdated_trainings(api.plan(source, store=store, plugins=plugins))
    assert found.code == "training-code-changed"
    assert (found.subject, "0123456789ab when Net was trained" in found.message) == (str(guest), True)


def test_files_of_components_count_by_their_content_and_must_exist(guest, tmp_path):
    table = tmp_path / "table.txt"
    options = {"stem": {"table": str(table)}}
    planned = api.plan(suite(**options), store=tmp_path / "store", plugins=[ASSEMBLER])
    assert [type(error) for error in planned.missing] == [MissingResource]
    assert "the file 'table' of assembler/plain" in str(planned.missing[0])
    found = []
    for content in ("1", "2", "1"):
        table.write_text(content)
        found.append(identity(guest, **options)["stem"]["table"])
    assert found[0] == found[2] != found[1] and set(found[0]) == {"sha256"}


# --- errors ---


@pytest.mark.parametrize(("options", "why"), [
    ({"stem": "plian"}, "models.0.stem: no component 'assembler/plian'; did you mean 'assembler/plain'?"),
    ({"stem": "gest/steep"}, "models.0.stem: no component 'gest/steep'; did you mean 'guest/steep'?"),
    ({"stem": {"name": "guest/steeep"}}, "models.0.stem.name: no component 'guest/steeep'; did you mean"),
    ({"stem": "absent/steep"}, "models.0.stem: 'absent/steep' needs a plugin 'absent', which is not there. Try: pip"),
    ({"stem": "identity"}, "models.0.stem: assembler/identity has the role 'head', and the role 'stem' is needed here; "
                           "there are assembler/plain, assembler/doubled, guest/steep"),
    ({"stem": 3}, "models.0.stem: a component is a name, or a mapping such as {name: NAME}; got 3"),
    ({"stem": ""}, "models.0.stem: a component is a name, or a mapping such as {name: NAME}; got ''"),
    ({"stem": {"name": 3}}, "models.0.stem: a component is a name, or a mapping such as {name: NAME}"),
    ({"shape": {"form": 3}}, "models.0.shape: a component is a name, or a mapping such as {form: NAME}"),
    ({"stem": {"gian": 3}}, "models.0.stem.gian: unknown key 'gian'; did you mean 'gain'?"),
    ({"stem": {"nmae": "plain"}}, "models.0.stem.nmae: unknown key 'nmae'; did you mean 'name'?"),
    ({"stem": {"name": "doubled", "gain": 3}}, "models.0.stem.gain: unknown key 'gain'; known: name"),
    ({"stem": {"gain": "x"}}, "models.0.stem.gain: Input should be a valid number; got 'x'"),
    ({"stem": {"name": "guest/steep", "slope": -1.0}}, "models.0.stem: slope=-1.0 must be above 0"),
    ({"stem": {"name": "guest/steep", "inner": "steeep"}}, "models.0.stem.inner: no component 'guest/steeep'; did"),
    ({"head": {"kind": "plain"}}, "models.0.head.kind: assembler/plain has the role 'stem', and the role 'head' is"),
    ({"head": {"kind": {}}}, "models.0.head.kind: missing key 'name'"),
])  # fmt: skip
def test_a_mistake_has_its_place(guest, options, why):
    with pytest.raises(SuiteError) as caught:
        params(guest, **options)
    [error] = [line for line in str(caught.value).splitlines() if "models.0" in line]
    assert why in error


def test_a_component_is_built_of_a_suite_alone(guest):
    assert params(guest, stem="guest/steep").stem.build(8).shape == (2, 64)
    with pytest.raises(ValueError, match="the component plain is not resolved; only a suite resolves it"):
        Component("plain").build(8)


def test_a_file_that_changes_after_the_plan_is_named(guest, tmp_path):
    from robharness.evaluation.unchanged import check_model

    planned = api.plan(suite(stem="guest/steep"), store=tmp_path / "store", plugins=[ASSEMBLER, str(guest)])
    [model] = planned.trained_models
    check_model(model)
    guest.write_text(GUEST + "\n")
    with pytest.raises(
        ContractViolation, match=r"guest\.py, which belongs to its plugin .*changed since the run was planned"
    ):
        check_model(model)


# --- the JSON Schema and the list ---


def test_the_schema_offers_the_components_of_a_role_and_their_options(guest):
    schema = json_schema(discover([ASSEMBLER, str(guest)]))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    right = [{}, {"stem": "plain"}, {"stem": "guest/steep"}, {"stem": {"name": "guest/steep", "slope": 2.0}},
             {"stem": {"gain": 2.0}}, {"shape": None}, {"shape": {"form": "square"}},
             {"shape": {"gain": 1.0}}]  # fmt: skip
    wrong = [{"stem": "identity"}, {"stem": None}, {"stem": {"slope": 2.0}}, {"stem": {"name": "doubled", "gain": 1.0}},
             {"stem": {"name": "guest/steep", "slope": "x"}}, {"shape": {"name": "square"}}]  # fmt: skip
    for options in right:
        params(guest, **options)
        assert validator.is_valid(suite(**options)), options
    for options in wrong:
        assert not validator.is_valid(suite(**options)), options
        with pytest.raises(SuiteError):
            params(guest, **options)
