"""Loading of models: build, fold, probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robharness.checkpoints import LeftOver
from robharness.errors import ENSEMBLE, ContractViolation, OutOfMemory, UserError, describe, surrogate_part
from robharness.evaluation import folding, heads
from robharness.evaluation.batch import Batch
from robharness.evaluation.batch_sizes import batch_size_candidates, clips_per_example
from robharness.evaluation.building import build_network
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.devices import device_name, library_versions
from robharness.evaluation.digest import state_digest
from robharness.evaluation.ensemble import MeanLogits
from robharness.evaluation.guard import Guard
from robharness.evaluation.memory import is_out_of_memory
from robharness.evaluation.modes import kept_modes
from robharness.evaluation.probe import probe, probe_inputs
from robharness.evaluation.reader import Reader
from robharness.evaluation.unchanged import check_model
from robharness.planning.cells import Cell, Plan
from robharness.planning.datasets import NumberedDataset
from robharness.planning.planned import PlannedData, PlannedModel
from robharness.plugins.calls import plugin_errors
from robharness.specs.conventions import INSTANCES
from robharness.specs.records import ModelSpec


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that is ready for passes in this process.

    seed: of the suite.
    state: the digest of the network's parameters and buffers, as built.
    provenance: how its outcomes are made; stored with every part.
    surrogates: the models and ensembles, by the `source` of the attacks on this model that are crafted on them, or the
        reason why one cannot be loaded.
    opened: stored corruptions that are open already, so that each is opened once.
    fitted: attacks that are fitted already, so that each is fitted once per budget; of an ensemble, its own.
    networks: the number of networks that see each row of a pass: that of an ensemble's members, else 1.
    restored: by plugin component, the modes and the state of the process that it changed and that were put back.
    logit_distances: (classes, classes) float64 of `heads.pairwise_logit_distances`, if a clean cell stores features and
        the head is linear; else None.
    """

    model: PlannedModel
    classifier: Classifier
    guard: Guard
    reader: Reader
    seed: int
    state: str
    data_root: Path
    provenance: dict[str, Any]
    surrogates: Mapping[str, LoadedModel | ContractViolation] = field(default_factory=dict)
    opened: dict[Any, Any] = field(default_factory=dict)
    fitted: dict[Any, Any] = field(default_factory=dict)
    restored: dict[str, list[str]] = field(default_factory=dict)
    logit_distances: np.ndarray | None = None
    networks: int = 1

    def with_clips(self, batch: Batch) -> LoadedModel:
        """Return the same model for examples with the batch's clip layout; see `Classifier.with_clips`."""
        if batch.clip_layout is None:
            return self
        return replace(self, classifier=self.classifier.with_clips(batch.clip_layout, batch.x))

    def note_restored(self, name: str, changed: Sequence[str]) -> None:
        """Note what a component of a plugin, such as "mine/net", changed outside of its own objects."""
        if changed:
            self.restored[name] = sorted({*self.restored.get(name, []), *changed})

    def restored_for(self, cell: Cell) -> dict[str, dict[str, list[str]]]:
        """Return the provenance of a cell that names what its plugins changed: {"restored": {name: changes}}."""
        entries = [cell.model.entry, cell.data.entry, *([cell.perturbation.entry] if cell.perturbation else [])]
        found = {entry.name: self.restored[entry.name] for entry in entries if entry.name in self.restored}
        return {"restored": found} if found else {}

    @property
    def surrogate_provenance(self) -> str:
        """The text that identifies this model in the provenance of a transfer attack that is crafted on it."""
        return f"{self.state} at {self.classifier.batch_size} rows, {self.provenance['folded']} norms folded"


def load_model(
    plan: Plan,
    model: PlannedModel,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    with_surrogates: bool = True,
) -> LoadedModel:
    """Build a model of a plan and probe it.

    device: as torch names it.
    batch_size: examples per pass; by default chosen by input size and device.
    with_surrogates: also load the models on which attacks on this one are crafted.
    Raises ContractViolation, by the model, for whatever its plugin does wrong, and OutOfMemory.
    """
    _set_precision(plan.suite.precision.judge)
    try:
        with kept_modes() as modes:
            loaded = _loaded(plan, model, device, batch_size, with_surrogates=with_surrogates)
        loaded.note_restored(model.entry.name, modes.changed)
        return loaded
    except (ContractViolation, OutOfMemory):
        raise
    except UserError as error:  # e.g. of a checkpoint: its message needs no type
        raise ContractViolation(f"it cannot be built: {error}", by="model") from error
    except Exception as error:  # a network may raise anything when it is moved, copied, digested or called
        if is_out_of_memory(error):
            raise ContractViolation("memory is too small for a second copy of its weights", by="model") from error
        raise ContractViolation(f"it cannot be prepared: {describe(error)}", by="model") from error


def _loaded(
    plan: Plan, model: PlannedModel, device: str, batch_size: int | None, *, with_surrogates: bool
) -> LoadedModel:
    assert plan.data is not None
    data = plan.data.seen_by(model)
    spec, target = model.entry.spec, torch.device(device)
    restored: dict[str, list[str]] = {}
    left_over: list[LeftOver] = []
    net = build_network(model, restored, left_over)
    check_model(model)
    state = state_digest(net)
    if spec.features is not None and spec.features not in dict(net.named_modules()):
        raise ContractViolation(f"its `features` are '{spec.features}', and it has no part of that name", by="model")
    if target.index is not None and target.type == "cuda":
        torch.cuda.set_device(target)  # for plugins and kernels that use the current device
    net, norms = _folded(net, spec, target)
    ready = state_digest(net)
    clips = clips_per_example(spec)
    n = len(data.order)
    candidates = [batch_size] if batch_size else batch_size_candidates(spec.input.shape, n, target, clips)
    for candidate in [*candidates, candidates[0]]:  # the first whose rows are exact, or else the first of all
        classifier, exact = _probed(plan, model, net, candidate, target)
        if exact["rows"] and exact["gradients"] is not False:
            break
    if state_digest(net) != ready:
        changes = "it changes its own buffers when it is called, in eval mode"
        raise ContractViolation(changes, by="model", refutes="unchanged")
    largest = data.n - 1 if spec.labels == INSTANCES else max(data.seen_labels)
    if largest >= classifier.classes:
        raise ContractViolation(f"it gives {classifier.classes} classes, the data have a label {largest}", by="model")
    provenance = {
        "model_state": state,
        "device": device_name(target),
        "threads": torch.get_num_threads(),
        "rows": classifier.batch_size,
        "folded": norms,
        "memory_format": str(classifier.memory_format).removeprefix("torch.").removesuffix("_format"),
        "precision": plan.suite.precision.judge,
        **({"gradient_precision": plan.suite.precision.gradient} if classifier.low_precision_gradients else {}),
        **({"compiled": True} if plan.suite.compile else {}),
        **({"copies_input": True} if classifier.copies_input else {}),
        **_surplus_outputs(data, classifier.classes),
        **({"left_over": [each.as_provenance() for each in left_over]} if left_over else {}),
        "exact": exact,
        "versions": library_versions(),
    }
    guard = Guard(classifier)
    distances = None
    if any(_has_clean_features(cell, model) for cell in plan.cells):
        distances = _logit_distances(classifier.net, spec, target, data.classes)
    reader = Reader(data=data, canvas=data.canvas, compat=plan.suite.compat, model=spec, device=target)
    with kept_modes() as modes:
        _require_own_memory(plan)
    restored |= {plan.data.entry.name: modes.changed} if modes.changed else {}
    loaded = LoadedModel(
        model=model,
        classifier=classifier,
        guard=guard,
        reader=reader,
        seed=plan.suite.seed,
        state=state,
        data_root=plan.data_root,
        provenance=provenance,
        logit_distances=distances,
        restored=restored,
    )
    if not with_surrogates:
        return loaded
    surrogates = _surrogates(plan, loaded, device, batch_size)
    texts = [
        f"{source}: {other.surrogate_provenance}"
        for source, other in surrogates.items()
        if isinstance(other, LoadedModel)
    ]
    return replace(
        loaded,
        provenance=provenance | ({"sources": ", ".join(texts)} if texts else {}),
        surrogates=surrogates,
    )


def _require_own_memory(plan: Plan) -> None:
    """Raise ContractViolation, by the data, if reading an example overwrites the one that was read before."""
    assert plan.data is not None
    first: np.ndarray | None = None
    before = b""
    for index in plan.data.order[:2]:
        try:
            with plugin_errors():
                image = plan.data.dataset.read(index)
        except Exception:  # reading in a run reports it
            return
        if not isinstance(image, np.ndarray):  # a video, whose frames are read later
            return
        if first is not None and first.tobytes() != before:
            raise ContractViolation(
                "its `read` returns the memory of the example before. Try: return a copy of the array", by="data"
            )
        first, before = image, image.tobytes()


def _surplus_outputs(data: PlannedData, outputs: int) -> dict[str, list[int]]:
    """Return the numbers of outputs and of the data's classes as a part of provenance, if there are more outputs."""
    if isinstance(data.dataset, NumberedDataset) or data.classes is not None:
        return {}
    classes = data.entry.spec.known_classes or max(data.dataset.labels) + 1
    return {"surplus_outputs": [outputs, classes]} if outputs > classes else {}


def _has_clean_features(cell: Cell, model: PlannedModel) -> bool:
    return cell.with_features and cell.model is model and cell.perturbation is None


def _logit_distances(
    net: torch.nn.Module, spec: ModelSpec, device: torch.device, classes: Sequence[int] | None
) -> np.ndarray | None:
    """Return the pairwise logit distances per unit of the features, of some classes; None if the head is not linear."""
    clips = spec.clips
    if spec.features is None or (clips and clips.per_video > 1 and clips.aggregation == "probabilities"):
        return None
    try:
        inputs = probe_inputs(heads.PROBES, spec.input.shape, device)
        found = heads.pairwise_logit_distances(net, inputs, spec.features)
        return found if found is None or classes is None else found[np.ix_(classes, classes)]
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(heads.PROBES) from error
        return None  # the network gives no gradients, or fails for features that no input gives


def _surrogates(
    plan: Plan, target: LoadedModel, device: str, batch_size: int | None
) -> dict[str, LoadedModel | ContractViolation]:
    """Load the models and ensembles, by `source`, on which attacks on a model are crafted; its own label is left out.

    A surrogate that cannot be loaded fails these attacks and nothing else.
    """
    cells = [cell for cell in plan.cells if cell.surrogates and cell.model is target.model]
    wanted = {cell.perturbation.source: cell.surrogates for cell in cells if cell.perturbation is not None}
    wanted.pop(target.model.label, None)
    models: dict[str, LoadedModel | ContractViolation] = {}
    for model in {each.label: each for some in wanted.values() for each in some}.values():
        try:
            models[model.label] = target if model is target.model else load_model(
                plan, model, device=device, batch_size=batch_size, with_surrogates=False
            )  # fmt: skip
        except ContractViolation as error:
            models[model.label] = error
    changed = target.guard.changes(lambda: None)  # e.g. two models of one plugin share a network
    if changed:
        violation = ContractViolation(f"its build changed {changed[0]} of {target.model.label}")
        models = {label: model if model is target else violation for label, model in models.items()}
    return {source: _joined(plan, [models[each.label] for each in some]) for source, some in wanted.items()}


def _joined(plan: Plan, members: Sequence[LoadedModel | ContractViolation]) -> LoadedModel | ContractViolation:
    """Return the one surrogate, or several as one model whose logits are the mean of theirs.

    Returns the ContractViolation, by the surrogate, of the first that cannot be loaded. Raises OutOfMemory.
    """
    loaded: list[LoadedModel] = []
    for number, member in enumerate(members, 1):
        if isinstance(member, ContractViolation):
            return ContractViolation(str(member), by=surrogate_part(number))
        loaded.append(member)
    if len(loaded) == 1:
        return loaded[0]
    classifiers, first = [member.classifier for member in loaded], loaded[0]
    for number, member in enumerate(loaded, 1):
        classes, others = member.classifier.classes, first.classifier.classes
        if classes != others:
            message = f"it has {classes} outputs and {first.model.label} has {others}, so their logits have no mean"
            return ContractViolation(f"{message}. Try: an ensemble without it", by=surrogate_part(number))
    try:
        rows = min(classifier.batch_size for classifier in classifiers)
        classifier, _ = _probed(plan, first.model, MeanLogits(classifiers), rows, first.classifier.device)
    except ContractViolation as error:
        return ContractViolation(str(error), by=ENSEMBLE)
    return replace(
        first,
        classifier=classifier,
        guard=Guard(classifier),
        fitted={},
        networks=len(loaded),
        state="+".join(member.state for member in loaded),
        provenance=first.provenance | {"folded": sum(member.provenance["folded"] for member in loaded)},
    )


def _folded(net: torch.nn.Module, spec: ModelSpec, device: torch.device) -> tuple[torch.nn.Module, int]:
    """Return the network with its norms folded, and their number.

    If a pass fails, return the network as it is, and 0; the probe raises the error of that pass.
    """
    try:
        with kept_modes():
            return folding.folded(net.to(device).eval(), probe_inputs(2, spec.input.shape, device), spec.features)
    except Exception:
        return net, 0


def _probed(
    plan: Plan, model: PlannedModel, net: torch.nn.Module, batch_size: int, device: torch.device
) -> tuple[Classifier, dict[str, Any]]:
    """Return a classifier with this batch size, and the result of its probe. Raises OutOfMemory."""
    spec = model.entry.spec
    try:
        classifier = Classifier(
            net,
            batch_size=batch_size,
            device=device,
            features=spec.features,
            gradient_dtype=torch.bfloat16 if plan.suite.precision.gradient == "bfloat16" else None,
            compiled=plan.suite.compile,
            classes=plan.data.seen_by(model).classes if plan.data is not None else None,
        )
        return classifier, probe(classifier, spec.input.shape, spec.clips)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    raise OutOfMemory(batch_size)


def with_batch_size(plan: Plan, loaded: LoadedModel, batch_size: int, too_many: int) -> LoadedModel:
    """Return the same model, and its surrogates, with another batch size.

    too_many: the batch size for which memory was too small.
    Raises OutOfMemory.
    """
    classifier, exact = _probed(plan, loaded.model, loaded.classifier.net, batch_size, loaded.classifier.device)
    surrogates = {
        label: with_batch_size(plan, other, batch_size, too_many) if isinstance(other, LoadedModel) else other
        for label, other in loaded.surrogates.items()
    }
    provenance = loaded.provenance | {"rows": batch_size, "too_many_rows": too_many, "exact": exact}
    # the guard stays, since it holds the same weights
    return replace(loaded, classifier=classifier, provenance=provenance, surrogates=surrogates)


def _set_precision(precision: str) -> None:
    """Allow TF32 only if the suite requests it, and select deterministic algorithms."""
    fast = precision == "tf32"
    torch.set_float32_matmul_precision("high" if fast else "highest")
    torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
