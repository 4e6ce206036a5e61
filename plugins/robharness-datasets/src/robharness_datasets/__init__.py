"""The data sets of the paper, read from disk as their publishers lay them out."""

from __future__ import annotations

from collections.abc import Iterator

from robharness import DatasetSpec, hookimpl

# from robharness_datasets import ucf101  (its module keeps `SPEC`, and imports numpy and decord when it opens)


@hookimpl
def robharness_datasets() -> Iterator[DatasetSpec]:
    yield from ()
    # yield ucf101.SPEC
