"""The planner: from a suite to cells, each with a name, an identity and a key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from robharness.errors import UserError, describe
from robharness.findings import Finding
from robharness.locations import Location, local_folder
from robharness.planning.advice import advice, data_remarks
from robharness.planning.cells import BLOCK, Cell, Plan
from robharness.planning.classes import absent_class_findings
from robharness.planning.commands import DEFAULT_STORE
from robharness.planning.data import missing_data, open_dataset, plan_data, require_squares
from robharness.planning.datasets import FixedDataset
from robharness.planning.files import require_files
from robharness.planning.identity import (
    call_plugin,
    canonical,
    data_identity,
    features_identity,
    key_of,
    perturbation_identity,
    source_identity,
)
from robharness.planning.models import ModelPlanner, require_fit
from robharness.planning.pixels import ImageSizes, canvas_findings, corruption_findings
from robharness.planning.planned import PlannedData, PlannedModel
from robharness.plugins.calls import call_spec, returned
from robharness.plugins.registry import Entry
from robharness.specs.conventions import INSTANCES
from robharness.specs.records import Cost
from robharness.suite import Data, Perturbation, Suite


def plan(
    suite: Suite,
    data_root: Path,
    limit: int | None = None,
    store: Location = DEFAULT_STORE,
    sizes: ImageSizes | None = None,
) -> Plan:
    """Plan the cells of a suite. Opens the data sets and hashes the weights; imports neither torch nor any network.

    suite: the resolved suite.
    data_root: the folder of data and weights.
    limit: the number of examples, a prefix of the fixed order; those of the suite if None.
    store: the store with the models that the suite trains; of an object store, their copies on this machine count.
    sizes: the sizes of the data's first images, which are read if they are needed and not given.
    """
    missing: list[UserError] = []
    data = _gather(missing, suite.data.entry, lambda: plan_data(suite, data_root, limit, sizes))
    opened: dict[str, tuple[Entry, FixedDataset]] = {}

    known: dict[str, FixedDataset] = {}

    def open_data(split: Data) -> FixedDataset:
        key = key_of(call_plugin(split.entry, canonical, data_identity(split) | {"limit": split.limit}))
        if key not in known:  # several seeds are trained on one split
            found = open_dataset(split, data_root)
            known[key] = found if split.limit is None else found.first(split.limit)
        opened[split.name] = split.entry, known[key]
        return known[key]

    planner = ModelPlanner(data_root, local_folder(store), open_data)
    models = [
        _gather(missing, ref.entry, planner.plan, ref)
        or PlannedModel(ref=ref, weights=None, identity={}, is_missing=True)
        for ref in suite.models
    ]
    without_files = {name for name, check in _stored_images(suite, data_root) if not _succeeds(missing, *check)}
    without_files |= {
        perturbation.name
        for perturbation in (*suite.perturbations, *suite.audit_attacks)
        if not _succeeds(missing, perturbation.entry, require_files, perturbation.entry, perturbation.params)
    }
    if data is not None:
        _succeeds(missing, suite.data.entry, require_squares, suite, data)
        for model in [model for model in models if not model.is_missing and not isinstance(data.canvas, int)]:
            _succeeds(missing, model.entry, require_fit, model.ref, model.encoders, data)
    else:
        data = missing_data(suite, limit)
    opened = {**({} if data.is_missing else {data.name: (data.entry, data.dataset)}), **opened}
    remarks = [
        remark
        for name, (entry, dataset) in opened.items()
        for remark in call_plugin(entry, data_remarks, name, dataset)
    ]
    feature_conditions = _feature_conditions(suite)
    cells = [
        _cell(suite, model, data.seen_by(model), p, models, without_files, with_features=with_features)
        for model in models
        for p, with_features in (
            *((p, False) for p in (None, *suite.perturbations)),
            *((p, True) for p in feature_conditions),
            *((p, False) for p in _audit_attacks(suite, model)),
        )
    ]
    return Plan(
        suite=suite,
        data_root=data_root,
        store=store,
        limit=limit,
        models=tuple(model for model in models if not (model.is_missing or model.is_untrained)),
        data=data,
        cells=tuple(cell for cell in cells if cell.key),
        pending_cells=tuple(cell for cell in cells if not cell.key),
        findings=tuple(dict.fromkeys([*advice(suite), *_data_findings(suite, data), *remarks])),
        missing=tuple({str(error): error for error in missing}.values()),
    )


def _stored_images(suite: Suite, data_root: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the name of each perturbation whose images were corrupted before, and the call that opens them."""
    for stored in suite.perturbations:
        if stored.is_stored:
            yield stored.name, (stored.entry, _open_stored, stored, data_root)


def _data_findings(suite: Suite, data: PlannedData) -> Iterator[Finding]:
    """Yield what the labels mean for accuracy, and the sizes of the images for the canvas and the corruptions.

    Images are read only for the canvas.
    """
    if not data.is_missing:
        yield from absent_class_findings(suite, data.dataset)
    if data.canvas is not None and not data.is_missing:
        yield from canvas_findings(suite, data.sizes, data.canvas)
        yield from corruption_findings(suite, data.sizes, data.canvas)


def refresh(planned: Plan) -> Plan:
    """Plan the whole suite again with what is on disk now, such as models that were trained meanwhile."""
    anew = plan(planned.suite, planned.data_root, planned.limit, planned.store)
    return dataclasses.replace(anew, request=planned.request)


def _feature_conditions(suite: Suite) -> list[Perturbation | None]:
    """The conditions under which the suite's metrics need features: None for clean examples, and corruptions."""
    corruptions = [p for p in suite.perturbations if p.kind == "corruption"]
    clean: list[Perturbation | None] = [None] if suite.needs & {"features", "views"} else []
    return [*clean, *(corruptions if "views" in suite.needs else [])]


def _audit_attacks(suite: Suite, model: PlannedModel) -> list[Perturbation]:
    """The attacks of the audit on a model; one that is crafted on another model takes the first of the others."""
    others = [ref.label for ref in suite.models if ref.label != model.label]
    return [p for p in suite.audit_attacks if all(each.label in others[:1] for each in p.surrogates)]


def _open_stored(perturbation: Perturbation, data_root: Path) -> None:
    """Open images that were corrupted before, to check that they are on this machine. Raises UserError."""
    try:
        call_spec(perturbation.entry.spec.open, perturbation.params, data_root)
    except UserError:
        raise
    except Exception as error:
        entry = perturbation.entry
        raise UserError(
            f"{entry.name} of {entry.origin} cannot be opened: {describe(error)}. Try: robharness list corruptions"
        ) from error


def _gather(missing: list[UserError], entry: Entry, make: Callable[..., Any], *arguments: Any) -> Any:
    """Call `make`, which runs code of a plugin. Returns None, and adds the error to `missing`, if it raises one."""
    try:
        return call_plugin(entry, make, *arguments)
    except UserError as error:
        missing.append(error)
        return None


def _succeeds(missing: list[UserError], entry: Entry, check: Callable[..., Any], *arguments: Any) -> bool:
    """Call `check`, as `_gather` does, and return whether it raised no error."""
    before = len(missing)
    _gather(missing, entry, check, *arguments)
    return len(missing) == before


def _cell(
    suite: Suite,
    model: PlannedModel,
    data: PlannedData,
    perturbation: Perturbation | None,
    models: Sequence[PlannedModel],
    without_files: Collection[str],
    *,
    with_features: bool = False,
) -> Cell:
    """Plan a cell.

    without_files: the names of perturbations whose files are not on this machine.
    """
    kind = "clean" if perturbation is None else perturbation.kind
    count: Literal["all", "robust"] = suite.count if kind == "attack" else "all"
    by_label = {planned.label: planned for planned in models}
    surrogates = () if perturbation is None else tuple(by_label[each.label] for each in perturbation.surrogates)
    waits_for = _reason_to_wait((model, *surrogates), data, perturbation, without_files)
    if perturbation is not None and perturbation.is_ensemble:
        count = "robust"
    identity: dict[str, Any] = {}
    if waits_for in ("", "training"):  # before a training as well, since it shows mistakes of plugins
        identity = _identity(suite, model, data, perturbation, surrogates, count, with_features=with_features)
    identity = {} if waits_for else canonical(identity)
    cost = Cost(forwards=int(with_features))
    if perturbation is not None and perturbation.kind == "attack" and perturbation.name not in without_files:
        known = data.n if model.entry.spec.labels == INSTANCES else len(data.order) or data.n
        declared = call_plugin(perturbation.entry, _cost, perturbation)
        cost = _cost_on(declared, perturbation, known or perturbation.fitted_on, max(1, len(surrogates)))
    return Cell(
        model=model,
        data=data,
        perturbation=perturbation,
        surrogates=surrogates,
        count=count,
        identity=identity,
        key="" if waits_for else key_of(identity),
        cost=cost,
        waits_for=waits_for,
        with_features=with_features,
    )


def _reason_to_wait(
    models: Sequence[PlannedModel],
    data: PlannedData,
    perturbation: Perturbation | None,
    without_files: Collection[str],
) -> str:
    """Return what a cell waits for, see `Cell.waits_for`.

    models: its model and its surrogates.
    """
    if any(each.is_missing for each in models):
        return "weights"
    if data.is_missing or (perturbation is not None and perturbation.name in without_files):
        return "data"
    return "training" if any(each.is_untrained for each in models) else ""


def _identity(
    suite: Suite,
    model: PlannedModel,
    data: PlannedData,
    perturbation: Perturbation | None,
    surrogates: tuple[PlannedModel, ...],
    count: str,
    *,
    with_features: bool,
) -> dict[str, Any]:
    """Return all that determines the outcomes of a cell, as plain data."""
    kind = "clean" if perturbation is None else perturbation.kind
    identity: dict[str, Any] = {"model": model.identity, "data": data.identity, "precision": suite.precision.of(kind)}
    identity |= {"compile": True} if suite.compile else {}
    identity |= {"features": model.entry.spec.features} if with_features else {}
    if perturbation is not None:
        entry = perturbation.entry
        draws = entry.spec.randomness != "none"
        identity["perturbation"] = {
            **call_plugin(entry, perturbation_identity, perturbation),
            "strength": perturbation.severity if perturbation.eps is None else perturbation.eps,
            **({"smaller": list(perturbation.smaller)} if perturbation.smaller else {}),
            **({"source": source_identity(surrogates)} if surrogates else {}),
            **features_identity(entry, surrogates[0] if surrogates else model),
            **({"eight_bit": True} if perturbation.eight_bit else {}),
            **({"count": count} if count != "all" else {}),
            **({"seed": suite.seed} if draws else {}),
            **({"block": BLOCK} if perturbation.needs_blocks else {}),
        }
        identity["perturbation"] = call_plugin(entry, canonical, identity["perturbation"])
    return identity


def _cost(perturbation: Perturbation) -> Cost:
    """Return the cost of an attack. Raises TypeError if the plugin returned something else."""
    cost = returned("cost", call_spec(perturbation.entry.spec.cost, perturbation.params), Cost)
    return Cost(**{each.name: getattr(cost, each.name) for each in dataclasses.fields(Cost)})


def _cost_on(cost: Cost, perturbation: Perturbation, known: int, networks: int) -> Cost:
    """Return the declared cost of an attack on this many networks at once, each of which makes every pass.

    known: number of examples that an attack may be fitted on; fewer than it declares shorten the fit.
    """
    share = Fraction(min(known, perturbation.fitted_on), perturbation.fitted_on or 1)
    return Cost(
        forwards=networks * cost.forwards,
        gradients=networks * cost.gradients,
        shared_gradients=networks * cost.shared_gradients,
        fit_forwards=round(networks * share * cost.fit_forwards),
        fit_gradients=round(networks * share * cost.fit_gradients),
    )
