"""Verification of a model: its accuracy beside the published one, and alternative configurations of its weights.

A file that loads without an error can still be used wrongly, e.g. with another channel order, normalisation or crop. On
few examples the accuracy does not show that; the mean log-probability of the true class shows it sooner.
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
from robharness.errors import ContractViolation, OutOfMemory, SuiteError, UserError, describe
from robharness.evaluation import loading
from robharness.evaluation.batch import Batch
from robharness.evaluation.modes import neutral_modes
from robharness.evaluation.reader import DecodedImages
from robharness.locations import Location
from robharness.planning.cells import Plan
from robharness.planning.commands import DEFAULT_STORE, quoted_glob
from robharness.planning.planned import PlannedModel
from robharness.planning.weights import TRUST
from robharness.plugins import Entry, Registry
from robharness.plugins.calls import plugin_code
from robharness.session import plan_suite, require

BATCH = 64
"""Number of examples that are read together."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The scores of one configuration of a model's weights.

    name: "as declared", or the alternative's label.
    keys: the suite keys, beside `model:`, that select it.
    correct: (n,) bool; empty after an error.
    log_probability: of the true class, (n,); empty after an error.
    error: the reason why it has no scores, or "".
    """

    name: str
    keys: Mapping[str, Any]
    correct: np.ndarray
    log_probability: np.ndarray
    error: str = ""

    @property
    def accuracy(self) -> float:
        """The share of correct predictions, in [0, 1]."""
        return statistics.accuracy(self.correct)

    @property
    def interval(self) -> statistics.Interval:
        """The 95 % Wilson interval of the accuracy."""
        return statistics.accuracy_interval(int(self.correct.sum()), len(self.correct))

    def gain(self, reference: Configuration) -> tuple[float, float]:
        """Return the gain in mean log-probability over a reference on the same examples, and its standard error.

        The standard error is infinite for a single example.
        """
        difference, n = self.log_probability - reference.log_probability, len(self.log_probability)
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else math.inf


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of verifying a model.

    data: "DATASET/SPLIT" of the examples.
    expected: the clean accuracy of the published weights, or None.
    own_weights: whether other weights than the declared ones were given.
    unreadable: ids of examples that cannot be read and are left out.
    configurations: the declared one first, then the plugin's alternatives.
    """

    model: str
    data: str
    expected: float | None
    own_weights: bool
    unreadable: tuple[str, ...]
    configurations: tuple[Configuration, ...]

    @property
    def n(self) -> int:
        """The number of examples that were scored."""
        return len(self.declared.correct)

    @property
    def declared(self) -> Configuration:
        """The configuration that the plugin declares."""
        return self.configurations[0]

    @property
    def is_as_expected(self) -> bool:
        """Whether the published accuracy is not above the interval of the measured one.

        It is true if no accuracy is published, and for other weights than the published ones.
        """
        return self.expected is None or self.own_weights or self.expected <= self.declared.interval.high

    @property
    def better(self) -> list[Configuration]:
        """The alternatives with a higher mean log-probability of the true class."""
        return [other for other in self.configurations[1:] if not other.error and other.gain(self.declared)[0] > 0]


def verify(
    model: str,
    keys: Mapping[str, Any],
    registry: Registry,
    *,
    store: Location = DEFAULT_STORE,
    data_root: Path,
    data: str | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> Verification:
    """Score a model as declared, and in every alternative configuration of its plugin, on the same examples.

    model: its name in the registry.
    keys: the suite keys beside `model:`, e.g. {"weights": "my.pt"}.
    store: the folder that holds the model if a suite trained it.
    data_root: the folder of data and weights.
    data: "DATASET/SPLIT"; by default the smallest available data set with the model's labels.
    limit: the number of examples, a prefix of one fixed order.
    device: as torch names it.
    Raises UserError if the model or the data are not available, or if the declared configuration fails.
    """
    entry = registry.find("models", model)
    listing = f"Try: robharness list models {quoted_glob(model)}"
    for key in {"model", "label", "reference", "seeds"} & keys.keys():
        raise UserError(f"'{key}' does not change how {model} is used; remove it. Try: robharness verify --help")
    name, split = _data(entry, data, registry, data_root)
    suite: dict[str, Any] = {"robharness": 1, "name": "verify", "data": {"name": name, "split": split}}

    def planned(label: str, more: Mapping[str, Any]) -> tuple[Plan, PlannedModel]:
        one = {"model": model, "label": label, **_merged(keys, more)}
        try:
            plan = plan_suite({**suite, "models": [one]}, registry, store=store, data=data_root, limit=limit)
        except SuiteError as error:  # its places are in a suite that the user did not write
            message = "; ".join(re.sub(r"^<mapping>:\d+:\d+: (models\.0[\w.]*: )?", "", line) for line in error.errors)
            end = "" if message.endswith("?") else "."
            raise UserError(f"{model}: {message}{end} {listing}") from None
        require(plan)
        for untrained in plan.untrained:
            raise UserError(
                f"{model} with these options and seed {untrained.ref.seed} is not trained in {store}; a suite "
                f"trains it. Try: robharness train --help"
            )
        return plan, plan.models[0]

    plan, declared = planned("as declared", {})
    spec = declared.entry.spec
    unreadable: list[str] = []
    configurations = [_scored(plan, declared, {}, device, unreadable)]
    if error := configurations[0].error:
        hint = "" if "Try: " in error or TRUST in error else f". {listing}"
        raise UserError(f"{model} cannot be verified: {error}{hint}")
    for label, more in spec.alternatives.items():
        try:
            configurations.append(_scored(*planned(label, more), more, device))
        except UserError as problem:  # a mistake of the plugin's, which must not hide the other alternatives
            configurations.append(_failed(label, more, str(problem)))
    return Verification(
        model=model,
        data=f"{name}/{split}",
        expected=spec.expected.get("clean"),
        own_weights="weights" in keys,
        unreadable=tuple(unreadable),
        configurations=tuple(configurations),
    )


def _data(model: Entry, wanted: str | None, registry: Registry, data_root: Path) -> tuple[str, str]:
    """Return the data set and the split to verify a model on: the wanted ones, or the smallest that are available."""
    spec = model.spec
    if wanted is not None:
        name, _, split = wanted.rpartition("/")
        registry.find("datasets", name)
        return name, split
    found = []
    for name, entry in registry.datasets.items():
        if entry.spec.params is None and entry.spec.labels == spec.labels and entry.spec.kind == spec.input.kind:
            for split in [split for split in entry.spec.splits if split != "train"] or entry.spec.splits:
                try:
                    with plugin_code():
                        found.append((len(entry.spec.open(data_root, split).ids), name, split))
                except Exception:  # missing or broken, which matters only for a data set that the caller names
                    continue
    if not found:
        raise UserError(
            f"no data with the labels '{spec.labels}' are available to verify {model.name} on. "
            f"Try: robharness list datasets"
        )
    return min(found)[1:]


def _merged(keys: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings as one; mappings inside, e.g. `preprocessing`, are merged too."""
    both = {key: {**keys[key], **more[key]} for key in keys if isinstance(keys[key], dict) and key in more}
    return {**keys, **more, **both}


def _scored(
    plan: Plan, model: PlannedModel, keys: Mapping[str, Any], device: str, unreadable: list[str] | None = None
) -> Configuration:
    """Score one configuration of a model.

    unreadable: a list that the ids of unreadable examples are added to.
    """
    try:
        with neutral_modes():
            loaded = loading.load_model(plan, model, device=device)
            try:
                broken: list[str] = [] if unreadable is None else unreadable
                rows = list(_rows(plan, loaded, broken))
                first = dict(loaded.reader.images(0, 1).unreadable) if not rows else {}
            finally:
                loaded.reader.threads.close()
    except (ContractViolation, OutOfMemory) as error:
        return _failed(model.label, keys, str(error))
    if not rows:
        named = f"such as '{broken[0]}': {next(iter(first.values()), '')}"
        return _failed(model.label, keys, f"none of the examples can be read, {named}. Try: other data, with --data")
    correct, log_probability = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Configuration(name=model.label, keys=keys, correct=correct, log_probability=log_probability)


def _failed(name: str, keys: Mapping[str, Any], error: str) -> Configuration:
    return Configuration(name=name, keys=keys, correct=np.zeros(0, bool), log_probability=np.zeros(0), error=error)


def _read(loaded: loading.LoadedModel, start: int, stop: int) -> tuple[DecodedImages, list[tuple[np.ndarray, Batch]]]:
    try:
        with plugin_code():
            images = loaded.reader.images(start, stop)
            return images, loaded.reader.batches(images)
    except ContractViolation:
        raise
    except Exception as error:  # a data set may raise anything
        raise ContractViolation(f"{loaded.reader.data.entry.name}: {describe(error)}", by="data") from error


def _rows(plan: Plan, loaded: loading.LoadedModel, unreadable: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `correct` and `log_probability` of examples in the order of positions, without unreadable examples.

    All configurations have the same order, so that they compare on the same examples.
    """
    for start in range(0, plan.n, BATCH):
        parts, (images, batches) = [], _read(loaded, start, min(start + BATCH, plan.n))
        unreadable += [loaded.reader.data.ids(position, position + 1)[0] for position in images.unreadable]
        for positions, batch in batches:
            logits = batch.logits(loaded.with_clips(batch).classifier)
            true = logits.log_softmax(1).gather(1, batch.labels[:, None])[:, 0]
            parts.append((positions, (logits.argmax(1) == batch.labels).cpu().numpy(), true.double().cpu().numpy()))
        if parts:
            order = np.argsort(np.concatenate([part[0] for part in parts]))
            yield tuple(np.concatenate([part[column] for part in parts])[order] for column in (1, 2))  # type: ignore[misc]
