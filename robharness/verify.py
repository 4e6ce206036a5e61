"""Is this model the one that was published: its accuracy beside the expected one, and other ways to use its weights.

A file that loads without complaint can still be used wrongly: channels in another order, another normalisation, another
crop. Twenty photos do not show that in the accuracy; the mean log-probability of the true class shows it sooner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robharness import statistics
from robharness.errors import ContractViolation, OutOfMemory, SuiteError, UserError
from robharness.evaluation import loading
from robharness.planning.cells import DEFAULT_STORE, Plan, PlannedModel
from robharness.plugins import Entry, Registry
from robharness.session import plan_suite, require

BATCH = 64
"""Examples that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A way to use the weights. name: "as declared", or the alternative's. keys: what a suite would say to use it.

    correct: (n,) bool. log_probability: of the true class, (n,); both are empty where `error` says what went wrong.
    """

    name: str
    keys: Mapping[str, Any]
    correct: np.ndarray
    log_probability: np.ndarray
    error: str = ""

    @property
    def accuracy(self) -> float:
        return statistics.accuracy(self.correct)

    @property
    def interval(self) -> statistics.Interval:
        """Wilson, 95 %."""
        return statistics.accuracy_interval(int(self.correct.sum()), len(self.correct))

    def gain(self, over: Scored) -> tuple[float, float]:
        """By how much its mean log-probability is higher on the same examples, and the standard error of that, which is
        infinite for a single one."""
        difference, n = self.log_probability - over.log_probability, len(self.log_probability)
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else math.inf


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was seen of a model. expected: the clean accuracy of its published weights, or None. data: what it was tried
    on. own_weights: whether it has others than the declared ones. unreadable: examples that are broken, left out.
    """

    model: str
    data: str
    expected: float | None
    own_weights: bool
    unreadable: tuple[str, ...]
    ways: tuple[Scored, ...]

    @property
    def n(self) -> int:
        """Examples that it was tried on."""
        return len(self.declared.correct)

    @property
    def declared(self) -> Scored:
        return self.ways[0]

    @property
    def is_as_expected(self) -> bool:
        """Whether the published accuracy is not above what chance explains on these examples; of other weights than
        the published ones nothing is expected."""
        return self.expected is None or self.own_weights or self.expected <= self.declared.interval.high

    @property
    def better(self) -> list[Scored]:
        """The alternatives with a higher mean log-probability of the true class."""
        return [way for way in self.ways[1:] if not way.error and way.gain(self.declared)[0] > 0]


def verify(
    model: str,
    keys: Mapping[str, Any],
    registry: Registry,
    *,
    store: Path = DEFAULT_STORE,
    data_root: Path,
    data: str | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> Verification:
    """Score a model as it is declared, and in every way that its plugin declares beside it, on the same examples.

    keys: what a suite says of it beside its name. store: where it is if a suite trained it. data: DATASET/SPLIT; else
    the smallest that is there with its labels.
    Raises UserError where the model or the data cannot be had.
    """
    entry = registry.find("models", model)
    for key in {"model", "label", "reference", "seeds"} & keys.keys():
        raise UserError(f"'{key}' says nothing of how {model} is used; leave it out. See: robharness verify --help")
    name, split = _data(entry, data, registry, data_root)
    suite: dict[str, Any] = {"robharness": 1, "name": "verify", "data": {"name": name, "split": split}}

    def planned(label: str, more: Mapping[str, Any]) -> tuple[Plan, PlannedModel]:
        one = {"model": model, "label": label, **_merged(keys, more)}
        try:
            plan = plan_suite({**suite, "models": [one]}, registry, store=store, data=data_root, limit=limit)
        except SuiteError as error:  # its places are those of a suite that nobody wrote
            told = "; ".join(re.sub(r"^<mapping>:\d+:\d+: (models\.0[\w.]*: )?", "", line) for line in error.errors)
            end = "" if told.endswith("?") else "."
            raise UserError(f"{model}: {told}{end} See: robharness list models '{model}'") from None
        require(plan)
        for waits in plan.untrained:
            raise UserError(
                f"{model} with these options and seed {waits.ref.seed} is not trained in {store}; train it by a suite: "
                f"robharness train SUITE"
            )
        return plan, plan.models[0]

    plan, declared = planned("as declared", {})
    spec = declared.entry.spec
    unreadable: list[str] = []
    ways = [_scored(plan, declared, {}, device, unreadable)]
    if ways[0].error:
        raise UserError(f"{model} cannot be verified: {ways[0].error}. See: robharness list models '{model}'")
    for label, more in spec.alternatives.items():
        try:
            ways.append(_scored(*planned(label, more), more, device))
        except UserError as error:  # a mistake of the plugin's, which must not hide the other ways
            ways.append(_failed(label, more, str(error)))
    return Verification(
        model=model,
        data=f"{name}/{split}",
        expected=spec.expected.get("clean"),
        own_weights="weights" in keys,
        unreadable=tuple(unreadable),
        ways=tuple(ways),
    )


def _data(model: Entry, wanted: str | None, registry: Registry, data_root: Path) -> tuple[str, str]:
    """The data set and the split to try a model on."""
    spec = model.spec
    if wanted is not None:
        name, _, split = wanted.rpartition("/")
        registry.find("datasets", name)
        return name, split
    found = []
    for name, entry in registry.datasets.items():
        if entry.spec.labels == spec.labels and entry.spec.kind == spec.input.kind:
            for split in [split for split in entry.spec.splits if split != "train"] or entry.spec.splits:
                try:
                    found.append((len(entry.spec.open(data_root, split).ids), name, split))
                except Exception:  # not there, or broken, which matters to those alone who ask for it
                    continue
    if not found:
        raise UserError(
            f"no data with the labels '{spec.labels}' are there to try {model.name} on. See: robharness list datasets"
        )
    return min(found)[1:]


def _merged(keys: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both; what they say of preprocessing together."""
    both = {key: {**keys[key], **more[key]} for key in keys if isinstance(keys[key], dict) and key in more}
    return {**keys, **more, **both}


def _scored(
    plan: Plan, model: PlannedModel, keys: Mapping[str, Any], device: str, unreadable: list[str] | None = None
) -> Scored:
    """unreadable: filled with the ids of broken examples."""
    try:
        loaded = loading.load_model(plan, model, device=device)
        try:
            rows = list(_rows(plan, loaded, [] if unreadable is None else unreadable))
        finally:
            loaded.reader.threads.close()
    except (ContractViolation, OutOfMemory) as error:
        return _failed(model.label, keys, str(error))
    if not rows:
        return _failed(model.label, keys, "none of the examples can be read")
    correct, log_probability = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Scored(name=model.label, keys=keys, correct=correct, log_probability=log_probability)


def _failed(name: str, keys: Mapping[str, Any], error: str) -> Scored:
    return Scored(name=name, keys=keys, correct=np.zeros(0, bool), log_probability=np.zeros(0), error=error)


def _rows(plan: Plan, loaded: loading.LoadedModel, unreadable: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """By position, so that ways compare on the same examples; broken ones are left out in all."""
    for start in range(0, plan.n, BATCH):
        parts, pictures = [], loaded.reader.images(start, min(start + BATCH, plan.n))
        unreadable += [loaded.reader.data.ids(position, position + 1)[0] for position in pictures.unreadable]
        for positions, batch in loaded.reader.batches(pictures):
            logits = batch.logits(loaded.with_clips(batch).classifier)
            own = logits.log_softmax(1).gather(1, batch.labels[:, None])[:, 0]
            parts.append((positions, (logits.argmax(1) == batch.labels).cpu().numpy(), own.double().cpu().numpy()))
        if parts:
            order = np.argsort(np.concatenate([part[0] for part in parts]))
            yield tuple(np.concatenate([part[column] for part in parts])[order] for column in (1, 2))  # type: ignore[misc]
