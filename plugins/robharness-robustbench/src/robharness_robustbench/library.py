"""RobustBench itself, imported in spite of two modules that it asks for and nobody has.

`autoattack` is not on PyPI: `pyautoattack`, which RobustBench installs, is the same code. `pkg_resources` has left
setuptools, and finds lists of pictures that no network needs. Both names are lent for the import alone.
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
    """The package, or a module of it, e.g. "utils". Raises UserError where it cannot be imported."""
    name = f"robustbench.{module}" if module else "robustbench"
    try:
        with _lent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm, of the ways RobustBench imports it
            return importlib.import_module(name)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"RobustBench cannot be imported: {reason}. To get it: {INSTALL}") from error


@contextmanager
def _lent() -> Iterator[None]:
    """The modules that are missing, in `sys.modules` until this ends."""
    lent = {}
    for name, stand_in in _STAND_INS.items():
        if name not in sys.modules and importlib.util.find_spec(name.partition(".")[0]) is None:
            lent[name] = stand_in()
    sys.modules.update(lent)
    try:
        yield
    finally:
        for name in lent:
            del sys.modules[name]


_STAND_INS: dict[str, Callable[[], ModuleType]] = {
    "autoattack.state": lambda: importlib.import_module("pyautoattack.state"),
    "autoattack": lambda: importlib.import_module("pyautoattack"),
    "pkg_resources": lambda: ModuleType("pkg_resources"),
}
