"""Attacks of Foolbox and torchattacks by name, checked before a run. A library is imported only if one is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, isabstract, signature
from typing import Any

from robharness import InputSpec

NORMS = {math.inf: "linf", 2: "l2", 1: "l1"}
"""Value of p in Foolbox's distances -> norm."""
NORM_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""Norm -> its name in torchattacks and pyautoattack."""

_NO_BALL = "it has no budget eps"
_REFUSED = {
    "BinarizationRefinementAttack": "it refines the result of another attack",
    "DatasetAttack": "it needs a data set of candidates",
    "GenAttack": "it needs target classes",
    "PointwiseAttack": "it states no distance",
}
"""Attacks of Foolbox that need more than a budget and labels -> the reason."""


_WINDOWS = "it changes square windows of pixels"
_NEIGHBOURS = "it spreads its steps over neighbouring pixels"
_IMAGES_ONLY = {
    "foolbox": {"GaussianBlurAttack": "it blurs neighbouring pixels"},
    "torchattacks": {
        "AutoAttack": f"one of its attacks is Square, and {_WINDOWS}",
        "DIFGSM": "it resizes its inputs",
        "PIFGSM": _NEIGHBOURS,
        "PIFGSMPP": _NEIGHBOURS,
        "Square": _WINDOWS,
        "TIFGSM": _NEIGHBOURS,
    },
    "adv-lib": {"str_attack": "it groups neighbouring pixels"},
    "pyautoattack": {"square": _WINDOWS},
}
"""Attacks to which the arrangement of pixels matters, so that they cannot take frames as one image -> the reason."""
_THREE_CHANNELS = ("PIFGSM", "PIFGSMPP", "TIFGSM")
"""Attacks of torchattacks with kernels for three channels."""


@dataclass(frozen=True, kw_only=True)
class Torchattack:
    """A class of torchattacks and its arguments.

    cls: the attack's class.
    eps: name of the argument for the budget.
    options: the other keyword arguments.
    takes_seed: whether the class takes a seed that the options do not contain.
    takes_classes: whether the class takes a number of classes that the options do not contain.
    forwards: approximate number of forward passes per example, without those of gradients.
    gradients: approximate number of gradients per example; each runs its forward pass twice, see network.py.
    """

    cls: type
    eps: str
    options: dict[str, Any]
    takes_seed: bool
    takes_classes: bool
    forwards: int
    gradients: int


def library(name: str) -> Any:
    """Import a library. Raises ValueError with the install command if it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(f"{name} is not installed. Try: pip install 'robharness-bridges[{name}]'") from None


def available(family: str) -> list[str]:
    """Return the names of the attacks that a suite may use.

    family: "foolbox" or "torchattacks".
    """
    return [name for name, cls in _classes(family).items() if not _refusal(family, name, cls)]


def refusal_of_inputs(family: str, name: str, norm: str, input: InputSpec) -> str:
    """Return the reason why an attack does not take a model's inputs, or an empty string.

    family: the library.
    name: of the attack in it.
    norm: "linf", "l2", "l1" or another norm that the attack has.
    """
    attack, (channels, *_, height, width) = f"{name} of {family}", input.shape
    if input.kind == "video" and name in _IMAGES_ONLY.get(family, {}):
        return f"{attack} takes images only, since {_IMAGES_ONLY[family][name]}"
    if family == "torchattacks" and name in _THREE_CHANNELS and channels != 3:
        return f"{attack} takes three channels, and they have {channels}"
    if family == "torchattacks" and name in ("AutoAttack", "Square") and norm == "l2" and height != width:
        return f"{attack} fails in l2 on images that are not square, and they have {height} x {width} pixels"
    return ""


def foolbox_attack(name: str, norm: str, options: dict[str, Any]) -> Any:
    """Construct Foolbox's attack.

    name: name of its class.
    norm: "linf", "l2" or "l1".
    options: keyword arguments of the class.
    Raises ValueError if the name, the norm or an option is unknown.
    """
    cls = _find("foolbox", name)
    known = parameters(cls)
    own: dict[str, Any] = {"distance": getattr(library("foolbox").distances, norm)} if "distance" in known else {}
    if "constraint" in known and norm in ("linf", "l2"):
        own["constraint"] = norm
    check_options("foolbox", name, options, without(known, *own, "init_attack", "tensorboard"))
    try:
        attack = cls(**own, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{name} of foolbox rejects its options: {error}") from error
    if NORMS[attack.distance.p] != norm:
        raise ValueError(wrong_norm("foolbox", name, NORMS[attack.distance.p]))
    return attack


def is_minimal(attack: Any) -> bool:
    """Return whether an attack of Foolbox searches for the smallest perturbation."""
    return isinstance(attack, library("foolbox").attacks.base.MinimizationAttack)


def torchattack(name: str, norm: str, options: dict[str, Any]) -> Torchattack:
    """Return torchattacks' class and its arguments.

    name: name of the class.
    norm: "linf" or "l2".
    options: keyword arguments of the class.
    Raises ValueError if the name, the norm or an option is unknown.
    """
    cls = _find("torchattacks", name)
    known = parameters(cls)
    eps = next(name for name in _BUDGETS if name in known)
    norms = norms_of_torchattack(name, known)
    if norm not in norms:
        raise ValueError(wrong_norm("torchattacks", name, *norms))
    check_options("torchattacks", name, options, without(known, "model", "norm", eps))
    forwards, gradients = _passes({option: item.default for option, item in known.items()} | options)
    return Torchattack(
        cls=cls,
        eps=eps,
        options=options | ({"norm": NORM_NAMES[norm]} if "norm" in known else {}),
        takes_seed="seed" in known and "seed" not in options,
        takes_classes="n_classes" in known and "n_classes" not in options,
        forwards=forwards,
        gradients=gradients,
    )


_BUDGETS = ("eps", "max_epsilon")
_REPEATS = ("steps", "num_iter_set", "n_restarts", "eot_iter", "m", "N", "noise_batch_size")


def _passes(values: dict[str, Any]) -> tuple[int, int]:
    """Estimate forward passes and gradients per example for these options, without early stopping."""
    if "version" in values:  # AutoAttack: measured
        return 5336, 200
    if "n_queries" in values:
        return int(values["n_queries"] * values["n_restarts"]), 0
    if "nb_sample" in values:
        return int(2 * values["nb_sample"] * values["nb_iter"]), 0
    steps = math.prod(int(values.get(name, 1)) for name in _REPEATS) * max(1, int(values.get("n_classes", 2)) - 1)
    return steps, steps


def norms_of_torchattack(name: str, known: Any) -> tuple[str, ...]:
    """Return the norms of an attack of torchattacks, which states them only in its docstring."""
    if "norm" in known:
        return ("linf", "l2")  # FAB documents l1, but fails with it
    return ("l2",) if "L2" in name else ("linf",)


def _classes(family: str) -> dict[str, type]:
    module, base = {
        "foolbox": lambda module: (module.attacks, module.attacks.base.Attack),
        "torchattacks": lambda module: (module, module.attack.Attack),
    }[family](library(family))
    found = {name: value for name, value in sorted(vars(module).items()) if isinstance(value, type)}
    return {name: cls for name, cls in found.items() if issubclass(cls, base) and not isabstract(cls)}


def _refusal(family: str, name: str, cls: type) -> str:
    """Return the reason why a suite cannot use this attack, or an empty string."""
    if family == "torchattacks":
        return "" if any(name in parameters(cls) for name in _BUDGETS) else _NO_BALL
    if not hasattr(cls, "distance"):
        return _NO_BALL
    if getattr(cls.distance, "p", None) == 0:
        return "it bounds the number of changed values (l0)"
    return _REFUSED.get(name, "")


def _find(family: str, name: str) -> Any:
    classes = _classes(family)
    if name not in classes:
        raise ValueError(f"{family} has no attack '{name}'{did_you_mean(name, available(family))}")
    refusal = _refusal(family, name, classes[name])
    if refusal:
        raise ValueError(f"{name} of {family} cannot be used: {refusal}")
    return classes[name]


def parameters(attack: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the named parameters of a class or a function."""
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {name: item for name, item in signature(attack).parameters.items() if item.kind in named}


def without(known: dict[str, Parameter], *names: str) -> dict[str, Parameter]:
    """Return the parameters with other names."""
    return {name: item for name, item in known.items() if name not in names}


def check_options(family: str, attack: str, options: dict[str, Any], known: dict[str, Parameter]) -> None:
    """Raise ValueError for an option that an attack does not have, or needs and does not get.

    known: the parameters that options may set.
    """
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{attack} of {family} has no option '{name}'{did_you_mean(name, [*known])}")
        if isinstance(known[name].default, int | float) and isinstance(value, str):
            raise ValueError(f"the option '{name}' of {attack} of {family} is not a string; got '{value}'")
    for name, item in known.items():
        if item.default is Parameter.empty and name not in options:
            raise ValueError(f"{attack} of {family} needs the option '{name}'")


def wrong_norm(family: str, attack: str, *norms: str) -> str:
    """Return the error of a norm that an attack does not have."""
    return f"{attack} of {family} has the norm {' or '.join(norms)}. Try: norm: {norms[0]}"


def did_you_mean(word: str, known: list[str]) -> str:
    """Return `; did you mean 'steps'?` with the nearest known word, ignoring case, or a list of all known words."""
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else f"; it has {', '.join(sorted(known)) or 'none'}"
