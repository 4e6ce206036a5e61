"""Loose plugins: a Python file, and the modules beside it that it imports, which count as its source."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from robharness.errors import PluginLoadError
from robharness.plugins.registry import PluginOrigin
from robharness.specs.lazy import is_target

_loaded: dict[Path, str] = {}
"""The digest of each neighbour when it was last imported."""


def loose_plugin(path: Path) -> tuple[PluginOrigin, Any]:
    """Return the origin of a plugin in a Python file and a function that imports it.

    The file's folder is added to the end of `sys.path`, so that the file can import its neighbours, at once or later.
    Raises PluginLoadError if there is no such file.
    """
    if path.suffix != ".py" or not path.is_file():
        raise PluginLoadError(f"-p {path}: no such Python file. Try: -p ./FILE.py, or -p no:NAME to exclude a plugin")
    neighbours = _neighbours(path)
    origin = PluginOrigin(
        namespace=path.stem, distribution=str(path), location=str(path), digest=_digest(path, neighbours)
    )

    def load() -> ModuleType:
        folder = str(path.parent.absolute())
        if neighbours and folder not in sys.path:
            sys.path.append(folder)
        _forget_changed(neighbours)
        name = f"robharness_loose_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle need the module by its name
        spec.loader.exec_module(module)
        return module

    return origin, load


def _digest(path: Path, neighbours: dict[str, Path]) -> str:
    """Return the sha256 of the file; with neighbours, that of all their contents."""
    content = path.read_bytes()
    for name, file in sorted(neighbours.items()):
        content += f"\n{name}\n".encode() + file.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _neighbours(path: Path) -> dict[str, Path]:
    """Return the modules below the file's folder that it imports, and those that they import: name -> file."""
    folder, found = path.parent, {}
    pending = [(path, "")]
    while pending:
        file, package = pending.pop()
        for name in _imported(file, package):
            for part in _parents(name):
                place = _file_of(folder, part)
                if place is not None and part not in found and place != path:
                    found[part] = place
                    pending.append((place, part if place.name == "__init__.py" else part.rpartition(".")[0]))
    return found


def _imported(file: Path, package: str) -> Iterator[str]:
    """Yield the names of all modules that a file may import, inside functions and as "module:function" as well.

    package: that the file belongs to; empty if none.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # its import says so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if package else []
            above = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and is_target(node.value):
            yield str(node.value).partition(":")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def _parents(name: str) -> Iterator[str]:
    """Yield "a", "a.b", "a.b.c" of "a.b.c"."""
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _file_of(folder: Path, name: str) -> Path | None:
    """Return the file of a module below a folder, or None."""
    place = folder.joinpath(*name.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _forget_changed(neighbours: dict[str, Path]) -> None:
    """Remove modules from `sys.modules` whose file changed since a plugin imported them, as in a notebook."""
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in neighbours.items()}
    changed = {
        name for name, file in neighbours.items() if _loaded.get(file.absolute(), digests[name]) != digests[name]
    }
    for name, file in neighbours.items():
        imported = getattr(sys.modules.get(name), "__file__", None)
        if changed and imported and Path(imported) == file.absolute():
            del sys.modules[name]
        _loaded[file.absolute()] = digests[name]
