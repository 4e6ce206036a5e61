"""Data sets with options, and options of plugins that are data: read from suites, resolved, part of identities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from robharness import DataRef, DatasetSpec, MissingResource, Train
from robharness.errors import SuiteError
from robharness.planning.planner import plan
from robharness.suite import load
from toy_planning import SPECS, LessonParams, Pixels, model, registry_of, suite

ONE = DataRef(name="toy/lesson", split="one")


@dataclass(frozen=True, kw_only=True)
class TaughtParams:
    data: DataRef = ONE
    note: str = ""


TAUGHT = model("pupil", params=TaughtParams, weights=Train(data=lambda p: {"train": p.data}, train=lambda job: None))
REGISTRY = registry_of({**SPECS, "models": [*SPECS["models"], TAUGHT]})


def errors(**changes):
    with pytest.raises(SuiteError) as caught:
        suite(REGISTRY, **changes)
    return [error.partition(": ")[2] for error in caught.value.errors]


def pupil(data):
    """The planned model of a suite whose training has these data."""
    taught = suite(REGISTRY, models=[{"model": "toy/pupil", "label": "P", **({} if data is None else {"data": data})}])
    [cell, *_] = plan(taught, Path("data"), store=Path("none")).pending_cells
    return cell.model


# --- data of a suite --------------------------------------------------------------------------------------------------


def test_options_of_a_data_set_are_checked_and_reach_its_open():
    chosen = suite(data={"name": "toy/lesson", "split": "two", "count": 5})
    assert chosen.data.params == LessonParams(count=5)
    assert plan(chosen, Path("data")).data.dataset.ids == tuple(f"pixel-{i}" for i in range(5))
    assert errors(data={"name": "toy/lesson", "split": "two", "cuont": 5}) == [
        "data.cuont: unknown key 'cuont'; did you mean 'count'?"
    ]
    assert errors(data={"name": "toy/lesson", "split": "two", "count": "5"}) == [
        "data.count: Input should be a valid integer; got '5'"
    ]


def test_options_may_change_the_label_space():
    [error] = errors(data={"name": "toy/lesson", "split": "one", "space": "others"})
    assert error.startswith("models.0.model: toy/net has labels 'toys', toy/lesson has 'others'")


@pytest.mark.parametrize(
    ("data", "split"),
    [("toy/exam", "one"), ({"name": "toy/exam"}, "one"), ({"name": "toy/lesson", "split": "two"}, "two")],
)
def test_a_split_is_needed_only_where_there_are_several(data, split):
    planned = plan(suite(data=data), Path("data"))
    assert planned.data.split == split
    assert planned.data.name.endswith(f"/{split}")
    name = data if isinstance(data, str) else data["name"]
    written = plan(suite(data={"name": name, "split": split}), Path("data"))
    assert [cell.key for cell in planned.cells] == [cell.key for cell in written.cells]


@pytest.mark.parametrize("data", ["toy/lesson", {"name": "toy/lesson"}])
def test_a_missing_split_is_an_error_that_names_all(data):
    assert errors(data=data) == ["data: missing key 'split'; toy/lesson has one, two"]


def test_files_of_a_data_set_count_by_content_and_are_named_if_missing(tmp_path):
    def planned():
        given = {"name": "toy/lesson", "split": "one", "file": "list.txt"}
        (tmp_path / "suite.yaml").write_text(f"robharness: 1\nname: x\ndata: {given}\nmodels: [{{model: toy/net}}]\n")
        return plan(load(tmp_path / "suite.yaml", REGISTRY), Path("data"))

    [missing] = planned().missing
    assert isinstance(missing, MissingResource)
    assert str(tmp_path / "list.txt") in str(missing)
    keys = []
    for content in ("a", "b", "a"):
        (tmp_path / "list.txt").write_text(content)
        keys.append(planned().cells[0].key)
    assert keys[0] == keys[2] != keys[1]


# --- options of plugins that are data ---------------------------------------------------------------------------------


def test_data_of_a_training_are_a_text_or_a_mapping():
    written = pupil({"name": "toy/lesson", "split": "one"})
    assert pupil(None).artefact.hash == written.artefact.hash
    named = pupil("toy/exam").ref.params.data
    assert (named.name, named.split, named.labels, named.classes, named.kind) == (
        "toy/exam", "one", "toys", None, "image",
    )  # fmt: skip
    assert pupil({"name": "toy/lesson", "split": "one", "count": 5}).artefact.hash != written.artefact.hash


def test_a_limit_of_a_training_is_a_prefix_of_the_fixed_order():
    whole, some = (pupil({"name": "toy/lesson", "split": "one", **limit}) for limit in ({}, {"limit": 4}))
    data = {label: model.artefact.datasets["train"] for label, model in (("whole", whole), ("some", some))}
    assert set(data["some"].ids) == {data["whole"].ids[index] for index in data["whole"].order[:4]}
    labels = dict(zip(data["whole"].ids, data["whole"].labels, strict=True))
    assert [labels[id] for id in data["some"].ids] == list(data["some"].labels)
    assert whole.artefact.hash != some.artefact.hash


def test_a_training_takes_the_split_train():
    splits = ("fit", "train"), ("fit", "check"), ()
    sets = [
        DatasetSpec(name=f"set{n}", summary="s", labels="toys", splits=names, open=lambda root, split: Pixels())
        for n, names in enumerate(splits)
    ]
    registry = registry_of({**SPECS, "models": [TAUGHT], "datasets": [*SPECS["datasets"], *sets]})
    [found] = suite(registry, models=[{"model": "toy/pupil", "data": "toy/set0"}]).models
    assert found.params.data.split == found.data["train"].split == "train"
    [free] = suite(registry, models=[{"model": "toy/pupil", "data": "toy/set2"}]).models
    assert free.data["train"].split == "train"  # any name may be one, e.g. that of a folder
    with pytest.raises(SuiteError, match="missing key 'split'"):
        suite(registry, data={"name": "toy/set2"})
    with pytest.raises(SuiteError, match="missing key 'split'; toy/set1 has fit, check"):
        suite(registry, models=[{"model": "toy/pupil", "data": "toy/set1"}])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("toy/lessn", "models.0.data: 'toy/lessn' needs a plugin 'toy', which is not there"),
        ({"name": "toy/exam", "split": "on"}, "models.0.data.split: toy/exam has no split 'on'; it has one"),
        ({"name": "toy/exam", "limit": 0}, "models.0.data: DataRef: limit=0 must be a whole number of at least 1"),
        ({"name": "toy/exam", "classes": [0, 1]}, "models.0.data.classes: unknown key 'classes'"),
        ({"name": "toy/lesson", "split": "one", "cuont": 1}, "models.0.data.cuont: unknown key 'cuont'"),
        (5, "models.0.data: data are the name of a data set, or a mapping such as {name: NAME}; got 5"),
    ],
)
def test_wrong_data_of_an_option_are_named_with_their_place(data, sentence):
    [error] = errors(models=[{"model": "toy/pupil", "data": data}])
    assert error.startswith(sentence)


def test_plain_references_are_not_resolved():
    ref = DataRef(name="toy/exam", split="one")
    assert str(ref) == "toy/exam/one"
    assert replace(ref, limit=3) != ref
    with pytest.raises(ValueError, match="the data toy/exam are not resolved; only a suite resolves them"):
        _ = ref.labels
