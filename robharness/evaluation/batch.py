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
    """Examples of one span, as an attack or a corruption sees them.

    x: (N, *shape) float32 in [0, 1], the model's input. labels: (N,) int64. ids: N texts.
    canvas: (N, H, W, 3) uint8, or (N, T, H, W, 3) of videos, on the CPU, where the suite has a canvas. cut: of videos
    that are looked at in clips; x has each of their frames once. frames: of videos, (N, T) int64 on the CPU, the
    numbers in the video of the frames that are there. A batch belongs to one model; see `for_model`.
    """

    def __init__(
        self,
        ids: Sequence[str],
        x: Tensor,
        labels: Tensor,
        canvas: Tensor | None = None,
        cut: ClipLayout | None = None,
        frames: Tensor | None = None,
        _parent: Any = None,
    ) -> None:
        self.ids, self.x, self.labels, self.cut, self.frames = tuple(ids), x, labels, cut, frames
        self._canvas = canvas
        self._parent: tuple[Batch, Tensor] | None = _parent
        self._memo: dict[Hashable, tuple[Any, list[int]]] = {}  # the value, and its tensors' versions
        self._selections: dict[tuple[int, ...], Batch] = {}
        self._twins: dict[str, Batch] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_canvas(self) -> bool:
        return self._canvas is not None

    @property
    def canvas(self) -> Tensor:
        if self._canvas is None:
            raise ContractViolation(
                "this suite has no canvas, so there are no 8-bit pictures; write `canvas: 224` into it"
            )
        return self._canvas

    def cached(self, name: Hashable, compute: Callable[[], Any]) -> Any:
        """The value of `compute()`, computed once per batch and name, for all cells of the model.

        compute: returns a tensor, or a (named) tuple of tensors, whose first axis is the batch's rows; nobody writes
        into it. A selection takes its rows from the whole batch's value where that is there already.
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
        """Forget what somebody wrote into of all that `cached` keeps; whether there was any."""
        changed = [name for name, (value, versions) in self._memo.items()
                   if [tensor._version for tensor in _tensors(value)] != versions]  # fmt: skip
        for name in changed:
            del self._memo[name]
        others = [*self._selections.values(), *self._twins.values()]
        return any([changed, *[other._drop_changed() for other in others]])

    def logits(self, model: Classifier) -> Tensor:
        """The model's logits at the clean point, (N, classes), computed once for all cells."""
        model.require("scores")
        logits: Tensor = self.cached(_LOGITS, lambda: model.logits(self.x))
        return logits

    def features(self, model: Classifier) -> Tensor:
        """The representation at the clean point, (N, D), computed once for all cells."""
        model.require("features")
        features: Tensor = self.cached(_FEATURES, lambda: model.features(self.x))
        return features

    def gradient(self, model: Classifier, objective: Objective) -> Gradient:
        """The objective's gradient at the clean point, computed once for all cells; see `Classifier.gradient`."""
        model.require("gradient")
        of = (_GRADIENT, objective, model.access)
        gradient: Gradient = self.cached(of, lambda: model.gradient(self.x, self.labels, objective))
        if model.grad_mode_exact and model.access != "features":
            self.cached(_LOGITS, lambda: gradient.logits)
        return gradient

    def for_model(self, model: str) -> Batch:
        """The same examples for another model, by its label: what is computed once is computed once for each."""
        if model not in self._twins:
            self._twins[model] = Batch(self.ids, self.x, self.labels, self._canvas, self.cut, self.frames)
        return self._twins[model]

    def select(self, rows: Tensor) -> Batch:
        """These rows (indices, or a mask) as a batch of their own; the same one whenever they are asked for again."""
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        mark = tuple(rows.tolist())
        if mark not in self._selections:
            at, ids = rows.cpu(), [self.ids[row] for row in mark]
            canvas = None if self._canvas is None else self._canvas[at]
            frames = None if self.frames is None else self.frames[at]
            self._selections[mark] = Batch(ids, self.x[rows], self.labels[rows], canvas, self.cut, frames, (self, rows))
        return self._selections[mark]


_LOGITS, _GRADIENT, _FEATURES = object(), object(), object()
"""Keys of what the core shares, which nobody else has."""


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _tensors(part)]


def _rows_of(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    parts = [_rows_of(part, rows) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
