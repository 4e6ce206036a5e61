"""Loading of the publishers' files into networks that take values in [0, 1]."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from robharness import UserError, checkpoints, normalized
from robharness.checkpoints import Layout
from robharness_ssl import haiku, layouts, networks, table

ALLOWED = (Namespace,)
"""Classes that pickles may contain beside tensors: DINO, iBOT and MAE save the options of the training."""


def encoder(entry: table.Encoder, weights: Any) -> nn.Module:
    """Build an encoder that maps (N, 3, 224, 224) in [0, 1] to the representation (N, D).

    weights: path of the publisher's file.
    Raises UserError if the file does not match the network exactly.
    """
    net = networks.build(entry.network)
    _load(net, one_file(entry.name, weights), layouts.ENCODERS[entry.publisher])
    return normalized(_represented(net, entry), *entry.normalization)


def classifier(entry: table.Encoder, weights: Any) -> nn.Module:
    """Build an encoder with its linear classifier that maps (N, 3, 224, 224) in [0, 1] to logits (N, 1000).

    weights: path of the publisher's file, or paths {"encoder": ..., "head": ...} if the publisher has two files.
    Raises UserError if the files do not match the network exactly.
    """
    net, head = networks.build(entry.network), networks.head(entry)
    if entry.is_whole:
        _load(networks.Classifier(net, head), one_file(f"{entry.name}-linear", weights), layouts.WHOLE[entry.publisher])
    else:
        if not isinstance(weights, Mapping) or set(weights) != {"encoder", "head"}:
            given = ", ".join(weights) if isinstance(weights, Mapping) else "one file"
            raise UserError(
                f"ssl/{entry.name}-linear takes an encoder and a head, not {given}. "
                f"Try: set `weights: {{encoder: ./encoder.pth, head: ./head.pth}}` in the suite"
            )
        _load(net, Path(weights["encoder"]), layouts.ENCODERS[entry.publisher])
        _load(head, Path(weights["head"]), layouts.HEADS[entry.publisher])
    return normalized(networks.Classifier(_represented(net, entry), head), *entry.normalization)


def finetuned(entry: table.Finetuned, weights: Any) -> nn.Module:
    """Build a fine-tuned network that maps (N, 3, 224, 224) in [0, 1] to logits (N, 1000).

    weights: path of the publisher's file.
    Raises UserError if the file does not match the network exactly.
    """
    net = networks.Classifier(networks.build(entry.network), networks.head(entry))
    _load(net, one_file(entry.name, weights), layouts.WHOLE[entry.publisher])
    return normalized(net, *entry.normalization)


def _represented(net: nn.Module, entry: table.Encoder) -> nn.Module:
    return networks.Representation(net, entry.linear) if entry.linear else net


def _load(net: nn.Module, file: Path, known: Sequence[Layout]) -> None:
    if file.suffix == ".pkl":
        content: Any = haiku.read(file)
    else:
        content = checkpoints.read(file, ALLOWED)
    checkpoints.load(net, content, known, ALLOWED, where=file)


def one_file(name: str, weights: Any) -> Path:
    """Return the only file. Raises UserError if several are given."""
    if isinstance(weights, Mapping):
        raise UserError(f"ssl/{name} takes one file, not {', '.join(weights)}. Try: set `weights: ./FILE` in the suite")
    return Path(weights)
