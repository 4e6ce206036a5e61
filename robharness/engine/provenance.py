"""Differences between the provenance of stored outcomes and the present one."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from typing import Any

from robharness.planning.artefacts import PROVENANCE, read
from robharness.planning.cells import Cell, Plan
from robharness.plugins.provenance import code_digest
from robharness.store.store import Store


def stale(plan: Plan, store: Store) -> list[str]:
    """What is stored of the plan and was made by other code than the plugins have now."""
    found: dict[tuple[str, str, Any, Any], dict[str, Cell]] = {}
    roles: dict[tuple[str, str, Any, Any], set[str]] = {}
    for cell in (*plan.cells, *plan.unselected_cells):
        plugins = cell.plugins
        for way in store.provenance(cell.key):
            for name, before, now in differences(way, plugins):
                role, _, what = name.partition(".")
                if what in ("plugin", "source"):
                    change = (plugins[role]["plugin"], what, before, now)
                    found.setdefault(change, {})[cell.name] = cell
                    roles.setdefault(change, set()).add(role)
    return [
        f"{plugin}: its {'source' if what == 'source' else 'version'} was {before} when {_some(list(cells.values()))} "
        f"computed, now it is {now}; to compute again: "
        f"--fresh '{_glob(roles[plugin, what, before, now], list(cells.values()))}'"
        for (plugin, what, before, now), cells in found.items()
    ]


def stale_trainings(plan: Plan) -> list[str]:
    """What was trained by other code than its plugin has now, a sentence per plugin."""
    labels: dict[tuple[str, str, str], list[str]] = {}
    for model in plan.trained_models:
        if model.artefact is not None and model.weights is not None:
            before, now = read(model.artefact.folder / PROVENANCE).get("source"), code_digest(model.entry.origin)
            if before is not None and now is not None and before != now:
                labels.setdefault((str(model.entry.origin), str(before), now), []).append(model.label)
    return [
        f"{plugin}: its source was {before} when {', '.join(some)} {'was' if len(some) == 1 else 'were'} trained, "
        f"now it is {now}; to train again, remove what this shows: robharness list artefacts"
        for (plugin, before, now), some in labels.items()
    ]


def _glob(roles: set[str], cells: Sequence[Cell]) -> str:
    """A pattern for `--fresh` that matches these cells, and not many others."""
    if roles == {"perturbation_plugin"}:
        if len(cells) == 1:
            return glob.escape(cells[0].short_name)
        names = {cell.perturbation.entry.spec.name for cell in cells if cell.perturbation}
        return f"*{names.pop()}(*" if len(names) == 1 else "*(*"  # the namespace stands before some
    labels = {cell.model.label for cell in cells}
    return glob.escape(labels.pop()) if roles == {"model_plugin"} and len(labels) == 1 else "*"


def _some(cells: Sequence[Cell]) -> str:
    return f"'{cells[0].name}' was" if len(cells) == 1 else f"{len(cells)} of these cells were"


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, before, now) of what both have and is not the same."""
    flat = _flat(now)
    for name, value in _flat(before).items():
        if name in flat and flat[name] != value:
            yield name, value, flat[name]


def inexact(label: str, provenance: dict[str, Any]) -> list[str]:
    broken = [name for name, exact in provenance["exact"].items() if exact is False]
    broken = [name for name in broken if name != "grad_mode" or provenance["exact"]["gradients"] is not None]
    what = {"rows": "logits depend on the neighbours in a pass", "gradients": "gradients depend on the neighbours in a "
            "pass", "grad_mode": "logits differ where gradients are recorded"}  # fmt: skip
    return [f"{label}: on this device the last bits of its {what[name]}" for name in broken]


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in facts.items():
        flat.update(
            {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat
