"""What attacks made, as files that anyone can judge again with NumPy and a network; made anew, since no store holds it.

A cell is a folder: `cell.json` says which, and every `00000-00128.npz` holds the images of positions 0 to 127, as the
network takes them, float32 in [0, 1], (N, *shape), their labels, the predictions and the examples' ids. Files appear
whole; those that are there already are left as they are, and no position is in two of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robharness.errors import ContractViolation, OutOfMemory, UserError
from robharness.evaluation import loading, outcomes
from robharness.evaluation.batch import Batch
from robharness.evaluation.referee import Outcome
from robharness.planning.cells import Cell, Plan
from robharness.store.files import FileSystem
from robharness.store.spans import Span, uncovered
from robharness.store.store import Store

PASSES = 4
"""Passes per file."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A cell's folder. n: images in it. unreadable: examples that are broken, and so not in it. stored: how many of the
    predictions are in the store; differing: how many of those are not what was found now."""

    cell: Cell
    folder: Path
    n: int
    unreadable: int
    stored: int
    differing: int


def export_adversarial(
    plan: Plan, store: Store, folder: Path, *, device: str, rows: int | None = None
) -> Iterator[Exported]:
    """Write what the attacks of the plan make into the folder, a cell after the other.

    rows: examples per pass; with those of a run, the outcomes are those of the run. Raises UserError where the plan has
    no attack, where a folder holds another cell, or an attack fails.
    """
    attacks = [cell for cell in plan.cells if cell.kind == "attack"]
    if not attacks:
        raise UserError("there is no attack to export among these cells. See: robharness plan SUITE")
    for model in plan.models:
        cells = [cell for cell in attacks if cell.model is model]
        folders = {cell.key: _opened(folder, cell) for cell in cells}
        if not cells:
            continue
        try:
            loaded = loading.load_model(plan, model, device=device, rows=rows)
        except OutOfMemory as error:
            raise UserError(f"memory is too small for {error.rows} examples per pass; add --batch-size N") from error
        start, stop = plan.span
        step = PASSES * loaded.classifier.rows
        for first in range(start, stop, step):
            chunk = first, min(first + step, stop)
            gaps = {cell.key: uncovered(_spans(folders[cell.key]), chunk) for cell in cells}
            for span in sorted({span for missing in gaps.values() for span in missing}):
                batches = _read(loaded, span)
                for family in outcomes.group_cells([cell for cell in cells if span in gaps[cell.key]]):
                    found = [outcomes.outcomes(loaded, family, batch, span) for _, batch in batches]
                    for cell in family:
                        parts = [
                            (batch, next(outcomes)[0]) for (_, batch), outcomes in zip(batches, found, strict=True)
                        ]
                        if parts:
                            _write(_file(folders[cell.key], span), parts)
        loaded.reader.threads.close()
        for cell in cells:
            yield _compared(cell, folders[cell.key], store, plan.span)


def _read(loaded: loading.LoadedModel, span: Span) -> list[tuple[np.ndarray, Batch]]:
    try:
        return loaded.reader.batches(loaded.reader.pictures(*span))
    except ContractViolation:
        raise
    except Exception as error:  # a data set may raise anything
        raise ContractViolation(f"{type(error).__name__}: {error}", by="data") from error


def _opened(folder: Path, cell: Cell) -> Path:
    """The cell's folder, with its description."""
    names = [re.sub(r"[^\w=.,() -]", "_", name) for name in (cell.model.label, cell.short_name)]
    place = folder.joinpath(*names)
    description = place / "cell.json"
    about = {"model": cell.model.label, "data": cell.data.name, "perturbation": cell.short_name, "key": cell.key}
    try:
        place.mkdir(parents=True, exist_ok=True)
        if description.exists() and json.loads(description.read_text()).get("key") != cell.key:
            raise UserError(f"{place} holds another cell of that name; write to another folder: -o {folder}-2")
        description.write_text(json.dumps(about | {"identity": cell.identity}, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{place}: {error.strerror}. See: ls -ld {folder}") from None
    return place


def _file(folder: Path, span: Span) -> Path:
    return folder / f"{span[0]:05}-{span[1]:05}.npz"


def _spans(folder: Path) -> list[Span]:
    """The positions that files are there for."""
    found = [re.fullmatch(r"([0-9]+)-([0-9]+)\.npz", path.name) for path in folder.iterdir()]
    return [(int(match[1]), int(match[2])) for match in found if match]


def _write(path: Path, parts: list[tuple[Batch, Outcome]]) -> None:
    """Videos as the network takes them: (N, C, T, H, W), or (N, clips, C, T, H, W) of several clips each."""
    images = np.concatenate([_as_taken(batch, outcome) for batch, outcome in parts])
    labels = np.concatenate([batch.labels.cpu().numpy() for batch, _ in parts])
    predictions = np.concatenate([outcome.prediction for _, outcome in parts])
    ids = [id for batch, _ in parts for id in batch.ids]
    try:
        with FileSystem().replacing(path, durable=False) as file:
            np.savez(file, images=images, labels=labels, predictions=predictions, examples=np.array(ids))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. See: df {path.parent}") from None


def _as_taken(batch: Batch, outcome: Outcome) -> np.ndarray:
    inputs = outcome.inputs
    if batch.cut is not None:
        clips = batch.cut.clips(inputs)
        inputs = clips if batch.cut.n_clips == 1 else clips.view(len(batch), -1, *clips.shape[1:])
    taken: np.ndarray = inputs.cpu().contiguous().numpy()
    return taken


def _compared(cell: Cell, folder: Path, store: Store, span: Span) -> Exported:
    start, stop = span
    rows = store.read(cell.key, stop, ["example", "prediction"])
    known = {}
    if len(rows.positions):
        known = dict(zip(rows.table["example"].to_pylist(), rows.table["prediction"].to_pylist(), strict=True))
    written, stored, differing = 0, 0, 0
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as part:
            pairs = list(zip(part["examples"].tolist(), part["predictions"].tolist(), strict=True))
        written += len(pairs)
        stored += sum(example in known for example, _ in pairs)
        differing += sum(known.get(example, prediction) != prediction for example, prediction in pairs)
    unreadable = max(0, stop - start - written)
    return Exported(cell=cell, folder=folder, n=written, unreadable=unreadable, stored=stored, differing=differing)
