"""Lines on finished units, for streams that are no terminal."""

from __future__ import annotations

from robharness.display import texts
from robharness.engine.progress import RunProgress
from robharness.engine.units import Unit

MAX_NAMED = 3
"""The most cells of a unit that a line names; of more, it names the lowest and the highest accuracy."""


def unit_line(progress: RunProgress, unit: Unit, shorter: int = 0) -> str:
    """Return a line on a unit: its model, examples and cells, the accuracies so far, the speed and the time left.

    unit: a unit that is finished, or that was ended after some of its cells.
    shorter: the number of units since the last line that have no line of their own.
    """
    names = [progress.name_of[unit.label, key] for key in unit.keys]
    counted = {name: cell for name in names if (cell := progress.cells[unit.label, name]).n}
    shown, verb = counted, "accuracy so far"
    if len(counted) > MAX_NAMED:
        ordered = sorted(counted, key=lambda name: counted[name].right / counted[name].n)
        shown = {name: counted[name] for name in (ordered[0], ordered[-1])}
        verb = "lowest and highest accuracy so far"
    before = f" ({shorter} shorter units before)" if shorter > 1 else " (1 shorter unit before)" if shorter else ""
    parts = [
        f"{unit.label}, examples {unit.span[0]} to {unit.span[1] - 1}, {len(names)} cells{before}",
        f"{verb}: {', '.join(f'{name} {texts.accuracy(cell)}' for name, cell in shown.items())}" if shown else "",
        texts.computed(progress),
        texts.speed(progress),
        texts.failures(progress),
        texts.time_left(progress),
    ]
    return "; ".join(part for part in parts if part)
