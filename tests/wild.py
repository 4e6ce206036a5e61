"""A plugin for `test_plugin_calls.py`, loaded with `-p tests/wild.py`: one place of it misbehaves.

$WILD: "PLACE:HOW". At that place the plugin raises what `ENDS` has for HOW; "wrong" returns a value of another type,
and "ctrl-c" is the user's Ctrl-C at that moment. All other places are fine.
"""

import asyncio
import os
import signal
from dataclasses import dataclass, field

import click
import numpy as np

from robharness import (
    AttackSpec,
    CorruptionSpec,
    Cost,
    DataRef,
    DatasetSpec,
    InputSpec,
    MetricSpec,
    ModelSpec,
    ThreatModel,
    Train,
    hookimpl,
)


class Mute(Exception):
    def __str__(self):
        raise SystemExit(0)


ENDS = {
    "exit": lambda: SystemExit(0),
    "cancelled": asyncio.CancelledError,
    "interrupt": KeyboardInterrupt,
    "mute": Mute,
    "generator": GeneratorExit,
    "error": lambda: ValueError("as many plugins raise"),
}


class Strange:
    """No value that any place expects; not even its text can be had."""

    def __repr__(self):
        raise SystemExit(0)


def act(place, right=None):
    """Return the right value, unless $WILD says otherwise for this place."""
    wanted, _, how = os.environ.get("WILD", "").partition(":")
    if wanted != place:
        return right
    if how == "wrong":
        return 7
    if how == "strange":
        return Strange()
    if how == "ctrl-c":
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("Ctrl-C did not come")
    raise ENDS[how]()


act("import")


class Pixels:
    def __init__(self, root, split):
        act("open")
        self.ids = [f"{split}-{index}" for index in range(4)]
        self.labels = [0, 1, 2, 0]

    @property
    def remarks(self):
        return act("remarks", ["four examples"])

    def read(self, index):
        act("read")
        return np.full((8, 8, 1), 60 * index, np.uint8)


def open_pixels(root, split):
    return act("opened", Pixels(root, split))


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="pixels", summary="Four images", labels="toys", splits=("test",), open=open_pixels)


@dataclass(frozen=True, kw_only=True)
class Options:
    values: list[int] = field(default_factory=lambda: [1, 2])

    def __post_init__(self):
        act("options")


@dataclass(frozen=True, kw_only=True)
class Unequal:
    """Options whose text, comparison and schema are code of the plugin."""

    shade: str = "dark"

    def __eq__(self, other):
        act("compared")
        return other.shade == self.shade

    def __getattribute__(self, name):
        if name == "shade":
            act("shown")
        return object.__getattribute__(self, name)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema, handler):
        return act("schema", handler(core_schema))

    __hash__ = None


def spoiled(params):
    """Write into the options, as a plugin by mistake does; they reach no other call."""
    params.values.append(9)
    object.__setattr__(params, "values", None)


def build(params, weights):
    import torch

    spoiled(params)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.utils.skip_init(torch.nn.Linear, 64, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((torch.arange(parameter.numel()) % 3 - 1).view_as(parameter) / 8)
    return net


def train(job):
    import torch
    from safetensors.torch import save_file

    spoiled(job.params)
    job.datasets.clear()
    if job.seed == 0:
        act("train")
    save_file({"x": torch.zeros(1)}, job.folder / "weights.safetensors")


@hookimpl
def robharness_models():
    act("hook")
    common = {"input": InputSpec(shape=(1, 8, 8)), "labels": "toys", "build": build}
    yield ModelSpec(
        name="net",
        summary="Linear",
        params=Options,
        given=lambda params: spoiled(params) or act("given", {"revision": 2}),
        **common,
    )
    yield ModelSpec(
        name="trained",
        summary="Trained",
        params=Options,
        weights=Train(
            data=lambda params: spoiled(params) or act("data", {"train": DataRef(name="wild/pixels", split="test")}),
            base=lambda params: spoiled(params) or act("base"),
            revision=lambda params: spoiled(params) or act("revision", 1),
            inputs=lambda params: spoiled(params) or act("inputs", {}),
            train=train,
        ),
        **common,
    )
    yield from act("yielded", ())


class Step:
    def perturb(self, model, batch, eps, rng):
        return batch.x


@hookimpl
def robharness_attacks():
    yield AttackSpec(
        name="step",
        summary="Nothing",
        access="decision",
        params=Options,
        threat=lambda params: spoiled(params) or act("threat", ThreatModel(norm="linf")),
        cost=lambda params: spoiled(params) or act("cost", Cost()),
        build=lambda params: spoiled(params) or Step(),
        blocks=lambda params: spoiled(params) or act("blocks", False),
        advise=lambda params, eps: spoiled(params) or act("advise", ["think twice"]),
        randomness="none",
    )


class Dark:
    def perturb(self, model, batch, severity, rng):
        return batch.canvas // 2


@hookimpl
def robharness_corruptions():
    common = {"summary": "Darker", "group": "light", "randomness": "none", "params": Unequal, "severities": (1,)}
    yield CorruptionSpec(name="dark", build=lambda params: act("built", Dark()), **common)
    yield CorruptionSpec(name="stored", open=lambda params, root: act("stored", Dark()), **common)


def compute(results):
    for cell in results.cells:  # what is written here reaches nobody else
        cell.correct[:] = True
        cell.columns["prediction"][:] = 0
        cell.positions[:] = -1
        for provenance in cell.provenance:
            provenance.clear()
    return act("metric", dict.fromkeys(results.labels, 0.5))


@hookimpl
def robharness_metrics():
    yield MetricSpec(name="metric", summary="A half", compute=compute)


@hookimpl
def robharness_run_finished(results):
    compute(results)
    act("observer")


@hookimpl
def robharness_figures(results, folder):
    compute(results)
    (folder / "first.svg").write_text("<svg/>")
    yield folder / "first.svg"
    yield from act("figures", ())
    yield act("figure", folder / "first.svg")


class Renderer:
    name = "wild"
    suffix = ".wild"

    def render(self, report):
        report.metrics.clear()
        return act("renderer", "rendered")


@hookimpl
def robharness_renderers():
    yield Renderer()


class Executor:
    name, can_respawn, needs_request = "wild", False, False

    def __init__(self):
        from robharness.engine.executors.inprocess import InProcessExecutor

        act("executor")
        self.inner = InProcessExecutor()

    def spawn(self, plan, store, config):
        act("spawn")
        worker = self.inner.spawn(plan, store, config)
        close = worker.close
        worker.close = lambda: (close(), act("close"))
        return worker

    def wait(self, workers):
        yield from self.inner.wait(workers)
        yield from act("wait", ())


@hookimpl
def robharness_executors():
    yield "executor", Executor


@hookimpl
def robharness_commands():
    @click.command("wild")
    def wild():
        return act("command", 0)

    yield wild
