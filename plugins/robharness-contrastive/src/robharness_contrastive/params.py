"""Recipes: a suite's options for training an encoder. Runtime options do not change the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from robharness import Clips, Preprocessing
from robharness_contrastive.removal import Removal

RUNTIME = {"runtime": True}
Network = Literal["small", "resnet18", "resnet50", "r2plus1d-narrow", "r2plus1d-18", "r2plus1d-18-dilated"]
NO_REMOVAL = Removal()

DATA: dict[str, tuple[tuple[int, ...], str, int, str]] = {
    "samples/mnist-5k": ((1, 28, 28), "mnist", 10, "digits"),
    "samples/digits": ((1, 8, 8), "digits", 10, "digits"),
    "samples/patches": ((3, 32, 32), "patches", 10, "patches"),
    "datasets/cifar-10": ((3, 32, 32), "cifar-10", 10, "contrastive"),
    "datasets/cifar-100": ((3, 32, 32), "cifar-100", 100, "contrastive"),
    "datasets/imagenet": ((3, 224, 224), "imagenet-1k", 1000, "blurred"),
    "samples/moving-digits": ((3, 8, 32, 32), "moving-digits", 8, "digits"),
    "datasets/ucf101": ((3, 16, 112, 112), "ucf-101", 101, "contrastive"),
}
"""Input shape, label space, number of classes and augmentation of data sets that a suite need not describe."""


ANY_SIZE = ("datasets/imagenet",)
"""Data sets whose images have any size. Evaluation resizes their shorter side to 256/224 of the input's, then crops."""
FOLDERS = ("datasets/folder", "datasets/imagenet-folder")
"""Data sets whose split is a folder's path below the data root."""


def _positive(record: Any, *names: str) -> None:
    for name in names:
        if getattr(record, name) <= 0:
            raise ValueError(f"{type(record).__name__}: {name}={getattr(record, name)} must be above 0")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Options of the linear classifier on the encoder's features.

    kind: how the classifier is trained.
        "lbfgs": logistic regression on standardised features to its optimum, without random numbers.
        "sgd": SGD on augmented images, as in SupContrast's main_linear.py.
        "robust": SGD on images that PGD attacks (RoCL's r-LE).
        "finetune": SGD that trains the encoder as well.
    l2: for "lbfgs", weight of half the squared norm of the weights; the loss is a mean over examples.
    epochs: for the other kinds, passes over the examples.
    lr: for the other kinds, initial learning rate, which falls to a fifth at 60, 75 and 90 % of the epochs.
    batch: for the other kinds, images per step.
    momentum: for the other kinds, of SGD.
    eps: for "robust", radius of PGD's linf ball.
    steps: for "robust", of PGD.
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
    """Options for clips of videos; the recipe's input gives their length and size.

    stride: distance between successive frames of a clip, in evaluation and in random clips of training.
    resize: shorter side of resized frames, or their (height, width). Training then crops at random, evaluation crops
        the centre.
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
        _positive(self, "every", "k", "temperature", "bank", "queries")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options that all encoders share.

    data: name of the training data.
    split: of the data.
    input: shape of an input, (C, H, W), or (C, T, H, W) for videos; None for data that the plugin knows.
    labels: label space; None for data that the plugin knows.
    classes: their number; None for data that the plugin knows.
    video: how clips are sampled from videos; None for the default of the data.
    resize: for images of any size, shorter side to which evaluation resizes them before it crops the centre of the
        input's size. Training crops at random out of whole images. None for images that have the input's size, and for
        the default of the data. Such images are streamed.
    hold_out: share of the examples that is held out for choosing hyper-parameters (the paper's 40,000 of 50,000: 0.2).
        The probe's accuracy on them is in metrics.jsonl.
    network: "small" has three convolutions of stride 2; "resnet18" and "resnet50" have CIFAR's stem below 96 pixels.
    epochs: passes over the examples.
    batch: images per step, over all processes. Images that do not fill an epoch's last batch are left out of the epoch.
    accumulate: steps whose gradients are accumulated; negatives are those of one step.
    optimizer: "sgd", "adamw", or "lars", which scales SGD's steps layer by layer.
    lr: peak learning rate.
    momentum: of SGD and LARS.
    weight_decay: on all parameters; under LARS not on biases and norms.
    warmup: epochs in which the learning rate rises linearly; then it falls as a cosine to lr * decay ** 3.
    decay: see warmup.
    augmentation: by name; None for the default of the data.
    probe: options of the classifier; None for an encoder alone, which several probes may share.
    precision: of forward and backward passes in training.
    tensorboard: whether to write TensorBoard's event files.
    knn: options of the accuracy of a kNN classifier on the features after an epoch; None for no such measurement.
    stream: whether images are decoded again for every step instead of being kept in memory. None streams images that
        have any size or need more than 8 GiB. Weights are the same if all images can be read.
    threads: number of threads of a process that decode streamed images. None for one per core, shared by the processes.
    """

    data: str = "samples/mnist-5k"
    split: str = "train"
    input: tuple[int, ...] | None = None
    labels: str | None = None
    classes: int | None = None
    video: Video | None = None
    resize: int | None = None
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
    knn: Neighbours | None = field(default=None, metadata=RUNTIME)
    stream: bool | None = field(default=None, metadata=RUNTIME)
    threads: int | None = field(default=None, metadata=RUNTIME)

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch", "accumulate", "lr")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out={self.hold_out} must be a share of the examples, at least 0 and below 1")
        for name in FOLDERS:
            if self.data.startswith(f"{name}/"):
                folder = json.dumps(self.data.removeprefix(f"{name}/"), ensure_ascii=False)
                raise ValueError(f"no data set '{self.data}'. Try: `data: {name}` and `split: {folder}`")
        if self.data not in DATA and None in (self.input, self.labels, self.classes):
            known = ", ".join(DATA)
            raise ValueError(
                f"the plugin does not know the data '{self.data}', only {known}. "
                f"Try: `input: [3, 32, 32]`, `labels: cifar-10` and `classes: 10`, with the values of these data"
            )
        if self.network.startswith("r2plus1d") is not self.is_video:
            kind, example = ("videos", "r2plus1d-narrow") if self.is_video else ("images", "small")
            raise ValueError(
                f"network '{self.network}' does not take {kind}, which {self.data} has. Try: `network: {example}`"
            )
        if self.threads is not None:
            _positive(self, "threads")
        if self.resize is not None:
            if self.is_video:
                raise ValueError(f"`resize` is for images. Try: `video: {{resize: {self.resize}}}`")
            if self.resize < max(self.shape[1:]):
                raise ValueError(
                    f"resize={self.resize} must be at least the input's size, {max(self.shape[1:])}, which is cropped "
                    f"afterwards. Try: `resize: {round(max(self.shape[1:]) * 256 / 224)}`"
                )
        if self.stream is False and self.preprocessing and not self.is_video:
            raise ValueError("images of any size are cropped anew in every step. Try: `stream: true`")

    @property
    def is_video(self) -> bool:
        """Whether examples are videos, else images."""
        return len(self.shape) == 4

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an input, (C, H, W) or (C, T, H, W)."""
        return tuple(self.input) if self.input else DATA[self.data][0]

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Preprocessing in evaluation, of a video to a clip or of an image of any size.

        None for images that have the input's size.
        """
        if not self.is_video:
            largest = max(self.shape[1:])
            resize = self.resize or (round(largest * 256 / 224) if self.data in ANY_SIZE else None)
            return Preprocessing(resize=resize, crop=(self.shape[1], self.shape[2])) if resize else None
        video, (_, frames, *size) = self.video or VIDEOS.get(self.data, Video()), self.shape
        return Preprocessing(
            resize=video.resize, crop=(size[0], size[1]), clips=Clips(length=frames, stride=video.stride)
        )

    @property
    def label_space(self) -> str:
        """Label space of the data."""
        return self.labels or DATA[self.data][1]

    @property
    def n_classes(self) -> int:
        """Number of classes of the data."""
        return self.classes or DATA[self.data][2]

    @property
    def augmentation_name(self) -> str:
        """Name of the augmentation, that of the data by default."""
        return self.augmentation or (DATA[self.data][3] if self.data in DATA else "contrastive")


@dataclass(frozen=True, kw_only=True)
class Supervised(Recipe):
    """Options of training by cross-entropy.

    refit: replace the network's own classifier by a probe, as contrastive encoders have it.
    """

    lr: float = 0.05
    refit: bool = False

    @property
    def augmentation_name(self) -> str:
        """Name of the augmentation: the paper's for cross-entropy on colour images that may be flipped."""
        name = super().augmentation_name
        return name if self.augmentation or name == "digits" or self.shape[0] != 3 else "supervised"


@dataclass(frozen=True, kw_only=True)
class Contrastive(Recipe):
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
        _positive(self, "temperature", "loss_scale")


@dataclass(frozen=True, kw_only=True)
class SimCLR(Contrastive):
    """Options of SimCLR.

    removal: of false negatives, see `Removal`.
    """

    removal: Removal = NO_REMOVAL


@dataclass(frozen=True, kw_only=True)
class Clusters(Contrastive):
    """Options of two stages: SimCLR, then SupCon from scratch with clusters of SimCLR's features as classes.

    clusters: their number in k-means on the features of the images without augmentation.
    """

    clusters: int = 20


@dataclass(frozen=True, kw_only=True)
class SwAV(Recipe):
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
        _positive(self, "temperature", "epsilon")


@dataclass(frozen=True, kw_only=True)
class MoCo(Recipe):
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
class SimSiam(Recipe):
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

    data: str = "samples/moving-digits"
    network: Network = "r2plus1d-narrow"
    temperature: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TCLR(Recipe):
    """Options of TCLR: temporal contrast within a video, added to the contrast between videos.

    temperature: of the softmax over cosines.
    chunks: number of local clips of a video, which lie along one global clip.
    global_stride: between frames of a global clip; the authors' is 4, for 16 frames.
    local_stride: between frames of a local clip; the authors' is 1.
    terms: weights of the loss's terms: contrast between videos by global clips, contrast between videos by local clips,
        contrast between a video's local clips, and contrast of global with local clips. Each term is a mean; the sums
        in the authors' code amount to the weights (1, 14, batch, 16).
    projection: widths of the projection head, hidden and output.

    Source: Dave et al. 2022.
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
            raise ValueError(
                f"TCLR compares clips of videos, but '{self.data}' has images. Try: `data: samples/moving-digits`"
            )
        super().__post_init__()
        _positive(self, "temperature", "chunks", "global_stride", "local_stride")
        if self.shape[1] % self.chunks:
            possible = max(count for count in range(1, self.chunks) if self.shape[1] % count == 0)
            raise ValueError(
                f"TCLR cannot divide clips of {self.shape[1]} frames into {self.chunks} chunks of equal length. "
                f"Try: `chunks: {possible}`"
            )


def base(recipe: Recipe) -> Recipe | None:
    """Return the recipe of the encoder alone, which recipes share that differ in their probe; None if there is none."""
    if isinstance(recipe, Supervised):
        return replace(recipe, refit=False) if recipe.refit else None
    return replace(recipe, probe=None) if recipe.probe is not None else None
