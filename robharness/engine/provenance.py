"""Differences between the provenance of stored outcomes and the present one."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from robharness.findings import Finding, finding
from robharness.planning.artefacts import PROVENANCE, read
from robharness.planning.cells import Cell, Plan
from robharness.planning.commands import quoted_glob
from robharness.plugins.provenance import code_digest, code_of_options
from robharness.store.store import Store
from robharness.text import counted

BOUNDARY_TOLERANCE = 1e-4
"""Fraction of the logit range within which the batch size, thread count or device can change an outcome."""


def stored_provenance(plan: Plan, store: Store) -> list[tuple[Cell, Sequence[Mapping[str, Any]]]]:
    """Return the plan's cells, those outside of `only` included, each with the provenance of its stored parts."""
    return [(cell, store.provenance(cell.key)) for cell in (*plan.cells, *plan.unselected_cells)]


def stored_of_model(plan: Plan, store: Store, label: str) -> list[Mapping[str, Any]]:
    """Return the provenance of the stored parts of a model, those of cells outside of `only` included."""
    cells = (*plan.cells, *plan.unselected_cells)
    keys = [cell.key for cell in cells if cell.model.label == label]
    return [each for found in store.map(store.provenance, keys) for each in found]


def outdated_outcomes(plan: Plan, stored: Iterable[tuple[Cell, Sequence[Mapping[str, Any]]]]) -> Iterator[Finding]:
    """Yield a finding per plugin whose code has changed since outcomes were stored.

    plan: the plan of the cells, for the hinted command.
    stored: cells, each with the provenance of its parts.
    """
    found: dict[tuple[str, str, Any, Any], dict[str, Cell]] = {}
    roles: dict[tuple[str, str, Any, Any], set[str]] = {}
    for cell, provenances in stored:
        plugins = cell.plugins
        for provenance in provenances:
            for name, before, now in differences(provenance, plugins):
                role, _, what = name.partition(".")
                if what in ("plugin", "source"):
                    change = (plugins[role]["plugin"], what, before, now)
                    found.setdefault(change, {})[cell.name] = cell
                    roles.setdefault(change, set()).add(role)
    for (plugin, what, before, now), cells in found.items():
        changed, names = "source" if what == "source" else "version", list(cells.values())
        matching = quoted_glob(_glob(roles[plugin, what, before, now], names))
        yield finding(
            "code-changed",
            f"its {changed} was {before} when {_some(names)} computed, now it is {now}",
            subject=plugin,
            hint=f"to compute again: {plan.command('run', '--fresh', matching)}",
        )


def outdated_trainings(plan: Plan) -> Iterator[Finding]:
    """Yield a finding per plugin whose code has changed since it trained models of the plan."""
    labels: dict[tuple[str, str, str], list[str]] = {}
    for model in plan.trained_models:
        if model.artefact is not None and model.weights is not None:
            stored = read(model.artefact.folder / PROVENANCE)
            code = [(str(model.entry.origin), stored.get("source"), code_digest(model.entry.origin))]
            for option, used in code_of_options(model.entry, model.ref.params).items():
                part = _flat(stored).get(f"components.{option}")
                then = part.get("source") if isinstance(part, Mapping) else None
                code.append((used["plugin"], then, used["source"]))
            for plugin, before, today in code:
                if before is not None and today is not None and before != today:
                    labels.setdefault((plugin, str(before), today), []).append(model.label)
    for (plugin, before, now), trained in labels.items():
        verb = "was" if len(trained) == 1 else "were"
        yield finding(
            "training-code-changed",
            f"its source was {before} when {', '.join(trained)} {verb} trained, now it is {now}",
            subject=plugin,
            hint="to train again, remove the folders that this shows: robharness list artefacts",
        )


def _glob(roles: set[str], cells: Sequence[Cell]) -> str:
    """Return a glob that matches these cells, and few others."""
    if roles == {"perturbation_plugin"}:
        if len(cells) == 1:
            return glob.escape(cells[0].short_name)
        names = {cell.perturbation.entry.spec.name for cell in cells if cell.perturbation}
        return f"*{names.pop()}(*" if len(names) == 1 else "*(*"  # the namespace stands before some
    labels = {cell.model.label for cell in cells}
    is_of_model = all(role.startswith("model_") for role in roles)
    return glob.escape(labels.pop()) if is_of_model and len(labels) == 1 else "*"


def _some(cells: Sequence[Cell]) -> str:
    return f"'{cells[0].name}' was" if len(cells) == 1 else f"{len(cells)} of these cells were"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, before, now) for each fact that both have and that differs."""
    flat = _flat(now)
    for name, value in _flat(before).items():
        if name in flat and flat[name] != value and not name.endswith("_by"):  # how large rounding is
            yield name, value, flat[name]


def runtime_findings(
    label: str, stored: Iterable[Mapping[str, Any]], now: Mapping[str, Any], again: str
) -> Iterator[Finding]:
    """Yield a finding per fact of a provenance that differs from that of the model's stored outcomes.

    label: of the model.
    stored: the provenances of its stored outcomes.
    again: the command that computes all of its cells again.
    """
    for before in stored:
        for name, old, new in differences(before, now):
            message = f"{name} was {old} when some of it was computed, now it is {new}"
            yield finding("runtime-changed", message, subject=label, hint=f"to compute all of it again: {again}")


def pass_findings(label: str, provenance: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the probe of a model found about its passes.

    label: of the model.
    provenance: of outcomes, as the store keeps it.
    """
    exact, device = provenance.get("exact", {}), provenance.get("device", "unknown")
    facts = {
        "rows": ("logits depend on the neighbours in a pass", "the logit range"),
        "gradients": ("gradients depend on the neighbours in a pass", "a gradient's length"),
        "grad_mode": ("logits differ where gradients are recorded", "the logit range"),
    }
    for name, (fact, unit) in facts.items():
        without_gradients = name == "grad_mode" and exact.get("gradients") is None
        if exact.get(name) is False and not without_gradients:
            by = exact.get(f"{name}_by")
            much = "" if by is None else f", by {by:.1g} of {unit} at most"
            is_small = name == "gradients" or by is None or by <= BOUNDARY_TOLERANCE
            yield finding(
                "inexact-passes",
                f"on this device ({device}) rounding makes its {fact}{much}",
                subject=label,
                hint="nothing needs doing" if is_small else "compare results of one batch size only",
            )
    if provenance.get("surplus_outputs"):
        outputs, classes = provenance["surplus_outputs"]
        yield finding(
            "more-outputs-than-classes",
            f"it has {outputs} outputs, and the data have {classes} classes; a prediction of another class counts as "
            f"wrong",
            subject=label,
            hint="check that its classes are those of the data, in the same order; to restrict its logits to them: "
            "write `classes: present` in `data:`",
        )
    for each in provenance.get("left_over", ()):
        tensors = counted(each["tensors"], "tensor", "tensors")
        parts = ", ".join([*each["parts"], *([f"{each['more_parts']} more"] if each["more_parts"] else [])])
        yield finding(
            "left-over",
            f"{each['file']} has {tensors} that {each['network']} does not use: {parts}",
            subject=label,
            hint="check that they are heads of the training, and no part of the encoder",
        )
    if provenance.get("copies_input"):
        yield finding(
            "input-written",
            "it writes into its input, and is measured on copies",
            subject=label,
            hint="to avoid the copies: x = x.clone() in its forward",
        )


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in facts.items():
        flat.update(
            {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat
