"""Export the weights of a trained ResNet in the layout of another library.

`python -m robharness_contrastive.export ARTEFACT FILE` writes one of these layouts:

torchvision: a state dict with torchvision's keys and the classifier as `fc`.

supcontrast: a checkpoint {"model": {"encoder...", "head..."}} as main_supcon.py of SupContrast saves it, with its names
of the shortcuts. That code does not save the classifier, so the classifier is written to FILE.head.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from robharness import UserError, checkpoints

LAYOUTS = ("torchvision", "supcontrast")
State = dict[str, Tensor]


def in_layout(state: State, layout: str) -> tuple[dict[str, Any], State | None]:
    """Convert an artefact's weights to a layout.

    Returns the checkpoint, and the classifier's state if the layout has it in a second file, else None.
    Raises UserError if the network is not a ResNet.
    """
    trunk = {
        key.removeprefix("encoder.trunk."): value for key, value in state.items() if key.startswith("encoder.trunk")
    }
    if "layer1.0.conv1.weight" not in trunk:
        raise UserError(
            "the weights are not those of a ResNet, and only a ResNet can be exported. "
            "Try: `network: resnet18` in the suite, and train again"
        )
    head = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
    if layout == "torchvision":
        return {**trunk, **{f"fc.{key}": value for key, value in head.items()}}, None
    encoder = {f"encoder.{re.sub(r'[.]downsample[.]', '.shortcut.', key)}": value for key, value in trunk.items()}
    projection = {
        f"head.{key.removeprefix('projection.')}": value
        for key, value in state.items()
        if key.startswith("projection.")
    }
    return {"model": {**encoder, **projection}}, {f"fc.{key}": value for key, value in head.items()}


@click.command(help=__doc__)
@click.argument("artefact", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--layout", type=click.Choice(LAYOUTS), default="supcontrast", show_default=True)
def main(artefact: Path, file: Path, layout: str) -> None:
    weights = artefact / "weights.safetensors"
    try:
        if not weights.is_file():
            raise UserError(f"{artefact} has no weights.safetensors. Try: robharness list artefacts")
        content, head = in_layout(checkpoints.read(weights), layout)
        torch.save(content, file)
        if head is not None:
            torch.save(head, file.with_name(f"{file.name}.head"))
    except UserError as error:
        raise click.ClickException(str(error)) from None
    recipe = (
        json.loads((artefact / "recipe.json").read_text(encoding="utf-8"))
        if (artefact / "recipe.json").is_file()
        else {}
    )
    click.echo(f"wrote {file}" + (f" and {file.name}.head" if head else "") + f", {recipe.get('model', artefact.name)}")


if __name__ == "__main__":
    main()
