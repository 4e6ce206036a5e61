"""Tensors of a checkpoint that a trunk does not use, such as a projection head: allowed, and noted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from robharness.checkpoints.contents import KEY_LENGTH
from robharness.text import printable

PARTS = 8
"""Number of parts that a provenance names; the others are counted."""

Stays = Callable[[str], bool]
"""Whether a key of a state, which the network does not have, may be left over."""


@dataclass(frozen=True, kw_only=True)
class LeftOver:
    """The tensors of a checkpoint that a trunk does not use.

    file: name of the checkpoint.
    network: name of the trunk.
    names: keys of the tensors, by the layout that fits.
    """

    file: str
    network: str
    names: tuple[str, ...]

    @property
    def parts(self) -> list[str]:
        """The parts that the names belong to, as in "head.*", without prefixes of parallel and compiled networks."""
        found = (re.sub(r"^((module|_orig_mod)\.)+(?=.)", "", name).partition(".") for name in self.names)
        return list(dict.fromkeys(f"{first}.*" if dot else first for first, dot, _ in found))

    def as_provenance(self) -> dict[str, Any]:
        """Return plain data: the number of tensors, the first parts, and the number of all parts."""
        return {
            "file": self.file,
            "network": self.network,
            "tensors": len(self.names),
            "parts": [printable(part, KEY_LENGTH) for part in self.parts[:PARTS]],
            "more_parts": max(0, len(self.parts) - PARTS),
        }


_NOTED: ContextVar[list[LeftOver] | None] = ContextVar("robharness_left_over", default=None)


@contextmanager
def noting() -> Iterator[list[LeftOver]]:
    """Yield the list to which `load_trunk` adds what it leaves over in this context, each once.

    A context around this one gets the same at its end: the encoders of a model are built while the model is.
    """
    noted: list[LeftOver] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)
    for each in noted:
        note(each)


def note(left_over: LeftOver) -> None:
    """Add to the list of `noting`, if there is one."""
    noted = _NOTED.get()
    if noted is not None and left_over.names and left_over not in noted:
        noted.append(left_over)


def none_stays(name: str) -> bool:
    """Return False: a strict network uses every key."""
    return False


def stays_beside(own: Collection[str], removed: Sequence[str]) -> Stays:
    """Return the rule for a trunk: a key may be left over unless it lies in a part that the trunk has.

    own: keys of the trunk. Its parts are their first words, e.g. "blocks", of which a deeper network has more.
    removed: names of submodules that were removed from the trunk, e.g. "head.fc", whose keys may be left over.
    """
    parts = {name.partition(".")[0] for name in own}

    def stays(name: str) -> bool:
        is_removed = any(name == each or name.startswith(f"{each}.") for each in removed)
        return is_removed or name.partition(".")[0] not in parts

    return stays
