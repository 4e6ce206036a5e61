"""Advice for a checkpoint that does not fit: the `inside` and `strip` by which its state, or more of it, would fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robharness.checkpoints.choice import CHOICE_LENGTH, StateChoice
from robharness.checkpoints.contents import some, states
from robharness.checkpoints.layouts import Layout, divided, rename
from robharness.checkpoints.left_over import Stays, none_stays
from robharness.checkpoints.mismatches import Mismatch, mismatch
from robharness.errors import for_shell

TRIED = 8
"""Number of choices that are compared with the network in full; a layout's conversion may take a second."""
COMPARED = 200_000
"""Number of keys that are compared at first sight, over all prefixes of a state; normal states have fewer."""
PARTS = 3
"""Number of parts of the longest prefix that is tried."""


@dataclass(frozen=True)
class _Candidate:
    """A choice of a state.

    path, prefix: values of `inside` and `strip`; empty if they are not needed.
    mismatch: the keys that do not fit by the closest layout.
    keys: of the state as in the file.
    """

    path: str
    prefix: str
    mismatch: Mismatch
    keys: Collection[str]

    @property
    def choice(self) -> StateChoice:
        return StateChoice(inside=self.path or None, strip=self.prefix or None)


def advice(
    wanted: Mapping[str, torch.Size],
    content: Any,
    layouts: Sequence[Layout],
    count: int | None,
    name: str = "",
    stays: Stays = none_stays,
) -> tuple[str, list[StateChoice]]:
    """Return sentences on the states in a file that fits no layout, and the choices by which a state fits.

    wanted: the network's shapes by key.
    content: of the file.
    count: the number of keys that do not fit by the closest layout; None if no layout has found a state.
    name: of the file in `weights`, if there are several.
    stays: whether a key that the network lacks may be left over.
    """
    found = states(content)
    candidates = _candidates(wanted, found, layouts, stays)
    fitting = [each for each in candidates if not each.mismatch.count]
    if fitting:
        best: dict[str, _Candidate] = {}
        for each in fitting:  # a state needs one choice, the one with the shortest prefix
            if each.path not in best or len(each.prefix) < len(best[each.path].prefix):
                best[each.path] = each
        choices = _ambiguous_prefixes(fitting) or list(best.values())
        options = " or ".join(each.choice.for_file(name) for each in choices[:3])
        which = "its state fits" if len(choices) == 1 else f"{len(choices)} states fit"
        text = f"With {options}, {which}. Try: set {options} beside `weights:` in the suite"
        return text, [each.choice for each in choices]
    own = {".".join(layout.inside) for layout in layouts} if count is not None else set()
    nested = [f"'{path}'" for path in found if path and path not in own]
    text = f"It holds states at {some(nested)}. " if nested else ""
    closer = min(candidates, key=lambda each: each.mismatch.count, default=None)
    if closer and (count is None or closer.mismatch.count < count) and (closer.path or closer.prefix):
        text += f"With {closer.choice.for_file(name)}, {closer.mismatch}"
        left_out = [key for key in closer.mismatch.missing if closer.prefix and key in closer.keys]
        text += f"; `strip` leaves out {some(left_out)}, which the file has without the prefix. " if left_out else ". "
    return f"{text}Try: robharness list models", []


def without_others(file: Path | None, inside: Sequence[str] | None) -> str:
    """Return a sentence on a state that fits but for keys that hold no tensors, with the command that removes them.

    file: the file; without, the sentence has no command.
    inside: the keys that lead to the state; None if the suite has chosen it.
    """
    if file is None or inside is None:
        return "All others fit. Try: save the state without them"
    at = "".join(f"[{key!r}]" for key in inside)
    kept = f"{{k: v for k, v in content{at}.items() if isinstance(v, torch.Tensor)}}"
    for key in reversed(inside):
        kept = f"{{{key!r}: {kept}}}"
    place = file.with_name(f"{file.stem}-tensors.pt")
    code = (
        "import pathlib, torch; from robharness import checkpoints; "
        f"content = checkpoints.read(pathlib.Path({str(file)!r})); torch.save({kept}, {str(place)!r})"
    )
    command = f"python -c {for_shell(code)}"
    return f"All others fit. To save them in {place.name}, for `weights:` of the suite, try: {command}"


def _ambiguous_prefixes(fitting: Sequence[_Candidate]) -> list[_Candidate]:
    """Return candidates of one state that differ by prefixes of equal length, such as `student.` and `teacher.`."""
    paths = {each.path for each in fitting}
    shortest = min(each.prefix.count(".") for each in fitting)
    level = [each for each in fitting if each.prefix.count(".") == shortest]
    return level if len(paths) == 1 and len(level) > 1 else []


def _candidates(
    wanted: Mapping[str, torch.Size], found: Mapping[str, Mapping[str, Any]], layouts: Sequence[Layout], stays: Stays
) -> list[_Candidate]:
    """Return the choices that fit best at first sight, compared in full."""
    ends = {(ending, shape) for name, shape in wanted.items() for ending in _endings(name)}
    rated: list[tuple[int, int, int, str, str]] = []
    for path, state in found.items():
        for prefix in _prefixes(state):
            stripped = _strip(state, prefix)
            known = max((_known(stripped, layout, ends) for layout in layouts), default=0)
            if known and (path or prefix) and len(path) + len(prefix) <= CHOICE_LENGTH:
                rated.append((-known, prefix.count("."), len(rated), path, prefix))
    candidates = []
    for _, _, _, path, prefix in sorted(rated)[:TRIED]:
        stripped = _strip(found[path], prefix)
        compared = [each for layout in layouts if (each := _compared(wanted, stripped, layout, stays)) is not None]
        if compared:
            best = min(compared, key=lambda each: each.count)
            candidates.append(_Candidate(path, prefix, best, set(map(str, found[path]))))
    own = {".".join(layout.inside) for layout in layouts}
    if len({each.path for each in candidates if not each.mismatch.count}) < 2:  # the layouts find theirs by themselves
        candidates = [replace(each, path="") if each.path in own and each.prefix else each for each in candidates]
    return candidates


def _known(stripped: Mapping[str, Any], layout: Layout, ends: set[tuple[str, torch.Size]]) -> int:
    """Return the number of keys that, renamed, end a key of the network with the same shape."""
    tensors = {name: value for name, value in stripped.items() if isinstance(value, Tensor)}
    return sum((rename(name, layout), value.shape) in ends for name, value in tensors.items())


def _compared(wanted: Mapping[str, torch.Size], stripped: Any, layout: Layout, stays: Stays) -> Mismatch | None:
    try:
        return mismatch(wanted, *divided(stripped, replace(layout, inside=())), stays)
    except Exception:  # a layout's conversion of keys that are not its own may raise anything
        return None


def _endings(name: str) -> Iterator[str]:
    yield name
    while name.count("."):
        name = name.partition(".")[2]
        yield name


def _prefixes(state: Mapping[str, Any]) -> list[str]:
    """Return the prefixes of keys, up to a dot, and the empty prefix; of very many, those that most keys have."""
    parts = [str(key).split(".", PARTS)[:-1] for key in state]
    counts = Counter(
        "".join(f"{part}." for part in each[:length])
        for length in range(1, PARTS + 1) for each in parts if len(each) >= length
    )  # fmt: skip
    most = max(TRIED, COMPARED // max(1, len(state)))
    kept = counts if len(counts) <= most else {prefix for prefix, _ in counts.most_common(most)}
    return ["", *(prefix for prefix in counts if prefix in kept)]


def _strip(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {str(key).removeprefix(prefix): value for key, value in state.items() if str(key).startswith(prefix)}
