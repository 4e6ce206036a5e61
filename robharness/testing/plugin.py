"""The contract of a plugin as a whole."""

from __future__ import annotations

import sys

from robharness.testing.contract import Broken, Subject
from robharness.testing.fresh import ask


def listing_imports_no_torch(plugin: Subject) -> None:
    """Listing what a plugin has imports no torch, in a fresh process.

    Hooks declare; `build` and `open` import. Otherwise `robharness list` takes seconds for everybody.
    """
    if ask(_has_torch, plugin):
        raise Broken("its hooks, or its module, import torch; import it in `build` or `perturb`")


def _has_torch(plugin: Subject) -> bool:
    _ = plugin.plugin.registry
    return "torch" in sys.modules


RULES = (listing_imports_no_torch,)
