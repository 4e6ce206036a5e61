"""Author kit: the contract of a plugin as pytest items, one per spec and check. Needs pytest: `robharness[testing]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robharness.testing.contract import Broken, Check, checks

__all__ = ["Broken", "Check", "checks", "parametrize_with_checks"]


def parametrize_with_checks(
    plugin: str | Path | ModuleType,
    *,
    only: str | Sequence[str] = "*",
    leave_out: str | Sequence[str] = (),
    data_root: str | Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, Path | Mapping[str, Path] | Callable[[], Any]] | None = None,
    classes: Mapping[str, int] | None = None,
    images: Mapping[str, Mapping[str, Any]] | None = None,
    splits: Mapping[str, str | Sequence[str]] | None = None,
) -> pytest.MarkDecorator:
    """Parametrize a test with the argument `check`: one item per spec and check.

    An item's id is, e.g., [models/resnet50-input_untouched].

    ```python
    from robharness.testing import parametrize_with_checks


    @parametrize_with_checks("robharness_mine")
    def test_contract(check):
        check()
    ```

    plugin: a module or its name, the namespace of an installed plugin, or the path of a loose file.
    only, leave_out: globs of specs ("models/*", "resnet50") or of ids ("*-sha256_stated").
    data_root: the folder of data and weights; by default as for `robharness run`.
    options: spec -> the keys that a suite would write beside `model:`, `attack:`, `corruption:` or the name of data.
    weights: model -> its file, its files by name, or a function that makes and returns either.
    classes: label space -> its number of classes.
    images: corruption -> the examples on its canvas, {"name", "split", "canvas"} as in a suite; needed for stored
        corruptions.
    splits: data set -> the splits to check, e.g. {"folder": ["my-pets"]}; by default all that the spec declares. Needed
        for a data set that takes any split, which else has one item that fails and says so.
    The keys of all mappings but `classes` may be globs.
    Raises UserError if the plugin cannot be loaded, if nothing is left to check, or if a key fits no spec. Missing
    weights and data make items that fail, with the message of `MissingResource`.
    """
    found = checks(
        plugin,
        only=only,
        leave_out=leave_out,
        data_root=data_root,
        options=options,
        weights=weights,
        classes=classes,
        images=images,
        splits=splits,
    )
    return pytest.mark.parametrize("check", found, ids=str)
