"""From results to the numbers of a report, each with its n and its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robharness import metrics
from robharness.metrics import Interval
from robharness.report.corruptions import CorruptionErrors, Corruptions, MeanAccuracy, SlopeNumbers
from robharness.report.gaps import GapClosed, gaps
from robharness.report.runs import RunNumbers, over_runs
from robharness.results import CellResult, Results
from robharness.specs import Measured


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Accuracies and the drop of one thing, as fractions; None where there is no such number.

    accuracy: over all examples, each of them perturbed. robust_accuracy: right clean and perturbed.
    relative_drop: of `accuracy` against the clean one; of `robust_accuracy` where only right examples were attacked.
    """

    n: int
    accuracy: float | None = None
    interval: Interval | None = None
    robust_accuracy: float | None = None
    robust_interval: Interval | None = None
    relative_drop: float | None = None
    relative_drop_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The smallest perturbations that change a model's mind, as far as an attack found them.

    n: examples. found: for how many there is one; it is 0 where the clean input is wrong already. median: half of all
    examples are wrong within it, None where fewer are; quartiles: a quarter and three quarters of them.
    curve: (eps, accuracy) at 101 steps from all right to all wrong that were found.
    """

    n: int
    found: int
    median: float | None
    interval: Interval
    quartiles: tuple[float | None, float | None]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class CellNumbers:
    """A cell and its numbers. notes: totals of the attack's numeric notes; alarms: those to warn of; expected: the
    published accuracy, a fraction.

    components: how many examples each member of an ensemble broke. success: the share that a targeted attack brought
    to its class, of those for which it wanted one. accuracy_8bit: what is right when the perturbed inputs are rounded
    to 256 levels. distances: of an attack without a budget.
    """

    model: str
    data: str
    kind: str
    perturbation: str
    norm: str | None
    eps: str | None
    severity: int | None
    group: str | None
    numbers: Numbers
    complete: bool
    key: str
    not_numbers: int = 0
    unreadable: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    expected: float | None = None
    components: dict[str, int] = field(default_factory=dict)
    success: float | None = None
    accuracy_8bit: float | None = None
    distances: Distances | None = None


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """Right under every attack of this norm with a budget up to eps, since all of them stay in that ball.

    attacks: how many there are, of `asked`; with fewer, the model looks more robust than it is.
    """

    model: str
    norm: str
    eps: str
    attacks: int
    asked: int
    numbers: Numbers


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is shown of a suite's results. problems: failed cells; warnings: what a reader must know.

    metrics, expected_metrics: name -> label -> what was measured, and published.
    run_of: label of a run -> the label that runs with other seeds share with it. runs: their spread.
    """

    suite: str
    title: str
    data: str
    n: int
    compat: str
    reference: str | None
    count: str
    complete: bool
    models: tuple[str, ...]
    cells: tuple[CellNumbers, ...]
    worst_cases: tuple[WorstCase, ...]
    corruption_means: tuple[MeanAccuracy, ...]
    slopes: tuple[SlopeNumbers, ...]
    corruption_errors: tuple[CorruptionErrors, ...]
    gap: tuple[str, str] | None
    gaps: tuple[GapClosed, ...]
    metrics: dict[str, dict[str, Measured]]
    expected_metrics: dict[str, dict[str, float]]
    expected_source: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    run_of: dict[str, str] = field(default_factory=dict)
    runs: tuple[RunNumbers, ...] = ()

    @property
    def columns(self) -> dict[str, list[str]]:
        """The columns of a table, and the models that stand in each: one, or the runs of one."""
        found: dict[str, list[str]] = {}
        for model in self.models:
            found.setdefault(self.run_of.get(model, model), []).append(model)
        return found

    def asked_runs(self, label: str) -> int:
        """How many runs the suite has of the label that they share."""
        return list(self.run_of.values()).count(label)


def source_of(report: Report) -> str:
    """What was measured, in words: the data, how many of them, and whether they were encoded first."""
    encoded = ", encoded as the files of ImageNet-C (JPEG 85)" if report.compat == "imagenet-c" else ""
    return f"{report.data}, {report.n} examples per cell{encoded}"


def build(results: Results, warnings: Sequence[str] = ()) -> Report:
    """The report of these results. warnings: what the run itself had to say."""
    suite = results.suite
    cells = tuple(_cell(results, result) for result in results.cells)
    corruptions = Corruptions(results)
    slopes, errors = tuple(corruptions.slopes()), tuple(corruptions.errors())
    values, failed = _metrics(results)
    run_of = {model.label: model.run_of for model in suite.models if model.run_of is not None}
    return Report(
        suite=suite.name,
        title=suite.title or suite.name,
        data=results.plan.data.name if results.plan.data else suite.data.name,
        n=results.plan.n,
        compat=suite.compat,
        reference=suite.reference,
        count=suite.count,
        complete=results.is_complete and not results.invalid,
        models=tuple(results.labels),
        cells=cells,
        worst_cases=tuple(_worst_cases(results)),
        corruption_means=tuple(corruptions.means()),
        slopes=slopes,
        corruption_errors=errors,
        gap=suite.gap,
        gaps=tuple(gaps(results)),
        metrics=values,
        expected_metrics={
            entry.name: {
                model.label: published
                for model in suite.models
                if (published := suite.published(model, entry.name)) is not None
            }
            for entry in suite.metrics
        },
        expected_source=suite.expected_source,
        problems=tuple(
            dict.fromkeys([*_untrained(results, failed=True), *_failures(results), *failed, *results.invalid])
        ),
        warnings=tuple(
            dict.fromkeys(
                [
                    *[*results.plan.warnings, *warnings, *results.notes, *_untrained(results, failed=False)],
                    *[*_ways(results), *_lacking(values)],
                    *[*_unreadable(results), *_remarks(cells, slopes, errors), *_weaker(results)],
                ]
            )
        ),
        run_of=run_of,
        runs=tuple(_runs(cells, run_of)),
    )


def _runs(cells: Sequence[CellNumbers], run_of: dict[str, str]) -> list[RunNumbers]:
    """Of every label that runs share, and every perturbation."""
    found: dict[tuple[str, str], list[Numbers]] = {}
    for cell in cells:
        if cell.model in run_of:
            there = found.setdefault((run_of[cell.model], cell.perturbation), [])
            there += [cell.numbers] if cell.complete else []
    asked = list(run_of.values())
    return [over_runs(*key, asked.count(key[0]), numbers) for key, numbers in found.items()]


def _untrained(results: Results, *, failed: bool) -> list[str]:
    """The models that are not there, one line each where their training failed, and one for the others."""
    plan, remarks, labels = results.plan, [], []
    for model in plan.untrained:
        why = model.artefact.failure if model.artefact else ""
        if why:
            remarks.append(f"{model.label} could not be trained: {why}")
        else:
            labels.append(model.label)
    if failed or not labels:
        return remarks if failed else []
    return [
        f"not trained yet: {', '.join(labels)}; {len(plan.waiting)} cells wait for that. To train: robharness train "
        f"{plan.suite.typed}"
    ]


def _cell(results: Results, result: CellResult) -> CellNumbers:
    cell, perturbation = result.cell, result.cell.perturbation
    is_attack, strength = cell.kind == "attack", perturbation.strength if perturbation else None
    published = results.suite.published(cell.model.ref, cell.short_name)
    return CellNumbers(
        model=cell.model.label,
        data=cell.data.name,
        kind=cell.kind,
        perturbation=cell.short_name,
        norm=perturbation.norm if perturbation else None,
        eps=str(strength) if is_attack and strength is not None else None,
        severity=int(strength) if cell.kind == "corruption" and strength is not None else None,
        group=perturbation.entry.spec.group if perturbation and not is_attack else None,
        numbers=_numbers(results, result),
        complete=result.is_complete,
        key=cell.key,
        not_numbers=result.not_numbers,
        unreadable=len(result.unreadable),
        notes=_note_totals(result),
        alarms=perturbation.entry.spec.alarms if perturbation and is_attack else (),
        expected=None if published is None else published / 100,
        components=_components(result),
        success=_success(result),
        accuracy_8bit=_accuracy_8bit(result),
        distances=_distances(result) if is_attack and strength is None and result.n else None,
    )


def _numbers(results: Results, result: CellResult) -> Numbers:
    clean = results.clean(result.cell.model.label)
    if result.n == 0:
        return Numbers(n=0)
    if result.cell.kind == "clean":
        right = int(result.correct.sum())
        return Numbers(n=result.n, accuracy=result.accuracy, interval=metrics.accuracy_interval(right, result.n))
    before, after = results.paired([clean, result])
    return _perturbed_numbers(before, after, result.correct, result.cell.count)


def _perturbed_numbers(clean: np.ndarray, perturbed: np.ndarray, alone: np.ndarray, count: str) -> Numbers:
    """clean, perturbed: on the examples that both cells have; alone: all that the perturbed cell has."""
    robust = clean & perturbed
    numbers: dict[str, Any] = {"n": len(alone)}
    if count == "all":
        numbers["accuracy"] = metrics.accuracy(alone)
        numbers["interval"] = metrics.accuracy_interval(int(alone.sum()), len(alone))
    if len(clean):
        numbers["robust_accuracy"] = metrics.accuracy(robust)
        numbers["robust_interval"] = metrics.accuracy_interval(int(robust.sum()), len(robust))
        after = perturbed if count == "all" else robust
        try:
            numbers["relative_drop"] = metrics.relative_drop(metrics.accuracy(clean), metrics.accuracy(after))
            numbers["relative_drop_interval"] = metrics.relative_drop_interval(clean, after)
        except metrics.ZeroClean:
            pass  # a model that is never right has nothing to lose: the drop stays None
    return Numbers(**numbers)


def _worst_cases(results: Results) -> list[WorstCase]:
    found = []
    for label in results.labels:
        attacks = results.of(label, "attack")
        budgets = {(p.norm, p.strength): str(p.strength)
                   for p in (r.cell.perturbation for r in attacks) if p and p.strength is not None}  # fmt: skip
        for (norm, eps), text in sorted(budgets.items(), key=lambda item: (_ORDER.index(item[0][0]), item[0][1])):
            asked = [result for result in attacks if _is_within(result, norm, eps)]
            within = [result for result in asked if result.n]
            clean, *right = results.paired([results.clean(label), *within])
            numbers = Numbers(n=0)
            if len(clean) and right:
                worst = metrics.worst_case(np.stack(right))
                numbers = _perturbed_numbers(clean, worst, worst, results.suite.count)
            counts = {"attacks": len(within), "asked": len(asked)}
            found.append(WorstCase(model=label, norm=str(norm), eps=text, numbers=numbers, **counts))
    return found


_ORDER = ["linf", "l2", "l1", None]


def _is_within(result: CellResult, norm: Any, eps: Any) -> bool:
    perturbation = result.cell.perturbation
    if perturbation is None or perturbation.strength is None:
        return False
    return bool(perturbation.norm == norm and perturbation.strength <= eps)


def _note_totals(result: CellResult) -> dict[str, float]:
    perturbation = result.cell.perturbation
    declared = perturbation.entry.spec.notes if perturbation else {}
    totals = {}
    for name, kind in declared.items():
        if kind is not str and name in result.columns:
            column = np.asarray(result.columns[name], float)
            totals[name] = float(np.nansum(column))
    return totals


def _components(result: CellResult) -> dict[str, int]:
    if result.cell.perturbation is None or not result.cell.perturbation.is_ensemble or not result.n:
        return {}
    names = [name for name in result.columns["component"] if name is not None]
    return {str(name): names.count(name) for name in dict.fromkeys(names)}


def _success(result: CellResult) -> float | None:
    if result.cell.perturbation is None or not result.cell.perturbation.is_targeted or not result.n:
        return None
    reached, wanted = result.columns["success"], np.asarray(result.columns["target"], float)
    return metrics.accuracy(np.array(reached == True)[wanted >= 0]) if (wanted >= 0).any() else None  # noqa: E712


def _accuracy_8bit(result: CellResult) -> float | None:
    """Rows that were not attacked are as they were: the clean input has 8 bits."""
    if result.cell.perturbation is None or not result.cell.perturbation.eight_bit or not result.n:
        return None
    rounded = result.columns["correct_8bit"]
    judged = np.array([value is not None and value == value for value in rounded])
    return metrics.accuracy(np.where(judged, rounded == True, result.correct))  # noqa: E712


def _distances(result: CellResult) -> Distances:
    distances = result.distances
    quartiles = [metrics.quantile(distances, share) for share in (0.25, 0.5, 0.75)]
    first, median, third = [value if np.isfinite(value) else None for value in quartiles]
    interval = metrics.median_interval(distances)
    steps = np.linspace(0, 1, 101)
    curve = [(metrics.quantile(distances, float(share)), share) for share in steps]
    return Distances(
        n=len(distances),
        found=int(np.isfinite(distances).sum()),
        median=median,
        interval=Interval(max(0.0, interval.low), interval.high),
        quartiles=(first, third),
        curve=tuple((eps, metrics.accuracy(distances > eps)) for eps, _ in curve if np.isfinite(eps)),
    )


def _metrics(results: Results) -> tuple[dict[str, dict[str, Measured]], list[str]]:
    """The suite's metrics by name and label; and what went wrong in one, since a plugin may raise anything."""
    values: dict[str, dict[str, Measured]] = {}
    problems = []
    for entry in results.suite.metrics:
        try:
            values[entry.name] = {str(label): measured(value) for label, value in entry.spec.compute(results).items()}
        except Exception as error:
            problems.append(f"{entry.name}: {type(error).__name__}: {error} ({entry.source})")
    return values, problems


def _lacking(values: dict[str, dict[str, Measured]]) -> list[str]:
    """Metrics that say why they have no number."""
    return [f"no {name} for {label}: {each.lacks}" for name, by in values.items() for label, each in by.items()
            if each.lacks]  # fmt: skip


def measured(value: Any) -> Measured:
    """What a metric gave, with its details as plain data. Raises TypeError or ValueError for what is no number."""
    given = value if isinstance(value, Measured) else Measured(value=value)
    if isinstance(value, str):
        raise TypeError(f"{value!r} is not a number")
    details = {str(name): _plain(part) for name, part in given.details.items()}
    return Measured(value=float(given.value), details=details, lacks=given.lacks)


def _plain(value: Any) -> Any:
    """Arrays and NumPy's numbers as Python's; NaN stays, which the JSON has no number for and calls null."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} has no place among a metric's details: numbers, texts, lists and mappings have")


def _failures(results: Results) -> list[str]:
    """One line per cause, with the cells that it cost."""
    cells: dict[str, list[str]] = {}
    for result in results.every:
        for failure in result.failures:
            cells.setdefault(str(failure), []).append(result.cell.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more cells' if len(names) > 1 else ''}: {cause}"
        for cause, names in cells.items()
    ]


NEAR = 1e-4
"""Of the logit range: how near the boundary another pass shape, thread count or device may tip an outcome over."""
CIRCUMSTANCES = ("rows", "threads", "device", "memory_format", "folded", "sources")


def _ways(results: Results) -> list[str]:
    """How outcomes were made, where that is not one way: they are the same only up to rounding."""
    remarks = []
    for label in results.labels:
        cells = [result for result in results.every if result.cell.model.label == label and result.n]
        ways = [way for cell in cells for way in cell.provenance]
        for rows in sorted({way["too_many_rows"] for way in ways if "too_many_rows" in way}):
            fewer = {way["rows"] for way in ways if way.get("too_many_rows") == rows}
            remarks.append(
                f"{label}: memory was too small for {rows} examples per pass; {_all_of(sorted(fewer))} were taken"
            )
        mixed = [cell for cell in cells if len({_circumstances(way) for way in cell.provenance}) > 1]
        if mixed:
            remarks.append(_mixed(label, mixed))
        networks = {way.get("model_state") for way in ways}
        if len(networks) > 1:
            remarks.append(
                f"{label}: its outcomes come from {len(networks)} different networks under one name; "
                f"to compute them again: robharness run SUITE --fresh '{label}'"
            )
    return remarks


def _mixed(label: str, cells: Sequence[CellResult]) -> str:
    """How many outcomes of these cells, whose parts were made in different ways, could be others for that."""
    seen = {name: {way.get(name, 0) for cell in cells for way in cell.provenance} for name in CIRCUMSTANCES}
    differ = ", ".join(f"{name} {_all_of(sorted(values, key=str))}" for name, values in seen.items() if len(values) > 1)
    near = sum(int((np.abs(c.columns["margin"]) <= NEAR * c.columns["logit_range"]).sum()) for c in cells)
    return (
        f"{label}: parts of one cell were made in different ways ({differ}), in {len(cells)} cells; {near} of their "
        f"{sum(cell.n for cell in cells)} outcomes are so near the boundary (1e-4 of the logit range) that this alone "
        f"can tip them over"
    )


def _all_of(values: Sequence[Any]) -> str:
    return " and ".join(map(str, values))


def _circumstances(way: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(way.get(name, 0) for name in CIRCUMSTANCES)


def _weaker(results: Results) -> list[str]:
    """Attacks of many steps that leave more right than one of a single step: a step too small, or masked gradients."""
    remarks = []
    for label in results.labels:
        cells = [result for result in results.of(label, "attack") if result.n and _is_plain(result)]
        for one in (cell for cell in cells if cell.cell.cost.gradients + cell.cell.cost.shared_gradients == 1):
            for many in (cell for cell in cells if cell.cell.cost.gradients > 1):
                mine, other = one.cell.perturbation, many.cell.perturbation
                if mine and other and (mine.norm, mine.strength) == (other.norm, other.strength):
                    single, iterated = results.paired([one, many])
                    if iterated.sum() > single.sum():
                        remarks.append(
                            f"{label}: {other.name} leaves {int(iterated.sum())} of {len(single)} right, "
                            f"{mine.name}, a single step, {int(single.sum())}: its steps are too small or too few, "
                            f"or gradients mislead it"
                        )
    return remarks


def _is_plain(result: CellResult) -> bool:
    perturbation = result.cell.perturbation
    if perturbation is None or perturbation.source is not None or perturbation.is_targeted:
        return False
    return bool(perturbation.entry.spec.access != "features")  # these do not even look at the classes


def _unreadable(results: Results) -> list[str]:
    """Broken examples are the same ones for all models, so they are named once."""
    broken = sorted(
        {example for result in results.cells if result.cell.kind == "clean" for example in result.unreadable}
    )
    if not broken:
        return []
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    count = (
        "example of the data cannot be read and counts"
        if len(broken) == 1
        else "examples of the data cannot be read and count"
    )
    return [f"{len(broken)} {count} as wrong everywhere: {', '.join(broken[:NAMED])}{more}"]


NAMED = 5
"""Broken examples that a warning names."""


def _remarks(
    cells: Sequence[CellNumbers], slopes: Sequence[SlopeNumbers], errors: Sequence[CorruptionErrors]
) -> list[str]:
    remarks = []
    for cell in cells:
        name = f"{cell.model}, {cell.perturbation}"
        if cell.not_numbers:
            remarks.append(f"{name}: {cell.not_numbers} examples have logits that are not numbers; they count as wrong")
        remarks += [f"{name}: {note} {total:g} over {cell.numbers.n} examples"
                    for note, total in cell.notes.items() if total and note in cell.alarms]  # fmt: skip
    if any(slope.few_examples for slope in slopes):
        n = min(slope.n for slope in slopes)
        remarks.append(
            f"slopes come from {n} examples, fewer than {metrics.MIN_SLOPE_EXAMPLES}: noise in the reference's drops "
            "bends them; read them by their intervals"
        )
    remarks += [f"no mCE of {each.corruptions} for {each.model}: {each.lacks}" for each in errors if each.lacks]
    return remarks
