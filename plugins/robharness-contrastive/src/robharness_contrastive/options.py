"""Options of the plugin's own objectives and probes, and of kNN while an encoder trains. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robharness import Budget
from robharness_contrastive.removal import Removal

NO_REMOVAL = Removal()
BRANCHES = ("clean", "adversarial")
"""Branches of a BatchNorm that has two, in the order of ACL's `bn_list`."""


def positive(record: Any, *names: str) -> None:
    """Raise ValueError for a field of these that is not above 0."""
    for name in names:
        if getattr(record, name) <= 0:
            raise ValueError(f"{type(record).__name__}: {name}={getattr(record, name)} must be above 0")


def at_least_0(record: Any, *names: str) -> None:
    """Raise ValueError for a field of these that is below 0."""
    for name in names:
        if getattr(record, name) < 0:
            raise ValueError(f"{type(record).__name__}: {name}={getattr(record, name)} must be at least 0")


def positive_widths(record: Any) -> None:
    """Raise ValueError for a projection head without layers, or with a layer whose width is not above 0."""
    widths = record.projection
    if widths is not None and (not widths or min(widths) <= 0):
        raise ValueError(f"{type(record).__name__}: projection={list(widths)} must be widths above 0, one per layer")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A record whose classes check their own fields, each after those that it inherits."""

    def __post_init__(self) -> None:
        """Raise ValueError for a field with a wrong value."""


# --- objectives ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SupCon(Checked):
    """Options of SupCon and SimCLR.

    temperature: of the softmax over cosines.
    loss_scale: factor of the loss; SupContrast's is temperature / 0.07.
    projection: widths of the projection head, hidden and output.
    """

    temperature: float = 0.5
    loss_scale: float = 1.0
    projection: tuple[int, int] = (128, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "temperature", "loss_scale")


@dataclass(frozen=True, kw_only=True)
class SimCLR(SupCon):
    """Options of SimCLR.

    removal: of false negatives, see `Removal`.
    false_negatives: share of every anchor's negatives that are false, for experiments: those of its class are removed
        by their labels, and repetitions of them replace this share of all negatives. Their number stays the same.
        None for negatives as they are.
    """

    removal: Removal = NO_REMOVAL
    false_negatives: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.false_negatives is None:
            return
        if not 0 <= self.false_negatives <= 1:
            raise ValueError(f"SimCLR: false_negatives={self.false_negatives} must be a share, from 0 to 1")
        if self.removal.strategy != "none":
            raise ValueError(
                f"SimCLR: false negatives cannot be added and removed ({self.removal.strategy}) in one training. "
                "Try: `false_negatives: null`"
            )


@dataclass(frozen=True, kw_only=True)
class Clusters(SupCon):
    """Options of two stages: SimCLR, then SupCon from scratch with clusters of SimCLR's features as classes.

    clusters: their number in k-means on the features of the images without augmentation.
    """

    clusters: int = 20


@dataclass(frozen=True, kw_only=True)
class SwAV(Checked):
    """Options of SwAV.

    prototypes: their number, or "instances" for one per training image.
    temperature: of the softmax over prototypes.
    epsilon: of the Sinkhorn iterations that compute the codes.
    frozen: share of the steps, from the first, in which prototypes are not updated.
    projection: widths of the projection head, hidden and output.
    """

    prototypes: int | Literal["instances"] = 30
    temperature: float = 0.1
    epsilon: float = 0.05
    frozen: float = 0.01
    projection: tuple[int, int] = (128, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "temperature", "epsilon")


@dataclass(frozen=True, kw_only=True)
class MoCo(Checked):
    """Options of MoCo v2.

    temperature: of the softmax over cosines.
    queue: number of keys in the queue.
    inertia: momentum of the key encoder, a moving average of the encoder.
    projection: widths of the projection head, hidden and output.
    """

    temperature: float = 0.2
    queue: int = 2048
    inertia: float = 0.99
    projection: tuple[int, int] = (128, 64)


@dataclass(frozen=True, kw_only=True)
class SimSiam(Checked):
    """Options of SimSiam, which has no negatives.

    projection: widths of the projection head, hidden and output.
    prediction: width of the predictor's bottleneck.
    """

    projection: tuple[int, int] = (128, 128)
    prediction: int = 32


@dataclass(frozen=True, kw_only=True)
class CVRL(SimCLR):
    """Options of CVRL: SimCLR on two clips of a video. The probability of a distance in time falls with the distance.

    Source: Qian et al. 2021, who have another network, 3D ResNet-50, and a head of three layers.
    """

    temperature: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TCLR(Checked):
    """Options of TCLR, which contrasts clips of different videos and of different times of a video.

    temperature: of the softmax over cosines.
    chunks: number of local clips within a global clip, which divides the input's frames.
    global_stride: distance between successive frames of a global clip.
    local_stride: distance between successive frames of a local clip.
    terms: weights of four losses: contrast between videos by global clips, contrast between videos by local clips,
        contrast between a video's local clips, and contrast of global with local clips. Each term is a mean; the sums
        in the authors' code amount to the weights (1, 14, batch, 16).
    projection: widths of the projection head, hidden and output.

    Source: Dave et al. 2022.
    """

    temperature: float = 0.1
    chunks: int = 4
    global_stride: int = 3
    local_stride: int = 1
    terms: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    projection: tuple[int, int] = (128, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "temperature", "chunks", "global_stride", "local_stride")

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError if clips of this shape, (C, T, H, W), cannot be divided into the chunks."""
        if shape[1] % self.chunks:
            possible = max(count for count in range(1, self.chunks) if shape[1] % count == 0)
            raise ValueError(
                f"TCLR cannot divide clips of {shape[1]} frames into {self.chunks} chunks of equal length. "
                f"Try: `chunks: {possible}`"
            )


@dataclass(frozen=True, kw_only=True)
class TwoBranches(Checked):
    """Options of an objective whose encoder has a clean and an adversarial branch in each BatchNorm.

    branch: the one that gives the features of the trained encoder. The training is the same for both.
    """

    branch: Literal["adversarial", "clean"] = "adversarial"


@dataclass(frozen=True, kw_only=True)
class Replacement(Removal):
    """Removal of false negatives in the augmented forms of adversarial objectives, which replace what they remove."""

    replace: Literal["none", "oversample", "reweight", "queue"] = "oversample"


@dataclass(frozen=True, kw_only=True)
class Attacked(Checked):
    """Options that objectives on adversarial views share.

    temperature: of the softmax over cosines.
    removal: of false negatives, in the attack's loss and in the training's, see `Removal`; by default they are replaced
        by oversampling. With it, RoCL is A-RoCL and ACL is A-ACL: static with the strategy frequency, dynamic with
        precision.
    eps: radius of the attack's linf ball.
    steps: of the attack.
    rel_step: length of a step divided by eps.
    """

    temperature: float = 0.5
    removal: Replacement = Replacement()
    eps: Budget = Budget("8/255")
    steps: int = 5
    rel_step: Budget = Budget("1/4")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "temperature", "eps", "steps", "rel_step")


@dataclass(frozen=True, kw_only=True)
class RoCL(Attacked):
    """Options of RoCL. Defaults are those of its code (Kim-Minseon/RoCL at b6d5185), whose eps is nearly 8/255.

    weight: of NT-Xent between the adversarial and the second clean view, which is added to the loss of three views.
    detached: whether gradients reach anchors alone, and no candidates.
    projection: widths of the projection head, hidden and output.
    """

    eps: Budget = Budget("0.0314")
    steps: int = 7
    rel_step: Budget = Budget("0.007/0.0314")
    weight: float = 1 / 256
    detached: bool = True
    projection: tuple[int, int] = (2048, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_0(self, "weight")
        positive_widths(self)


@dataclass(frozen=True, kw_only=True)
class ACL(TwoBranches, Attacked):
    """Options of ACL. Defaults are those of its code (VITA-Group/Adversarial-Contrastive-Learning at 399eabd).

    projection: widths of the projection head's layers, each with a BatchNorm; None for three of the encoder's width.
    """

    projection: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_widths(self)


@dataclass(frozen=True, kw_only=True)
class DynACL(ACL):
    """Options of DynACL, a schedule on ACL. Defaults are those of its code (PKU-ML/DYNACL at 7d143db).

    period: epochs after which the augmentation weakens and the adversarial stream's weight rises, as a share of the
        training below 1, else as their number. The default is 50 of 1000 epochs.
    rise: total rise of the weight of the adversarial stream, from 1 to at most 2; the clean stream's weight falls as
        much, to 0 at least.
    inertia: momentum of the encoder that is kept, a moving average of the weights.
    """

    period: float = 0.05
    rise: float = 2 / 3
    inertia: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "period")
        at_least_0(self, "rise")
        if not 0 <= self.inertia < 1:
            raise ValueError(f"{type(self).__name__}: inertia={self.inertia} must be at least 0 and below 1")

    def epochs_of_period(self, epochs: int) -> int:
        """Return the period in epochs, at least 1."""
        return max(1, round(self.period * epochs if self.period < 1 else self.period))


# --- probes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Logistic(Checked):
    """Options of logistic regression on standardised features.

    l2: weight of half the squared norm of the weights; the loss is a mean over examples.
    """

    l2: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class SGD(Checked):
    """Options of a classifier that SGD trains on augmented images.

    epochs: passes over the examples.
    lr: initial learning rate, which falls to a fifth at 60, 75 and 90 % of the epochs.
    batch: images per step.
    momentum: of SGD.
    """

    epochs: int = 100
    lr: float = 1.0
    batch: int = 512
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "epochs", "lr", "batch")


@dataclass(frozen=True, kw_only=True)
class Robust(SGD):
    """Options of a classifier that SGD trains on images that PGD attacks.

    eps: radius of PGD's linf ball.
    steps: of PGD.
    """

    eps: float = 8 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "eps", "steps")


# --- measurements while an encoder trains -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Options of the accuracy of a kNN classifier, measured while an encoder trains. Nothing of it changes weights.

    every: epochs between two measurements; the last epoch is always measured.
    k: number of neighbours that vote.
    temperature: of the votes, exp(cosine / temperature).
    bank: number of training examples at most that may be neighbours.
    queries: number of examples at most that are classified: held-out ones (`hold_out`), or else up to a tenth of the
        training examples, which are then no neighbours.

    Source: Wu et al. 2018, whose temperature is 0.07, as in DINO.
    """

    every: int = 1
    k: int = 20
    temperature: float = 0.07
    bank: int = 10_000
    queries: int = 2_000

    def __post_init__(self) -> None:
        positive(self, "every", "k", "temperature", "bank", "queries")
