"""Outlines of plans: from the plugins' records to plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from robharness.planning.cells import Cell, Plan
from robharness.planning.commands import plan_options
from robharness.planning.identity import call_plugin, draw_address, text_key
from robharness.planning.outline import (
    NOTE_TYPES,
    CellEntry,
    DataOutline,
    MetricOutline,
    ModelOutline,
    PerturbationOutline,
    Pixels,
    PlanOutline,
    PublicationOutline,
    RunOutline,
    SuiteOutline,
)
from robharness.planning.planned import PlannedData, PlannedModel
from robharness.specs.conventions import INSTANCES
from robharness.specs.records import Cost
from robharness.suite import Model, Perturbation

T = TypeVar("T")


def outline(plan: Plan) -> PlanOutline:
    """Return the outline of a plan, which also gives the plugins' own records that the plan has."""
    suite, cells = plan.suite, (*plan.cells, *plan.pending_cells)
    hashes = {model.label: model.artefact.hash for model in plan.trained_models if model.artefact is not None}
    needed = (model for cell in cells for model in (cell.model, *cell.surrogates))
    untrained = {model.label: model for model in needed if model.is_untrained}
    costs = {id(cell.perturbation): cell.cost for cell in cells if not cell.with_features}
    models = {
        model.label: _PlannedModel(
            planned=model,
            label=model.label,
            name=model.entry.name,
            reference=model.reference,
            run_of=model.run_of,
            clean_at_least=model.clean_at_least,
            artefact=hashes.get(model.label),
            is_untrained=model.label in untrained,
            needs=_needs(untrained.get(model.label)),
        )
        for model in _distinct((*suite.models, *(cell.model.ref for cell in cells)))
    }
    attacks = (*suite.perturbations, *suite.audit_attacks)
    used = [model.entry for model in suite.models] + [each.entry for each in attacks]
    plugins = [suite.data.entry, *suite.metrics, *used]
    every = _distinct((*suite.perturbations, *(cell.perturbation for cell in cells if cell.perturbation is not None)))
    perturbations = {id(each): _perturbation(each, costs.get(id(each), Cost())) for each in every}
    number_of_model = {label: number for number, label in enumerate(models)}
    number_of = {key: number for number, key in enumerate(perturbations)}

    def entries(some: Iterable[Cell]) -> tuple[CellEntry, ...]:
        return tuple(
            CellEntry(
                key=cell.key,
                model=number_of_model[cell.model.label],
                perturbation=None if cell.perturbation is None else number_of[id(cell.perturbation)],
                count=cell.count,
                with_features=cell.with_features,
            )
            for cell in some
        )

    return _PlannedOutline(
        planned=plan,
        suite=SuiteOutline(
            name=suite.name,
            title=suite.title,
            data=_data(plan),
            compat=suite.compat,
            count=suite.count,
            gap=suite.gap,
            gain=suite.gain,
            baseline=suite.baseline,
            metrics=tuple(MetricOutline(name=each.name, needs=each.spec.needs) for each in suite.metrics),
            expected=tuple(PublicationOutline(source=each.source, numbers=each.numbers) for each in suite.expected),
            models=tuple(models.values()),
            perturbations=tuple(perturbations.values()),
            cells=entries(plan.cells),
            pending_cells=entries(plan.pending_cells),
            clusters=suite.clusters,
            audit=suite.audit,
            retrieval=any(model.entry.spec.labels == INSTANCES for model in suite.models),
        ),
        run=RunOutline(
            n=plan.n,
            limit=plan.limit,
            path=str(suite.as_given(suite.path)),
            plugins=suite.plugin_options,
            has_command=suite.has_command,
            origins={entry.name: str(entry.origin) for entry in plugins},
            findings=plan.findings,
            settings=suite.settings,
            protocols=suite.protocols,
        ),
        options=plan_options(suite.working_directory, store=plan.store, root=plan.data_root, limit=plan.limit),
        store=plan.store,
    )


def _needs(model: PlannedModel | None) -> tuple[str, ...]:
    """Return the hashes of the artefacts that a model waits for, without its own."""
    return tuple(artefact.hash for artefact in model.waits_for if artefact is not model.artefact) if model else ()


def _distinct(some: Iterable[T]) -> list[T]:
    """Return the objects in their order, each once."""
    return list({id(each): each for each in some}.values())


@dataclass(frozen=True, kw_only=True)
class _PlannedOutline(PlanOutline):
    planned: Plan

    @property
    def is_planned(self) -> bool:
        return True

    @property
    def plan(self) -> Plan:
        return self.planned

    @cached_property
    def pixels(self) -> Pixels:
        data = self.planned.data
        if data is None:
            return Pixels(paths={}, sides=None)
        return Pixels(paths=self.planned.pixels, sides=_sides(data))


@dataclass(frozen=True, kw_only=True)
class _PlannedModel(ModelOutline):
    planned: Model

    @property
    def entry(self) -> Any:
        return self.planned.entry

    @property
    def ref(self) -> Any:
        return self.planned


@dataclass(frozen=True, kw_only=True)
class _PlannedPerturbation(PerturbationOutline):
    planned: Perturbation

    @property
    def entry(self) -> Any:
        return self.planned.entry

    @property
    def params(self) -> Any:
        return self.planned.params


@dataclass(frozen=True, kw_only=True)
class _PlannedDataOutline(DataOutline):
    planned: Plan

    @property
    def entry(self) -> Any:
        return self.planned.suite.data.entry


def _data(plan: Plan) -> DataOutline:
    suite, data = plan.suite, plan.data
    return _PlannedDataOutline(
        planned=plan,
        name=suite.data.name,
        spec=suite.data.entry.name,
        size=len(data.order) if data else 0,
        kind=suite.data.entry.spec.kind,
    )


def _sides(data: PlannedData) -> tuple[int, int] | None:
    if data.canvas == "own":
        return data.sizes.shared
    return None if data.canvas is None else (data.canvas, data.canvas)


def _perturbation(p: Perturbation, cost: Cost) -> PerturbationOutline:
    spec, is_attack = p.entry.spec, p.kind == "attack"
    types = {kind: name for name, kind in NOTE_TYPES.items()}
    labels = tuple(model.label for model in p.surrogates)
    return _PlannedPerturbation(
        planned=p,
        kind=p.kind,
        name=p.name,
        title=p.title,
        spec=p.entry.name,
        norm=p.norm,
        unit=p.measure.unit if p.measure else "",
        eps=p.eps,
        severity=p.severity,
        group=None if is_attack else spec.group,
        columns={name: types[kind] for name, kind in p.notes.items()},  # type: ignore[misc]
        totals=tuple(name for name, kind in spec.notes.items() if kind is not str),
        alarms=spec.alarms if is_attack else (),
        access=spec.access if is_attack else "",
        is_ensemble=p.is_ensemble,
        is_targeted=p.is_targeted,
        eight_bit=p.eight_bit,
        surrogate=labels[0] if len(labels) == 1 else labels or None,
        cost=cost,
        audit=p.audit,
        draws="" if is_attack else text_key(call_plugin(p.entry, draw_address, p)),
    )
