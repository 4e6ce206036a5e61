"""Opened data sets, whose ids and labels are read once, so that what is planned, judged and stored is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from numbers import Number
from typing import TYPE_CHECKING, Any

from robharness.specs.protocols import Dataset, Video

if TYPE_CHECKING:
    import numpy as np

LARGEST_LABEL = 2**31 - 1
"""No data set has more classes, and every integer type that computes with labels holds this number."""


MAX_SHOWN = 200
"""The largest number of characters of a label or an id in a message."""


class FixedDataset:
    """A data set of a plugin with the ids and labels that it had when it was opened; all else is the data set's own.

    ids: one text per example.
    labels: one class per example, from 0.
    Raises TypeError for an object without ids and labels and for an id that is no text. Raises ValueError, with the
    example's id, for a label that is no class.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        read: dict[str, Any] = {name: getattr(dataset, name, None) for name in ("ids", "labels")}
        if missing := [name for name, values in read.items() if values is None]:
            raise TypeError(f"its open returned {type(dataset).__name__}, which lacks {', '.join(missing)}")
        found_ids = tuple(read["ids"])
        if wrong := [id for id in found_ids if not isinstance(id, str)]:
            raise TypeError(f"the id {_shown(wrong[0])} is not a text")
        self.ids: Sequence[str] = tuple(map(str.__str__, found_ids))  # texts of Python, whatever class they had
        labels = tuple(read["labels"])
        names: Sequence[Any] = self.ids if len(self.ids) == len(labels) else range(len(labels))
        self.labels: Sequence[int] = tuple(label_of(label, id) for label, id in zip(labels, names, strict=True))

    def read(self, index: int) -> np.ndarray | Video:
        return self._dataset.read(index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":  # e.g. of a copy whose attributes are not set yet
            raise AttributeError(name)
        return getattr(self._dataset, name)

    @cached_property
    def order(self) -> Sequence[int]:
        """The indices of the examples in their fixed order, by the sha256 of their ids."""
        digests = [hashlib.sha256(id.encode()).digest() for id in self.ids]
        return sorted(range(len(self.ids)), key=digests.__getitem__)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the ids and labels in their fixed order, in hexadecimal."""
        fingerprint = hashlib.sha256()
        for index in self.order:
            fingerprint.update(f"{self.ids[index]}\x1f{self.labels[index]}\x1e".encode())
        return fingerprint.hexdigest()

    def first(self, count: int) -> FixedDataset:
        """Return the first examples of the fixed order as a data set, in the order of this one's indices."""
        return FixedDataset(_Part(self, sorted(self.order[:count])))


class _Part:
    """Some of the examples of a data set; all else is the data set's own."""

    def __init__(self, dataset: FixedDataset, kept: Sequence[int]) -> None:
        self._dataset, self._kept = dataset, kept
        self.ids = [dataset.ids[index] for index in kept]
        self.labels = [dataset.labels[index] for index in kept]

    def read(self, index: int) -> np.ndarray | Video:
        return self._dataset.read(self._kept[index])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(name)
        return getattr(self._dataset, name)


class NumberedDataset(FixedDataset):
    """A data set whose labels are numbered: the label of an example is its position in the fixed order."""

    def __init__(self, dataset: FixedDataset) -> None:
        self._dataset, self.ids = dataset, dataset.ids
        positions = [0] * len(dataset.order)
        for position, index in enumerate(dataset.order):
            positions[index] = position
        self.labels = positions


def label_of(value: Any, id: Any) -> int:
    """Return a label as an int.

    value: an integer of Python, NumPy or another library, or a float without a fraction.
    id: of the example, for the message.
    Raises ValueError for anything else: 2.7, NaN, True, "2", an array, a negative or a huge number.
    """
    number = _integer(value)
    if number is None:
        raise ValueError(f"the label {_shown(value)} of {_shown(id)} is not a whole number")
    if number < 0:
        raise ValueError(f"the label {_shown(value)} of {_shown(id)} is negative; labels count from 0")
    if number > LARGEST_LABEL:
        raise ValueError(f"the label {_shown(value)} of {_shown(id)} is larger than {LARGEST_LABEL}")
    return number


def _integer(value: Any) -> int | None:
    if type(value) is int:
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of NumPy, a tensor of one number
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Number):
        return None
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value else None


def _shown(value: Any) -> str:
    """Return the value's text, cut to a bounded length."""
    try:
        text = repr(value)
    except Exception:  # e.g. of an integer of 5,000 digits
        return f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
