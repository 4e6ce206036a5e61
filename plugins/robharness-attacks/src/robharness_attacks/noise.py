"""Random noise of a given size, which an attack must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG
from robharness_attacks.norms import length, per_row, random_start
from robharness_attacks.params import NoiseParams


@dataclass(frozen=True)
class Noise:
    """One random perturbation per example, clamped to the box. The model is not asked."""

    params: NoiseParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        norm = self.params.norm
        noise = random_start(rng, "noise", batch.x, 1.0, norm)
        if self.params.at == "edge" and norm == "linf":
            noise = torch.where(noise < 0, -1.0, 1.0)
        elif self.params.at == "edge":
            size = length(noise, norm)
            noise = noise / per_row(size.clamp_min(torch.finfo(noise.dtype).tiny), noise)
        return (batch.x + eps * noise).clamp(0, 1)
