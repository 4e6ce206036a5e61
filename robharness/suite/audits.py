"""The attacks that an audit adds to a suite, as plugins declare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robharness.plugins.calls import call_spec, plugin_code, returned
from robharness.plugins.registry import PluginOrigin
from robharness.specs.audits import PROBE_NOTES, AuditSpec, AuditTarget
from robharness.specs.measures import NORMS
from robharness.specs.records import Cost
from robharness.suite.checks import Models, Perturbations
from robharness.suite.fields import sentence_of
from robharness.suite.resolved import Model, Perturbation
from robharness.text import printable

if TYPE_CHECKING:
    from robharness.suite.reader import _SuiteReader

PATH = ("audit",)
"""The place of errors about attacks that a plugin declares for audits."""


def audit_attacks(
    reader: _SuiteReader, models: Models, own: Perturbations
) -> tuple[Sequence[Perturbation], Sequence[Perturbation]]:
    """Return the attacks that the plugins declare for an audit, each once, without those that the suite has itself.

    The first ones take the inputs of all models, the second ones do not. An item that is wrong is an error of the key
    `audit`.
    """
    added, unfit = list[Perturbation](), list[Perturbation]()
    taken, names = {_full_name(each) for _, each in own}, {each.name for _, each in own}
    for target in _targets(reader, [model for _, model in models], own):
        for origin, spec in reader.registry.audits:
            for item in _items(reader, origin, spec, target):
                for _, found in reader.attack(PATH, dict(item), models):
                    if _full_name(found) not in taken:
                        has_fit = all(_fits(found, model) for _, model in models)
                        named = dataclasses.replace(found, audit=spec.role, qualified=found.name in names)
                        (added if has_fit else unfit).append(named)
                        taken.add(_full_name(found))
                        names |= {found.name} if has_fit else set()
    return added, unfit


def _full_name(perturbation: Perturbation) -> str:
    """Return the name with that of the plugin."""
    return dataclasses.replace(perturbation, qualified=True).name


def _targets(reader: _SuiteReader, models: Sequence[Model], own: Perturbations) -> Iterator[AuditTarget]:
    """Yield the largest ball of each norm of the suite's attacks, or one target without a norm if there is no ball.

    A ball is that of an attack with the model's own gradients, which the added attacks are compared with. Measures of
    plugins are left out, since other plugins have no attacks under them.
    """
    sources = tuple(model.label for model in models[:2]) if len(models) > 1 else ()
    by_norm: dict[Any, list[Perturbation]] = {}
    for _, perturbation in own:
        is_ball = perturbation.eps is not None and perturbation.norm in NORMS and not perturbation.is_targeted
        if is_ball and not perturbation.surrogates and perturbation.entry.spec.access == "gradient":
            by_norm.setdefault(perturbation.norm, []).append(perturbation)
    for norm, perturbations in by_norm.items():
        eps = max(each.eps for each in perturbations if each.eps is not None)
        steps = max(_gradients(reader, each) for each in perturbations)
        yield AuditTarget(norm=norm, eps=eps, steps=steps, sources=sources)
    if not by_norm:
        yield AuditTarget(sources=sources)


def _gradients(reader: _SuiteReader, perturbation: Perturbation) -> int:
    """Return the number of gradients per example, or 0 if the plugin cannot say it; the planner reports that."""
    try:
        cost = returned("cost", call_spec(perturbation.entry.spec.cost, perturbation.params), Cost)
    except Exception:
        return 0
    return int(cost.gradients + cost.shared_gradients)


def _items(
    reader: _SuiteReader, origin: PluginOrigin, spec: AuditSpec, target: AuditTarget
) -> Sequence[Mapping[str, Any]]:
    """Return the items that a plugin declares; empty after adding an error."""
    try:
        with plugin_code():
            items = returned("items", spec.items(target), Sequence)  # type: ignore[operator]
            for item in items:
                if not isinstance(item, Mapping) or not isinstance(item.get("attack"), str):
                    raise TypeError(f"an item is a mapping with the key 'attack', not {printable(repr(item))}")
                _require_notes(reader, spec, item["attack"])
    except Exception as error:  # a plugin's function may raise anything
        reader.error(PATH, f"the role {spec.role} of {origin}: {sentence_of(error)}", once=True)
        return ()
    return list(items)


def _require_notes(reader: _SuiteReader, spec: AuditSpec, attack: str) -> None:
    """Raise ValueError if a probe does not declare the notes of its role."""
    entry = reader.registry.attacks.get(attack)
    if spec.role == "probe" and entry is not None and dict(entry.spec.notes) != dict(PROBE_NOTES):
        raise ValueError(f"{attack} must declare the notes {', '.join(PROBE_NOTES)}, with their types")


def _fits(perturbation: Perturbation, model: Model) -> bool:
    """Return whether an attack takes the inputs of a model, and its surrogates have the same inputs."""
    spec, others = model.entry.spec, [surrogate.entry.spec for surrogate in perturbation.surrogates]
    takes = spec.input.kind in perturbation.entry.spec.inputs
    return takes and all((spec.input, spec.preprocessing) == (other.input, other.preprocessing) for other in others)
