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
    """What an attack may return instead of a bare tensor.

    x: (N, *shape), as the batch's. notes: per-example columns, each of length N, as the spec declares them.
    """

    x: Tensor
    notes: Mapping[str, Tensor | np.ndarray | list[Any]] = field(default_factory=dict)


class Attack(Protocol):
    """What `AttackSpec.build` returns."""

    def perturb(self, model: Any, batch: Any, eps: float, rng: Any) -> Tensor | Perturbed:
        """Inputs within eps of `batch.x` that the model gets wrong, as far as the attack can; (N, *shape) in [0, 1]."""
        ...


class Corruption(Protocol):
    """What `CorruptionSpec.build` returns."""

    def perturb(self, model: None, batch: Any, severity: int, rng: Any) -> Tensor | Perturbed:
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
