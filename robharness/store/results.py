"""Stored results as arrays. Imports neither torch nor plugin code."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from robharness import statistics
from robharness.errors import StoreError
from robharness.findings import Finding, named_examples
from robharness.planning.cells import NOT_FINITE, UNREADABLE, Plan
from robharness.planning.commands import fresh_command, quoted_glob
from robharness.planning.outline import CellOutline, PlanOutline
from robharness.planning.outlining import outline
from robharness.store.columns import Columns, CopiedColumns, import_pandas
from robharness.store.expected import checks
from robharness.store.failures import Failure
from robharness.store.features import Features, FeaturesNotStored
from robharness.store.parts import Check
from robharness.store.passes import Passes
from robharness.store.spans import common_positions
from robharness.store.store import Store
from robharness.suite import Suite
from robharness.text import printable, quoted_commands

EAGER_COLUMNS = ("correct", "prediction")
"""The columns that are read with the cell, since every number needs them; others are read on first use."""
READERS = 8
"""The largest number of threads that read files; decoding releases Python's global lock."""


@dataclass(frozen=True, eq=False, repr=False)
class CellResult:
    """The stored outcomes of one cell.

    cell: in plain data; with a plan, its model, data and perturbation have the plugins' entries and options as well.
    n_expected: the number of examples of the plan.
    positions: of the n examples that are stored, ascending, (n,) int64.
    columns: example, label, prediction, correct, margin, logit_range, confidence, p_true, size, attacked and the cell's
        notes, each (n,); without confidence and p_true if an earlier version stored all of the cell.
    failures: why others are missing.
    provenance: each distinct provenance of the outcomes.
    not_numbers: the number of examples whose logits were not finite; they count as wrong.
    n_unreadable: the number of examples that could not be read; they count as wrong.
    totals: sums of the notes that the perturbation declares as numbers, by name.
    passes: means per attacked example; None without an attack or an attacked example, and in stores without passes.
    fit_passes: passes of the fit of an attack in all, once for all examples; None without a fit, and like `passes`.
    reliability: the confidences in bins, if they were read with the cell; see `binned_confidences`.
    """

    cell: CellOutline
    n_expected: int
    positions: np.ndarray
    columns: Mapping[str, np.ndarray]
    failures: tuple[Failure, ...]
    provenance: tuple[dict[str, Any], ...]
    not_numbers: int
    n_unreadable: int
    totals: Mapping[str, float]
    passes: Passes | None = None
    fit_passes: Passes | None = None
    reliability: statistics.Reliability | None = None

    def __repr__(self) -> str:
        accuracy = f", accuracy {self.accuracy:.4g}" if self.n else ""
        failed = ", failed" if self.failures else ""
        return f"<CellResult {printable(self.cell.name)}: {self.n} of {self.n_expected} examples{accuracy}{failed}>"

    def copied(self) -> CellResult:
        """Return the same outcomes in arrays of their own."""
        return replace(
            self,
            positions=self.positions.copy(),
            columns=CopiedColumns(self.columns),
            provenance=copy.deepcopy(self.provenance),
        )

    def discarded(self, failure: Failure) -> CellResult:
        """Return the same cell without its outcomes, which must not count, and with the reason."""
        columns = {"correct": np.zeros(0, bool), "prediction": np.zeros(0, np.int64)}
        return replace(
            self, positions=self.positions[:0], columns=columns, failures=(*self.failures, failure), not_numbers=0,
            n_unreadable=0, totals={}, passes=None, fit_passes=None, reliability=None,
        )  # fmt: skip

    @property
    def n(self) -> int:
        return len(self.positions)

    @property
    def is_complete(self) -> bool:
        return self.n == self.n_expected

    @property
    def is_unbounded(self) -> bool:
        """Whether it is an attack without a budget, whose accuracy is what its whole search leaves."""
        return self.cell.is_unbounded

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is the label, (n,) bool."""
        return self.columns["correct"]

    def correct_at(self, positions: np.ndarray) -> np.ndarray:
        """Whether each prediction at these positions, all of which must be stored, is the label, (n,) bool."""
        if positions is self.positions:
            return self.correct
        return self.correct[np.searchsorted(self.positions, positions)]

    @property
    def accuracy(self) -> float:
        """The share of correct predictions over the stored examples. Raises statistics.EmptySample without any."""
        return statistics.accuracy(self.correct)

    @property
    def distances(self) -> np.ndarray:
        """The size of the smallest perturbation that an attack without a budget found, (n,) float64.

        In the attack's norm; 0 if the clean input is misclassified already, inf if the attack found none.
        """
        size = np.asarray(self.columns["size"], float)
        found: np.ndarray = np.where(self.correct, np.inf, np.where(np.isnan(size), 0, size))  # NaN: not attacked
        return found

    def binned_confidences(self) -> statistics.Reliability | None:
        """Return the confidences in bins, from the store unless they were read with the cell; None if none is there."""
        if self.reliability is not None or not self.n or "confidence" not in self.columns:
            return self.reliability
        return statistics.reliability(self.columns["confidence"], self.correct)

    @property
    def unreadable(self) -> list[str]:
        """The ids of examples that could not be read; they count as wrong."""
        if not self.n_unreadable:
            return []
        return [str(example) for example in self.columns["example"][self.columns["prediction"] == UNREADABLE]]


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """The stored results of all cells of a plan.

    outline: the plan in plain data, on which reports stand; from the plan itself, or as a store recorded it.
    cells: the outcomes.
    feature_cells: the cells whose features are stored, if metrics need them.
    audit_cells: those that the audit added to the suite's own.
    findings: about the store itself, e.g. parts that were set aside.
    """

    outline: PlanOutline
    cells: tuple[CellResult, ...]
    feature_cells: tuple[CellResult, ...] = ()
    audit_cells: tuple[CellResult, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        complete = sum(result.is_complete for result in self.cells)
        return (
            f"<Results of {printable(self.outline.suite.name)}: {named_examples(self.labels)}; "
            f"{complete} of {len(self.cells)} cells complete, {self.outline.n} examples each>"
        )

    def copied(self) -> Self:
        """Return the same results for a plugin, which can change neither these nor those of another plugin.

        The plan, its suite and its data set are shared.
        """
        return self.with_cells(CellResult.copied)

    def with_cells(self, change: Callable[[CellResult], CellResult]) -> Self:
        """Return the same results with a function applied to each cell."""
        cells, features, audit = (
            tuple(map(change, some)) for some in (self.cells, self.feature_cells, self.audit_cells)
        )
        return replace(self, cells=cells, feature_cells=features, audit_cells=audit)

    @property
    def notes(self) -> tuple[str, ...]:
        """The findings about the store as sentences."""
        return tuple(str(found) for found in self.findings)

    @property
    def plan(self) -> Plan:
        """The plan. Raises UserError for results that were loaded from a store alone."""
        return self.outline.plan

    @property
    def suite(self) -> Suite:
        """The suite of the plan. Raises UserError for results that were loaded from a store alone."""
        return self.plan.suite

    @property
    def labels(self) -> list[str]:
        """The models' labels, in the suite's order."""
        return list(dict.fromkeys(result.cell.model.label for result in self.cells))

    @property
    def every(self) -> tuple[CellResult, ...]:
        """All cells, including those with features and those of the audit."""
        return (*self.cells, *self.feature_cells, *self.audit_cells)

    @property
    def is_complete(self) -> bool:
        return not self.outline.pending_cells and all(result.is_complete for result in self.every)

    @property
    def invalid(self) -> list[str]:
        """Sentences that say why the run is invalid: models below `clean_at_least`, on fewer examples significantly."""
        return [
            f"{shown}: the run is invalid (clean_at_least)" for shown, is_significant in self._too_low if is_significant
        ]

    @property
    def perhaps_invalid(self) -> list[str]:
        """Sentences about models below `clean_at_least` on too few examples to tell."""
        return [
            f"{shown}; all examples of the data may reach it (clean_at_least)"
            for shown, is_significant in self._too_low
            if not is_significant
        ]

    @property
    def _too_low(self) -> list[tuple[str, bool]]:
        """The models below `clean_at_least`, and whether that is sure.

        It is on the whole data set, and on fewer examples if the 95 % interval of the accuracy is below the bar.
        """
        found = []
        for model in self.outline.suite.models:
            clean = next((r for r in self.of(model.label, "clean") if r.is_complete and r.n), None)
            least = model.clean_at_least
            if clean is None or least is None or 100 * clean.accuracy >= least:
                continue
            most = statistics.accuracy_interval(int(clean.correct.sum()), clean.n).high
            shown = f"{model.label} is right on {100 * clean.accuracy:.1f} % of "
            shown += "the clean examples" if self.outline.is_whole else f"{clean.n} clean examples"
            shown += f", and the suite demands {least:g} %"
            found.append((shown, self.outline.is_whole or 100 * most < least))
        return found

    def clean(self, label: str) -> CellResult:
        """The clean cell of the model with this label."""
        return self._by_kind[label, "clean"][0]

    def of(self, label: str, kind: str) -> list[CellResult]:
        """The model's cells of one kind, "clean", "attack" or "corruption", in the suite's order."""
        return list(self._by_kind.get((label, kind), ()))

    @cached_property
    def _by_kind(self) -> dict[tuple[str, str], list[CellResult]]:
        """The cells by their model's label and their kind, in the suite's order."""
        found: dict[tuple[str, str], list[CellResult]] = {}
        for result in self.cells:
            found.setdefault((result.cell.model.label, result.cell.kind), []).append(result)
        return found

    def features(self, label: str, under: str = "clean") -> Features:
        """The stored features of the model with this label.

        under: "clean", or the name of a corruption, one of `views`.
        Raises FeaturesNotStored if none are stored, KeyError if no metric of the suite needs them.
        """
        found = {result.cell.what: result for result in self.feature_cells if result.cell.model.label == label}
        if under not in found:
            raise KeyError(f"features({under}) of '{label}' are not stored, since no metric of the suite needs them")
        columns = found[under].columns
        values = np.asarray(columns["features"] if found[under].n else [], object)
        is_readable = np.array([value is not None for value in values], bool)
        if not is_readable.any():
            raise FeaturesNotStored(
                f"features({under}) of '{label}' are not stored yet. Try: {self.outline.command('run')}"
            )
        if len({len(value) for value in values[is_readable]}) > 1:
            raise StoreError(
                f"the stored features({under}) of '{label}' differ in their length. To compute them again: "
                f"{fresh_command(self.outline, label)}"
            )
        boundary = columns["boundary"] if "boundary" in columns else np.full(len(is_readable), np.nan)
        return Features(
            values=np.stack(list(values[is_readable])).astype(np.float32, copy=False),
            labels=np.asarray(columns["label"])[is_readable],
            examples=tuple(map(str, np.asarray(columns["example"])[is_readable])),
            positions=found[under].positions[is_readable],
            boundary=np.asarray(boundary, float)[is_readable],
        )

    def views(self, label: str) -> dict[str, Features]:
        """The features of corrupted examples of the model with this label, by the corruption's name."""
        found = [result for result in self.feature_cells if result.cell.model.label == label and result.n]
        names = [result.cell.what for result in found if result.cell.perturbation is not None]
        return {name: self.features(label, name) for name in names}

    def paired(self, results: Sequence[CellResult]) -> list[np.ndarray]:
        """Whether each prediction is correct in each of these cells, on the examples that all have, (n,) bool each."""
        common = common_positions([result.positions for result in results])
        return [result.correct_at(common) for result in results]

    def to_pandas(self) -> Any:
        """All outcomes as one pandas data frame, one row per cell and example. Raises UserError without pandas."""
        pd = import_pandas()
        frames = []
        for result in self.cells:
            frame = pd.DataFrame({"position": result.positions, **result.columns})
            perturbation = result.cell.perturbation
            frame.insert(0, "model", result.cell.model.label)
            frame.insert(1, "perturbation", result.cell.short_name)
            sizes = (perturbation.eps, perturbation.severity, float("inf")) if perturbation else (0,)
            frame.insert(2, "strength", float(next(size for size in sizes if size is not None)))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


def load(plan: Plan, store: Store, *, confidences: bool = False) -> Results:
    """Load the stored outcomes of a plan's cells, complete or not.

    confidences: whether confidences are read and binned at once, for a report with details, which else reads all again.
    """
    identities = {cell.key: cell.identity for cell in plan.cells}
    return load_cells(outline(plan), store, checks(plan), identities, confidences=confidences)


def load_cells(
    outline: PlanOutline,
    store: Store,
    checked: Mapping[str, Check],
    identities: Mapping[str, Mapping[str, Any]],
    *,
    confidences: bool = False,
) -> Results:
    """Load the stored outcomes of the cells of an outline, complete or not.

    checked: the check of the parts of each cell, by its key.
    identities: everything that can change an outcome of a cell, by its key, as far as it is known.
    confidences: see `load`.
    """
    store = store.listed()
    columns = (*EAGER_COLUMNS, *(("confidence",) if confidences else ()))
    cells = [replace(cell, identity=identities.get(cell.key, {})) for cell in outline.cells]
    with ThreadPoolExecutor(max(min(READERS, os.cpu_count() or 1), store.files.parallel)) as readers:
        found = list(readers.map(lambda cell: _load_cell(outline, cell, store, checked[cell.key], columns), cells))
    return Results(
        outline=outline,
        cells=tuple(result for result in found if result.cell.is_own),
        feature_cells=tuple(result for result in found if result.cell.kind == "features"),
        audit_cells=tuple(result for result in found if result.cell.kind == "audit"),
        findings=tuple(store.findings),
    )


def _load_cell(
    outline: PlanOutline, cell: CellOutline, store: Store, check: Check, columns: Sequence[str]
) -> CellResult:
    store.note_damaged_description(cell.key)  # and refuse a newer schema
    noted = cell.perturbation.totals if cell.perturbation is not None else ()
    found = store.read(cell.key, outline.n, [*columns, *noted], check=check)
    store.retry_reads(cell.key, lambda: store.note_overlaps(cell.key))
    read = {name: found.table[name].to_numpy() for name in found.table.column_names}
    prediction = read.pop("prediction", np.zeros(0, np.int64))
    result = CellResult(
        cell=cell,
        n_expected=outline.n,
        positions=found.positions,
        columns=Columns(
            store, cell.key, replace(found, table=found.table.select([name for name in read if name == "correct"]))
        ),
        failures=tuple(store.failures(cell.key)),
        provenance=tuple(found.provenance),
        not_numbers=int(np.count_nonzero(prediction == NOT_FINITE)),
        n_unreadable=int(np.count_nonzero(prediction == UNREADABLE)),
        totals={name: float(np.nansum(np.asarray(read[name], float))) for name in noted if name in read},
        passes=found.passes.per_attacked if found.passes else None,
        fit_passes=found.passes.fit if found.passes else None,
        reliability=statistics.reliability(read["confidence"], read["correct"]) if "confidence" in read else None,
    )
    if result.n and result.n_unreadable == result.n:
        return result.discarded(_none_readable(outline, result))
    return result


def _none_readable(outline: PlanOutline, result: CellResult) -> Failure:
    """Return the failure of a cell whose stored examples are all unreadable, so that 0 % would say nothing."""
    data, first = result.cell.data, str(result.columns["example"][0])
    reason = next((each["unreadable"][first] for each in result.provenance if first in each.get("unreadable", {})), "")
    reason = f" ({quoted_commands(printable(reason))})" if reason else ""
    return Failure(
        start=int(result.positions[0]),
        stop=int(result.positions[-1]) + 1,
        blame=outline.run.origins.get(data.spec, data.spec),
        error=f"{data.spec}: none of the {result.n} examples can be read, such as {printable(first)}"
        f"{reason}. Mend the files, and compute again. Try: {outline.command('run', '--fresh', quoted_glob('*'))}",
    )
