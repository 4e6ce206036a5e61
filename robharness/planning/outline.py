"""Outlines: all that reports need of a plan, as plain data that a store can hold. Reading one needs no plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from robharness.errors import UserError
from robharness.findings import Finding
from robharness.locations import Location, local_folder
from robharness.planning.artefacts import FOLDER, failure_of
from robharness.planning.cells import Plan
from robharness.planning.commands import option_words
from robharness.planning.names import CellNames
from robharness.specs.budget import Budget
from robharness.specs.records import Cost
from robharness.specs.types import Kind, Need
from robharness.suite import Baseline
from robharness.suite.clusters import ClusterPattern
from robharness.suite.command_lines import command_line, python_call
from robharness.suite.records import Compat, Count, Label, Name, Publication, Title

NOTE_TYPES: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
"""The types of the columns that a perturbation adds to the outcome, as an outline names them."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
Unit = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f]*$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


def store_alone() -> UserError:
    """Return the error for a use of a plan or a plugin by results that were loaded from a store alone."""
    return UserError(
        "these results were loaded from the store alone, without the plugins of their suite. Try: robharness.load "
        "with the path of the suite"
    )


@dataclass(frozen=True, kw_only=True)
class ModelOutline:
    """A model of a suite. Fields without a line here are those of `robharness.suite.Model`.

    name: full name of its spec.
    artefact: the hash of the weights that the suite trains; None for other models.
    is_untrained: whether it waited for a training, its own or that of an encoder.
    needs: the hashes of other artefacts that it waited for, in the order in which they are made.
    """

    label: Label
    name: str
    reference: bool = False
    run_of: Label | None = None
    clean_at_least: Number | None = None
    artefact: Hash | None = None
    is_untrained: bool = False
    needs: tuple[Hash, ...] = ()

    @property
    def entry(self) -> Any:
        """The plugin's entry. Raises UserError without a plan."""
        raise store_alone()

    @property
    def ref(self) -> Any:
        """The model of the resolved suite. Raises UserError without a plan."""
        raise store_alone()


@dataclass(frozen=True, kw_only=True)
class PerturbationOutline:
    """An attack at one budget, or a corruption at one severity.

    Fields without a line here are those of `robharness.suite.Perturbation`.

    spec: full name of its spec.
    norm: name of its norm or measure.
    unit: of its budget and of sizes; empty without one.
    columns: what it stores beside the outcome: name -> a key of `NOTE_TYPES`.
    totals: those of the columns that the attack declares as numbers.
    alarms: those whose total, if above 0, is a warning.
    access: what an attack uses of the model; empty for a corruption.
    surrogate: label of the model that a transfer attack is crafted on, or those of an ensemble; None for others.
    cost: passes per example of an attack.
    draws: hash of the address of its random draws, equal for all severities of a corruption; empty for an attack.
    """

    kind: Literal["attack", "corruption"]
    name: str
    title: str
    spec: str
    norm: Label | None = None
    unit: Unit = ""
    eps: Budget | None = None
    severity: int | None = None
    group: str | None = None
    columns: Mapping[str, Literal["bool", "int", "float", "str"]] = field(default_factory=dict)
    totals: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    access: str = ""
    is_ensemble: bool = False
    is_targeted: bool = False
    eight_bit: bool = False
    surrogate: Label | tuple[Label, ...] | None = None
    cost: Cost = field(default_factory=Cost)
    draws: str = ""
    audit: str = ""

    @property
    def notes(self) -> Mapping[str, type]:
        """The columns that it stores beside the outcome, with their types."""
        return {name: NOTE_TYPES[kind] for name, kind in self.columns.items()}

    @property
    def is_unbounded(self) -> bool:
        """Whether it is an attack without a budget, which searches for the smallest perturbation."""
        return self.kind == "attack" and self.eps is None

    @property
    def surrogates(self) -> tuple[str, ...]:
        """Labels of the models that a transfer attack is crafted on; empty for others."""
        return (self.surrogate,) if isinstance(self.surrogate, str) else self.surrogate or ()

    @property
    def attack(self) -> str:
        """Its name without the surrogates, such as "pgd(linf, 4/255)" of "pgd(linf, 4/255, source=A)"."""
        head, found, rest = self.name.rpartition(f", source={'+'.join(self.surrogates)}")
        return head + rest if found and self.surrogates else self.name

    @property
    def collection(self) -> str:
        """The part of its full name before the last slash: its plugin, and perhaps a collection of it."""
        return self.spec.rpartition("/")[0]

    @property
    def plain_name(self) -> str:
        """The part of its full name after the last slash, by which published tables name a corruption."""
        return self.spec.rpartition("/")[2]

    @property
    def entry(self) -> Any:
        """The plugin's entry. Raises UserError without a plan."""
        raise store_alone()

    @property
    def params(self) -> Any:
        """The plugin's options. Raises UserError without a plan."""
        raise store_alone()


@dataclass(frozen=True, kw_only=True)
class DataOutline:
    """A data set.

    name: of the data set and its split, "toys/pixels/test".
    spec: full name of its spec.
    size: the number of all its examples.
    kind: of its examples, images or videos.
    """

    name: str
    spec: str
    size: Natural
    kind: Kind = "image"

    @property
    def entry(self) -> Any:
        """The plugin's entry. Raises UserError without a plan."""
        raise store_alone()


@dataclass(frozen=True, kw_only=True)
class MetricOutline:
    """A metric of a suite: its full name, and the stored data that it needs beside outcomes."""

    name: str
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True, kw_only=True)
class PublicationOutline(Publication):
    """Published numbers of one source."""

    numbers: Mapping[str, Mapping[str, Number]]


@dataclass(frozen=True, kw_only=True)
class CellEntry:
    """A cell by the numbers of its model and of its perturbation, which count from 0.

    key: empty while one of its models is not trained.
    perturbation: None for clean examples.
    """

    key: Annotated[str, Field(pattern=r"^([0-9a-f]{24})?$")]
    model: Natural
    perturbation: Natural | None = None
    count: Count = "all"
    with_features: bool = False


@dataclass(frozen=True, kw_only=True)
class SuiteOutline:
    """A suite with its cells. Fields without a line here are those of `robharness.suite.Suite`.

    cells: those that have keys.
    pending_cells: those that wait for the training of a model.
    retrieval: whether its models tell examples apart instead of classes, so that accuracy is retrieval.
    """

    name: Name
    title: Title
    data: DataOutline
    compat: Compat
    count: Count
    gap: tuple[str, str] | None
    gain: Mapping[str, str] | None = None
    baseline: Baseline | str | None
    metrics: tuple[MetricOutline, ...]
    expected: tuple[PublicationOutline, ...]
    models: tuple[ModelOutline, ...]
    perturbations: tuple[PerturbationOutline, ...]
    cells: tuple[CellEntry, ...]
    pending_cells: tuple[CellEntry, ...]
    clusters: ClusterPattern | None = None
    audit: bool = False
    retrieval: bool = False

    @property
    def reference(self) -> str | None:
        """The label of the model that slopes compare with."""
        return next((model.label for model in self.models if model.reference), None)

    @property
    def needs(self) -> frozenset[Need]:
        """Stored data that its metrics need beside outcomes."""
        return frozenset().union(*(metric.needs for metric in self.metrics))

    def published(self, model: ModelOutline, name: str) -> tuple[tuple[int, float], ...]:
        """Return the published numbers of a model's cell or metric, each with the number of its source from 0."""
        found = ((at, each.number(model.label, model.run_of, name)) for at, each in enumerate(self.expected))
        return tuple((at, number) for at, number in found if number is not None)


@dataclass(frozen=True, kw_only=True)
class RunOutline:
    """The facts of a plan that do not change its cells, such as the place of a plugin.

    n: the number of examples per cell.
    limit: the number that was requested beside the suite; None for those of the suite.
    path: of the suite, as it was given.
    plugins: the values of `-p`.
    has_command: whether a command line can read the suite.
    origins: full name of a spec of the suite -> the distribution of its plugin.
    findings: of the plan.
    settings: the values of `--set`.
    protocols: label -> the protocol of the model's classifier, for models that declare one.
    """

    n: Natural
    limit: Natural | None
    path: str
    plugins: tuple[str, ...]
    has_command: bool
    origins: Mapping[str, str]
    findings: tuple[Finding, ...]
    settings: tuple[str, ...] = ()
    protocols: Mapping[Label, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The way of a pixel.

    paths: label -> "28x28 -> canvas 28 -> model 28".
    sides: height and width of the images that corruptions get; None if they differ, or without a canvas.
    """

    paths: Mapping[str, str]
    sides: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class CellOutline(CellNames):
    """A cell with its model, data and perturbation.

    perturbation: None for clean examples.
    identity: everything that can change an outcome, as plain data; empty if the store does not describe the cell.
    """

    key: str
    model: ModelOutline
    data: DataOutline
    perturbation: PerturbationOutline | None
    count: Count
    with_features: bool
    identity: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def cost(self) -> Cost:
        """Passes per example of its attack."""
        return self.perturbation.cost if self.perturbation else Cost()


@dataclass(frozen=True, kw_only=True)
class PlanOutline:
    """A plan in plain data: its suite with the cells, and the facts of its run.

    options: those of a command line that are not at their defaults, with quoted values; see `plan_options`.
    store: the folder of results.
    stored_pixels: the way of a pixel as it was stored; None in an outline that a plan made.
    """

    suite: SuiteOutline
    run: RunOutline
    options: Mapping[str, str]
    store: Location
    stored_pixels: Pixels | None = None

    @property
    def is_planned(self) -> bool:
        """Whether it comes from a plan, with the records of its plugins."""
        return False

    @property
    def plan(self) -> Plan:
        """The plan. Raises UserError for an outline from a store alone."""
        raise store_alone()

    @property
    def n(self) -> int:
        """The number of examples per cell."""
        return self.run.n

    @property
    def is_whole(self) -> bool:
        """Whether the plan has all examples of the data set."""
        return 0 < self.n == self.suite.data.size

    @property
    def pixels(self) -> Pixels:
        """The way of a pixel. A plan reads images for it."""
        return self.stored_pixels or Pixels(paths={}, sides=None)

    @cached_property
    def cells(self) -> tuple[CellOutline, ...]:
        return tuple(self._joined(self.suite.cells))

    @cached_property
    def pending_cells(self) -> tuple[CellOutline, ...]:
        return tuple(self._joined(self.suite.pending_cells))

    def _joined(self, entries: Sequence[CellEntry]) -> Iterator[CellOutline]:
        suite = self.suite
        for entry in entries:
            yield CellOutline(
                key=entry.key,
                model=suite.models[entry.model],
                data=suite.data,
                perturbation=None if entry.perturbation is None else suite.perturbations[entry.perturbation],
                count=entry.count,
                with_features=entry.with_features,
            )

    @property
    def untrained(self) -> list[ModelOutline]:
        """The models that were not trained yet."""
        return [model for model in self.suite.models if model.is_untrained]

    def training_failure(self, model: ModelOutline) -> str:
        """Return why the last training of a model failed, and the distribution at fault; empty if it did not fail.

        Before it, what the model needs may have failed, such as the computation of features.
        """
        hashes = (*model.needs, *([model.artefact] if model.artefact else []))
        return next(filter(None, (failure_of(local_folder(self.store) / FOLDER / each) for each in hashes)), "")

    def limited(self, n: int) -> PlanOutline:
        """Return the same with the first n examples of the fixed order, at most those of the data set."""
        run = replace(self.run, n=min(n, self.suite.data.size), limit=n)
        return replace(self, run=run, options={**self.options, "--limit": str(n)})

    def command(self, verb: str, *words: str) -> str:
        """Return the command line of a verb on the suite, or words on the Python function if there is none.

        words: further words, quoted for a shell. An option among them replaces that of the plan.
        """
        if not self.run.has_command:
            return python_call(verb, afresh="--fresh" in words)
        options = option_words(verb, self.options, words)
        run = self.run
        return command_line(verb, Path(run.path), run.plugins, *options, *words, settings=run.settings)
