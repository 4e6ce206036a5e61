"""Options of the attacks, checked when a suite is read. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from robharness import Budget
from robharness_attacks.components import EXCESS, Objective, read

Norm = Literal["linf", "l2", "l1"]
Target = Literal["none", "least-likely", "random"] | Annotated[int, Ge(0)]
Order = Literal["likely", "near"]
Component = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
Size = Annotated[Budget, Gt(0)]
Share = Annotated[Budget, Ge(0), Lt(1)]
Part = Annotated[Budget, Gt(0), Lt(1)]
Decay = Annotated[Budget, Ge(0)]
Probability = Annotated[Budget, Ge(0), Le(1)]
Count = Annotated[int, Gt(0)]
Targets = Annotated[int, Ge(0)]

CANDIDATES = 9
"""Number of most likely wrong classes whose distances are estimated where the nearest come first, at least."""

TRAVEL = "2.5"
"""Total length of all steps in eps by default, the convention since Madry et al."""

DIVERSITY_SIZE = Budget("0.9")
"""Smallest side of an image under input diversity, as a share of its own: 299 of 330 pixels in Xie et al. (2019)."""

SPARSITY = Budget("0.99")
"""Share of pixels that an l1 step does not change: Foolbox's quantile; Tramer and Boneh choose it per data set."""

SHOWN = {"shown": True}
"""Metadata of an option that is always in the name of an attack."""


@dataclass(frozen=True, kw_only=True)
class FGSMParams:
    """Options of FGSM.

    norm: of the ball. The step reaches its edge along the gradient's sign (linf) or the gradient (l2).
    objective: function whose gradient is used, of this or of another plugin.
    target: "none" for any wrong class; "least-likely"; "random", a class drawn per example, the same in all attacks; or
        a class. Examples of the target class are not changed.
    """

    norm: Literal["linf", "l2"] = "linf"
    objective: Objective = EXCESS
    target: Target = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", read(self.objective))


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Options of all attacks with projected steps.

    norm: of the ball.
    steps: per restart.
    rel_step: length of a step divided by eps, by default 2.5 / steps.
    abs_step: length of a step.
    restarts: number of starts.
    keep: "best" returns the strongest iterate, and examples on which the model is clearly fooled leave early; "last"
        returns the final iterate.
    random_start: start uniformly in the ball, or else at the clean input.
    sparsity: under l1, share of pixels that a step does not change (Tramer and Boneh, 2019). A step changes the pixels
        with the largest gradients that the box does not block, at least one.
    momentum: factor of the sum of earlier gradients, each scaled to length 1 in l1, which is added to the current one
        (Dong et al., 2018, use 1).
    diversity: probability that the gradient of a step is taken at a smaller copy of the image, padded with zeros to its
        size (Xie et al., 2019).
    diversity_size: smallest side of these copies, as a share of the image's.
    translation_kernel: side, in pixels, of the Gaussian kernel that smooths the gradient (Dong et al., 2019); odd, and
        1 for none.

    Raises ValueError if two options contradict each other.
    """

    norm: Norm = "linf"
    steps: Count = field(default=10, metadata=SHOWN)
    rel_step: Size | None = None
    abs_step: Size | None = None
    restarts: Count = 1
    keep: Literal["best", "last"] = "best"
    random_start: bool = True
    sparsity: Share = SPARSITY
    momentum: Decay = Budget(0)
    diversity: Probability = Budget(0)
    diversity_size: Part = DIVERSITY_SIZE
    translation_kernel: Count = 1

    def __post_init__(self) -> None:
        if self.rel_step is not None and self.abs_step is not None:
            raise ValueError("rel_step (a share of eps) and abs_step (the step itself) are both given; leave out one")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                "restarts is above 1 and random_start is false, so all restarts would be equal. Try: random_start: true"
            )
        if self.sparsity != SPARSITY and (self.norm != "l1" or isinstance(self, DensePGDParams)):
            raise ValueError(
                "sparsity is an option of sparse l1 steps, which this attack does not make. Try: leave sparsity out"
            )
        if self.diversity_size != DIVERSITY_SIZE and not self.diversity:
            raise ValueError(
                "diversity_size is given and diversity is 0, so it has no effect. Try: diversity: 0.5, its probability"
            )
        if self.translation_kernel % 2 == 0:
            raise ValueError(
                f"translation_kernel is {self.translation_kernel}, and a kernel with a centre has an odd side. "
                f"Try: translation_kernel: {self.translation_kernel + 1}"
            )
        if self.rel_step is None and self.abs_step is None:  # stored explicitly, since it is part of the identity
            object.__setattr__(self, "rel_step", Budget(f"{TRAVEL}/{self.steps}"))

    @property
    def starts_clean(self) -> bool:
        """Whether the first gradient is that of the clean input."""
        return not self.random_start and not self.diversity

    @property
    def compares(self) -> bool:
        """Whether iterates are compared, which costs a forward pass of the final ones."""
        return self.keep == "best" or self.restarts > 1

    def step(self, eps: Fraction) -> Fraction:
        """Return the length of a step for this eps."""
        if self.abs_step is not None:
            return self.abs_step
        assert self.rel_step is not None
        return self.rel_step * eps


@dataclass(frozen=True, kw_only=True)
class PGDParams(Steps):
    """Options of PGD, in addition to those of its steps.

    objective: function whose gradient is used, of this or of another plugin.
    target: "none" for any wrong class; "least-likely"; "random", a class drawn per example, the same in all attacks; or
        a class. Examples of the target class are not changed.
    """

    objective: Objective = EXCESS
    target: Target = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "objective", read(self.objective))


@dataclass(frozen=True, kw_only=True)
class DensePGDParams(PGDParams):
    """Options of `pgd-dense`, those of PGD.

    A step follows the gradient and changes all pixels. Outside the ball, the perturbation is rescaled, as in Foolbox's
    L1PGD. That is not the projection in l1, so the attack is weak.
    """

    norm: Literal["l1"] = "l1"


@dataclass(frozen=True, kw_only=True)
class APGDParams:
    """Options of Auto-PGD (Croce and Hein, 2020; l1: 2021).

    norm: of the ball.
    steps: per run.
    restarts: number of runs.
    objective: function whose value is increased, of this or of another plugin.
    targets: number of wrong classes, with a run for each; 0 for any wrong class.
    order: of the targets. "likely" runs the most likely classes together. "near" sorts the nine most likely classes by
        the estimated distance of their decision boundaries, and runs three at a time, the nearest first.
    draws: gradients that are averaged per step, for networks that draw random numbers. With several draws, "excess"
        becomes "cross-entropy".
    rho: the step is halved if a smaller share of steps raised the objective.
    larger_eps: start with three and two times eps, as the authors do under l1.
    """

    norm: Norm = "linf"
    steps: Count = field(default=100, metadata=SHOWN)
    restarts: Count = 1
    objective: Objective = EXCESS
    targets: Targets = 0
    order: Order = "likely"
    draws: Count = 1
    rho: Part = Budget("0.75")
    larger_eps: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", read(self.objective))


@dataclass(frozen=True, kw_only=True)
class SquareParams:
    """Options of Square (Andriushchenko et al., 2020), which uses scores and no gradients.

    norm: of the ball.
    queries: forward passes per run.
    restarts: number of runs.
    p_init: share of pixels that the first square covers.
    """

    norm: Norm = "linf"
    queries: Count = field(default=5000, metadata=SHOWN)
    restarts: Count = 1
    p_init: Part = Budget("0.8")


@dataclass(frozen=True, kw_only=True)
class NoiseParams:
    """Options of random noise.

    norm: of the ball.
    at: "edge" draws uniformly from the edge of the ball, under linf from its corners; "inside" from the whole ball.
    """

    norm: Norm = "linf"
    at: Literal["edge", "inside"] = "edge"


@dataclass(frozen=True, kw_only=True)
class ProbeParams:
    """Options of the probe.

    norm: of its steps, which move every pixel by eps.
    """

    norm: Literal["linf"] = "linf"


@dataclass(frozen=True, kw_only=True)
class AutoAttackParams:
    """Options of AutoAttack (Croce and Hein, 2020).

    norm: of the ball.
    version: name of a published list of members, or "fast": the members of "standard" at two fifths of its passes.
        APGD-T tries as many targets, the nearest first; FAB-T tries two, and Square makes 1,000 queries.
    members: a custom list instead.
    """

    norm: Norm = "linf"
    version: Literal["standard", "plus", "rand", "fast"] = field(
        default="standard", metadata={"draws_as": {"fast": "standard"}}
    )
    members: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        if self.members and self.version != "standard":
            raise ValueError("version and members are both given, and each selects the members. Try: leave version out")
        if len(set(self.members)) != len(self.members):
            raise ValueError("members has an attack twice. Try: leave out the second one")


@dataclass(frozen=True, kw_only=True)
class FeatureParams(Steps):
    """Options of attacks on features, in addition to those of their steps.

    distance: between clean and perturbed features, which is maximised.
        "cosine": 1 minus the cosine of their angle.
        "l2": their Euclidean distance.
        "contrastive": the instance-wise contrastive loss (Kim et al., 2020), whose negatives are the other inputs of a
        fixed block of 16.
    temperature: of the contrastive loss.
    """

    distance: Literal["cosine", "l2", "contrastive"] = "cosine"
    temperature: Size = Budget("0.5")


@dataclass(frozen=True, kw_only=True)
class PatchParams:
    """Options of the adversarial patch. Its budget eps is a number of pixels: the side is the root, rounded down.

    steps: of the ascent, per place.
    step: length of a step, by default 2.5 / steps; values are in [0, 1].
    places: number of places that are tried.
    place: "gradient" tries the places where the linear model of the clean gradient loses most; "random" draws them.
    objective: function whose gradient is used, of this or of another plugin.
    """

    steps: Count = field(default=40, metadata=SHOWN)
    step: Size | None = None
    places: Count = field(default=5, metadata=SHOWN)
    place: Literal["gradient", "random"] = "gradient"
    objective: Objective = EXCESS

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", read(self.objective))
        if self.step is None:  # stored explicitly, since it is part of the identity
            object.__setattr__(self, "step", Budget(f"{TRAVEL}/{self.steps}"))


@dataclass(frozen=True, kw_only=True)
class SpatialParams:
    """Options of rotation and translation (Engstrom et al., 2019). Its budget eps is an angle in degrees.

    A budget allows rotations by up to eps degrees, and shifts along each axis by up to eps / degrees_per_pixel pixels.
    Angles are whole degrees, and shifts are multiples of 5 / degrees_per_pixel pixels.

    search: "grid" tries all transformations of a grid, "random" some random ones.
    angles: number of angles of the grid, evenly from -eps to eps and rounded toward zero to the lattice.
    shifts: number of shifts of the grid along each axis, likewise.
    queries: number of random transformations.
    degrees_per_pixel: degrees of the budget that a shift by one pixel takes. With 10, eps 30 is the paper's space for
        CIFAR-10: 30 degrees and 3 pixels. With 1.25, it is that for ImageNet: 30 degrees and 24 pixels.
    """

    search: Literal["grid", "random"] = "grid"
    angles: Count = 31
    shifts: Count = 5
    queries: Count = 10
    degrees_per_pixel: Size = Budget(10)


@dataclass(frozen=True, kw_only=True)
class UniversalParams:
    """Options of the universal perturbation.

    norm: of the ball.
    examples: number of examples that it is fitted on, the first ones of the data's fixed order.
    steps: of the ascent, each with a gradient of all these examples.
    rel_step: length of a step divided by eps, by default 2.5 / steps.
    objective: function whose sum over examples is increased, of this or of another plugin.
    """

    norm: Literal["linf", "l2"] = "linf"
    examples: Count = field(default=500, metadata=SHOWN)
    steps: Count = field(default=40, metadata=SHOWN)
    rel_step: Size | None = None
    objective: Objective = EXCESS

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", read(self.objective))
        if self.rel_step is None:  # stored explicitly, since it is part of the identity
            object.__setattr__(self, "rel_step", Budget(f"{TRAVEL}/{self.steps}"))
