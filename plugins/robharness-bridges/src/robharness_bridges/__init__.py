"""Attacks of Foolbox, torchattacks, adv-lib and pyautoattack as attacks of robharness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robharness import AttackSpec, Budget, Cost, InputSpec, ThreatModel, hookimpl
from robharness_bridges import advlib, libraries

__all__ = [
    "AdvlibParams",
    "FoolboxParams",
    "Options",
    "PyautoattackParams",
    "TorchattacksParams",
    "available",
    "robharness_attacks",
]

Norm = Literal["linf", "l2", "l1"]
Value = float | int | bool | str | None


def available(family: str) -> list[str]:
    """Return the names of the attacks that a suite may use.

    family: "foolbox", "torchattacks" or "adv-lib".
    """
    return advlib.available() if family == advlib.FAMILY else libraries.available(family)


class Options(dict[str, Any]):
    """Immutable options of a library's attack, sorted by name: numbers (also as "2/255"), booleans, strings, null."""

    def __init__(self, options: Mapping[str, Value]) -> None:
        super().__init__((name, _exact(options[name])) for name in sorted(options))

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __str__(self) -> str:
        return f"{{{', '.join(f'{name}: {_yaml(value)}' for name, value in self.items())}}}"

    @property
    def plain(self) -> dict[str, Any]:
        """The options as the library takes them, with floats for rational numbers."""
        return {name: float(value) if isinstance(value, Budget) else value for name, value in self.items()}


def _exact(value: Any) -> Any:
    """Return a number written as a string as an exact rational, and any other value unchanged."""
    try:
        return Budget(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _yaml(value: Any) -> str:
    """Return the value as a suite writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class _Named:
    """Parameters of an attack that is named by its class or function in a library.

    name: name of the attack's class or function.
    norm: the attack's norm, or one of its norms if it has several.
    options: keyword arguments of the class or function.
    Raises ValueError if the library is not installed or has no such attack, norm or option.
    """

    name: str
    norm: Norm = "linf"
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", Options(self.options))
        self.attack()

    def attack(self) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FoolboxParams(_Named):
    __doc__ = _Named.__doc__

    def attack(self) -> Any:
        """Return Foolbox's attack."""
        return libraries.foolbox_attack(self.name, self.norm, Options(self.options).plain)


@dataclass(frozen=True, kw_only=True)
class TorchattacksParams(_Named):
    __doc__ = _Named.__doc__

    def attack(self) -> libraries.Torchattack:
        """Return torchattacks' class and its arguments."""
        return libraries.torchattack(self.name, self.norm, Options(self.options).plain)


@dataclass(frozen=True, kw_only=True)
class AdvlibParams(_Named):
    __doc__ = _Named.__doc__

    norm: Literal["linf", "l2", "l1", "l0"] = "linf"  # type: ignore[assignment]

    def attack(self) -> advlib.AdvlibAttack:
        """Return adv-lib's function and its arguments."""
        return advlib.advlib_attack(self.name, self.norm, Options(self.options).plain)


@dataclass(frozen=True, kw_only=True)
class PyautoattackParams:
    """Parameters of AutoAttack.

    norm: norm of the perturbation budget.
    version: AutoAttack's version.
    attacks: if given, only these attacks run, in this order, as AutoAttack's version "custom".
    Raises ValueError if attacks and a version other than "standard" are given, or if pyautoattack is not installed.
    """

    norm: Norm = "linf"
    version: Literal["standard", "plus", "rand"] = "standard"
    attacks: tuple[Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"], ...] = ()

    def __post_init__(self) -> None:
        if self.attacks and self.version != "standard":
            raise ValueError(
                f"version {self.version} already determines the attacks. Try: leave out `version` or `attacks`"
            )
        libraries.library("pyautoattack")


_AUTOATTACK = {
    "apgd-ce": (515, 505),
    "apgd-dlr": (515, 505),
    "apgd-t": (928, 909),
    "fab": (1020, 5000),
    "fab-t": (1837, 900),
    "square": (5012, 0),
    "standard": (7864, 1910),
    "rand": (4047, 4040),
}
"""Measured forward passes and gradients for an example that no attack misclassifies, with 10 classes."""


_FAMILIES = {FoolboxParams: "foolbox", TorchattacksParams: "torchattacks", AdvlibParams: advlib.FAMILY}


def _refusal(params: Any, input: InputSpec) -> str:
    family = _FAMILIES[type(params)]
    return libraries.refusal_of_inputs(family, params.name, params.norm, input)


def _refusal_of_pyautoattack(params: PyautoattackParams, input: InputSpec) -> str:
    has_square = "square" in params.attacks if params.attacks else params.version != "rand"
    return libraries.refusal_of_inputs("pyautoattack", "square" if has_square else "", params.norm, input)


def _cost_of_foolbox(params: FoolboxParams) -> Cost:
    """Count one gradient a step, whose forward pass runs twice (see network.py), and Foolbox's final prediction."""
    steps = getattr(params.attack(), "steps", 1)
    return Cost(forwards=steps + 1, gradients=steps)


def _cost_of_call(params: TorchattacksParams | AdvlibParams) -> Cost:
    attack = params.attack()
    return Cost(forwards=attack.forwards, gradients=attack.gradients)


def _cost_of_pyautoattack(params: PyautoattackParams) -> Cost:
    single = tuple(name for name in _AUTOATTACK if name not in ("standard", "rand"))
    runs = params.attacks or (single if params.version == "plus" else (params.version,))
    forwards, gradients = map(sum, zip(*(_AUTOATTACK[name] for name in runs), strict=True))
    return Cost(forwards=forwards, gradients=gradients)


@hookimpl
def robharness_attacks() -> Iterator[AttackSpec]:
    yield AttackSpec(
        name="foolbox",
        summary="Attacks of Foolbox by name, if they have a norm (Rauber et al., 2020)",
        access="gradient",
        params=FoolboxParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_foolbox,
        build="robharness_bridges.attacks:Foolbox",
        randomness="global",
        refuses=_refusal,
        minimal=lambda params: libraries.is_minimal(params.attack()),
    )
    yield AttackSpec(
        name="torchattacks",
        summary="Attacks of torchattacks by name, if they take eps (Kim, 2020)",
        access="gradient",
        params=TorchattacksParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_call,
        build="robharness_bridges.attacks:Torchattacks",
        randomness="global",
        refuses=_refusal,
    )
    yield AttackSpec(
        name="advlib",
        summary="Attacks of adv-lib by name, if they have a norm (Rony and Ben Ayed, 2020)",
        access="gradient",
        params=AdvlibParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_call,
        build="robharness_bridges.attacks:Advlib",
        randomness="global",
        refuses=_refusal,
        minimal=lambda params: advlib.is_minimal(params.name),
    )
    yield AttackSpec(
        name="pyautoattack",
        summary="AutoAttack, the authors' implementation (Croce and Hein, 2020)",
        access="gradient",
        params=PyautoattackParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_pyautoattack,
        build="robharness_bridges.attacks:Pyautoattack",
        randomness="global",
        refuses=_refusal_of_pyautoattack,
    )
