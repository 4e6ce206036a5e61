"""Print what trainings have noted in every epoch.

`python -m robharness_contrastive.curves STORE` prints a CSV table with a line per artefact, stage and epoch. Columns
are the artefact's hash, its model, label and seed, the options that are asked for, and all notes of `metrics.jsonl`.
"""

from __future__ import annotations

import csv
import fnmatch
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from robharness import UserError, for_shell
from robharness_contrastive.artefact import METRICS

NAMES = ("artefact", "model", "label", "seed")
"""Columns that name an artefact."""


def rows(store: Path, options: Sequence[str] = (), label: str = "*") -> Iterator[dict[str, Any]]:
    """Yield a mapping for every epoch of every artefact in a store, in the order of their labels.

    options: of recipes, with dots between a mapping and its key, `removal.strategy`; those that have the default value
        are left out.
    label: glob of the artefacts' labels.

    Raises UserError if the store has no artefact with such a label, or for a file that is damaged.
    """
    folders = sorted(path for path in (store / "artefacts").glob("[!.]*") if (path / METRICS).is_file())
    found = [(folder, recipe, name) for folder in folders
             for recipe in [_read(folder / "recipe.json")]
             for name in [str(_read(folder / "provenance.json").get("label", ""))]
             if fnmatch.fnmatchcase(name, label)]  # fmt: skip
    if not found:
        raise UserError(
            f"{store} has no trained model with a label '{label}'. "
            f"Try: robharness list artefacts --store {for_shell(store)}"
        )
    for folder, recipe, name in sorted(found, key=lambda each: (each[2], each[0].name)):
        named = dict(zip(NAMES, (folder.name, recipe.get("model", ""), name, recipe.get("seed", "")), strict=True))
        chosen = {option: _option(recipe.get("params", {}), option) for option in options}
        for number, line in enumerate((folder / METRICS).read_text(encoding="utf-8").splitlines(), 1):
            noted = _parsed(line, f"line {number} of {folder / METRICS}", folder)
            if "epoch" in noted:
                yield {**named, **chosen, **noted}


def _option(params: Any, name: str) -> Any:
    for key in name.split("."):
        params = params.get(key, "") if isinstance(params, Mapping) else ""
    return params


def _read(path: Path) -> Mapping[str, Any]:
    return _parsed(path.read_text(encoding="utf-8"), str(path), path.parent) if path.is_file() else {}


def _parsed(text: str, place: str, folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{place} is no JSON object. Try: rm -r {for_shell(folder)}, and train again")
    return found


@click.command(help=__doc__)
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--label", default="*", help="Only artefacts whose label matches this glob.")
@click.option("--option", "options", multiple=True, help="An option of the recipes as a column; may be repeated.")
def main(store: Path, label: str, options: tuple[str, ...]) -> None:
    try:
        table = list(rows(store, options, label))
    except UserError as error:
        raise click.ClickException(str(error)) from None
    columns = list(dict.fromkeys(key for row in table for key in row))
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)


if __name__ == "__main__":
    main()
