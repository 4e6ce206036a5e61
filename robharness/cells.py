"""From a suite to a plan: a list of cells, each with a name, an identity and a key.

A cell is one model under one perturbation (or none) on one data set. Its identity is all that can change an outcome;
its key is a hash of that. What cannot change an outcome (batch size, device, workers, paths, limit, versions) is no
part of it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

from robharness import artefacts
from robharness.artefacts import Artefact
from robharness.errors import UserError
from robharness.plugins import Entry, Source, source_digest, stands_on
from robharness.specs import Cost, Dataset
from robharness.suite import Model, Perturbation, Suite, changed_fields
from robharness.weights import Weights, resolve

DEFAULT_STORE = Path(".robharness")
KEY_LENGTH = 24
BLOCK = 16
"""Examples that share one seeding of the global generators, or see each other, for attacks that ask; see worker.py."""

UNREADABLE = -2
"""The prediction that stands for an example that is broken; it counts as wrong in every cell."""

HALF_A_LEVEL = Fraction(1, 510)
"""Half of what tells one of 256 grey levels from the next."""


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model with its weights resolved, and its part of a cell's identity.

    artefact: of one that the suite trains; until that is there, it has neither weights nor an identity. base: what its
    training starts from, as a model of the same name.
    """

    ref: Model
    weights: Weights | None
    identity: dict[str, Any]
    artefact: Artefact | None = None
    base: PlannedModel | None = None

    @property
    def label(self) -> str:
        return self.ref.label

    @property
    def entry(self) -> Entry:
        return self.ref.entry

    @property
    def is_untrained(self) -> bool:
        return self.artefact is not None and self.weights is None


@dataclass(frozen=True, kw_only=True)
class PlannedData:
    """An opened data set in its fixed order. order: data set indices by position; n: how many positions are used."""

    entry: Entry
    split: str
    dataset: Dataset
    order: Sequence[int]
    n: int
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.entry.name}/{self.split}"

    def ids(self, start: int, stop: int) -> list[str]:
        return [self.dataset.ids[index] for index in self.order[start:stop]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model under one perturbation, or none, on one data set.

    name: for people, unique in a plan. perturbation: None for the clean cell. cost: passes per example, the judging
    one left out. source: the model that its attack is crafted on, where that is another one. key: empty, as the
    identity is, for as long as one of its models is not trained. with_features: the representation of these examples is
    stored, too; it is a cell of its own, since outcomes do not depend on that.
    """

    model: PlannedModel
    data: PlannedData
    perturbation: Perturbation | None
    source: PlannedModel | None = None
    count: Literal["all", "robust"]
    identity: dict[str, Any]
    key: str
    cost: Cost
    with_features: bool = False

    @property
    def kind(self) -> Literal["clean", "attack", "corruption", "features"]:
        if self.with_features:
            return "features"
        return "clean" if self.perturbation is None else self.perturbation.kind

    @property
    def what(self) -> str:
        """What its model sees: "clean", or the perturbation's name."""
        return "clean" if self.perturbation is None else self.perturbation.name

    @property
    def short_name(self) -> str:
        return f"features({self.what})" if self.with_features else self.what

    @property
    def notes(self) -> tuple[str, ...]:
        """The columns beside the outcome: what the perturbation notes down; or the features, (D,) float32 each, and of
        clean ones `boundary`, how far they are from where the head changes its mind, None where it is not linear."""
        if self.with_features:
            return ("features", "boundary") if self.perturbation is None else ("features",)
        return tuple(self.perturbation.notes) if self.perturbation else ()

    @property
    def name(self) -> str:
        return f"{self.model.label} · {self.data.name} · {self.short_name}"

    @property
    def plugins(self) -> dict[str, dict[str, Any]]:
        """The code that makes its outcomes: part of how they are made, no part of its identity."""
        entries = {"model_plugin": self.model.entry, "data_plugin": self.data.entry}
        if self.perturbation is not None:
            entries["perturbation_plugin"] = self.perturbation.entry
        if self.source is not None:
            entries["source_plugin"] = self.source.entry
        return {role: _code(entry.source) for role, entry in entries.items()}


@cache
def _code(source: Source) -> dict[str, Any]:
    return {"plugin": str(source), "source": source_digest(source), "stands_on": stands_on(source)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make a plan again in another process: what `discover`, `suite.load` and `plan` take."""

    source: str | Path | Mapping[str, Any]
    data_root: Path
    limit: int | None
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite asks for. missing: data or weights that are not there; with any, `cells` is empty.

    models: those whose weights are there. waiting: cells that wait for the training of a model; they are in no table.
    others: cells of the suite that `only` left out; they are not computed, but stand in the same tables.
    part: (i, k) where `shard` left the i-th of k parts of the examples, from 1. recipe: None where a network of this
    process is in it. data_root: where data and weights are; store: where artefacts are; limit: as it was asked for.
    """

    suite: Suite
    data_root: Path = Path()
    store: Path = DEFAULT_STORE
    limit: int | None = None
    models: tuple[PlannedModel, ...] = ()
    data: PlannedData | None = None
    cells: tuple[Cell, ...] = ()
    waiting: tuple[Cell, ...] = ()
    others: tuple[Cell, ...] = ()
    warnings: tuple[str, ...] = ()
    missing: tuple[UserError, ...] = ()
    part: tuple[int, int] = (1, 1)
    recipe: Recipe | None = None

    @property
    def n(self) -> int:
        """Examples per cell."""
        return self.data.n if self.data else 0

    @property
    def span(self) -> tuple[int, int]:
        """The positions that are to be computed, start to stop - 1: all n, or those of the shard."""
        index, count = self.part
        return self.n * (index - 1) // count, self.n * index // count

    @property
    def taught(self) -> list[PlannedModel]:
        """The models that these cells need and the suite trains, each once, in the suite's order."""
        every = [model for cell in (*self.cells, *self.waiting) for model in (cell.model, cell.source)]
        needed = {model.label: model for model in every if model is not None and model.artefact is not None}
        return [needed[ref.label] for ref in self.suite.models if ref.label in needed]

    @property
    def untrained(self) -> list[PlannedModel]:
        """Those of them that are not trained yet."""
        return [model for model in self.taught if model.is_untrained]

    def again(self) -> Plan:
        """The plan of the whole suite with what is there by now, such as models that were trained."""
        anew = plan(self.suite, self.data_root, self.limit, self.store)
        return dataclasses.replace(anew, recipe=self.recipe)

    def shard(self, index: int, count: int) -> Plan:
        """The index-th of `count` parts of the examples, from 1: the same cells, for other positions."""
        if not 1 <= index <= count:
            raise UserError(f"there is no part {index}/{count}: 1/{count} is the first, {count}/{count} the last")
        return dataclasses.replace(self, part=(index, count))

    def only(self, pattern: str) -> Plan:
        """The cells whose name matches the glob, as a whole or in any part between dots. Raises UserError for none."""
        cells, waiting = (tuple(cell for cell in some if matches(cell, pattern)) for some in (self.cells, self.waiting))
        if not cells and not waiting:
            raise UserError(f"no cell matches '{pattern}'. See: robharness plan {self.suite.typed}")
        others = tuple(cell for cell in self.cells if not matches(cell, pattern))
        return dataclasses.replace(self, cells=cells, waiting=waiting, others=self.others + others)


def matches(cell: Cell, pattern: str) -> bool:
    """Whether the glob matches the cell's whole name, its label, its model's name or its perturbation."""
    names = (cell.name, cell.model.label, cell.model.entry.name, cell.short_name)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def plan(suite: Suite, data_root: Path, limit: int | None = None, store: Path = DEFAULT_STORE) -> Plan:
    """The cells of a suite. Opens the data sets and hashes the weights; imports neither torch nor any network.

    store: where models that a suite trains are looked for.
    """
    missing: list[UserError] = []
    data = _gather(missing, lambda: plan_data(suite, data_root, limit))
    look = cache(_opened)  # several seeds learn from one split
    models = [_gather(missing, lambda ref=ref: _plan_model(ref, data_root, store, look)) for ref in suite.models]  # type: ignore[misc]
    for stored in {p.entry.name: p for p in suite.perturbations if p.is_stored}.values():
        _gather(missing, lambda p=stored: _open_stored(p, data_root))  # type: ignore[misc]
    common: Any = {"suite": suite, "data_root": data_root, "store": store, "limit": limit}
    if missing or data is None:
        return Plan(**common, missing=tuple({str(error): error for error in missing}.values()))
    planned = tuple(model for model in models if model is not None)
    looked_at = _looked_at(suite)
    cells = [
        cell
        for model in planned
        for cell in (
            *(_cell(suite, model, data, p, planned) for p in (None, *suite.perturbations)),
            *(_cell(suite, model, data, p, planned, with_features=True) for p in looked_at),
        )
    ]
    return Plan(
        **common,
        models=tuple(model for model in planned if not model.is_untrained),
        data=data,
        cells=tuple(cell for cell in cells if cell.key),
        waiting=tuple(cell for cell in cells if not cell.key),
        warnings=tuple(_warnings(suite)),
    )


def _looked_at(suite: Suite) -> list[Perturbation | None]:
    """Under what the suite's metrics look at features: nothing (None), corruptions."""
    corruptions = [p for p in suite.perturbations if p.kind == "corruption"]
    clean: list[Perturbation | None] = [None] if suite.needs & {"features", "views"} else []
    return [*clean, *(corruptions if "views" in suite.needs else [])]


def _open_stored(perturbation: Perturbation, data_root: Path) -> None:
    """Look whether pictures that were corrupted before are there."""
    try:
        perturbation.entry.spec.open(perturbation.params, data_root)
    except UserError:
        raise
    except Exception as error:
        entry = perturbation.entry
        raise UserError(
            f"{entry.name} of {entry.source} cannot be opened: {type(error).__name__}: {error}. "
            f"See: robharness list corruptions"
        ) from error


def _gather(missing: list[UserError], make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError as error:
        missing.append(error)
        return None


def plan_data(suite: Suite, data_root: Path, limit: int | None = None) -> PlannedData:
    """The suite's data, opened, in their fixed order. Raises UserError where they are not there or do not fit."""
    entry, split = suite.dataset, suite.data.split
    dataset, order, fingerprint = _opened(entry, split, data_root)
    identity = {
        "name": entry.name,
        "split": split,
        "order": "sha256(id)",
        "fingerprint": fingerprint,
        **spec_identity(entry, leave_out=("name", "labels")),
        **({"canvas": suite.canvas} if suite.canvas else {}),
        **({"compat": suite.compat} if suite.compat != "none" else {}),
    }
    asked = limit or suite.data.limit or len(order)
    return PlannedData(
        entry=entry, split=split, dataset=dataset, order=order, n=min(asked, len(order)), identity=identity
    )


Look = Callable[[Entry, str, Path], tuple[Dataset, list[int], str]]


def _opened(entry: Entry, split: str, data_root: Path) -> tuple[Dataset, list[int], str]:
    """A data set, its indices in their fixed order, and the fingerprint of its ids and labels. Raises UserError."""
    try:
        dataset = entry.spec.open(data_root, split)
        ids, labels = list(dataset.ids), [int(label) for label in dataset.labels]
        marks = [hashlib.sha256(id.encode()).digest() for id in ids]
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{entry.name} of {entry.source} cannot be opened: {type(error).__name__}: {error}. "
            f"See: robharness list datasets"
        ) from error
    if len(ids) != len(labels) or len(set(ids)) != len(ids) or not ids:
        raise UserError(
            f"{entry.name} of {entry.source} has {len(ids)} ids, {len(set(ids))} of them different, and {len(labels)} "
            f"labels; it needs one id and one label per example, and at least one. See: robharness list datasets"
        )
    if min(labels) < 0:
        raise UserError(
            f"{entry.name} of {entry.source} has the label {min(labels)} for '{ids[labels.index(min(labels))]}'; "
            f"labels count from 0. See: robharness list datasets"
        )
    order = sorted(range(len(ids)), key=marks.__getitem__)
    fingerprint = hashlib.sha256()
    for index in order:
        fingerprint.update(f"{ids[index]}\x1f{labels[index]}\x1e".encode())
    return dataset, order, fingerprint.hexdigest()


def _plan_model(ref: Model, data_root: Path, store: Path, look: Look) -> PlannedModel:
    base = _base(ref, data_root, store, look) if ref.is_trained else None
    artefact = _artefact(ref, data_root, store, look, base) if ref.is_trained else None
    weights = artefact.weights() if artefact else resolve(ref.entry, ref.weights, data_root)
    if artefact is not None and weights is None:
        return PlannedModel(ref=ref, weights=None, identity={}, artefact=artefact, base=base)
    artefact = artefact and dataclasses.replace(artefact, datasets={})  # it is made; they may be large
    identity = {
        "name": ref.entry.name,
        **spec_identity(ref.entry, leave_out=("name",)),
        **({"params": changed_fields(ref.params)} if changed_fields(ref.params) else {}),
        **({"weights": weights.sha256} if weights else {}),
    }
    return PlannedModel(ref=ref, weights=weights, identity=_ask(ref.entry, canonical, identity), artefact=artefact)


def _base(ref: Model, data_root: Path, store: Path, look: Look) -> PlannedModel | None:
    """What the training of a model starts from. Raises UserError where its plugin cannot say it."""
    choose = ref.entry.spec.weights.base
    try:
        params = choose(ref.params) if choose else None
    except Exception as error:  # a plugin's function may raise anything; say whose it was
        raise UserError(f"{ref.entry.name} ({ref.entry.source}): {type(error).__name__}: {error}") from error
    if params is None:
        return None
    return _plan_model(dataclasses.replace(ref, params=params), data_root, store, look)


def _artefact(ref: Model, data_root: Path, store: Path, look: Look, base: PlannedModel | None) -> Artefact:
    """What the training of a model makes. Raises UserError where the data for it are not there."""
    datasets, data = {}, {}
    for role, (entry, split) in ref.data.items():
        datasets[role], _, fingerprint = look(entry, split, data_root)
        data[role] = {
            "name": entry.name,
            "split": split,
            "fingerprint": fingerprint,
            **spec_identity(entry, leave_out=("name", "labels")),
        }
    source = ref.entry.source.digest
    recipe = {
        "model": ref.entry.name,
        **({"params": changed_fields(ref.params)} if changed_fields(ref.params) else {}),
        "seed": ref.seed,
        "revision": ref.entry.spec.weights.revision,
        **({"source": source} if source else {}),
        "data": data,
        **({"base": base.artefact.hash} if base is not None and base.artefact is not None else {}),
    }
    recipe = _ask(ref.entry, canonical, recipe)
    return Artefact(folder=store / artefacts.FOLDER / key_of(recipe), recipe=recipe, datasets=datasets)


def spec_identity(entry: Entry, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """What a spec adds to an identity: its fields that count and differ from their defaults."""
    fields = {key: value for key, value in changed_fields(entry.spec).items() if key not in leave_out}
    return {**fields, **({"source": entry.source.digest} if entry.source.digest else {})}


def _cell(
    suite: Suite,
    model: PlannedModel,
    data: PlannedData,
    perturbation: Perturbation | None,
    models: Sequence[PlannedModel],
    *,
    with_features: bool = False,
) -> Cell:
    kind = "clean" if perturbation is None else perturbation.kind
    count: Literal["all", "robust"] = suite.count if kind == "attack" else "all"
    identity: dict[str, Any] = {"model": model.identity, "data": data.identity, "precision": suite.precision.of(kind)}
    identity |= {"compile": True} if suite.compile else {}
    identity |= {"features": model.entry.spec.features} if with_features else {}
    cost, source = Cost(forwards=int(with_features)), None
    if perturbation is not None:
        entry = perturbation.entry
        draws = entry.spec.randomness != "none"
        count = "robust" if perturbation.is_ensemble else count
        if perturbation.source is not None:
            source = next(planned for planned in models if planned.label == perturbation.source.label)
        identity["perturbation"] = {
            **_what(perturbation),
            "strength": perturbation.strength,
            **({"smaller": list(perturbation.smaller)} if perturbation.smaller else {}),
            **({"source": source.identity} if source else {}),
            **_features_of(entry, source or model),
            **({"eight_bit": True} if perturbation.eight_bit else {}),
            **({"count": count} if count != "all" else {}),
            **({"seed": suite.seed} if draws else {}),
            **({"block": BLOCK} if perturbation.needs_blocks else {}),
        }
        identity["perturbation"] = _ask(entry, canonical, identity["perturbation"])
        if perturbation.kind == "attack":
            cost = _ask(entry, entry.spec.cost, perturbation.params)
    waits = model.is_untrained or (source is not None and source.is_untrained)
    identity = {} if waits else canonical(identity)
    return Cell(
        model=model,
        data=data,
        perturbation=perturbation,
        source=source,
        count=count,
        identity=identity,
        key="" if waits else key_of(identity),
        cost=cost,
        with_features=with_features,
    )


def _what(perturbation: Perturbation) -> dict[str, Any]:
    """An attack or a corruption, whatever its strength: its name, its spec's revision and the like, its options."""
    entry, params = perturbation.entry, changed_fields(perturbation.params)
    return {
        "kind": perturbation.kind,
        "name": entry.name,
        **spec_identity(entry, leave_out=("name", "randomness")),
        **({"params": params} if params else {}),
    }


def corruption_identity(perturbation: Perturbation) -> dict[str, Any]:
    """What tells a corruption from others, whatever its severity, as plain data. Raises UserError."""
    blocks = {"block": BLOCK} if perturbation.needs_blocks else {}
    found: dict[str, Any] = _ask(perturbation.entry, canonical, _what(perturbation) | blocks)
    return found


def _features_of(attack: Entry, model: PlannedModel) -> dict[str, Any]:
    """The submodule that an attack on features looks at, which is nothing to any other cell."""
    looks = getattr(attack.spec, "access", "") == "features"  # a corruption has no access at all
    return {"features": model.entry.spec.features} if looks else {}


def _ask(entry: Entry, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a plugin's function says; an exception in it is the plugin's fault, and said so."""
    try:
        return function(*arguments)
    except Exception as error:
        message = f"{entry.name} of {entry.source} cannot be planned: {type(error).__name__}: {error}"
        raise UserError(f"{message}. Without it: add -p no:{entry.source.namespace}") from error


def canonical(value: Any) -> Any:
    """The value as plain JSON data: rationals as "a/b", records as their changed fields, sets sorted."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return canonical(changed_fields(value))
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(canonical, value))
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} has no place in an identity; mark its field with metadata={{'runtime': True}}")


def key_of(identity: dict[str, Any]) -> str:
    """The first 24 hexadecimal digits of the sha256 of the identity's canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def draw_address(perturbation: Perturbation) -> str:
    """What addresses random draws beside the seed and the example: the perturbation without its strength.

    Nothing of the model, the weights, eps, the severity or the number of restarts, so that all models see the same
    noise and the same starts, at every budget.
    """
    params = canonical(changed_fields(perturbation.params))
    params.pop("restarts", None)
    return json.dumps([perturbation.entry.name, params], sort_keys=True)


def _warnings(suite: Suite) -> list[str]:
    warnings = []
    sizes = sorted({"x".join(map(str, model.entry.spec.input.shape[1:])) for model in suite.models})
    norms = sorted({p.norm for p in suite.perturbations if p.norm in ("l2", "l1")}, key=str)
    corrupts = any(p.kind == "corruption" for p in suite.perturbations)
    if len(sizes) > 1 and norms:
        warnings.append(
            f"models of different input sizes ({', '.join(sizes)}) stand in one table under {' and '.join(norms)}: "
            f"the same eps is a smaller change per pixel of a larger input"
        )
    if len(sizes) > 1 and corrupts and suite.reference:
        warnings.append(f"slopes compare models of different input sizes ({', '.join(sizes)})")
    rendered = any(p.kind == "corruption" and not p.is_stored for p in suite.perturbations)
    if rendered and suite.baseline is not None and not isinstance(suite.baseline, str) and suite.compat == "none":
        warnings.append(
            f"corruptions are rendered without the JPEG encoding of the files that {suite.baseline.name}'s errors are "
            f"of: an mCE is not comparable with published ones. To encode them: write `compat: imagenet-c`"
        )
    if corrupts and suite.reference is None:
        warnings.append("no slopes: no model is marked `reference: true`")
    invisible = [p.name for p in suite.perturbations if p.norm == "linf" and p.strength and p.strength < HALF_A_LEVEL]
    judged = all(p.eight_bit for p in suite.perturbations if p.name in invisible)
    if invisible:
        warnings.append(
            f"{', '.join(invisible)}: less than half a grey level, 0.5/255, so that rounding to 8 bits undoes it: such "
            f"inputs exist in floating point only{'' if judged else '; eight_bit: true judges them rounded, too'}"
        )
    for p in suite.perturbations:
        if p.source is not None:
            warnings.append(
                f"{p.name}: an attack that stops as soon as {p.source.label} is wrong hardly moves an input, and "
                f"another model withstands it; prefer options that go on, such as keep: last"
            )
    if suite.precision.gradient != "same":
        warnings.append(
            f"attacks take gradients in {suite.precision.gradient}, verdicts are {suite.precision.judge}: they may be "
            f"weaker than with gradients in {suite.precision.judge}"
        )
    for perturbation in suite.perturbations:
        spec = perturbation.entry.spec
        if perturbation.kind == "attack" and spec.advise is not None:
            advice = _ask(perturbation.entry, spec.advise, perturbation.params, perturbation.strength)
            warnings += [f"{perturbation.name}: {line}" for line in advice]
        if spec.randomness == "global":
            warnings.append(f"{perturbation.name}: uses global random generators, seeded per block of {BLOCK} examples")
    return list(dict.fromkeys(warnings))
