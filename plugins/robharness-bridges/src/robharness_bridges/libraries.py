"""What the peers have: their attacks by name, checked before anything runs. A peer is imported when it is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, isabstract, signature
from typing import Any

NORMS = {math.inf: "linf", 2: "l2", 1: "l1"}
"""By the p of Foolbox's distances."""
AS_WRITTEN = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""As torchattacks and pyautoattack write norms."""

_NO_BALL = "it has no budget eps"
_REFUSED = {
    "BinarizationRefinementAttack": "it refines what another attack found",
    "DatasetAttack": "it needs a data set to draw from",
    "GenAttack": "it needs target classes",
    "PointwiseAttack": "it never says what distance it makes small",
}
"""Attacks of Foolbox that a budget and labels do not suffice for."""


@dataclass(frozen=True, kw_only=True)
class Torchattack:
    """A class of torchattacks and what to call it with. eps: the name of its budget.

    forwards, gradients: passes per example, about; the forward pass of a gradient is made twice, see network.py.
    """

    cls: type
    eps: str
    options: dict[str, Any]
    wants_seed: bool
    wants_classes: bool
    forwards: int
    gradients: int


def library(name: str) -> Any:
    """The module. Raises ValueError with the command that installs it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(f"{name} is not installed; type: pip install 'robharness-bridges[{name}]'") from None


def available(family: str) -> list[str]:
    """The names of attacks that a suite may use. family: "foolbox" or "torchattacks"."""
    return [name for name, cls in _classes(family).items() if not _refusal(family, name, cls)]


def foolbox_attack(name: str, norm: str, options: dict[str, Any]) -> Any:
    """Foolbox's attack of that name. Raises ValueError for a wrong name, norm or option."""
    cls = _find("foolbox", name)
    known = _parameters(cls)
    own: dict[str, Any] = {"distance": getattr(library("foolbox").distances, norm)} if "distance" in known else {}
    if "constraint" in known and norm in ("linf", "l2"):
        own["constraint"] = norm
    _check_options("foolbox", name, options, _without(known, *own, "init_attack", "tensorboard"))
    try:
        attack = cls(**own, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{name} of foolbox cannot be made: {error}") from error
    if NORMS[attack.distance.p] != norm:
        raise ValueError(_wrong_norm("foolbox", name, NORMS[attack.distance.p]))
    return attack


def torchattack(name: str, norm: str, options: dict[str, Any]) -> Torchattack:
    """The class of torchattacks of that name. Raises ValueError for a wrong name, norm or option."""
    cls = _find("torchattacks", name)
    known = _parameters(cls)
    eps = next(word for word in _BUDGETS if word in known)
    norms = norms_of_torchattack(name, known)
    if norm not in norms:
        raise ValueError(_wrong_norm("torchattacks", name, *norms))
    _check_options("torchattacks", name, options, _without(known, "model", "norm", eps))
    forwards, gradients = _passes({word: item.default for word, item in known.items()} | options)
    return Torchattack(
        cls=cls,
        eps=eps,
        options=options | ({"norm": AS_WRITTEN[norm]} if "norm" in known else {}),
        wants_seed="seed" in known and "seed" not in options,
        wants_classes="n_classes" in known and "n_classes" not in options,
        forwards=forwards,
        gradients=gradients,
    )


_BUDGETS = ("eps", "max_epsilon")
_REPEATS = ("steps", "num_iter_set", "n_restarts", "eot_iter", "m", "N", "noise_batch_size")


def _passes(values: dict[str, Any]) -> tuple[int, int]:
    """Forward passes and gradients per example of an attack with these options, about; no row leaves early."""
    if "version" in values:  # AutoAttack, counted
        return 5336, 200
    if "n_queries" in values:
        return int(values["n_queries"] * values["n_restarts"]), 0
    if "nb_sample" in values:
        return int(2 * values["nb_sample"] * values["nb_iter"]), 0
    steps = math.prod(int(values.get(word, 1)) for word in _REPEATS) * max(1, int(values.get("n_classes", 2)) - 1)
    return steps, steps


def norms_of_torchattack(name: str, known: Any) -> tuple[str, ...]:
    """The norms that an attack of torchattacks has; they stand in its docstring alone."""
    if "norm" in known:
        return ("linf", "l2")  # FAB's l1 is documented and fails
    return ("l2",) if "L2" in name else ("linf",)


def _classes(family: str) -> dict[str, type]:
    module, base = {
        "foolbox": lambda peer: (peer.attacks, peer.attacks.base.Attack),
        "torchattacks": lambda peer: (peer, peer.attack.Attack),
    }[family](library(family))
    found = {name: value for name, value in sorted(vars(module).items()) if isinstance(value, type)}
    return {name: cls for name, cls in found.items() if issubclass(cls, base) and not isabstract(cls)}


def _refusal(family: str, name: str, cls: type) -> str:
    """Why a suite cannot use this attack, or nothing."""
    if family == "torchattacks":
        return "" if any(word in _parameters(cls) for word in _BUDGETS) else _NO_BALL
    if not hasattr(cls, "distance"):
        return _NO_BALL
    if getattr(cls.distance, "p", None) == 0:
        return "it counts changed values (l0), whatever their size"
    return _REFUSED.get(name, "")


def _find(family: str, name: str) -> Any:
    classes = _classes(family)
    if name not in classes:
        raise ValueError(f"{family} has no attack '{name}'{_did_you_mean(name, available(family))}")
    refusal = _refusal(family, name, classes[name])
    if refusal:
        raise ValueError(f"{name} of {family} cannot be used: {refusal}")
    return classes[name]


def _parameters(cls: type) -> dict[str, Parameter]:
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {name: item for name, item in signature(cls).parameters.items() if item.kind in named}


def _without(known: dict[str, Parameter], *names: str) -> dict[str, Parameter]:
    return {name: item for name, item in known.items() if name not in names}


def _check_options(family: str, attack: str, options: dict[str, Any], known: dict[str, Parameter]) -> None:
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{attack} of {family} has no option '{name}'{_did_you_mean(name, [*known])}")
        if isinstance(known[name].default, int | float) and isinstance(value, str):
            raise ValueError(f"the option '{name}' of {attack} of {family} is not a text; got '{value}'")
    for name, item in known.items():
        if item.default is Parameter.empty and name not in options:
            raise ValueError(f"{attack} of {family} needs the option '{name}'")


def _wrong_norm(family: str, attack: str, *norms: str) -> str:
    return f"{attack} of {family} has the norm {' or '.join(norms)}; write norm: {norms[0]}"


def _did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean 'steps'?` for the nearest known word whatever its case, or all there are."""
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else f"; it has {', '.join(sorted(known)) or 'none'}"
