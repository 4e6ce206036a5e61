"""Filling of a network with a checkpoint by the first layout that fits; refusal with all that does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robharness.checkpoints.advice import advice, without_others
from robharness.checkpoints.averages import UnchosenState, require_choice
from robharness.checkpoints.choice import ChosenState, StateChoice, choice_in, name_of, unstripped, whole
from robharness.checkpoints.files import read
from robharness.checkpoints.layouts import Layout, divided, renamed, used
from robharness.checkpoints.left_over import LeftOver, Stays, none_stays, note, stays_beside
from robharness.checkpoints.mismatches import COUNTER, Mismatch, mismatch
from robharness.checkpoints.types import other_types, refusal
from robharness.errors import UserError


class StateMismatch(UserError):
    """A checkpoint that does not fit a network by any layout.

    layout: the closest layout; None if the file has no state where the layouts have theirs.
    missing: keys of the network that the state lacks.
    unexpected: keys of the state that the network lacks, each with its shape.
    shapes: keys whose tensors have another shape than the network's.
    others: keys among the state's that hold no tensors.
    remedies: choices of a suite by which a state in the file fits.
    """

    def __init__(self, message: str, layout: Layout | None, found: Mismatch, remedies: Sequence[StateChoice]) -> None:
        self.layout, self.missing, self.unexpected, self.shapes = layout, found.missing, found.unexpected, found.shapes
        self.others = found.others
        self.remedies = tuple(remedies)
        super().__init__(message)


def load(
    net: nn.Module, source: Any, layouts: Sequence[Layout], allow: Sequence[Any] = (), where: Path | None = None
) -> Layout:
    """Fill a network with a checkpoint by the first layout whose keys and shapes all fit; return that layout.

    net: may be on the meta device; it is on the CPU afterwards.
    source: a path, or the content that `read` returned.
    layouts: tried in order. If the suite has chosen the state by `inside`, their own keys are not followed.
    allow: see `read`.
    where: the path of `source` if that is a content, for messages.
    Counters of batches, `num_batches_tracked`, may be missing.
    Raises StateMismatch with the keys that are missing, unexpected or of another shape by the closest layout. Raises
    UserError if an average of the state fits, too, and the suite has not chosen one of them, and for tensors of another
    number type than the network's, which a cast would change.
    """
    return _load(net, source, layouts, allow, where, none_stays, type(net).__name__)[0]


def load_trunk(
    net: nn.Module,
    source: Any,
    layouts: Sequence[Layout],
    allow: Sequence[Any] = (),
    where: Path | None = None,
    *,
    network: str = "",
    removed: Sequence[str] = (),
) -> LeftOver:
    """Fill a network without its classifier from a checkpoint that may have other heads; return what was left over.

    Every tensor of the network must be there. Keys in parts that the network does not have, such as a projection head,
    are left over; in a run, a finding lists them. Keys in a part that it has, such as the blocks of a deeper network,
    are refused.
    net, source, layouts, allow, where: see `load`.
    network: name of the network, for messages.
    removed: names of submodules that were removed from the network, e.g. "head.fc", whose keys may be left over.
    Raises as `load` does.
    """
    network, stays = network or type(net).__name__, stays_beside(list(net.state_dict()), removed)
    content = read(source, allow) if isinstance(source, Path) else source
    file = source if isinstance(source, Path) else where
    layout, names = _load(net, content, layouts, allow, file, stays, network)
    names = [*names, *_stripped_away(content, layout)]
    left_over = LeftOver(file=file.name if file else "the checkpoint", network=network, names=tuple(names))
    note(left_over)
    return left_over


def _stripped_away(content: Any, layout: Layout) -> list[str]:
    """Return the tensors that `strip` of the suite leaves out of the state at the layout's keys."""
    strip, found = choice_in(content).strip, unstripped(content)
    if strip is None:
        return []
    for key in used(layout, content).inside:
        found = found[key]
    return [str(key) for key, value in found.items() if isinstance(value, Tensor) and not str(key).startswith(strip)]


def _load(
    net: nn.Module,
    source: Any,
    layouts: Sequence[Layout],
    allow: Sequence[Any],
    where: Path | None,
    stays: Stays,
    network: str,
) -> tuple[Layout, Sequence[str]]:
    """Fill a network as `load` does; return the layout, and the keys that are left over.

    stays: whether a key that the network lacks may be left over.
    network: name of the network, for messages.
    """
    file, content = (source, read(source, allow)) if isinstance(source, Path) else (where or "the checkpoint", source)
    wanted = {name: value.shape for name, value in net.state_dict().items()}
    name = name_of(source if isinstance(source, Path) else where)
    closest, found, reason = None, Mismatch(), ""
    for layout in layouts:
        try:
            state, others = divided(content, layout)
        except UserError as error:
            reason = reason or str(error)
            continue
        differs = mismatch(wanted, state, others, stays)
        if not differs.count:
            try:
                inside = used(layout, content).inside
                require_choice(content, inside, lambda other: _fits(wanted, other, layouts, stays), name)
            except UnchosenState as error:
                raise UserError(f"{file} is ambiguous: {error}") from None
            if other := other_types(net, state):
                raise UserError(f"{file} {refusal(other, file if isinstance(file, Path) else None)}")
            fill(net, {key: value for key, value in state.items() if key in wanted})
            return layout, differs.left_over
        if closest is None or differs.count < found.count:
            closest, found = layout, differs
    if closest is not None:
        reason = f"by the closest layout, '{closest.name}', {found}"
    names = ", ".join(layout.name for layout in layouts)
    tried = f" Layouts that were tried: {names}." if len(layouts) > 1 else ""
    choice = choice_in(content)
    given = f" with {choice.for_file(name)}" if choice.inside is not None or choice.strip is not None else ""
    hint, remedies = advice(wanted, whole(content), layouts, found.count if closest else None, name, stays)
    if closest is not None and found.count == len(found.others):
        keys = None if isinstance(content, ChosenState) else closest.inside
        hint, remedies = without_others(file if isinstance(file, Path) else None, keys), []
    message = f"{file}{given} does not fit {network}: {reason}.{tried} {hint}"
    raise StateMismatch(message, closest, found, remedies)


def _fits(wanted: Mapping[str, torch.Size], content: Any, layouts: Sequence[Layout], stays: Stays) -> bool:
    for layout in layouts:
        try:
            if not mismatch(wanted, renamed(content, replace(layout, inside=())), stays=stays).count:
                return True
        except UserError:
            continue
    return False


def fill(net: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Copy a state into a network, on the CPU, with the network's own strides.

    net: may be on the meta device.
    found: the state; counters of batches may be missing.
    Raises UserError for tensors of another number type than the network's, as `load` does. Raises ValueError if a
    buffer on the meta device is not part of the state, and so would have no values.
    """
    if other := other_types(net, found):
        raise UserError(f"the state {refusal(other)}")
    if any(value.is_meta for value in net.state_dict().values()):
        buffers = {name: value for name, value in net.named_buffers() if not value.is_meta}
        lost = {name for name, value in net.named_buffers() if value.is_meta} - net.state_dict().keys()
        if lost:
            raise ValueError(f"{min(lost)} is not part of the state; build {type(net).__name__} off the meta device")
        net.to_empty(device="cpu")
        for name, value in net.named_buffers():
            if name in buffers:
                value.copy_(buffers[name])
            elif name.endswith(COUNTER):
                value.zero_()
    state = net.state_dict()  # its metadata hold the version of each module's state
    for name in [name for name in state if not name.endswith(COUNTER)]:
        del state[name]
    state.update(found)
    net.load_state_dict(state, strict=True)
