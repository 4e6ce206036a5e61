"""Options of the heads, as a suite gives them beside `model: probe/...`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robharness import Budget, DataRef, Encoder

Schedule = Literal["cosine", "step"]


def _positive(record: object, *names: str) -> None:
    for name in names:
        if getattr(record, name) <= 0:
            raise ValueError(f"{name}={getattr(record, name)} must be above 0")


def _not_negative(record: object, *names: str) -> None:
    for name in names:
        if getattr(record, name) < 0:
            raise ValueError(f"{name}={getattr(record, name)} must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Head:
    """Options of every head.

    encoder: the model whose features the head reads.
    data: the training data, of which the split is "train" unless it is given.
    """

    encoder: Encoder
    data: DataRef


@dataclass(frozen=True, kw_only=True)
class Linear(Head):
    """Options of a linear classifier on the features of unchanged images.

    solver: "lbfgs" fits logistic regression to its optimum, without random numbers; "sgd" descends from zero.
    l2: for "lbfgs", weight of half the squared norm of the weights; the loss is a mean over examples.
    standardize: whether every feature is shifted and scaled to mean 0 and variance 1 over the training data; the
        classifier contains both steps.
    epochs: for "sgd", passes over the examples.
    lr: for "sgd", first learning rate.
    batch: for "sgd", examples per step.
    momentum: for "sgd".
    weight_decay: for "sgd".
    schedule: for "sgd", of the learning rate: half a cosine to 0, or a tenth from 60 % and a hundredth from 80 % of the
        epochs.
    """

    solver: Literal["lbfgs", "sgd"] = "lbfgs"
    l2: float = 1e-3
    standardize: bool = True
    epochs: int = 100
    lr: float = 0.01
    batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        _positive(self, "epochs", "lr", "batch")
        _not_negative(self, "l2", "momentum", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Neighbours(Head):
    """Options of the vote of the nearest neighbours.

    k: number of neighbours.
    temperature: T of a neighbour's vote exp(cosine similarity / T).
    """

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        _positive(self, "k", "temperature")


@dataclass(frozen=True, kw_only=True)
class Centroid(Head):
    """Options of the nearest class mean.

    distance: "cosine" between features and the mean of unit features; "euclidean" between features and their mean.
    scale: for "cosine", factor of the similarities that makes them logits.
    """

    distance: Literal["cosine", "euclidean"] = "cosine"
    scale: float = 10.0

    def __post_init__(self) -> None:
        _positive(self, "scale")


@dataclass(frozen=True, kw_only=True)
class Retrieval(Head):
    """Options of the retrieval of every example by its own features.

    data: the gallery: the data of the suite, with the same split and limit.
    scale: factor of the cosine similarities that makes them logits.
    """

    scale: float = 10.0

    def __post_init__(self) -> None:
        _positive(self, "scale")


@dataclass(frozen=True, kw_only=True)
class Images(Head):
    """Options of heads that are trained on images by SGD or AdamW.

    optimizer: "sgd" or "adamw".
    epochs: passes over the images.
    lr: peak learning rate.
    batch: images per step, over all processes. Images that do not fill an epoch's last batch are left out of the epoch.
    momentum: of "sgd".
    weight_decay: of the trained weights.
    schedule: of the learning rate: half a cosine to 0, or a tenth from 60 % and a hundredth from 80 % of the epochs.
    warmup: epochs in which the learning rate rises linearly.
    crop: smallest share of an image's area that a random crop keeps; 1 for no crops.
    flip: probability of a horizontal flip.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: int = 20
    lr: float = 0.01
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    crop: float = 0.5
    flip: float = 0.5

    def __post_init__(self) -> None:
        _positive(self, "epochs", "lr", "batch", "crop")
        _not_negative(self, "momentum", "weight_decay", "warmup", "flip")
        if self.crop > 1 or self.flip > 1:
            raise ValueError(f"crop={self.crop} and flip={self.flip} must be at most 1")


@dataclass(frozen=True, kw_only=True)
class Finetune(Images):
    """Options of fine-tuning: the encoder and a linear classifier are trained together.

    head_lr: peak learning rate of the classifier, whose weights start at 0; that of the encoder by default.
    """

    head_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_lr is not None:
            _positive(self, "head_lr")


@dataclass(frozen=True, kw_only=True)
class Adversarial(Images):
    """Options of a linear classifier that is trained on attacked images. The encoder stays as it is.

    The attack is PGD under linf on the cross-entropy, from a random start (r-LE of RoCL, and ALF).

    eps: radius of the ball.
    steps: of PGD.
    rel_step: length of a step divided by eps, by default 2.5 / steps.
    """

    lr: float = 0.1
    weight_decay: float = 0.0
    eps: Budget = Budget("8/255")
    steps: int = 10
    rel_step: Budget | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "eps", "steps")
        if self.rel_step is None:  # stored explicitly, since it is part of the identity
            object.__setattr__(self, "rel_step", Budget(f"2.5/{self.steps}"))
        _positive(self, "rel_step")
