"""Comparison of a state with a network's keys and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robharness.checkpoints.contents import common_prefix, some
from robharness.checkpoints.left_over import Stays, none_stays
from robharness.text import printable

COUNTER = "num_batches_tracked"
"""Last part of the names of counters, which may be missing."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """The keys of a state that do not fit a network; see `StateMismatch` for the fields.

    left_over: keys that the network lacks, and that are allowed.
    """

    missing: Sequence[str] = ()
    unexpected: Mapping[str, torch.Size] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)
    others: Sequence[str] = ()
    left_over: Sequence[str] = ()

    @property
    def count(self) -> int:
        """The number of keys that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes) + len(self.others)

    def __str__(self) -> str:
        """Return the numbers of keys, and some of their names."""
        kinds = {"missing": self.missing, "unexpected": list(self.unexpected),
                 "of another shape": [f"{printable(name)} {text}" for name, text in self.shapes.items()],
                 "no tensors": self.others}  # fmt: skip
        texts = {kind: f"{len(names)} keys are {kind}: {some(names)}" for kind, names in kinds.items() if names}
        if prefix := common_prefix(kinds["unexpected"]):
            texts["unexpected"] += f" (all begin with `{printable(prefix)}`)"
        if self.left_over:
            texts["left over"] = f"{len(self.left_over)} keys are left over: {some(self.left_over)}"
        return "; ".join(texts.values())


def mismatch(
    wanted: Mapping[str, torch.Size],
    found: Mapping[str, Tensor],
    others: Sequence[str] = (),
    stays: Stays = none_stays,
) -> Mismatch:
    """Compare a state with the keys and shapes of a network.

    wanted: the network's shapes by key.
    found: the state; it may lack counters of batches.
    others: keys among the state's that hold no tensors.
    stays: whether a key that the network lacks may be left over.
    """
    return Mismatch(
        missing=[name for name in wanted if name not in found and not name.endswith(COUNTER)],
        unexpected={name: value.shape for name, value in found.items() if name not in wanted and not stays(name)},
        shapes={name: f"{tuple(found[name].shape)} instead of {tuple(wanted[name])}"
                for name in wanted if name in found and found[name].shape != wanted[name]},
        others=others,
        left_over=[name for name in found if name not in wanted and stays(name)],
    )  # fmt: skip
