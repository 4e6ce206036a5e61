"""Recipes: a suite's options for training an encoder. Runtime options do not change the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from robharness import Clips, Component, Preprocessing
from robharness_contrastive import components, options
from robharness_contrastive.known_data import ANY_SIZE, DATA, FOLDERS, VIDEOS, Video
from robharness_contrastive.options import Checked, Neighbours, TwoBranches, positive

RUNTIME = {"runtime": True}
Network = Annotated[Component, "network"]
STRONG = ("contrastive", "patches", "blurred")
"""Augmentations for contrast between views. A probe that SGD trains gets the milder "supervised" instead."""


class Probe(Component):
    """A probe in a suite, `probe: {kind: sgd, lr: 5}`; a mapping without a kind is one of `lbfgs`."""

    KEY = "kind"


SMALL: Component = components.own("network", "small")
NARROW: Component = components.own("network", "r2plus1d-narrow")
SIMCLR: Component = components.own("objective", "simclr")
LBFGS = components.own("probe", "lbfgs", Probe)


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """Options that all encoders share.

    OBJECTIVE: name of the objective of this plugin that the class has the options of.

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
    network: component with the role "network".
    normalize: whether the encoder normalises its inputs by the means and deviations of CIFAR's channels. Other data are
        never normalised. RoCL and AdvCL train without.
    epochs: passes over the examples.
    batch: images per step, over all processes. Images that do not fill an epoch's last batch are left out of the epoch.
    accumulate: steps whose mean gradient makes an update; negatives and BatchNorm's statistics are those of one step.
    optimizer: "sgd", "adamw", or "lars", which scales SGD's steps layer by layer except for biases and norms, as in
        SimCLR. "lars-all" scales and decays these as well, as the code of RoCL, ACL and DynACL does.
    lr: peak learning rate.
    momentum: of SGD and LARS.
    weight_decay: on all parameters; under LARS not on biases and norms.
    warmup: epochs in which the learning rate rises linearly; then it falls as a cosine to lr * decay ** 3.
    decay: see warmup.
    augmentation: component with the role "augmentation", by its name, or as a mapping with numbers of `Augmentation`
        that differ from those of the name, or of "contrastive" without one; None for the default of the data.
    probe: component with the role "probe", which trains the classifier: "lbfgs" without a `kind`. None for an encoder
        alone, which several probes may share.
    precision: of forward and backward passes in training. "16-mixed" scales the loss and is slow on CPUs.
    tensorboard: whether to write TensorBoard's event files.
    knn: options of the accuracy of a kNN classifier on the features after an epoch; None for no such measurement.
    stream: whether images are decoded again for every step instead of being kept in memory. None streams images that
        have any size or need more than 8 GiB. Weights are the same if all images can be read.
    threads: number of threads of a process that decode streamed images. None for one per core, shared by the processes.
    """

    OBJECTIVE: ClassVar[str] = ""

    data: str = "samples/mnist-5k"
    split: str = "train"
    input: tuple[int, ...] | None = None
    labels: str | None = None
    classes: int | None = None
    video: Video | None = None
    resize: int | None = None
    hold_out: float = 0.0
    network: Network = SMALL
    normalize: bool = True
    epochs: int = 40
    batch: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw", "lars", "lars-all"] = "sgd"
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 2.0
    decay: float = 0.1
    augmentation: Annotated[Component, "augmentation", "contrastive"] | None = None
    probe: Annotated[Probe, "probe", "lbfgs"] | None = LBFGS
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    tensorboard: bool = field(default=False, metadata=RUNTIME)
    knn: Neighbours | None = field(default=None, metadata=RUNTIME)
    stream: bool | None = field(default=None, metadata=RUNTIME)
    threads: int | None = field(default=None, metadata=RUNTIME)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "epochs", "batch", "accumulate", "lr")
        self._read_components()
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
        self._check_kinds()
        if self.threads is not None:
            positive(self, "threads")
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

    def _read_components(self) -> None:
        """Replace names and mappings, as Python code gives them, by components. Raises ValueError."""
        kinds: dict[str, tuple[type[Component], str]] = {
            "objective": (Component, ""), "network": (Component, ""), "augmentation": (Component, "contrastive"),
            "probe": (Probe, "lbfgs"),
        }  # fmt: skip
        for role, (kind, implied) in kinds.items():
            value = getattr(self, role, None)
            if value is not None:
                object.__setattr__(self, role, components.read(role, value, kind, implied))

    def _check_kinds(self) -> None:
        """Raise ValueError for a component that does not take images, or videos, if the data are such."""
        kind = "video" if self.is_video else "image"
        for role, component in (("network", self.network), ("objective", self.training_objective)):
            if component.spec is not None and kind not in component.spec.inputs:
                fitting = [each.name for each in components.OWN if each.role == role and kind in each.inputs]
                raise ValueError(
                    f"{role} '{component}' does not take {kind}s, which {self.data} has. Try: `{role}: {fitting[0]}`"
                )

    @property
    def training_objective(self) -> Component:
        """The objective, with its options."""
        return components.own("objective", self.OBJECTIVE, params=self)

    @property
    def branch_options(self) -> TwoBranches | None:
        """The options that say which branch of BatchNorm gives features; None if the encoder has no two branches."""
        found = self.training_objective.params
        return found if isinstance(found, TwoBranches) else None

    @property
    def keeps_head(self) -> bool:
        """Whether a classifier that the objective trains is the model's classifier."""
        return False

    @property
    def is_encoder_alone(self) -> bool:
        """Whether the model gives features and no logits, since no classifier is trained."""
        return self.probe is None and not self.keeps_head

    @property
    def protocol(self) -> str:
        """Way in which the classifier is trained, for reports; empty if encoder and classifier are trained together."""
        return f"{self.probe} probe" if self.probe is not None and not self.keeps_head else ""

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
    def chosen_augmentation(self) -> Component:
        """The augmentation, that of the data by default."""
        if self.augmentation is not None:
            return self.augmentation
        return components.own("augmentation", DATA[self.data][3] if self.data in DATA else "contrastive")

    @property
    def probe_augmentation(self) -> Component:
        """The augmentation for a probe that trains on augmented images."""
        chosen = self.chosen_augmentation
        return components.own("augmentation", "supervised") if chosen.name in STRONG else chosen


@dataclass(frozen=True, kw_only=True)
class Encoder(Recipe):
    """Options of an encoder that any objective trains.

    objective: component with the role "objective".
    """

    objective: Annotated[Component, "objective"] = SIMCLR

    @property
    def training_objective(self) -> Component:
        """The objective, with its options."""
        return self.objective


@dataclass(frozen=True, kw_only=True)
class Supervised(Recipe):
    """Options of training by cross-entropy.

    refit: replace the network's own classifier by a probe, as contrastive encoders have it.
    """

    OBJECTIVE: ClassVar[str] = "cross-entropy"

    lr: float = 0.05
    refit: bool = False

    @property
    def keeps_head(self) -> bool:
        """Whether a classifier that the objective trains is the model's classifier."""
        return not self.refit

    @property
    def chosen_augmentation(self) -> Component:
        """The augmentation: the paper's for cross-entropy on colour images that may be flipped."""
        chosen = super().chosen_augmentation
        if self.augmentation is not None or chosen.name == "digits" or self.shape[0] != 3:
            return chosen
        return components.own("augmentation", "supervised")


@dataclass(frozen=True, kw_only=True)
class Contrastive(options.SupCon, Recipe):
    """Options of SupCon."""

    OBJECTIVE: ClassVar[str] = "supcon"


@dataclass(frozen=True, kw_only=True)
class SimCLR(options.SimCLR, Recipe):
    """Options of SimCLR."""

    OBJECTIVE: ClassVar[str] = "simclr"


@dataclass(frozen=True, kw_only=True)
class Clusters(options.Clusters, Recipe):
    """Options of two stages: SimCLR, then SupCon from scratch with clusters of SimCLR's features as classes."""

    OBJECTIVE: ClassVar[str] = "clusters"


@dataclass(frozen=True, kw_only=True)
class SwAV(options.SwAV, Recipe):
    """Options of SwAV."""

    OBJECTIVE: ClassVar[str] = "swav"


@dataclass(frozen=True, kw_only=True)
class MoCo(options.MoCo, Recipe):
    """Options of MoCo v2."""

    OBJECTIVE: ClassVar[str] = "moco"


@dataclass(frozen=True, kw_only=True)
class SimSiam(options.SimSiam, Recipe):
    """Options of SimSiam, which has no negatives."""

    OBJECTIVE: ClassVar[str] = "simsiam"


@dataclass(frozen=True, kw_only=True)
class CVRL(options.CVRL, Recipe):
    """Options of CVRL: SimCLR on two clips of a video."""

    OBJECTIVE: ClassVar[str] = "cvrl"

    data: str = "samples/moving-digits"
    network: Network = NARROW


@dataclass(frozen=True, kw_only=True)
class TCLR(options.TCLR, Recipe):
    """Options of TCLR, which contrasts clips of different videos and of different times of a video."""

    OBJECTIVE: ClassVar[str] = "tclr"

    data: str = "samples/moving-digits"
    network: Network = NARROW

    def __post_init__(self) -> None:
        if self.data in DATA and not self.is_video:
            raise ValueError(
                f"TCLR compares clips of videos, but '{self.data}' has images. Try: `data: samples/moving-digits`"
            )
        super().__post_init__()
        self.check_shape(self.shape)


@dataclass(frozen=True, kw_only=True)
class RoCL(options.RoCL, Recipe):
    """Options of RoCL; with `removal`, of A-RoCL."""

    OBJECTIVE: ClassVar[str] = "rocl"


@dataclass(frozen=True, kw_only=True)
class ACL(options.ACL, Recipe):
    """Options of ACL; with `removal`, of A-ACL."""

    OBJECTIVE: ClassVar[str] = "acl"


@dataclass(frozen=True, kw_only=True)
class DynACL(options.DynACL, Recipe):
    """Options of DynACL, a schedule on ACL with a momentum encoder."""

    OBJECTIVE: ClassVar[str] = "dynacl"


def base(recipe: Recipe) -> Recipe | None:
    """Return the recipe of the encoder alone, which recipes share that differ in their probe; None if there is none.

    Recipes that differ in the branch of BatchNorm that a trained encoder uses share it as well.
    """
    if isinstance(recipe, Supervised):
        return replace(recipe, refit=False) if recipe.refit else None
    if recipe.branch_options is None:
        return replace(recipe, probe=None) if recipe.probe is not None else None
    if recipe.probe is None and recipe.branch_options.branch == TwoBranches().branch:
        return None
    if isinstance(recipe, Encoder):
        return replace(recipe, probe=None, objective=_in_default_branch(recipe.objective))
    assert isinstance(recipe, ACL | DynACL)
    return replace(recipe, probe=None, branch=TwoBranches().branch)


def _in_default_branch(objective: Component) -> Component:
    written = {name: value for name, value in objective.options.items() if name != "branch"}
    rest = {name: value for name, value in vars(objective).items() if name not in ("name", "options", "params")}
    return Component(objective.name, written, params=replace(objective.params, branch=TwoBranches().branch), **rest)
