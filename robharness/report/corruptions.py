"""The numbers of a report that take several corruptions together: mean accuracies, slopes, corruption errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from robharness import statistics
from robharness.planning.identity import draw_address
from robharness.report.records import CorruptionErrors, MeanAccuracy, SlopeNumbers
from robharness.statistics.intervals import Bools, Floats, Interval
from robharness.store.results import CellResult, Results
from robharness.suite import Baseline, Perturbation


class Resampled(NamedTuple):
    """Outcomes of some cells on the examples that all of them have, (cells, n), and their accuracies in resamples of
    these, (resamples, cells)."""

    right: Bools
    accuracies: Floats


class Corruptions:
    """All models' outcomes, clean and corrupted; every resample of examples is drawn once for all of them."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._drawn: dict[bytes, dict[str, Floats]] = {}

    def together(self, cells: Sequence[CellResult]) -> Resampled:
        """These cells on the examples that they have in common; n may be 0."""
        common = cells[0].positions
        for cell in cells[1:]:
            if cell.positions is not common and not np.array_equal(cell.positions, common):
                common = np.intersect1d(common, cell.positions, assume_unique=True)
        right = np.stack(self.results.paired(cells))
        if not len(common):
            return Resampled(right, np.empty((0, len(cells))))
        drawn = self._drawn.setdefault(common.tobytes(), {})
        if any(cell.cell.key not in drawn for cell in cells):
            every = [cell for cell in self.results.cells if cell.cell.kind != "attack"]
            covering = [cell for cell in every if np.isin(common, cell.positions, assume_unique=True).all()]
            rows = np.stack([cell.correct[np.searchsorted(cell.positions, common)] for cell in covering])
            resampled = statistics.resampled_accuracies(rows)
            drawn.update({cell.cell.key: resampled[:, row] for row, cell in enumerate(covering)})
        return Resampled(right, np.stack([drawn[cell.cell.key] for cell in cells], axis=1))

    def means(self) -> list[MeanAccuracy]:
        """Of every model, over all its corruptions, per group and per severity."""
        return [
            self._mean(label, part, there)
            for label in self.results.labels
            for part in _parts(self.results)
            if (there := self._of(label, part.names))
        ]

    def slopes(self) -> list[SlopeNumbers]:
        """Of every model but the reference; none without a reference."""
        reference = self.results.suite.reference
        if reference is None:
            return []
        return [
            self._slope(label, reference, part, there)
            for label in self.results.labels
            for part in _parts(self.results)
            if label != reference and (there := self._of(label, self._names(self._of(reference, part.names))))
        ]

    def errors(self) -> list[CorruptionErrors]:
        """Of every model and every set of corruptions."""
        return [
            self._errors(label, name, there)
            for label in self.results.labels
            for name, names in _sets(self.results).items()
            if (there := self._of(label, names))
        ]

    def _of(self, label: str, names: Sequence[str]) -> list[CellResult]:
        """The model's cells of these names that have outcomes."""
        return [r for r in self.results.of(label, "corruption") if r.n and r.cell.short_name in names]

    @staticmethod
    def _names(cells: Sequence[CellResult]) -> list[str]:
        return [cell.cell.short_name for cell in cells]

    def _mean(self, label: str, part: _Part, there: list[CellResult]) -> MeanAccuracy:
        right, resampled = self.together(there)
        n = right.shape[1]
        return MeanAccuracy(
            model=label,
            group=part.group,
            severity=part.severity,
            n=n,
            corruptions=len(there),
            asked=len(part.names),
            accuracy=float(right.mean()) if n else None,
            interval=statistics.percentile_interval(resampled.mean(axis=1)) if n else None,
        )

    def _slope(self, label: str, reference: str, part: _Part, there: list[CellResult]) -> SlopeNumbers:
        """The slope and its intervals on the examples that all the cells have."""
        k, results = 1 + len(there), self.results
        against = self._of(reference, self._names(there))
        right, resampled = self.together([results.clean(reference), *against, results.clean(label), *there])
        n = right.shape[1]
        value = interval = over = None
        without: dict[str, float] = {}
        if n:
            try:
                base, own = (statistics.relative_drops(rows.mean(axis=1)) for rows in (right[:k], right[k:]))
                value = statistics.slope(base, own)
                interval = statistics.slope_interval(resampled[:, :k], resampled[:, k:])
                titles, which = _numbered(there)
                over = statistics.slope_interval_over_corruptions(base, own, which)
                if len(titles) > 1:
                    without = dict(zip(titles, statistics.slopes_without_each(base, own, which).tolist(), strict=True))
            except statistics.UndefinedNumber:
                pass  # nothing dropped, or a model is never right: there is no slope, and the report shows none
        return SlopeNumbers(
            model=label,
            reference=reference,
            group=part.group,
            severity=part.severity,
            n=n,
            corruptions=len(there),
            asked=len(part.names),
            slope=value,
            interval=interval,
            corruption_interval=over,
            without=without,
            few_examples=n < statistics.MIN_SLOPE_EXAMPLES,
        )

    def _errors(self, label: str, name: str, there: list[CellResult]) -> CorruptionErrors:
        suite = self.results.suite
        table = suite.baseline if isinstance(suite.baseline, Baseline) else None
        model = suite.baseline if isinstance(suite.baseline, str) else None
        lacks = _lacks(self.results, there, table) if table else ""
        if table and not lacks:
            there = [cell for cell in there if _plain(cell) in table.errors]
        beside: list[CellResult] = []
        if model:
            against = self._of(model, self._names(there))
            there = [cell for cell in there if cell.cell.short_name in self._names(against)]
            beside = [self.results.clean(model), *against] if there else []
        right, resampled = self.together([self.results.clean(label), *there, *beside])
        n, k, (titles, which) = right.shape[1], 1 + len(there), _numbered(there)
        shares = np.eye(len(titles))[which] / np.bincount(which)  # a corruption's error is the mean of its severities'
        published = np.array([table.errors[_plain(there[row])] for row in np.unique(which, return_index=True)[1]]
                             if table and not lacks else [])  # fmt: skip

        def numbers(accuracies: Floats) -> tuple[Floats, Floats | None]:
            """Errors (..., corruptions), and relative ones, from accuracies (..., cells)."""
            ours, clean = 1 - accuracies[..., 1:k] @ shares, 1 - accuracies[..., 0]
            if table and not lacks:
                theirs, their_clean = published, np.array(table.clean)
            elif model:
                theirs, their_clean = 1 - accuracies[..., k + 1 :] @ shares, 1 - accuracies[..., k]
            else:
                return ours, None
            relative = statistics.relative_corruption_errors(ours, clean, theirs, their_clean)
            return statistics.corruption_errors(ours, theirs), relative

        found: dict[str, float | None] = dict.fromkeys(titles)
        means: list[tuple[float | None, Interval | None]] = [(None, None), (None, None)]
        if n and there:
            values, drawn = numbers(right.mean(axis=1)), numbers(resampled)
            found = dict(zip(titles, map(_number, values[0]), strict=True))
            means = [
                (None, None)
                if value is None or many is None
                else (_number(value.mean()), statistics.percentile_interval(many.mean(axis=-1)))
                for value, many in zip(values, drawn, strict=True)
            ]
        called = f"mean CE relative to {model}" if model else "mean corruption error"
        return CorruptionErrors(
            model=label,
            corruptions=name,
            name="mCE" if table and not lacks else called,
            baseline=table.name if table and not lacks else model,
            n=n,
            error=means[0][0],
            interval=means[0][1],
            relative=means[1][0],
            relative_interval=means[1][1],
            by_corruption=found,
            lacks=lacks,
        )


class _Part(NamedTuple):
    group: str | None
    severity: int | None
    names: list[str]


def _parts(results: Results) -> Iterator[_Part]:
    """All corruptions, those of each group, and those at each severity where there are several."""
    asked = [p for p in results.suite.perturbations if p.kind == "corruption"]
    severities = sorted({p.severity for p in asked if p.severity is not None})
    yield _Part(None, None, [p.name for p in asked])
    for group in dict.fromkeys(p.entry.spec.group for p in asked):
        yield _Part(group, None, [p.name for p in asked if p.entry.spec.group == group])
    for severity in severities if len(severities) > 1 else ():
        yield _Part(None, severity, [p.name for p in asked if p.severity == severity])


def _sets(results: Results) -> dict[str, list[str]]:
    """The names of corruptions by the set that they are of: what stands before the last stroke of their plugin's."""
    found: dict[str, list[str]] = {}
    for perturbation in results.suite.perturbations:
        if perturbation.kind == "corruption":
            found.setdefault(perturbation.entry.name.rpartition("/")[0], []).append(perturbation.name)
    return found


def _corruption(cell: CellResult) -> Perturbation:
    assert cell.cell.perturbation is not None
    return cell.cell.perturbation


def _plain(cell: CellResult) -> str:
    """The name that published tables give its corruption."""
    return str(_corruption(cell).entry.spec.name).rpartition("/")[2]


def _numbered(cells: Sequence[CellResult]) -> tuple[list[str], np.ndarray]:
    """The corruptions of these cells, whatever their severity, and which of them each is of, (cells,)."""
    addresses = [draw_address(_corruption(cell)) for cell in cells]
    distinct = list(dict.fromkeys(addresses))
    titles = [_corruption(cells[addresses.index(address)]).title for address in distinct]
    return titles, np.array([distinct.index(address) for address in addresses], dtype=np.int64)


def _lacks(results: Results, there: Sequence[CellResult], table: Baseline) -> str:
    """What keeps these corruptions from being those of the table, or ""."""
    if results.suite.canvas != table.canvas:
        return f"{table.name}'s errors are of pictures of {table.canvas} px, these have {results.suite.canvas}"
    found = [(_plain(cell), _corruption(cell).severity) for cell in there]
    twice = [pair for pair in dict.fromkeys(found) if found.count(pair) > 1 and pair[0] in table.errors]
    if twice:
        return f"{twice[0][0]}({twice[0][1]}) is there more than once"
    missing = [f"{name}({severity})" for name in table.errors for severity in range(1, 6)
               if (name, severity) not in found]  # fmt: skip
    if not missing:
        return ""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"it takes the {len(table.errors)} corruptions of {table.name}'s table at severities 1 to 5; " + (
        f"without outcomes: {missing[0]}{more}"
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
