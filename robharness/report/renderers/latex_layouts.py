"""The layouts of the paper's tables: which entries of a report's table stand in which row and column, as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from robharness.report.records import CellNumbers, Report
from robharness.report.relative_tables import GAIN_DIGITS
from robharness.report.renderers.formatting import format_note, format_number, format_value
from robharness.report.values import Kind, Row, Table, Value, is_published
from robharness.text import SENTENCE_LENGTH, latex, unit_after

NAME_LENGTH = 80
"""Most characters of a name in a table; a longer one has an ellipsis in its middle."""
SIGNIFICANT = 0.05
"""The p value below which a difference has a mark."""
_NORMS = {
    "linf": r"\(\ell_\infty\)",
    **{f"l{p}": rf"\(\ell_{p}\)" for p in (2, 1, 0)},
    "l0-pixels": r"\(\ell_0\) of pixels",
}


@dataclass(frozen=True)
class Entry:
    """An entry of a table.

    text: LaTeX.
    notes: words, which are set below the table.
    published: LaTeX of the published numbers, by the words before them: "published", or "published [1]".
    is_ours: whether it is a number of this report, and not a published one or an interval.
    """

    text: str = ""
    notes: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False


@dataclass(frozen=True)
class Group:
    """Columns under one heading.

    heading: LaTeX, "" without a common one.
    columns: the headings of the columns, LaTeX.
    entries: by column, then by row.
    """

    heading: str
    columns: tuple[str, ...]
    entries: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Grid:
    """A table as it is printed.

    corner: the heading of the rows' names.
    names: of the rows, LaTeX.
    sections: row -> the heading above it, LaTeX, or "" for a line alone.
    """

    corner: str
    names: tuple[str, ...]
    groups: tuple[Group, ...]
    sections: dict[int, str]

    @property
    def entries(self) -> list[Entry]:
        return [entry for group in self.groups for column in group.entries for entry in column if entry.text]


def cells_by_row(table: Table, report: Report) -> dict[str, CellNumbers]:
    """Return a cell of each row that shows cells; rows of corruptions name their group as well."""
    cells = {cell.perturbation: cell for cell in report.cells}
    cells |= {f"{name}, {cell.group}": cell for name, cell in cells.items() if cell.kind == "corruption"}
    return {row.name: cells[row.name] for row in table.rows if row is not None and row.name in cells}


def of_attacks(table: Table, report: Report, cells: dict[str, CellNumbers]) -> Grid:
    """Lay out models as rows, and as columns the clean accuracy and the budgets of each attack: Tables 1 to 5, 7, 8."""
    headings = _headings(cells)
    worst = {case.name: case for case in report.worst_cases}
    arrows = _arrows(report)
    found: dict[str, list[tuple[str, tuple[Entry, ...]]]] = {}
    for row in rows_of(table):
        cell, case = cells.get(row.name), worst.get(row.name)
        if case is not None:
            heading, column = f"worst case, {_norm(case.norm)}", _budget(case.eps, case.unit, r"\leq")
        elif cell is None or cell.kind == "clean":
            heading, column = "", r"\(\epsilon = 0\)" if cell else _name(row.name)
        else:
            heading, column = headings[row.name], _budget(cell.eps or "", cell.unit)
        entries = tuple(_entry(value, arrows.get((label, row.name), ""))
                        for label, value in zip(table.header[1:], row.values, strict=True))  # fmt: skip
        found.setdefault(heading, []).append((column, entries))
    return _with_published(Grid("Model", tuple(map(_name, table.header[1:])), _grouped(found), {}))


def _arrows(report: Report) -> dict[tuple[str, str], str]:
    """Return the closed gap or the gain of each model under each perturbation, as LaTeX; of both, the gain is last."""
    found: dict[tuple[str, str], str] = {}
    for gap in report.gaps_closed:
        found[gap.model, gap.perturbation] = _arrow(GAP_ARROW, gap.closed, "gap", 0)
    for gain in report.gains:
        key = gain.model, gain.perturbation
        found[key] = found.get(key, "") + _arrow(gain_arrow(report), gain.gain, "gain", GAIN_DIGITS)
    return found


GAP_ARROW = "↑"


def gain_arrow(report: Report) -> str:
    """Return the sign before gains: the paper's, unless closed gaps have it."""
    return "⇑" if report.gaps_closed else "↑"


def _arrow(sign: str, number: float | None, kind: Kind, digits: int) -> str:
    return "" if number is None else rf"~{latex(sign)}{_numbers(format_number(number, kind, digits))}\%"


def _headings(cells: dict[str, CellNumbers]) -> dict[str, str]:
    """Return the heading of each attack: its name and norm, and its options if two attacks differ in them alone."""
    attacks = {row: cell for row, cell in cells.items() if cell.kind == "attack"}
    titles: dict[str, set[str]] = {}
    for cell in attacks.values():
        titles.setdefault(_attack_name(cell), set()).add(cell.title)
    return {
        row: _attack_name(cell) if len(titles[_attack_name(cell)]) == 1 else
        f"{_attack_name(cell)} ({latex(_options_of(cell))})"
        for row, cell in attacks.items()
    }  # fmt: skip


def _attack_name(cell: CellNumbers) -> str:
    plain = _name((cell.title or cell.perturbation).partition("(")[0])
    return f"{plain}-{_norm(cell.norm)}" if cell.norm else plain


def _options_of(cell: CellNumbers) -> str:
    options = cell.title.partition("(")[2].removesuffix(")").split(", ")
    return ", ".join(option for option in options if option and option != cell.norm)


def options(cells: dict[str, CellNumbers]) -> list[str]:
    """Return the options of the attacks, which their headings do not have, as a sentence of the caption."""
    found = {heading: _options_of(cells[row]) for row, heading in _headings(cells).items() if heading[-1:] != ")"
             or heading == _attack_name(cells[row])}  # fmt: skip
    said = [f"{heading}: {latex(options)}" for heading, options in found.items() if options]
    return ["; ".join(said)] if said else []


def _norm(norm: str | None) -> str:
    return _NORMS.get(norm or "", latex(norm or ""))


def _budget(eps: str, unit: str, relation: str = "=") -> str:
    number = rf"\(\epsilon {relation} {eps}\)" if re.fullmatch(r"[0-9./]+", eps) else latex(eps)
    return f"{number} {_name(unit_after(eps, unit))}".rstrip()


def of_corruptions(table: Table, report: Report, cells: dict[str, CellNumbers]) -> Grid:
    """Lay out corruptions as rows, by group, and models as columns: Table 6."""
    names: list[str] = []
    rows: list[tuple[Entry, ...]] = []
    sections: dict[int, str] = {}
    short, group = _short_names(report), None
    for at, row in enumerate(table.rows):
        if row is None:
            continue
        cell = cells.get(row.name)
        if cell is not None and cell.kind == "corruption":
            if cell.group != group:
                group = cell.group
                sections[len(names)] = latex(capital(group or "others"))
            names.append(_name(short[cell.perturbation]))
        else:
            if at and table.rows[at - 1] is None:
                sections[len(names)] = ""
            names.append(_name(row.name))
        rows.append(tuple(map(_entry, row.values)))
    columns = tuple(map(_name, table.header[1:]))
    grid = Grid("Corruption", tuple(names), (Group("", columns, tuple(zip(*rows, strict=True))),), sections)
    return _with_published(grid)


def _short_names(report: Report) -> dict[str, str]:
    """Return corruptions by short names, such as "Impulse noise", with severities only if there are several."""
    cells = [cell for cell in report.cells if cell.kind == "corruption"]
    has_severities = len({cell.severity for cell in cells}) > 1
    names: dict[str, str] = {}
    for cell in cells:
        plain = capital((cell.title or cell.perturbation).rpartition("/")[2].replace("_", " "))
        names[cell.perturbation] = f"{plain} {cell.severity}" if has_severities and cell.severity is not None else plain
    taken = list(names.values())
    return {key: text if taken.count(text) == 1 else key for key, text in names.items()}


def of_models(table: Table, cells: dict[str, CellNumbers]) -> Grid:
    """Lay out models as rows and the table's rows as columns, with intervals below their numbers."""
    names = tuple(text for label in table.header[1:] for text in (_name(label), ""))
    headings = _headings(cells)
    found: dict[str, list[tuple[str, tuple[Entry, ...]]]] = {}
    for row in rows_of(table):
        cell = cells.get(row.name)
        is_budget = cell is not None and cell.kind == "attack" and cell.eps is not None
        entries = tuple(each for value in row.values for each in (_entry(value), _intervals(value)))
        heading = headings[row.name] if is_budget else ""
        column = _budget(cell.eps or "", cell.unit) if cell is not None and is_budget else _name(row.name)
        found.setdefault(heading, []).append((column, entries))
    return _with_published(Grid("Model", names, _grouped(found), {}))


def _grouped(found: dict[str, list[tuple[str, tuple[Entry, ...]]]]) -> tuple[Group, ...]:
    """Return groups of (heading, entries) columns by the group's heading."""
    return tuple(Group(heading, *map(tuple, zip(*columns, strict=True))) for heading, columns in found.items())


def _name(text: str) -> str:
    return latex(text, NAME_LENGTH)


def rows_of(table: Table) -> list[Row]:
    return [row for row in table.rows if row is not None]


def _with_published(grid: Grid) -> Grid:
    """Return the grid with published numbers in rows below ours."""
    kept: list[tuple[int, str]] = []
    sections: dict[int, str] = {}
    for row in range(len(grid.names)):
        if row in grid.sections:
            sections[len(kept)] = grid.sections[row]
        kept.append((row, ""))
        entries = [column[row] for group in grid.groups for column in group.entries]
        kept += [(row, name) for name in sorted({name for entry in entries for name in entry.published})]
    return Grid(
        grid.corner,
        tuple(rf"\quad {latex(name)}" if name else grid.names[row] for row, name in kept),
        tuple(
            replace(group, entries=tuple(
                tuple(Entry(column[row].published.get(name, "")) if name else column[row] for row, name in kept)
                for column in group.entries
            ))
            for group in grid.groups
        ),
        sections,
    )  # fmt: skip


def _entry(value: Value, arrows: str = "") -> Entry:
    """Return a number with its notes, and the published numbers.

    arrows: further numbers beside it, LaTeX.
    """
    text = _numbers(format_value(value)[0]).replace(r" \(", r"~\(")
    text += arrows if value.kind != "points" else ""
    published = {str(note[0]): _numbers(format_note(note[1:])) for note in value.notes if is_published(note)}
    return Entry(
        text,
        tuple(format_note(note) for note in value.notes if not is_published(note)) + _significance(value),
        published,
        is_ours=value.number is not None,
    )


def _significance(value: Value) -> tuple[str, ...]:
    return (f"p < {SIGNIFICANT}",) if value.p is not None and value.p < SIGNIFICANT else ()


def _intervals(value: Value) -> Entry:
    lines = format_value(replace(value, notes=()))[1]
    return Entry(rf"{{\scriptsize {_numbers(' '.join(lines))}}}") if lines else Entry()


def _numbers(text: str) -> str:
    """Return numbers as LaTeX, with minus signs in place of hyphens."""
    return re.sub(r"(?:(?<![\w.)])|(?<=\\\)))-(?=[\d.])", r"\\(-\\)", latex(text, SENTENCE_LENGTH))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
