"""Guard of what later cells read around calls of plugins: the model, the batch, modes of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robharness.errors import ContractViolation, describe
from robharness.evaluation.batch import Batch, LentBatch
from robharness.evaluation.classifier import Classifier, freeze
from robharness.evaluation.memory import is_out_of_memory
from robharness.evaluation.modes import kept_modes
from robharness.evaluation.objects import Watched
from robharness.evaluation.parts import unregistered_parts
from robharness.evaluation.tensors import other_than_plain, same_values
from robharness.plugins.calls import plugin_errors


@contextmanager
def lending(
    batch: Batch, *, namespace: str = "", model: Classifier | None = None, guard: Guard | None = None
) -> Iterator[LentBatch]:
    """Lend a batch to one call of a plugin, the block, and undo what the call changes.

    namespace: of the plugin.
    model: the core's own model with the clips of the batch, which computes values that cells share.
    guard: of that model, if the plugin gets it.
    Raises ContractViolation if the block changed something, unless it raises an exception itself.
    """
    of_model: list[str] = []
    passes = partial(_make_passes, model or guard.classifier, batch) if guard else None
    if guard and passes:
        guard.learn(passes)
    try:
        with kept_modes() as modes:
            lent = LentBatch(batch, namespace, model, modes, guard.is_intact if guard else None)
            yield lent
    finally:
        of_model += guard.changes(passes) if guard and passes else []
    if changed := [*of_model, *lent.changes(), *modes.changed]:
        names = f"{', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''}"
        raise ContractViolation(f"it changed {names}", refutes="unchanged" if of_model else "")


@contextmanager
def plugin_failures(prefix: str, by: str = "perturbation", used: str = "") -> Iterator[None]:
    """Raise a ContractViolation for whatever a plugin's code raises in the block.

    prefix: of the sentence that says what was raised.
    by: the part at fault.
    used: components of other plugins that the code uses, as text.
    """
    try:
        with plugin_errors():
            yield
    except ContractViolation:
        raise
    except Exception as error:
        uses = f"; it uses {used}" if used else ""
        raise ContractViolation(f"{prefix} {describe(error)}{uses}", by=by) from error


@contextmanager
def uncounted(model: Classifier) -> Iterator[None]:
    """Count no pass of the block."""
    before = [(counter, counter.copy()) for counter in (model.passes, model.rows)]
    try:
        yield
    finally:
        for counter, counted in before:
            counter.clear()
            counter.update(counted)


def _make_passes(model: Classifier, batch: Batch) -> None:
    """Make a pass without gradients and one with gradients, if the model gives any. They are not counted."""
    x, labels = batch.x[: model.batch_size], batch.labels[: model.batch_size]
    with uncounted(model), suppress(Exception), kept_modes():
        model.logits(x)
        model.gradient(x, labels, lambda logits, label: logits.gather(1, label[:, None])[:, 0])


REPEATS = 8
"""Passes that are made at most to find out what the network itself changes, e.g. at every fourth call."""


class Guard:
    """A copy of a model's state, which is compared with the model and restored after every call of a plugin.

    Trade-off: a second copy of the weights, and a comparison that takes milliseconds where passes take seconds. In
    return, the plugin that changed the model is known, and the next cell gets an unchanged model.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        net = classifier.net
        self._kept = [
            (place, module, kind, name, tensor, _copy(tensor))
            for place, module in net.named_modules()
            for kind in ("_parameters", "_buffers")
            for name, tensor in getattr(module, kind).items()
            if tensor is not None
        ]
        modules = {**dict(net.named_modules()), **dict(unregistered_parts(net))}
        self._watched = Watched(modules, [tensor for *_, tensor, _ in self._kept])
        self._versions = [(tensor, tensor._version) for *_, tensor, _ in self._kept if not tensor.is_inference()]
        self._has_learnt = False

    def learn(self, passes: Callable[[], Any]) -> None:
        """Find out at the first call what the network itself changes in passes, such as a counter of calls.

        passes: makes passes like those of a plugin.
        """
        if not self._has_learnt:
            self._has_learnt = True
            passes()
            self._watched.release()

    def is_intact(self, by_value: bool) -> bool:
        """Return whether the network is as it was, so that its passes may serve all cells, amid a plugin's call.

        by_value: compare all weights, and not only the numbers of writes that torch counts.
        """
        try:
            if any(module.training for module in self.classifier.net.modules()) or not self._watched.is_same():
                return False
            is_written = any(tensor._version != count for tensor, count in self._versions)
            return not (by_value or is_written) or not self._is_touched()
        except Exception as error:  # the network's own code may raise anything
            if is_out_of_memory(error):
                raise
            return False

    def watching(self, batch: Batch) -> Any:
        """Return a context that lends the batch to a call of a plugin, and undoes what the call changes."""
        return lending(batch, model=self.classifier, guard=self)

    def changes(self, passes: Callable[[], Any]) -> list[str]:
        """Return the changes of the model, which are undone. Raises ContractViolation if its own code fails.

        passes: makes passes like those of a plugin. The network itself makes the changes that these repeat.
        """
        try:
            return self._changes(passes)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ContractViolation(f"its state cannot be compared: {describe(error)}", by="model") from error

    def _changes(self, passes: Callable[[], Any]) -> list[str]:
        net = self.classifier.net
        objects = self._watched.restore()
        changed = []
        for place, module, kind, name, tensor, before in self._kept if self._is_touched() else ():
            was_replaced = _tensor(module, kind, name) is not tensor
            if was_replaced or (before is not None and not same_values(tensor.detach(), before)):
                changed.append(f"the model's '{f'{place}.' if place else ''}{name}'")
                if before is not None:
                    tensor.data = before.clone()
                getattr(module, kind)[name] = tensor
        if any(module.training for module in net.modules()):
            changed.append("the model's eval mode")
            net.eval()
        if any(parameter.requires_grad for parameter in net.parameters()):
            changed.append("the model's frozen parameters")
            freeze(net)
        own: set[str] = set()
        for _ in range(REPEATS if objects else 0):
            passes()
            own |= self._watched.release()
            if own >= set(objects):
                break
        if objects:
            changed = [name for name in objects if name not in own] + changed
        return list(dict.fromkeys(changed))

    def _is_touched(self) -> bool:
        """Return whether any tensor was replaced or changed; a GPU is synchronised once instead of per tensor."""
        if any(_tensor(module, kind, name) is not tensor for _, module, kind, name, tensor, _ in self._kept):
            return True
        pairs = [(tensor.detach(), before) for *_, tensor, before in self._kept if before is not None]
        if any((a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) for a, b in pairs):
            return True
        if self.classifier.device.type == "cpu":
            return not all(torch.equal(a, b) for a, b in pairs)
        return bool(pairs) and bool(torch.stack([(a != b).any() for a, b in pairs]).any())


def _copy(tensor: Tensor) -> Tensor | None:
    """Return a copy of a parameter or a buffer, or None for one that is sparse or has no values, and is not watched."""
    plain = tensor.detach()
    is_known = other_than_plain(plain) is None or (plain.is_complex() and plain.layout is torch.strided)
    return plain.clone() if is_known and not plain.is_meta else None


def _tensor(module: nn.Module, kind: str, name: str) -> Tensor | None:
    """Return a parameter or a buffer of a module, which may be of TorchScript; None if it is gone."""
    return dict(getattr(module, kind).items()).get(name)
