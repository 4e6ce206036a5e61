"""Records of a plan: models, data, cells."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from robharness.errors import UserError
from robharness.findings import Finding, sentences
from robharness.planning.artefacts import Artefact
from robharness.planning.weights import Weights
from robharness.plugins.provenance import code_digest, dependency_versions
from robharness.plugins.registry import Entry, PluginOrigin
from robharness.specs.protocols import Dataset
from robharness.specs.records import Cost
from robharness.suite import Model, Perturbation, Suite

DEFAULT_STORE = Path(".robharness")
BLOCK = 16
"""Examples that share one seeding of the global generators, or see each other, for attacks that ask; see worker.py."""

UNREADABLE = -2
"""The prediction that stands for an example that is broken; it counts as wrong in every cell."""


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model with its weights resolved, and its part of a cell's identity.

    artefact: of one that the suite trains; until that is there, it has neither weights nor an identity. base: what its
    training starts from, as a model of the same name.
    """

    ref: Model
    weights: Weights | None
    identity: dict[str, Any]
    artefact: Artefact | None = None
    base: PlannedModel | None = None

    @property
    def label(self) -> str:
        return self.ref.label

    @property
    def entry(self) -> Entry:
        return self.ref.entry

    @property
    def is_untrained(self) -> bool:
        return self.artefact is not None and self.weights is None


@dataclass(frozen=True, kw_only=True)
class PlannedData:
    """An opened data set in its fixed order. order: data set indices by position; n: how many positions are used."""

    entry: Entry
    split: str
    dataset: Dataset
    order: Sequence[int]
    n: int
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.entry.name}/{self.split}"

    def ids(self, start: int, stop: int) -> list[str]:
        return [self.dataset.ids[index] for index in self.order[start:stop]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model under one perturbation, or none, on one data set.

    name: for people, unique in a plan. perturbation: None for the clean cell. cost: passes per example, the judging
    one left out. source: the model that its attack is crafted on, where that is another one. key: empty, as the
    identity is, for as long as one of its models is not trained. with_features: the representation of these examples is
    stored, too; it is a cell of its own, since outcomes do not depend on that.
    """

    model: PlannedModel
    data: PlannedData
    perturbation: Perturbation | None
    surrogate: PlannedModel | None = None
    count: Literal["all", "robust"]
    identity: dict[str, Any]
    key: str
    cost: Cost
    with_features: bool = False

    @property
    def kind(self) -> Literal["clean", "attack", "corruption", "features"]:
        if self.with_features:
            return "features"
        return "clean" if self.perturbation is None else self.perturbation.kind

    @property
    def what(self) -> str:
        """What its model sees: "clean", or the perturbation's name."""
        return "clean" if self.perturbation is None else self.perturbation.name

    @property
    def short_name(self) -> str:
        return f"features({self.what})" if self.with_features else self.what

    @property
    def notes(self) -> tuple[str, ...]:
        """The columns beside the outcome: what the perturbation notes down; or the features, (D,) float32 each, and of
        clean ones `boundary`, how far they are from where the head changes its mind, None where it is not linear."""
        if self.with_features:
            return ("features", "boundary") if self.perturbation is None else ("features",)
        return tuple(self.perturbation.notes) if self.perturbation else ()

    @property
    def name(self) -> str:
        return f"{self.model.label} · {self.data.name} · {self.short_name}"

    @property
    def plugins(self) -> dict[str, dict[str, Any]]:
        """The code that makes its outcomes: part of how they are made, no part of its identity."""
        entries = {"model_plugin": self.model.entry, "data_plugin": self.data.entry}
        if self.perturbation is not None:
            entries["perturbation_plugin"] = self.perturbation.entry
        if self.surrogate is not None:
            entries["source_plugin"] = self.surrogate.entry
        return {role: _plugin_code(entry.origin) for role, entry in entries.items()}


@cache
def _plugin_code(source: PluginOrigin) -> dict[str, Any]:
    return {"plugin": str(source), "source": code_digest(source), "stands_on": dependency_versions(source)}


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """How to make a plan again in another process: what `discover`, `suite.load` and `plan` take."""

    suite: str | Path | Mapping[str, Any]
    data_root: Path
    limit: int | None
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite asks for. missing: data or weights that are not there; with any, `cells` is empty.

    models: those whose weights are there. waiting: cells that wait for the training of a model; they are in no table.
    others: cells of the suite that `only` left out; they are not computed, but stand in the same tables.
    part: (i, k) where `shard` left the i-th of k parts of the examples, from 1. recipe: None where a network of this
    process is in it. data_root: where data and weights are; store: where artefacts are; limit: as it was asked for.
    """

    suite: Suite
    data_root: Path = Path()
    store: Path = DEFAULT_STORE
    limit: int | None = None
    models: tuple[PlannedModel, ...] = ()
    data: PlannedData | None = None
    cells: tuple[Cell, ...] = ()
    pending_cells: tuple[Cell, ...] = ()
    unselected_cells: tuple[Cell, ...] = ()
    findings: tuple[Finding, ...] = ()
    missing: tuple[UserError, ...] = ()
    part: tuple[int, int] = (1, 1)
    request: PlanRequest | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings that are warnings, as sentences."""
        return sentences(self.findings, "warning")

    @property
    def n(self) -> int:
        """Examples per cell."""
        return self.data.n if self.data else 0

    @property
    def span(self) -> tuple[int, int]:
        """The positions that are to be computed, start to stop - 1: all n, or those of the shard."""
        index, count = self.part
        return self.n * (index - 1) // count, self.n * index // count

    @property
    def trained_models(self) -> list[PlannedModel]:
        """The models that these cells need and the suite trains, each once, in the suite's order."""
        every = [model for cell in (*self.cells, *self.pending_cells) for model in (cell.model, cell.surrogate)]
        needed = {model.label: model for model in every if model is not None and model.artefact is not None}
        return [needed[ref.label] for ref in self.suite.models if ref.label in needed]

    @property
    def untrained(self) -> list[PlannedModel]:
        """Those of them that are not trained yet."""
        return [model for model in self.trained_models if model.is_untrained]

    def shard(self, index: int, count: int) -> Plan:
        """The index-th of `count` parts of the examples, from 1: the same cells, for other positions."""
        if not 1 <= index <= count:
            raise UserError(f"there is no part {index}/{count}: 1/{count} is the first, {count}/{count} the last")
        return dataclasses.replace(self, part=(index, count))

    def only(self, pattern: str) -> Plan:
        """The cells whose name matches the glob, as a whole or in any part between dots. Raises UserError for none."""
        cells, waiting = (
            tuple(cell for cell in some if matches(cell, pattern)) for some in (self.cells, self.pending_cells)
        )
        if not cells and not waiting:
            raise UserError(f"no cell matches '{pattern}'. See: robharness plan {self.suite.path_for_shell}")
        others = tuple(cell for cell in self.cells if not matches(cell, pattern))
        return dataclasses.replace(
            self, cells=cells, pending_cells=waiting, unselected_cells=self.unselected_cells + others
        )


def matches(cell: Cell, pattern: str) -> bool:
    """Whether the glob matches the cell's whole name, its label, its model's name or its perturbation."""
    names = (cell.name, cell.model.label, cell.model.entry.name, cell.short_name)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
