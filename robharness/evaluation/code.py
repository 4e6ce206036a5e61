"""Code that a network reaches: the names that it looks up, and whether a version identifies it."""

from __future__ import annotations

import dis
import functools
import importlib.machinery
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path


def global_names(code: types.CodeType) -> list[str]:
    """Return the global names that a function and the functions inside it look up, sorted."""
    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    return sorted({
        step.argval for each in _codes(code) for step in dis.get_instructions(each) if step.opname in loads
    })  # fmt: skip


def all_names(code: types.CodeType) -> list[str]:
    """Return all names of a function and the functions inside it, those of attributes included, sorted."""
    return sorted({name for each in _codes(code) for name in each.co_names})


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@functools.cache
def is_installed(module: str) -> bool:
    """Return whether a module is of Python, of an installed package or of robharness: a version identifies its code."""
    if module.partition(".")[0] in (*sys.builtin_module_names, "builtins", "robharness"):
        return True
    if module in ("__main__", "__mp_main__", ""):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # a module of C, or one that a notebook or a loader made
        spec = getattr(sys.modules.get(module), "__spec__", None)
        return getattr(spec, "loader", None) is importlib.machinery.BuiltinImporter or module in sys.stdlib_module_names
    return any(Path(file).is_relative_to(folder) for folder in _installed_folders())
