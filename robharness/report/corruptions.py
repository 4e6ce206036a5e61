"""Numbers over several corruptions: mean accuracies, slopes and corruption errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from robharness import statistics
from robharness.planning.outline import PerturbationOutline
from robharness.report.records import CorruptionErrors, MeanAccuracy, SlopeNumbers
from robharness.statistics.intervals import Floats, Interval
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions
from robharness.suite import Baseline


class Resampled(NamedTuple):
    """Outcomes of cells on the examples that all of them have.

    n: the number of these examples.
    accuracies: (cells,).
    resampled: (resamples, cells), the accuracies in bootstrap resamples of the examples.
    """

    n: int
    accuracies: Floats
    resampled: Floats


class Corruptions:
    """The clean and corrupted outcomes of all models; all share the same bootstrap resamples of the examples."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._drawn: dict[bytes, dict[str, tuple[float, Floats]]] = {}

    def together(self, cells: Sequence[CellResult]) -> Resampled:
        """Return the outcomes of cells on the examples that they have in common; n may be 0."""
        common = common_positions([cell.positions for cell in cells])
        if not len(common):
            return Resampled(0, np.empty(len(cells)), np.empty((0, len(cells))))
        drawn = self._drawn.setdefault(common.tobytes(), {})
        if any(cell.cell.key not in drawn for cell in cells):
            candidates = [cell for cell in self.results.cells if cell.cell.kind != "attack"]
            covering = [cell for cell in candidates if len(common_positions([common, cell.positions])) == len(common)]
            rows = np.stack([cell.correct_at(common) for cell in covering])
            resampled = statistics.resampled_accuracies(rows)
            accuracies = np.count_nonzero(rows, axis=1) / len(common)
            rows_of = zip(covering, accuracies.tolist(), resampled.T, strict=True)
            drawn.update({cell.cell.key: (accuracy, column) for cell, accuracy, column in rows_of})
        found = [drawn[cell.cell.key] for cell in cells]
        columns = np.stack([column for _, column in found], axis=1)
        return Resampled(len(common), np.array([accuracy for accuracy, _ in found]), columns)

    def means(self) -> list[MeanAccuracy]:
        """Return the mean accuracies of every model: over all corruptions, per group and per severity."""
        return [
            self._mean(label, part, available)
            for label in self.results.labels
            for part in _parts(self.results)
            if (available := self._of(label, part.names))
        ]

    def slopes(self) -> list[SlopeNumbers]:
        """Return the slopes of every model but the reference; none without a reference."""
        reference = self.results.outline.suite.reference
        if reference is None:
            return []
        return [
            self._slope(label, reference, part, available)
            for label in self.results.labels
            for part in _parts(self.results)
            if label != reference and (available := self._of(label, self._names(self._of(reference, part.names))))
        ]

    def errors(self) -> list[CorruptionErrors]:
        """Return the corruption errors of every model on every set of corruptions."""
        return [
            self._errors(label, name, available)
            for label in self.results.labels
            for name, names in _sets(self.results).items()
            if (available := self._of(label, names))
        ]

    def _of(self, label: str, names: Sequence[str]) -> list[CellResult]:
        """Return the model's cells of these names that have outcomes."""
        return [r for r in self.results.of(label, "corruption") if r.n and r.cell.short_name in names]

    @staticmethod
    def _names(cells: Sequence[CellResult]) -> list[str]:
        return [cell.cell.short_name for cell in cells]

    def _mean(self, label: str, part: _Part, cells: list[CellResult]) -> MeanAccuracy:
        n, accuracies, resampled = self.together(cells)
        return MeanAccuracy(
            model=label,
            group=part.group,
            severity=part.severity,
            n=n,
            corruptions=len(cells),
            asked=len(part.names),
            accuracy=float(accuracies.mean()) if n else None,
            interval=statistics.percentile_interval(resampled.mean(axis=1)) if n else None,
        )

    def _slope(self, label: str, reference: str, part: _Part, cells: list[CellResult]) -> SlopeNumbers:
        """Return the slope and its intervals on the examples that all cells have."""
        k, results = 1 + len(cells), self.results
        against = self._of(reference, self._names(cells))
        n, accuracies, resampled = self.together([results.clean(reference), *against, results.clean(label), *cells])
        value = interval = corruption_interval = None
        without: dict[str, float] = {}
        if n:
            try:
                base, own = map(statistics.relative_drops, (accuracies[:k], accuracies[k:]))
                value = statistics.slope(base, own)
                interval = statistics.slope_interval(resampled[:, :k], resampled[:, k:])
                titles, which = _numbered(cells)
                corruption_interval = statistics.slope_interval_over_corruptions(base, own, which)
                if len(titles) > 1:
                    without = dict(zip(titles, statistics.slopes_without_each(base, own, which).tolist(), strict=True))
            except statistics.UndefinedNumber:
                pass  # the reference never drops, or a model is never correct: the report shows no slope
        return SlopeNumbers(
            model=label,
            reference=reference,
            group=part.group,
            severity=part.severity,
            n=n,
            corruptions=len(cells),
            asked=len(part.names),
            slope=value,
            interval=interval,
            corruption_interval=corruption_interval,
            without=without,
            few_examples=n < statistics.MIN_SLOPE_EXAMPLES,
        )

    def _errors(self, label: str, name: str, cells: list[CellResult]) -> CorruptionErrors:
        """Return the corruption errors of a model, relative to the suite's baseline if it has one."""
        suite = self.results.outline.suite
        model = suite.baseline if isinstance(suite.baseline, str) else None
        table = suite.baseline if isinstance(suite.baseline, Baseline) else None
        unavailable_reason = _unavailable_reason(self.results, cells, table) if table else ""
        if unavailable_reason:
            table = None
        if table:
            cells = [cell for cell in cells if _plain(cell) in table.errors]
        beside: list[CellResult] = []
        if model:
            against = self._of(model, self._names(cells))
            cells = [cell for cell in cells if cell.cell.short_name in self._names(against)]
            beside = [self.results.clean(model), *against] if cells else []
        n, accuracies, resampled = self.together([self.results.clean(label), *cells, *beside])
        k, (titles, which) = 1 + len(cells), _numbered(cells)
        shares = np.eye(len(titles))[which] / np.bincount(which)  # a corruption's error is the mean of its severities'
        published = np.array([table.errors[_plain(cells[row])] for row in np.unique(which, return_index=True)[1]]
                             if table else [])  # fmt: skip

        def numbers(accuracies: Floats) -> tuple[Floats, Floats | None]:
            """Return errors (..., corruptions), and relative ones, from accuracies (..., cells)."""
            ours, clean = 1 - accuracies[..., 1:k] @ shares, 1 - accuracies[..., 0]
            if table:
                theirs, their_clean = published, np.array(table.clean)
            elif model:
                theirs, their_clean = 1 - accuracies[..., k + 1 :] @ shares, 1 - accuracies[..., k]
            else:
                return ours, None
            relative = statistics.relative_corruption_errors(ours, clean, theirs, their_clean)
            return statistics.corruption_errors(ours, theirs), relative

        found: dict[str, float | None] = dict.fromkeys(titles)
        means: list[tuple[float | None, Interval | None]] = [(None, None), (None, None)]
        if n and cells:
            values, drawn = numbers(accuracies), numbers(resampled)
            found = dict(zip(titles, map(_number, values[0]), strict=True))
            means = [
                (None, None)
                if value is None or many is None
                else (_number(value.mean()), statistics.percentile_interval(many.mean(axis=-1)))
                for value, many in zip(values, drawn, strict=True)
            ]
        return CorruptionErrors(
            model=label,
            corruptions=name,
            name="mCE" if table else f"mean CE relative to {model}" if model else "mean corruption error",
            baseline=table.name if table else model,
            n=n,
            error=means[0][0],
            interval=means[0][1],
            relative=means[1][0],
            relative_interval=means[1][1],
            by_corruption=found,
            lacks=unavailable_reason,
        )


class _Part(NamedTuple):
    """The corruptions of a group or of a severity, or (None, None) all corruptions, by name."""

    group: str | None
    severity: int | None
    names: list[str]


def _parts(results: Results) -> Iterator[_Part]:
    """Yield all corruptions, those of each group, and those at each severity if there are several."""
    expected = [p for p in results.outline.suite.perturbations if p.kind == "corruption"]
    severities = sorted({p.severity for p in expected if p.severity is not None})
    yield _Part(None, None, [p.name for p in expected])
    for group in dict.fromkeys(p.group for p in expected):
        yield _Part(group, None, [p.name for p in expected if p.group == group])
    for severity in severities if len(severities) > 1 else ():
        yield _Part(None, severity, [p.name for p in expected if p.severity == severity])


def _sets(results: Results) -> dict[str, list[str]]:
    """Return the names of corruptions by set: the part of their full name before its last slash."""
    found: dict[str, list[str]] = {}
    for perturbation in results.outline.suite.perturbations:
        if perturbation.kind == "corruption":
            found.setdefault(perturbation.collection, []).append(perturbation.name)
    return found


def _corruption(cell: CellResult) -> PerturbationOutline:
    assert cell.cell.perturbation is not None
    return cell.cell.perturbation


def _plain(cell: CellResult) -> str:
    """Return the cell's corruption by its name in published tables."""
    return _corruption(cell).plain_name


def _numbered(cells: Sequence[CellResult]) -> tuple[list[str], np.ndarray]:
    """Return the distinct corruptions of cells, severities apart, and for each cell their index, (cells,) int."""
    addresses = [_corruption(cell).draws for cell in cells]
    distinct = list(dict.fromkeys(addresses))
    titles = [_corruption(cells[addresses.index(address)]).title for address in distinct]
    return titles, np.array([distinct.index(address) for address in addresses], dtype=np.int64)


def _unavailable_reason(results: Results, cells: Sequence[CellResult], table: Baseline) -> str:
    """Return why these cells have no mCE by a published table, or "" if they have one."""
    sides = results.outline.pixels.sides
    if sides != (table.canvas, table.canvas):
        return f"{table.name}'s errors are of images of {table.canvas} px, these have {sides and sides[0]}"
    found = [(_plain(cell), _corruption(cell).severity) for cell in cells]
    twice = [pair for pair in dict.fromkeys(found) if found.count(pair) > 1 and pair[0] in table.errors]
    if twice:
        return f"{twice[0][0]}({twice[0][1]}) is in the suite more than once"
    missing = [f"{name}({severity})" for name in table.errors for severity in range(1, 6)
               if (name, severity) not in found]  # fmt: skip
    if not missing:
        return ""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"it needs the {len(table.errors)} corruptions of {table.name}'s table at severities 1 to 5; "
        f"without outcomes: {missing[0]}{more}"
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
