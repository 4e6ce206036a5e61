"""RobustBench's own networks, filled from files as their authors lay them out."""

from __future__ import annotations

import argparse
import io
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from robharness import UserError, checkpoints
from robharness.checkpoints import Layout
from robharness_robustbench.library import INSTALL, robustbench
from robharness_robustbench.zoo import Published

State = dict[str, Tensor]
Place = tuple[nn.Module, tuple[str, ...]]
"""A network, and the keys that lead to it in its file."""

PREFIXES = ("module.", "model.")
NESTS = ((), ("state_dict",), ("last",), ("last", "state_dict"), ("model",))
"""What leads to a state in a file. Beside "last" there is "best": RobustBench takes the last."""
CONSTANTS = ("mu", "sigma", "mean", "std")


def load(published: Published, weights: Path | Mapping[str, Path] | None) -> nn.Module:
    """The network, (N, *published.shape) in [0, 1] -> outputs (N, classes), as RobustBench's own loader gives it.

    weights: its file, or those of an ensemble by name. Raises UserError where they do not fit, or RobustBench cannot be
    imported.
    """
    files = _files(published, weights)
    net: Any = network(published)
    for file, places in zip(files, _places(published, net), strict=True):
        for part, inside in places:
            layouts = list(_layouts(part, inside, published.lenient))
            checkpoints.load(part, file, layouts, allow=(argparse.Namespace,))
    if published.name == "Pang2020Boosting":
        net.fc = _UnitRows(net.fc)
    filled: nn.Module = net.eval()
    return filled


def network(published: Published) -> nn.Module:
    """RobustBench's network, on the CPU, with initial weights that are drawn and forgotten."""
    zoo = published.zoo
    enums, models = robustbench("model_zoo.enums"), robustbench("model_zoo.models").model_dicts
    known = models[enums.BenchmarkDataset(zoo.dataset)][enums.ThreatModel(zoo.threat)]
    if published.name not in known:
        raise UserError(f"the installed RobustBench has no model '{published.name}' in {zoo.name}. Type: {INSTALL}")
    # Not on the meta device: constants that no file has, mean and std, would be lost.
    with torch.random.fork_rng(devices=[]), _OnCPU(), _silence():
        if published.timm:
            net = robustbench("utils").timm.create_model(published.timm, num_classes=zoo.classes)
        elif published.url:  # RobustBench's own function would download
            imagenet = robustbench("model_zoo.imagenet")
            net = imagenet.normalize_model(imagenet.pt_models.resnet50(), imagenet.mu, imagenet.sigma)
        else:
            net = known[published.name]["model"]()
    assert isinstance(net, nn.Module)
    return net


class _UnitRows(nn.Module):
    """A linear layer without bias whose rows have norm 1: made so once, while RobustBench's pass does it every time, in
    place, to whatever is a `Linear`; a pass may not change a network here.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(linear.weight.detach(), p=2, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def _files(published: Published, weights: Path | Mapping[str, Path] | None) -> list[Path]:
    """One file, or those of an ensemble in RobustBench's order."""
    parts = published.parts
    if isinstance(weights, Path) and not parts:
        return [weights]
    if isinstance(weights, Mapping) and set(weights) == set(parts):
        return [weights[part] for part in parts]
    wanted = (
        f"{{{', '.join(f'{part}: ./{file}' for part, file in parts.items())}}}" if parts else f"./{published.name}.pt"
    )
    count = f"{len(parts)} files" if parts else "one file"
    raise UserError(f"{published.name} of RobustBench has {count}. Write: weights: {wanted}")


def _places(published: Published, net: Any) -> list[list[Place]]:
    """What each file is for."""
    if not published.parts:
        return [[(net, ())]]
    if published.name.startswith("Bai2023Improving"):
        mix = net.comp_model
        return [[(mix.models[0], ())], [(mix.models[1], ())], [(mix.policy_net, ("model",)), (mix.bn, ("bn",))]]
    if published.name.startswith("Bai2024MixedNUTS"):
        return [[(net.std_model, ())], [(net.rob_model, ())]]
    return [[(member, ())] for member in net.models]


def _layouts(net: nn.Module, inside: tuple[str, ...], lenient: bool) -> Iterator[Layout]:
    """As it is, or under one of the nests; names that timm has given up since are made timm's own, where need be."""
    bare = getattr(net, "model", net)  # without the layer that normalises
    timm = getattr(sys.modules[type(bare).__module__], "checkpoint_filter_fn", None)
    for filtered in (False, True) if timm else (False,):
        for nest in NESTS:
            under = "".join(f"['{key}']" for key in (*nest, *inside)) or "bare"
            yield Layout(
                name=under + (", older timm" if filtered else ""),
                inside=(*nest, *inside),
                prefixes=PREFIXES,
                convert=partial(_placed, net, lenient, partial(timm, model=bare) if filtered and timm else dict),
            )


def _placed(net: nn.Module, lenient: bool, converted: Any, found: State) -> State:
    """A state without prefixes under the network's own names, which have prefixes, too."""
    with suppress(AttributeError, KeyError, RuntimeError):  # of another network altogether, which will be said
        found = converted(found)
    own = net.state_dict()
    places = {_without_prefixes(name): name for name in own}
    placed = {places.get(name, name): value for name, value in found.items()}
    if not lenient:
        return placed
    constants = {name: value for name, value in own.items() if name.rpartition(".")[2] in CONSTANTS}
    # "conv1.scores" belongs to no layer and is dropped; "layer3.22.conv1.weight" to a deeper network, and is not.
    layers = {_any_number(name) for name in (*own, *places)}
    return constants | {name: value for name, value in placed.items() if _any_number(name) in layers}


def _without_prefixes(name: str) -> str:
    return re.sub(rf"^(?:{'|'.join(map(re.escape, PREFIXES))})+", "", name)


def _any_number(name: str) -> str:
    return re.sub(r"[0-9]+", "0", name)


class _OnCPU(TorchFunctionMode):
    """Some of RobustBench's networks call `.cuda()` while they are made, GPU or not; they move later, as any other."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.cuda else func(*args, **(kwargs or {}))


@contextmanager
def _silence() -> Iterator[None]:
    """No prints and no warnings of deprecated names."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
