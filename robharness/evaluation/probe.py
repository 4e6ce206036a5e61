"""Probe of a model on a device: does an example's result depend on the example alone, and to the last bit?

A result that depends on other examples by more than rounding is no property of the example, and the model fails. What
rounding changes is measured: a note of the report says how much it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robharness.errors import ContractViolation, describe
from robharness.evaluation.classifier import Classifier, NoGradient
from robharness.evaluation.clips import ClipLayout
from robharness.evaluation.memory import is_out_of_memory
from robharness.evaluation.parts import parts_in_training_mode
from robharness.evaluation.rng import global_draws
from robharness.specs.inputs import Clips

ROUNDING: Mapping[torch.dtype, float] = {torch.float16: 0.02, torch.bfloat16: 0.1}
"""Allowed effect of rounding on logits, as a fraction of the logit range, by the type of the network's outputs."""
ROUNDING_FLOAT32, ROUNDING_TF32 = 1e-3, 0.02
"""Allowed effect for outputs of other types, in float32 passes and in TF32, which has the digits of float16."""
GRADIENT_ROUNDING = 0.25
"""Largest effect of rounding on the gradient of a row, relative to its length: where a unit is almost at 0, rounding
decides whether it passes its gradient on, so that the effect is far larger than on logits."""
PROBED_FEATURES = 4
"""Rows of the passes that check features."""
TINY = 1e-25
"""Length below which rounding can change a gradient by any factor."""


def probe(classifier: Classifier, shape: Sequence[int], clips: Clips | None = None) -> dict[str, Any]:
    """Measure whether an example's results on this device are bit-identical whatever its neighbours.

    shape: of one network input.
    clips: of a model that sees videos in clips.
    Returns these facts:
        rows: logits of a row are the same alone (padded) and in another order.
        gradients: the same for gradients; None if the model gives no gradient.
        grad_mode: logits are the same in a pass that records gradients.
        rows_by, gradients_by, grad_mode_by: the largest difference, if it is not 0: for logits as a fraction of the
            logit range, for gradients relative to the length of a row's gradient.
    Sets `grad_mode_exact`, `copies_input` and `no_gradient` of the classifier, and clears the counters of passes.
    Raises ContractViolation for a model that draws random numbers, whose logits change from call to call, or whose
    logits for an example depend on other examples by more than rounding.
    """
    base, layout = classifier, ClipLayout.apart(clips, shape) if clips else None
    shape = shape if layout is None else (shape[0], layout.n_frames, *shape[2:])
    x = _faded(probe_inputs(classifier.batch_size, shape, classifier.device))
    classifier = base.with_clips(layout, x)
    classifier.copies_input, classifier.no_gradient = False, getattr(classifier.net, "no_gradient", "")
    logits, by = _row_outputs(classifier, x, "logits")
    facts: dict[str, Any] = {"gradients": None, "grad_mode": False} | _measured("rows", by)
    try:
        facts |= _gradient_facts(classifier, x, logits)
    except ContractViolation as error:  # only attacks that use gradients will fail
        if is_out_of_memory(error):
            raise
        reason = str(error)
        if not isinstance(error, NoGradient):  # the passes without gradients succeeded
            cause = error.__cause__
            reason = f"its pass that records gradients failed: {describe(cause)}" if cause else reason
        classifier.no_gradient = reason
    base.copies_input, base.no_gradient = classifier.copies_input, classifier.no_gradient
    base.grad_mode_exact = bool(facts["grad_mode"]) and not base.low_precision_gradients
    base.classes, base.output_dtype = classifier.classes, classifier.output_dtype
    base.memory_format = classifier.memory_format  # of the network's inputs
    base.passes.clear()
    return facts


def probe_features(net: nn.Module, shape: Sequence[int], device: torch.device) -> None:
    """Check that the features of an example depend on that example alone.

    net: inputs (N, *shape) -> features (N, D).
    Raises ContractViolation for a network that draws random numbers, whose features change from call to call, or whose
    features for an example depend on other examples by more than rounding.
    """
    classifier = Classifier(net, batch_size=PROBED_FEATURES, device=device)
    classifier.copies_input = True
    _row_outputs(classifier, _faded(probe_inputs(PROBED_FEATURES, shape, device)), "features")


def _row_outputs(classifier: Classifier, x: Tensor, kind: str) -> tuple[Tensor, float]:
    """Return the outputs of a pass, and how far those of a row differ alone and in another order.

    kind: name of the outputs, for messages.
    Raises ContractViolation as `probe` does.
    """
    with global_draws() as drawn:
        if not classifier.copies_input:
            classifier._copy_inputs_if_written(x)
        outputs = classifier.logits(x)
        again = _difference(outputs, classifier.logits(x))
    if drawn:
        hint = _hint(classifier)
        raise ContractViolation(
            f"its forward pass draws from the global generator of {drawn[0]}, in eval mode{hint}",
            by="model",
            refutes="deterministic",
        )
    limit = _rounding(classifier)
    if again > (0 if classifier.device.type == "cpu" else limit):  # the same pass again has the same bits on a CPU
        raise ContractViolation(
            f"its {kind} change from one call to the next, by {again:.2g} of their range: its forward pass keeps a "
            f"state{_hint(classifier)}",
            by="model",
            refutes="deterministic",
        )
    by = _row_difference(classifier, x, outputs)
    if by > limit:
        raise ContractViolation(
            f"its {kind} for an example depend on the other examples of the pass, by {by:.2g} of their "
            f"range{_hint(classifier) or _CAUSES}",
            by="model",
            refutes="independent",
        )
    by_half = _difference_in_half(classifier, x, outputs)
    if by_half > limit:
        raise ContractViolation(
            f"its {kind} for an example depend on the number of examples in a pass, by {by_half:.2g} of their range",
            by="model",
            refutes="independent",
        )
    return outputs, by


_CAUSES = (
    ". Usual causes: BatchNorm without running statistics, a softmax over the batch axis, or dynamic quantisation, "
    "whose scale is that of the whole batch"
)


def _row_difference(classifier: Classifier, x: Tensor, logits: Tensor) -> float:
    """Return how far the logits of a row differ alone and in another order, relative to the logit range."""
    order = torch.arange(len(x) - 1, -1, -1, device=x.device)
    last = len(x) - 1  # the dimmest one, see `_faded`
    alone = _difference(logits, classifier.logits(x[last:]), last)
    return max(alone, _difference(logits[order], classifier.logits(x[order])))


def _difference_in_half(classifier: Classifier, x: Tensor, logits: Tensor) -> float:
    """Return how far logits differ in a pass of half the rows, relative to the logit range; 0 if it is impossible."""
    half = len(x) // 2
    if not half or classifier.is_compiled:  # which would be compiled again
        return 0.0
    other = classifier.with_access(classifier.access)
    other.batch_size = half
    try:
        return _difference(logits[:half], other.logits(x[:half]))
    except ContractViolation as error:  # e.g. a network that takes one number of rows
        if is_out_of_memory(error):
            raise
        return 0.0


def _gradient_facts(classifier: Classifier, x: Tensor, logits: Tensor) -> dict[str, Any]:
    """Return the facts about passes that record gradients.

    Raises ContractViolation if there is no gradient, or if it depends on other examples by more than rounding.
    """
    labels = torch.arange(len(x), device=x.device) % logits.shape[1]  # a gradient may mix the rows of different classes
    order = torch.arange(len(x) - 1, -1, -1, device=x.device)
    forward = classifier.gradient(x, labels, _label_logit)
    reversed_ = classifier.gradient(x[order], labels[order], _label_logit).gradient[order]
    alone = classifier.gradient(x[:1], labels[:1], _label_logit).gradient
    pairs = ((forward.gradient, reversed_), (forward.gradient[:1], alone))
    by = max(_relative(a, b) for a, b in pairs)
    if by > GRADIENT_ROUNDING and not classifier.low_precision_gradients:
        raise NoGradient(f"its gradient for an example depends on the other examples of the pass, by {by:.2g} of it")
    in_grad_mode = _difference(logits, forward.logits)
    if in_grad_mode > _rounding(classifier) and not classifier.low_precision_gradients:
        raise NoGradient(f"its logits change by {in_grad_mode:.2g} of their range where gradients are recorded")
    facts = _measured("gradients", by)
    facts["gradients"] = all(_same(a, b) for a, b in pairs)
    return facts | _measured("grad_mode", in_grad_mode)


def _measured(name: str, by: float) -> dict[str, Any]:
    return {name: by == 0, **({f"{name}_by": float(f"{by:.2g}")} if by else {})}


def _rounding(classifier: Classifier) -> float:
    """Return the largest effect of rounding on the logits of a pass, as a fraction of their range."""
    is_tf32 = classifier.device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return ROUNDING.get(classifier.output_dtype, ROUNDING_TF32 if is_tf32 else ROUNDING_FLOAT32)


def _difference(logits: Tensor, other: Tensor, row: int | None = None) -> float:
    """Return the largest difference of two passes, relative to the range of the finite logits; NaN equals NaN.

    row: of `logits` that is compared with the first one of `other`; by default all rows are compared.
    It is infinite if one of them is not finite where the other has another value.
    """
    mine = logits if row is None else logits[row : row + 1]
    if _same(mine, other):
        return 0.0
    finite = mine.isfinite() & other.isfinite()
    if not bool(((mine == other) | (mine.isnan() & other.isnan()) | finite).all()):
        return float("inf")
    usable = logits[logits.isfinite()].double()
    span = float(usable.amax() - usable.amin())
    by = float((mine.double() - other.double())[finite].abs().amax())
    return by / span if span else float("inf")


def _relative(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of the gradients of a row, relative to its length; 0 if they are equal."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    length, moved = a.norm(dim=1), (a - b).norm(dim=1)
    usable = (length > TINY) & moved.isfinite()
    return float((moved[usable] / length[usable]).amax()) if bool(usable.any()) else 0.0


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same values; NaN equals NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _hint(classifier: Classifier) -> str:
    """Return the end of a sentence that names parts in training mode, or an empty text."""
    parts = parts_in_training_mode(classifier.net)
    if not parts:
        return ""
    return (
        f". Its {', '.join(parts[:3])} {'is' if len(parts) == 1 else 'are'} in training mode, since eval() does not "
        f"reach {'it' if len(parts) == 1 else 'them'}. Try: torch.nn.ModuleList or ModuleDict for such parts, and a "
        f"train() that passes eval mode on"
    )


def _faded(x: Tensor) -> Tensor:
    """Return inputs of different brightness, since a model may depend on the brightest example of a pass."""
    fade = torch.linspace(1, 0.25, len(x), device=x.device).view(-1, *[1] * (x.ndim - 1))
    return x * fade


def probe_inputs(n: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return inputs in [0, 1), (n, *shape) float32, that differ from each other and are the same at every call."""
    ramp = torch.arange(n * int(np.prod(shape)), dtype=torch.float64, device=device) * 0.6180339887498949 % 1
    return ramp.to(torch.float32).view(n, *shape)


def _label_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]
