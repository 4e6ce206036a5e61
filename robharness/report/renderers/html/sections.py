"""Rows of a page that no table of the report has: all cells, classes, calibration, runs over seeds, missing cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from markupsafe import Markup

from robharness.report.details import MIN_CONFIDENCES, MIN_PER_CLASS, ClassAccuracy, GalleryExample
from robharness.report.records import CellNumbers, DifferenceNumbers, Report, RunNumbers
from robharness.report.renderers.html.shown import beside, data, number_entry, signed
from robharness.report.values import Value, accuracy_digits
from robharness.statistics import Interval
from robharness.text import printable

LISTED_CLASSES = 3
"""The number of classes with the lowest accuracies in a row; the details of the cell have more."""
NOTHING = Markup("<td>–</td>")


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """A row of a table with one row per cell.

    at: the place of the cell in the report.
    column: the place of its model, or of the label that its runs share, in the report's columns.
    entries: the numbers, as <td> elements.
    environments: numbers of the environments that its outcomes were computed in, from 1.
    """

    at: int
    column: int
    cell: CellNumbers
    entries: tuple[Markup, ...]
    environments: tuple[int, ...] = ()


def cell_rows(report: Report) -> list[CellRow]:
    """Return all cells with n, accuracies and drop, beside them the published accuracy and the reference's."""
    sources, found = shown_sources(report), {(each.model, each.perturbation): each for each in report.differences}

    def entries(cell: CellNumbers) -> tuple[Markup, ...]:
        published = {each.source: each.value for each in cell.published}
        made = (*_accuracies(cell, report), *(td for each in sources for td in _published(cell, published.get(each))))
        return (*made, *_difference(found.get((cell.model, cell.perturbation)))) if found else made

    return list(_rows(report, entries))


def shown_sources(report: Report) -> list[str]:
    """Return the sources that have a published accuracy of any cell."""
    found = {each.source for cell in report.cells for each in cell.published}
    return [source for source in report.published_sources if source in found]


def published_heads(report: Report) -> list[str]:
    """Return the headings of the columns of published accuracies, two per source, which name one of several."""
    several = len(report.published_sources) > 1
    words = [f", {printable(source)}" if several else "" for source in shown_sources(report)]
    return [head + more for more in words for head in ("Published", "Difference")]


def class_rows(report: Report) -> list[CellRow]:
    """Return the cells with enough examples per class."""
    return list(_rows(report, lambda cell: _classes(cell) if cell.shows_classes else None))


def calibration_rows(report: Report) -> list[CellRow]:
    """Return the cells with enough stored confidences."""
    return list(_rows(report, lambda cell: _calibration(cell) if cell.shows_calibration else None))


def left_out_of_calibration(report: Report) -> str:
    """Say which cells with confidences are left out, and why; "" if none are."""
    count = sum(cell.calibration is not None and not cell.shows_calibration for cell in report.cells)
    rule = f"fewer than {MIN_CONFIDENCES} examples with a confidence, of which a calibration error is mostly chance"
    return _left_out(count, report, rule)


def left_out_of_classes(report: Report) -> str:
    """Say which cells with outcomes are left out, and why; "" if none are."""
    count = sum(cell.classes is not None and not cell.shows_classes for cell in report.cells)
    rule = f"one class alone, or fewer than {MIN_PER_CLASS} examples per class, of which the worst one is mostly chance"
    return _left_out(count, report, rule)


def _left_out(count: int, report: Report, rule: str) -> str:
    if not count:
        return ""
    which = "Cells" if count == len(report.cells) else f"{count} of {len(report.cells)} cells"
    verb = "has" if which.startswith("1 ") else "have"
    return (
        f"Left out of tables and figures: {which[0].lower()}{which[1:]} that {verb} {rule}. Details of cells have them."
    )


def _rows(report: Report, entries: Callable[[CellNumbers], tuple[Markup, ...] | None]) -> Iterator[CellRow]:
    columns = {model: at for at, models in enumerate(report.columns.values()) for model in models}
    environments: dict[str, tuple[int, ...]] = {}
    for number, environment in enumerate(report.environments, 1):
        for key in environment.cells:
            environments[key] = (*environments.get(key, ()), number)
    for at, cell in enumerate(report.cells):
        made = entries(cell)
        if made is not None:
            yield CellRow(at=at, column=columns[cell.model], cell=cell, entries=made,
                          environments=environments.get(cell.key, ()))  # fmt: skip


def _accuracies(cell: CellNumbers, report: Report) -> tuple[Markup, ...]:
    numbers, digits = cell.numbers, accuracy_digits(cell.numbers.n)
    count = f"{numbers.n}" if cell.complete else f'<span class="missing">{numbers.n} of {report.n}</span>'
    n = Markup(f"<td{data(numbers.n)}>{count}</td>")
    drop = Value(number=numbers.relative_drop, kind="drop", interval=numbers.relative_drop_interval)
    return (
        n,
        number_entry(numbers.accuracy, "percentage", digits, numbers.interval),
        number_entry(numbers.robust_accuracy, "percentage", digits, numbers.robust_interval),
        beside(drop),
    )


def _published(cell: CellNumbers, published: float | None) -> tuple[Markup, ...]:
    """Return a published accuracy and the difference of ours from it."""
    numbers = cell.numbers
    accuracy = numbers.robust_accuracy if numbers.accuracy is None else numbers.accuracy
    if published is None:
        return NOTHING, NOTHING
    expected = number_entry(published, "percentage", 2)
    if accuracy is None:
        return expected, NOTHING
    distance = accuracy - published
    difference = signed(distance, Value(number=accuracy, digits=accuracy_digits(numbers.n)))
    return expected, Markup(f"<td{data(distance)}>{difference}</td>")


def _difference(found: DifferenceNumbers | None) -> tuple[Markup, ...]:
    """Return the difference from the reference with its interval, and p; a run has none of its own."""
    if found is None:
        return NOTHING, NOTHING
    digits = accuracy_digits(found.n)
    return number_entry(found.difference, "points", digits, found.interval), number_entry(found.p_holm, "p", 0)


def _classes(cell: CellNumbers) -> tuple[Markup, ...] | None:
    found = cell.classes
    if found is None:
        return None
    listed = ", ".join(_class(each) for each in found.lowest[:LISTED_CLASSES])
    return (
        number_entry(found.classes, "count", 0),
        number_entry(found.worst, "percentage", 1, found.worst_interval),
        Markup(f'<td class="words">{listed}</td>'),
    )


def _class(each: ClassAccuracy) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in each.interval)
    number = f"<span{data(each.accuracy, each.interval)}>{100 * each.accuracy:.1f}</span>"
    return f"class\u00a0{int(each.label)}: {number}\u00a0<i>[{low},\u00a0{high}] n\u00a0=\u00a0{int(each.n)}</i>"


def _calibration(cell: CellNumbers) -> tuple[Markup, ...] | None:
    found = cell.calibration
    if found is None:
        return None
    accuracy = cell.numbers.accuracy
    over = None if accuracy is None else found.confidence - accuracy
    return (
        number_entry(found.n, "count", 0),
        number_entry(found.ece, "percentage", 1),
        number_entry(found.confidence, "percentage", 1),
        NOTHING if over is None else Markup(f"<td{data(over)}>{signed(over, Value(number=over, digits=1))}</td>"),
        number_entry(found.confidence_when_wrong, "percentage", 1),
    )


# --- runs over seeds ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """The mean and the spread of a label over its runs, and each run with its interval over examples.

    entries: the number of runs, the means and the deviations, and the runs, as <td> elements.
    """

    column: int
    model: str
    perturbation: str
    entries: tuple[Markup, ...]


def run_rows(report: Report) -> list[RunRow]:
    """Return the numbers over runs of a model that differ in their seed."""
    columns = {label: at for at, label in enumerate(report.columns)}
    single: dict[tuple[str, str], list[CellNumbers]] = {}
    for cell in report.cells:
        if cell.complete and cell.model in report.run_of:
            single.setdefault((report.run_of[cell.model], cell.perturbation), []).append(cell)
    return [
        RunRow(column=columns.get(each.model, -1), model=each.model, perturbation=each.perturbation,
               entries=_run_entries(each, single.get((each.model, each.perturbation), [])))
        for each in report.runs
    ]  # fmt: skip


def _run_entries(numbers: RunNumbers, cells: list[CellNumbers]) -> tuple[Markup, ...]:
    count = f"{numbers.runs}" if numbers.runs == numbers.asked else f"{numbers.runs} of {numbers.asked}"
    is_robust = numbers.accuracy is None
    mean = numbers.robust_accuracy if is_robust else numbers.accuracy
    deviation = numbers.robust_accuracy_deviation if is_robust else numbers.accuracy_deviation
    digits = accuracy_digits(cells[0].numbers.n) if cells else 1
    runs = ", ".join(_run(cell, digits, is_robust=is_robust) for cell in cells)
    return (
        Markup(f"<td{data(numbers.runs)}>{count}</td>"),
        number_entry(mean, "percentage", digits),
        number_entry(deviation, "percentage", digits),
        number_entry(numbers.relative_drop, "drop", 0),
        number_entry(numbers.relative_drop_deviation, "percentage", 0),
        Markup(f'<td class="words">{runs or "–"}</td>'),
    )


def _run(cell: CellNumbers, digits: int, *, is_robust: bool) -> str:
    numbers = cell.numbers
    accuracy = numbers.robust_accuracy if is_robust else numbers.accuracy
    interval = numbers.robust_interval if is_robust else numbers.interval
    if accuracy is None:
        return "–"
    text = f"<span{data(accuracy, interval)}>{100 * accuracy:.{digits}f}</span>"
    return text if interval is None else f"{text}\u00a0<i>{_bounds(interval, digits)}</i>"


def _bounds(interval: Interval, digits: int) -> str:
    return f"[{100 * interval.low:.{digits}f},\u00a0{100 * interval.high:.{digits}f}]"


# --- missing cells --------------------------------------------------------------------------------------------------


def missing(report: Report) -> dict[str, list[tuple[int, CellNumbers]]]:
    """Return the cells that are not complete with their places in the report, by model."""
    found: dict[str, list[tuple[int, CellNumbers]]] = {}
    for at, cell in enumerate(report.cells):
        if not cell.complete:
            found.setdefault(cell.model, []).append((at, cell))
    return found


# --- gallery --------------------------------------------------------------------------------------------------------


def gallery_choices(report: Report) -> list[tuple[str, str, list[str | int]]]:
    """Return name, heading and values of the gallery's filters."""
    examples = report.gallery
    return [
        ("model", "Model", list(dict.fromkeys(each.model for each in examples))),
        ("perturbation", "Perturbation", list(dict.fromkeys(each.perturbation for each in examples))),
        ("label", "Class", sorted({each.label for each in examples})),
    ]


def gallery(report: Report) -> list[tuple[GalleryExample, tuple[int, ...]]]:
    """Return the examples with the places of their values among the choices."""
    places = [(name, {value: at for at, value in enumerate(values)}) for name, _, values in gallery_choices(report)]
    return [(each, tuple(at[getattr(each, name)] for name, at in places)) for each in report.gallery]


KIND_NAMES: dict[str, str] = {"clean": "Clean", "attack": "Attacks", "corruption": "Corruptions"}


def kinds(report: Report) -> list[str]:
    """Return the kinds of the report's cells, in the order of a page."""
    available = {cell.kind for cell in report.cells}
    return [kind for kind in KIND_NAMES if kind in available]
