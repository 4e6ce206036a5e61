"""The models of the RobustBench model zoo by name, with their published accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robharness import InputSpec, ModelSpec, hookimpl
from robharness_robustbench import zoo
from robharness_robustbench.zoo import ZOOS, Zoo

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Named", "robharness_models"]


@dataclass(frozen=True, kw_only=True)
class Named:
    """Parameters of a model of one of the zoos.

    name: RobustBench's name of the model, e.g. "Carmon2019Unlabeled".
    Raises ValueError if the zoo has no such model.
    """

    zoo: ClassVar[str]
    name: str

    def __post_init__(self) -> None:
        zoo.find(self.zoo, self.name)


def _given(params: Named) -> Mapping[str, Any]:
    published = zoo.find(params.zoo, params.name)
    return {
        "input": InputSpec(shape=published.shape),
        "preprocessing": published.preprocessing,
        "weights": published.weights,
        "expected": published.expected,
        "paper": published.paper,
    }


def _build(params: Named, weights: Path | Mapping[str, Path] | None) -> nn.Module:
    from robharness_robustbench.networks import load

    return load(zoo.find(params.zoo, params.name), weights)


def _spec(found: Zoo) -> ModelSpec:
    return ModelSpec(
        name=found.name,
        summary=f"Models of RobustBench by name: {found.summary}",
        input=InputSpec(shape=(3, found.side, found.side)),
        labels=found.labels,
        build=_build,
        params=make_dataclass(
            found.name.title().replace("-", ""),
            [],
            bases=(Named,),
            frozen=True,
            kw_only=True,
            namespace={"zoo": found.name},
        ),
        given=_given,
        licence="differs by model, see its authors; RobustBench states none",
        paper="https://arxiv.org/abs/2010.09670",
    )


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    yield from map(_spec, ZOOS)
