"""Attacks of adv-lib by the names of their functions, checked before a run; imported only if one is needed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from robharness_bridges.libraries import check_options, did_you_mean, parameters, without, wrong_norm

FAMILY = "adv-lib"
NORMS: dict[str, tuple[str, ...]] = {
    "alma": ("l2", "l1"),
    "apgd": ("linf", "l2", "l1"),
    "apgd_targeted": ("linf", "l2", "l1"),
    "carlini_wagner_l2": ("l2",),
    "carlini_wagner_linf": ("linf",),
    "ddn": ("l2",),
    "df": ("l2", "linf"),
    "fab": ("linf", "l2", "l1"),
    "fga": ("l0",),
    "fmn": ("linf", "l2", "l1", "l0"),
    "pdgd": ("l2",),
    "pdpgd": ("linf", "l2", "l1", "l0"),
    "pgd_linf": ("linf",),
    "sdf": ("l2",),
    "sigma_zero": ("l0",),
    "str_attack": ("l2",),
    "tr": ("l2", "linf"),
    "vfga": ("l0",),
}
"""Attack -> its norms; the first one is that of its paper. l0 counts values, channels of pixels."""

EXPONENTS = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
_BUDGETS = {"apgd": "eps", "apgd_targeted": "eps", "pgd_linf": "ε"}
"""Attacks with a budget -> its argument; the others search for the smallest perturbation."""

_REFUSED = {"perc_al": "it minimises a distance of colours, not a norm"}
_SET_BY_THE_BRIDGE = ("model", "inputs", "labels", "targeted", "norm", "p", "distance")
_NO_VALUES = ("callback", "penalty", "starting_points")
"""Options that take functions, tensors or other objects, which a suite cannot write."""

_STEPS = ("steps", "num_steps", "n_iter", "iter", "max_iterations", "max_iter", "restarts", "n_restarts", "eot_iter")
_CLASSES = 10
"""Number of classes that estimates of passes assume."""


@dataclass(frozen=True, kw_only=True)
class AdvlibAttack:
    """A function of adv-lib and its arguments.

    function: called with the model, inputs and labels.
    eps: name of the argument for the budget; empty if it searches for the smallest perturbation.
    options: the other keyword arguments.
    forwards: approximate number of forward passes per example, without those of gradients.
    gradients: approximate number of gradients per example; each runs its forward pass twice, see network.py.
    """

    function: Callable[..., Any]
    eps: str
    options: dict[str, Any]
    forwards: int
    gradients: int


def advlib() -> Any:
    """Import the attacks of adv-lib. Raises ValueError with the install command if it is not installed.

    Its requirement visdom draws plots for an option that no suite can set. If visdom is missing, an empty module stands
    in for it during the import: releases for Python 3.11 cannot be built with setuptools 81 or newer.
    """
    if find_spec("adv_lib") is None:
        raise ValueError(f"{FAMILY} is not installed. Try: pip install --no-deps adv-lib")
    stands_in = "visdom" not in sys.modules and find_spec("visdom") is None
    if stands_in:
        sys.modules["visdom"] = ModuleType("visdom")
    try:
        return import_module("adv_lib.attacks")
    finally:
        if stands_in:
            del sys.modules["visdom"]


def available() -> list[str]:
    """Return the names of the attacks that a suite may use."""
    functions = vars(advlib())
    return [name for name in NORMS if callable(functions.get(name))]


def advlib_attack(name: str, norm: str, options: dict[str, Any]) -> AdvlibAttack:
    """Return a function of adv-lib and its arguments.

    name: name of the function.
    norm: "linf", "l2", "l1" or "l0".
    options: keyword arguments of the function.
    Raises ValueError if the name, the norm or an option is unknown.
    """
    known_names = available()
    if name in _REFUSED:
        raise ValueError(f"{name} of {FAMILY} cannot be used: {_REFUSED[name]}")
    if name not in known_names:
        raise ValueError(f"{FAMILY} has no attack '{name}'{did_you_mean(name, known_names)}")
    if norm not in NORMS[name]:
        raise ValueError(wrong_norm(FAMILY, name, *NORMS[name]))
    function, eps = getattr(advlib(), name), _BUDGETS.get(name, "")
    known = parameters(function)
    check_options(FAMILY, name, options, without(known, *_SET_BY_THE_BRIDGE, *_NO_VALUES, eps))
    own: dict[str, Any] = {"norm": EXPONENTS[norm], "p": EXPONENTS[norm], "distance": norm, "targeted": False}
    values = {option: item.default for option, item in known.items()} | options
    forwards, gradients = _passes(name, values)
    return AdvlibAttack(
        function=function,
        eps=eps,
        options={key: value for key, value in own.items() if key in known} | options,
        forwards=forwards,
        gradients=gradients,
    )


def is_minimal(name: str) -> bool:
    """Return whether an attack searches for the smallest perturbation."""
    return name not in _BUDGETS


def _passes(name: str, values: dict[str, Any]) -> tuple[int, int]:
    """Estimate forward passes and gradients per example for these options, without early stopping."""
    steps = math.prod(int(values[key]) for key in _STEPS if values.get(key))
    if name in ("carlini_wagner_l2", "str_attack"):
        steps *= int(values["binary_search_steps"])
    if name == "carlini_wagner_linf":  # a run for each constant
        ratio, factor = values["largest_const"] / values["initial_const"], values["const_factor"]
        steps *= math.ceil(math.log(ratio) / math.log(factor))
    if name == "apgd_targeted":
        steps *= int(values["num_targets"] or _CLASSES - 1)
    if name in ("fga", "vfga"):
        return steps * (1 + int(values["n_samples"]) * (2 if name == "vfga" else 1)), steps
    if name in ("df", "fab", "sdf"):  # a gradient for each class
        return 2 * steps, steps * (_CLASSES - 1)
    return steps, steps
