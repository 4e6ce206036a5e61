"""RobustBench's networks with weights from files in their authors' layouts."""

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
Target = tuple[nn.Module, tuple[str, ...]]
"""A module, and the keys that lead to its state dict in the file."""

PREFIXES = ("module.", "model.")
NESTS = ((), ("state_dict",), ("last",), ("last", "state_dict"), ("model",))
"""Keys that may lead to a state dict. Files with "last" also have "best"; RobustBench uses "last"."""
CONSTANTS = ("mu", "sigma", "mean", "std")
"""Last parts of the names of normalisation constants."""


def load(published: Published, weights: Path | Mapping[str, Path] | None) -> nn.Module:
    """Build a network that maps (N, *published.shape) in [0, 1] to outputs (N, classes), as RobustBench's loader does.

    published: the model.
    weights: path of its checkpoint, or name -> path for the checkpoints of an ensemble.
    Raises UserError if a checkpoint does not match the network, or if RobustBench cannot be imported.
    """
    files = _files(published, weights)
    net: Any = network(published)
    for file, targets in zip(files, _targets(published, net), strict=True):
        for part, inside in targets:
            layouts = list(_layouts(part, inside, published.lenient))
            checkpoints.load(part, file, layouts, allow=(argparse.Namespace,))
    if published.name == "Pang2020Boosting":
        net.fc = _UnitNormLinear(net.fc)
    filled: nn.Module = net.eval()
    return filled


def network(published: Published) -> nn.Module:
    """Build RobustBench's network on the CPU, with initial weights, without changing the global random state."""
    zoo = published.zoo
    enums, models = robustbench("model_zoo.enums"), robustbench("model_zoo.models").model_dicts
    known = models[enums.BenchmarkDataset(zoo.dataset)][enums.ThreatModel(zoo.threat)]
    if published.name not in known:
        raise UserError(f"the installed RobustBench has no model '{published.name}' in {zoo.name}. Try: {INSTALL}")
    # Not on the meta device, which would lose the constants that no file contains, e.g. mean and std.
    with torch.random.fork_rng(devices=[]), _OnCPU(), _silence():
        if published.timm:
            net = robustbench("utils").timm.create_model(published.timm, num_classes=zoo.classes)
        elif published.url:  # RobustBench's own function would download the weights
            imagenet = robustbench("model_zoo.imagenet")
            net = imagenet.normalize_model(imagenet.pt_models.resnet50(), imagenet.mu, imagenet.sigma)
        else:
            net = known[published.name]["model"]()
    assert isinstance(net, nn.Module)
    return net


class _UnitNormLinear(nn.Module):
    """A linear layer without bias whose rows are normalised to norm 1 at construction.

    RobustBench's forward pass normalises every `Linear` in place. robharness forbids a pass that changes the network.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(linear.weight.detach(), p=2, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def _files(published: Published, weights: Path | Mapping[str, Path] | None) -> list[Path]:
    """Return the files in RobustBench's order. Raises UserError if their number or names are wrong."""
    parts = published.parts
    if isinstance(weights, Path) and not parts:
        return [weights]
    if isinstance(weights, Mapping) and set(weights) == set(parts):
        return [weights[part] for part in parts]
    wanted = (
        f"{{{', '.join(f'{part}: ./{file}' for part, file in parts.items())}}}" if parts else f"./{published.name}.pt"
    )
    count = f"{len(parts)} files" if parts else "one file"
    raise UserError(f"{published.name} of RobustBench has {count}. Try: set `weights: {wanted}` in the suite")


def _targets(published: Published, net: Any) -> list[list[Target]]:
    """Return, for each file, the modules that it fills."""
    if not published.parts:
        return [[(net, ())]]
    if published.name.startswith("Bai2023Improving"):
        mixture = net.comp_model
        policy: list[Target] = [(mixture.policy_net, ("model",)), (mixture.bn, ("bn",))]
        return [[(mixture.models[0], ())], [(mixture.models[1], ())], policy]
    if published.name.startswith("Bai2024MixedNUTS"):
        return [[(net.std_model, ())], [(net.rob_model, ())]]
    return [[(member, ())] for member in net.models]


def _layouts(net: nn.Module, inside: tuple[str, ...], lenient: bool) -> Iterator[Layout]:
    """Yield layouts: a state dict under each of NESTS, unchanged or with old names converted by timm.

    inside: further keys that lead to the module's state dict.
    lenient: see `Published`.
    """
    bare = getattr(net, "model", net)  # without the normalisation layer
    timm = getattr(sys.modules[type(bare).__module__], "checkpoint_filter_fn", None)
    for filtered in (False, True) if timm else (False,):
        for nest in NESTS:
            path = "".join(f"['{key}']" for key in (*nest, *inside)) or "state dict"
            yield Layout(
                name=path + (", older timm" if filtered else ""),
                inside=(*nest, *inside),
                prefixes=PREFIXES,
                convert=partial(_renamed, net, lenient, partial(timm, model=bare) if filtered and timm else dict),
            )


def _renamed(net: nn.Module, lenient: bool, convert: Any, found: State) -> State:
    """Rename a state dict without prefixes to the names of the network, which may have prefixes."""
    with suppress(AttributeError, KeyError, RuntimeError):  # from another network; loading will report the mismatch
        found = convert(found)
    own = net.state_dict()
    names = {_without_prefixes(name): name for name in own}
    renamed = {names.get(name, name): value for name, value in found.items()}
    if not lenient:
        return renamed
    constants = {name: value for name, value in own.items() if name.rpartition(".")[2] in CONSTANTS}
    # Drop "conv1.scores", which is in no layer. Keep "layer3.22.conv1.weight", so that a deeper network is refused.
    known = {_with_number_0(name) for name in (*own, *names)}
    return constants | {name: value for name, value in renamed.items() if _with_number_0(name) in known}


def _without_prefixes(name: str) -> str:
    return re.sub(rf"^(?:{'|'.join(map(re.escape, PREFIXES))})+", "", name)


def _with_number_0(name: str) -> str:
    """Return the name with every number replaced by 0."""
    return re.sub(r"[0-9]+", "0", name)


class _OnCPU(TorchFunctionMode):
    """Ignore `.cuda()`, which some of RobustBench's constructors call; robharness moves networks to the GPU later."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.cuda else func(*args, **(kwargs or {}))


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress prints and warnings of RobustBench's constructors."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
