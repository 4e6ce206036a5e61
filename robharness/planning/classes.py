"""Classes of the data: those that a suite restricts logits to, and those of the label space that do not occur."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from robharness.errors import UserError
from robharness.findings import Finding, finding
from robharness.planning.datasets import FixedDataset
from robharness.specs.conventions import INSTANCES
from robharness.suite import Data, Suite
from robharness.text import printable


def chosen_classes(data: Data, dataset: FixedDataset) -> tuple[int, ...] | None:
    """Return the classes that logits are restricted to, ascending; None for all.

    Raises UserError if an example has another label, or if there are fewer than two classes.
    """
    if data.classes is None:
        return None
    chosen = tuple(sorted(set(dataset.labels))) if data.classes == "present" else tuple(data.classes)
    known = set(chosen)
    for id, label in zip(dataset.ids, dataset.labels, strict=True):
        if label not in known:
            raise UserError(
                f"{data.name} has the label {label}, such as of '{printable(id)}', which is none of the "
                f"{len(chosen)} classes of `classes`. Try: `classes: present`"
            )
    if len(chosen) < 2:
        raise UserError(f"all examples of {data.name} have one class, and a classifier needs two. Try: other data")
    return chosen


def absent_class_findings(suite: Suite, dataset: FixedDataset) -> Iterator[Finding]:
    """Yield a finding if classes of the label space are absent from the whole split, and more than chance would have.

    A small part of a data set, such as one image for each of some classes, is left out.
    """
    data, spec = suite.data, suite.data.entry.spec
    known, present = spec.known_classes, len(set(dataset.labels))
    if data.classes is not None or known is None or all(m.entry.spec.labels == INSTANCES for m in suite.models):
        return
    is_declared = set(dataset.labels) <= set(spec.masks.get(spec.name, ()))
    if is_declared or known - present > 2 * _absent_by_chance(known, len(dataset.labels)) + 1:
        choice = _mask(spec.masks, dataset.labels) or "present"
        yield finding(
            "classes-absent",
            f"its examples have {present} of the {known:,} classes of '{spec.labels}', and a prediction of another "
            f"class counts as wrong",
            subject=data.name,
            hint=f"to restrict the logits to these classes, as published numbers of such data sets are: write "
            f"`classes: {choice}` in `data:`",
        )


def _absent_by_chance(classes: int, examples: int) -> float:
    """Return how many classes no example has, on average, if each example has any class with equal probability."""
    return float(classes * (1 - 1 / classes) ** examples) if classes > 1 else 0.0


def _mask(masks: Mapping[str, Sequence[int]], labels: Sequence[int]) -> str | None:
    """Return the name of the smallest published subset that has all of these labels; None if there is none."""
    fitting = [name for name, classes in masks.items() if set(labels) <= set(classes)]
    return min(fitting, key=lambda name: len(masks[name]), default=None)
