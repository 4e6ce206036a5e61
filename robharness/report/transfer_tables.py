"""Tables of transfer attacks: a row per source, a column per judged model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from robharness.report.records import CellNumbers, Report
from robharness.report.rows import NO_VALUE, mean_over_runs, model_row, model_table
from robharness.report.values import Number, Row, Table, Value

Cells = Mapping[str, CellNumbers]
"""Label -> the cell of the model."""


def transfer_tables(
    report: Report, accuracy: str, accuracies: Callable[[str, dict[str, CellNumbers], Report], Row]
) -> Iterator[Table]:
    """Yield a table for each attack and budget that is crafted on other models.

    accuracy: the name of the accuracy in the tables.
    accuracies: makes the row of the accuracies of some cells, by its name and their models.
    """
    for attack, sources in transfer_cells(report).items():
        rows: list[Row | None] = [accuracies(f"source {name}", cells, report) for name, cells in sources.items()]
        rates = [_rates(f"rate, source {name}", cells, report) for name, cells in sources.items()]
        ways = [row for name, cells in sources.items() if (row := _asymmetries(name, cells, report)) is not None]
        rows += [None, *rates, *([None, *ways] if ways else [])]
        caption = (
            f"{accuracy} in % of the model on examples that are crafted on the source, and its ↓ relative drop, "
            f"n = {report.n}; rate: share in % that fools the model, of the n examples that both get right clean and "
            f"that fool the source, all members of an ensemble; a model is attacked directly where it is the source"
        )
        if ways:
            caption += "; asymmetry: the rate minus that of the way back, in points"
        yield model_table(f"Transfer of {attack}", report, rows, caption, "in brackets 95 % confidence intervals")


def transfer_cells(report: Report) -> dict[str, dict[str, dict[str, CellNumbers]]]:
    """Return the cells of transfer attacks by attack, source and model, in the suite's order.

    Of several runs of one model, the run that is the source itself is left out: it is not attacked by a transfer.
    """
    found: dict[str, dict[str, dict[str, CellNumbers]]] = {}
    for cell in report.cells:
        transfer = cell.transfer
        if transfer is not None:
            cells = found.setdefault(transfer.attack, {}).setdefault(transfer.source, {})
            if cell.model not in report.run_of or cell.model not in transfer.surrogates:
                cells[cell.model] = cell
    return found


def _rates(name: str, cells: Cells, report: Report) -> Row:
    def one(cell: CellNumbers) -> Value:
        found = cell.transfer
        if found is None or found.rate is None:
            return NO_VALUE
        notes = (("n =", Number(found.n)),)
        return Value(number=found.rate, digits=1, interval=found.interval, interval_digits=1, key=cell.key, notes=notes)

    return model_row(
        name, report, cells, one, lambda some: mean_over_runs([one(cell).number for cell in some], "percentage", 1)
    )


def _asymmetries(source: str, cells: Cells, report: Report) -> Row | None:
    """Return the asymmetries of the models after the source in the table, as the others have the opposite sign."""

    def one(cell: CellNumbers) -> Value:
        found = cell.transfer
        is_later = source in report.models and report.models.index(source) < report.models.index(cell.model)
        if found is None or found.asymmetry is None or not is_later:
            return NO_VALUE
        interval = found.asymmetry_interval
        return Value(number=found.asymmetry, kind="points", digits=1, interval=interval, interval_digits=1)

    row = model_row(
        f"asymmetry, source {source}",
        report,
        cells,
        one,
        lambda some: mean_over_runs([one(cell).number for cell in some], "points", 1),
    )
    return row if any(value.number is not None for value in row.values) else None
