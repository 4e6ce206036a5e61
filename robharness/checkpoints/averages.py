"""States that stand side by side in a file, one of which is an exponential moving average (EMA) of the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from robharness.checkpoints.choice import StateChoice, choice_in, is_pinned
from robharness.checkpoints.contents import states
from robharness.errors import UserError

_AVERAGES = {"ema", "swa", "averaged", "average", "avg"}
"""Words in a key that say that a state is an average over training."""
_GENERIC = {"state", "dict", "statedict", "model", "module", "net", "network", "weights", "params", "shadow"}
"""Words in a key that do not say which of several networks a state belongs to."""


class UnchosenState(UserError):
    """Two states fit, of which one is an average of the other."""


def require_choice(content: Any, inside: Sequence[str], fits: Callable[[Any], bool], name: str = "") -> None:
    """Raise UnchosenState if an average of the state at these keys fits as well, and the suite has not chosen.

    content: from `read`.
    inside: the keys that lead to the state.
    fits: whether another state fits, too.
    name: of the file in `weights`, if there are several.
    """
    if not inside or choice_in(content).inside is not None or is_pinned():
        return
    own = ".".join(inside)
    for path, other in states(content).items():
        if path and path != own and _is_average_pair(own, path) and fits(other):
            options = " or ".join(StateChoice(inside=each).for_file(name) for each in (own, path))
            raise UnchosenState(
                f"it holds two states that fit, '{own}' and '{path}', and one of them is an average over training. "
                f"Try: set {options} beside `weights:` in the suite"
            )


def _is_average_pair(one: str, other: str) -> bool:
    """Return whether two paths differ by a word such as "ema", and name one network otherwise."""
    words = [_words(path) for path in (one, other)]
    if bool(words[0] & _AVERAGES) == bool(words[1] & _AVERAGES):
        return False
    rest = [each - _AVERAGES for each in words]
    return rest[0] == rest[1] or all(each <= _GENERIC for each in rest)


def _words(path: str) -> set[str]:
    return set(re.sub(r"([a-z])([A-Z])", r"\1_\2", path).lower().replace(".", "_").replace("-", "_").split("_"))
