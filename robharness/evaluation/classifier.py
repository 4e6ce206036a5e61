"""The model as attacks see it: frozen, in eval mode, counted, and passed through in one fixed shape.

Rows of a pass of fixed shape come out bit-identical whatever their position and neighbours; with another shape they
do not. So all passes have the same shape, the last one padded, and an example's outcome depends on itself alone.
Trade-off: the padding is computed and thrown away, at most one pass's worth a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robharness.errors import ContractViolation
from robharness.evaluation.clips import ClipLayout
from robharness.specs.types import Access

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


class NoGradient(ContractViolation):
    """A model whose logits do not depend on its input in a way that autograd can follow."""


class Gradient(NamedTuple):
    """values: the objective, (N,) float32. gradient: of the objective with respect to the input, as the input.

    logits: (N, classes) float32, of the pass that the gradient came from; for access "features" the features, (N, D).
    """

    values: Tensor
    gradient: Tensor
    logits: Tensor


class Classifier:
    """The only way through the network.

    net: maps float inputs in [0, 1], (N, *shape), to logits (N, classes). rows: the fixed number of rows of a pass.
    features: the submodule whose output is the representation. gradient_dtype: a lower precision for the passes that
    gradients come from; `low_precision_gradients` says whether there is one. compiled: passes go through `torch.compile`.
    access: what the holder may ask for; see `with_access`. grad_mode_exact: whether logits are bit-identical in a pass
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
        self.low_precision_gradients = gradient_dtype is not None
        self.memory_format = torch.contiguous_format  # until the first pass shows what inputs are
        self._gradient_dtype = gradient_dtype
        self._features = features
        self._call: Callable[[Tensor], Any] = torch.compile(self.net, dynamic=False) if compiled else self.net
        self.classes = 0
        self._takes: tuple[tuple[int, ...], torch.dtype] | None = None
        self._cut: ClipLayout | None = None
        self.access: Access = "gradient"
        self.passes: Counter[str] = Counter()

    def with_access(self, access: Access) -> Classifier:
        """The same network and counters, through a smaller window."""
        other = object.__new__(Classifier)
        other.__dict__.update(self.__dict__)
        other.access = access
        return other

    def with_clips(self, layout: ClipLayout | None, x: Tensor) -> Classifier:
        """The same network and counters, for examples such as these: inputs are cut into clips as they are."""
        if layout is None:
            return self
        other = self.with_access(self.access)
        other._cut, other._takes = layout, (tuple(x.shape[1:]), x.dtype)
        return other

    def decisions(self, x: Tensor) -> Tensor:
        """Predicted classes, (N,) int64, for x (N, *shape); -1 where the logits are not numbers."""
        self.require("decision")
        return predictions(self._outputs(x))

    def logits(self, x: Tensor) -> Tensor:
        """Logits, (N, classes) float32, for x (N, *shape). Raises ContractViolation for a holder with access "decision"."""
        self.require("scores")
        return self._outputs(x)

    def features(self, x: Tensor) -> Tensor:
        """The representation, (N, D) float32, for x (N, *shape). Raises ContractViolation without access "features"."""
        self.require("features")
        return self._outputs(x)

    def full_precision_logits(self, x: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """The logits of a gradient pass at x, with those of `rows`, (N,) bool, as the judge would see them.

        Where gradients have the judge's precision these are the same, and no pass is made. An attack that ends a row's
        search because it is fooled asks this first.
        """
        if not self.low_precision_gradients or not rows.any():
            return logits
        return logits.index_put((rows,), self.logits(x[rows]))

    def gradient(self, x: Tensor, about: Tensor, objective: Objective) -> Gradient:
        """The objective, its gradient with respect to x and the logits, for x (N, *shape) and `about`, (N, ...).

        about: what the objective must know of each row, labels (N,) as a rule. The objective of a row must depend on
        that row alone: the gradient is that of the sum over the rows.
        Raises ContractViolation for a holder without access to gradients.
        """
        self.require("gradient")
        values, gradients, logits = [], torch.empty_like(x), []
        padded = torch.cat([about, about[:1].expand(-len(about) % self.rows, *about.shape[1:])])
        for start, chunk in self._chunks(x):
            kept = min(self.rows, len(x) - start)
            chunk = chunk.detach().requires_grad_(True)
            with torch.enable_grad():  # the objective sees whole passes, too: its kernels may depend on their shape
                with torch.autocast(self.device.type, self._gradient_dtype, enabled=self.low_precision_gradients):
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
            inputs = chunk if self._cut is None else with_memory_format(self._cut.clips(chunk), self.memory_format)
            outputs = self._represent(inputs) if self.access == "features" else self._call(inputs)
        except Exception as error:
            raise ContractViolation(f"its forward pass failed: {type(error).__name__}: {error}", by="model") from error
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ContractViolation(
                f"it must return logits of shape ({len(inputs)}, classes), it returned {shape}", by="model"
            )
        if self.access == "features":
            return outputs.float().view(len(chunk), -1, outputs.shape[1]).mean(1)
        self.classes = outputs.shape[1]
        return outputs.float() if self._cut is None else self._cut.together(outputs.float())

    def _represent(self, chunk: Tensor) -> Tensor:
        """The output of the submodule, flat; the rest of the pass is made for nothing, a head as a rule."""
        if self._features is None:
            raise ContractViolation("it declares no `features`", by="model")
        seen: list[Tensor] = []
        module = self.net.get_submodule(self._features)
        with module.register_forward_hook(lambda module, inputs, output: seen.append(output)):
            self.net(chunk)
        return seen[-1].flatten(1)

    def _chunks(self, x: Tensor) -> list[tuple[int, Tensor]]:
        self._takes = self._takes or (tuple(x.shape[1:]), x.dtype)  # as the first pass, which the core makes
        shape, dtype = self._takes
        if len(x) == 0 or x.dtype != dtype or tuple(x.shape[1:]) != shape or not self._is_here(x):
            raise ContractViolation(
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
        return [(start, with_memory_format(chunk.detach(), as_it_is)) for start, chunk in chunks]

    def _is_here(self, x: Tensor) -> bool:
        return x.device.type == self.device.type and self.device.index in (None, x.device.index)

    def require(self, needed: Access) -> None:
        """Raises ContractViolation for a holder who may not ask for this."""
        if needed not in _MAY[self.access]:
            raise ContractViolation(f"the attack declares access='{self.access}' and asked the model for {needed}")


def predictions(logits: Tensor) -> Tensor:
    """The class of the largest logit, (N,) int64; -1 for rows with a logit that is not a number."""
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def with_memory_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
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
