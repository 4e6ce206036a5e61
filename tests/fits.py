"""A plugin of toys whose attacks are fitted on the first examples, loaded with `-p tests/fits.py`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from robharness import AttackSpec, Budget, Cost, ThreatModel, hookimpl


@dataclass(frozen=True, kw_only=True)
class Params:
    """examples: that it is fitted on. steps: gradients of all of them."""

    examples: int = 12
    steps: int = 3
    share: Budget = Budget(1)


@dataclass(frozen=True)
class Shift:
    """Make the same step for all examples, after a pass of each of them without gradients."""

    step: object

    def perturb(self, model, batch, eps, rng):
        model.logits(batch.x)
        return (batch.x + self.step).clamp(0, 1)


@dataclass(frozen=True)
class Mean:
    """The sign of the mean gradient of the first examples."""

    params: Params

    def fit(self, model, batch, eps, rng):
        log(eps, batch)
        x = batch.x
        for _ in range(self.params.steps):
            found = model.gradient(x, batch.labels, others)
            shift = float(self.params.share) * eps * found.gradient.mean(0, keepdim=True).sign()
            x = (batch.x + shift).clamp(0, 1)
        model.logits(x)
        return Shift(shift)

    def perturb(self, model, batch, eps, rng):
        raise RuntimeError("only what is fitted perturbs")


def others(logits, labels):
    return logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]


def log(eps, batch):
    """Append to the file $FITS_LOG the process and the budget of a fit, and the examples that it is made on."""
    if "FITS_LOG" in os.environ:
        with Path(os.environ["FITS_LOG"]).open("a") as file:
            file.write(json.dumps([os.getpid(), eps, list(batch.ids)]) + "\n")


def team(params):
    return {"one": Mean(params), "two": Mean(params)}


def cost(params, members=1):
    return Cost(
        forwards=members,
        fit_forwards=members * params.examples,
        fit_gradients=members * params.examples * params.steps,
    )


def spec(name, build, **changes):
    facts = {
        "summary": name,
        "access": "gradient",
        "params": Params,
        "threat": lambda params: ThreatModel(norm="linf"),
        "cost": cost,
        "build": build,
        "randomness": "none",
        "fitted_on": lambda params: params.examples,
    }
    return AttackSpec(name=name, **facts | changes)


@hookimpl
def robharness_attacks():
    yield spec("mean", Mean)
    yield spec("team", team, ensemble=True, cost=lambda params: cost(params, members=2))
    yield spec("blocks", Mean, blocks=lambda params: True)
