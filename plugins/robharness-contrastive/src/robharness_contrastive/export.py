"""Export the weights of a trained ResNet in the layout of another library.

`python -m robharness_contrastive.export ARTEFACT FILE` writes one of these layouts:

torchvision: a state dict with torchvision's keys and the classifier as `fc`.

supcontrast: a checkpoint {"model": {"encoder...", "head..."}} as main_supcon.py of SupContrast saves it, with its names
of the shortcuts. That code does not save the classifier, so the classifier is written to FILE.head.

rocl: a checkpoint {"model": {"module..."}} as rocl_train.py of RoCL saves it, and the classifier in FILE_linear.

acl: a checkpoint {"state_dict"} as train_simCLR.py of ACL saves it, with both BatchNorms of each layer.

dynacl: the same as model_encoder_k.pt of train_DynACL.py, which DynACL's evaluations read.

advcl: a checkpoint {"model": {"module..."}} as pretraining_advCL.py of AdvCL saves it. One BatchNorm per layer becomes
`bn_list.1`, the one that AdvCL's evaluation reads.

deacl: a checkpoint {"state_dict": {"backbone..."}} that adv_finetune.py of DeACL reads.

An encoder that was trained with two BatchNorms per layer goes into the layouts with one by --branch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from robharness import UserError, checkpoints, for_shell

LAYOUTS = ("torchvision", "supcontrast", "rocl", "acl", "dynacl", "advcl", "deacl")
SMALL = LAYOUTS[2:]
"""Layouts of CIFAR's stem alone, of which robharness-ssl states the sources."""
BRANCHES = {"clean": 0, "adversarial": 1}
"""Branch -> its number in `bn_list`, as in ACL."""
HEADS = {"supcontrast": ".head", "rocl": "_linear"}
"""Layout -> what follows FILE in the name of the classifier's file."""
State = dict[str, Tensor]

_BRANCH = re.compile(r"\.bn_list\.(\d+)\.")


def in_layout(state: State, layout: str, branch: str | None = None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Convert an artefact's weights to a layout.

    state: of the artefact. An encoder with two BatchNorms per layer has them under `bn_list.0` (clean images) and
        `bn_list.1` (attacked images).
    layout: one of `LAYOUTS`.
    branch: "adversarial" or "clean", for an encoder with two BatchNorms per layer and a layout with one; with AdvCL's
        layout, which has a place for both, the branch that alone is written; else None.
    Returns the checkpoint, and the content of the classifier's file if the layout has a second file, else None.
    Raises UserError if the network is not a ResNet, if the layout has no place for its stem or its normalisation, and
    if branches are missing or not chosen.
    """
    trunk = _below("encoder.trunk.", state)
    if "layer1.0.conv1.weight" not in trunk:
        raise UserError(
            "the weights are not those of a ResNet, and only a ResNet can be exported. "
            "Try: `network: resnet18` in the suite, and train again"
        )
    if layout in SMALL and trunk["conv1.weight"].shape != (64, 3, 3, 3):
        raise UserError(
            f"the encoder's first convolution has the shape {tuple(trunk['conv1.weight'].shape)}, and the layout "
            f"{layout} that of CIFAR's stem, (64, 3, 3, 3). Try: --layout torchvision"
        )
    trunk = _with_branches(trunk, layout, branch)
    normalization = _below("encoder.normalize.0.", state)
    head = _below("head.", state)
    if layout == "torchvision":
        return {**trunk, **_under("fc.", head)}, None
    if layout == "supcontrast":
        projection = _below("projection.", state)
        return {"model": {**_under("encoder.", _shortcuts(trunk)), **_under("head.", projection)}}, _under("fc.", head)
    if layout in ("rocl", "advcl"):
        if normalization:
            mean, std = ([round(number, 4) for number in normalization[key].tolist()] for key in ("mean", "std"))
            raise UserError(
                f"the encoder normalises its inputs (mean {mean}, std {std}), and networks of the layout {layout} "
                f"never do: they would compute other features. Try: --layout deacl or acl, which keep mean and std, or "
                f"`normalize: false` in the suite, and train again"
            )
        renamed = _shortcuts(trunk) if layout == "rocl" else _multiple(trunk)
        linear = {"model": _under("module.0.", head)} if layout == "rocl" and head else None
        return {"model": _under("module.", renamed)}, linear
    buffers = normalization or {"mean": torch.zeros(3), "std": torch.ones(3)}
    normalized = {**_under("normalize.", buffers), **trunk}
    if layout == "deacl":
        return {"state_dict": _under("backbone.", normalized)}, None
    return {"state_dict": _multiple(normalized)}, None


def _with_branches(trunk: State, layout: str, branch: str | None) -> State:
    """Return the trunk with as many BatchNorms per layer as the layout has. Raises UserError if it cannot have them."""
    numbers = {int(match[1]) for key in trunk if (match := _BRANCH.search(key))}
    is_dual = numbers == set(BRANCHES.values())
    if numbers and not is_dual:
        raise UserError(f"the encoder has BatchNorms {sorted(numbers)}, not 0 and 1. Try: robharness list artefacts")
    if layout in ("acl", "dynacl"):
        if not is_dual:
            raise UserError(
                f"the layout {layout} has two BatchNorms per layer, of clean and of attacked images, and the encoder "
                f"has one. Try: --layout deacl"
            )
        if branch:
            raise UserError(f"the layout {layout} has both branches. Try: leave --branch out")
        return trunk
    if not is_dual:
        if branch:
            raise UserError("the encoder has one BatchNorm per layer. Try: leave --branch out")
        return {_NORM.sub(r"\1.bn_list.1.", key): value for key, value in trunk.items()} if layout == "advcl" else trunk
    if layout == "advcl":
        others = {number for name, number in BRANCHES.items() if branch not in (None, name)}
        return {key: value for key, value in trunk.items() if not (m := _BRANCH.search(key)) or int(m[1]) not in others}
    if branch is None:
        raise UserError(
            f"the encoder has two BatchNorms per layer, of clean and of attacked images, and the layout {layout} one. "
            f"Try: --branch adversarial, or --branch clean"
        )
    used = BRANCHES[branch]
    kept = {key: value for key, value in trunk.items() if not (m := _BRANCH.search(key)) or int(m[1]) == used}
    return {_BRANCH.sub(".", key): value for key, value in kept.items()}


_NORM = re.compile(r"((?:^|\.)bn\d|\.downsample\.1)\.")
"""A BatchNorm of torchvision's ResNets in a key."""


def _multiple(state: State) -> State:
    """Return the state with the names of shortcuts in networks with several BatchNorms per layer."""
    renamed = {re.sub(r"\.downsample\.0\.", ".downsample.conv.", key): value for key, value in state.items()}
    return {re.sub(r"\.downsample\.1\.", ".downsample.bn.", key): value for key, value in renamed.items()}


def _shortcuts(state: State) -> State:
    return {re.sub(r"\.downsample\.", ".shortcut.", key): value for key, value in state.items()}


def _below(prefix: str, state: State) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


@click.command(help=__doc__)
@click.argument("artefact", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--layout", type=click.Choice(LAYOUTS), default="supcontrast", show_default=True)
@click.option("--branch", type=click.Choice(list(BRANCHES)), help="The branch of an encoder with two BatchNorms.")
def main(artefact: Path, file: Path, layout: str, branch: str | None) -> None:
    weights = artefact / "weights.safetensors"
    try:
        if not weights.is_file():
            raise UserError(f"{artefact} has no weights.safetensors. Try: robharness list artefacts")
        if not file.parent.is_dir():
            raise UserError(f"the folder of {file} does not exist. Try: mkdir -p {for_shell(file.parent)}")
        content, head = in_layout(checkpoints.read(weights), layout, branch)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    torch.save(content, file)
    written = [str(file)]
    if head:
        beside = file.with_name(f"{file.name}{HEADS[layout]}")
        torch.save(head, beside)
        written.append(beside.name)
    described = artefact / "recipe.json"
    recipe = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {}
    click.echo(f"wrote {' and '.join(written)}, {recipe.get('model', artefact.name)}")
    if layout == "deacl":
        click.echo(
            "DeACL's network pads its first convolution by 2 pixels, contrastive/resnet18 by 1. In DeACL's code these "
            "weights give other features; with `padding: 1`, ssl/deacl-resnet18 computes the same"
        )


if __name__ == "__main__":
    main()
