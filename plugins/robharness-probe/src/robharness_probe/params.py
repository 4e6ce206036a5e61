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


def _check_milestones(record: Linear | Images) -> None:
    found = record.milestones
    if found is None:
        return
    if record.schedule != "step":
        raise ValueError(f"schedule={record.schedule} has no milestones; write `milestones: null`")
    if list(found) != sorted(set(found)) or not all(0 < each < record.epochs for each in found):
        raise ValueError(
            f"milestones={list(found)} must rise between 0 and epochs={record.epochs}; `milestones: null` is "
            f"60 % and 80 % of the epochs"
        )


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
    schedule: for "sgd", of the learning rate: half a cosine to 0, or "step", a tenth after every milestone.
    milestones: for "step", numbers of finished epochs; by default 60 % and 80 % of the epochs.
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
    milestones: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _positive(self, "epochs", "lr", "batch")
        _not_negative(self, "l2", "momentum", "weight_decay")
        _check_milestones(self)


@dataclass(frozen=True, kw_only=True)
class LE(Linear):
    """Options of the linear evaluation (LE) of RoCL: SGD on the features of images without augmentation.

    The settings are those of `src/linear_eval.py` and of the command `test` in `src/total_process.sh` of
    github.com/Kim-Minseon/RoCL at b6d5185, whose readme names the learning rate 0.1. That code lowers the rate after
    epochs 31, 51 and 101, since it counts from 0 and sets the rate of the next epoch. Its classifier starts at random
    weights and this one at 0; the problem is convex.
    """

    solver: Literal["lbfgs", "sgd"] = "sgd"
    standardize: bool = False
    epochs: int = 150
    lr: float = 0.1
    batch: int = 1024
    weight_decay: float = 5e-4
    schedule: Schedule = "step"
    milestones: tuple[int, ...] | None = (30, 50, 100)


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
    schedule: of the learning rate: half a cosine to 0, or "step", a tenth after every milestone.
    milestones: for "step", numbers of finished epochs; by default 60 % and 80 % of the epochs.
    warmup: epochs in which the learning rate rises linearly.
    crop: smallest share of an image's area that a random crop keeps; 1 for no crops.
    pad: width in pixels of a black border, within which a window of the image's size is moved at random; 0 for none. 4
        is usual for CIFAR.
    flip: probability of a horizontal flip.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: int = 20
    lr: float = 0.01
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] | None = None
    warmup: float = 0.0
    crop: float = 0.5
    pad: int = 0
    flip: float = 0.5

    def __post_init__(self) -> None:
        _positive(self, "epochs", "lr", "batch", "crop")
        _not_negative(self, "momentum", "weight_decay", "warmup", "pad", "flip")
        _check_milestones(self)
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

    The attack is PGD under linf on the cross-entropy, from a random start, with the network in eval mode. `ALF` and
    `RLE` are published settings of it.

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


@dataclass(frozen=True, kw_only=True)
class SLF(Images):
    """Options of standard linear fine-tuning (SLF): a linear classifier on augmented clean images.

    The encoder stays as it is, in eval mode. The settings are those for CIFAR-10 of `test_LF.py` of
    github.com/PKU-ML/DYNACL at 7d143db, which RobustSSL_Benchmark (`setup_hyperparameter` in
    `Finetuning_Methods/Vanilla_Finetuning/utils.py` of github.com/GodXuxilie/RobustSSL_Benchmark at 19dc714) has for
    ACL and DynACL. There, CIFAR-100 has `lr: 0.05`, and AdvCL, A-InfoNCE and DeACL have `milestones: [15, 20]`.
    """

    epochs: int = 25
    lr: float = 0.01
    batch: int = 512
    weight_decay: float = 2e-4
    schedule: Schedule = "step"
    milestones: tuple[int, ...] | None = (10, 20)
    crop: float = 1.0
    pad: int = 4


@dataclass(frozen=True, kw_only=True)
class ALF(SLF, Adversarial):
    """Options of adversarial linear fine-tuning (ALF): SLF on images that PGD-10 attacks, with steps of 2/255.

    Settings and sources are those of `SLF`.
    """


@dataclass(frozen=True, kw_only=True)
class RLE(Adversarial):
    """Options of the robust linear evaluation (r-LE) of RoCL: LE on images that PGD-10 attacks.

    The settings are those of `LE`, with eps and step of `src/argument.py` of the same repository. The command `advtest`
    of its `src/total_process.sh` trains on attacked images alone, without augmentation.
    """

    epochs: int = 150
    lr: float = 0.1
    batch: int = 1024
    weight_decay: float = 5e-4
    schedule: Schedule = "step"
    milestones: tuple[int, ...] | None = (30, 50, 100)
    crop: float = 1.0
    flip: float = 0.0
    eps: Budget = Budget("0.0314")
    rel_step: Budget | None = Budget("0.007/0.0314")


@dataclass(frozen=True, kw_only=True)
class AFF(Finetune, Adversarial):
    """Options of adversarial full fine-tuning (AFF): encoder and classifier minimise the loss of TRADES.

    The attack is PGD on the divergence of TRADES, in eval mode; the loss is taken in train mode. The settings are those
    of `test_AFF.py` of github.com/PKU-ML/DYNACL at 7d143db, which are also ACL's own in `train_trades.py` of
    github.com/VITA-Group/Adversarial-Contrastive-Learning at 399eabd. For ACL, RobustSSL_Benchmark (see `SLF`) has
    `epochs: 100` with `milestones: [40, 60]`. ACL measures its best epoch; here, it is always the last one.

    Clean and attacked images share one BatchNorm per layer, that of the encoder's branch, as in ACL's code. DynACL's
    code, and by default RobustSSL_Benchmark's for ACL and DynACL (`dualBN`), pass clean images through the clean branch
    in fine-tuning, and keep the adversarial one. DynACL's attack starts at the clean image without noise.

    beta: weight of the divergence.
    """

    epochs: int = 25
    lr: float = 0.1
    batch: int = 128
    weight_decay: float = 2e-4
    schedule: Schedule = "step"
    milestones: tuple[int, ...] | None = (15, 20)
    crop: float = 1.0
    pad: int = 4
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative(self, "beta")
