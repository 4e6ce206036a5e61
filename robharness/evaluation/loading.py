"""Loading of models: build, fold, probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robharness.errors import ContractViolation, OutOfMemory, UserError
from robharness.evaluation import folding, heads
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.devices import device_name, library_versions
from robharness.evaluation.digest import state_digest
from robharness.evaluation.guard import Guard
from robharness.evaluation.memory import is_out_of_memory
from robharness.evaluation.probe import probe, probe_inputs
from robharness.evaluation.reader import Reader
from robharness.planning.cells import Cell, Plan, PlannedModel
from robharness.specs.records import ModelSpec

CPU_PASS, GPU_PASS = 1_500_000, 20_000_000
"""Input values per pass: about 10 photos of 224 px on a CPU, whose caches overflow above that, and 128 on a GPU."""
CPU_ROWS, GPU_ROWS = 128, 512
"""Rows per pass at most. More are hardly faster, and where few examples are left of a batch, more are padding."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that is ready in this process. provenance: how its outcomes are made, stored with every part.

    sources: other models, by label, on which attacks on this one are crafted; or why one of them cannot be loaded.
    opened: corruptions that were rendered before, which are opened once. gaps: how fast each two logits part along
    the features, see `heads.pairwise_logit_distances`, where cells look at features and the head is linear.
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
    gaps: np.ndarray | None = None

    def with_clips(self, batch: Batch) -> LoadedModel:
        """The same model for examples such as these; see `Classifier.with_clips`."""
        return self if batch.cut is None else replace(self, classifier=self.classifier.with_clips(batch.cut, batch.x))

    @property
    def told(self) -> str:
        """What a cell that is crafted on this model must know of it."""
        return f"{self.state} at {self.classifier.rows} rows, {self.provenance['folded']} norms folded"


def load_model(
    plan: Plan, model: PlannedModel, *, device: str = "cpu", rows: int | None = None, with_sources: bool = True
) -> LoadedModel:
    """Build the model and probe it. rows: examples per pass, chosen by input size and device if not given.
    with_sources: also the models that attacks on this one are crafted on.

    Raises ContractViolation, by the model, for whatever goes wrong in it, and OutOfMemory.
    """
    assert plan.data is not None
    _set_precision(plan.suite.precision.judge)
    spec, target = model.entry.spec, torch.device(device)
    try:
        net = build_network(model)
        state = state_digest(net)
        if spec.features is not None and spec.features not in dict(net.named_modules()):
            raise ContractViolation(
                f"its `features` are '{spec.features}', and it has no part of that name", by="model"
            )
    except ContractViolation:
        raise
    except UserError as error:  # of a checkpoint, say: a sentence by itself
        raise ContractViolation(f"it cannot be built: {error}", by="model") from error
    except Exception as error:
        raise ContractViolation(f"it cannot be built: {type(error).__name__}: {error}", by="model") from error
    if target.index is not None and target.type == "cuda":
        torch.cuda.set_device(target)  # for plugins that say just "cuda", and for kernels that do not say
    net, norms = _folded(net, spec, target)
    ready = state_digest(net)
    clips = clips_per_example(spec)
    counts = [rows] if rows else batch_size_candidates(spec.input.shape, len(plan.data.order), target, clips)
    for count in [*counts, counts[0]]:  # the best count whose rows are exact, or else the best
        classifier, exact = _probed(plan, model, net, count, target)
        if exact["rows"] and exact["gradients"] is not False:
            break
    if state_digest(net) != ready:
        raise ContractViolation("it changes its own buffers when it is called, in eval mode", by="model")
    largest = max(map(int, plan.data.dataset.labels))
    if largest >= classifier.classes:
        raise ContractViolation(f"it gives {classifier.classes} classes, the data have a label {largest}", by="model")
    provenance = {
        "model_state": state,
        "device": device_name(target),
        "threads": torch.get_num_threads(),
        "rows": classifier.rows,
        "folded": norms,
        "memory_format": str(classifier.memory_format).removeprefix("torch.").removesuffix("_format"),
        "precision": plan.suite.precision.judge,
        **({"gradient_precision": plan.suite.precision.gradient} if classifier.low_precision_gradients else {}),
        **({"compiled": True} if plan.suite.compile else {}),
        "exact": exact,
        "versions": library_versions(),
    }
    try:
        guard = Guard(classifier)
    except Exception as error:
        raise ContractViolation("memory is too small for a second copy of its weights", by="model") from error
    gaps = _gaps(classifier.net, spec, target) if any(_looks_at(cell, model) for cell in plan.cells) else None
    reader = Reader(data=plan.data, canvas=plan.suite.canvas, compat=plan.suite.compat, model=spec, device=target)
    sources = {}
    if with_sources:
        wanted = {cell.surrogate.label: cell.surrogate for cell in plan.cells if cell.surrogate and cell.model is model}
        others = [source for label, source in wanted.items() if label != model.label]
        sources = {other.label: _source(plan, other, device, rows) for other in others}
        told = [f"{label}: {other.told}" for label, other in sources.items() if isinstance(other, LoadedModel)]
        provenance |= {"sources": ", ".join(told)} if told else {}
    return LoadedModel(
        model=model,
        classifier=classifier,
        guard=guard,
        reader=reader,
        seed=plan.suite.seed,
        state=state,
        data_root=plan.data_root,
        provenance=provenance,
        surrogates=sources,
        gaps=gaps,
    )


def _looks_at(cell: Cell, model: PlannedModel) -> bool:
    return cell.with_features and cell.model is model and cell.perturbation is None


def _gaps(net: torch.nn.Module, spec: ModelSpec, device: torch.device) -> np.ndarray | None:
    """How fast each two logits part along the features; None where the head is not linear."""
    clips = spec.preprocessing.clips if spec.preprocessing else None
    if spec.features is None or (clips and clips.per_video > 1 and clips.aggregation == "probabilities"):
        return None
    try:
        return heads.pairwise_logit_distances(net, probe_inputs(heads.PROBES, spec.input.shape, device), spec.features)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(heads.PROBES) from error
        return None  # a network that gives no gradients, or takes other features amiss


def build_network(model: PlannedModel) -> torch.nn.Module:
    """The network, from its weights. Raises whatever its plugin raises, and ContractViolation where that returns none."""
    net: Any = model.entry.spec.build(model.ref.params, model.weights.path if model.weights else None)
    if not isinstance(net, torch.nn.Module):
        raise ContractViolation(f"its build returned {type(net).__name__}, not a torch.nn.Module", by="model")
    return net


def _source(plan: Plan, model: PlannedModel, device: str, rows: int | None) -> LoadedModel | ContractViolation:
    """A model that others' attacks are crafted on. One that cannot be loaded fails these attacks and nothing else."""
    try:
        return load_model(plan, model, device=device, rows=rows, with_sources=False)
    except ContractViolation as error:
        return ContractViolation(str(error), by="surrogate")


def _folded(net: torch.nn.Module, spec: ModelSpec, device: torch.device) -> tuple[torch.nn.Module, int]:
    """The network with its norms folded, and how many; as it is where a pass fails, which the probe will tell of."""
    try:
        return folding.folded(net.to(device).eval(), probe_inputs(2, spec.input.shape, device), spec.features)
    except Exception:
        return net, 0


def _probed(
    plan: Plan, model: PlannedModel, net: torch.nn.Module, rows: int, device: torch.device
) -> tuple[Classifier, dict[str, bool | None]]:
    """A classifier with so many rows per pass, and what the probe found. Raises OutOfMemory."""
    spec, rough = model.entry.spec, plan.suite.precision.gradient == "bfloat16"
    try:
        classifier = Classifier(
            net,
            rows=rows,
            device=device,
            features=spec.features,
            gradient_dtype=torch.bfloat16 if rough else None,
            compiled=plan.suite.compile,
        )
        return classifier, probe(classifier, spec.input.shape, spec.preprocessing and spec.preprocessing.clips)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    raise OutOfMemory(rows)


def with_batch_size(plan: Plan, loaded: LoadedModel, rows: int, too_many: int) -> LoadedModel:
    """The same model with other passes. too_many: rows that memory was too small for. Raises OutOfMemory."""
    classifier, exact = _probed(plan, loaded.model, loaded.classifier.net, rows, loaded.classifier.device)
    facts = {"rows": rows, "too_many_rows": too_many, "exact": exact}
    sources = {
        label: with_batch_size(plan, other, rows, too_many) if isinstance(other, LoadedModel) else other
        for label, other in loaded.surrogates.items()
    }
    provenance = loaded.provenance | facts
    return replace(
        loaded, classifier=classifier, provenance=provenance, surrogates=sources
    )  # the guard knows the weights


def clips_per_example(spec: ModelSpec) -> int:
    """How many inputs of the network an example makes."""
    clips = spec.preprocessing.clips if spec.preprocessing else None
    return clips.per_video if clips else 1


def input_values(spec: ModelSpec) -> int:
    """Input values per example."""
    return int(np.prod(spec.input.shape)) * clips_per_example(spec)


def batch_size_candidates(shape: Sequence[int], examples: int, device: torch.device, clips: int = 1) -> list[int]:
    """How many examples of so many clips a pass may take, best first: what pads little and makes few passes.

    Multiples of 4 inputs: CPU kernels for other counts may split a pass between threads so that a row's last bits
    depend on its place (seen for 5, 6, 7, 9 and 10 rows at two threads, never for 4k).
    """
    values, rows = (GPU_PASS, GPU_ROWS) if device.type == "cuda" else (CPU_PASS, CPU_ROWS)
    step = 4 // math.gcd(4, clips)
    most = min(max(step, values // max(1, int(np.prod(shape)) * clips)), rows)

    def cost(rows: int) -> float:
        return -(-examples // rows) * (rows + 0.02 * most)  # a pass costs about 2 % of the largest one by itself

    return sorted(range(step, most + 1, step), key=cost)[:4]


def _set_precision(precision: str) -> None:
    """TF32 only if asked for; algorithms that give the same bits again."""
    fast = precision == "tf32"
    torch.set_float32_matmul_precision("high" if fast else "highest")
    torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
