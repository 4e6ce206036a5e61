"""Records of the parts of a plan: models and features, with what they wait for, and data in their fixed order."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from robharness.planning.artefacts import Artefact
from robharness.planning.datasets import FixedDataset, NumberedDataset
from robharness.planning.pixels import Canvas, ImageSizes, image_sizes
from robharness.planning.weights import Weights
from robharness.plugins.registry import Entry
from robharness.specs.conventions import INSTANCES
from robharness.specs.types import Kind
from robharness.suite import Model


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model of a suite with its resolved weights.

    weights: None for a model that declares none, and for one that is not trained yet.
    identity: its part of a cell's identity; empty for a model that is not trained yet.
    is_missing: whether its weights, or other files that it needs, are not on this machine; nothing else is known then.
    artefact: the trained weights of a model that the suite trains.
    encoders: the models that its options name as encoders, by option.
    base: the model, of the same name, whose weights the training starts from; None if there is none, or if the model is
        trained.
    features: the features that the training needs, by role of the data; empty if the model is trained.
    """

    ref: Model
    weights: Weights | None
    identity: dict[str, Any]
    artefact: Artefact | None = None
    encoders: Mapping[str, PlannedModel] = field(default_factory=dict)
    base: PlannedModel | None = None
    features: Mapping[str, PlannedFeatures] = field(default_factory=dict)
    is_missing: bool = False

    @property
    def label(self) -> str:
        return self.ref.label

    @property
    def entry(self) -> Entry:
        return self.ref.entry

    @property
    def is_untrained(self) -> bool:
        """Whether it waits for a training: its own, or that of an encoder."""
        is_waiting = self.artefact is not None and self.weights is None
        return is_waiting or any(encoder.is_untrained for encoder in self.encoders.values())

    @property
    def waits_for(self) -> tuple[Artefact, ...]:
        """The artefacts that are not in the store yet, in the order in which they are made, its own last."""
        own = (self.artefact,) if self.artefact is not None and self.weights is None else ()
        return (*_waited_for(self.prerequisites), *own)

    @property
    def failure(self) -> str:
        """Why the last attempt to make what it waits for failed, and the distribution at fault; empty if none did."""
        return next(filter(None, (artefact.failure for artefact in self.waits_for)), "")

    def at_fault(self, by: str) -> Entry:
        """Return the entry of the model, or of the encoder in its options, that a ContractViolation is `by`."""
        model = self
        for name in by.split(".")[1:]:
            model = model.encoders.get(name, model)
        return model.entry

    @property
    def prerequisites(self) -> tuple[Product, ...]:
        """Weights and features that must be stored before the model is trained, in the order in which they are made."""
        base = () if self.base is None else (self.base,)
        return (
            *base,
            *(product for each in self.encoders.values() for product in each.products),
            *self.features.values(),
        )

    @property
    def products(self) -> tuple[Product, ...]:
        """The model itself if the suite trains it, or else what its encoders need."""
        return (self,) if self.artefact is not None else self.prerequisites

    @property
    def trained_models(self) -> list[PlannedModel]:
        """The model itself if the suite trains it, or else its encoders that the suite trains."""
        if self.artefact is not None:
            return [self]
        return [inner for encoder in self.encoders.values() for inner in encoder.trained_models]


@dataclass(frozen=True, kw_only=True)
class PlannedFeatures:
    """Features of a split of training data, which several trainings may need.

    encoder: the model that gives them.
    data: the split, in the data set's own order.
    artefact: the stored features.
    """

    encoder: PlannedModel
    data: PlannedData
    artefact: Artefact

    @property
    def label(self) -> str:
        return f"features of {self.encoder.entry.name} on {self.data.name}"

    @property
    def entry(self) -> Entry:
        return self.encoder.entry

    @property
    def is_untrained(self) -> bool:
        """Whether the features are not in the store."""
        return not os.path.lexists(self.artefact.folder)

    @property
    def waits_for(self) -> tuple[Artefact, ...]:
        """The artefacts that are not in the store yet, in the order in which they are made, its own last."""
        return (*_waited_for(self.prerequisites), self.artefact) if self.is_untrained else ()

    def at_fault(self, by: str) -> Entry:
        """Return the entry of the data, or of the encoder or one in its options, that a ContractViolation is `by`."""
        return self.data.entry if by == "data" else self.encoder.at_fault(by)

    @property
    def prerequisites(self) -> tuple[Product, ...]:
        """Weights that must be stored before the features are computed."""
        return self.encoder.products


Product = PlannedModel | PlannedFeatures
"""Trained weights, or features that trainings need: made and stored before the cells of a suite."""


def _waited_for(products: Iterable[Product]) -> tuple[Artefact, ...]:
    """Return the artefacts that products wait for, each once."""
    found = [artefact for product in products if product.is_untrained for artefact in product.waits_for]
    return tuple({artefact.folder: artefact for artefact in found}.values())


@dataclass(frozen=True, kw_only=True)
class PlannedData:
    """An opened data set in its fixed order.

    dataset: its ids and labels are those of the plan, whatever the plugin's object says later.
    order: the data set's indices by position.
    n: the number of positions that the plan uses.
    identity: its part of a cell's identity.
    canvas: the canvas of all its images.
    classes: the classes that logits are restricted to, ascending; None for all. Networks and attacks see the positions
        in this list as labels; the store has the labels of the data set.
    known_sizes: the sizes of its first images, if they are known.
    is_missing: whether the data are not on this machine. Then the data set is empty, and n is the number of examples
        that the suite or the record of the data set gives, or 0.
    """

    entry: Entry
    split: str
    dataset: FixedDataset
    order: Sequence[int]
    n: int
    identity: dict[str, Any]
    canvas: Canvas = None
    classes: tuple[int, ...] | None = None
    known_sizes: ImageSizes | None = None
    is_missing: bool = False

    @cached_property
    def sizes(self) -> ImageSizes:
        """The sizes of its first images, which are read for that unless they are known."""
        return self.known_sizes or image_sizes(self.dataset, self.order, self.entry.spec.kind)

    @property
    def sizes_so_far(self) -> ImageSizes | None:
        """The sizes of its first images if they are known or were read already; else None."""
        found: ImageSizes | None = vars(self).get("sizes", self.known_sizes)
        return found

    @cached_property
    def numbered(self) -> PlannedData:
        """Copy of the data for models that tell examples apart, with the position of an example as its label."""
        return dataclasses.replace(self, dataset=NumberedDataset(self.dataset), classes=None)

    @cached_property
    def seen_labels(self) -> Sequence[int]:
        """The labels that networks and attacks see, in the data set's own order."""
        if self.classes is None:
            return self.dataset.labels
        positions = {label: position for position, label in enumerate(self.classes)}
        return [positions[label] for label in self.dataset.labels]

    def seen_by(self, model: PlannedModel) -> PlannedData:
        """Return the data with the labels that a model predicts."""
        return self.numbered if model.entry.spec.labels == INSTANCES else self

    @property
    def name(self) -> str:
        return f"{self.entry.name}/{self.split}"

    @property
    def kind(self) -> Kind:
        """The kind of its examples, images or videos."""
        kind: Kind = self.entry.spec.kind
        return kind

    def ids(self, start: int, stop: int) -> list[str]:
        return [self.dataset.ids[index] for index in self.order[start:stop]]
