"""The frozen records that plugins yield: models, attacks, corruptions, data sets, metrics.

A field of a record counts for a cell's identity unless it is marked `field(metadata={"runtime": True})`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from robharness.classifier import Batch, Classifier
    from robharness.rng import ExampleRNG

Norm = Literal["linf", "l2", "l1"]
Access = Literal["gradient", "scores", "decision", "features"]
Randomness = Literal["none", "example", "global"]
Kind = Literal["image", "video"]
Need = Literal["features", "views", "distances"]
Params = Any
"""A frozen, keyword-only dataclass that the plugin owns."""

_RUNTIME = {"runtime": True}
_DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
_RATIONAL = rf"^ *[-+]?{_DECIMAL} *(?:/ *{_DECIMAL} *)?$"
RESERVED = (
    *("position", "example", "label", "prediction", "correct", "margin", "logit_range", "size", "attacked"),
    *("component", "success", "prediction_8bit", "correct_8bit"),
)
"""The columns of a stored outcome, which no note may be called."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")


class Budget(Fraction):
    """A perturbation size or step as an exact rational, shown as it was written.

    Accepts "0.25/255", "8/255", "1e-3", 0.5, 1 and fractions; a float means its shortest decimal form.
    Raises ValueError for anything else, NaN and infinity included.
    """

    text: str

    def __new__(cls, value: str | float | Fraction) -> Budget:
        if not isinstance(value, str | int | float | Fraction):
            raise ValueError(f"{value!r} is not a number such as 0.5 or 8/255")
        try:
            written = str(value)  # as it was written where it is a Budget already
            if not re.fullmatch(_RATIONAL, written):
                raise ValueError
            text = written.replace(" ", "")
            numerator, _, denominator = text.partition("/")
            exact = Fraction(numerator) / Fraction(denominator or 1)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{value!r} is not a number such as 0.5 or 8/255") from None
        self = super().__new__(cls, exact)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Budget({self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Budget, (self.text,))

    def __copy__(self) -> Budget:
        return self

    def __deepcopy__(self, memo: Any) -> Budget:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": _RATIONAL}]}


class _Record:
    """What every record shares: its fields are checked, so that a mistake is a problem of its plugin alone."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            words, fits = _CHECKS.get(item.name, ("", lambda value: True))
            value = getattr(self, item.name)
            if not fits(value) and not (value is None and item.default is None):
                raise ValueError(f"{type(self).__name__}: {item.name}={value!r} must be {words}")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a network takes: float values in [0, 1], without the batch axis.

    shape: (C, H, W) of an image, (C, T, H, W) of a video.
    """

    kind: Kind = "image"
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        axes = {"image": "(C, H, W)", "video": "(C, T, H, W)"}
        if self.kind not in axes:
            raise ValueError(f"InputSpec: kind={self.kind!r} must be one of {', '.join(axes)}")
        sizes = self.shape if isinstance(self.shape, tuple) else ()
        if len(sizes) != axes[self.kind].count(",") + 1 or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise ValueError(f"InputSpec: shape={self.shape!r} must be {axes[self.kind]} for {self.kind}s")


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Which frames of a video a network looks at.

    length: frames of a clip. stride: from one of them to the next; a clip spans length * stride frames. count: clips
    per video: one is in the middle, several begin at equal distances, the first with the video. margin: frames at the
    end of the video in which none of several clips ends. short: how a video that is too short for a clip goes on:
    "mirror" back and forth, "last" with its last frame, "loop" from its beginning. crops: squares along the longer side
    of a frame: 1 in the middle, 3 at both ends, too; each of them makes a clip. aggregation: of the clips' outputs: the
    mean of their "probabilities", or of their "logits".
    """

    length: int
    stride: int = 1
    count: int = 1
    margin: int = 0
    short: Literal["mirror", "last", "loop"] = "mirror"
    crops: Literal[1, 3] = 1
    aggregation: Literal["probabilities", "logits"] = "probabilities"

    def __post_init__(self) -> None:
        for key, least in (("length", 1), ("stride", 1), ("count", 1), ("margin", 0)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise ValueError(f"Clips: {key}={value!r} must be a whole number of at least {least}")
        _one_of_each("Clips", self, short=("mirror", "last", "loop"), crops=(1, 3),
                     aggregation=("probabilities", "logits"))  # fmt: skip

    @property
    def per_video(self) -> int:
        """How many clips are cut out of a video, crops included."""
        return self.count * self.crops


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From the data set's pixels to the network's input, 8 bits in, 8 bits out; mean and std live inside the model.

    resize: length of the shorter side, or (height, width). crop: central, (height, width) or one length. first: which
    of the two comes first. interpolation, antialias: of the resize; with `antialias` as PIL does it. channel_order:
    what the network expects. clips: of videos.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    first: Literal["resize", "crop"] = "resize"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    channel_order: Literal["rgb", "bgr"] = "rgb"
    clips: Clips | None = None

    def __post_init__(self) -> None:
        _one_of_each("Preprocessing", self, interpolation=("nearest", "bilinear", "bicubic"),
                     channel_order=("rgb", "bgr"), first=("resize", "crop"))  # fmt: skip
        for key in ("resize", "crop"):
            value = getattr(self, key)
            lengths = value if isinstance(value, tuple) and len(value) == 2 else (value,)
            if value is not None and not all(type(n) is int and n > 0 for n in lengths):
                raise ValueError(f"Preprocessing: {key}={value!r} must be a length or (height, width), in pixels")
        if not isinstance(self.antialias, bool):
            raise ValueError(f"Preprocessing: antialias={self.antialias!r} must be true or false")
        if self.clips is not None and not isinstance(self.clips, Clips):
            raise ValueError(f"Preprocessing: clips={self.clips!r} must be a Clips")
        by_side = self.first == "resize" and not isinstance(self.resize, tuple)
        if self.clips is not None and self.clips.crops > 1 and not by_side:
            raise ValueError(
                "Preprocessing: three crops need frames whose shorter side is resized, before they are cut"
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of what comes out, where that does not depend on what comes in."""
        crop = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if self.resize is None or (self.first == "resize" and crop is not None):
            return crop
        if isinstance(self.resize, tuple):
            return self.resize
        is_square = self.first == "crop" and crop is not None and crop[0] == crop[1]
        return (self.resize, self.resize) if is_square else None  # else the longer side depends on what comes in


def _one_of_each(what: str, record: object, **allowed: tuple[Any, ...]) -> None:
    for key, values in allowed.items():
        if (value := getattr(record, key)) not in values:
            raise ValueError(f"{what}: {key}={value!r} must be one of {', '.join(map(str, values))}")


@dataclass(frozen=True, kw_only=True)
class File:
    """Weights in a file that is there already.

    path: absolute, or relative to the directory of the installed `package`, or else to the data root.
    sha256: of the file, checked before use, or its first digits. get: the command or page that gets the file.
    """

    path: str
    package: str | None = None
    sha256: str | None = None
    get: str = ""


@dataclass(frozen=True, kw_only=True)
class Download:
    """Weights that a publisher serves; looked for in `<data root>/weights/<name>`.

    url: where they are served. sha256: of the file, checked before use, or the first digits of it; None where nothing
    is published. name: of the file, else the url's last part.
    """

    url: str
    sha256: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataRef:
    """A split of a data set, by the names that a suite gives them, e.g. "mine/digits" and "train"."""

    name: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Train:
    """Weights that are made from data, by a recipe: the model's params and a seed.

    data: params -> the splits that the trainer needs, by role, e.g. {"train": DataRef(name="mine/digits",
    split="train")}. train: it writes `weights.safetensors` into the folder of its `Training`, and whatever else it
    likes, such as `metrics.jsonl`, a JSON object per epoch; what it raises is recorded, and the plugin is named.
    base: params -> those of the training that this one starts from, None without; it has an artefact of its own, which
    all that start from it share. revision: raise it when `train` starts to make other weights.
    """

    data: Callable[[Params], Mapping[str, DataRef]] = field(metadata=_RUNTIME)
    train: Callable[[Training], None] = field(metadata=_RUNTIME)
    base: Callable[[Params], Params | None] | None = field(default=None, metadata=_RUNTIME)
    revision: int = 1

    def __post_init__(self) -> None:
        for key in ("data", "train", "base"):
            if not callable(getattr(self, key)) and (key != "base" or self.base is not None):
                raise ValueError(f"Train: {key}={getattr(self, key)!r} must be a function")
        if type(self.revision) is not int:
            raise ValueError(f"Train: revision={self.revision!r} must be an integer")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What `Train.train` gets.

    datasets: opened, by role. base: the folder of the artefact that it starts from, or None. folder: it is there, and
    holds what an interrupted attempt left, which the trainer goes on from. device: as torch names it. say: shows a
    sentence. progress: shows how far it is, as often as one likes.
    Under torchrun every process gets the same folder; rank 0 alone writes into it.
    """

    params: Params
    seed: int
    datasets: Mapping[str, Dataset]
    folder: Path
    base: Path | None = None
    device: str
    say: Callable[[str], None]
    progress: Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is.

    epoch: how many are done, of `epochs`. loss: now; start: at the beginning; floor: the least it can be, where that is
    known. rate: images per second. left: seconds.
    """

    epoch: int
    epochs: int
    loss: float
    start: float
    floor: float | None = None
    rate: float
    left: float


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Record):
    """A model: how to build it, and all that a fair measurement needs to know about it.

    name: within the plugin, e.g. "resnet50". labels: the label space, which must equal the data set's.
    input: of a video model that of one clip; `preprocessing.clips` says how many a video has.
    build: (params, weights) -> a network that maps float inputs in [0, 1], (N, *input.shape), to logits (N, classes).
        It only loads: it never trains and never downloads. Where several files are declared, or given by a suite,
        `weights` maps their names to paths.
    weights: where the file is, or the files by name, or how to train them; the core resolves them.
    preprocessing: None where the data already have the input's shape. params: the dataclass of options that a suite may
    set. given: params -> those fields of this record that depend on them, e.g. {"input": ...}.
    features: the submodule whose output is the representation.
    expected: published numbers, e.g. {"clean": 0.761}. alternatives: other ways to use the weights that `verify` tries:
    a label -> what a suite would say beside `model:`, e.g. {"BGR": {"preprocessing": {"channel_order": "bgr"}}}.
    revision: raise it when `build` starts to give another network.
    """

    name: str
    summary: str = field(metadata=_RUNTIME)
    input: InputSpec
    labels: str
    build: Callable[[Params, Any], nn.Module] = field(metadata=_RUNTIME)
    weights: File | Download | Train | Mapping[str, File | Download] | None = field(default=None, metadata=_RUNTIME)
    preprocessing: Preprocessing | None = None
    params: type | None = field(default=None, metadata=_RUNTIME)
    given: Callable[[Params], Mapping[str, Any]] | None = field(default=None, metadata=_RUNTIME)
    features: str | None = field(default=None, metadata=_RUNTIME)
    expected: Mapping[str, float] = field(default_factory=dict, metadata=_RUNTIME)
    alternatives: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=_RUNTIME)
    licence: str = field(default="", metadata=_RUNTIME)
    paper: str = field(default="", metadata=_RUNTIME)
    revision: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        clips = self.preprocessing.clips if self.preprocessing else None
        if clips is not None and self.input.kind == "video" and self.input.shape[1] != clips.length:
            frames = f"{self.input.shape[1]} frames in its input and {clips.length} in a clip"
            raise ValueError(f"ModelSpec: {self.name} has {frames}; both are those of one clip")


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """What an attack promises to stay within: a ball of radius eps around the input, and the box [0, 1].

    targeted: it wants a class of its choice instead of any wrong one, and returns the note "target": that class, or -1
    where it wants none.
    """

    norm: Norm
    targeted: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Passes per example that one cell needs, beside the one that judges it.

    forwards: forward passes alone. gradients: forward and backward passes.
    shared_gradients: gradients at the clean point, paid once for all budgets.
    """

    forwards: int = 0
    gradients: int = 0
    shared_gradients: int = 0


@dataclass(frozen=True, kw_only=True)
class AttackSpec(_Record):
    """An attack.

    access: what it may ask of the model: gradients, scores (logits), decisions, or features and their gradients alone.
    params: its options, without eps. threat: what ball it stays in. cost: what it spends, per example.
    build: params -> an `Attack`; for an ensemble, a mapping of names to attacks, each of which gets the examples that
        withstood those before it.
    randomness: "example" draws from the `rng` it is given, "global" from global generators, "none" draws nothing.
    minimal: it looks for the smallest perturbation, so that a suite may leave out eps, which is infinite then.
    ensemble: see `build`; only examples that are right count, and budgets are nested unless a suite says otherwise.
    blocks: params -> whether examples need their neighbours: it gets whole blocks of 16, the same ones in every run.
    advise: (params, eps) -> sentences to show in a plan, e.g. that the steps cannot reach eps; eps None without one.
    notes: per-example columns that it returns in `Perturbed.notes`, name -> int, float, bool or str.
    alarms: the notes whose total a report warns of where it is above 0.
    revision: raise it when the attack starts to give other results.
    """

    name: str
    summary: str = field(metadata=_RUNTIME)
    access: Access = field(metadata=_RUNTIME)
    params: type = field(metadata=_RUNTIME)
    threat: Callable[[Params], ThreatModel] = field(metadata=_RUNTIME)
    cost: Callable[[Params], Cost] = field(metadata=_RUNTIME)
    build: Callable[[Params], Attack | Mapping[str, Attack]] = field(metadata=_RUNTIME)
    randomness: Randomness = "example"
    inputs: frozenset[Kind] = field(default=frozenset({"image", "video"}), metadata=_RUNTIME)
    minimal: bool = field(default=False, metadata=_RUNTIME)
    ensemble: bool = field(default=False, metadata=_RUNTIME)
    blocks: Callable[[Params], bool] | None = field(default=None, metadata=_RUNTIME)
    alarms: tuple[str, ...] = field(default=(), metadata=_RUNTIME)
    advise: Callable[[Params, Budget | None], Sequence[str]] | None = field(default=None, metadata=_RUNTIME)
    notes: Mapping[str, type] = field(default_factory=dict, metadata=_RUNTIME)
    revision: int = 1


@dataclass(frozen=True, kw_only=True)
class CorruptionSpec(_Record):
    """A corruption of 8-bit pictures; the same protocol as an attack, without access to the model.

    group: e.g. "noise"; slopes are given per group. severities: those that a suite may ask for. open: instead of
    `build` for pictures that were corrupted before: (params, data root) -> a `Corruption`, which finds them by id;
    raises `Missing` where they are not there, before anything runs. canvas: their side in pixels, where it is fixed.
    """

    name: str
    summary: str = field(metadata=_RUNTIME)
    group: str = field(metadata=_RUNTIME)
    build: Callable[[Params], Corruption] | None = field(default=None, metadata=_RUNTIME)
    open: Callable[[Params, Path], Corruption] | None = field(default=None, metadata=_RUNTIME)
    canvas: int | None = field(default=None, metadata=_RUNTIME)
    severities: tuple[int, ...] = field(default=(1, 2, 3, 4, 5), metadata=_RUNTIME)
    params: type | None = field(default=None, metadata=_RUNTIME)
    randomness: Randomness = "example"
    inputs: frozenset[Kind] = field(default=frozenset({"image"}), metadata=_RUNTIME)
    notes: Mapping[str, type] = field(default_factory=dict, metadata=_RUNTIME)
    revision: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.build is None) == (self.open is None):
            raise ValueError("CorruptionSpec: one of build and open is needed, and not both")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(_Record):
    """A data set.

    labels: the label space, e.g. "imagenet-1k". splits: empty where any name may be one, of a folder, say. open: (data
    root, split) -> a `Dataset`; raises `Missing` where the data are not there. revision: raise it when the pixels of an
    id change.
    """

    name: str
    summary: str = field(metadata=_RUNTIME)
    labels: str
    splits: tuple[str, ...] = field(metadata=_RUNTIME)
    open: Callable[[Path, str], Dataset] = field(metadata=_RUNTIME)
    kind: Kind = field(default="image", metadata=_RUNTIME)
    licence: str = field(default="", metadata=_RUNTIME)
    paper: str = field(default="", metadata=_RUNTIME)
    revision: int = 1


@dataclass(frozen=True, kw_only=True)
class MetricSpec(_Record):
    """A number per model, computed from stored results.

    compute: `Results` -> {label: value}, where a value is a number or a `Measured`. needs: what a suite that asks for
    it must store beside outcomes. "features": the representation of the clean examples, `Results.features`; models must
    declare `features`. "views": that of the corrupted examples, too, `Results.views`; there must be a corruption.
    "distances": nothing more, but there must be an attack without a budget, `CellResult.distances`.
    """

    name: str
    summary: str
    compute: Callable[[Any], Mapping[str, float | Measured]]
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a metric may give instead of a bare number.

    value: the number that tables show; NaN where there is none, and lacks: why, a warning of the report. details: what
    it is made of, by name, for the JSON report: numbers, texts, None, and lists, mappings and arrays of them; e.g.
    {"by_class": {"0": 0.5, "1": 0.75}}.
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    lacks: str = ""


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """What an attack may return instead of a bare tensor.

    x: (N, *shape), as the batch's. notes: per-example columns, each of length N, as the spec declares them.
    """

    x: Tensor
    notes: Mapping[str, Tensor | np.ndarray | list[Any]] = field(default_factory=dict)


class Attack(Protocol):
    """What `AttackSpec.build` returns."""

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor | Perturbed:
        """Inputs within eps of `batch.x` that the model gets wrong, as far as the attack can; (N, *shape) in [0, 1]."""
        ...


class Corruption(Protocol):
    """What `CorruptionSpec.build` returns."""

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor | Perturbed:
        """`batch.canvas`, uint8 (N, H, W, 3), corrupted: the same shape and type."""
        ...


class Dataset(Protocol):
    """An opened data set: stable ids, labels in the spec's label space, pictures by index."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int]: ...

    def read(self, index: int) -> np.ndarray | Video:
        """The picture as uint8 (H, W, 3); grey ones have one channel. Or the video, of which few frames are wanted.

        Called from several threads at once, ahead of the model; so it must not draw from global generators. Raises
        `Unreadable` for a broken one, which is then left out, counted and named.
        """
        ...


class Video(Protocol):
    """Frames that are decoded when they are asked for; an array, uint8 (T, H, W, C), is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, frames: Sequence[int]) -> np.ndarray:
        """These frames, uint8 (n, H, W, C)."""
        ...


Spec = ModelSpec | AttackSpec | CorruptionSpec | DatasetSpec | MetricSpec

Check = tuple[str, Callable[[Any], bool]]


def _a(words: str, *types: type) -> Check:
    return words, lambda value: isinstance(value, types)


def _one_of(literal: Any) -> Check:
    return f"one of {', '.join(get_args(literal))}", lambda value: value in get_args(literal)


_FUNCTION: Check = ("a function", callable)
_CHECKS: dict[str, Check] = {
    "name": ("lower-case letters, digits and . _ - /", lambda v: isinstance(v, str) and bool(_NAME.fullmatch(v))),
    "summary": _a("a text", str),
    "labels": _a("a text", str),
    "group": _a("a text", str),
    "revision": _a("an integer", int),
    "input": _a("an InputSpec", InputSpec),
    "weights": (
        "a File, a Download or a Train, or Files and Downloads by name",
        lambda v: (
            isinstance(v, Train)
            or all(isinstance(part, File | Download) for part in (v.values() if isinstance(v, Mapping) else [v]))
        ),
    ),
    "preprocessing": _a("a Preprocessing", Preprocessing),
    "severities": _a("a tuple", tuple),
    **dict.fromkeys(("splits", "alarms"), _a("a tuple", tuple)),
    "needs": (
        f"a set of {', '.join(get_args(Need))}",
        lambda v: isinstance(v, frozenset | set) and v <= set(get_args(Need)),
    ),
    "inputs": ("a set of image and video", lambda v: isinstance(v, frozenset | set) and v <= set(get_args(Kind))),
    "params": ("a dataclass", lambda v: isinstance(v, type) and is_dataclass(v)),
    "access": _one_of(Access),
    "randomness": _one_of(Randomness),
    "kind": _one_of(Kind),
    "notes": (
        f"a mapping of names to int, float, bool or str, none of them {', '.join(RESERVED)}",
        lambda v: isinstance(v, Mapping) and not set(v) & set(RESERVED) and set(v.values()) <= {int, float, bool, str},
    ),
    **dict.fromkeys(("minimal", "ensemble"), _a("true or false", bool)),
    **dict.fromkeys(("build", "threat", "cost", "open", "compute", "advise", "blocks", "given"), _FUNCTION),
}
