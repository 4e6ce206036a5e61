"""BatchNorm with two branches, one for clean and one for adversarial inputs, as in ACL.

A branch has weights and statistics of its own; all other weights are shared. Each BatchNorm of a network, of whatever
origin, is replaced by one with the keys of ACL: `bn1.weight` becomes `bn1.bn_list.0.weight` (clean) and
`bn1.bn_list.1.weight` (adversarial). Source: Xie et al. 2020; Jiang et al. 2020 (VITA-Group/Adversarial-Contrastive-
Learning at 399eabd, models/resnet_multi_bn.py).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robharness_contrastive.options import BRANCHES

CLEAN, ADVERSARIAL = (BRANCHES.index(name) for name in ("clean", "adversarial"))
M = TypeVar("M", bound=nn.Module)


class DualBatchNorm(nn.Module):
    """A BatchNorm with a clean and an adversarial branch, which start alike.

    norm: becomes the clean branch; a copy of it becomes the adversarial one.
    branch: number of the branch that a forward pass uses, `CLEAN` or `ADVERSARIAL`.
    """

    def __init__(self, norm: nn.Module, branch: int = CLEAN) -> None:
        super().__init__()
        self.bn_list = nn.ModuleList([norm, copy.deepcopy(norm)])
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.bn_list[self.branch](x)
        return normalised

    def extra_repr(self) -> str:
        return f"branch={BRANCHES[self.branch]}"


def with_branches(module: M, branch: int = CLEAN) -> M:
    """Replace every BatchNorm of a network, in place, by one with two branches. Returns the network.

    A BatchNorm that stands at several places of the network stays one. Networks without BatchNorm do not change.

    branch: the one that a forward pass uses, except within `using`.
    """
    return _replace_parts(module, _BatchNorm, lambda norm: DualBatchNorm(norm, branch))


def without_branches(module: M) -> M:
    """Replace every BatchNorm with two branches, in place, by the branch that it uses. Returns the network."""
    return _replace_parts(module, DualBatchNorm, lambda dual: dual.bn_list[dual.branch])


def _replace_parts(module: M, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> M:
    """Replace every part of a kind in a network, in place. Returns the network, or what replaces all of it.

    A part that stands at several places of the network is replaced by one part.
    """
    made: dict[nn.Module, nn.Module] = {}

    def replaced(part: nn.Module) -> nn.Module:
        if part not in made:
            made[part] = make(part) if isinstance(part, kind) else part
            if not isinstance(part, kind):
                for name, child in list(part._modules.items()):  # with modules that stand at several places
                    if child is not None:
                        setattr(part, name, replaced(child))
        return made[part]

    return cast(M, replaced(module))


@contextlib.contextmanager
def using(branch: int, *modules: nn.Module) -> Iterator[None]:
    """Let every BatchNorm with two branches of these modules use one of them, and afterwards the same as before."""
    norms = [part for module in modules for part in module.modules() if isinstance(part, DualBatchNorm)]
    before = [norm.branch for norm in norms]
    try:
        for norm in norms:
            norm.branch = branch
        yield
    finally:
        for norm, number in zip(norms, before, strict=True):
            norm.branch = number
