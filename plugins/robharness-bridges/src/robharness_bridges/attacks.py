"""Adapters that run the attacks of Foolbox, torchattacks, adv-lib and pyautoattack on a batch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG
from robharness_bridges import AdvlibParams, FoolboxParams, PyautoattackParams, TorchattacksParams
from robharness_bridges.advlib import EXPONENTS
from robharness_bridges.libraries import NORM_NAMES, library
from robharness_bridges.network import Network, as_images

ROUNDING_TOLERANCE = 1e-6
"""Largest deviation from [0, 1] that counts as rounding and is clamped; the referee reports a larger one."""


@dataclass(frozen=True)
class Foolbox:
    """Foolbox's attack; returns the inputs that Foolbox projects onto the eps ball, also for minimum-norm attacks."""

    params: FoolboxParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        net = Network(model, batch.x)
        foolbox_model = library("foolbox").PyTorchModel(net, bounds=(0, 1), device=batch.x.device)
        budget = None if math.isinf(eps) else eps
        _, x, _ = self.params.attack()(foolbox_model, as_images(batch.x), batch.labels, epsilons=budget)
        return clamp_rounding(x, batch.x)


@dataclass(frozen=True)
class Torchattacks:
    """torchattacks' attack; gets a seed and the number of classes if it takes them and the options have neither."""

    params: TorchattacksParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        attack = self.params.attack()
        options = {attack.eps: eps, **attack.options}
        if attack.takes_seed:
            options["seed"] = _seed()
        if attack.takes_classes:
            options["n_classes"] = batch.logits(model).shape[1]
        x = attack.cls(Network(model, batch.x), **options)(as_images(batch.x), batch.labels)
        return clamp_rounding(x, batch.x)


@dataclass(frozen=True)
class Advlib:
    """adv-lib's attack; a nearest point that is farther away than eps is replaced by the input."""

    params: AdvlibParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        attack = self.params.attack()
        options = {attack.eps: eps, **attack.options} if attack.eps else attack.options
        inputs = as_images(batch.x).clone()  # some attacks change whether their inputs record gradients
        x = clamp_rounding(attack.function(Network(model, batch.x), inputs, batch.labels, **options), batch.x)
        return x if attack.eps else within(batch.x, x, eps, self.params.norm)


@dataclass(frozen=True)
class Pyautoattack:
    """AutoAttack of its authors."""

    params: PyautoattackParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        attack = library("pyautoattack").AutoAttack(
            Network(model, batch.x),
            norm=NORM_NAMES[self.params.norm],
            eps=eps,
            seed=_seed(),
            version="custom" if self.params.attacks else self.params.version,
            attacks=list(self.params.attacks) or None,
            device=batch.x.device,
        )
        trace_function = sys.gettrace()
        try:
            x, _ = attack.run_standard_evaluation(as_images(batch.x), batch.labels, batch_size=len(batch))
        finally:
            sys.settrace(trace_function)  # one of AutoAttack's checks removes it
        return clamp_rounding(x, batch.x)


def _seed() -> int:
    """Return the seed that the core set in the global generators for these examples."""
    return torch.initial_seed() % 2**32


def within(origin: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """Return x, (N, *shape), with rows farther than eps from the origin in the norm replaced by it. eps may be inf."""
    sizes = torch.linalg.vector_norm((x.double() - origin.double()).flatten(1), ord=EXPONENTS[norm], dim=1)
    return torch.where((sizes <= eps).view(-1, *[1] * (x.ndim - 1)), x, origin)


def clamp_rounding(x: Tensor, like: Tensor) -> Tensor:
    """Return x detached, with the shape and type of `like`.

    Values outside [0, 1] by at most ROUNDING_TOLERANCE are clamped.
    """
    x = x.detach().to(like).reshape(like.shape)
    inside = x.clamp(0, 1)
    return torch.where((x - inside).abs() <= ROUNDING_TOLERANCE, inside, x)
