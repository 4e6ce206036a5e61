"""The environments of a page: the facts that all of them share once, and of each one what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robharness.report.details import Environment
from robharness.report.records import Report
from robharness.report.renderers.html.shown import Shown, plain
from robharness.text import NAME_LENGTH, printable

MOST_NAMED = 3
"""The largest number of models that the title of an environment names."""
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Environments of outcomes.

    facts: those of all environments.
    environments: title and further facts of each one.
    """

    facts: dict[str, Any]
    environments: list[tuple[Shown, dict[str, Any]]]


def provenance(report: Report) -> Shared:
    """Return the environments of a report's outcomes, in their order."""
    facts = [environment.facts for environment in report.environments]
    models = {cell.key: cell.model for cell in report.cells}
    shared = _shared(facts)
    return Shared(
        facts=plain(shared),
        environments=[(_title(each, models), plain(_without(each.facts, shared))) for each in report.environments],
    )


def _shared(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts that all of these mappings have, also those within mappings."""
    if not facts:
        return {}
    found = {}
    for name, value in facts[0].items():
        values = [each.get(name, _ABSENT) for each in facts]
        if all(each == value and type(each) is type(value) for each in values):
            found[name] = value
        elif all(isinstance(each, Mapping) for each in values) and (inner := _shared([dict(each) for each in values])):
            found[name] = inner
    return found


def _without(facts: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that are not shared."""
    found = {}
    for name, value in facts.items():
        if name not in shared:
            found[name] = value
        elif value != shared[name]:
            found[name] = _without(value, shared[name])
    return found


def _title(environment: Environment, models: Mapping[str, str]) -> Shown:
    """Return the device, the plugin of the perturbation, the models, and the number of cells."""
    plugin = environment.facts.get("perturbation_plugin")
    named = (
        plugin.get("plugin") if isinstance(plugin, Mapping) else "clean" if "model_plugin" in environment.facts else ""
    )
    labels = list(dict.fromkeys(models[key] for key in environment.cells if key in models))
    labels = labels if len(labels) <= MOST_NAMED else [f"{len(labels)} models"]
    count = len(environment.cells)
    words = [environment.facts.get("device"), named, *labels, f"{count} cell{'s' * (count != 1)}"]
    return Shown(", ".join(printable(word, NAME_LENGTH) for word in words if word))
