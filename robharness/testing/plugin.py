"""The contract of a plugin as a whole."""

from __future__ import annotations

import sys

from robharness.testing.contract import Broken, Subject
from robharness.testing.fresh import in_fresh_process


def listing_imports_no_torch(plugin: Subject) -> None:
    """Listing a plugin's specs imports no torch, in a fresh process.

    Hooks declare; `build` and `open` import. Otherwise `robharness list` takes seconds for every user.
    """
    if in_fresh_process(_has_torch, plugin):
        raise Broken("its hooks, or its module, import torch; import it in `build` or `perturb`")


def _has_torch(plugin: Subject) -> bool:
    _ = plugin.plugin.registry
    return "torch" in sys.modules


RULES = (listing_imports_no_torch,)
