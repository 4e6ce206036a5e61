"""Features of training data, computed once for all trainings that need them.

A staging folder holds the rows that are computed and a record of how many they are, so that an interrupted computation
resumes at its last complete chunk. Memory is that of two chunks, whatever the size of the data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from robharness.errors import OutOfMemory, UserError
from robharness.evaluation.batch_sizes import batch_size_candidates, clips_per_example, input_values
from robharness.evaluation.building import load_encoder
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.memory import free_memory, is_out_of_memory, smaller_batch_size
from robharness.evaluation.modes import kept_modes
from robharness.evaluation.probe import probe_features
from robharness.evaluation.reader import DecodedImages, Reader
from robharness.evaluation.unchanged import check_model
from robharness.findings import named_examples
from robharness.planning.artefacts import FEATURE_IDS, FEATURE_LABELS, FEATURES, damage
from robharness.planning.files import json_object
from robharness.planning.planned import PlannedFeatures
from robharness.specs.sources import FeatureBank, Progress
from robharness.store.files import FileSystem

CHUNK_VALUES = 40_000_000
"""Input values of one chunk, about 260 photos of 224 px; a kill costs at most one chunk."""
STATE = "features.json"
HEADER_LENGTH = 128


@dataclass
class _State:
    """The record of what is computed: examples that are done, rows and columns of the file, unreadable examples."""

    done: int
    rows: int
    columns: int
    unreadable: dict[str, str]


def compute_features(
    features: PlannedFeatures,
    files: FileSystem,
    *,
    device: str,
    message: Callable[[str], None],
    progress: Callable[[Progress], None],
) -> None:
    """Compute features into the staging folder of their artefact, after those that it already holds.

    Raises ContractViolation for what the plugin of the encoder or of the data does wrong, OutOfMemory if memory is too
    small for one example, and UserError if no example can be read.
    """
    data, folder = features.data, features.artefact.unfinished
    check_model(features.encoder)
    state = _stored(folder)
    passes = _Passes(features, torch.device(device))
    begun, first = time.perf_counter(), state.done
    span = max(1, CHUNK_VALUES // max(1, passes.input_values))
    spans = [(start, min(start + span, data.n)) for start in range(state.done, data.n, span)]
    ahead = passes.reader.ahead(*spans[0]) if spans else None
    try:
        with (folder / FEATURES).open("r+b" if (folder / FEATURES).exists() else "w+b") as file:
            for number, (_, stop) in enumerate(spans):
                assert ahead is not None
                with kept_modes():
                    images = ahead.result()
                ahead = passes.reader.ahead(*spans[number + 1]) if number + 1 < len(spans) else None
                state.unreadable |= {str(position): reason for position, reason in images.unreadable.items()}
                _append(file, state, passes.features(images))
                state.done = stop
                _record(files, folder, file, state)
                rate = (stop - first) / max(time.perf_counter() - begun, 1e-9)
                progress(Progress(epoch=stop, epochs=data.n, unit="example", rate=rate, left=(data.n - stop) / rate))
    finally:
        passes.reader.threads.close()
    check_model(features.encoder)
    if not state.rows:
        raise UserError(
            f"no example of {data.name} can be read: {next(iter(state.unreadable.values()), 'it is empty')}"
        )
    if state.unreadable:
        names = {data.dataset.ids[data.order[int(at)]]: reason for at, reason in state.unreadable.items()}
        message(
            f"examples that cannot be read are left out, {len(names)} of {data.n}: {named_examples([*names], names)}"
        )
    rows = [index for position, index in enumerate(data.order) if str(position) not in state.unreadable]
    with files.replacing(folder / FEATURE_LABELS) as labels:
        np.save(labels, np.array([data.dataset.labels[index] for index in rows], np.int64))
    files.write(folder / FEATURE_IDS, json.dumps([data.dataset.ids[index] for index in rows]).encode())
    files.unlink(folder / STATE)


def feature_bank(features: PlannedFeatures) -> FeatureBank:
    """Return stored features, mapped from their file. Raises UserError if they are damaged."""
    folder = features.artefact.folder
    if found := damage(folder):
        raise UserError(f"{folder} is damaged: {found}. To compute it again, remove it. Try: rm -r {folder}")
    return FeatureBank(
        features=np.load(folder / FEATURES, mmap_mode="r"),
        labels=np.load(folder / FEATURE_LABELS),
        ids=json.loads((folder / FEATURE_IDS).read_bytes()),
    )


class _Passes:
    """Passes of one encoder over decoded examples, of half the size after each lack of memory."""

    def __init__(self, features: PlannedFeatures, device: torch.device) -> None:
        spec, clips = features.encoder.entry.spec, clips_per_example(features.encoder.entry.spec)
        self.input_values = input_values(spec)
        self.reader = Reader(data=features.data, canvas=None, model=spec, device=device)
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)
        self._net = load_encoder(features.encoder)
        probe_features(self._net, spec.input.shape, device)
        self._device = device
        self._batch_size = batch_size_candidates(spec.input.shape, features.data.n, device, clips)[0]

    def features(self, images: DecodedImages) -> np.ndarray:
        """Return the features of the readable examples, in their order, (n, D) float32."""
        while True:
            try:
                return self._features(images)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            if self._batch_size == 1:
                raise OutOfMemory(1)
            self._batch_size = smaller_batch_size(self._batch_size)
            free_memory()

    def _features(self, images: DecodedImages) -> np.ndarray:
        positions, found = [], []
        classifier = Classifier(self._net, batch_size=self._batch_size, device=self._device, features="")
        classifier.copies_input = True
        classifier = classifier.with_access("features")
        for group in images.groups:
            for start in range(0, len(group.positions), self._batch_size):
                rows = slice(start, start + self._batch_size)
                part = DecodedImages(groups=(group.at(rows),), unreadable={})
                ((at, batch),) = self.reader.batches(part)
                found.append(classifier.with_clips(batch.clip_layout, batch.x).features(batch.x).cpu().numpy())
                positions.append(at)
        if not found:
            return np.empty((0, 0), np.float32)
        rows_in_order = np.argsort(np.concatenate(positions), kind="stable")
        features: np.ndarray = np.concatenate(found)[rows_in_order]
        return features


def _stored(folder: Path) -> _State:
    """Return the record of an interrupted computation whose rows are in the file; an empty one without it."""
    try:
        read: Mapping[str, Any] = json_object((folder / STATE).read_bytes())
        state = _State(**read)
        if (folder / FEATURES).stat().st_size >= HEADER_LENGTH + 4 * state.rows * state.columns:
            return state
    except (OSError, ValueError, TypeError):
        pass
    return _State(done=0, rows=0, columns=0, unreadable={})


def _append(file: BinaryIO, state: _State, rows: np.ndarray) -> None:
    """Write rows behind those that are recorded, over what a killed process may have written there."""
    if len(rows) and state.columns not in (0, rows.shape[1]):
        raise UserError(f"the encoder gives {rows.shape[1]} features for some examples and {state.columns} for others")
    state.columns = rows.shape[1] or state.columns
    file.seek(HEADER_LENGTH + 4 * state.rows * state.columns)
    file.truncate()
    file.write(np.ascontiguousarray(rows, "<f4").tobytes())
    state.rows += len(rows)
    file.seek(0)
    file.write(_header(state.rows, state.columns))


def _record(files: FileSystem, folder: Path, file: BinaryIO, state: _State) -> None:
    file.flush()
    files.fsync(file.fileno())
    files.write(folder / STATE, json.dumps(vars(state)).encode(), durable=False)


def _header(rows: int, columns: int) -> bytes:
    """Return the head of a file of NumPy's format 1.0, in one length for all shapes."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    return (
        b"\x93NUMPY\x01\x00"
        + (HEADER_LENGTH - 10).to_bytes(2, "little")
        + text.ljust(HEADER_LENGTH - 11).encode()
        + b"\n"
    )
