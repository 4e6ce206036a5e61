"""Names that items of a suite with errors may have, so that one mistake is not reported again where they are used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from robharness.errors import glob_matches
from robharness.plugins import Entry, Registry
from robharness.suite.records import MOST_SEEDS


@dataclass(kw_only=True)
class Unresolved:
    """Names that belong to items with errors.

    labels: of models, with those of their seeds.
    has_models: whether there are models whose labels are unknown.
    perturbations: names of attacks and corruptions without their plugin; may be patterns.
    has_perturbations: whether there are attacks or corruptions whose names are unknown.
    has_metrics: whether there are metrics with errors.
    """

    labels: list[str] = field(default_factory=list)
    has_models: bool = False
    perturbations: list[str] = field(default_factory=list)
    has_perturbations: bool = False
    has_metrics: bool = False

    def add_model(self, item: Any, registry: Registry, *, is_read: bool) -> None:
        """Add the labels of an item of `models` as it is written.

        is_read: whether all of its keys and values could be read.
        """
        item = item if isinstance(item, dict) else {}
        label, name = item.get("label"), item.get("model")
        if isinstance(label, str) and label:
            labels = [label]
        elif label is None and isinstance(name, str):
            alike = [each for each in registry.models if glob_matches(each, name)]
            labels = [name, *(alike or get_close_matches(name[:200], registry.models, n=3))]
        else:
            labels = []
        self.has_models |= not labels or not is_read
        seed, seeds = item.get("seed", 0), item.get("seeds")
        if type(seeds) is int and type(seed) is int and 0 < seeds <= MOST_SEEDS:
            labels = [*labels, *(f"{label} seed {at}" for label in labels for at in range(seed, seed + seeds))]
        self.has_models |= seeds is not None and "seed" not in item  # the suite's seed may have an error, too
        self.labels += labels

    def has_label(self, label: str, known: Iterable[str]) -> bool:
        """Return whether a model has a label, or may have it once the errors are corrected.

        known: labels of the models without errors.
        """
        return self.has_models or label in known or label in self.labels

    def add_perturbation(self, item: Any, noun: str, known: Iterable[str]) -> None:
        """Add the names that an item of `attacks` or `corruptions` may mean.

        noun: "attack" or "corruption".
        known: names of the plugins' entries of this kind.
        """
        name = item.get(noun) if isinstance(item, dict) else None
        if isinstance(name, str):
            names = [name] if name in known else [name, *get_close_matches(name[:200], known, n=3)]
            self.perturbations += [each.rpartition("/")[2] for each in names]
        else:
            self.has_perturbations = True

    def has_number(self, name: str, cells: Iterable[str], metrics: Iterable[Entry]) -> bool:
        """Return whether a key of `expected` names a cell or a metric, or may do so once the errors are corrected.

        cells: names of the cells of the items without errors.
        """
        if name in cells or any(name == metric.name for metric in metrics):
            return True
        full, bracket, _ = name.partition("(")
        head = full.rpartition("/")[2]
        if not bracket:
            return self.has_metrics and not get_close_matches(name[:200], ["clean"])
        alike = get_close_matches(head[:200], self.perturbations, n=1)
        return self.has_perturbations or bool(alike) or any(glob_matches(head, p) for p in self.perturbations)
