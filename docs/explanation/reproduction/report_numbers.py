"""The numbers of a CSV file that `robharness report` wrote, by model, perturbation or metric, and run."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from robharness import statistics

Runs = Mapping[str, float]
"""A number per run of a model, by the label of the run, such as "SupCon seed 0"."""


@dataclass
class Numbers:
    """The complete numbers of one file.

    accuracies: by model and perturbation, "clean" included, the accuracy of each run as a fraction.
    metrics: by model and metric, the number of each run.
    gaps, gains: by model and perturbation, the gap closed and the gain with both ends of their intervals, as the report
        computed them.
    examples: number of examples of a cell.
    """

    accuracies: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    gaps: dict[str, dict[str, tuple[float, statistics.Interval]]] = field(default_factory=dict)
    gains: dict[str, dict[str, tuple[float, statistics.Interval]]] = field(default_factory=dict)
    examples: int = 0

    @property
    def attacks(self) -> list[str]:
        """The attacks, in the order of the suite."""
        names = dict.fromkeys(name for each in self.accuracies.values() for name in each)
        return [name for name in names if name != "clean"]

    def models(self, patterns: Sequence[str]) -> list[str]:
        """Return the models that match a pattern, pattern by pattern."""
        return matching(patterns, self.accuracies)

    def measured(self, patterns: Sequence[str]) -> list[str]:
        """Return the metrics that match a pattern, pattern by pattern."""
        return matching(patterns, dict.fromkeys(name for each in self.metrics.values() for name in each))

    def of(self, model: str, name: str) -> Runs:
        """Return a model's accuracy under a perturbation, or its metric, per run; empty if there is none."""
        return self.accuracies.get(model, {}).get(name) or self.metrics.get(model, {}).get(name) or {}

    def drops(self, model: str, attack: str) -> Runs:
        """Return the relative drop of each run, from its clean accuracy to its accuracy under the attack."""
        clean = self.of(model, "clean")
        attacked = {run: value for run, value in self.of(model, attack).items() if run in clean}
        return {run: statistics.relative_drop(clean[run], value) for run, value in attacked.items()}


def matching(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the names that match a pattern such as "SwAV *", pattern by pattern."""
    available = list(names)
    return list(dict.fromkeys(name for pattern in patterns for name in available if fnmatchcase(name, pattern)))


def read(path: Path) -> Numbers:
    """Read a file that `robharness report` wrote, without worst cases and without numbers that are not complete.

    A metric counts for the runs whose clean accuracy is complete.
    """
    found = Numbers()
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            is_metric = not row["perturbation"]  # of the features of a run, whatever other runs have
            if not (is_metric or row["complete"] == "true") or row["perturbation"].startswith("worst case"):
                continue
            model = re.sub(r" seed \d+$", "", row["model"])
            value = float(row["value"])
            if row["statistic"] in ("accuracy", "robust_accuracy"):  # an ensemble's counts only right clean examples
                found.accuracies.setdefault(model, {}).setdefault(row["perturbation"], {})[row["model"]] = value
                found.examples = int(row["n"])
            elif row["statistic"] in ("gap_closed", "gain"):
                ends = [float(row[name] or sign * math.inf) for name, sign in (("low", -1), ("high", 1))]
                kind = found.gaps if row["statistic"] == "gap_closed" else found.gains
                kind.setdefault(model, {})[row["perturbation"]] = (value, statistics.Interval(*ends))
            else:
                found.metrics.setdefault(model, {}).setdefault(row["statistic"], {})[row["model"]] = value
    for model, metrics in found.metrics.items():
        whole = found.of(model, "clean")
        found.metrics[model] = {
            name: {run: runs[run] for run in runs if run in whole} for name, runs in metrics.items()
        }
    return found
