"""Import of RobustBench without two modules that it imports and that may be unavailable.

`autoattack` is not a published package; `pyautoattack`, which RobustBench installs, is the same code. `pkg_resources`
was removed from setuptools; RobustBench uses it only to find lists of images, which no network needs. Substitutes for
both are in `sys.modules` during the import only.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from robharness import UserError

INSTALL = "pip install robustbench==1.1.1"


def robustbench(module: str = "") -> Any:
    """Import RobustBench or one of its modules.

    module: name inside the package, e.g. "utils", or empty for the package.
    Raises UserError with the install command if the import fails.
    """
    name = f"robustbench.{module}" if module else "robustbench"
    try:
        with _substitutes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm warns about the names under which RobustBench imports it
            return importlib.import_module(name)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"RobustBench cannot be imported: {reason}. Try: {INSTALL}") from error


@contextmanager
def _substitutes() -> Iterator[None]:
    """Add substitutes for missing modules to `sys.modules` until the context ends."""
    added = {}
    for name, create in _SUBSTITUTES.items():
        if name not in sys.modules and importlib.util.find_spec(name.partition(".")[0]) is None:
            added[name] = create()
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


_SUBSTITUTES: dict[str, Callable[[], ModuleType]] = {
    "autoattack.state": lambda: importlib.import_module("pyautoattack.state"),
    "autoattack": lambda: importlib.import_module("pyautoattack"),
    "pkg_resources": lambda: ModuleType("pkg_resources"),
}
