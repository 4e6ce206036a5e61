"""The model that attacks call: frozen, in eval mode, with counted passes of one fixed shape.

Rows of a pass of fixed shape are bit-identical whatever their position and neighbours; with another shape they are not.
So all passes have the same shape, the last one padded, and an example's outcome depends on that example alone.
Trade-off: the padding is computed for nothing, at most one pass per call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robharness.errors import ContractViolation, describe
from robharness.evaluation.clips import ClipLayout
from robharness.evaluation.memory import is_out_of_memory
from robharness.evaluation.modes import read_modes, write_modes
from robharness.evaluation.tensors import apart, memory_formats, other_than_plain, same_values, with_memory_format
from robharness.plugins.calls import plugin_errors
from robharness.specs.types import Access

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, classes) float32, condition (N, ...)) -> one value per row, (N,), to be maximised.

The condition of a row is usually its label. With access "features" the first argument is features, (N, D).
"""

_ALLOWED: dict[Access, tuple[Access, ...]] = {
    "decision": ("decision",),
    "scores": ("decision", "scores"),
    "gradient": ("decision", "scores", "gradient"),
    "features": ("features", "gradient"),
}
"""The methods that each access allows. With access to features, gradients are those of an objective of features."""


class NoGradient(ContractViolation):
    """A model gives no gradient of its logits with respect to its input. Its passes without gradients may work."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, by="model")


class Gradient(NamedTuple):
    """The result of a gradient pass.

    values: the objective, (N,) float32.
    gradient: of the objective with respect to the input, with the input's shape.
    logits: of the same pass, (N, classes) float32; with access "features" the features, (N, D).
    """

    values: Tensor
    gradient: Tensor
    logits: Tensor


class Classifier:
    """A network behind the only interface through which attacks may call it.

    Parameters:
        net: maps float inputs in [0, 1], (N, *shape), to logits, (N, classes).
        batch_size: the fixed number of rows of a pass.
        features: the submodule whose output is the representation.
        gradient_dtype: a lower precision for the passes that give gradients.
        compiled: whether passes use `torch.compile`.
        classes: the outputs that are logits, in this order; by default all. Nothing that calls it sees the others.
    Attributes:
        access: the methods that may be called; see `with_access`.
        low_precision_gradients: whether there is a `gradient_dtype`.
        grad_mode_exact: whether logits are bit-identical in a pass that records gradients, so that one pass gives both;
            a probe sets it.
        copies_input: whether the network writes into its input, so that passes get a copy; a probe sets it.
        no_gradient: why the network gives no gradient, or ""; a probe sets it.
        output_dtype: the type of the network's outputs before they are converted to float32.
        is_compiled: whether passes use `torch.compile`.
        classes: the number of logits, known after the first pass.
        passes: the number of passes of `batch_size` rows, {"forward": ..., "backward": ...}; a gradient is one of each.
        rows: the number of rows that were requested, without padding, {"forwards": ..., "gradients": ...}; a row of a
            gradient is none of a forward pass.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
        features: str | None = None,
        gradient_dtype: torch.dtype | None = None,
        compiled: bool = False,
        classes: Sequence[int] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.net = freeze(net.to(self.device).eval())
        self._modules = tuple(module for module in self.net.modules() if not module.training)
        self._formats = MappingProxyType(memory_formats(self.device, low=gradient_dtype is not None))
        for parameter in self.net.parameters():
            if parameter.ndim in self._formats:
                parameter.data = parameter.data.contiguous(memory_format=self._formats[parameter.ndim])
        self.batch_size = batch_size
        self.grad_mode_exact = self.copies_input = False
        self.no_gradient = ""
        self.output_dtype = torch.float32
        self.low_precision_gradients = gradient_dtype is not None
        self.memory_format = torch.contiguous_format  # until the first pass shows what inputs are
        self.is_compiled = compiled
        self._gradient_dtype = gradient_dtype
        self._features = features
        self._chosen = None if classes is None else torch.tensor(classes, device=self.device)
        self._largest = -1 if classes is None else max(classes)
        self._call: Callable[[Tensor], Any] = torch.compile(self.net, dynamic=False) if compiled else self.net
        self.classes = 0
        self._takes: tuple[tuple[int, ...], torch.dtype] | None = None
        self._clip_layout: ClipLayout | None = None
        self.access: Access = "gradient"
        self.passes: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()

    def with_access(self, access: Access) -> Classifier:
        """Return a classifier with the same network and counters that allows only the methods of this access."""
        other = object.__new__(Classifier)
        other.__dict__.update(self.__dict__)
        other.access = access
        return other

    def has_same_passes(self, other: Any) -> bool:
        """Return whether another object is a classifier whose passes are the same as those of this one."""
        names = (
            "net",
            "_call",
            "batch_size",
            "device",
            "copies_input",
            "_features",
            "_gradient_dtype",
            "_clip_layout",
            "_chosen",
        )
        return type(other) is Classifier and all(vars(other).get(name) is vars(self)[name] for name in names)

    def with_clips(self, layout: ClipLayout | None, x: Tensor) -> Classifier:
        """Return a classifier with the same network and counters that cuts videos into clips by this layout.

        x: videos with this layout, (N, C, T, H, W), which show the shape and the type of its inputs.
        """
        if layout is None:
            return self
        other = self.with_access(self.access)
        other._clip_layout, other._takes = layout, (tuple(x.shape[1:]), x.dtype)
        return other

    def decisions(self, x: Tensor) -> Tensor:
        """Return predicted classes, (N,) int64, for x (N, *shape); -1 for rows with a logit that is NaN."""
        self.require("decision")
        return predictions(self._outputs(x))

    def logits(self, x: Tensor) -> Tensor:
        """Return logits, (N, classes) float32, for x (N, *shape). Raises ContractViolation with access "decision"."""
        self.require("scores")
        return self._outputs(x)

    def discount(self, rows: int) -> None:
        """Count so many rows of earlier forward passes as padding, such as candidates made ahead and not used."""
        self.rows["forwards"] -= min(max(rows, 0), self.rows["forwards"])

    def features(self, x: Tensor) -> Tensor:
        """Return the representation, (N, D) float32, for x (N, *shape).

        Raises ContractViolation without access "features".
        """
        self.require("features")
        return self._outputs(x)

    def full_precision_logits(self, x: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the logits of a gradient pass at x, with those of some rows in the precision of the judging pass.

        logits: of the gradient pass, (N, classes).
        rows: a mask, (N,) bool.
        No pass is made if gradients have the judge's precision. Call it before the search for a row ends because the
        model seems fooled.
        """
        if not self.low_precision_gradients or not rows.any():
            return logits
        return logits.index_put((rows,), self.logits(x[rows]))

    def gradient(self, x: Tensor, condition: Tensor, objective: Objective) -> Gradient:
        """Return the objective, its gradient with respect to x, and the logits, for x (N, *shape).

        condition: the objective's data for each row, (N, ...), usually the labels, (N,).
        objective: its value for a row must depend on that row alone, since the gradient is that of the sum over rows.
        Raises ContractViolation without access to gradients, and NoGradient if the model gives none.
        """
        self.require("gradient")
        if self.no_gradient:
            raise NoGradient(self.no_gradient)
        self.rows["gradients"] += len(x)
        values, gradients, logits = [], torch.empty_like(x), []
        padding = condition[:1].expand(-len(condition) % self.batch_size, *condition.shape[1:])
        padded = torch.cat([condition, padding])
        for start, chunk in self._chunks(x):
            count = min(self.batch_size, len(x) - start)  # without padding
            chunk = chunk.detach().requires_grad_(True)
            with torch.enable_grad():  # the objective gets whole passes as well: its kernels may depend on their shape
                outputs = self._differentiable(chunk)
                logits.append(outputs.detach()[:count].clone())  # the objective is a plugin's and may write into them
                value = self._checked(objective(outputs, padded[start : start + self.batch_size]), outputs)
                try:
                    with plugin_errors():
                        (gradient,) = torch.autograd.grad(value.sum(), chunk)
                except Exception as error:
                    self._blame(chunk, error)
                    raise
            self.passes["backward"] += 1
            values.append(value.detach()[:count])
            gradients[start : start + count] = gradient[:count]
        return Gradient(torch.cat(values), gradients, torch.cat(logits))

    def _checked(self, value: Any, outputs: Tensor) -> Tensor:
        """Return an objective's values for the outputs of a pass. Raises ContractViolation if they do not fit."""
        other = other_than_plain(value)
        if other is not None or value.shape != (len(outputs),) or not value.requires_grad:
            found = other or f"{tuple(value.shape)} {'with' if value.requires_grad else 'without'} a gradient"
            raise ContractViolation(f"its objective must return ({len(outputs)},) values, it returned {found}")
        checked: Tensor = value
        return checked

    def _differentiable(self, chunk: Tensor) -> Tensor:
        """Return the outputs of a pass that records gradients. Raises NoGradient if the network gives none."""
        with torch.autocast(self.device.type, self._gradient_dtype, enabled=self.low_precision_gradients):
            outputs = self._forward(chunk)
        if not outputs.requires_grad:
            raise NoGradient("it gives no gradient with respect to its input")
        return outputs

    def _blame(self, chunk: Tensor, error: BaseException) -> None:
        """Raise NoGradient if the backward pass of the network fails, whatever the objective; else return."""
        if is_out_of_memory(error):
            return
        try:
            with plugin_errors():
                torch.autograd.grad(self._differentiable(chunk).sum(), chunk)
        except Exception as again:
            if not is_out_of_memory(again):
                raise NoGradient(f"its backward pass failed: {describe(error)}") from error

    def _outputs(self, x: Tensor) -> Tensor:
        self.rows["forwards"] += len(x)
        with torch.no_grad():
            # copies, since a network may write the outputs of all passes into one buffer
            return torch.cat([self._forward(chunk)[: len(x) - start].clone() for start, chunk in self._chunks(x)])

    def _forward(self, chunk: Tensor) -> Tensor:
        """Return the logits of one pass, or its features with access "features"."""
        self.passes["forward"] += 1
        version, modes, was_in_eval = _version(chunk), read_modes(), self._is_in_eval()
        try:
            with plugin_errors():
                inputs = self._network_inputs(chunk)
                outputs = self._represent(inputs) if self.access == "features" else self._call(inputs)
        except Exception as error:
            raise ContractViolation(f"its forward pass failed: {describe(error)}", by="model") from error
        if read_modes() != modes:
            write_modes(modes)
            raise ContractViolation("its forward pass changes modes of torch, such as autocast", by="model")
        if was_in_eval and not self._is_in_eval():
            self.net.eval()
            raise ContractViolation("its forward pass changes its eval mode", by="model", refutes="unchanged")
        if _version(chunk) != version:
            raise ContractViolation("it writes into its input. Try: x = x.clone() in its forward", by="model")
        wanted = f"it must return logits of shape ({len(inputs)}, classes) on {inputs.device}"
        if (other := other_than_plain(outputs)) is not None:
            raise ContractViolation(f"{wanted}, it returned {other}", by="model")
        if outputs.ndim != 2 or len(outputs) != len(inputs) or not outputs.shape[1] or outputs.device != inputs.device:
            raise ContractViolation(
                f"{wanted}, it returned {tuple(outputs.shape)} {outputs.dtype} on {outputs.device}", by="model"
            )
        if outputs.dtype == torch.float64 and bool((outputs.isfinite() & outputs.float().isinf()).any()):
            raise ContractViolation("its float64 logits are too large for float32. Try: smaller logits", by="model")
        if self.access == "features":
            return outputs.float().view(len(chunk), -1, outputs.shape[1]).mean(1)
        outputs = self._restricted(outputs)
        self.classes, self.output_dtype = outputs.shape[1], outputs.dtype
        return outputs.float() if self._clip_layout is None else self._clip_layout.together(outputs.float())

    def _restricted(self, outputs: Tensor) -> Tensor:
        """Return the outputs that are logits, (N, classes)."""
        if self._chosen is None:
            return outputs
        if self._largest >= outputs.shape[1]:
            sentence = f"it gives {outputs.shape[1]} classes, and logits are restricted to some up to {self._largest}"
            raise ContractViolation(sentence, by="model")
        return outputs.index_select(1, self._chosen)

    def _is_in_eval(self) -> bool:
        return not any(module.training for module in self._modules)

    def _network_inputs(self, chunk: Tensor) -> Tensor:
        """Return the inputs of the network: the chunk, a copy of it, or its clips."""
        if self._clip_layout is not None:
            return with_memory_format(self._clip_layout.clips(chunk), self.memory_format)
        return chunk.clone() if self.copies_input else chunk

    def _copy_inputs_if_written(self, x: Tensor) -> None:
        """Set `copies_input` if the network writes into its input, and `no_gradient` if autograd does not see that.

        x: inputs of one pass, (batch_size, *shape).
        """
        ((_, chunk),) = self._chunks(x)
        with torch.no_grad():
            inputs = self._network_inputs(chunk).clone()
            before, version = inputs.clone(), inputs._version
            self._try(inputs)
        if same_values(inputs, before) and inputs._version == version:
            return
        self.copies_input = True
        with torch.enable_grad():
            inputs = self._network_inputs(chunk.requires_grad_(True))
            recorded = inputs.grad_fn
            if self._try(inputs) and inputs.grad_fn is recorded:
                self.no_gradient = (
                    "it writes into its input where autograd does not record it (`.data`, or under torch.no_grad()), "
                    "so that its gradient would be wrong. Try: x = x.clone() in its forward"
                )

    def _try(self, inputs: Tensor) -> bool:
        """Make a pass that is not counted; return whether it succeeded. The next pass reports what goes wrong."""
        modes = read_modes()
        try:
            with plugin_errors():
                self._call(inputs)
        except Exception:
            return False
        finally:
            write_modes(modes)
            self.net.eval()
        return True

    def _represent(self, chunk: Tensor) -> Tensor:
        """Return the output of the submodule, flat. The rest of the pass, usually a head, is computed for nothing."""
        if self._features is None:
            raise ContractViolation("it declares no `features`", by="model")
        seen: list[Tensor] = []
        module = self.net.get_submodule(self._features)
        with module.register_forward_hook(lambda module, inputs, output: seen.append(output)):
            self.net(chunk)
        return seen[-1].flatten(1)

    def _chunks(self, x: Tensor) -> list[tuple[int, Tensor]]:
        """Return chunks of x with `batch_size` rows, the last one padded, each with its first row's number."""
        self._takes = self._takes or (tuple(x.shape[1:]), x.dtype)  # set by the first pass, which the core makes
        shape, dtype = self._takes
        if len(x) == 0 or x.dtype != dtype or tuple(x.shape[1:]) != shape or not self._is_on_device(x):
            raise ContractViolation(
                f"it requested a pass with {tuple(x.shape)} {x.dtype} on {x.device}; the model takes "
                f"(N, {', '.join(map(str, shape))}) {dtype} on {self.device}, N at least 1"
            )
        chunks = [(start, x[start : start + self.batch_size]) for start in range(0, len(x), self.batch_size)]
        start, last = chunks[-1]
        if len(last) < self.batch_size:
            padding = last[:1].expand(self.batch_size - len(last), *last.shape[1:])
            chunks[-1] = (start, torch.cat([last, padding]))
        self.memory_format = self._formats.get(x.ndim, torch.contiguous_format)
        # clips get their memory format once they are cut out
        memory_format = self.memory_format if self._clip_layout is None else torch.contiguous_format
        return [(start, apart(with_memory_format(chunk.detach(), memory_format), x)) for start, chunk in chunks]

    def _is_on_device(self, x: Tensor) -> bool:
        return x.device.type == self.device.type and self.device.index in (None, x.device.index)

    def require(self, needed: Access) -> None:
        """Raise ContractViolation if this classifier's access does not include the needed one."""
        if needed not in _ALLOWED[self.access]:
            raise ContractViolation(f"the attack declares access='{self.access}' but requested {needed}")


def _version(x: Tensor) -> int:
    """Return the number of writes into a tensor, which is not counted in inference mode."""
    return 0 if x.is_inference() else x._version


def freeze(net: nn.Module) -> nn.Module:
    """Return the network after its parameters stop requiring gradients; TorchScript has no `requires_grad_`."""
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net


def predictions(logits: Tensor) -> Tensor:
    """Return the class of the largest logit, (N,) int64; -1 for rows with a logit that is NaN."""
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)
