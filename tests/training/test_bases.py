"""Trainings that several models start from."""

import pytest

from robharness import api
from robharness.planning import artefacts
from robharness.store import Store
from robharness.training import train
from toy_training import LEARNER, PLUGINS, suite

BASED = """
import runpy
from dataclasses import dataclass, replace
from robharness import DataRef, InputSpec, ModelSpec, Train, hookimpl

learner = runpy.run_path({learner!r})

@dataclass(frozen=True, kw_only=True)
class Params(learner["Params"]):
    more: int | None = 2

def base(params):
    return replace(params, more=None) if params.more is not None else None

def train(job):
    from pathlib import Path
    from safetensors.torch import load_file, save_file
    with Path({log!r}).open("a") as log:
        log.write(f"{{job.params.more}} {{job.seed}} {{job.base and job.base.name}}\\n")
    if job.params.what == "raises" and job.base is None:
        raise ZeroDivisionError("the base has nothing")
    if job.base is None:
        return learner["train"](job)
    state = load_file(job.base / "weights.safetensors")
    state["3.bias"] = state["3.bias"] + job.params.more
    save_file(state, job.folder / "weights.safetensors")

@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="Starts from another", params=Params, labels="shades",
                    input=InputSpec(shape=(1, 8, 8)), build=learner["build"], weights=Train(
                        data=lambda params: {{"train": DataRef(name="learner/shades", split="train")}},
                        train=train, base=base))
"""


@pytest.fixture
def based(tmp_path):
    """A plugin whose models start from a training that they share, and a log of what was trained."""
    log, plugin = tmp_path / "log", tmp_path / "based.py"
    plugin.write_text(BASED.format(learner=LEARNER, log=str(log)))
    return [*PLUGINS, str(plugin)], log


def test_a_shared_base_is_trained_once(based, store):
    plugins, log = based
    models = [{"model": "based/net", "label": f"More {more}", "more": more, "epochs": 2} for more in (2, 3)]
    found = api.run(suite(*models), store=store, plugins=plugins)
    assert found.is_complete
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == ["None", "2", "3"]
    assert lines[0][2] == "None" and lines[1][2] == lines[2][2]
    rows = {row["name"]: row for row in artefacts.listing(store)}
    assert len(rows) == 3 and lines[1][2] in rows
    recipes = [artefacts.read(store / "artefacts" / name / "recipe.json") for name in rows]
    assert sorted(recipe.get("base", "") for recipe in recipes) == ["", lines[1][2], lines[1][2]]
    again = api.run(suite(*models), store=store, plugins=plugins)
    assert again.is_complete and len(log.read_text().splitlines()) == 3
    with_seed = [model | {"seed": 5} for model in models[:1]]
    api.run(suite(*with_seed), store=store, plugins=plugins)
    assert len(log.read_text().splitlines()) == 5  # another seed is another base


def test_a_failing_base_fails_the_models_that_start_from_it(based, store):
    plugins, _ = based
    found = train.train_models(
        plan_with(suite({"model": "based/net", "label": "Net", "what": "raises"}), store, plugins),
        Store(store),
        Quiet(),
    )
    assert "ZeroDivisionError: the base has nothing" in found[0].error


def plan_with(source, store, plugins):
    return api.plan(source, store=store, plugins=plugins)


class Quiet:
    def trained(self, label, progress): ...

    def message(self, message): ...

    def finished(self): ...
