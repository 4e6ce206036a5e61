"""The cells and the examples that a gallery shows, chosen from stored outcomes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from robharness.planning.cells import UNREADABLE
from robharness.store.results import CellResult, Results

EXAMPLES = 24
"""The number of examples of a gallery that is not asked for."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The examples that a gallery shows of one perturbation, the same for all models.

    cells: one for each model.
    positions: of the examples in the data set's fixed order, ascending.
    """

    cells: tuple[CellResult, ...]
    positions: tuple[int, ...]


def choose(results: Results, number: int) -> list[Choice]:
    """Choose at most `number` pairs of a cell and an example, from stored outcomes alone.

    Models: all, or the first `number` of them.
    Perturbations: the largest budget of each attack in turn with the first corruption of each group at its largest
    severity, then the smallest budget of each attack; as many as the number of examples per model allows.
    Examples: see `_examples`. The perturbations get equal numbers of examples, the first ones more by one.
    """
    labels = results.labels[:number]
    by_name: dict[str, list[CellResult]] = {}
    for result in results.cells:
        if result.cell.kind in ("attack", "corruption") and result.n and result.cell.model.label in labels:
            by_name.setdefault(result.cell.short_name, []).append(result)
    if not by_name:
        return []
    per_model = number // len(labels)
    names = set(_perturbations(by_name)[:per_model])
    chosen: list[Choice] = []
    used: set[int] = set()
    for index, name in enumerate(name for name in by_name if name in names):
        count = per_model // len(names) + (index < per_model % len(names))
        positions = _examples(results, by_name[name], count, sum(len(each.positions) for each in chosen), used)
        used.update(positions)
        if positions:
            chosen.append(Choice(cells=tuple(by_name[name]), positions=tuple(sorted(positions))))
    return chosen


def _perturbations(by_name: Mapping[str, Sequence[CellResult]]) -> list[str]:
    """Return the names of the perturbations that a gallery shows, the most important first.

    by_name: the cells of each perturbation, in the suite's order.
    """
    attacks: dict[str, list[tuple[float, str]]] = {}
    corruptions: dict[str, list[tuple[float, str]]] = {}
    groups: dict[str, str] = {}
    for name, cells in by_name.items():
        perturbation = cells[0].cell.perturbation
        assert perturbation is not None
        if perturbation.kind == "attack":
            size = float("inf") if perturbation.eps is None else float(perturbation.eps)
            attacks.setdefault(perturbation.title, []).append((size, name))
        elif groups.setdefault(str(perturbation.entry.spec.group), perturbation.title) == perturbation.title:
            corruptions.setdefault(perturbation.title, []).append((float(perturbation.severity or 0), name))
    largest, smallest = ([extreme(sizes)[1] for sizes in attacks.values()] for extreme in (max, min))
    strongest = [max(sizes)[1] for sizes in corruptions.values()]
    queues = [list(dict.fromkeys([*largest, *smallest])), strongest]
    length = max(map(len, queues))
    return [queue[turn] for turn in range(length) for queue in queues if turn < len(queue)]


def _examples(results: Results, cells: Sequence[CellResult], count: int, turn: int, used: set[int]) -> list[int]:
    """Return the positions of at most `count` examples of one perturbation, the same for its cells.

    Readable examples of which all models have outcomes are in four classes. Of three, all models are right without the
    perturbation, and it fools some models, or all, or none. These three take turns, and each gives the first example
    of the fixed order, if possible one that is not used yet. The others follow, right for most models first.

    turn: the number of examples that are chosen already.
    used: their positions.
    """
    clean = [results.clean(result.cell.model.label) for result in cells]
    common = cells[0].positions
    for result in (*cells[1:], *clean):
        common = np.intersect1d(common, result.positions, assume_unique=True)
    right = np.stack([_at(result, "correct", common) for result in clean])
    fooled = (right & ~np.stack([_at(result, "correct", common) for result in cells])).sum(0)
    readable = _at(clean[0], "prediction", common) != UNREADABLE
    is_right = readable & right.all(0)
    classes = [is_right & (fooled > 0) & (fooled < len(cells)), is_right & (fooled == len(cells)),
               is_right & (fooled == 0)]  # fmt: skip
    is_new = ~np.isin(common, list(used))
    queues = [[*common[rows & is_new], *common[rows & ~is_new]] for rows in classes]
    found: list[int] = []
    for queue in islice(cycle(queues), turn % 3, turn % 3 + 3 * count):
        if queue and len(found) < count:
            found.append(int(queue.pop(0)))
    rest = np.flatnonzero(readable & ~is_right)
    rest = rest[np.argsort(-right[:, rest].sum(0), kind="stable")]
    return [*found, *common[rest][: count - len(found)].tolist()]


def _at(result: CellResult, column: str, positions: np.ndarray) -> np.ndarray:
    """Return a column at these positions, all of which are stored."""
    values: np.ndarray = result.columns[column][np.searchsorted(result.positions, positions)]
    return values
