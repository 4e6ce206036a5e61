"""Any attack of Foolbox, torchattacks or pyautoattack as an attack of robharness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robharness import AttackSpec, Budget, Cost, ThreatModel, hookimpl
from robharness_bridges import libraries
from robharness_bridges.libraries import available

__all__ = ["FoolboxParams", "Options", "PyautoattackParams", "TorchattacksParams", "available", "robharness_attacks"]

Norm = Literal["linf", "l2", "l1"]


class Options(dict[str, Any]):
    """Options of a peer's attack, sorted by name, as numbers, flags and texts; "2/255" is a number. Never changed."""

    def __init__(self, given: Mapping[str, float | int | bool | str]) -> None:
        super().__init__((name, _exact(given[name])) for name in sorted(given))

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __str__(self) -> str:
        return f"{{{', '.join(f'{name}: {_written(value)}' for name, value in self.items())}}}"

    @property
    def plain(self) -> dict[str, Any]:
        """As the peer takes them, floats for rationals."""
        return {name: float(value) if isinstance(value, Budget) else value for name, value in self.items()}


def _exact(value: Any) -> Any:
    try:
        return Budget(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class _Named:
    """name: of a class of the peer. norm: the attack's own, or one of those it has. options: of its `__init__`.

    Raises ValueError for what the peer does not have, and where it is not installed.
    """

    name: str
    norm: Norm = "linf"
    options: Mapping[str, float | int | bool | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", Options(self.options))
        self.attack()

    def attack(self) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FoolboxParams(_Named):
    __doc__ = _Named.__doc__

    def attack(self) -> Any:
        """Foolbox's attack."""
        return libraries.foolbox_attack(self.name, self.norm, Options(self.options).plain)


@dataclass(frozen=True, kw_only=True)
class TorchattacksParams(_Named):
    __doc__ = _Named.__doc__

    def attack(self) -> libraries.Torchattack:
        """torchattacks' class, and what it is called with."""
        return libraries.torchattack(self.name, self.norm, Options(self.options).plain)


@dataclass(frozen=True, kw_only=True)
class PyautoattackParams:
    """norm: of the ball. version: of AutoAttack. attacks: these alone, in this order, as its version "custom".

    Raises ValueError for attacks beside a version of their own, and where pyautoattack is not installed.
    """

    norm: Norm = "linf"
    version: Literal["standard", "plus", "rand"] = "standard"
    attacks: tuple[Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"], ...] = ()

    def __post_init__(self) -> None:
        if self.attacks and self.version != "standard":
            raise ValueError(f"version: {self.version} says which attacks run; leave out version or attacks")
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
"""Forward passes and gradients of an example that withstands all, counted; with 10 classes."""


def _cost_of_foolbox(params: FoolboxParams) -> Cost:
    """One gradient a step, whose forward pass is made twice (see network.py), and the peer's own verdict."""
    steps = getattr(params.attack(), "steps", 1)
    return Cost(forwards=steps + 1, gradients=steps)


def _cost_of_torchattacks(params: TorchattacksParams) -> Cost:
    attack = params.attack()
    return Cost(forwards=attack.forwards, gradients=attack.gradients)


def _cost_of_pyautoattack(params: PyautoattackParams) -> Cost:
    every = tuple(name for name in _AUTOATTACK if name not in ("standard", "rand"))
    runs = params.attacks or (every if params.version == "plus" else (params.version,))
    forwards, gradients = map(sum, zip(*(_AUTOATTACK[name] for name in runs), strict=True))
    return Cost(forwards=forwards, gradients=gradients)


@hookimpl
def robharness_attacks() -> Iterator[AttackSpec]:
    yield AttackSpec(
        name="foolbox",
        summary="Any attack of Foolbox that has a norm (Rauber et al., 2020), by name",
        access="gradient",
        params=FoolboxParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_foolbox,
        build="robharness_bridges.attacks:Foolbox",
        randomness="global",
    )
    yield AttackSpec(
        name="torchattacks",
        summary="Any attack of torchattacks that takes eps (Kim, 2020), by name",
        access="gradient",
        params=TorchattacksParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_torchattacks,
        build="robharness_bridges.attacks:Torchattacks",
        randomness="global",
        inputs=frozenset({"image"}),
    )
    yield AttackSpec(
        name="pyautoattack",
        summary="AutoAttack by its authors (Croce and Hein, 2020)",
        access="gradient",
        params=PyautoattackParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_pyautoattack,
        build="robharness_bridges.attacks:Pyautoattack",
        randomness="global",
        inputs=frozenset({"image"}),
    )
