"""The contract of data sets, checked for each split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import numpy as np

from robharness.errors import UnreadableExample, UserError
from robharness.evaluation.rng import global_draws
from robharness.specs import Dataset
from robharness.testing.contract import Broken, Subject
from robharness.testing.fresh import in_fresh_process

SAMPLE = {"image": 12, "video": 4}
"""Number of examples that are read, at equal distances, with the first and the last one."""
THREADS = 8
"""Number of threads that read together: the maximum of the core."""


def stable_ids(data: Subject) -> None:
    """Opened twice, a split has the same ids and labels in the same order."""
    (ids, labels), (later_ids, later_labels) = _listed(opened(data)), _listed(opened(data))
    if ids != later_ids:
        kind = "come in another order" if sorted(ids) == sorted(later_ids) else "differ"
        raise Broken(f"the second time its ids {kind}, first at {_first_difference(ids, later_ids)}")
    if labels != later_labels:
        raise Broken(f"the second time its labels differ, first at {_first_difference(labels, later_labels)}")


def one_id_and_label_each(data: Subject) -> None:
    """Every example has a label and a text as an id that no other example has; there is at least one example."""
    ids, labels = _listed(opened(data))
    if len(ids) != len(labels) or not ids:
        raise Broken(f"it has {len(ids)} ids and {len(labels)} labels")
    for id in ids:
        if not isinstance(id, str):
            raise Broken(f"the id {id!r} is of type {type(id).__name__}, not str")
    if len(set(ids)) != len(ids):
        often, count = Counter(ids).most_common(1)[0]
        raise Broken(f"{len(ids)} examples have {len(set(ids))} ids; '{often}' occurs {count} times")


def labels_in_range(data: Subject) -> None:
    """Labels are whole numbers from 0 to below the size of the label space."""
    ids, labels = _listed(opened(data))
    space = data.entry.spec.labels
    classes = data.size_of(space)
    for id, label in zip(ids, labels, strict=False):
        if int(label) != label or not 0 <= label < classes:
            raise Broken(f"'{id}' has the label {label}, and '{space}' has 0 to {classes - 1}")


def pixels(data: Subject) -> None:
    """`read` returns uint8 images (H, W, C), or videos with a length and lists of frames (n, H, W, C); C is 1 or 3."""
    dataset, checked = opened(data), _check_video if data.entry.spec.kind == "video" else _check_image
    readable = 0
    for index in _sample(data, dataset):
        try:
            example = dataset.read(index)
        except UnreadableExample:  # the core names and counts these
            continue
        readable += 1
        checked(dataset.ids[index], example)
    if not readable:
        raise Broken(f"none of the {len(_sample(data, dataset))} examples that were tried can be read")


def reads_in_any_order(data: Subject) -> None:
    """An example's pixels are the same whether it is read first, last or again."""
    dataset = opened(data)
    sample = _sample(data, dataset)
    first = [_digest(dataset, index) for index in sample]
    backwards = [_digest(opened(data), index) for index in reversed(sample)]
    again = [_digest(dataset, index) for index in reversed(sample)]
    for index, one, *others in zip(sample, first, reversed(backwards), reversed(again), strict=True):
        if set(others) != {one}:
            condition = "read again" if others[1] != one else "read in another order"
            raise Broken(f"'{dataset.ids[index]}' has other pixels when it is {condition}")


def reads_from_threads(data: Subject) -> None:
    """Several threads that read at once get the same pixels as one thread."""
    dataset = opened(data)
    sample = _sample(data, dataset)
    alone = [_digest(dataset, index) for index in sample]
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(3):
            together = list(threads.map(lambda index: _digest(dataset, index), sample))
            wrong = [dataset.ids[i] for i, a, b in zip(sample, alone, together, strict=True) if a != b]
            if wrong:
                raise Broken(f"'{wrong[0]}' has other pixels when several threads read at once")


def draws_nothing(data: Subject) -> None:
    """Neither `open` nor `read` draws from global random generators."""
    opened(data)  # imports may draw, once
    with global_draws() as drawn:
        dataset = opened(data)
        for index in _sample(data, dataset):
            _digest(dataset, index)
    if drawn:
        raise Broken(f"it draws from the global generator of {' and '.join(drawn)}")


def fresh_process(data: Subject) -> None:
    """A fresh process finds the same ids, labels and pixels."""
    present, fresh = fingerprint(data), in_fresh_process(fingerprint, data)
    differ = [name for name in present if present[name] != fresh[name]]
    if differ:
        raise Broken(f"a fresh process finds other {' and '.join(differ)}")


def split_named(data: Subject) -> None:
    """A data set that takes any split is checked on the splits that the author names."""
    raise UserError(
        f"{data} takes any split, and no split is named to check; write splits={{'{data.name}': ['SPLIT']}} and "
        f"data_root='FOLDER', or leave it out by name: leave_out='{data}*'"
    )


RULES = (
    stable_ids,
    one_id_and_label_each,
    labels_in_range,
    pixels,
    reads_in_any_order,
    reads_from_threads,
    draws_nothing,
    fresh_process,
)


def opened(data: Subject) -> Dataset:
    """Open the split again. Raises what `open` raises."""
    arguments = [data.params] if data.entry.spec.params is not None else []
    dataset: Dataset = data.entry.spec.open(*arguments, data.data_root, data.split)
    return dataset


def fingerprint(data: Subject) -> dict[str, str]:
    """Return digests of ids, labels and the pixels of a sample, by name."""
    dataset = opened(data)
    ids, labels = _listed(dataset)
    digests = [_digest(dataset, index) for index in _sample(data, dataset)]
    found = {"ids": ids, "labels": labels, "pixels": digests}
    return {name: hashlib.sha256(repr(values).encode()).hexdigest() for name, values in found.items()}


def _listed(dataset: Dataset) -> tuple[list[Any], list[Any]]:
    labels = [label.item() if isinstance(label, np.generic) else label for label in dataset.labels]
    return list(dataset.ids), labels


def _sample(data: Subject, dataset: Dataset) -> list[int]:
    count = len(dataset.ids)
    places = np.linspace(0, count - 1, min(count, SAMPLE[data.entry.spec.kind])).round()
    return sorted({int(place) for place in places})


def _digest(dataset: Dataset, index: int) -> str:
    """Return a digest of an example's pixels; of a video, of a few frames."""
    try:
        example: Any = dataset.read(index)
        found = example if isinstance(example, np.ndarray) else example[_frames(len(example))]
    except UnreadableExample:
        return "unreadable"
    found = np.ascontiguousarray(found)
    return f"{found.dtype} {found.shape} {hashlib.sha256(found.tobytes()).hexdigest()}"


def _frames(count: int) -> list[int]:
    """Return the numbers of the first, the middle and the last frame."""
    return sorted({0, count // 2, count - 1})


def _check_image(id: str, image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or not image.size:
        raise Broken(f"'{id}' is {_describe(image)}, not a uint8 array (H, W, C)")
    if image.shape[-1] not in (1, 3):
        raise Broken(f"'{id}' is {_describe(image)}, and images have 1 or 3 channels, which come last")


def _check_video(id: str, video: Any) -> None:
    if len(video) < 1:
        raise Broken(f"'{id}' has no frames; raise UnreadableExample for such a video")
    wanted = _frames(len(video))
    alone = {frame: np.asarray(video[[frame]]) for frame in wanted}
    for frame, found in alone.items():
        if found.dtype != np.uint8 or found.ndim != 4 or len(found) != 1 or found.shape[-1] not in (1, 3):
            raise Broken(f"video[[{frame}]] of '{id}' is {_describe(found)}, not uint8 (1, H, W, C) with C 1 or 3")
    for frames in ([*wanted], [*reversed(wanted)], [wanted[-1], wanted[-1], wanted[0]]):
        found, joined = np.asarray(video[frames]), np.concatenate([alone[frame] for frame in frames])
        if not np.array_equal(found, joined):
            raise Broken(f"video[{frames}] of '{id}' is {_describe(found)}, and not these frames in this order")


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def _first_difference(some: Sequence[Any], others: Sequence[Any]) -> str:
    pairs = enumerate(zip_longest(some, others, fillvalue="nothing"))
    position, (first, second) = next((position, pair) for position, pair in pairs if pair[0] != pair[1])
    return f"position {position}: {first!r}, then {second!r}"
