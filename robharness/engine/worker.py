"""Computation of units in one process."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress

import torch

from robharness.engine.events import (
    BatchSizeReduced,
    CellFinished,
    CellStarted,
    Event,
    ModelLoaded,
    ModelLoadFailed,
    UnitFinished,
)
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.units import Unit
from robharness.errors import ContractViolation, OutOfMemory
from robharness.evaluation.columns import in_order, stored_columns, unreadable_columns
from robharness.evaluation.loading import LoadedModel, input_values, load_model, with_batch_size
from robharness.evaluation.memory import free_memory, is_out_of_memory, smaller_batch_size
from robharness.evaluation.outcomes import group_cells, outcomes_by_cell
from robharness.evaluation.reader import DecodedImages
from robharness.planning.cells import Cell, Plan
from robharness.store.failures import Failure
from robharness.store.spans import Span
from robharness.store.store import Store


class UnitRunner:
    """What one process does: it loads a model, and then computes units of it, reading the next one's data meanwhile.

    stopping: set it to end a unit after the cell in hand.
    """

    def __init__(self, plan: Plan, store: Store, setup: WorkerConfig, stopping: threading.Event) -> None:
        self.plan, self.store, self.setup, self.stopping = plan, store, setup, stopping
        self._models = {model.label: model for model in plan.models}
        self._cells = {(cell.model.label, cell.key): cell for cell in plan.cells}
        self._loaded: LoadedModel | None = None
        self._ahead: tuple[Span, Future[DecodedImages]] | None = None
        self._threads = torch.get_num_threads()
        if setup.threads is not None:
            torch.set_num_threads(setup.threads)

    def close(self) -> None:
        """Leave the process as it was found; what is being read ahead is given up."""
        torch.set_num_threads(self._threads)
        if self._loaded is not None:
            self._loaded.reader.threads.close()

    def load(self, label: str) -> Iterator[Event]:
        """Build and probe a model; half the rows per pass for as long as memory is short."""
        rows, too_many = self.setup.rows, 0
        while self._loaded is None or self._loaded.model.label != label:
            if self._loaded is not None:
                self._loaded.reader.threads.close()
            self._loaded = self._ahead = None  # the memory of the last model comes first
            free_memory()
            try:
                self._loaded = load_model(self.plan, self._models[label], device=self.setup.device, batch_size=rows)
                continue
            except OutOfMemory as error:
                too_many = error.rows
            except ContractViolation as error:
                details = "".join(traceback.format_exception(error.__cause__ or error))
                yield ModelLoadFailed(error=str(error), by=error.by, traceback=details)
                return
            if too_many == 1:
                yield ModelLoadFailed(error="memory is too small for a pass of one example", by="model")
                return
            rows = smaller_batch_size(too_many)
            yield BatchSizeReduced(before=too_many, rows=rows)
        if too_many:
            self._loaded.provenance["too_many_rows"] = too_many
        yield ModelLoaded(
            state=self._loaded.state,
            rows=self._loaded.classifier.batch_size,
            values=input_values(self._loaded.model.entry.spec),
            provenance=self._loaded.provenance,
        )

    def do(self, unit: Unit, ahead: Unit | None) -> Iterator[Event]:
        """Compute a unit of the loaded model, and read what the one ahead needs meanwhile.

        Where memory is too small, passes get half the rows, and what is left of the unit is done in two halves.
        """
        assert self._loaded is not None
        begun, passes = time.perf_counter(), Counter(self._loaded.classifier.passes)
        pictures = self._pictures(unit.span)
        waited = time.perf_counter() - begun
        if ahead is not None:
            self._ahead = ahead.span, self._loaded.reader.ahead(*ahead.span)
        pieces = [(unit.span, [self._cells[unit.label, key] for key in unit.keys])]
        failed: set[str] = set()
        while pieces and not self.stopping.is_set():
            span, cells = pieces.pop()
            if isinstance(pictures, DecodedImages):
                part: DecodedImages | Exception = pictures.part(*span)
            else:  # half of them may be fewer than is too many
                part = pictures if span == unit.span else self._pictures(span)
            left = {cell.key: cell for cell in cells if cell.key not in failed}
            in_hand = None
            try:
                for event in run_unit(self._loaded, list(left.values()), span, self.store, part):
                    yield event
                    if isinstance(event, CellStarted):
                        in_hand = event.key
                        continue
                    del left[event.key]
                    failed |= {event.key} if event.failure else set()
                    if self.stopping.is_set():
                        break
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            shrunk = self._shrink()  # not before the error is gone, which holds what filled the memory
            if shrunk is not None:
                yield shrunk
            middle = (span[0] + span[1] + 1) // 2
            if shrunk is None and middle == span[1]:
                for key in [in_hand] if in_hand in left else list(left):
                    cell = left.pop(str(key))
                    failure = Failure.of(cell, span, ContractViolation("memory is too small for one example"))
                    self.store.write_failure(cell.key, failure)
                    failed.add(cell.key)
                    yield CellFinished(key=cell.key, span=span, failure=failure)
            halves = [(middle, span[1]), (span[0], middle)]
            pieces += [(half, list(left.values())) for half in halves if half[0] < half[1] and left]
        passes = Counter(self._loaded.classifier.passes) - passes
        yield UnitFinished(seconds=time.perf_counter() - begun, waited=waited, passes=dict(passes))

    def _shrink(self) -> BatchSizeReduced | None:
        """Half the rows per pass, or fewer; None where a pass has one row already."""
        assert self._loaded is not None
        before, counts = self._loaded.classifier.batch_size, Counter(self._loaded.classifier.passes)
        rows = before
        while rows > 1:
            rows = smaller_batch_size(rows)
            free_memory()
            with suppress(OutOfMemory):
                self._loaded = with_batch_size(self.plan, self._loaded, rows, too_many=before)
                self._loaded.classifier.passes.update(counts)
                return BatchSizeReduced(before=before, rows=rows)
        return None

    def _pictures(self, span: Span) -> DecodedImages | Exception:
        """The pictures of a span, or what went wrong with them."""
        assert self._loaded is not None
        ahead, self._ahead = self._ahead, None
        try:
            return ahead[1].result() if ahead and ahead[0] == span else self._loaded.reader.images(*span)
        except Exception as error:  # a data set may raise anything
            if is_out_of_memory(error):
                error.__traceback__ = None  # it holds the pictures that were too many
            return error


def run_unit(
    loaded: LoadedModel, cells: Sequence[Cell], span: Span, store: Store, pictures: DecodedImages | Exception
) -> Iterator[CellStarted | CellFinished]:
    """Compute these cells for this span, write each as soon as it is whole, and tell of it.

    pictures: of the span, or why there are none. Raises what tells of a lack of memory; see `is_out_of_memory`.
    """
    try:
        if isinstance(pictures, Exception):
            raise pictures
        batches = loaded.reader.batches(pictures)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        for cell in cells:
            failure = Failure.of(cell, span, error)
            store.write_failure(cell.key, failure)
            yield CellFinished(key=cell.key, span=span, failure=failure)
        return
    for group in group_cells(cells):
        pending = list(group)
        yield CellStarted(key=pending[0].key)
        try:
            for cell, parts in outcomes_by_cell(loaded, group, batches, span):
                stored = [
                    (part.positions, stored_columns(cell, part.batch, part.outcome, part.attacked)) for part in parts
                ]
                columns = in_order([*stored, *unreadable_columns(cell, loaded.reader, pictures)])
                store.write_part(cell.key, span[0], columns, loaded.provenance | cell.plugins)
                yield CellFinished(key=pending.pop(0).key, span=span, failure=None)
                if pending:
                    yield CellStarted(key=pending[0].key)
        except ContractViolation as error:
            if is_out_of_memory(error):
                raise
            failure = Failure.of(pending[0], span, error)
        for number, cell in enumerate(pending):  # a nested attack cannot go on from a budget that failed
            if number:
                yield CellStarted(key=cell.key)
            store.write_failure(cell.key, failure)
            yield CellFinished(key=cell.key, span=span, failure=failure)
