"""Batches of examples, with values that all cells of a model share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from robharness.errors import ContractViolation
from robharness.evaluation.classifier import Classifier, Gradient, Objective
from robharness.evaluation.clips import ClipLayout
from robharness.evaluation.modes import Modes
from robharness.evaluation.tensors import other_than_plain, same_values
from robharness.specs.types import Access


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
        self._memo: dict[Hashable, Any] = {}
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

        compute: returns a tensor, or a (named) tuple of tensors, whose first axis is the batch's rows.
        A selection takes its rows from the value of the whole batch if that is computed already.
        """
        if name not in self._memo:
            if self._parent is not None and name in self._parent[0]._memo:
                parent, rows = self._parent
                self._memo[name] = _mapped(parent._memo[name], lambda tensor: tensor[rows])
            else:
                self._memo[name] = compute()
        return self._memo[name]

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
        return self._gradient(model, objective)

    def _gradient(self, model: Classifier, objective: Objective, owner: str = "") -> Gradient:
        """Return the gradient at the clean point.

        owner: the namespace of the plugin whose objective it is, if other plugins may have an equal one.
        """
        model.require("gradient")
        key = (_GRADIENT, objective, owner, model.access)
        gradient: Gradient = self.cached(key, lambda: model.gradient(self.x, self.labels, objective))
        if model.grad_mode_exact and model.access != "features":
            self.cached(_LOGITS, lambda: gradient.logits)
        return gradient

    def for_model(self, model: str) -> Batch:
        """Return the same examples as a batch of another model, with cached values of its own.

        model: its label, or the name of an ensemble.
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


class LentBatch(Batch):
    """A batch as a plugin gets it for one call: its tensors are copies, and so are cached values.

    What the plugin writes into them, now or later, reaches no other call. Its own cached values are kept apart from
    those of other plugins.

    batch: the core's own batch.
    namespace: of the plugin.
    model: the core's own model, which computes the values that all cells share.
    modes: of torch, in which it computes them, whatever the plugin has set.
    is_intact: whether the model is unchanged at the moment, so that what it computes may be shared; its argument says
        whether to compare the weights by value.
    whole: the batch that this one is a selection of.
    """

    _lender: Batch
    _namespace: str
    _model: Classifier | None
    _modes: Modes
    _is_intact: Callable[[bool], bool] | None
    _copies: dict[str, Tensor]
    _lent: dict[int, LentBatch]
    _counted: set[Hashable]
    _whole: LentBatch | None

    def __init__(
        self,
        batch: Batch,
        namespace: str,
        model: Classifier | None,
        modes: Modes,
        is_intact: Callable[[bool], bool] | None = None,
        whole: LentBatch | None = None,
    ) -> None:
        vars(self).update(
            ids=batch.ids, clip_layout=batch.clip_layout, _lender=batch, _namespace=namespace, _model=model,
            _modes=modes, _is_intact=is_intact, _copies={}, _lent={}, _counted=set(), _whole=whole,
        )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        raise ContractViolation(f"it sets `{name}` of the batch. Try: a variable of its own")

    def _copy(self, name: str) -> Any:
        """Return a copy of a tensor of the batch, the same one at every call; None if the batch has none."""
        original = getattr(self._lender, name)
        if name not in self._copies and original is not None:
            with torch.inference_mode(False):
                self._copies[name] = original.clone()
        return self._copies.get(name)

    @property
    def x(self) -> Tensor:  # type: ignore[override]
        """(N, *shape) float32 in [0, 1], the model's input."""
        x: Tensor = self._copy("x")
        return x

    @property
    def labels(self) -> Tensor:  # type: ignore[override]
        """(N,) int64."""
        labels: Tensor = self._copy("labels")
        return labels

    @property
    def frames(self) -> Tensor | None:  # type: ignore[override]
        """For videos, (N, T) int64 on the CPU."""
        frames: Tensor | None = self._copy("frames")
        return frames

    @property
    def _canvas(self) -> Tensor | None:  # type: ignore[override]
        canvas: Tensor | None = self._copy("_canvas")
        return canvas

    @property
    def has_canvas(self) -> bool:
        return self._lender.has_canvas

    def changes(self) -> list[str]:
        """Return the names of the tensors whose copies the plugin wrote into."""
        names = {"x": "input", "_canvas": "canvas"}
        return [f"the batch's {names.get(name, name)}" for name, copy in self._copies.items()
                if not same_values(copy.detach(), getattr(self._lender, name))]  # fmt: skip

    def cached(self, name: Hashable, compute: Callable[[], Any]) -> Any:
        made: list[Any] = []

        def once() -> Any:
            before = self._rows.copy()
            made.append(compute())
            spent = [(self._rows[kind] - before[kind]) / len(self) for kind in _KINDS]
            return _copied(made[0]), torch.tensor([spent], dtype=torch.float64).repeat(len(self), 1)

        key = self._namespace, name
        value, spent = self._lender.cached(key, once)
        is_first = self._is_first(key)
        if made:
            return made[0]
        if is_first:  # passes that another cell made for a value count for every cell that uses the value
            self._rows.update(dict(zip(_KINDS, spent.sum(0).tolist(), strict=True)))
        return _copied(value)

    def logits(self, model: Classifier) -> Tensor:
        own = self._own(model, "scores", _LOGITS)
        if own is None:
            return model.logits(self.x)
        logits: Tensor = self._shared(_LOGITS, lambda: self._lender.logits(own))
        return logits

    def features(self, model: Classifier) -> Tensor:
        own = self._own(model, "features", _FEATURES)
        if own is None:
            return model.features(self.x)
        features: Tensor = self._shared(_FEATURES, lambda: self._lender.features(own))
        return features

    def gradient(self, model: Classifier, objective: Objective) -> Gradient:
        owner = "" if isinstance(objective, FunctionType) else self._namespace  # a function equals itself alone
        key = _GRADIENT, objective, owner, model.access
        own = self._own(model, "gradient", key)
        if own is None:
            return model.gradient(self.x, self.labels, objective)
        gradient: Gradient = self._shared(key, lambda: self._lender._gradient(own, objective, owner))
        if self._is_first(key):
            self._rows["gradients"] += len(self)
        return gradient

    @property
    def _rows(self) -> Counter[str]:
        """The rows that were requested from the core's own model."""
        return Counter() if self._model is None else self._model.rows

    def _is_first(self, key: Hashable) -> bool:
        """Return whether this call of the plugin asks for a value for the first time, and not for rows of it again."""
        if key in self._counted or (self._whole is not None and key in self._whole._counted):
            return False
        self._counted.add(key)
        return True

    def _own(self, model: Classifier, needed: Access, key: Hashable) -> Classifier | None:
        """Return the core's own model with the access of a model that a plugin holds.

        None for another model, such as a wrapper, and while the network is changed, e.g. by a hook for the time of the
        call: then passes are the plugin's own affair. A value that is computed now is shared, so that weights are
        compared as well.
        """
        if self._model is None or not self._model.has_same_passes(model):
            return None
        own = self._model.with_access(model.access)
        own.require(needed)
        is_new = key not in self._lender._memo
        return own if self._is_intact is None or self._is_intact(is_new) else None

    def _shared(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return a copy of a value that the core's model computes and the lender keeps under this key."""
        if key not in self._lender._memo:
            rows = self._rows.copy()
            with self._modes.again():
                compute()
            self._rows.clear()
            self._rows.update(rows)
        return _copied(self._lender._memo[key])

    def for_model(self, model: str) -> Batch:
        return LentBatch(self._lender.for_model(model), self._namespace, None, self._modes)

    def select(self, rows: Tensor) -> Batch:
        selection = self._lender.select(rows)
        if id(selection) not in self._lent:
            self._lent[id(selection)] = LentBatch(
                selection, self._namespace, self._model, self._modes, self._is_intact, self
            )
        return self._lent[id(selection)]


_KINDS = ("forwards", "gradients")
"""The kinds of requested rows; see `Classifier`."""
_LOGITS, _GRADIENT, _FEATURES = object(), object(), object()
"""Cache keys of the core's values, which no plugin can have."""


def _copied(value: Any) -> Any:
    """Return a copy of a value that is shared. Raises ContractViolation for other values than tensors and tuples."""

    def copy(tensor: Any) -> Tensor:
        if (other := other_than_plain(tensor)) is not None:
            raise ContractViolation(f"its `cached` value holds {other}, not dense tensors or tuples of them")
        copied: Tensor = tensor.detach().clone()
        return copied

    with torch.inference_mode(False):
        return _mapped(value, copy)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tensor, or a (named) tuple of tensors, with all its tensors changed."""
    if not isinstance(value, tuple):
        return change(value)
    parts = [_mapped(part, change) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
