"""The hooks. Each docstring is a working example: the first page of a plugin author.

A plugin is a module, named in its distribution's pyproject.toml:

    [project.entry-points.robharness]
    mine = "my_module"                  # its models are called mine/NAME

or a loose file: `robharness list models -p ./mine.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from click import Command

    from robharness.specs.audits import AuditSpec
    from robharness.specs.records import AttackSpec, ComponentSpec, CorruptionSpec, DatasetSpec, MetricSpec, ModelSpec

hookspec = pluggy.HookspecMarker("robharness")
hookimpl = pluggy.HookimplMarker("robharness")


@hookspec
def robharness_models() -> Iterable[ModelSpec]:  # type: ignore[empty-body]
    """Yield models. Declare here, import in `build`: listing models must not import torch.

    ```python
    from robharness import InputSpec, ModelSpec, hookimpl


    def build(params, weights):
        import torch

        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.utils.skip_init(torch.nn.Linear, 64, 10))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        return net


    @hookimpl
    def robharness_models():
        yield ModelSpec(
            name="linear",
            summary="A linear classifier of 8 x 8 digits",
            input=InputSpec(shape=(1, 8, 8)),
            labels="digits",
            build=build,
        )
    ```
    """


@hookspec
def robharness_attacks() -> Iterable[AttackSpec]:  # type: ignore[empty-body]
    """Yield attacks. `perturb` gets a batch and a radius and returns inputs of the same shape.

    ```python
    from dataclasses import dataclass

    from robharness import AttackSpec, Cost, ThreatModel, hookimpl


    @dataclass(frozen=True, kw_only=True)
    class Params:
        darker: bool = False


    @dataclass(frozen=True)
    class Fade:
        params: Params

        def perturb(self, model, batch, eps, rng):
            return (batch.x - eps if self.params.darker else batch.x + eps).clamp(0, 1)


    @hookimpl
    def robharness_attacks():
        yield AttackSpec(
            name="fade",
            summary="Every pixel brighter or darker by eps",
            access="decision",
            params=Params,
            threat=lambda params: ThreatModel(norm="linf"),
            cost=lambda params: Cost(),
            build=Fade,
            randomness="none",
        )
    ```
    """


@hookspec
def robharness_audits() -> Iterable[AuditSpec]:  # type: ignore[empty-body]
    """Yield attacks that an audit adds to a suite, as items of the suite's `attacks:`. See `AuditSpec.role`.

    ```python
    from robharness import AuditSpec, hookimpl


    def items(target):
        if target.norm != "linf":
            return []
        return [{"attack": "mine/fade", "eps": str(target.eps), "darker": True}]


    @hookimpl
    def robharness_audits():
        yield AuditSpec(role="black-box", items=items)
    ```
    """


@hookspec
def robharness_corruptions() -> Iterable[CorruptionSpec]:  # type: ignore[empty-body]
    """Yield corruptions. They get the 8-bit images `batch.canvas`, (N, H, W, 3), and never the model.

    ```python
    from robharness import CorruptionSpec, hookimpl


    class Negative:
        def perturb(self, model, batch, severity, rng):
            return 255 - batch.canvas


    @hookimpl
    def robharness_corruptions():
        yield CorruptionSpec(
            name="negative",
            summary="The negative of the image",
            group="colour",
            severities=(1,),
            build=lambda params: Negative(),
            randomness="none",
        )
    ```
    """


@hookspec
def robharness_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Yield data sets. `open` raises `MissingResource` if the files are missing.

    ```python
    from robharness import DatasetSpec, hookimpl


    class Squares:
        ids = [f"square-{i}" for i in range(10)]
        labels = list(range(10))

        def read(self, index):
            import numpy as np

            image = np.zeros((8, 8, 1), np.uint8)
            image[:index, :index] = 255
            return image


    @hookimpl
    def robharness_datasets():
        yield DatasetSpec(
            name="squares",
            summary="Ten squares of growing size",
            labels="digits",
            splits=("test",),
            open=lambda root, split: Squares(),
        )
    ```
    """


@hookspec
def robharness_components() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Yield components, such as objectives or networks, that a suite names in options of other plugins' models.

    ```python
    from dataclasses import dataclass

    from robharness import ComponentSpec, hookimpl


    @dataclass(frozen=True, kw_only=True)
    class Width:
        width: int = 32


    def build(params, shape):
        import torch

        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(params.width)), params.width


    @hookimpl
    def robharness_components():
        yield ComponentSpec(name="flat", role="network", summary="One linear layer", build=build, params=Width)
    ```
    """


@hookspec
def robharness_metrics() -> Iterable[MetricSpec]:  # type: ignore[empty-body]
    """Yield metrics: a number per model, from stored results alone.

    ```python
    from robharness import MetricSpec, hookimpl


    def wrong(results):
        return {label: 1 - results.clean(label).accuracy for label in results.labels}


    @hookimpl
    def robharness_metrics():
        yield MetricSpec(name="clean-error", summary="Share of clean examples that are wrong", compute=wrong)
    ```
    """


@hookspec
def robharness_run_started(run: Any) -> None:
    """Use the facts of a run that begins, before it trains or computes. An exception here is shown as a warning.

    `run` has `suite`, `title`, `models`, `cells`, `missing`, `n`, `command`, `store` and `parameters`.

    ```python
    from robharness import hookimpl


    @hookimpl
    def robharness_run_started(run):
        print(f"{run.suite}: {len(run.cells)} cells, {run.n} examples, seed {run.parameters['seed']}")
    ```
    """


@hookspec
def robharness_cell_finished(cell: Any) -> None:
    """Use the numbers of a cell that has become complete in this run. An exception here is shown as a warning.

    `cell` is a row of `Results.summary()`; `cell.metrics` has its numbers by name. The hook is called in the process
    that was started, whichever process computes. After an exception it is not called again in this run.

    ```python
    from robharness import hookimpl


    @hookimpl
    def robharness_cell_finished(cell):
        low, high = cell.accuracy_low, cell.accuracy_high
        print(f"{cell.model}, {cell.perturbation}: {cell.accuracy:.3f} [{low:.3f}, {high:.3f}]")
    ```
    """


@hookspec
def robharness_run_finished(results: Any) -> None:
    """Use the results of a run that has just ended. An exception here is shown as a warning.

    The hook is called as well if the run failed, was stopped by Ctrl-C, or had nothing to compute; see
    `results.is_complete`.

    ```python
    from robharness import hookimpl


    @hookimpl
    def robharness_run_finished(results):
        print(f"{len(results.cells)} cells of {results.suite.name}")
    ```
    """


@hookspec
def robharness_figures(results: Any, folder: Path) -> Iterable[Path]:  # type: ignore[empty-body]
    """Draw results into files of the existing folder and yield their paths; for `report --figures`.

    Yield nothing if there is nothing to draw, e.g. no features because no metric of the suite needs them. An exception
    here is shown as a warning.

    ```python
    from robharness import hookimpl


    @hookimpl
    def robharness_figures(results, folder):
        bars = [
            f'<rect y="{20 * row}" width="{100 * results.clean(label).accuracy}" height="15" />'
            for row, label in enumerate(results.labels)
        ]
        path = folder / "accuracy.svg"
        path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(bars)}</svg>', encoding="utf-8")
        yield path
    ```
    """


@hookspec
def robharness_renderers() -> Iterable[Any]:  # type: ignore[empty-body]
    """Yield renderers: formats of reports, chosen by the suffix of the file in `report -o FILE`.

    `name` is the format, `suffix` is that of its files, and `render` returns the content, str or bytes.

    ```python
    from robharness import hookimpl


    class TSV:
        name = "TSV"
        suffix = ".tsv"

        def render(self, report):
            import csv
            import io

            file = io.StringIO()
            rows = csv.writer(file, dialect="excel-tab")
            rows.writerow(["model", "perturbation", "accuracy"])
            rows.writerows([cell.model, cell.perturbation, cell.numbers.accuracy] for cell in report.cells)
            return file.getvalue()


    @hookimpl
    def robharness_renderers():
        yield TSV()
    ```
    """


@hookspec
def robharness_executors() -> Iterable[tuple[str, Callable[[], Any]]]:  # type: ignore[empty-body]
    """Yield executors, which start the workers of a run: pairs of a name and a function that makes the executor.

    `run --executor NAME` chooses one. Its methods are those of `robharness.engine.executors.base.Executor`. Import the
    engine inside the function, so that lists stay fast.

    ```python
    from robharness import hookimpl


    def build():
        import os

        from robharness.engine.executors.subprocess import SubprocessExecutor

        class PoliteExecutor(SubprocessExecutor):
            name = "polite"

            def spawn(self, plan, store, config):
                worker = super().spawn(plan, store, config)
                os.setpriority(os.PRIO_PROCESS, worker.pid, 10)
                return worker

        return PoliteExecutor()


    @hookimpl
    def robharness_executors():
        yield "polite", build
    ```
    """


@hookspec
def robharness_commands() -> Iterable[Command]:  # type: ignore[empty-body]
    """Yield click commands: verbs of the command line. No plugin can take the name of a built-in verb.

    Plugins are loaded for `robharness NAME`; the options `-p` and `--debug` are removed from the command's words. The
    returned number is the exit code.

    ```python
    from robharness import hookimpl


    @hookimpl
    def robharness_commands():
        import click

        @click.command("labels", help="Print the label space of a model.")
        @click.argument("model")
        def labels(model):
            from robharness import discover

            click.echo(discover().find("models", model).spec.labels)
            return 0

        yield labels
    ```
    """
