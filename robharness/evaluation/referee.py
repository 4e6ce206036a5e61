"""Trust nobody: check what attacks and corruptions return, then judge it by a forward pass of our own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation
from robharness.evaluation.classifier import predictions
from robharness.evaluation.guard import plugin_failures
from robharness.evaluation.modes import kept_modes
from robharness.evaluation.rng import global_draws
from robharness.evaluation.tensors import other_than_plain
from robharness.specs.measures import Measure
from robharness.specs.protocols import Perturbed
from robharness.text import is_valid


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of the judging pass, one row per example.

    inputs: (N, *shape), on the model's device.
    prediction: the class, (N,); -1 for rows with a logit that is NaN.
    correct: whether the prediction is the label, (N,) bool.
    margin: the true logit minus the largest other one, (N,), in logits.
    logit_range: the largest minus the smallest logit, (N,).
    confidence: the largest probability, (N,) float32; NaN for rows with a logit that is not finite.
    p_true: the probability of the true class, (N,) float32; NaN likewise.
    size: of the perturbation in the threat model's measure, (N,); NaN without one.
    notes: columns, (N, ...), by name.
    """

    inputs: Tensor
    prediction: np.ndarray
    correct: np.ndarray
    margin: np.ndarray
    logit_range: np.ndarray
    confidence: np.ndarray
    p_true: np.ndarray
    size: np.ndarray
    notes: Mapping[str, np.ndarray]


def judge(inputs: Tensor, labels: Tensor, logits: Tensor, size: np.ndarray, notes: Mapping[str, Any]) -> Outcome:
    """Return the outcome of inputs with these logits, (N, classes) float32, and labels, (N,)."""
    predicted = predictions(logits)
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    probabilities = _probabilities(logits)
    return Outcome(
        inputs=inputs,
        prediction=predicted.cpu().numpy(),
        correct=(predicted == labels).cpu().numpy(),
        margin=(true - others).cpu().numpy(),
        logit_range=(logits.amax(1) - logits.amin(1)).cpu().numpy(),
        confidence=probabilities.amax(1).cpu().numpy(),
        p_true=probabilities.gather(1, labels[:, None])[:, 0].cpu().numpy(),
        size=size,
        notes={name: np.asarray(column) for name, column in notes.items()},
    )


def _probabilities(logits: Tensor) -> Tensor:
    """Return the softmax of float32 logits, (N, classes) float32, computed in float64; NaN for rows with inf or NaN.

    A row's bits do not depend on other rows.
    """
    is_finite = logits.isfinite().all(1, keepdim=True)
    return logits.double().softmax(1).float().masked_fill(~is_finite, torch.nan)


def checked(
    returned: Any,
    like: Tensor,
    *,
    notes: Mapping[str, type],
    some_notes: bool = False,
    eps: float | None = None,
    measure: Measure | None = None,
    devices: Collection[torch.device] = (),
) -> tuple[Tensor, np.ndarray, dict[str, np.ndarray]]:
    """Check what an attack or a corruption returned.

    returned: a tensor, or a `Perturbed` with notes.
    like: the unperturbed inputs; shape and dtype must agree, and with a measure the sizes must be within eps.
    notes: the declared notes and their types.
    some_notes: whether a part of the declared notes is enough.
    devices: allowed devices of the tensor; by default that of `like`.
    Returns a copy of the inputs, the sizes of their perturbations, (N,) float64, and the declared notes.
    Raises ContractViolation for anything else.
    """
    x, found = (returned.x, dict(returned.notes)) if isinstance(returned, Perturbed) else (returned, {})
    if (other := other_than_plain(x)) is not None:
        raise ContractViolation(f"it returned {other}, not a plain, dense tensor")
    if x.shape != like.shape or x.dtype != like.dtype:
        raise ContractViolation(f"it returned {tuple(x.shape)} {x.dtype}, not {tuple(like.shape)} {like.dtype}")
    if x.device not in (devices or {like.device}):
        raise ContractViolation(f"it returned a tensor on {x.device}, not {like.device}")
    x = x.detach().resolve_neg().clone()  # the plugin may write into its own tensor later
    size = np.full(len(x), np.nan)
    if x.is_floating_point():
        _check_values(x)
    if measure is not None and eps is not None:
        size = distance(like, x, measure)
        row = int(size.argmax())
        if np.isinf(size[row]):
            raise ContractViolation(f"example {row} of the batch lies outside of its threat model, '{measure.name}'")
        if size[row] > measure.allowed(eps):
            budget, moved = measure.sized(f"{eps:.6g}"), f"{size[row]:.6g}"
            raise ContractViolation(
                f"its budget is {measure.name} {budget}, and example {row} of the batch moved by {moved}"
            )
    if set(found) != set(notes) and not (some_notes and set(found) < set(notes)):
        raise ContractViolation(f"it declares the notes {sorted(notes)} and returned {sorted(found)}")
    return x, size, {name: _column(name, found[name], notes[name], len(x)) for name in notes if name in found}


def distance(clean: Tensor, perturbed: Tensor, measure: Measure) -> np.ndarray:
    """Return the sizes of perturbations, (N,) float64, whose bits do not depend on other examples.

    Raises ContractViolation for sizes that the contract of `Measure` excludes, and for whatever the measure raises.
    """
    name, batches = f"its measure '{measure.name}'", [(clean, perturbed)]
    if not measure.is_batched:  # a copy each, since the function may write into what it gets
        batches = [
            (one.clone(), other.clone())
            for one, other in zip(torch.split(clean, 1), torch.split(perturbed, 1), strict=True)
        ]
    with plugin_failures(f"{name} raised"), kept_modes() as modes, global_draws() as drawn:
        found = [_array(measure.distance(*batch)) for batch in batches]  # type: ignore[operator]
    if changed := [*modes.changed, *(f"the global generator of {each}" for each in drawn)]:
        raise ContractViolation(f"{name} changed {' and '.join(changed)}")
    for (of, _), sizes in zip(batches, found, strict=True):
        if sizes.shape != (len(of),) or sizes.dtype != np.float64:
            raise ContractViolation(f"{name} returned {sizes.shape} {sizes.dtype}, not ({len(of)},) float64")
    size: np.ndarray = np.concatenate(found)
    if not (size >= 0).all():  # also for NaN
        raise ContractViolation(f"{name} returned {size[~(size >= 0)][0]:.6g}, not a size of at least 0")
    if measure.is_count and (size[np.isfinite(size)] % 1).any():
        raise ContractViolation(f"{name} counts {measure.unit or 'something'}, and returned a fraction")
    return size


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check_values(x: Tensor) -> None:
    """Raise ContractViolation unless all values are in [0, 1]."""
    low, high = map(float, x.aminmax())
    if not (low >= 0 and high <= 1):  # also true for NaN
        finite = bool(torch.isfinite(x).all())
        raise ContractViolation(f"it returned values from {low:.6g} to {high:.6g}, outside [0, 1]" if finite else
                        "it returned values that are not finite numbers")  # fmt: skip


def _column(name: str, values: Any, kind: type, rows: int) -> np.ndarray:
    """Return a note as a column of the declared type, (rows,). Raises ContractViolation if it does not fit."""
    not_of_type = f"its note '{name}' is not of type {kind.__name__}"
    try:
        if kind is str and not isinstance(values, np.ndarray):
            values = np.fromiter(values, object)  # NumPy would make texts of numbers among them
        values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ContractViolation(f"{not_of_type}: {error}") from error
    if values.shape != (rows,):
        raise ContractViolation(f"its note '{name}' has shape {values.shape}, not ({rows},)")
    if kind is str:
        column: np.ndarray = values.astype(object)
        if other := [type(value).__name__ for value in column if not isinstance(value, str)]:
            raise ContractViolation(f"{not_of_type}: it holds {other[0]}")
        if not all(map(is_valid, column)):
            raise ContractViolation(f"its note '{name}' is not valid text")
        return column
    if values.dtype.kind not in "biuf":
        raise ContractViolation(f"{not_of_type}: it holds {values.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):  # of values that the type does not hold
        column = values.astype(kind)
        is_changed = (column.astype(values.dtype) != values) | ((column < 0) != (values < 0))
    if kind is float:
        is_changed &= ~np.isnan(values)
    if is_changed.any():
        raise ContractViolation(f"{not_of_type}: it holds {values[is_changed][0]}")
    return column
