"""Records of a plan and of its cells."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robharness.errors import UserError, glob_matches
from robharness.findings import Finding, named_examples, sentences
from robharness.locations import Location
from robharness.planning.commands import DEFAULT_STORE, command
from robharness.planning.names import CellNames
from robharness.planning.pixels import pixel_path
from robharness.planning.planned import PlannedData, PlannedModel
from robharness.planning.request import PlanRequest
from robharness.plugins.provenance import code_of, code_of_options
from robharness.plugins.registry import Entry
from robharness.specs.records import Cost
from robharness.suite import Perturbation, Suite
from robharness.text import printable

BLOCK = 16
"""The number of examples that share one seeding of global generators, and that attacks with `blocks` get at once."""

NOT_FINITE, UNREADABLE = -1, -2
"""The predictions that are stored for logits that are not numbers, and for unreadable examples; both count as wrong."""


@dataclass(frozen=True, kw_only=True)
class Cell(CellNames):
    """One model on one data set under one perturbation, or on clean examples.

    perturbation: None for the clean cell.
    surrogates: the models that a transfer attack is crafted on, see `Perturbation`; empty for other cells.
    count: whether accuracy is reported over all examples or over those that are robust at smaller budgets.
    identity: everything that can change an outcome, as plain data; empty while the cell waits.
    key: the hash of the identity, by which outcomes are stored; empty while the cell waits.
    cost: passes per example, without the one that judges it.
    waits_for: "training" if one of its models is not trained, "weights" or "data" if these are not on this machine;
        empty if the cell can be computed.
    with_features: whether the features of the examples are stored. Such a cell has a key of its own, since outcomes do
        not depend on features.
    """

    model: PlannedModel
    data: PlannedData
    perturbation: Perturbation | None
    surrogates: tuple[PlannedModel, ...] = ()
    count: Literal["all", "robust"]
    identity: dict[str, Any]
    key: str
    cost: Cost
    waits_for: str = ""
    with_features: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """The names of the columns that are stored beside the outcome.

        These are the notes of the perturbation; or `features`, (D,) float32 each, and for clean examples `boundary`,
        the distance to the decision boundary in feature space, None for a head that is not linear.
        """
        if self.with_features:
            return ("features", "boundary") if self.perturbation is None else ("features",)
        return tuple(self.perturbation.notes) if self.perturbation else ()

    @property
    def plugins(self) -> dict[str, dict[str, Any]]:
        """The code of the plugins that compute its outcomes: part of their provenance, not of the cell's identity.

        A component or an encoder of another plugin has the name of its option: "model_network_plugin".
        """
        used: dict[str, tuple[Entry, Any]] = {"model": (self.model.entry, self.model.ref.params)}
        used["data"] = self.data.entry, None
        if self.perturbation is not None:
            used["perturbation"] = self.perturbation.entry, self.perturbation.params
        for number, each in enumerate(self.surrogates, 1):
            used[f"source{number if number > 1 else ''}"] = each.entry, each.ref.params
        found = {f"{role}_plugin": code_of(entry.origin) for role, (entry, _) in used.items()}
        for role, (entry, params) in used.items():
            found |= {f"{role}_{name}_plugin": code for name, code in code_of_options(entry, params).items()}
        return found


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """The cells of a suite.

    data_root: the folder of data and weights.
    store: the store of the results and of the artefacts.
    limit: the number of examples that was requested; None for all.
    models: the models whose weights are available.
    data: the data; see `PlannedData.is_missing`.
    cells: the cells that can be computed.
    pending_cells: cells that wait for a training, or for data or weights; they are in no table.
    unselected_cells: cells that `only` left out; they are not computed, but are in the same tables.
    warnings: advice on the suite, as sentences.
    missing: data or weights that are not on this machine.
    part: (i, k) after `shard`: the i-th of k parts of the examples, from 1.
    request: the arguments that make this plan again; None if a live network is in it.
    """

    suite: Suite
    data_root: Path = Path()
    store: Location = DEFAULT_STORE
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

    def __repr__(self) -> str:
        missing = f", {len(self.missing)} resources missing" if self.missing else ""
        kinds = " or ".join(dict.fromkeys(cell.waits_for for cell in self.pending_cells))
        pending = f", {len(self.pending_cells)} cells wait for {kinds}" if self.pending_cells else ""
        labels = named_examples([model.label for model in self.suite.models])
        cells = f"{len(self.cells)} cells of {self.n} examples"
        return f"<Plan of {printable(self.suite.name)}: {labels}; {cells}{pending}{missing}>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings that are warnings, as sentences."""
        return sentences(self.findings, "warning")

    @property
    def pixels(self) -> dict[str, str]:
        """Label of each model -> the way of a pixel, "28x28 -> canvas 28 -> model 28". Images are read for that."""
        if self.data is None or self.data.is_missing:
            return {}
        sizes, canvas = self.data.sizes, self.data.canvas
        return {model.label: pixel_path(model.entry.spec, sizes, canvas) for model in self.suite.models}

    @property
    def n(self) -> int:
        """The number of examples per cell."""
        return self.data.n if self.data else 0

    @property
    def span(self) -> tuple[int, int]:
        """The positions to compute, start to stop - 1: all n, or those of the shard."""
        return span_of(self.n, self.part)

    @property
    def trained_models(self) -> list[PlannedModel]:
        """The models that the suite trains and these cells need, in the suite's order.

        An encoder that the suite trains is one of them if its model itself is not trained.
        """
        every = [model for cell in (*self.cells, *self.pending_cells) for model in (cell.model, *cell.surrogates)]
        needed = {model.label: model for model in every}
        models = [
            model for ref in self.suite.models if ref.label in needed for model in needed[ref.label].trained_models
        ]
        return list({(model.label, model.entry.name): model for model in models}.values())

    @property
    def untrained(self) -> list[PlannedModel]:
        """The models of `trained_models` that are not trained yet."""
        return [model for model in self.trained_models if model.is_untrained]

    def command(self, verb: str, *words: str) -> str:
        """Return the command line of a verb on this plan's suite, plugins, store, data and examples.

        words: further words, quoted for a shell; see `robharness.planning.commands.command`.
        """
        return command(self.suite, verb, *words, store=self.store, root=self.data_root, limit=self.limit)

    def shard(self, index: int, count: int) -> Plan:
        """Restrict the plan to the index-th of `count` parts of the examples, from 1. The cells are the same."""
        if not 1 <= index <= count:
            raise UserError(f"there is no part {index}/{count}: 1/{count} is the first, {count}/{count} the last")
        return dataclasses.replace(self, part=(index, count))

    def only(self, pattern: str) -> Plan:
        """Select the cells that match a glob, see `matches`. Raises UserError if none does."""
        cells, pending = (
            tuple(cell for cell in some if matches(cell, pattern)) for some in (self.cells, self.pending_cells)
        )
        if not cells and not pending:
            raise UserError(f"no cell matches '{pattern}'. Try: {self.command('plan')}")
        unselected = tuple(cell for cell in self.cells if not matches(cell, pattern))
        return dataclasses.replace(
            self, cells=cells, pending_cells=pending, unselected_cells=self.unselected_cells + unselected
        )


def span_of(n: int, part: tuple[int, int]) -> tuple[int, int]:
    """Return the positions, start to stop - 1, of the i-th of k parts of n examples.

    part: (i, k), from 1.
    """
    index, count = part
    return n * (index - 1) // count, n * index // count


def matches(cell: Cell, pattern: str) -> bool:
    """Return whether the glob matches the cell's name, its label, its model's name or its perturbation."""
    names = (cell.name, cell.model.label, cell.model.entry.name, cell.short_name)
    return any(glob_matches(name, pattern) for name in names)
