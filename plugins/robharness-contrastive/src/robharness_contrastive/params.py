"""Recipes: what a suite may say of an encoder that is trained, as records. Runtime options change no weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from robharness import Clips, Preprocessing
from robharness_contrastive.removal import Removal

RUNTIME = {"runtime": True}
Network = Literal["small", "resnet18", "resnet50", "r2plus1d-narrow", "r2plus1d-18", "r2plus1d-18-dilated"]
NOTHING = Removal()

DATA: dict[str, tuple[tuple[int, ...], str, int, str]] = {
    "samples/mnist-5k": ((1, 28, 28), "mnist", 10, "digits"),
    "samples/digits": ((1, 8, 8), "digits", 10, "digits"),
    "samples/patches": ((3, 32, 32), "patches", 10, "patches"),
    "datasets/cifar-10": ((3, 32, 32), "cifar-10", 10, "contrastive"),
    "datasets/cifar-100": ((3, 32, 32), "cifar-100", 100, "contrastive"),
    "samples/moving-digits": ((3, 8, 32, 32), "moving-digits", 8, "digits"),
    "datasets/ucf101": ((3, 16, 112, 112), "ucf-101", 101, "contrastive"),
}
"""Input, label space, classes and augmentation of data that need not be described in a suite."""


def _positive(record: Any, *names: str) -> None:
    for name in names:
        if getattr(record, name) <= 0:
            raise ValueError(f"{type(record).__name__}: {name}={getattr(record, name)} must be above 0")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The linear classifier on frozen features.

    kind: "lbfgs", logistic regression on standardised features to its optimum, without any randomness; "sgd" as
    SupContrast's main_linear.py, on augmented pictures; "robust", by "sgd" on pictures that PGD attacks (RoCL's r-LE);
    "finetune", by "sgd" with the encoder's weights moving too.
    l2: of lbfgs, the weight of half the squared norm of the weights; the loss is a mean over examples. epochs, lr,
    batch, momentum: of the others; the rate falls to a fifth at 60, 75 and 90 % of the epochs. eps, steps: of "robust",
    under linf.
    """

    kind: Literal["lbfgs", "sgd", "robust", "finetune"] = "lbfgs"
    l2: float = 1e-3
    epochs: int = 100
    lr: float = 1.0
    batch: int = 512
    momentum: float = 0.9
    eps: float = 8 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        _positive(self, "epochs", "lr", "batch", "eps", "steps")


@dataclass(frozen=True, kw_only=True)
class Video:
    """Clips of videos, whose length and size the network's input says.

    stride: frames from one of a clip to the next, where clips are judged, and where training looks at random ones.
    resize: of frames, the shorter side or (height, width); training cuts squares out of what is left, and what is
    judged is the middle of it.
    """

    stride: int = 2
    resize: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _positive(self, "stride")


VIDEOS = {
    "samples/moving-digits": Video(stride=3, resize=32),  # 8 frames span 24, which the shortest video has
    "datasets/ucf101": Video(stride=2, resize=(128, 171)),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all encoders may be told.

    data, split: what they are trained on. input, labels, classes: of data that the plugin does not know, else None;
    with an input of (C, T, H, W) they are videos. video: how clips are cut out of them; None for what suits the data.
    hold_out: share of the examples that is kept for choosing hyper-parameters (the paper's 40,000 of 50,000: 0.2); the
    probe's accuracy on it is in metrics.jsonl.
    network: "small", three convolutions of stride 2; "resnet18", "resnet50", with CIFAR's stem below 96 pixels.
    epochs, batch: pictures of a step, over all processes; those that would not fill an epoch's last batch are left out
    of it. accumulate: steps whose gradients are added up; negatives are those of one step.
    optimizer: LARS scales SGD's steps layer by layer. lr: at its peak. warmup: epochs of a rate that rises linearly;
    it falls as a cosine to `lr` times `decay` ** 3. weight_decay: on all weights; under LARS not on biases and norms.
    augmentation: by name; None for what suits the data.
    probe: see `Probe`; None for an encoder alone, which several probes may start from. precision: of the passes in
    training.
    """

    data: str = "samples/mnist-5k"
    split: str = "train"
    input: tuple[int, ...] | None = None
    labels: str | None = None
    classes: int | None = None
    video: Video | None = None
    hold_out: float = 0.0
    network: Network = "small"
    epochs: int = 40
    batch: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 2.0
    decay: float = 0.1
    augmentation: Literal["contrastive", "supervised", "digits", "patches", "blurred"] | None = None
    probe: Probe | None = Probe()
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    tensorboard: bool = field(default=False, metadata=RUNTIME)

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch", "accumulate", "lr")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out={self.hold_out} is a share of the examples, at least 0 and below 1")
        if self.data not in DATA and None in (self.input, self.labels, self.classes):
            known = ", ".join(DATA)
            raise ValueError(
                f"'{self.data}' is not known here ({known}); write `input: [3, 32, 32]`, `labels:` and `classes:` too"
            )
        of_videos = len(self.shape) == 4
        if self.network.startswith("r2plus1d") is not of_videos:
            what, example = ("videos", "r2plus1d-narrow") if of_videos else ("pictures", "small")
            raise ValueError(
                f"network '{self.network}' does not take {what}, as {self.data} has; write e.g. '{example}'"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.input) if self.input else DATA[self.data][0]

    @property
    def preprocessing(self) -> Preprocessing | None:
        """From a video to the clip that is judged; None of pictures, which have the network's size."""
        if len(self.shape) == 3:
            return None
        video, (_, frames, *size) = self.video or VIDEOS.get(self.data, Video()), self.shape
        return Preprocessing(
            resize=video.resize, crop=(size[0], size[1]), clips=Clips(length=frames, stride=video.stride)
        )

    @property
    def label_space(self) -> str:
        return self.labels or DATA[self.data][1]

    @property
    def n_classes(self) -> int:
        return self.classes or DATA[self.data][2]

    @property
    def augmented(self) -> str:
        """The name of the augmentation of contrastive objectives."""
        return self.augmentation or (DATA[self.data][3] if self.data in DATA else "contrastive")


@dataclass(frozen=True, kw_only=True)
class Supervised(Recipe):
    """Cross-entropy. refit: the network's own classifier is thrown away for a probe of the kind that the others get."""

    lr: float = 0.05
    refit: bool = False

    @property
    def augmented(self) -> str:
        """The paper's own for cross-entropy, where pictures have colours and may be flipped."""
        own = super().augmented
        return own if self.augmentation or own == "digits" or self.shape[0] != 3 else "supervised"


@dataclass(frozen=True, kw_only=True)
class Contrastive(Recipe):
    """SimCLR and SupCon. temperature: of the softmax over cosines. loss_scale: times the loss; SupContrast has
    temperature / 0.07. projection: the head's widths, hidden and out.
    """

    temperature: float = 0.5
    loss_scale: float = 1.0
    projection: tuple[int, int] = (128, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "temperature", "loss_scale")


@dataclass(frozen=True, kw_only=True)
class SimCLR(Contrastive):
    """removal: of false negatives, see `Removal`."""

    removal: Removal = NOTHING


@dataclass(frozen=True, kw_only=True)
class Clusters(Contrastive):
    """Two stages: SimCLR by this recipe, and then SupCon from scratch, with clusters of its features for classes.

    clusters: how many, by k-means on the features of the pictures as they are.
    """

    clusters: int = 20


@dataclass(frozen=True, kw_only=True)
class SwAV(Recipe):
    """prototypes: how many, or one per training picture ("instances"). epsilon: of the codes. frozen: share of the
    training during which prototypes stay, at first. projection: as of SimCLR.
    """

    prototypes: int | Literal["instances"] = 30
    temperature: float = 0.1
    epsilon: float = 0.05
    frozen: float = 0.01
    projection: tuple[int, int] = (128, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "temperature", "epsilon")


@dataclass(frozen=True, kw_only=True)
class MoCo(Recipe):
    """MoCo v2. queue: keys that are kept. inertia: of the key encoder, which follows the other by moving averages."""

    temperature: float = 0.2
    queue: int = 2048
    inertia: float = 0.99
    projection: tuple[int, int] = (128, 64)


@dataclass(frozen=True, kw_only=True)
class SimSiam(Recipe):
    """No negatives. projection: hidden and out; prediction: the bottleneck of the predictor."""

    projection: tuple[int, int] = (128, 128)
    prediction: int = 32


@dataclass(frozen=True, kw_only=True)
class CVRL(SimCLR):
    """SimCLR of two clips of a video, whose distance in time is drawn: the longer, the rarer.

    Source: Qian et al. 2021, whose network, 3D ResNet-50, and head of three layers are not these.
    """

    data: str = "samples/moving-digits"
    network: Network = "r2plus1d-narrow"
    temperature: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TCLR(Recipe):
    """Temporal contrast within a video beside the contrast between videos. Source: Dave et al. 2022.

    chunks: local clips of a video, which lie along one global clip. global_stride, local_stride: between frames of
    both; the authors' are 4 and 1, for 16 frames. terms: their weights: videos told apart by global clips, and by
    local clips; local clips told apart; global against local. Each term is a mean here. Sums of the authors' code
    amount to (1, 14, batch, 16). projection: as of SimCLR.
    """

    data: str = "samples/moving-digits"
    network: Network = "r2plus1d-narrow"
    temperature: float = 0.1
    chunks: int = 4
    global_stride: int = 3
    local_stride: int = 1
    terms: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    projection: tuple[int, int] = (128, 64)

    def __post_init__(self) -> None:
        if self.data in DATA and len(self.shape) == 3:
            raise ValueError(f"TCLR compares clips of videos; '{self.data}' has pictures")
        super().__post_init__()
        _positive(self, "temperature", "chunks", "global_stride", "local_stride")
        if self.shape[1] % self.chunks:
            raise ValueError(f"TCLR: clips of {self.shape[1]} frames do not have {self.chunks} chunks of equal length")


def base(recipe: Recipe) -> Recipe | None:
    """What the recipe's encoder is trained by, where a probe comes behind it: one encoder for all of them."""
    if isinstance(recipe, Supervised):
        return replace(recipe, refit=False) if recipe.refit else None
    return replace(recipe, probe=None) if recipe.probe is not None else None
