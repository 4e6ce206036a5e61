"""The identity of a cell: what its key depends on, and what it does not depend on."""

import dataclasses
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robharness import (
    AttackSpec,
    Budget,
    Clips,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    File,
    InputSpec,
    ModelSpec,
    Preprocessing,
    ThreatModel,
    Train,
    discover,
    specs,
)
from robharness.planning.planner import plan
from robharness.suite import Check, Data, Model, Perturbation, Precision, Publication, Suite
from toy_planning import (
    LESSON,
    SPECS,
    TRAIN,
    LessonParams,
    NetParams,
    PgdParams,
    Pixels,
    cells,
    model,
    registry_of,
    suite,
)

# --- golden keys ------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "models": [{"model": "toy/net", "label": "Net", "width": 4}],
    "attacks": [
        {"attack": "toy/fgsm", "eps": "0.25/255"},
        {"attack": "toy/pgd", "eps": ["1/255", "0.5/255"], "norm": "l2", "rel_step": "2.5/40", "nested": True},
        {"attack": "toy/noise", "eps": 0.1},
    ],
    "corruptions": [{"corruption": "toy/fog", "severity": 3}],
    "canvas": 32,
    "count": "robust",
    "seed": 7,
}
DATA = {
    "canvas": 32,
    "fingerprint": "c293da31a660b60dc1568f40b3954a2231eb97cbf66765c979085579dacfa1e5",
    "name": "toy/pixels",
    "order": "sha256(id)",
    "split": "test",
}
NET = {"input": {"shape": [1, 8, 8]}, "labels": "toys", "name": "toy/net", "params": {"width": 4}}
GOLDEN = {
    "clean": (None, "bdea197bcc487f1c883d4dff"),
    "fgsm(linf, 0.25/255)": (
        {"count": "robust", "kind": "attack", "name": "toy/fgsm", "strength": "1/1020"},
        "58650cf13fedeafdecdb1b45",
    ),
    "pgd(l2, 0.5/255, rel_step=2.5/40, nested)": (
        {
            "count": "robust",
            "kind": "attack",
            "name": "toy/pgd",
            "params": {"norm": "l2", "rel_step": "1/16"},
            "seed": 7,
            "strength": "1/510",
        },
        "5b54efba7e2c38a78d720717",
    ),
    "pgd(l2, 1/255, rel_step=2.5/40, nested)": (
        {
            "count": "robust",
            "kind": "attack",
            "name": "toy/pgd",
            "params": {"norm": "l2", "rel_step": "1/16"},
            "seed": 7,
            "smaller": ["1/510"],
            "strength": "1/255",
        },
        "347b1c43841e25427d7b5e8a",
    ),
    "noise(linf, 0.1)": (
        {"block": 16, "count": "robust", "kind": "attack", "name": "toy/noise", "seed": 7, "strength": "1/10"},
        "a0adb75afd700675a42a6f87",
    ),
    "fog(3)": ({"kind": "corruption", "name": "toy/fog", "seed": 7, "strength": 3}, "e8b14f043fdcf45110b89241"),
}


def test_golden_identities_and_keys():
    """Stored results live under these keys: if this fails, everybody's results are computed again.

    Where that is meant (an outcome really changes), write the new values here and say so in CHANGELOG.md.
    """
    found = cells(**EVERYTHING)
    assert list(found) == list(GOLDEN)
    for name, (perturbation, key) in GOLDEN.items():
        identity = {"data": DATA, "model": NET, "precision": "float32"}
        if perturbation is not None:
            identity["perturbation"] = perturbation
        assert found[name].identity == identity
        assert found[name].key == key


def test_golden_recipe():
    """Artefacts lie under these hashes: if this fails, everybody's models are trained again."""
    with_training = suite(models=[{"model": "toy/taught", "label": "Net", "width": 4, "note": "x"}], seed=7)
    artefact = plan(with_training, Path("data"), store=Path("kept")).untrained[0].artefact
    assert artefact.training_spec == {
        "model": "toy/taught",
        "params": {"width": 4},
        "seed": 7,
        "revision": 1,
        "data": {"train": {"name": "toy/lesson", "split": "one", "fingerprint": DATA["fingerprint"]}},
    }
    assert artefact.folder == Path("kept/artefacts/106897e3ae7ca2b629d862b8")


def test_the_smallest_suite_has_the_smallest_identity():
    identity = cells(attacks=[])["clean"].identity
    data = {key: value for key, value in DATA.items() if key != "canvas"}
    net = {key: value for key, value in NET.items() if key != "params"}
    assert identity == {"data": data, "model": net, "precision": "float32"}


def test_a_key_is_a_hash_of_the_canonical_identity():
    for cell in cells(**EVERYTHING).values():
        text = json.dumps(cell.identity, sort_keys=True, separators=(",", ":"))
        assert cell.key == hashlib.sha256(text.encode()).hexdigest()[:24]
        assert json.loads(text) == cell.identity


def test_the_fingerprint_is_of_ids_and_labels_in_their_order():
    pixels = Pixels()
    pairs = sorted(
        zip(pixels.ids, pixels.labels, strict=True), key=lambda pair: hashlib.sha256(pair[0].encode()).digest()
    )
    text = "".join(f"{id}\x1f{label}\x1e" for id, label in pairs)
    assert hashlib.sha256(text.encode()).hexdigest() == DATA["fingerprint"]


# --- the test that makes you decide -----------------------------------------------------------------------------------

DECIDE = """{record} has a new field {name!r}, or lost one. Does another value of it change any example's outcome?
yes: it is identity; enter it below with counts=True. Give it a default that means what was done before, so that stored
     results keep their keys.
no:  mark it `field(..., metadata={{"runtime": True}})` (or keep it out of cells.py) and enter it with counts=False."""

# record -> field -> (another value, whether it counts)
DECIDED: dict[type, dict[str, tuple[Any, bool]]] = {
    ModelSpec: {
        "name": ("other", True),
        "summary": ("other", False),
        "input": (InputSpec(shape=(1, 9, 9)), True),
        "labels": ("others", True),
        "build": (lambda params, weights: 1, False),
        "weights": (File(path=__file__), True),  # by the sha256 of the file
        "preprocessing": (Preprocessing(resize=8), True),
        "params": (PgdParams, False),  # their values count, see below
        "features": ("head", False),
        "trunk": (lambda params, weights: 1, False),
        "given": (lambda params: {"revision": 2}, False),  # the suite reader has put it into the spec by then
        "expected": ({"clean": 1.0}, False),
        "protocol": ("SLF", False),
        "alternatives": ({"other": {}}, False),
        "licence": ("MIT", False),
        "paper": ("other", False),
        "revision": (2, True),
    },
    AttackSpec: {
        "name": ("other", True),
        "summary": ("other", False),
        "access": ("scores", False),
        "params": (NetParams, False),
        "threat": (lambda params: ThreatModel(norm="l2"), False),
        "cost": (lambda params: Cost(), False),
        "build": (lambda params: 1, False),
        "randomness": ("none", True),
        "inputs": (frozenset({"image"}), False),
        "refuses": (lambda params, input: "", False),
        "minimal": (True, False),
        "ensemble": (True, True),  # by its count, which is robust then
        "blocks": (lambda params: True, False),  # the suite reader has called it by then
        "fitted_on": (lambda params: 4, False),  # an option of its params, which count
        "runs_to_end": (lambda params: True, False),
        "alarms": (("count",), False),
        "travel": (lambda params, eps: eps, False),
        "advise": (lambda params, eps: [], False),
        "notes": ({"count": int}, False),
        "revision": (2, True),
    },
    CorruptionSpec: {
        "name": ("other", True),
        "summary": ("other", False),
        "group": ("other", False),
        "build": (lambda params: 1, False),
        "open": (lambda params, root: 1, False),
        "canvas": (16, False),  # the suite's canvas counts, which has to be this
        "smallest": (8, False),
        "channels": (frozenset({3}), False),
        "severities": ((1,), False),
        "params": (NetParams, False),
        "randomness": ("global", True),
        "inputs": (frozenset({"video"}), False),
        "notes": ({"count": int}, False),
        "revision": (2, True),
    },
    DatasetSpec: {
        "name": ("other", True),
        "summary": ("other", False),
        "labels": ("others", False),  # the labels' values are in the fingerprint
        "splits": (("train",), False),
        "open": (lambda root, split: Pixels(turned=True), False),
        "kind": ("video", False),
        "classes": (10, False),
        "params": (LessonParams, False),  # their values count, see below
        "given": (lambda params: {"revision": 2}, False),  # the suite reader has put it into the spec by then
        "masks": ({"some": (0, 1)}, False),  # the classes that `classes` means count
        "examples": ({"test": 5}, False),  # of the opened data, all count
        "licence": ("MIT", False),
        "paper": ("other", False),
        "revision": (2, True),
    },
    Preprocessing: {
        "resize": (7, True),
        "crop": (7, True),
        "interpolation": ("nearest", True),
        "antialias": (False, True),
        "channel_order": ("bgr", True),
        "first": ("crop", True),
        "clips": (Clips(length=2), True),
    },
    Clips: {
        "length": (3, True),
        "stride": (2, True),
        "count": (2, True),
        "margin": (1, True),
        "short": ("loop", True),
        "crops": (3, True),
        "aggregation": ("logits", True),
    },
    InputSpec: {"kind": ("video", True), "shape": ((1, 4, 9, 9), True)},
    Precision: {"judge": ("tf32", True), "gradient": ("bfloat16", True)},
    Data: {
        "entry": ("other", True),
        "params": (LessonParams(count=5), True),
        "split": ("turned", True),
        "classes": ((0, 1, 2, 3), True),
        "limit": (3, False),  # of the data that a suite measures on; that of a training counts
    },
    Model: {
        "entry": ("other", True),
        "params": (NetParams(width=3), True),
        "label": ("other", False),
        "reference": (True, False),
        "weights": (Path(__file__), True),  # by the sha256 of the file
        "inside": ("ema", True),
        "strip": ("module.", True),
        "seed": (1, False),  # of a network that is trained it makes another recipe, see below
        "data": ({"train": "other"}, False),  # the same
        "run_of": ("Net", False),
        "clean_at_least": (90.0, False),
    },
    Train: {
        "data": (lambda params: {"other": LESSON}, True),
        "train": (lambda job: 1, False),
        "base": (lambda params: None, False),  # the hash of its recipe counts, see tests/training
        "inputs": (lambda params: {"file": Path(__file__)}, True),  # by the sha256 of the file
        "features": (lambda params: None, False),  # the encoder is one of the params, and counts there
        "revision": (2, True),
    },
    specs.DataRef: {
        "name": ("toy/exam", True),
        "split": ("two", True),
        "limit": (3, True),
        "options": ({"count": 5}, True),
        "resolved": (None, False),  # follows from the others
    },
    Perturbation: {
        "kind": ("corruption", True),
        "entry": ("other", True),
        "params": (PgdParams(steps=3), True),
        "eps": (Budget("2/255"), True),
        "severity": (2, True),  # of a corruption; an attack has eps
        "nested": ((Budget("0.1/255"), Budget("8/255")), True),  # the smaller ones of them count
        "surrogates": ("other", True),  # by all that counts of their models
        "eight_bit": (True, True),
        "threat": (ThreatModel(norm="l2"), False),  # the options, from which it follows, count
        "depends_on_neighbours": (True, True),  # by the size of a block
        "audit": ("noise", False),  # it is the same attack
        "fitted_on": (4, False),  # an option of its params, which count
        "qualified": (True, False),
    },
    Suite: {
        "path": (Path("other.yaml"), False),
        "working_directory": (Path("other"), False),
        "plugin_options": (("./other.py",), False),
        "has_command": (False, False),
        "name": ("other", False),
        "title": ("other", False),
        "data": ("other", True),
        "canvas": (16, True),
        "models": ("other", True),
        "perturbations": ("other", True),
        "compat": ("imagenet-c", True),
        "baseline": ("Net", False),
        "gap": (("Net", "Other"), False),
        "gain": ({"Net": "Other"}, False),
        "metrics": ((registry_of().metrics["toy/wrong"],), False),
        "count": ("robust", True),
        "precision": (Precision(judge="tf32"), True),
        "compile": (True, True),
        "seed": (1, True),
        "expected": ((Publication(source="other", numbers={"Net": {"clean": 1.0}}),), False),
        "check": (Check(alpha=0.5), False),
        "clusters": ("v_[0-9]+", False),
        "audit": (True, False),  # its attacks are cells of their own
        "audit_attacks": ((), False),  # the same
        "unfit_audit_attacks": ((), False),  # they have no cells
        "settings": (("seed=1",), False),  # by what they change
        "extended": ((Path("base.yaml"),), False),  # the same
    },
}
BASE = suite(
    canvas=224,
    attacks=[{"attack": "toy/pgd", "eps": ["1/255"]}],
    corruptions=[{"corruption": "toy/fog", "severity": 1}],
)


def keys_of(changed):
    """Return the keys of cells, and the hashes of artefacts for cells that wait for a training."""
    planned = plan(changed, Path("data"), store=Path("none"))
    return [cell.key or cell.model.artefact.hash for cell in (*planned.cells, *planned.pending_cells)]


def with_entry(holder, spec):
    return replace(holder, entry=replace(holder.entry, name=f"toy/{spec.name}", spec=spec))


def with_training(train):
    """BASE with a model that is trained in this way."""
    registry = registry_of({**SPECS, "models": [model("taught", params=NetParams, weights=train)]})
    return replace(BASE, models=suite(registry, models=[{"model": "toy/taught", "label": "Net"}]).models)


def changed_suite(record, name, value):
    """BASE, with another value in this field of this record, wherever it stands in the suite."""
    model, attacked, corrupted = BASE.models[0], *BASE.perturbations
    net = model.entry.spec
    if record is ModelSpec:
        return replace(BASE, models=(with_entry(model, replace(net, **{name: value})),))
    if record in (Train, specs.DataRef):
        changes = {"data": lambda params: {"train": replace(LESSON, **{name: value})}}
        train = replace(TRAIN, **({name: value} if record is Train else changes))
        return with_training(train)
    if record is InputSpec:
        shape = {"shape": (1, 4, 9, 9)} if name == "kind" else {"kind": "video"}
        return replace(BASE, models=(with_entry(model, replace(net, input=InputSpec(**shape | {name: value}))),))
    if record is Preprocessing:
        return replace(BASE, models=(with_entry(model, replace(net, preprocessing=Preprocessing(**{name: value}))),))
    if record is Clips:
        clips = Clips(**{"length": 2, name: value})
        return replace(BASE, models=(with_entry(model, replace(net, preprocessing=Preprocessing(clips=clips))),))
    if record is CorruptionSpec and name == "open":
        spec = replace(corrupted.entry.spec, build=None, open=value)
        return replace(BASE, perturbations=(attacked, with_entry(corrupted, spec)))
    if record is AttackSpec:
        spec = replace(attacked.entry.spec, **({"notes": {"count": int}} if name == "alarms" else {}) | {name: value})
        return replace(BASE, perturbations=(with_entry(attacked, spec), corrupted))
    if record is CorruptionSpec:
        spec = replace(corrupted.entry.spec, **{name: value})
        return replace(BASE, perturbations=(attacked, with_entry(corrupted, spec)))
    if record is DatasetSpec:
        takes_params = {"open": lambda params, root, split: Pixels()} if name == "params" else {}
        return replace(BASE, data=with_entry(BASE.data, replace(BASE.data.entry.spec, **takes_params, **{name: value})))
    if record is Data and name == "entry":
        return replace(BASE, data=with_entry(BASE.data, replace(BASE.data.entry.spec, name="other")))
    if record is Data:
        return replace(BASE, data=replace(BASE.data, **{name: value}))
    if record is Precision:
        return replace(BASE, precision=replace(BASE.precision, **{name: value}))
    if record is Model and name == "entry":
        return replace(BASE, models=(with_entry(model, replace(net, name="other")),))
    if record is Model:
        return replace(BASE, models=(replace(model, **{name: value}),))
    if record is Perturbation and name == "surrogates":
        return replace(BASE, perturbations=(replace(attacked, surrogates=(model,)), corrupted))
    if record is Perturbation and name == "severity":
        return replace(BASE, perturbations=(attacked, replace(corrupted, severity=value)))
    if record is Perturbation and name != "entry":
        return replace(BASE, perturbations=(replace(attacked, **{name: value}), corrupted))
    if record is Perturbation:
        return replace(BASE, perturbations=(replace(attacked, entry=corrupted.entry, kind="corruption"), corrupted))
    if name == "data":
        return replace(BASE, data=replace(BASE.data, split="turned"))
    if name == "models":
        return replace(BASE, models=(replace(model, params=NetParams(width=3)),))
    if name == "perturbations":
        return replace(BASE, perturbations=(attacked, replace(corrupted, severity=2)))
    return replace(BASE, **{name: value})


@pytest.mark.parametrize("record", DECIDED, ids=lambda record: record.__name__)
def test_every_field_is_declared_as_identity_or_not(record):
    fields = {item.name for item in dataclasses.fields(record)}
    for name in fields ^ set(DECIDED[record]):
        pytest.fail(DECIDE.format(record=record.__name__, name=name))


# what to compare with, for records that have no place in BASE
PLAIN = {
    InputSpec: changed_suite(InputSpec, "shape", (1, 4, 8, 8)),
    Preprocessing: changed_suite(ModelSpec, "preprocessing", Preprocessing()),
    Clips: changed_suite(ModelSpec, "preprocessing", Preprocessing(clips=Clips(length=2))),
    Train: with_training(TRAIN),
    specs.DataRef: with_training(TRAIN),
}


@pytest.mark.parametrize(
    ("record", "name"),
    [(record, name) for record, names in DECIDED.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_identity_fields_change_the_key_and_other_fields_do_not(record, name):
    value, counts = DECIDED[record][name]
    before, after = keys_of(PLAIN.get(record, BASE)), keys_of(changed_suite(record, name, value))
    assert len(before) == len(after) == 3
    assert (before != after) is counts
    if (
        record in (AttackSpec, CorruptionSpec, Perturbation)
        or (record is Suite and name in ("count", "seed"))
        or name == "gradient"
    ):
        assert before[0] == after[0]  # the clean cell is as it was


# --- more of what counts and what does not ----------------------------------------------------------------------------


def key(changes=None, name="pgd(linf, 1/255)", **options):
    """The key of one cell of the base suite with these changes."""
    found = {cell.short_name: cell for cell in plan(suite(**changes or {}), Path("data"), **options).cells}
    return found[name].key


def test_budgets_count_by_value():
    written = {"attacks": [{"attack": "toy/pgd", "eps": "2/510", "steps": 10}]}
    assert key(written, "pgd(linf, 2/510)") == key()
    steps = [{"attacks": [{"attack": "toy/pgd", "eps": "1/255", "rel_step": text}]} for text in ("2.5/10", 0.25)]
    assert key(steps[0], "pgd(linf, 1/255, rel_step=2.5/10)") == key(steps[1], "pgd(linf, 1/255, rel_step=0.25)")


def test_limits_labels_and_notes_do_not_count():
    same = [
        {"models": [{"model": "toy/net", "label": "Other", "reference": True, "note": "x", "width": 8}]},
        {"attacks": [{"attack": "toy/pgd", "eps": "1/255", "note": "x", "restarts": 1}]},
        {"data": {"name": "toy/pixels", "split": "test", "limit": 5}},
    ]
    assert {key(changes) for changes in same} == {key()} == {key(limit=3)}


def test_params_count_where_they_differ_from_their_default():
    assert key({"models": [{"model": "toy/net", "width": 9}]}) != key()
    other = {"attacks": [{"attack": "toy/pgd", "eps": "1/255", "restarts": 2}]}
    assert key(other, "pgd(linf, 1/255, restarts=2)") != key()


def test_the_seed_counts_only_where_something_is_drawn():
    def some(seed):
        return cells(
            attacks=[{"attack": f"toy/{name}", "eps": 1} for name in ("fgsm", "pgd", "noise")],
            corruptions=[{"corruption": "toy/*", "severity": 1}],
            seed=seed,
        )

    zero, one = some(0), some(1)
    changed = {name for name in zero if zero[name].key != one[name].key}
    assert changed == {"pgd(linf, 1)", "noise(linf, 1)", "fog(1)"}


def test_counting_robust_examples_matters_for_attacks_alone():
    changes = {"corruptions": [{"corruption": "toy/fog", "severity": 1}]}
    everything, robust = cells(**changes), cells(count="robust", **changes)
    assert {name for name in robust if robust[name].key != everything[name].key} == {"pgd(linf, 1/255)"}
    assert [cell.count for cell in robust.values()] == ["all", "robust", "all"]


def test_the_smallest_budget_of_a_nested_attack_is_the_plain_one():
    plain = cells(attacks=[{"attack": "toy/pgd", "eps": ["1/255", "2/255"]}])
    nested = cells(attacks=[{"attack": "toy/pgd", "eps": ["2/255", "1/255"], "nested": True}])
    assert nested["pgd(linf, 1/255, nested)"].key == plain["pgd(linf, 1/255)"].key
    assert nested["pgd(linf, 2/255, nested)"].key != plain["pgd(linf, 2/255)"].key
    three = cells(attacks=[{"attack": "toy/pgd", "eps": ["2/255", "1/255", "1.5/255"], "nested": True}])
    assert three["pgd(linf, 2/255, nested)"].identity["perturbation"]["smaller"] == ["1/255", "1/170"]
    assert three["pgd(linf, 2/255, nested)"].key != nested["pgd(linf, 2/255, nested)"].key


def test_the_revision_of_a_training_may_depend_on_options():
    """A revision that an option does not change leaves trained weights as they are."""

    def keys(revision):
        return keys_of(with_training(replace(TRAIN, revision=revision)))

    assert keys(lambda params: 1) == keys(1) == keys_of(with_training(TRAIN))
    assert keys(lambda params: 2 if params.width == 8 else 1) == keys(2) != keys(1)
    for wrong in ("2", None, True, 2.0):
        planned = plan(with_training(replace(TRAIN, revision=lambda params, wrong=wrong: wrong)), Path("data"))
        assert f"its function `revision` returned {wrong!r}, not an integer" in str(planned.missing[0])
    with pytest.raises(ValueError, match=r"revision=2\.5 must be an integer, a function or 'module:function'"):
        replace(TRAIN, revision=2.5)


def test_the_bytes_of_a_loose_file_count(tmp_path):
    def keys(text):
        file = tmp_path / "loose.py"
        file.write_text(text)
        registry = discover([str(file)])
        keys = {
            "data": {"name": "loose/d", "split": "test"},
            "models": [{"model": "loose/m"}],
            "attacks": [{"attack": "loose/a", "eps": 1}],
        }
        planned = plan(suite(registry, **keys), Path("data"))
        for cell in planned.cells:
            digest = hashlib.sha256(text.encode()).hexdigest()
            assert all(part["source"] == digest for part in cell.identity.values() if isinstance(part, dict))
        return {cell.key for cell in planned.cells}

    one, two = keys(LOOSE), keys(LOOSE + "\n# another file\n")
    assert len(one) == len(two) == 2
    assert not one & two
    assert keys(LOOSE) == one


LOOSE = """
from dataclasses import dataclass
from robharness import AttackSpec, Cost, DatasetSpec, InputSpec, ModelSpec, ThreatModel, hookimpl

@dataclass(frozen=True)
class Params:
    pass

class Data:
    ids, labels = ["a"], [0]

@hookimpl
def robharness_models():
    yield ModelSpec(name="m", summary="", input=InputSpec(shape=(1, 8, 8)), labels="x", build=lambda p, w: None)

@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="d", summary="", labels="x", splits=("test",), open=lambda root, split: Data())

@hookimpl
def robharness_attacks():
    yield AttackSpec(name="a", summary="", access="decision", params=Params, threat=lambda p: ThreatModel(norm="l2"),
                     cost=lambda p: Cost(), build=lambda p: None)
"""


def test_weights_count_by_their_bytes_and_not_by_their_place(tmp_path):
    def key_with(path, text):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return key({"models": [{"model": "toy/net", "weights": str(path)}]}, "clean")

    one = key_with(tmp_path / "a" / "net.pt", "one")
    assert key_with(tmp_path / "b" / "other.pt", "one") == one
    assert key_with(tmp_path / "a" / "net.pt", "two") != one
    assert key(name="clean") != one
