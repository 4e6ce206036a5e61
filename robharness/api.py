"""The verbs as Python functions: plan, train, run, load."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness import cells, results, suite
from robharness.cells import DEFAULT_STORE, Plan, Recipe
from robharness.errors import Interrupted, UserError
from robharness.plugins import Registry, Source, discover
from robharness.specs import InputSpec, ModelSpec
from robharness.store import Store

if TYPE_CHECKING:
    from torch import nn

    from robharness import training
    from robharness.engine import Listener
    from robharness.results import Results
    from robharness.training import Trained

Suite = str | Path | Mapping[str, Any]


def data_root(given: str | Path | None = None) -> Path:
    """Where data and weights are looked for: as given, or $ROBHARNESS_DATA, or ./data."""
    return Path(given or os.environ.get("ROBHARNESS_DATA") or "data").expanduser()


def plan(
    source: Suite,
    *,
    store: str | Path = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    models: Mapping[str, nn.Module | ModelSpec] | None = None,
    registry: Registry | None = None,
) -> Plan:
    """The cells that a suite asks for; computes nothing.

    source: a YAML file, or its content as a mapping. store: where models that a suite trains are. data: the data root.
    limit: examples, a prefix of one fixed order. plugins: values of `-p`. models: live networks to add to the suite's
    models, by label. A network takes the input of the suite's first model, or else that of the data; give a ModelSpec
    where that does not fit.
    Raises SuiteError for a suite that is wrong. What is not on this machine stands in `plan.missing`.
    """
    registry = registry or discover(plugins)
    loaded = suite.load(source, registry, models_follow=bool(models))
    if models:
        live = tuple(_live(label, model, loaded, registry, data_root(data)) for label, model in models.items())
        taken = sorted({model.label for model in loaded.models} & set(models))
        if taken:
            raise UserError(f"the suite has a model with the label '{taken[0]}' already; give the live one another")
        loaded = dataclasses.replace(loaded, models=loaded.models + live)
        lacks = [why for metric in loaded.metrics for model in live if (why := suite.unrepresented(metric, model))]
        if lacks:
            raise UserError(f"{lacks[0]}; give a ModelSpec with `features` instead of a network")
    planned = cells.plan(loaded, data_root(data), limit, Path(store))
    recipe = Recipe(source=source, data_root=data_root(data), limit=limit, options=registry.options)
    return planned if models else dataclasses.replace(planned, recipe=recipe)


def run(
    source: Suite,
    *,
    store: str | Path = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    models: Mapping[str, nn.Module | ModelSpec] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
    shard: tuple[int, int] | None = None,
    batch_size: int | None = None,
    listener: Listener | None = None,
) -> Results:
    """Train what is missing, compute what the store misses of a suite, and load all of it. The other parameters are
    those of `plan`.

    store: the folder of results. device: as torch names them, several with commas between. workers: other processes
    that compute; none by default, or one per device if there are several. threads: of the CPU, per process. shard:
    (i, k), only the i-th of k parts of the examples, from 1. batch_size: examples per pass.
    Raises Missing before any computation where data or weights are not there. Failed cells are in the results, and so
    are those that wait for a training that failed, in `results.plan.waiting`.
    """
    from robharness import engine, training

    registry = discover(plugins)
    planned = plan(source, store=store, data=data, limit=limit, models=models, registry=registry)
    require(planned)
    devices = check_devices(device)
    kept = Store(Path(store))
    if planned.waiting:
        if shard:
            raise training.untrained(planned)
        _trained(planned, kept, listener, devices[0], threads)
        planned = planned.again()
        require(planned)
    asked = planned.shard(*shard) if shard else planned
    how: Any = {"devices": devices, "workers": workers, "threads": threads, "batch_size": batch_size}
    summary = engine.run(asked, kept, listener or Silent(), **how)
    if summary.interrupted:
        raise KeyboardInterrupt(f"what is whole is stored in {store}; the same call goes on")
    found = results.load(planned, kept)
    observe(found, registry)
    return found


def train(
    source: Suite,
    *,
    store: str | Path = DEFAULT_STORE,
    data: str | Path | None = None,
    plugins: Sequence[str] = (),
    device: str = "cpu",
    threads: int | None = None,
    listener: training.Listener | None = None,
) -> list[Trained]:
    """Train the models of a suite that are not there yet, and compute nothing; one record per model that is trained.

    The parameters are those of `run`. A training that fails is in the records, with its error.
    """
    planned = plan(source, store=store, data=data, plugins=plugins)
    require(planned)
    return _trained(planned, Store(Path(store)), listener, check_devices(device)[0], threads)


def _trained(planned: Plan, store: Store, listener: Any, device: str, threads: int | None) -> list[Trained]:
    from robharness import training

    try:
        return training.train(planned, store, listener or Silent(), device=device, threads=threads)
    except Interrupted as error:
        raise KeyboardInterrupt(f"{error}; the same call goes on") from None


def load(
    source: Suite,
    *,
    store: str | Path = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    registry: Registry | None = None,
) -> Results:
    """The stored results of a suite, complete or not; computes nothing. The parameters are those of `run`."""
    planned = plan(source, store=store, data=data, limit=limit, plugins=plugins, registry=registry)
    require(planned)
    return results.load(planned, Store(Path(store)))


def require(planned: Plan) -> None:
    """Raises UserError with all that is missing, before any computation."""
    if len(planned.missing) == 1:
        raise planned.missing[0]
    if planned.missing:
        lines = [f"{len(planned.missing)} things are not there:", *(f"  {missing}" for missing in planned.missing)]
        raise UserError("\n".join(lines))


def check_devices(wanted: str) -> list[str]:
    """The devices, given with commas between. Raises UserError for one that torch does not have here.

    A plain "cuda" is the process's own where torchrun or srun started several on a machine.
    """
    devices = [device.strip() for device in wanted.split(",") if device.strip()] or ["cpu"]
    checked = []
    for device in devices:
        if device != "cpu":  # checking that would import torch, which a run in other processes does not need
            import torch

            try:
                if (found := torch.device(device)).type == "cuda" and torch.cuda.is_available():
                    there = torch.cuda.device_count()  # without a context on it, which would cost its memory
                    device = local_cuda(there) if found.index is None else device
                    if (found.index or 0) >= there:
                        raise RuntimeError(f"there are {there} here, counted from 0")
                else:
                    torch.empty(0, device=found)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"--device {device}: {reason}. Try: --device cpu") from None
        checked.append(device)
    return checked


def local_cuda(there: int) -> str:
    """The GPU of this process, of so many on the machine, as torchrun or srun count their processes."""
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or ""
    return f"cuda:{int(local) % there}" if local.isdigit() and there > 1 else "cuda"


def observe(found: Results, registry: Registry) -> list[str]:
    """Show the results to every plugin that asked; what goes wrong in one is a sentence, returned."""
    warnings = []
    for source, observer in registry.observers:
        try:
            observer(results=found)
        except Exception as error:  # an observer may raise anything; the run is done and its results are good
            warnings.append(f"robharness_run_finished of {source}: {type(error).__name__}: {error}")
    return warnings


def paint(found: Results, registry: Registry, folder: Path) -> tuple[list[Path], list[str]]:
    """Let every plugin that draws pictures draw the results into a folder, which is made; the files, and warnings.

    Raises UserError where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}. See: ls -ld {folder.parent}") from None
    written: list[Path] = []
    warnings = []
    for source, painter in registry.painters:
        try:
            for paths in painter(results=found, folder=folder):
                written.extend(paths)  # those before an error stay
        except Exception as error:  # as above
            warnings.append(f"robharness_pictures of {source}: {type(error).__name__}: {error}")
    return written, warnings


def _live(label: str, model: nn.Module | ModelSpec, loaded: suite.Suite, registry: Registry, root: Path) -> suite.Model:
    """A network that lives in this process as a model of the suite; the hash of its state is its identity."""
    from robharness.checkpoints import state_digest

    if isinstance(model, ModelSpec):
        built = model.build(None, None) if model.weights is None else None  # nothing else tells it from another
        spec, digest = model, state_digest(built) if built is not None else None
    else:
        first = loaded.models[0].entry.spec if loaded.models else None
        spec = ModelSpec(
            name="network",
            summary=f"a live {type(model).__name__}",
            input=first.input if first else _input_of_data(loaded, root),
            preprocessing=first.preprocessing if first else None,
            labels=loaded.dataset.spec.labels,
            build=lambda params, weights: copy.deepcopy(model),  # ours is frozen, the caller's goes on training
        )
        digest = f"{state_digest(model)} {model!r}"
    source = Source(namespace=f"live.{label}", distribution="a live network", digest=digest)
    entry = registry.add("models", spec, source)
    found = suite.Model(entry=entry, params=None, label=label, reference=False, weights=None)
    if not found.is_trained:
        return found
    return dataclasses.replace(found, seed=loaded.seed, data=suite.trained_on(entry, None, registry))


def _input_of_data(loaded: suite.Suite, root: Path) -> InputSpec:
    """The shape of the canvas, or else of the first picture."""
    spec = loaded.dataset.spec
    if spec.kind == "video":
        raise UserError(
            "a network alone does not say which frames of a video it looks at; give a ModelSpec with "
            "`preprocessing=Preprocessing(clips=Clips(...))`. See: python -m pydoc robharness.Clips"
        )
    *sides, channels = spec.open(root, loaded.data.split).read(0).shape
    if loaded.canvas is not None:
        sides[-2:] = [loaded.canvas, loaded.canvas]
    return InputSpec(kind=spec.kind, shape=(channels, *sides))


class Silent:
    """A listener that says nothing."""

    def started(self, work: int, cells: int) -> None: ...

    def cell_done(self, cell: Any, span: Any, failure: Any) -> None: ...

    def trained(self, label: str, progress: Any) -> None: ...

    def say(self, message: str) -> None: ...

    def finished(self) -> None: ...
