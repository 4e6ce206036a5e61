"""Guard of a model's state around calls of plugins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robharness.errors import ContractViolation, describe
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier, freeze, same_values
from robharness.evaluation.memory import is_out_of_memory


class Guard:
    """A copy of a model's state, which is compared with the model and restored after every call of a plugin.

    Trade-off: a second copy of the weights, and a comparison that takes milliseconds where passes take seconds. In
    return, the plugin that changed the model is known, and the next cell gets an unchanged model.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._modules = [
            (place, module, dict(module._modules.items())) for place, module in classifier.net.named_modules()
        ]
        self._kept = [
            (place, module, kind, name, tensor, tensor.detach().clone())
            for place, module in classifier.net.named_modules()
            for kind in ("_parameters", "_buffers")
            for name, tensor in getattr(module, kind).items()
            if tensor is not None
        ]

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """Restore model and batch after the block; raise ContractViolation if the block changed them."""
        canvas = batch.canvas if batch.has_canvas else None
        saved = [(name, tensor, tensor.clone()) for name, tensor in
                (("input", batch.x), ("labels", batch.labels), ("canvas", canvas)) if tensor is not None]  # fmt: skip
        changed: list[str] = []
        try:
            yield
        finally:
            changed += [*self._checked_model(), *_batch_changes(saved)]
            changed += ["values that the cells of a model share"] * batch._drop_changed()
        if changed:
            raise ContractViolation(f"it changed {', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''}")

    def _checked_model(self) -> list[str]:
        """Return the changes of the model, which are undone. Raises ContractViolation if its own code fails."""
        try:
            return self._model_changes()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ContractViolation(f"its state cannot be compared: {describe(error)}", by="model") from error

    def _model_changes(self) -> list[str]:
        changed = []
        net = self.classifier.net
        for place, module, children in self._modules:
            if dict(module._modules.items()) != children:
                changed.append(f"the parts of the model{f' below {place}' if place else ''}")
                module._modules.clear()
                module._modules.update(children)
        for place, module, kind, name, tensor, before in self._kept if self._is_touched() else ():
            was_replaced = _tensor(module, kind, name) is not tensor
            if was_replaced or not same_values(tensor.detach(), before):
                changed.append(f"the model's '{f'{place}.' if place else ''}{name}'")
                tensor.data = before.clone()
                getattr(module, kind)[name] = tensor
        if any(module.training for module in net.modules()):
            changed.append("the model's eval mode")
            net.eval()
        if any(parameter.requires_grad for parameter in net.parameters()):
            changed.append("the model's frozen parameters")
            freeze(net)
        return changed

    def _is_touched(self) -> bool:
        """Return whether any tensor was replaced or changed; a GPU is synchronised once instead of per tensor."""
        if any(_tensor(module, kind, name) is not tensor for _, module, kind, name, tensor, _ in self._kept):
            return True
        pairs = [(tensor.detach(), before) for *_, tensor, before in self._kept]
        if self.classifier.device.type == "cpu" or any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
            return not all(torch.equal(a, b) for a, b in pairs)
        return bool(pairs) and bool(torch.stack([(a != b).any() for a, b in pairs]).any())


def _tensor(module: nn.Module, kind: str, name: str) -> Tensor | None:
    """Return a parameter or a buffer of a module, which may be of TorchScript; None if it is gone."""
    return dict(getattr(module, kind).items()).get(name)


def _batch_changes(saved: list[tuple[str, Tensor, Tensor]]) -> list[str]:
    changed = []
    for name, tensor, before in saved:
        if tensor.requires_grad:
            changed.append(f"the batch's {name}, which now requires gradients")
            tensor.requires_grad_(False)
        if not same_values(tensor, before):
            changed.append(f"the batch's {name}")
            tensor.copy_(before)
    return changed
