"""The loop: one model, one span of examples, the cells that miss it; and what a process needs to go through units."""

from __future__ import annotations

import gc
import math
import platform
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness import folding, heads, referee
from robharness.cells import BLOCK, UNREADABLE, Cell, Plan, PlannedModel, draw_address
from robharness.checkpoints import state_digest
from robharness.classifier import Batch, Classifier, Cut, NoGradient, predictions
from robharness.data import Pictures, Reader
from robharness.errors import OutOfMemory, UserError, Violation
from robharness.referee import Guard, Outcome
from robharness.rng import ExampleRNG, NoDraws, global_draws, global_seed
from robharness.specs import Clips, ModelSpec
from robharness.store import Failure, Span, Store
from robharness.suite import Perturbation
from robharness.units import Began, Done, Event, Finished, Ready, Refused, Setup, Shrunk, Unit

CPU_PASS, GPU_PASS = 1_500_000, 20_000_000
"""Input values per pass: about 10 photos of 224 px on a CPU, whose caches overflow above that, and 128 on a GPU."""
CPU_ROWS, GPU_ROWS = 128, 512
"""Rows per pass at most. More are hardly faster, and where few examples are left of a batch, more are padding."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that is ready in this process. provenance: how its outcomes are made, stored with every part.

    sources: other models, by label, on which attacks on this one are crafted; or why one of them cannot be loaded.
    opened: corruptions that were rendered before, which are opened once. gaps: how fast each two logits part along
    the features, see `heads.gaps`, where cells look at features and the head is linear.
    """

    model: PlannedModel
    classifier: Classifier
    guard: Guard
    reader: Reader
    seed: int
    state: str
    data_root: Path
    provenance: dict[str, Any]
    sources: Mapping[str, Loaded | Violation] = field(default_factory=dict)
    opened: dict[Any, Any] = field(default_factory=dict)
    gaps: np.ndarray | None = None

    def viewing(self, batch: Batch) -> Loaded:
        """The same model for examples such as these; see `Classifier.viewing`."""
        return self if batch.cut is None else replace(self, classifier=self.classifier.viewing(batch))

    @property
    def told(self) -> str:
        """What a cell that is crafted on this model must know of it."""
        return f"{self.state} at {self.classifier.rows} rows, {self.provenance['folded']} norms folded"


class Work:
    """What one process does: it loads a model, and then computes units of it, reading the next one's data meanwhile.

    stopping: set it to end a unit after the cell in hand.
    """

    def __init__(self, plan: Plan, store: Store, setup: Setup, stopping: threading.Event) -> None:
        self.plan, self.store, self.setup, self.stopping = plan, store, setup, stopping
        self._models = {model.label: model for model in plan.models}
        self._cells = {(cell.model.label, cell.key): cell for cell in plan.cells}
        self._loaded: Loaded | None = None
        self._ahead: tuple[Span, Future[Pictures]] | None = None
        self._threads = torch.get_num_threads()
        if setup.threads is not None:
            torch.set_num_threads(setup.threads)

    def close(self) -> None:
        """Leave the process as it was found; what is being read ahead is given up."""
        torch.set_num_threads(self._threads)
        if self._loaded is not None:
            self._loaded.reader.threads.close()

    def load(self, label: str) -> Iterator[Event]:
        """Build and probe a model; half the rows per pass for as long as memory is short."""
        rows, too_many = self.setup.rows, 0
        while self._loaded is None or self._loaded.model.label != label:
            if self._loaded is not None:
                self._loaded.reader.threads.close()
            self._loaded = self._ahead = None  # the memory of the last model comes first
            _free_memory()
            try:
                self._loaded = load(self.plan, self._models[label], device=self.setup.device, rows=rows)
                continue
            except OutOfMemory as error:
                too_many = error.rows
            except Violation as error:
                details = "".join(traceback.format_exception(error.__cause__ or error))
                yield Refused(error=str(error), by=error.by, traceback=details)
                return
            if too_many == 1:
                yield Refused(error="memory is too small for a pass of one example", by="model")
                return
            rows = _fewer(too_many)
            yield Shrunk(before=too_many, rows=rows)
        if too_many:
            self._loaded.provenance["too_many_rows"] = too_many
        yield Ready(
            state=self._loaded.state,
            rows=self._loaded.classifier.rows,
            values=values_of(self._loaded.model.entry.spec),
            provenance=self._loaded.provenance,
        )

    def do(self, unit: Unit, ahead: Unit | None) -> Iterator[Event]:
        """Compute a unit of the loaded model, and read what the one ahead needs meanwhile.

        Where memory is too small, passes get half the rows, and what is left of the unit is done in two halves.
        """
        assert self._loaded is not None
        begun, passes = time.perf_counter(), Counter(self._loaded.classifier.passes)
        pictures = self._pictures(unit.span)
        waited = time.perf_counter() - begun
        if ahead is not None:
            self._ahead = ahead.span, self._loaded.reader.ahead(*ahead.span)
        pieces = [(unit.span, [self._cells[unit.label, key] for key in unit.keys])]
        failed: set[str] = set()
        while pieces and not self.stopping.is_set():
            span, cells = pieces.pop()
            if isinstance(pictures, Pictures):
                part: Pictures | Exception = pictures.part(*span)
            else:  # half of them may be fewer than is too many
                part = pictures if span == unit.span else self._pictures(span)
            left = {cell.key: cell for cell in cells if cell.key not in failed}
            in_hand = None
            try:
                for event in run_unit(self._loaded, list(left.values()), span, self.store, part):
                    yield event
                    if isinstance(event, Began):
                        in_hand = event.key
                        continue
                    del left[event.key]
                    failed |= {event.key} if event.failure else set()
                    if self.stopping.is_set():
                        break
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            shrunk = self._shrink()  # not before the error is gone, which holds what filled the memory
            if shrunk is not None:
                yield shrunk
            middle = (span[0] + span[1] + 1) // 2
            if shrunk is None and middle == span[1]:
                for key in [in_hand] if in_hand in left else list(left):
                    cell = left.pop(str(key))
                    failure = Failure.of(cell, span, Violation("memory is too small for one example"))
                    self.store.write_failure(cell.key, failure)
                    failed.add(cell.key)
                    yield Done(key=cell.key, span=span, failure=failure)
            halves = [(middle, span[1]), (span[0], middle)]
            pieces += [(half, list(left.values())) for half in halves if half[0] < half[1] and left]
        passes = Counter(self._loaded.classifier.passes) - passes
        yield Finished(seconds=time.perf_counter() - begun, waited=waited, passes=dict(passes))

    def _shrink(self) -> Shrunk | None:
        """Half the rows per pass, or fewer; None where a pass has one row already."""
        assert self._loaded is not None
        before, counts = self._loaded.classifier.rows, Counter(self._loaded.classifier.passes)
        rows = before
        while rows > 1:
            rows = _fewer(rows)
            _free_memory()
            with suppress(OutOfMemory):
                self._loaded = _with_rows(self.plan, self._loaded, rows, too_many=before)
                self._loaded.classifier.passes.update(counts)
                return Shrunk(before=before, rows=rows)
        return None

    def _pictures(self, span: Span) -> Pictures | Exception:
        """The pictures of a span, or what went wrong with them."""
        assert self._loaded is not None
        ahead, self._ahead = self._ahead, None
        try:
            return ahead[1].result() if ahead and ahead[0] == span else self._loaded.reader.pictures(*span)
        except Exception as error:  # a data set may raise anything
            if is_out_of_memory(error):
                error.__traceback__ = None  # it holds the pictures that were too many
            return error


def load(
    plan: Plan, model: PlannedModel, *, device: str = "cpu", rows: int | None = None, with_sources: bool = True
) -> Loaded:
    """Build the model and probe it. rows: examples per pass, chosen by input size and device if not given.
    with_sources: also the models that attacks on this one are crafted on.

    Raises Violation, by the model, for whatever goes wrong in it, and OutOfMemory.
    """
    assert plan.data is not None
    _set_precision(plan.suite.precision.judge)
    spec, target = model.entry.spec, torch.device(device)
    try:
        net = build(model)
        state = state_digest(net)
        if spec.features is not None and spec.features not in dict(net.named_modules()):
            raise Violation(f"its `features` are '{spec.features}', and it has no part of that name", by="model")
    except Violation:
        raise
    except UserError as error:  # of a checkpoint, say: a sentence by itself
        raise Violation(f"it cannot be built: {error}", by="model") from error
    except Exception as error:
        raise Violation(f"it cannot be built: {type(error).__name__}: {error}", by="model") from error
    if target.index is not None and target.type == "cuda":
        torch.cuda.set_device(target)  # for plugins that say just "cuda", and for kernels that do not say
    net, norms = _folded(net, spec, target)
    ready = state_digest(net)
    clips = n_clips(spec)
    counts = [rows] if rows else pass_rows(spec.input.shape, len(plan.data.order), target, clips)
    for count in [*counts, counts[0]]:  # the best count whose rows are exact, or else the best
        classifier, exact = _probed(plan, model, net, count, target)
        if exact["rows"] and exact["gradients"] is not False:
            break
    if state_digest(net) != ready:
        raise Violation("it changes its own buffers when it is called, in eval mode", by="model")
    largest = max(map(int, plan.data.dataset.labels))
    if largest >= classifier.classes:
        raise Violation(f"it gives {classifier.classes} classes, the data have a label {largest}", by="model")
    provenance = {
        "model_state": state,
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else platform.machine() or "cpu",
        "threads": torch.get_num_threads(),
        "rows": classifier.rows,
        "folded": norms,
        "memory_format": str(classifier.memory_format).removeprefix("torch.").removesuffix("_format"),
        "precision": plan.suite.precision.judge,
        **({"gradient_precision": plan.suite.precision.gradient} if classifier.rough else {}),
        **({"compiled": True} if plan.suite.compile else {}),
        "exact": exact,
        "versions": {name: version(name) for name in ("robharness", "torch", "torchvision", "numpy")},
    }
    try:
        guard = Guard(classifier)
    except Exception as error:
        raise Violation("memory is too small for a second copy of its weights", by="model") from error
    gaps = _gaps(classifier.net, spec, target) if any(_looks_at(cell, model) for cell in plan.cells) else None
    reader = Reader(data=plan.data, canvas=plan.suite.canvas, compat=plan.suite.compat, model=spec, device=target)
    sources = {}
    if with_sources:
        wanted = {cell.source.label: cell.source for cell in plan.cells if cell.source and cell.model is model}
        others = [source for label, source in wanted.items() if label != model.label]
        sources = {other.label: _source(plan, other, device, rows) for other in others}
        told = [f"{label}: {other.told}" for label, other in sources.items() if isinstance(other, Loaded)]
        provenance |= {"sources": ", ".join(told)} if told else {}
    return Loaded(
        model=model,
        classifier=classifier,
        guard=guard,
        reader=reader,
        seed=plan.suite.seed,
        state=state,
        data_root=plan.data_root,
        provenance=provenance,
        sources=sources,
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
        return heads.gaps(net, _ramp(heads.PROBES, spec.input.shape, device), spec.features)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(heads.PROBES) from error
        return None  # a network that gives no gradients, or takes other features amiss


def build(model: PlannedModel) -> torch.nn.Module:
    """The network, from its weights. Raises whatever its plugin raises, and Violation where that returns none."""
    net: Any = model.entry.spec.build(model.ref.params, model.weights.path if model.weights else None)
    if not isinstance(net, torch.nn.Module):
        raise Violation(f"its build returned {type(net).__name__}, not a torch.nn.Module", by="model")
    return net


def _source(plan: Plan, model: PlannedModel, device: str, rows: int | None) -> Loaded | Violation:
    """A model that others' attacks are crafted on. One that cannot be loaded fails these attacks and nothing else."""
    try:
        return load(plan, model, device=device, rows=rows, with_sources=False)
    except Violation as error:
        return Violation(str(error), by="source")


def _folded(net: torch.nn.Module, spec: ModelSpec, device: torch.device) -> tuple[torch.nn.Module, int]:
    """The network with its norms folded, and how many; as it is where a pass fails, which the probe will tell of."""
    try:
        return folding.folded(net.to(device).eval(), _ramp(2, spec.input.shape, device), spec.features)
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


def _with_rows(plan: Plan, loaded: Loaded, rows: int, too_many: int) -> Loaded:
    """The same model with other passes. too_many: rows that memory was too small for. Raises OutOfMemory."""
    classifier, exact = _probed(plan, loaded.model, loaded.classifier.net, rows, loaded.classifier.device)
    facts = {"rows": rows, "too_many_rows": too_many, "exact": exact}
    sources = {
        label: _with_rows(plan, other, rows, too_many) if isinstance(other, Loaded) else other
        for label, other in loaded.sources.items()
    }
    provenance = loaded.provenance | facts
    return replace(loaded, classifier=classifier, provenance=provenance, sources=sources)  # the guard knows the weights


def run_unit(
    loaded: Loaded, cells: Sequence[Cell], span: Span, store: Store, pictures: Pictures | Exception
) -> Iterator[Began | Done]:
    """Compute these cells for this span, write each as soon as it is whole, and tell of it.

    pictures: of the span, or why there are none. Raises what tells of a lack of memory; see `is_out_of_memory`.
    """
    try:
        if isinstance(pictures, Exception):
            raise pictures
        batches = loaded.reader.batches(pictures)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        for cell in cells:
            failure = Failure.of(cell, span, error)
            store.write_failure(cell.key, failure)
            yield Done(key=cell.key, span=span, failure=failure)
        return
    for family in families(cells):
        found = [outcomes(loaded, family, batch, span) for _, batch in batches]
        problem: Failure | None = None
        for cell in family:
            yield Began(key=cell.key)
            if problem is None:
                try:
                    parts = [
                        (positions, stored_columns(cell, batch, *next(outcome)))
                        for (positions, batch), outcome in zip(batches, found, strict=True)
                    ]
                except Violation as error:
                    if is_out_of_memory(error):
                        raise
                    problem = Failure.of(cell, span, error)
            if problem is None:
                columns = _in_order([*parts, *_unreadable(cell, loaded.reader, pictures)])
                store.write_part(cell.key, span[0], columns, loaded.provenance | cell.plugins)
            else:  # a nested attack cannot go on from a budget that failed
                store.write_failure(cell.key, problem)
            yield Done(key=cell.key, span=span, failure=problem)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether host or device ran out of memory, here or in what this error came from.

    torch says so of the host in a plain RuntimeError of its allocator.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs):
        return True
    return error is not None and is_out_of_memory(error.__cause__)


def _fewer(rows: int) -> int:
    """Half the rows, in the multiples of 4 that `pass_rows` explains for as long as there are any."""
    return max(1, rows // 2 // 4 * 4 or rows // 2)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def families(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells in the order of computing: the budgets of a nested attack together, ascending, and features with what they
    are of; clean cells last, since a gradient pass may have left them its logits."""

    def family(cell: Cell) -> Any:
        p = cell.perturbation
        if p is None or not p.nested:
            return cell.what
        return (p.entry.name, repr(p.params), p.nested, p.source and p.source.label, p.eight_bit)

    found: dict[Any, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.perturbation is None):
        found.setdefault(family(cell), []).append(cell)
    return [sorted(group, key=_strength) for group in found.values()]


def _strength(cell: Cell) -> float:
    strength = cell.perturbation.strength if cell.perturbation else 0
    return math.inf if strength is None else float(strength)


def outcomes(loaded: Loaded, family: list[Cell], batch: Batch, span: Span) -> Iterator[tuple[Outcome, np.ndarray]]:
    """The outcome of every cell of a family in turn, and which rows were attacked for it; Violation ends it.

    A row that is not attacked keeps the outcome it has: the clean one where only right examples count, that of the
    smaller budget where it was fooled already, that of the member of an ensemble that fooled it.
    """
    perturbation, loaded = family[0].perturbation, loaded.viewing(batch)
    alive = np.ones(len(batch), bool)
    if perturbation is None:
        outcome = _clean(loaded, batch)
        for cell in family:
            yield _represented(loaded, batch, outcome) if cell.with_features else outcome, np.zeros(len(batch), bool)
        return
    kept = None
    if family[0].count == "robust":
        kept = _clean(loaded, batch)
        alive = kept.correct.copy()
    wanted = list(dict.fromkeys(cell.perturbation.strength for cell in family if cell.perturbation))
    for strength in [budget for budget in perturbation.nested if float(budget) <= _strength(family[-1])] or wanted:
        now = replace(perturbation, strength=strength)
        attacked = alive
        for member, attack in _built(now, loaded).items():
            if alive.any():
                found = _perturbed_outcome(loaded, now, (member, attack), batch, alive, span)
                kept = _merged(kept, found, alive)
                alive = alive & kept.correct if now.is_ensemble else alive
        assert kept is not None
        for cell in family:
            if cell.perturbation and cell.perturbation.strength == strength:
                yield _represented(loaded, batch, kept) if cell.with_features else kept, attacked
        alive = attacked & kept.correct


Turn = tuple[str, Any]
"""A member of an ensemble and its name, or an attack or a corruption and ""."""


def _built(perturbation: Perturbation, loaded: Loaded) -> dict[str, Any]:
    """What perturbs, by the names of an ensemble's members. Raises Violation."""
    spec = perturbation.entry.spec
    try:
        if perturbation.is_stored:
            mark = perturbation.entry.name, repr(perturbation.params)
            if mark not in loaded.opened:
                loaded.opened[mark] = spec.open(perturbation.params, loaded.data_root)
            return {"": loaded.opened[mark]}
        built = spec.build(perturbation.params)
        return dict(built) if perturbation.is_ensemble else {"": built}
    except Exception as error:
        raise Violation(f"it cannot be built: {type(error).__name__}: {error}") from error


def _clean(loaded: Loaded, batch: Batch) -> Outcome:
    logits = batch.logits(loaded.classifier)
    return referee.judge(batch.x, batch.labels, logits, np.full(len(batch), np.nan), {})


def _represented(loaded: Loaded, batch: Batch, outcome: Outcome) -> Outcome:
    """The outcome with the features of its inputs; of clean ones with their distance from the boundary as well."""
    view = loaded.classifier.restricted("features")
    if outcome.inputs is not batch.x:
        return replace(outcome, notes={"features": view.features(outcome.inputs).cpu().numpy()})
    notes = {"features": batch.features(view).cpu().numpy()}
    if loaded.gaps is not None:
        logits, labels = batch.logits(loaded.classifier), batch.labels
        notes["boundary"] = heads.boundary(logits.cpu().numpy(), labels.cpu().numpy(), loaded.gaps)
    return replace(outcome, notes=notes)


def _perturbed_outcome(
    loaded: Loaded, perturbation: Perturbation, turn: Turn, batch: Batch, alive: np.ndarray, span: Span
) -> Outcome:
    """The verdict on the perturbed rows that are alive."""
    crafting = loaded
    if perturbation.source is not None and perturbation.source.label != loaded.model.label:
        found = loaded.sources[perturbation.source.label]
        if isinstance(found, Violation):
            raise found
        crafting, batch = found.viewing(batch), batch.twin(found.model.label)
    part = batch if alive.all() else batch.select(torch.from_numpy(alive.nonzero()[0]).to(batch.x.device))
    try:
        if perturbation.needs_blocks:
            x, size, notes = _perturb_in_blocks(crafting, perturbation, turn, part, span)
        else:
            x, size, notes = _perturb(crafting, perturbation, turn, part)
    except Violation as error:
        error.by = "source" if error.by == "model" and crafting is not loaded else error.by
        raise
    if perturbation.eight_bit:
        rounded = predictions(loaded.classifier.logits((x * 255).round() / 255))
        notes |= {"prediction_8bit": rounded.cpu().numpy(), "correct_8bit": (rounded == part.labels).cpu().numpy()}
    outcome = referee.judge(x, part.labels, loaded.classifier.logits(x), size, notes)
    if perturbation.is_targeted and "target" in outcome.notes:  # of an ensemble, not every member need have one
        reached = (outcome.prediction == outcome.notes["target"]) & (outcome.notes["target"] >= 0)
        outcome = replace(outcome, notes={**outcome.notes, "success": reached})
    if perturbation.is_ensemble:
        component = np.array([None if right else turn[0] for right in outcome.correct], object)
        outcome = replace(outcome, notes={**outcome.notes, "component": component})
    return outcome


def _perturb(
    loaded: Loaded, perturbation: Perturbation, turn: Turn, batch: Batch
) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
    """The model's inputs after an attack or a corruption, checked; sizes; notes. Raises Violation."""
    attacks = perturbation.kind == "attack"
    view = loaded.classifier.restricted(perturbation.entry.spec.access) if attacks else None
    x, size, notes = ask(perturbation, turn, batch, loaded.seed, view=view, watching=loaded.guard.watching(batch))
    if not attacks:
        x = loaded.reader.inputs(x, batch.cut, are_files=perturbation.is_stored)
    return x, size, notes


def ask(
    perturbation: Perturbation,
    turn: Turn,
    batch: Batch,
    seed: int,
    *,
    view: Any = None,
    watching: AbstractContextManager[None] | None = None,
) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
    """What an attack or a corruption makes of a batch, checked: inputs or 8-bit pictures; sizes; notes.

    view: the model as the attack may see it. watching: around the plugin's call. Raises Violation.
    """
    spec, attacks = perturbation.entry.spec, perturbation.kind == "attack"
    member, attack = turn
    streams = ExampleRNG if spec.randomness == "example" else NoDraws
    like = batch.x if attacks else batch.canvas
    rng = streams(seed, _address(perturbation, member), batch.ids, like.device)
    strength: float = math.inf if perturbation.strength is None else float(perturbation.strength)
    with watching or nullcontext(), global_draws() as drawn:
        try:
            returned = attack.perturb(view, batch, strength if attacks else int(strength), rng)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"it raised {type(error).__name__}: {error}") from error
    if drawn and spec.randomness != "global":
        raise Violation(f"it draws from the global generator of {drawn[0]}, but does not declare randomness='global'")
    return referee.checked(
        returned, like, notes=perturbation.returned, some_notes=bool(member), eps=strength, norm=perturbation.norm,
        devices={like.device, batch.x.device},
    )  # fmt: skip


def _address(perturbation: Perturbation, member: str) -> str:
    """Of its draws; members of an ensemble draw each their own."""
    return f"{draw_address(perturbation)}{member and ' '}{member}"


def _perturb_in_blocks(
    loaded: Loaded, perturbation: Perturbation, turn: Turn, batch: Batch, span: Span
) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
    """As `_perturb`, for what draws from global generators, with one seeding per fixed block of positions, or lets
    the examples of a block see each other: whole blocks whatever the span, so that results do not depend on how the
    work was cut."""
    address, total = _address(perturbation, turn[0]), len(loaded.reader.data.order)
    is_global = perturbation.entry.spec.randomness == "global"
    found: dict[str, tuple[Any, ...]] = {}
    for start in range(span[0] // BLOCK * BLOCK, span[1], BLOCK):
        try:
            blocks = loaded.reader.batches(loaded.reader.pictures(start, min(start + BLOCK, total)))
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}", by="data") from error
        seed = block_seed(loaded.seed, address, start)
        for _, block in (
            each for each in blocks if each[1].cut == batch.cut and each[1].x.shape[1:] == batch.x.shape[1:]
        ):
            with global_seed(seed) if is_global else nullcontext():
                x, size, notes = _perturb(loaded, perturbation, turn, block)
            for row, example in enumerate(block.ids):
                found[example] = (x[row], size[row], {name: column[row] for name, column in notes.items()})
    rows = [found[example] for example in batch.ids]
    columns = {name: np.array([row[2][name] for row in rows]) for name in rows[0][2]}
    return torch.stack([row[0] for row in rows]), np.array([row[1] for row in rows]), columns


def block_seed(seed: int, address: str, start: int) -> int:
    """What the global generators are seeded with for the block that starts at this position."""
    return ExampleRNG(seed, address, [f"block {start}"]).integer("seed", 0)


def _merged(kept: Outcome | None, new: Outcome, rows: np.ndarray) -> Outcome:
    """The kept outcome with these rows (mask) replaced; notes of rows that were never attacked are None."""
    if kept is None or (rows.all() and set(kept.notes) <= set(new.notes)):
        return new
    values = {}
    for name in ("prediction", "correct", "margin", "logit_range", "size"):
        values[name] = getattr(kept, name).copy()
        values[name][rows] = getattr(new, name)
    inputs = kept.inputs.clone()
    inputs[torch.from_numpy(rows).to(inputs.device)] = new.inputs
    nothing = np.full(len(rows), None, object)
    notes = {name: kept.notes.get(name, nothing).astype(object) for name in [*kept.notes, *new.notes]}
    for name, column in new.notes.items():
        notes[name][rows] = column
    return Outcome(inputs=inputs, **values, notes=notes)


def stored_columns(cell: Cell, batch: Batch, outcome: Outcome, attacked: np.ndarray) -> dict[str, Any]:
    """What the store keeps of an outcome, a row per example. attacked: (N,) bool."""
    columns = {
        "example": list(batch.ids),
        "label": batch.labels.cpu().numpy(),
        "prediction": outcome.prediction,
        "correct": outcome.correct,
        "margin": outcome.margin,
        "logit_range": outcome.logit_range,
        "size": outcome.size,
        "attacked": attacked,
    }
    nothing = np.full(len(batch), None, object)
    return columns | {name: _listed(outcome.notes.get(name, nothing)) for name in cell.notes}


def _listed(column: np.ndarray) -> list[Any]:
    """A value per row; vectors keep their type, which Python's floats would not."""
    return list(column) if column.ndim > 1 else column.tolist()


def _in_order(parts: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> dict[str, list[Any] | np.ndarray]:
    """The columns of all batches together, by position."""
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([positions for positions, _ in parts]))
    columns = {name: [value for _, part in parts for value in part[name]] for name in parts[0][1]}
    return {name: [values[row] for row in order] for name, values in columns.items()}


def _unreadable(cell: Cell, reader: Reader, pictures: Any) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """The columns of examples that are broken: wrong, of a class that is none, and not attacked."""
    if not pictures.unreadable:
        return []
    positions = np.array(sorted(pictures.unreadable))
    n, data = len(positions), reader.data
    columns = {
        "example": [data.ids(at, at + 1)[0] for at in positions.tolist()],
        "label": np.array([int(data.dataset.labels[data.order[at]]) for at in positions]),
        "prediction": np.full(n, UNREADABLE),
        "correct": np.zeros(n, bool),
        **{name: np.full(n, np.nan, dtype) for name, dtype in _MEASURED.items()},
        "attacked": np.zeros(n, bool),
    }
    return [(positions, columns | {name: [None] * n for name in cell.notes})]


_MEASURED = {"margin": np.float32, "logit_range": np.float32, "size": np.float64}


def n_clips(spec: ModelSpec) -> int:
    """How many inputs of the network an example makes."""
    clips = spec.preprocessing.clips if spec.preprocessing else None
    return clips.per_video if clips else 1


def values_of(spec: ModelSpec) -> int:
    """Input values per example."""
    return int(np.prod(spec.input.shape)) * n_clips(spec)


def pass_rows(shape: Sequence[int], examples: int, device: torch.device, clips: int = 1) -> list[int]:
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


def probe(classifier: Classifier, shape: Sequence[int], clips: Clips | None = None) -> dict[str, bool | None]:
    """Whether this device keeps an example's bits whatever its neighbours, and whether recording gradients matters.

    rows: logits of a row are the same alone (padded), and in another order. gradients: the same for gradients, None
    where the model gives none. grad_mode: logits are the same in a pass that records gradients; then
    `Classifier.grad_mode_exact` is set. Raises Violation for a model that draws random numbers.
    """
    rows, base = classifier.rows, classifier
    labels = torch.zeros(rows, dtype=torch.long, device=classifier.device)
    cut = Cut.apart(clips, shape) if clips else None
    shape = shape if cut is None else (shape[0], cut.n_frames, *shape[2:])
    x = _ramp(rows, shape, classifier.device)
    classifier = base.viewing(Batch([""] * rows, x, labels, cut=cut))
    order = torch.arange(rows - 1, -1, -1, device=classifier.device)
    exact: dict[str, bool | None] = {"gradients": None, "grad_mode": False}
    with global_draws() as drawn:
        logits = classifier.logits(x)
        same_order = torch.equal(logits[order], classifier.logits(x[order]))
        exact["rows"] = same_order and torch.equal(logits[:1], classifier.logits(x[:1]))
        with suppress(NoGradient):  # only attacks that ask for gradients will fail
            straight = classifier.gradient(x, labels, _first_logit)
            turned = classifier.gradient(x[order], labels, _first_logit)
            exact["gradients"] = torch.equal(straight.gradient[order], turned.gradient)
            exact["grad_mode"] = torch.equal(logits, straight.logits)
    if drawn:
        raise Violation(f"its forward pass draws from the global generator of {drawn[0]}, in eval mode", by="model")
    base.grad_mode_exact = bool(exact["grad_mode"]) and not base.rough
    base.classes = classifier.classes
    base.memory_format = classifier.memory_format  # of the network's inputs
    base.passes.clear()
    return exact


def _ramp(rows: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Inputs in [0, 1) that are all different and the same every time, (rows, *shape)."""
    ramp = torch.arange(rows * int(np.prod(shape)), dtype=torch.float64, device=device) * 0.6180339887498949 % 1
    return ramp.to(torch.float32).view(rows, *shape)


def _first_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


def _set_precision(precision: str) -> None:
    """TF32 only if asked for; algorithms that give the same bits again."""
    fast = precision == "tf32"
    torch.set_float32_matmul_precision("high" if fast else "highest")
    torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
