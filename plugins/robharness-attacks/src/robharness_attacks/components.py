"""The plugin's objectives, declared as those of any other plugin are: components of the role "attack-objective"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from robharness import Component, ComponentSpec

NAMESPACE = "attacks"

Objective = Annotated[Component, "attack-objective"]
"""The type of an option that names an objective, of this or of another plugin."""


def _builder(name: str) -> Callable[[None], Any]:
    """Return a `build` that imports torch only when it is called."""

    def build(params: None) -> Any:
        from robharness_attacks.objectives import OWN

        return OWN[name]

    return build


def _spec(name: str, summary: str, paper: str = "") -> ComponentSpec:
    return ComponentSpec(name=name, role="attack-objective", summary=summary, build=_builder(name), paper=paper)


OWN: tuple[ComponentSpec, ...] = (
    _spec("excess", "Logsumexp of the other logits minus the true one: cross-entropy that does not saturate"),
    _spec("cross-entropy", "Cross-entropy, whose gradient underflows for confident models"),
    _spec("margin", "Best wrong logit minus the true one", "https://arxiv.org/abs/1608.04644"),
    _spec("dlr", "Difference of logits ratio, independent of the logits' scale", "https://arxiv.org/abs/2003.01690"),
)
"""The plugin's own objectives, in the order of lists."""


def own(name: str) -> Component:
    """Return an objective of this plugin, resolved. Raises ValueError for another name."""
    for spec in OWN:
        if spec.name == name:
            return Component(name, spec=spec, full_name=f"{NAMESPACE}/{name}")
    names = [spec.name for spec in OWN]
    raise ValueError(f"there is no objective '{name}', only {', '.join(names)}. Try: objective: {names[0]}")


def read(value: Component | str) -> Component:
    """Return the objective that a value in Python means: a name of this plugin's, or a component, as it is."""
    return value if isinstance(value, Component) else own(value)


EXCESS, CROSS_ENTROPY, MARGIN, DLR = map(own, ("excess", "cross-entropy", "margin", "dlr"))
