"""Planning of data: data sets in their fixed order, or a record of one that is not on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robharness.errors import MissingResource, UserError, describe
from robharness.planning.advice import remarks_of
from robharness.planning.classes import chosen_classes
from robharness.planning.datasets import FixedDataset
from robharness.planning.files import require_files
from robharness.planning.identity import call_plugin, canonical, data_identity
from robharness.planning.pixels import ImageSizes, canvas_of, image_sizes
from robharness.planning.planned import PlannedData
from robharness.plugins.calls import plugin_code
from robharness.suite import Data, Suite
from robharness.text import is_valid


def plan_data(suite: Suite, data_root: Path, limit: int | None = None, sizes: ImageSizes | None = None) -> PlannedData:
    """Open the suite's data in their fixed order. Raises UserError for data that are missing or inconsistent.

    sizes: as in `planner.plan`.
    """
    entry = suite.data.entry
    dataset: FixedDataset = call_plugin(entry, open_dataset, suite.data, data_root)
    order = dataset.order
    if sizes is None and suite.canvas == "auto":
        sizes = image_sizes(dataset, order, entry.spec.kind)
    canvas = canvas_of(suite, sizes or ImageSizes(sizes=(), channels=frozenset()))
    identity = {
        **call_plugin(entry, canonical, data_identity(suite.data)),
        "order": "sha256(id)",
        "fingerprint": dataset.fingerprint,
        **({"canvas": canvas} if isinstance(canvas, int) else {}),
        **({"compat": suite.compat} if suite.compat != "none" else {}),
    }
    classes = chosen_classes(suite.data, dataset)
    identity |= {"classes": list(classes)} if classes is not None else {}
    limit = limit or suite.data.limit or len(order)
    return PlannedData(
        entry=entry,
        split=suite.data.split,
        dataset=dataset,
        order=order,
        n=min(limit, len(order)),
        identity=identity,
        canvas=canvas,
        classes=classes,
        known_sizes=sizes,
    )


def open_dataset(data: Data, data_root: Path) -> FixedDataset:
    """Open a data set, and read its ids and labels. Raises UserError."""
    entry = data.entry
    require_files(entry, data.params)
    try:
        dataset = data.open(data_root)
        with plugin_code():
            opened = FixedDataset(dataset)
        remarks_of(dataset)  # which raises for a plugin's mistake
        if surrogates := [id for id in opened.ids if not is_valid(id)]:
            raise UserError(
                f"{entry.name} of {entry.origin} has the id {surrogates[0]!r}, which is not valid text, as of a file "
                f"name that is not UTF-8. Write ids as os.fsencode(id).decode('utf-8', 'backslashreplace'). "
                f"Try: robharness list datasets"
            )
    except UserError as error:
        if isinstance(error, MissingResource):
            error.licence = error.licence or entry.spec.licence
        raise
    except Exception as error:
        raise UserError(
            f"{entry.name} of {entry.origin} cannot be opened: {describe(error)}. Try: robharness list datasets"
        ) from error
    ids, labels = opened.ids, opened.labels
    if len(ids) != len(labels) or len(set(ids)) != len(ids) or not ids:
        raise UserError(
            f"{entry.name} of {entry.origin} has {len(ids)} ids, {len(set(ids))} of them different, and {len(labels)} "
            f"labels; it needs one id and one label per example, and at least one. Try: robharness list datasets"
        )
    return opened


def missing_data(suite: Suite, limit: int | None) -> PlannedData:
    """Return the data of a plan whose data set cannot be opened, with the number of examples if it is known."""
    declared = suite.data.entry.spec.examples.get(suite.data.split)
    requested = limit or suite.data.limit
    canvas = suite.canvas if isinstance(suite.canvas, int) else None
    return PlannedData(
        entry=suite.data.entry,
        split=suite.data.split,
        dataset=FixedDataset(_Absent()),
        order=(),
        n=min(filter(None, (declared, requested)), default=0),
        identity={},
        canvas=canvas,
        is_missing=True,
    )


class _Absent:
    """A data set without examples, in place of one that cannot be opened."""

    ids: Sequence[str] = ()
    labels: Sequence[int] = ()

    def read(self, index: int) -> Any:
        raise IndexError(index)


def require_squares(suite: Suite, data: PlannedData) -> None:
    """Raise UserError for a model that crops several squares of a frame, if an automatic canvas is one square.

    The suite's reader checks a canvas that the suite gives.
    """
    for model in suite.models:
        clips = model.entry.spec.clips
        if suite.canvas == "auto" and isinstance(data.canvas, int) and clips is not None and clips.crops > 1:
            raise UserError(
                f"{model.entry.name} crops {clips.crops} squares of a frame, and a canvas is one square. "
                f"Try: `preprocessing: {{clips: {{crops: 1}}}}` beside the model"
            )
