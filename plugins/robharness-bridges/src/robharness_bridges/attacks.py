"""The peers' attacks, called on a batch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG
from robharness_bridges import FoolboxParams, PyautoattackParams, TorchattacksParams
from robharness_bridges.libraries import AS_WRITTEN, library
from robharness_bridges.network import Network

SLACK = 1e-6
"""How far outside [0, 1] a peer's rounding may lead; what is further out is left for the referee to see."""


@dataclass(frozen=True)
class Foolbox:
    """Inputs as Foolbox clips them to the ball; a minimum-norm attack is cut at eps."""

    params: FoolboxParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        net = Network(model, batch.x)
        peer = library("foolbox").PyTorchModel(net, bounds=(0, 1), device=batch.x.device)
        _, x, _ = self.params.attack()(peer, batch.x, batch.labels, epsilons=eps)
        return settled(x, batch.x)


@dataclass(frozen=True)
class Torchattacks:
    """A seed and the number of classes are given where the attack wants them and the options do not say."""

    params: TorchattacksParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        attack = self.params.attack()
        options = {attack.eps: eps, **attack.options}
        if attack.wants_seed:
            options["seed"] = _seed()
        if attack.wants_classes:
            options["n_classes"] = batch.logits(model).shape[1]
        return settled(attack.cls(Network(model, batch.x), **options)(batch.x, batch.labels), batch.x)


@dataclass(frozen=True)
class Pyautoattack:
    params: PyautoattackParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        attack = library("pyautoattack").AutoAttack(
            Network(model, batch.x),
            norm=AS_WRITTEN[self.params.norm],
            eps=eps,
            seed=_seed(),
            version="custom" if self.params.attacks else self.params.version,
            attacks=list(self.params.attacks) or None,
            device=batch.x.device,
        )
        tracer = sys.gettrace()
        try:
            x, _ = attack.run_standard_evaluation(batch.x, batch.labels, batch_size=len(batch))
        finally:
            sys.settrace(tracer)  # a check of AutoAttack's sets none
        return settled(x, batch.x)


def _seed() -> int:
    """That which the core gave the global generators for these examples."""
    return torch.initial_seed() % 2**32


def settled(x: Tensor, like: Tensor) -> Tensor:
    """The type of `like`, and in [0, 1] where rounding alone led out of it."""
    x = x.detach().to(like)
    inside = x.clamp(0, 1)
    return torch.where((x - inside).abs() <= SLACK, inside, x)
