"""The model as attacks see it: frozen, in eval mode, counted, and passed through in one fixed shape.

Rows of a pass of fixed shape come out bit-identical whatever their position and neighbours; with another shape they
do not. So all passes have the same shape, the last one padded, and an example's outcome depends on itself alone.
Trade-off: the padding is computed and thrown away, at most one pass's worth a call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robharness.errors import Violation
from robharness.specs import Access, Clips

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, classes) float32, what is known of the rows (N, ...)) -> one value per row, (N,), to be climbed.

Known of a row is its label, as a rule. For a holder with access "features", features (N, D) stand for logits.
"""

_MAY: dict[Access, tuple[Access, ...]] = {
    "decision": ("decision",),
    "scores": ("decision", "scores"),
    "gradient": ("decision", "scores", "gradient"),
    "features": ("features", "gradient"),
}
"""What a holder may ask for; the gradients of one with access to features are those of features."""


class NoGradient(Violation):
    """A model whose logits do not depend on its input in a way that autograd can follow."""


class Gradient(NamedTuple):
    """values: the objective, (N,) float32. gradient: of the objective with respect to the input, as the input.

    logits: (N, classes) float32, of the pass that the gradient came from; for access "features" the features, (N, D).
    """

    values: Tensor
    gradient: Tensor
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a video's clips are cut out of the frames that are perturbed, each of which is there once.

    frames: of each clip, indices of frames. corners: (top, left) of the squares that are cut out of every frame; none
    where frames have the network's size already. size: (height, width) of these. aggregation: as of `Clips`.
    """

    frames: tuple[tuple[int, ...], ...]
    corners: tuple[tuple[int, int], ...] = ()
    size: tuple[int, ...]
    aggregation: str = "probabilities"

    @classmethod
    def apart(cls, clips: Clips, shape: Sequence[int]) -> Cut:
        """Clips that have no frame in common. shape: (C, T, H, W) of one."""
        length = shape[1]
        frames = tuple(tuple(range(start * length, (start + 1) * length)) for start in range(clips.count))
        corners = ((0, 0),) * clips.crops if clips.crops > 1 else ()
        return cls(frames=frames, corners=corners, size=tuple(shape[-2:]), aggregation=clips.aggregation)

    @property
    def n_frames(self) -> int:
        """How many frames there are to be perturbed."""
        return 1 + max(frame for clip in self.frames for frame in clip)

    @property
    def n_clips(self) -> int:
        return len(self.frames) * (len(self.corners) or 1)

    def clips(self, x: Tensor) -> Tensor:
        """(N, C, n_frames, H, W) -> (N * n_clips, C, T, height, width), example by example.

        The parts of a frame's gradient add up in the clips' order, on a GPU as well, where `index_select` has none.
        """
        frames = x.unbind(2)
        clips = [torch.stack([frames[frame] for frame in clip], 2) for clip in self.frames]
        if self.corners:
            height, width = self.size
            clips = [clip[..., top : top + height, left : left + width] for clip in clips for top, left in self.corners]
        return torch.stack(clips, 1).flatten(0, 1)

    def together(self, outputs: Tensor) -> Tensor:
        """The logits of the videos, (N, classes), from those of their clips, (N * n_clips, classes).

        Of probabilities the mean is taken in logarithms, so that these are logits as any others.
        """
        each = outputs.view(-1, self.n_clips, *outputs.shape[1:])
        if self.n_clips > 1 and self.aggregation == "probabilities":
            each = each.log_softmax(2)
            return each.logsumexp(1) - math.log(self.n_clips)
        return each.mean(1)


class Classifier:
    """The only way through the network.

    net: maps float inputs in [0, 1], (N, *shape), to logits (N, classes). rows: the fixed number of rows of a pass.
    features: the submodule whose output is the representation. gradient_dtype: a lower precision for the passes that
    gradients come from; `rough` says whether there is one. compiled: passes go through `torch.compile`.
    access: what the holder may ask for; see `restricted`. grad_mode_exact: whether logits are bit-identical in a pass
    that records gradients (a probe sets it), so that one pass can serve both. classes: seen in the first pass.
    passes: how many passes of `rows` rows were made, {"forward": ..., "backward": ...}; a gradient is one of each.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        rows: int,
        device: torch.device | str = "cpu",
        features: str | None = None,
        gradient_dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.net = net.to(self.device).eval().requires_grad_(False)
        self._formats = _memory_formats(self.device, low=gradient_dtype is not None)
        for parameter in self.net.parameters():
            if parameter.ndim in self._formats:
                parameter.data = parameter.data.contiguous(memory_format=self._formats[parameter.ndim])
        self.rows = rows
        self.grad_mode_exact = False
        self.rough = gradient_dtype is not None
        self.memory_format = torch.contiguous_format  # until the first pass shows what inputs are
        self._gradient_dtype = gradient_dtype
        self._features = features
        self._call: Callable[[Tensor], Any] = torch.compile(self.net, dynamic=False) if compiled else self.net
        self.classes = 0
        self._takes: tuple[tuple[int, ...], torch.dtype] | None = None
        self._cut: Cut | None = None
        self.access: Access = "gradient"
        self.passes: Counter[str] = Counter()

    def restricted(self, access: Access) -> Classifier:
        """The same network and counters, through a smaller window."""
        other = object.__new__(Classifier)
        other.__dict__.update(self.__dict__)
        other.access = access
        return other

    def viewing(self, batch: Batch) -> Classifier:
        """The same network and counters, for examples such as these: inputs are cut into clips as they are."""
        if batch.cut is None:
            return self
        other = self.restricted(self.access)
        other._cut, other._takes = batch.cut, (tuple(batch.x.shape[1:]), batch.x.dtype)
        return other

    def decisions(self, x: Tensor) -> Tensor:
        """Predicted classes, (N,) int64, for x (N, *shape); -1 where the logits are not numbers."""
        self.require("decision")
        return predictions(self._outputs(x))

    def logits(self, x: Tensor) -> Tensor:
        """Logits, (N, classes) float32, for x (N, *shape). Raises Violation for a holder with access "decision"."""
        self.require("scores")
        return self._outputs(x)

    def features(self, x: Tensor) -> Tensor:
        """The representation, (N, D) float32, for x (N, *shape). Raises Violation without access "features"."""
        self.require("features")
        return self._outputs(x)

    def judged(self, x: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """The logits of a gradient pass at x, with those of `rows`, (N,) bool, as the judge would see them.

        Where gradients have the judge's precision these are the same, and no pass is made. An attack that ends a row's
        search because it is fooled asks this first.
        """
        if not self.rough or not rows.any():
            return logits
        return logits.index_put((rows,), self.logits(x[rows]))

    def gradient(self, x: Tensor, about: Tensor, objective: Objective) -> Gradient:
        """The objective, its gradient with respect to x and the logits, for x (N, *shape) and `about`, (N, ...).

        about: what the objective must know of each row, labels (N,) as a rule. The objective of a row must depend on
        that row alone: the gradient is that of the sum over the rows.
        Raises Violation for a holder without access to gradients.
        """
        self.require("gradient")
        values, gradients, logits = [], torch.empty_like(x), []
        padded = torch.cat([about, about[:1].expand(-len(about) % self.rows, *about.shape[1:])])
        for start, chunk in self._chunks(x):
            kept = min(self.rows, len(x) - start)
            chunk = chunk.detach().requires_grad_(True)
            with torch.enable_grad():  # the objective sees whole passes, too: its kernels may depend on their shape
                with torch.autocast(self.device.type, self._gradient_dtype, enabled=self.rough):
                    outputs = self._forward(chunk)
                if not outputs.requires_grad:
                    raise NoGradient("it gives no gradient with respect to its input", by="model")
                value = objective(outputs, padded[start : start + self.rows])
                (gradient,) = torch.autograd.grad(value.sum(), chunk)
            self.passes["backward"] += 1
            values.append(value.detach()[:kept])
            logits.append(outputs.detach()[:kept])
            gradients[start : start + kept] = gradient[:kept]
        return Gradient(torch.cat(values), gradients, torch.cat(logits))

    def _outputs(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._forward(chunk)[: len(x) - start] for start, chunk in self._chunks(x)])

    def _forward(self, chunk: Tensor) -> Tensor:
        """Logits, or for a holder with access to them features, of one pass."""
        self.passes["forward"] += 1
        try:
            inputs = chunk if self._cut is None else _laid_out(self._cut.clips(chunk), self.memory_format)
            outputs = self._represent(inputs) if self.access == "features" else self._call(inputs)
        except Exception as error:
            raise Violation(f"its forward pass failed: {type(error).__name__}: {error}", by="model") from error
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise Violation(f"it must return logits of shape ({len(inputs)}, classes), it returned {shape}", by="model")
        if self.access == "features":
            return outputs.float().view(len(chunk), -1, outputs.shape[1]).mean(1)
        self.classes = outputs.shape[1]
        return outputs.float() if self._cut is None else self._cut.together(outputs.float())

    def _represent(self, chunk: Tensor) -> Tensor:
        """The output of the submodule, flat; the rest of the pass is made for nothing, a head as a rule."""
        if self._features is None:
            raise Violation("it declares no `features`", by="model")
        seen: list[Tensor] = []
        module = self.net.get_submodule(self._features)
        with module.register_forward_hook(lambda module, inputs, output: seen.append(output)):
            self.net(chunk)
        return seen[-1].flatten(1)

    def _chunks(self, x: Tensor) -> list[tuple[int, Tensor]]:
        self._takes = self._takes or (tuple(x.shape[1:]), x.dtype)  # as the first pass, which the core makes
        shape, dtype = self._takes
        if len(x) == 0 or x.dtype != dtype or tuple(x.shape[1:]) != shape or not self._is_here(x):
            raise Violation(
                f"it asked for a pass with {tuple(x.shape)} {x.dtype} on {x.device}; the model takes "
                f"(N, {', '.join(map(str, shape))}) {dtype} on {self.device}, N at least 1"
            )
        chunks = [(start, x[start : start + self.rows]) for start in range(0, len(x), self.rows)]
        start, last = chunks[-1]
        if len(last) < self.rows:
            padding = last[:1].expand(self.rows - len(last), *last.shape[1:])
            chunks[-1] = (start, torch.cat([last, padding]))
        self.memory_format = self._formats.get(x.ndim, torch.contiguous_format)
        as_it_is = (
            self.memory_format if self._cut is None else torch.contiguous_format
        )  # clips are laid out by themselves
        return [(start, _laid_out(chunk.detach(), as_it_is)) for start, chunk in chunks]

    def _is_here(self, x: Tensor) -> bool:
        return x.device.type == self.device.type and self.device.index in (None, x.device.index)

    def require(self, needed: Access) -> None:
        """Raises Violation for a holder who may not ask for this."""
        if needed not in _MAY[self.access]:
            raise Violation(f"the attack declares access='{self.access}' and asked the model for {needed}")


class Batch:
    """Examples of one span, as an attack or a corruption sees them.

    x: (N, *shape) float32 in [0, 1], the model's input. labels: (N,) int64. ids: N texts.
    canvas: (N, H, W, 3) uint8, or (N, T, H, W, 3) of videos, on the CPU, where the suite has a canvas. cut: of videos
    that are looked at in clips; x has each of their frames once. frames: of videos, (N, T) int64 on the CPU, the
    numbers in the video of the frames that are there. A batch belongs to one model; see `twin`.
    """

    def __init__(
        self,
        ids: Sequence[str],
        x: Tensor,
        labels: Tensor,
        canvas: Tensor | None = None,
        cut: Cut | None = None,
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
            raise Violation("this suite has no canvas, so there are no 8-bit pictures; write `canvas: 224` into it")
        return self._canvas

    def once(self, name: Hashable, compute: Callable[[], Any]) -> Any:
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
        """Forget what somebody wrote into of all that `once` keeps; whether there was any."""
        changed = [name for name, (value, versions) in self._memo.items()
                   if [tensor._version for tensor in _tensors(value)] != versions]  # fmt: skip
        for name in changed:
            del self._memo[name]
        others = [*self._selections.values(), *self._twins.values()]
        return any([changed, *[other._drop_changed() for other in others]])

    def logits(self, model: Classifier) -> Tensor:
        """The model's logits at the clean point, (N, classes), computed once for all cells."""
        model.require("scores")
        logits: Tensor = self.once(_LOGITS, lambda: model.logits(self.x))
        return logits

    def features(self, model: Classifier) -> Tensor:
        """The representation at the clean point, (N, D), computed once for all cells."""
        model.require("features")
        features: Tensor = self.once(_FEATURES, lambda: model.features(self.x))
        return features

    def gradient(self, model: Classifier, objective: Objective) -> Gradient:
        """The objective's gradient at the clean point, computed once for all cells; see `Classifier.gradient`."""
        model.require("gradient")
        of = (_GRADIENT, objective, model.access)
        gradient: Gradient = self.once(of, lambda: model.gradient(self.x, self.labels, objective))
        if model.grad_mode_exact and model.access != "features":
            self.once(_LOGITS, lambda: gradient.logits)
        return gradient

    def twin(self, model: str) -> Batch:
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


def predictions(logits: Tensor) -> Tensor:
    """The class of the largest logit, (N,) int64; -1 for rows with a logit that is not a number."""
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def _laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The same values with the strides of this memory format, to the letter.

    `contiguous` leaves a tensor with one channel as it is, whatever its strides, and kernels choose by strides: a
    padded pass would get other last bits than a full one.
    """
    wanted = torch.empty_like(x, device="meta", memory_format=memory_format).stride()
    if x.stride() == wanted:
        return x
    return torch.empty_like(x, memory_format=memory_format).copy_(x)


def _memory_formats(device: torch.device, *, low: bool) -> dict[int, torch.memory_format]:
    """By number of axes, for pictures and videos: channels last, which convolutions like best on a CPU, and pictures in
    low precision on a GPU.

    In float32 on an H100, ResNet-50's passes take 1.28 times longer with it. R(2+1)D-18's on two CPU cores take 0.66 of
    the time, its gradients 0.84.
    """
    if device.type == "cpu":
        return {4: torch.channels_last, 5: torch.channels_last_3d}
    return {4: torch.channels_last} if low or torch.backends.cudnn.allow_tf32 else {}


class Normalize(nn.Module):
    """(x - mean) / std along the channel axis of pictures (N, C, H, W) and clips (N, C, T, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.mean):
            raise ValueError(f"axis 1 of {tuple(x.shape)} must hold the {len(self.mean)} channels")
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)


def normalized(net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The network with its normalisation inside, so that it takes values in [0, 1].

    mean, std: one number per channel, on the [0, 1] scale.
    """
    return nn.Sequential(Normalize(mean, std), net)
