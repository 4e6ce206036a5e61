"""Building of networks from their plans: those of a suite's models, and those of the encoders in their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from robharness.checkpoints import LeftOver, StateChoice, choosing, noting
from robharness.errors import ContractViolation, UserError, describe
from robharness.evaluation.memory import is_out_of_memory
from robharness.evaluation.modes import kept_modes
from robharness.evaluation.tensors import other_than_plain
from robharness.planning.planned import PlannedModel
from robharness.plugins.calls import call_spec, plugin_code
from robharness.specs.conventions import NO_LABELS
from robharness.specs.references import encoders_of


def build_network(
    model: PlannedModel,
    restored: dict[str, list[str]] | None = None,
    left_over: list[LeftOver] | None = None,
    *,
    is_trunk: bool = False,
) -> nn.Module:
    """Return the network, built from its weights.

    is_trunk: whether it is built without its classifier, by the spec's `trunk`.
    restored: gets the modes that `build` changes, which are put back, by the model's name.
    left_over: gets what trunks, also of encoders, leave over of their checkpoints.
    Raises ContractViolation for what its plugin raises, except UserError and a lack of memory, and if `build` does not
    return a torch.nn.Module. Modes of torch that `build` changes are restored.
    """
    weights = model.weights or (model.artefact and model.artefact.weights())  # which may be trained since the plan
    files = weights.path if weights else None
    build = model.entry.spec.trunk if is_trunk else model.entry.spec.build
    names = files if isinstance(files, Mapping) else None
    chosen = choosing(_state_choices(model), names=names, is_pinned=_is_pinned(model))
    try:
        with kept_modes() as modes, noting() as noted, chosen:
            given = dict(files) if isinstance(files, Mapping) else files  # which `build` may empty
            net: Any = call_spec(build, with_loaders(model.ref.params), given)
    except (ContractViolation, UserError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ContractViolation(f"it cannot be built: {describe(error)}", by="model") from error
    if not isinstance(net, nn.Module):
        raise ContractViolation(f"its build returned {type(net).__name__}, not a torch.nn.Module", by="model")
    if modes.changed and restored is not None:
        restored[model.entry.name] = modes.changed
    if left_over is not None:
        left_over += noted
    return net


def _state_choices(model: PlannedModel) -> dict[Path, StateChoice]:
    """Return the choices of the suite, by file; see `robharness.checkpoints.choosing`."""
    files, inside, strip = model.ref.weights, model.ref.inside, model.ref.strip
    if files is None or inside is strip is None:
        return {}
    if isinstance(files, Path):
        return {files: StateChoice(inside=cast(str | None, inside), strip=cast(str | None, strip))}
    of_inside, of_strip = (cast(dict[str, str], key or {}) for key in (inside, strip))
    return {
        file: StateChoice(inside=of_inside.get(name), strip=of_strip.get(name))
        for name, file in files.items()
        if name in of_inside or name in of_strip
    }


def _is_pinned(model: PlannedModel) -> bool:
    """Return whether the weights are the publisher's own files, known by their sha256."""
    declared = model.entry.spec.weights
    files = declared.values() if isinstance(declared, Mapping) else [declared]
    return model.ref.weights is None and all(getattr(file, "sha256", None) for file in files)


def with_loaders(params: Any) -> Any:
    """Return options whose encoders can be loaded."""
    encoders = {name: each for name, each in encoders_of(params).items() if isinstance(each.model, PlannedModel)}
    loaders = {name: each.loaded_by(partial(_load_option, name, each.model)) for name, each in encoders.items()}
    with plugin_code():
        return dataclasses.replace(params, **loaders) if loaders else params


def load_encoder(encoder: PlannedModel) -> EncoderNetwork:
    """Build the network of an encoder, see `robharness.Encoder.load`.

    Raises UserError for weights that do not fit, and ContractViolation for what its plugin does wrong.
    """
    spec = encoder.entry.spec
    if spec.trunk is not None:
        network = EncoderNetwork(build_network(encoder, is_trunk=True).eval())
    else:
        features = "" if spec.features is None and spec.labels == NO_LABELS else spec.features
        net = build_network(encoder).eval()
        if features is None or features not in dict(net.named_modules()):
            raise ContractViolation(f"its `features` are '{features}', and it has no part of that name", by="model")
        network = EncoderNetwork(net, features)
    with torch.no_grad(), kept_modes():
        network.eval().cut(torch.linspace(0, 1, 2 * prod(spec.input.shape)).view(2, *spec.input.shape))
    return network


def _load_option(name: str, encoder: PlannedModel) -> EncoderNetwork:
    """Build the network of the encoder in an option for a plugin. Raises ContractViolation that names the encoder."""
    try:
        return load_encoder(encoder)
    except (ContractViolation, UserError) as error:
        inner = error.by.removeprefix("model") if isinstance(error, ContractViolation) else ""
        raise ContractViolation(f"its encoder {encoder.entry.name}: {error}", by=f"model.{name}{inner}") from error


class _Reached(Exception):
    """The features are computed; nothing that follows is needed."""


class EncoderNetwork(nn.Module):
    """A network up to its features: inputs (N, *shape) in [0, 1] -> features (N, D) float32.

    net: the whole network.
    features: name of the submodule whose last output is the features; empty for the output of the network itself.
    """

    def __init__(self, net: nn.Module, features: str = "") -> None:
        super().__init__()
        self.net = net
        self._features = features
        self._stops = False

    def forward(self, x: Tensor) -> Tensor:
        output = self.net(x) if not self._features else self._until_features(x)
        if (other := other_than_plain(output)) is not None or output.ndim < 2 or len(output) != len(x):
            found = other or f"{tuple(output.shape)}"
            raise ContractViolation(f"its features must be (N, D), they are {found} for {len(x)} inputs", by="model")
        flat: Tensor = output.flatten(1).float()
        return flat

    def _until_features(self, x: Tensor) -> Any:
        seen: list[Any] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            seen.append(output)
            if self._stops:
                raise _Reached

        with self.net.get_submodule(self._features).register_forward_hook(keep), suppress(_Reached):
            self.net(x)
        if not seen:
            raise ContractViolation(f"its `features`, '{self._features}', are not called in a pass", by="model")
        return seen[-1]

    def cut(self, x: Tensor) -> None:
        """Remove the modules that only follow the features, as a pass of these inputs shows.

        Nothing is removed where the features change without them. A submodule that is called several times in a pass
        gives its last output, so that the pass is not ended at its first one.
        """
        with _calls(self.net) as order:
            before = self(x)
        if not self._features:
            return
        target = self.net.get_submodule(self._features)
        self._stops = order.count(target) == 1
        at = len(order) - 1 - order[::-1].index(target)
        following = [module for module in dict.fromkeys(order[at + 1 :]) if module not in order[: at + 1]]
        leaves = {id(module) for module in following if not any(module.children())}
        removed = [(parent, name, child) for parent in self.net.modules() for name, child in parent.named_children()
                   if id(child) in leaves]  # fmt: skip
        for parent, name, _ in removed:
            setattr(parent, name, nn.Identity())
        try:
            is_same = torch.equal(self(x), before)
        except Exception:  # e.g. of a pass that reads a size of its classifier
            is_same = False
        if not is_same:
            self._stops = False
            for parent, name, child in removed:
                setattr(parent, name, child)


@contextmanager
def _calls(net: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the list that gets each module of a network when its call ends."""
    order: list[nn.Module] = []
    handles = [module.register_forward_hook(lambda module, *_: order.append(module)) for module in net.modules()]
    try:
        yield order
    finally:
        for handle in handles:
            handle.remove()
