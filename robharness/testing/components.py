"""The contract of components. The plugin that takes components tests what they do, save that of attacks' objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from robharness.evaluation.rng import ExampleRNG
from robharness.planning.identity import canonical
from robharness.specs.conventions import ATTACK_OBJECTIVE
from robharness.specs.lazy import LazyFunction
from robharness.specs.records import ComponentSpec
from robharness.specs.references import Component
from robharness.suite import identity_fields
from robharness.testing.contract import Broken, Subject

ROWS = 6
FORMS = ("without targets", "with targets")
SCALES = (0.1, 1.0, 10.0)
"""Factors of standard normal logits in checks of objectives."""


def options_have_identities(component: Subject) -> None:
    """Its options are plain values, so that an identity can hold them, and none of them is called `name`."""
    params = component.params
    if params is not None and Component.KEY in [item.name for item in fields(params)]:
        raise Broken(f"it has an option '{Component.KEY}', which a suite cannot set beside the component's name")
    try:
        canonical(identity_fields(params))
    except TypeError as error:
        raise Broken(str(error)) from None


def build_is_found(component: Subject) -> None:
    """`build` is a function or a class, or names one that can be imported."""
    build = component.entry.spec.build
    if isinstance(build, LazyFunction):
        try:
            build.load()
        except ImportError as error:
            raise Broken(str(error)) from None


def values_have_gradients(objective: Subject) -> None:
    """An objective of attacks gives a finite value per row, whose gradient with respect to the logits is finite."""
    for form, function, logits, condition in _cases(objective):
        values, gradient = _values(function, logits, condition, form)
        if not values.isfinite().all():
            raise Broken(f"{form}, a value for logits of scale {float(logits.std()):.1g} is not finite")
        if not gradient.isfinite().all():
            raise Broken(f"{form}, a gradient for logits of scale {float(logits.std()):.1g} is not finite")
        if not gradient.any():
            raise Broken(f"{form}, all gradients for logits of scale {float(logits.std()):.1g} are 0")


def rows_are_independent(objective: Subject) -> None:
    """An objective of attacks gives a row the same value and gradient at every call, whatever the other rows are."""
    for form, function, logits, condition in _cases(objective):
        before, others = _values(function, logits, condition, form), logits.clone()
        others[1:] = -3 * others[1:].flip(0)
        after = _values(function, others, condition, form)
        if not all(torch.equal(one[0], other[0]) for one, other in zip(before, after, strict=True)):
            raise Broken(f"{form}, the value or the gradient of the first row changes with the other rows")


def _cases(objective: Subject) -> Iterator[tuple[str, Callable[[Tensor, Tensor], Any], Tensor, Tensor]]:
    """Yield (words, function, logits, condition) for the functions of an objective, numbers of classes and scales."""
    entry = objective.entry
    built = Component(entry.name, spec=entry.spec, params=objective.params).build()
    functions = built if isinstance(built, tuple) else (built,)
    if not 1 <= len(functions) <= 2 or not all(map(callable, functions)):
        raise Broken(f"build must return a function or a pair of functions, it returned {built!r}")
    rng = ExampleRNG(0, "objectives", [f"row {row}" for row in range(ROWS)])
    for classes in (2, 3, 10):
        labels = torch.arange(ROWS) % classes
        conditions = labels, torch.stack([labels, (labels + 1) % classes], 1)
        for scale in SCALES:
            logits = scale * rng.normal(f"logits {classes}", (classes,))
            for form, condition, function in zip(FORMS, conditions, functions, strict=False):
                yield f"{form} and with {classes} classes", function, logits, condition


def _values(
    function: Callable[[Tensor, Tensor], Any], logits: Tensor, condition: Tensor, form: str
) -> tuple[Tensor, Tensor]:
    """Return the values, (ROWS,), and the gradient of their sum, as the logits. Raises Broken if there are none."""
    leaf = logits.detach().requires_grad_(True)
    with torch.enable_grad():
        values = function(leaf.clone(), condition.clone())  # copies, which may be written into
    if not isinstance(values, Tensor) or values.shape != (ROWS,) or not values.requires_grad:
        shown = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise Broken(f"{form}, it must return ({ROWS},) values with a gradient, it returned {shown}")
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient


RULES = (options_have_identities, build_is_found, values_have_gradients, rows_are_independent)


def _is_attack_objective(spec: ComponentSpec) -> bool:
    return spec.role == ATTACK_OBJECTIVE


WHEN: Mapping[Callable[[Subject], None], Callable[[Any], bool]] = dict.fromkeys(
    (values_have_gradients, rows_are_independent), _is_attack_objective
)
