"""Interfaces of the objects that plugins build: attacks, corruptions, data sets, videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """Result of an attack or a corruption with notes.

    x: (N, *shape), as the batch's inputs.
    notes: per-example columns, each of length N, as the spec declares them.
    """

    x: Tensor
    notes: Mapping[str, Tensor | np.ndarray | list[Any]] = field(default_factory=dict)


class Attack(Protocol):
    """An attack that `AttackSpec.build` returns.

    With `AttackSpec.fitted_on`, it has a method `fit(model, batch, eps, rng)` as well, with the arguments of `perturb`.
    It gets the first examples of the data in their fixed order, whatever a suite's limit and the division of the work,
    and returns the attack that is used. It is called once per loaded model, budget and options. What it returns must
    depend on its arguments alone, since several processes may fit the same attack.
    """

    def perturb(self, model: Any, batch: Any, eps: float, rng: Any) -> Tensor | Perturbed:
        """Return inputs within eps of `batch.x`, (N, *shape) in [0, 1], that the model gets wrong if possible."""
        ...


class Corruption(Protocol):
    """A corruption that `CorruptionSpec.build` or `open` returns."""

    def perturb(self, model: None, batch: Any, severity: int, rng: Any) -> Tensor | Perturbed:
        """Return `batch.canvas`, uint8 (N, H, W, 3), corrupted, in the same shape and type."""
        ...


class Dataset(Protocol):
    """An opened data set: stable ids, labels in the spec's label space, images by index.

    An optional attribute `remarks`, a sequence of sentences, tells what a reader of the numbers must know, e.g. that
    files are left out. Each sentence becomes a finding `data-remark` of the plan. Ids are texts that UTF-8 can encode.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int]: ...

    def read(self, index: int) -> np.ndarray | Video:
        """Return the image as uint8 (H, W, 3), with one channel if it is grey; or the video, whose frames are lazy.

        It is called from several threads at once, ahead of the model, and must not draw from global generators.
        Raises `UnreadableExample` for a broken example, which counts as wrong and is named in reports. OSError and
        errors of PIL count as `UnreadableExample`; any other error fails the cells.
        """
        ...


class Video(Protocol):
    """Frames that are decoded on access; an array, uint8 (T, H, W, C), is a Video."""

    def __len__(self) -> int: ...

    def __getitem__(self, frames: Sequence[int]) -> np.ndarray:
        """Return these frames, uint8 (n, H, W, C)."""
        ...
