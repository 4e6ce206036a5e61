"""The details of all cells as data in the page, which its script shows on demand."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from robharness.report.details import Calibration, ClassNumbers
from robharness.report.records import CellNumbers, Report
from robharness.report.renderers.html.shown import plain


def details(report: Report) -> Markup:
    """Return the details as JSON that ends no element of the page.

    Values of identities that cells share stand once, in `pool`; a cell names them by their places.
    """
    pool: dict[str, int] = {}
    environments: dict[str, list[int]] = {}
    for number, environment in enumerate(report.environments):
        for key in environment.cells:
            environments.setdefault(key, []).append(number)
    cells = []
    for cell in report.cells:
        identity = {
            name: pool.setdefault(json.dumps(value), len(pool))
            for name, value in plain(report.identities.get(cell.key, {})).items()
        }
        made = {"key": plain(cell.key), "identity": identity, "environments": environments.get(cell.key, [])}
        cells.append(made | _facts(cell))
    values = ",".join(pool)
    facts = [plain(environment.facts) for environment in report.environments]
    text = f'{{"pool":[{values}],"environments":{_compact(facts)},"cells":{_compact(cells)}}}'
    for character in "<>&'\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _facts(cell: CellNumbers) -> dict[str, Any]:
    """Return what the tables do not have of a cell, without what is empty."""
    found: dict[str, Any] = {
        "data": cell.data,
        "group": cell.group,
        "examples that cannot be read": cell.unreadable,
        "examples with logits that are not numbers": cell.not_numbers,
        "notes of the attack, totals": cell.notes,
        "examples that each member made wrong": cell.components,
        "share that reached the target": cell.success,
        "accuracy in 8 bits": cell.accuracy_8bit,
        "class, accuracy, interval, n; lowest first": _lowest(cell.classes),
        "confidence, accuracy, n per bin": _bins(cell.calibration),
    }
    if cell.transfer is not None:
        transfer = cell.transfer
        found["transfer"] = {
            "from": transfer.source, "examples that both get right and that fool the source": transfer.n,
            "share that fools the model": transfer.rate, "95 % interval": transfer.interval,
            "minus that of the way back": transfer.asymmetry, "its interval": transfer.asymmetry_interval,
        }  # fmt: skip
    if cell.distances is not None:
        distances = cell.distances
        found["smallest perturbations"] = {
            "examples": distances.n, "found for": distances.found, "median": distances.median,
            "quartiles": distances.quartiles, "mean accuracy over budgets": distances.area,
            "budgets up to": distances.area_until,
        }  # fmt: skip
    if cell.optimality is not None:
        optimality = cell.optimality
        counted = "forward and backward passes per attacked example"
        found["local optimality"] = {
            "examples": optimality.n, "value": optimality.value, "95 % interval": optimality.interval,
            counted if optimality.is_recorded else f"{counted}, as declared": optimality.passes,
        }  # fmt: skip
    return {"facts": {name: plain(value) for name, value in found.items() if value not in (None, 0, {}, [], ())}}


def _lowest(found: ClassNumbers | None) -> list[list[float]]:
    some = () if found is None else found.lowest
    return [[each.label, *_rounded(each.accuracy, *each.interval), each.n] for each in some]


def _bins(found: Calibration | None) -> list[list[float]]:
    """Return the bins of a reliability diagram that have examples."""
    some = () if found is None else found.bins
    return [[*_rounded(each.confidence, each.accuracy), each.n]
            for each in some if each.confidence is not None and each.accuracy is not None]  # fmt: skip


def _rounded(*fractions: float | None) -> list[float]:
    return [round(each, 4) for each in fractions if each is not None]
