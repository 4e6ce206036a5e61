"""Sources of weights: a file, or a training with its data; `robharness.specs.published` has the downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness.errors import for_shell
from robharness.specs.lazy import resolve_targets
from robharness.specs.protocols import Dataset
from robharness.specs.published import Conversion, Page, check_sha256, check_texts
from robharness.specs.references import Encoder
from robharness.specs.types import RUNTIME, Kind, Params

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class File:
    """Weights in an existing file.

    path: absolute, or relative to the directory of the installed `package`, or else to the data root.
    package: name of the installed package whose directory `path` is relative to.
    sha256: of the file, or its first digits; checked before use.
    get: command that gets the file. In it, `{path}` is replaced by its path and `{folder}` by its folder, quoted for a
        shell.
    origin: the conversion that makes the file, or the page where a person gets it; in place of `get`.
    """

    path: str
    package: str | None = None
    sha256: str | None = None
    get: str = ""
    origin: Conversion | Page | None = None

    def __post_init__(self) -> None:
        check_texts(self, path=True, package=self.package is not None, get=False)
        check_sha256(self)
        if self.origin is not None and (not isinstance(self.origin, Conversion | Page) or self.get or self.package):
            raise ValueError(f"File: origin={self.origin!r} must be a Conversion or a Page, without `get` or `package`")

    def hint(self, path: Path) -> str:
        """Return the sentence about how a person gets the file; empty if nothing is known.

        path: place of the file.
        """
        if self.origin is not None:
            return self.origin.hint(path)
        command = self.get.replace("{path}", for_shell(path)).replace("{folder}", for_shell(path.parent))
        return f"To get it: {command}" if command else ""


@dataclass(frozen=True, kw_only=True)
class DataRef:
    """A split of a data set; also the type of an option, as in `data: DataRef`.

    In a suite, such an option is the name of a data set, or a mapping with the name, `split`, `limit` and the data
    set's own options: `{name: mine/table, file: ./train.csv}`. The core resolves it before the plugin sees it.

    name: full name of the data set, e.g. "mine/digits".
    split: name of the split, e.g. "train"; if empty, the data set's only split, or the one called "train".
    limit: number of examples, the first ones of the fixed order; None for all.
    options: options of the data set, as a suite writes them.
    resolved: the data set with its options; set by the core.
    """

    name: str
    split: str = ""
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    resolved: Any = field(default=None, repr=False, compare=False, metadata=RUNTIME)

    def __post_init__(self) -> None:
        check_texts(self, name=True)
        if not isinstance(self.split, str):
            raise ValueError(f"DataRef: split={self.split!r} must be a text")
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ValueError(f"DataRef: limit={self.limit!r} must be a whole number of at least 1")

    @property
    def labels(self) -> str:
        """Label space of the data set. Raises ValueError before the core has resolved it."""
        return str(self._spec.labels)

    @property
    def classes(self) -> int | None:
        """Number of classes of the label space; None if only the opened data show it."""
        classes: int | None = self._spec.known_classes
        return classes

    @property
    def kind(self) -> Kind:
        """Kind of the examples, "image" or "video"."""
        kind: Kind = self._spec.kind
        return kind

    @property
    def _spec(self) -> Any:
        if self.resolved is None:
            raise ValueError(f"the data {self.name} are not resolved; only a suite resolves them")
        return self.resolved.entry.spec

    def __str__(self) -> str:
        return f"{self.name}/{self.split}" if self.split else self.name

    def __copy__(self) -> DataRef:
        return self

    def __deepcopy__(self, memo: Any) -> DataRef:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def read(value: Any) -> DataRef:
            if isinstance(value, DataRef):
                return value
            if isinstance(value, str) and value:
                return cls(name=value)
            if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
                raise ValueError("data are the name of a data set, or a mapping such as {name: NAME}")
            known = {key: value[key] for key in ("name", "split", "limit") if value.get(key) is not None}
            return cls(**known, options={key: item for key, item in value.items() if key not in _KEYS_OF_DATA})

        return core_schema.no_info_plain_validator_function(read)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        keys = {"name": {"type": "string"}, "split": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}}
        return {"anyOf": [{"type": "string"}, {"type": "object", "properties": keys, "required": ["name"]}]}


_KEYS_OF_DATA = ("name", "split", "limit")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Weights that a suite trains from data, by a recipe of the model's params and a seed.

    data: params -> the splits that the training needs, by role, e.g. {"train": DataRef(name="mine/digits",
        split="train")}.
    train: writes `weights.safetensors` into the folder of its `TrainingJob`, and any other files, such as
        `metrics.jsonl` with a JSON object per epoch. An exception fails the training and names the plugin.
    base: params -> the params of the training that this one starts from, or None. The base has an artefact of its own,
        which all trainings that start from it share.
    inputs: params -> the other files or folders that the training reads, by role, e.g. {"encoder": params.encoder}.
        They count by their content; one that is missing is named before anything runs.
    features: params -> the encoder whose features of all `data` the training needs, or None. The core computes them
        once for all trainings that need the same ones.
    revision: raise it when `train` starts to make other weights; params -> revision if they change with some options
        alone.
    """

    data: Callable[[Params], Mapping[str, DataRef]] | str = field(metadata=RUNTIME)
    train: Callable[[TrainingJob], None] | str = field(metadata=RUNTIME)
    base: Callable[[Params], Params | None] | str | None = field(default=None, metadata=RUNTIME)
    inputs: Callable[[Params], Mapping[str, File | Path]] | str | None = field(default=None, metadata=RUNTIME)
    features: Callable[[Params], Encoder | None] | str | None = field(default=None, metadata=RUNTIME)
    revision: Callable[[Params], int] | str | int = 1

    def __post_init__(self) -> None:
        functions = ("data", "train", "base", "inputs", "features")
        resolve_targets(self, (*functions, "revision"))
        for key in functions:
            is_absent = key in ("base", "inputs", "features") and getattr(self, key) is None
            if not is_absent and not callable(getattr(self, key)):
                raise ValueError(f"Train: {key}={getattr(self, key)!r} must be a function or 'module:function'")
        if type(self.revision) is not int and not callable(self.revision):
            raise ValueError(f"Train: revision={self.revision!r} must be an integer, a function or 'module:function'")


@dataclass(frozen=True, kw_only=True)
class FeatureBank:
    """Features of the examples of a split, as an encoder gives them in evaluation.

    features: (N, D) float32, mapped from a file: not to be written to.
    labels: (N,) int64.
    ids: of the examples; those that cannot be read are left out.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Input of `Train.train`. Under torchrun all processes get the same folder; only rank 0 writes into it.

    params: the model's options.
    seed: seed of this run.
    datasets: opened data sets, by role.
    folder: existing folder with the files of an interrupted attempt, from which the training resumes.
    base: folder of the artefact that the training starts from, or None.
    inputs: the declared files, by role.
    features: the features that `Train.features` asks for, by role of the data.
    device: as torch names it.
    message: shows a sentence.
    progress: shows the progress; may be called at any rate.
    """

    params: Params
    seed: int
    datasets: Mapping[str, Dataset]
    folder: Path
    base: Path | None = None
    inputs: Mapping[str, Path] = field(default_factory=dict)
    features: Mapping[str, FeatureBank] = field(default_factory=dict)
    device: str
    message: Callable[[str], None]
    progress: Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a training, or of another long computation.

    epoch: number of epochs, or of other units, that are done.
    epochs: number of all of them.
    unit: name of the unit.
    loss: current loss; None for a computation that minimises none.
    start: loss at the beginning.
    floor: lowest possible loss, if it is known.
    rate: images per second.
    left: remaining seconds.
    """

    epoch: int
    epochs: int
    unit: str = "epoch"
    loss: float | None = None
    start: float | None = None
    floor: float | None = None
    rate: float
    left: float
