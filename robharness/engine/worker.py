"""Computation of units in one process."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import reduce

import numpy as np

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
from robharness.errors import ContractViolation, OutOfMemory, StoreError, describe
from robharness.evaluation.batch_sizes import input_values
from robharness.evaluation.columns import in_order, stored_columns, unreadable_columns, unreadable_reasons
from robharness.evaluation.loading import LoadedModel, load_model, with_batch_size
from robharness.evaluation.memory import free_memory, is_out_of_memory, smaller_batch_size
from robharness.evaluation.modes import kept_modes, neutral_modes
from robharness.evaluation.outcomes import group_cells, outcomes_by_cell, unexpected
from robharness.evaluation.reader import DecodedImages
from robharness.planning.cells import Cell, Plan
from robharness.store.failures import Failure
from robharness.store.passes import total
from robharness.store.spans import Span
from robharness.store.store import Store


class UnitRunner:
    """Loads one model at a time and computes units of it, reading the next unit's examples meanwhile.

    stopping: set this event to end a unit after its current cell.
    """

    def __init__(self, plan: Plan, store: Store, config: WorkerConfig, stopping: threading.Event) -> None:
        self.plan, self.store, self.config, self.stopping = plan, store, config, stopping
        self._models = {model.label: model for model in plan.models}
        self._cells = {(cell.model.label, cell.key): cell for cell in plan.cells}
        self._loaded: LoadedModel | None = None
        self._prefetched: tuple[Span, Future[DecodedImages]] | None = None
        self._modes = ExitStack()
        self._modes.enter_context(neutral_modes(config.threads))

    def close(self) -> None:
        """Restore the caller's modes of torch, and cancel the prefetching of examples."""
        self._modes.close()
        if self._loaded is not None:
            self._loaded.reader.threads.close()

    def load(self, label: str) -> Iterator[Event]:
        """Build and probe the model with this label, with smaller passes while memory is too small."""
        batch_size, too_large = self.config.batch_size, 0
        while self._loaded is None or self._loaded.model.label != label:
            if self._loaded is not None:
                self._loaded.reader.threads.close()
            self._loaded = self._prefetched = None  # frees the memory of the last model first
            free_memory()
            try:
                self._loaded = load_model(
                    self.plan, self._models[label], device=self.config.device, batch_size=batch_size
                )
                continue
            except OutOfMemory as error:
                too_large = error.batch_size
            except ContractViolation as error:
                details = "".join(traceback.format_exception(error.__cause__ or error))
                yield ModelLoadFailed(error=str(error), by=error.by, refutes=error.refutes, traceback=details)
                return
            if too_large == 1:
                yield ModelLoadFailed(error="memory is too small for a pass of one example", by="model")
                return
            batch_size = smaller_batch_size(too_large)
            yield BatchSizeReduced(before=too_large, after=batch_size)
        if too_large:
            self._loaded.provenance["too_many_rows"] = too_large
        yield ModelLoaded(
            state=self._loaded.state,
            batch_size=self._loaded.classifier.batch_size,
            input_values=input_values(self._loaded.model.entry.spec),
            provenance=self._loaded.provenance,
        )

    def compute(self, unit: Unit, prefetch: Unit | None) -> Iterator[Event]:
        """Compute a unit of the loaded model, and read the examples of the next unit meanwhile.

        If memory is too small, passes get half the examples, and the rest of the unit is computed in two halves.
        prefetch: the next unit.
        """
        assert self._loaded is not None
        begun, passes = time.perf_counter(), Counter(self._loaded.classifier.passes)
        images = self._images(unit.span)
        waited = time.perf_counter() - begun
        if prefetch is not None:
            self._prefetched = prefetch.span, self._loaded.reader.ahead(*prefetch.span)
        pieces = [(unit.span, [self._cells[unit.label, key] for key in unit.keys])]
        failed: set[str] = set()
        while pieces and not self.stopping.is_set():
            span, cells = pieces.pop()
            if isinstance(images, DecodedImages):
                part: DecodedImages | Exception = images.part(*span)
            else:  # half of the images may fit into memory where all of them do not
                part = images if span == unit.span else self._images(span)
            pending = {cell.key: cell for cell in cells if cell.key not in failed}
            current = None
            try:
                for event in run_unit(self._loaded, list(pending.values()), span, self.store, part):
                    yield event
                    if isinstance(event, CellStarted):
                        current = event.key
                        continue
                    del pending[event.key]
                    failed |= {event.key} if event.failure else set()
                    if self.stopping.is_set():
                        break
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            reduced = self._reduce_batch_size()  # after the except clause, whose error holds what filled the memory
            if reduced is not None:
                yield reduced
            middle = (span[0] + span[1] + 1) // 2
            if reduced is None and middle == span[1]:
                for key in [current] if current in pending else list(pending):
                    cell = pending.pop(str(key))
                    failure = Failure.of(cell, span, ContractViolation("memory is too small for one example"))
                    self.store.write_failure(cell.key, failure)
                    failed.add(cell.key)
                    yield CellFinished(key=cell.key, span=span, failure=failure)
            halves = [(middle, span[1]), (span[0], middle)]
            pieces += [(half, list(pending.values())) for half in halves if half[0] < half[1] and pending]
        passes = Counter(self._loaded.classifier.passes) - passes
        yield UnitFinished(seconds=time.perf_counter() - begun, waited=waited, passes=dict(passes))

    def _reduce_batch_size(self) -> BatchSizeReduced | None:
        """Halve the examples per pass until a pass fits into memory; return None if a pass has one example already."""
        assert self._loaded is not None
        before, counts = self._loaded.classifier.batch_size, Counter(self._loaded.classifier.passes)
        batch_size = before
        while batch_size > 1:
            batch_size = smaller_batch_size(batch_size)
            free_memory()
            with suppress(OutOfMemory, ContractViolation):  # e.g. a network of one fixed batch size
                self._loaded = with_batch_size(self.plan, self._loaded, batch_size, too_many=before)
                self._loaded.classifier.passes.update(counts)
                return BatchSizeReduced(before=before, after=batch_size)
        return None

    def _images(self, span: Span) -> DecodedImages | Exception:
        """Return the images of a span, prefetched or read now, or the error that reading them raised."""
        assert self._loaded is not None
        prefetched, self._prefetched = self._prefetched, None
        try:
            with kept_modes() as modes:
                is_prefetched = prefetched is not None and prefetched[0] == span
                images = prefetched[1].result() if is_prefetched and prefetched else self._loaded.reader.images(*span)
            self._loaded.note_restored(self._loaded.reader.data.entry.name, modes.changed)
            return images
        except Exception as error:  # a data set may raise anything
            if is_out_of_memory(error):
                error.__traceback__ = None  # its frames hold the images that filled the memory
            return error


def run_unit(
    loaded: LoadedModel, cells: Sequence[Cell], span: Span, store: Store, images: DecodedImages | Exception
) -> Iterator[CellStarted | CellFinished]:
    """Compute cells for a span, and write each as soon as it is whole.

    cells: of the loaded model.
    images: those of the span, or the error that reading them raised.
    Yields CellStarted and CellFinished for each cell.
    Raises an error for which `is_out_of_memory` is true.
    """
    try:
        if isinstance(images, Exception):
            raise images
        batches = loaded.reader.batches(images)
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
        begun = time.perf_counter()
        try:
            for cell, parts in outcomes_by_cell(loaded, group, batches):
                stored = [
                    (part.positions, stored_columns(cell, part.batch, part.outcome, part.attacked)) for part in parts
                ]
                columns = in_order([*stored, *unreadable_columns(cell, loaded.reader, images)])
                reasons = unreadable_reasons(cell, loaded.reader, images)
                provenance = loaded.provenance | cell.plugins | loaded.restored_for(cell) | reasons
                passes = reduce(total, (part.passes for part in parts), None)
                store.write_part(cell.key, span[0], columns, provenance, passes)
                right, seconds = int(np.count_nonzero(columns["correct"])), time.perf_counter() - begun
                yield CellFinished(key=pending.pop(0).key, span=span, failure=None, right=right, seconds=seconds)
                if pending:
                    yield CellStarted(key=pending[0].key)
                begun = time.perf_counter()
        except StoreError:
            raise
        except Exception as error:
            is_cuda = loaded.classifier.device.type == "cuda"
            if is_out_of_memory(error) or (is_cuda and "CUDA error" in describe(error)):
                raise  # the process cannot compute on that device again
            if not isinstance(error, ContractViolation):  # what the model or the attack made breaks our own code
                error = unexpected(error)
            failure = Failure.of(pending[0], span, error)
        for number, cell in enumerate(pending):  # a nested attack cannot go on from a budget that failed
            if number:
                yield CellStarted(key=cell.key)
            store.write_failure(cell.key, failure)
            yield CellFinished(key=cell.key, span=span, failure=failure)
