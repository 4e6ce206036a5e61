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
    """Whether this device keeps an example's bits whatever its neighbours, and whether recording gradients matters.

    rows: logits of a row are the same alone (padded), and in another order. gradients: the same for gradients, None
    where the model gives none. grad_mode: logits are the same in a pass that records gradients; then
    `Classifier.grad_mode_exact` is set. Raises ContractViolation for a model that draws random numbers.
    """
    rows, base = classifier.rows, classifier
    labels = torch.zeros(rows, dtype=torch.long, device=classifier.device)
    cut = ClipLayout.apart(clips, shape) if clips else None
    shape = shape if cut is None else (shape[0], cut.n_frames, *shape[2:])
    x = probe_inputs(rows, shape, classifier.device)
    classifier = base.with_clips(cut, x)
    order = torch.arange(rows - 1, -1, -1, device=classifier.device)
    exact: dict[str, bool | None] = {"gradients": None, "grad_mode": False}
    with global_draws() as drawn:
        logits = classifier.logits(x)
        same_order = torch.equal(logits[order], classifier.logits(x[order]))
        exact["rows"] = same_order and torch.equal(logits[:1], classifier.logits(x[:1]))
        with suppress(NoGradient):  # only attacks that ask for gradients will fail
            straight = classifier.gradient(x, labels, _first_logit)
            turned = classifier.gradient(x[order], labels, _first_logit)
            exact["gradients"] = torch.equal(straight.gradient[order], turned.gradient)
            exact["grad_mode"] = torch.equal(logits, straight.logits)
    if drawn:
        raise ContractViolation(
            f"its forward pass draws from the global generator of {drawn[0]}, in eval mode", by="model"
        )
    base.grad_mode_exact = bool(exact["grad_mode"]) and not base.low_precision_gradients
    base.classes = classifier.classes
    base.memory_format = classifier.memory_format  # of the network's inputs
    base.passes.clear()
    return exact


def probe_inputs(rows: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Inputs in [0, 1) that are all different and the same every time, (rows, *shape)."""
    ramp = torch.arange(rows * int(np.prod(shape)), dtype=torch.float64, device=device) * 0.6180339887498949 % 1
    return ramp.to(torch.float32).view(rows, *shape)


def _first_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]
