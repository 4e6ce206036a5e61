"""An ensemble of surrogates: several networks as one, whose logits are the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robharness.evaluation.classifier import Classifier


class MeanLogits(nn.Module):
    """The mean of the logits of several networks, each with the same weight.

    members: classifiers of one device that take the same inputs and have equally many outputs.
    The outputs have the type of a sum of the members' outputs, and the mean is computed in float32. The gradient of an
    example is that of the mean at that example alone. Source: Dong et al. 2018, section 3.2, who find attacks on the
    mean of logits stronger on other models than those on the mean of probabilities (Liu et al. 2017) or of losses.

    no_gradient: why a member gives no gradient, or "": the probe cannot see that a member writes into its own copy.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.net for member in members)
        self.no_gradient = next((member.no_gradient for member in members if member.no_gradient), "")
        self._copied = tuple(member.copies_input for member in members)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits, (N, classes). Raises ValueError if the members have different numbers of them."""
        outputs = [net(x.clone() if copied else x) for net, copied in zip(self.members, self._copied, strict=True)]
        if len(shapes := {tuple(each.shape) for each in outputs}) > 1:
            counts = ", ".join(str(shape[-1]) for shape in sorted(shapes))
            raise ValueError(f"its members have different numbers of classes, {counts}, so logits have no mean")
        mean = torch.stack([each.float() for each in outputs]).mean(0)
        dtype = outputs[0].dtype
        for each in outputs[1:]:
            dtype = torch.promote_types(dtype, each.dtype)
        return mean.to(dtype)
