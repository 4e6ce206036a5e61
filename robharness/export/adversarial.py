"""Export of adversarial examples as files that can be judged again with NumPy and a network.

The examples are computed again, since no store holds them. A cell is a folder with its description, `cell.json`. Every
`00000-00128.npz` holds positions 0 to 127: network inputs, float32 in [0, 1], (N, *shape), labels, predictions and ids.
Files appear whole. Existing files are kept, and no position is in two of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robharness.errors import ContractViolation, OutOfMemory, UserError, for_shell
from robharness.evaluation import loading
from robharness.evaluation.columns import own_labels
from robharness.evaluation.modes import neutral_modes
from robharness.evaluation.outcomes import BatchOutcome
from robharness.export import recompute
from robharness.export.names import folder_names
from robharness.planning.cells import Cell, Plan
from robharness.planning.files import read_record
from robharness.store.failures import Failure
from robharness.store.files import FileSystem
from robharness.store.spans import Span, uncovered
from robharness.store.store import Store
from robharness.suite import Suite

PASSES = 4
"""Number of passes per file."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The exported folder of a cell.

    n: examples in it.
    unreadable: ids of examples that cannot be read, and so are not in it.
    stored: exported examples whose prediction is in the store.
    differing: exported examples whose prediction differs from the stored one.
    error: why the cell has examples that could not be computed, and the distribution at fault; else empty.
    """

    cell: Cell
    folder: Path
    n: int
    unreadable: tuple[str, ...]
    stored: int
    differing: int
    error: str = ""


def export_adversarial(
    plan: Plan, store: Store, folder: Path, *, device: str, batch_size: int | None = None
) -> Iterator[Exported]:
    """Write the adversarial examples of a plan's attacks into a folder, and yield cell by cell.

    A model or an attack that fails costs its own cells.

    store: the results to compare the predictions with.
    device: as torch names it.
    batch_size: examples per pass; with the batch size of a run, the outcomes are those of the run.
    Raises UserError if the plan has no attack, or if a folder holds another cell.
    """
    with neutral_modes():
        yield from _exported(plan, store, folder, device, batch_size)


def _exported(plan: Plan, store: Store, folder: Path, device: str, batch_size: int | None) -> Iterator[Exported]:
    attacks = [cell for cell in plan.cells if cell.kind == "attack"]
    if not attacks:
        raise UserError(f"these cells include no attack to export. Try: {plan.command('plan')}")
    folder = plan.suite.working_directory / folder  # a model's `build` may change the working directory
    labels = folder_names(model.label for model in plan.suite.models)
    names = folder_names(cell.short_name for cell in (*plan.cells, *plan.unselected_cells))
    for model in plan.models:
        cells = [cell for cell in attacks if cell.model is model]
        folders = {
            cell.key: _opened(folder, cell, plan.suite, (labels[cell.model.label], names[cell.short_name]))
            for cell in cells
        }
        if not cells:
            continue
        try:
            loaded = loading.load_model(plan, model, device=device, batch_size=batch_size)
        except ContractViolation as error:
            for cell in cells:
                failure = str(Failure.of(cell, plan.span, error))
                yield replace(_compared(cell, folders[cell.key], store, plan.span), unreadable=(), error=failure)
            continue
        except OutOfMemory as error:
            fewer = max(1, error.batch_size // 2)
            words = ("-o", for_shell(plan.suite.as_given(folder)), "--batch-size", str(fewer))
            raise UserError(
                f"memory is too small for passes of {error.batch_size} examples. "
                f"Try: {plan.command('export-adversarial', *words)}"
            ) from error
        failed: dict[str, str] = {}
        start, stop = plan.span
        step = PASSES * loaded.classifier.batch_size
        for first in range(start, stop, step):
            chunk = first, min(first + step, stop)
            missing = {cell.key: uncovered(_spans(folders[cell.key]), chunk) for cell in cells}
            for span in sorted({span for spans in missing.values() for span in spans}):
                pending = [cell for cell in cells if span in missing[cell.key] and cell.key not in failed]
                failed |= _write_span(loaded, pending, folders, span)
        loaded.reader.threads.close()
        for cell in cells:
            compared = _compared(cell, folders[cell.key], store, plan.span)
            failure = failed.get(cell.key, "")
            yield replace(compared, unreadable=(), error=failure) if failure else compared


def _write_span(
    loaded: loading.LoadedModel, cells: Sequence[Cell], folders: Mapping[str, Path], span: Span
) -> dict[str, str]:
    """Write the examples of a span for each cell; return the failures of cells by key."""
    try:
        batches = recompute.read(loaded, range(*span))
    except ContractViolation as error:
        return {cell.key: str(Failure.of(cell, span, error)) for cell in cells}
    failed: dict[str, str] = {}
    for cell, parts in recompute.compute(loaded, cells, batches):
        if isinstance(parts, ContractViolation):
            failed[cell.key] = str(Failure.of(cell, span, parts))
        elif parts:
            _write(_file(folders[cell.key], span), cell, parts)
    return failed


def _opened(folder: Path, cell: Cell, suite: Suite, names: tuple[str, str]) -> Path:
    """Create the cell's folder, with its description. Raises UserError if the folder holds another cell.

    names: of the folders of the model and of the cell.
    """
    path = folder.joinpath(*names)
    file = path / "cell.json"
    description = {"model": cell.model.label, "data": cell.data.name, "perturbation": cell.short_name, "key": cell.key}
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(file) and read_record(file).get("key") != cell.key:
            raise UserError(
                f"{suite.as_given(path)} holds another cell of that name. "
                f"Try another folder: {for_shell(f'{suite.as_given(folder)}-2')}"
            )
        text = json.dumps(description | {"identity": cell.identity}, indent=1, ensure_ascii=False)
        FileSystem().write(file, f"{text}\n".encode(errors="backslashreplace"), durable=False)
    except ValueError as error:
        raise UserError(
            f"{suite.as_given(file)} is damaged ({error}), so that the files beside it may be of another cell. "
            f"To write all of them again: rm -r {for_shell(suite.as_given(path))}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Try: ls -ld {for_shell(folder)}") from None
    return path


def _file(folder: Path, span: Span) -> Path:
    return folder / f"{span[0]:05}-{span[1]:05}.npz"


def _spans(folder: Path) -> list[Span]:
    """Return the spans of positions whose files exist."""
    found = [re.fullmatch(r"([0-9]{5,18})-([0-9]{5,18})\.npz", path.name) for path in folder.iterdir()]
    return [(int(match[1]), int(match[2])) for match in found if match]


def _write(path: Path, cell: Cell, parts: list[BatchOutcome]) -> None:
    """Write the outcomes of a span. Raises UserError if the file cannot be written."""
    images = np.concatenate([_network_inputs(part) for part in parts])
    labels = np.concatenate([own_labels(cell, part.batch.labels) for part in parts])
    predictions = np.concatenate([own_labels(cell, part.outcome.prediction) for part in parts])
    ids = [id for part in parts for id in part.batch.ids]
    try:
        with FileSystem().replacing(path, durable=False) as file:
            np.savez(file, images=images, labels=labels, predictions=predictions, examples=np.array(ids))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Try: df {for_shell(path.parent)}") from None


def _network_inputs(part: BatchOutcome) -> np.ndarray:
    """Return inputs as the network takes them, (N, *shape); of videos with several clips (N, clips, C, T, H, W)."""
    inputs, layout = part.outcome.inputs, part.batch.clip_layout
    if layout is not None:
        clips = layout.clips(inputs)
        inputs = clips if layout.n_clips == 1 else clips.view(len(part.batch), -1, *clips.shape[1:])
    array: np.ndarray = inputs.cpu().contiguous().numpy()
    return array


def _pairs(path: Path) -> list[tuple[str, int]]:
    """Return the examples of a file with their predictions. Raises UserError if the file is damaged."""
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with np.load(path) as part:
            examples, predictions = part["examples"], part["predictions"]
        if examples.dtype.kind != "U" or predictions.dtype.kind != "i" or examples.ndim != 1:
            raise ValueError(f"it holds {examples.dtype} and {predictions.dtype}")
        return list(zip(examples.tolist(), predictions.tolist(), strict=True))
    except Exception as error:  # a damaged archive may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}). To write it again: rm -r {for_shell(path)}") from None


def _compared(cell: Cell, folder: Path, store: Store, span: Span) -> Exported:
    """Compare the exported predictions of a cell with the stored ones."""
    start, stop = span
    rows = store.read(cell.key, stop, ["example", "prediction"])
    known = {}
    if len(rows.positions):
        known = dict(zip(rows.table["example"].to_pylist(), rows.table["prediction"].to_pylist(), strict=True))
    stored, differing, written = 0, 0, set[str]()
    for path in [_file(folder, span) for span in sorted(_spans(folder))]:
        pairs = _pairs(path)
        written |= {example for example, _ in pairs}
        stored += sum(example in known for example, _ in pairs)
        differing += sum(known.get(example, prediction) != prediction for example, prediction in pairs)
    unreadable = tuple(example for example in cell.data.ids(start, stop) if example not in written)
    n = len(written)
    return Exported(cell=cell, folder=folder, n=n, unreadable=unreadable, stored=stored, differing=differing)
