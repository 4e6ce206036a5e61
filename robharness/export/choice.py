"""The cells and the examples that a gallery shows, chosen from stored outcomes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import cycle, islice

import numpy as np

from robharness.findings import Finding, finding
from robharness.planning.cells import BLOCK, UNREADABLE, Cell
from robharness.planning.commands import quoted_glob
from robharness.store.results import CellResult, Results

EXAMPLES = 24
"""The number of examples of a gallery, unless another one is asked for."""
MOST_PASSES = 700
"""The most forward passes that a gallery takes by the costs that attacks declare: PGD with 10 steps on 20 models, or
twice PGD with 100 steps on one."""
GRADIENT_PASSES = 3
"""The duration of a gradient in forward passes."""
SMALLEST_BATCH = 4
"""The number of rows per pass that costs are estimated for if the store does not say it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The examples that a gallery shows of one perturbation, the same for all models.

    cells: one for each model.
    positions: of the examples in the data set's fixed order, ascending.
    passes: forward passes of all cells, by the cost that the attack declares.
    """

    cells: tuple[CellResult, ...]
    positions: tuple[int, ...]
    passes: int


def choose(results: Results, number: int) -> tuple[list[Choice], tuple[Finding, ...]]:
    """Choose at most `number` pairs of a cell and an example, from stored outcomes and declared costs alone.

    Models: all, or the first `number` of them.
    Perturbations: the largest budget of each attack in turn with the first corruption of each group at its largest
    severity, then the smallest budget of each attack; as many as the number of examples per model allows. One that
    would exceed `MOST_PASSES` is left out, and the next one takes its place.
    Examples: see `_examples`. The perturbations get equal numbers of examples, the first ones more by one.
    Returns findings on what is left out. Without a plan, nothing can be computed, and a finding says so.
    """
    if not number:
        return [], ()
    if not results.outline.is_planned:
        return [], (_store_alone(results),)
    labels = results.labels[:number]
    by_name: dict[str, list[CellResult]] = {}
    for result in results.cells:
        if result.cell.kind in ("attack", "corruption") and result.n and result.cell.model.label in labels:
            by_name.setdefault(result.cell.short_name, []).append(result)
    if not by_name:
        return [], ()
    per_model = number // len(labels)
    shown = min(per_model, len(names := _perturbations(by_name)))
    counts = [per_model // shown + (index < per_model % shown) for index in range(shown)]
    chosen: dict[str, Choice] = {}
    findings: list[Finding] = []
    used: set[int] = set()
    for name in names:
        if len(chosen) == shown:
            break
        turn = sum(len(choice.positions) for choice in chosen.values())
        positions = _examples(results, by_name[name], counts[len(chosen)], turn, used)
        passes = sum(_passes(results, result, positions) for result in by_name[name])
        if passes + sum(choice.passes for choice in chosen.values()) > MOST_PASSES:
            findings.append(_too_dear(results, by_name[name], passes))
        elif positions:
            used.update(positions)
            chosen[name] = Choice(cells=tuple(by_name[name]), positions=tuple(sorted(positions)), passes=passes)
    return [chosen[name] for name in by_name if name in chosen], tuple(findings)


def _store_alone(results: Results) -> Finding:
    return finding(
        "no-gallery",
        "a gallery needs the data, the weights and the plugins of the suite, and these results were loaded from the "
        "store alone",
        hint=f"Try: {results.outline.command('report', '-o', 'report.html')}",
    )


def _passes(results: Results, result: CellResult, positions: Sequence[int]) -> int:
    """Return the number of forward passes that a cell takes at these positions, judging included."""
    cell = _planned(results, result)
    assert cell.perturbation is not None
    rows = len(positions)
    if cell.perturbation.needs_blocks:
        rows = BLOCK * len({position // BLOCK for position in positions})
    batch_size = next((each["rows"] for each in result.provenance if type(each.get("rows")) is int), SMALLEST_BATCH)
    gradients = cell.cost.gradients + cell.cost.shared_gradients
    each = 1 + cell.cost.forwards + GRADIENT_PASSES * gradients
    fit = -(-(cell.cost.fit_forwards + GRADIENT_PASSES * cell.cost.fit_gradients) // max(1, batch_size))
    return (each * -(-rows // max(1, batch_size)) + fit) * (len(cell.perturbation.smaller) + 1)


def _planned(results: Results, result: CellResult) -> Cell:
    label, key = result.cell.model.label, result.cell.key
    return next(cell for cell in results.plan.cells if cell.key == key and cell.model.label == label)


def _too_dear(results: Results, cells: Sequence[CellResult], passes: int) -> Finding:
    name = cells[0].cell.short_name
    models = f"{len(cells)} models" if len(cells) > 1 else cells[0].cell.model.label
    is_exportable = cells[0].cell.kind == "attack" and results.outline.run.has_command
    command = results.outline.command("export-adversarial", "-o", "adversarial", "--only", quoted_glob(escape(name)))
    return finding(
        "gallery-left-out",
        f"it is not in the gallery: its examples take about {passes} passes of {models}, and all of a gallery at most "
        f"{MOST_PASSES}",
        subject=name,
        hint=f"To write its images to files: {command}" if is_exportable else "",
    )


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
        elif groups.setdefault(str(perturbation.group), perturbation.title) == perturbation.title:
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
