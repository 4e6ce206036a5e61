"""Options of the attacks that minimise a distance, checked when a suite is read. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from robharness import Budget
from robharness_attacks.params import SHOWN, Count, Norm, Order, Share, Size, Targets

MinimalNorm = Literal["linf", "l2", "l1", "l0"]


@dataclass(frozen=True, kw_only=True)
class FABParams:
    """Options of FAB (Croce and Hein, 2020).

    norm: in which the distance is minimised.
    steps: per run.
    restarts: number of runs; all but the first start from a random point.
    targets: number of wrong classes, with a run for each; 0 compares all classes in every step, which takes a gradient
        for each.
    order: of the targets. "likely" takes the most likely classes; "near" those out of the nine most likely whose
        decision boundaries are nearest by estimate.
    alpha_max: largest weight of the bias toward the clean input.
    eta: overshoot of a step.
    beta: factor of the perturbation after the boundary was crossed.
    """

    norm: Norm = "linf"
    steps: Count = field(default=100, metadata=SHOWN)
    restarts: Count = 1
    targets: Targets = 9
    order: Order = "likely"
    alpha_max: Size = Budget("0.1")
    eta: Size = Budget("1.05")
    beta: Size = Budget("0.9")


@dataclass(frozen=True, kw_only=True)
class RaySParams:
    """Options of RayS (Chen and Gu, 2020), which uses decisions only.

    norm: in which the distance is minimised.
    queries: forward passes.
    """

    norm: Literal["linf"] = "linf"
    queries: Count = field(default=10000, metadata=SHOWN)


@dataclass(frozen=True, kw_only=True)
class DDNParams:
    """Options of DDN (Rony et al., 2019).

    norm: in which the distance is minimised.
    steps: number of gradients.
    init: length of the first perturbation.
    gamma: relative change of that length per step.
    """

    norm: Literal["l2"] = "l2"
    steps: Count = field(default=100, metadata=SHOWN)
    init: Size = Budget(1)
    gamma: Share = Budget("0.05")


@dataclass(frozen=True, kw_only=True)
class FMNParams:
    """Options of FMN (Pintor et al., 2021).

    norm: in which the distance is minimised.
    steps: number of gradients.
    step: length of the first step in l2, which falls to a hundredth along a cosine.
    gamma: initial relative change of the radius per step, which falls to 0.001.
    """

    norm: MinimalNorm = "linf"
    steps: Count = field(default=100, metadata=SHOWN)
    step: Size = Budget(1)
    gamma: Share = Budget("0.05")


@dataclass(frozen=True, kw_only=True)
class SigmaZeroParams:
    """Options of sigma-zero (Cina et al., 2025).

    norm: in which the distance is minimised.
    steps: number of gradients.
    step: length of the first step, which falls to a tenth along a cosine.
    sigma: a change d of a value counts as d^2 / (d^2 + sigma) in the smooth norm.
    threshold: initial size below which a change is set to 0.
    threshold_step: change of the threshold per step, in units of the step's length.
    """

    norm: Literal["l0"] = "l0"
    steps: Count = field(default=1000, metadata=SHOWN)
    step: Size = Budget(1)
    sigma: Size = Budget("0.001")
    threshold: Share = Budget("0.3")
    threshold_step: Size = Budget("0.01")
