"""Batches of examples, with values that all cells of a model share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from robharness.errors import ContractViolation
from robharness.evaluation.classifier import Classifier, Gradient, Objective
from robharness.evaluation.clips import ClipLayout


class Batch:
    """Examples of one span, as an attack or a corruption sees them. A batch belongs to one model; see `for_model`.

    ids: N texts.
    x: (N, *shape) float32 in [0, 1], the model's input.
    labels: (N,) int64.
    canvas: (N, H, W, 3) uint8, or (N, T, H, W, 3) for videos, on the CPU, if the suite has a canvas.
    clip_layout: for videos that the model sees in clips; `x` then has each of their frames once.
    frames: for videos, (N, T) int64 on the CPU: the numbers, in the whole video, of the frames in `x`.
    """

    def __init__(
        self,
        ids: Sequence[str],
        x: Tensor,
        labels: Tensor,
        canvas: Tensor | None = None,
        clip_layout: ClipLayout | None = None,
        frames: Tensor | None = None,
        _parent: Any = None,
    ) -> None:
        self.ids, self.x, self.labels = tuple(ids), x, labels
        self.clip_layout, self.frames = clip_layout, frames
        self._canvas = canvas
        self._parent: tuple[Batch, Tensor] | None = _parent
        self._memo: dict[Hashable, tuple[Any, list[int]]] = {}  # the value, and its tensors' versions
        self._selections: dict[tuple[int, ...], Batch] = {}
        self._for_models: dict[str, Batch] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_canvas(self) -> bool:
        """Whether the suite has a canvas."""
        return self._canvas is not None

    @property
    def canvas(self) -> Tensor:
        """8-bit images, (N, H, W, 3) uint8, or (N, T, H, W, 3). Raises ContractViolation if the suite has no canvas."""
        if self._canvas is None:
            raise ContractViolation(
                "this suite has no canvas, so there are no 8-bit images; write `canvas: 224` into it"
            )
        return self._canvas

    def cached(self, name: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the value of `compute()`, computed once per batch and name for all cells of the model.

        compute: returns a tensor, or a (named) tuple of tensors, whose first axis is the batch's rows. Nothing may
            write into it.
        A selection takes its rows from the value of the whole batch if that is computed already.
        """
        if name not in self._memo:
            if self._parent is not None and name in self._parent[0]._memo:
                parent, rows = self._parent
                value = _rows_of(parent._memo[name][0], rows)
            else:
                value = compute()
            self._memo[name] = value, [tensor._version for tensor in _tensors(value)]
        return self._memo[name][0]

    def _drop_changed(self) -> bool:
        """Drop cached values that were written into; return whether there were any."""
        changed = [name for name, (value, versions) in self._memo.items()
                   if [tensor._version for tensor in _tensors(value)] != versions]  # fmt: skip
        for name in changed:
            del self._memo[name]
        others = [*self._selections.values(), *self._for_models.values()]
        return any([changed, *[other._drop_changed() for other in others]])

    def logits(self, model: Classifier) -> Tensor:
        """Return the model's logits at the clean point, (N, classes), computed once for all cells."""
        model.require("scores")
        logits: Tensor = self.cached(_LOGITS, lambda: model.logits(self.x))
        return logits

    def features(self, model: Classifier) -> Tensor:
        """Return the representation at the clean point, (N, D), computed once for all cells."""
        model.require("features")
        features: Tensor = self.cached(_FEATURES, lambda: model.features(self.x))
        return features

    def gradient(self, model: Classifier, objective: Objective) -> Gradient:
        """Return the objective's gradient at the clean point, computed once for all cells.

        The objective's condition is the labels; see `Classifier.gradient`.
        """
        model.require("gradient")
        key = (_GRADIENT, objective, model.access)
        gradient: Gradient = self.cached(key, lambda: model.gradient(self.x, self.labels, objective))
        if model.grad_mode_exact and model.access != "features":
            self.cached(_LOGITS, lambda: gradient.logits)
        return gradient

    def for_model(self, model: str) -> Batch:
        """Return the same examples as a batch of another model, with cached values of its own.

        model: its label.
        """
        if model not in self._for_models:
            self._for_models[model] = Batch(self.ids, self.x, self.labels, self._canvas, self.clip_layout, self.frames)
        return self._for_models[model]

    def select(self, rows: Tensor) -> Batch:
        """Return these rows as a batch; the same object at every call for the same rows.

        rows: indices, or a mask, (N,) bool.
        """
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        key = tuple(rows.tolist())
        if key not in self._selections:
            on_cpu, ids = rows.cpu(), [self.ids[row] for row in key]
            canvas = None if self._canvas is None else self._canvas[on_cpu]
            frames = None if self.frames is None else self.frames[on_cpu]
            self._selections[key] = Batch(
                ids, self.x[rows], self.labels[rows], canvas, self.clip_layout, frames, (self, rows)
            )
        return self._selections[key]


_LOGITS, _GRADIENT, _FEATURES = object(), object(), object()
"""Cache keys of the core's values, which no plugin can have."""


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _tensors(part)]


def _rows_of(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    parts = [_rows_of(part, rows) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
