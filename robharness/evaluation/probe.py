"""Probe of a model on a device: are its passes exact, whatever the neighbours of an example?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation
from robharness.evaluation.classifier import Classifier, NoGradient
from robharness.evaluation.clips import ClipLayout
from robharness.evaluation.rng import global_draws
from robharness.specs.inputs import Clips


def probe(classifier: Classifier, shape: Sequence[int], clips: Clips | None = None) -> dict[str, bool | None]:
    """Measure whether an example's results on this device are bit-identical whatever its neighbours.

    shape: of one network input.
    clips: of a model that sees videos in clips.
    Returns these booleans:
        rows: logits of a row are the same alone (padded) and in another order.
        gradients: the same for gradients; None if the model gives no gradient.
        grad_mode: logits are the same in a pass that records gradients.
    Sets `Classifier.grad_mode_exact` from `grad_mode`, and clears the counters of passes.
    Raises ContractViolation for a model that draws random numbers.
    """
    batch_size, base = classifier.batch_size, classifier
    labels = torch.zeros(batch_size, dtype=torch.long, device=classifier.device)
    layout = ClipLayout.apart(clips, shape) if clips else None
    shape = shape if layout is None else (shape[0], layout.n_frames, *shape[2:])
    x = probe_inputs(batch_size, shape, classifier.device)
    classifier = base.with_clips(layout, x)
    order = torch.arange(batch_size - 1, -1, -1, device=classifier.device)
    exact: dict[str, bool | None] = {"gradients": None, "grad_mode": False}
    with global_draws() as drawn:
        logits = classifier.logits(x)
        same_order = torch.equal(logits[order], classifier.logits(x[order]))
        exact["rows"] = same_order and torch.equal(logits[:1], classifier.logits(x[:1]))
        with suppress(NoGradient):  # only attacks that use gradients will fail
            forward = classifier.gradient(x, labels, _first_logit)
            reversed_ = classifier.gradient(x[order], labels, _first_logit)
            exact["gradients"] = torch.equal(forward.gradient[order], reversed_.gradient)
            exact["grad_mode"] = torch.equal(logits, forward.logits)
    if drawn:
        raise ContractViolation(
            f"its forward pass draws from the global generator of {drawn[0]}, in eval mode", by="model"
        )
    base.grad_mode_exact = bool(exact["grad_mode"]) and not base.low_precision_gradients
    base.classes = classifier.classes
    base.memory_format = classifier.memory_format  # of the network's inputs
    base.passes.clear()
    return exact


def probe_inputs(n: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return inputs in [0, 1), (n, *shape) float32, that differ from each other and are the same at every call."""
    ramp = torch.arange(n * int(np.prod(shape)), dtype=torch.float64, device=device) * 0.6180339887498949 % 1
    return ramp.to(torch.float32).view(n, *shape)


def _first_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]
