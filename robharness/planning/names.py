"""The names of a cell, the same for one that is planned and for one that is stored, and labels that share a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal


class CellNames:
    """The kind and the names of a cell.

    model: has a `label`.
    data: has a `name`.
    perturbation: has a `kind`, a `name`, `audit` and `is_unbounded`; None for clean examples.
    with_features: whether the cell stores features.
    """

    model: Any
    data: Any
    perturbation: Any
    with_features: bool

    @property
    def kind(self) -> Literal["clean", "attack", "corruption", "features", "audit"]:
        if self.with_features:
            return "features"
        if self.perturbation is not None and self.perturbation.audit:
            return "audit"
        kind: Literal["clean", "attack", "corruption"] = (
            "clean" if self.perturbation is None else self.perturbation.kind
        )
        return kind

    @property
    def is_own(self) -> bool:
        """Whether the cell is one of the suite's own tables: its features are not stored, and no audit added it."""
        return self.kind not in ("features", "audit")

    @property
    def is_unbounded(self) -> bool:
        """Whether it is an attack without a budget, whose accuracy is what its whole search leaves."""
        return self.perturbation is not None and bool(self.perturbation.is_unbounded)

    @property
    def what(self) -> str:
        """The condition of the examples: "clean", or the perturbation's name."""
        return "clean" if self.perturbation is None else str(self.perturbation.name)

    @property
    def short_name(self) -> str:
        return f"features({self.what})" if self.with_features else self.what

    @property
    def name(self) -> str:
        return f"{self.model.label} · {self.data.name} · {self.short_name}"


def labels_by_value(values: Mapping[str, str]) -> dict[str, str]:
    """Return the distinct values, each with the labels that have it; without labels if all have one value.

    values: label -> value, such as the way of a pixel.
    """
    distinct = dict.fromkeys(values.values())
    if len(distinct) == 1:
        return dict.fromkeys(distinct, "")
    return {value: ", ".join(label for label, other in values.items() if other == value) for value in distinct}
