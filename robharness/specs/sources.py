"""Sources of weights: a file, a download or a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from robharness.specs.protocols import Dataset
from robharness.specs.types import RUNTIME, Params


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

    data: Callable[[Params], Mapping[str, DataRef]] = field(metadata=RUNTIME)
    train: Callable[[TrainingJob], None] = field(metadata=RUNTIME)
    base: Callable[[Params], Params | None] | None = field(default=None, metadata=RUNTIME)
    revision: int = 1

    def __post_init__(self) -> None:
        for key in ("data", "train", "base"):
            if not callable(getattr(self, key)) and (key != "base" or self.base is not None):
                raise ValueError(f"Train: {key}={getattr(self, key)!r} must be a function")
        if type(self.revision) is not int:
            raise ValueError(f"Train: revision={self.revision!r} must be an integer")


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What `Train.train` gets.

    datasets: opened, by role. base: the folder of the artefact that it starts from, or None. folder: it is there, and
    holds what an interrupted attempt left, which the trainer goes on from. device: as torch names it. message: shows a
    sentence. progress: shows how far it is, as often as one likes.
    Under torchrun every process gets the same folder; rank 0 alone writes into it.
    """

    params: Params
    seed: int
    datasets: Mapping[str, Dataset]
    folder: Path
    base: Path | None = None
    device: str
    message: Callable[[str], None]
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
