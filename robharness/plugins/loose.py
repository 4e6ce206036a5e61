"""Loose plugins: a Python file, and the modules beside it that it imports, which count as its source."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from robharness.errors import PluginLoadError, for_shell
from robharness.plugins.registry import PluginOrigin
from robharness.reading import read_regular
from robharness.specs.lazy import is_target

_loaded: dict[Path, str] = {}
"""The digest of each neighbour when it was last imported."""


_found: dict[str, tuple[Path, dict[Path, str]]] = {}
"""By the path of each plugin as given: its absolute path, and the digests of its files when it was found."""


_folders: dict[str, None] = {}
"""The folders that were added to `sys.path`, the latest last."""


def loose_plugin(path: Path) -> tuple[PluginOrigin, Any]:
    """Return the origin of a plugin in a Python file and a function that imports it.

    The file's folder is added to the end of `sys.path`, so that the file can import its neighbours, at once or later.
    Raises PluginLoadError if there is no such file.
    """
    try:
        if path.suffix != ".py" or not path.is_file():
            raise PluginLoadError(
                f"-p {path}: no such Python file. Try: -p ./FILE.py, or -p no:NAME to exclude a plugin"
            )
        neighbours, named = _neighbours(path)
        digest, digests = _digest(path, neighbours | named)
    except OSError as error:
        name = Path(error.filename or path)
        raise PluginLoadError(
            f"-p {path}: {name} cannot be read: {error.strerror}. Try: ls -l {for_shell(name)}"
        ) from None
    _found[str(path)] = path.absolute(), {file.absolute(): each for file, each in digests.items()}
    origin = PluginOrigin(namespace=path.stem, distribution=str(path), location=str(path), digest=digest)

    def load() -> ModuleType:
        folder = str(path.parent.absolute())
        if neighbours:
            sys.path[:] = [place for place in sys.path if place not in _folders]
            _folders.pop(folder, None)
            _folders[folder] = None
            sys.path += reversed(_folders)  # the latest plugin's folder first, all behind those of installed packages
        _forget_changed(neighbours)
        name = f"robharness_loose_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle need the module by its name
        spec.loader.exec_module(module)
        return module

    return origin, load


def changed_file(origin: PluginOrigin) -> Path | None:
    """Return a file of a loose plugin that changed since the plugin was found; None if none did.

    Raises PluginLoadError if one of its files cannot be read.
    """
    path, before = _found.get(origin.location, (None, {}))
    if path is None or origin.digest is None:
        return None
    try:
        neighbours, named = _neighbours(path)
        digest, now = _digest(path, neighbours | named)
    except OSError as error:
        name = error.filename or path
        raise PluginLoadError(
            f"-p {origin.location}: {name} cannot be read: {error.strerror}. Try: ls -l {for_shell(name)}"
        ) from None
    if digest == origin.digest:
        return None
    return next((file for file in before | now if before.get(file) != now.get(file)), path)


def check_neighbours(paths: Sequence[Path]) -> None:
    """Raise PluginLoadError if two loose plugins import different files as one module, which Python cannot."""
    found: dict[str, tuple[Path, Path]] = {}
    for path in paths:
        with suppress(OSError):
            for name, file in _neighbours(path)[0].items() if path.is_file() else ():
                plugin, other = found.setdefault(name, (path, file))
                if other.resolve() != file.resolve():
                    raise PluginLoadError(
                        f"-p {plugin} and -p {path} import different files, {other} and {file}, as the module "
                        f"'{name}'. Try: another name for one of the files"
                    )


def _digest(path: Path, files: dict[str, Path]) -> tuple[str, dict[Path, str]]:
    """Return the sha256 of a plugin, which is that of its file or, with other files, of all contents; and of each file.

    Raises OSError if one of them cannot be read.
    """
    content = read_regular(path, LARGEST_CODE)
    digests = {path: hashlib.sha256(content).hexdigest()}
    for name, file in sorted(files.items()):
        part = file.read_bytes()
        digests[file] = hashlib.sha256(part).hexdigest()
        content += f"\n{name}\n".encode() + part
    return hashlib.sha256(content).hexdigest(), digests


def _neighbours(path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the files below a plugin's folder on which it depends.

    Returns:
        the modules that it imports, and those that they import: name -> file,
        other files whose names stand in the code, such as "labels.json": name -> file.
    """
    folder, found, named = path.parent, dict[str, Path](), dict[str, Path]()
    pending = [(path, "")]
    while pending:
        file, package = pending.pop()
        imported, texts = _names_in(read_regular(file, LARGEST_CODE), package)
        named |= {text: other for text in texts if (other := _named_file(folder, text)) and other != path}
        for name in imported:
            for part in _parents(name):
                place = _file_of(folder, part)
                if place is not None and part not in found and place != path:
                    found[part] = place
                    pending.append((place, part if place.name == "__init__.py" else part.rpartition(".")[0]))
    return found, named


@lru_cache(maxsize=64)  # a run reads the files of its plugins again before each unit
def _names_in(code: bytes, package: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all modules that code may import, and the texts in it; nothing if it cannot be parsed.

    package: that the code belongs to; empty if none.
    """
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the import says so
        return (), ()
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return tuple(dict.fromkeys(_imported(nodes, package))), tuple(dict.fromkeys(texts))


def _imported(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Yield the names of all modules that a file may import, inside functions and as "module:function" as well.

    nodes: of the file's syntax tree.
    package: that the file belongs to; empty if none.
    """
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if package else []
            above = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and is_target(node.value):
            yield str(node.value).partition(":")[0]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name, anchor = [getattr(argument, "value", None) for argument in (*node.args, None, None)][:2]
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield f"{anchor or package}.{name.lstrip('.')}" if name.startswith(".") else name


def _named_file(folder: Path, name: str) -> Path | None:
    """Return the file of that name below the folder, or None; a name of a file has a suffix."""
    with suppress(OSError, ValueError):  # a text that no file can be called
        path = folder / name
        if Path(name).suffix and not Path(name).is_absolute() and ".." not in Path(name).parts and path.is_file():
            return path if path.stat().st_size <= LARGEST else None
    return None


LARGEST_CODE = 2**24
"""Size of a Python file, in bytes, beyond which it is refused before it is parsed."""
LARGEST = 2**28
"""Size, in bytes, up to which a file that a loose plugin names counts as its source; larger ones are data."""


def _parents(name: str) -> Iterator[str]:
    """Yield "a", "a.b", "a.b.c" of "a.b.c"."""
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _file_of(folder: Path, name: str) -> Path | None:
    """Return the file of a module below a folder, or None."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    place = folder.joinpath(*parts)
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _forget_changed(neighbours: dict[str, Path]) -> None:
    """Remove modules from `sys.modules` whose file changed since a plugin imported them, as in a notebook."""
    digests = {file.absolute(): hashlib.sha256(file.read_bytes()).hexdigest() for file in neighbours.values()}
    changed = any(_loaded.get(file, digest) != digest for file, digest in digests.items())
    for name, file in neighbours.items():
        imported = getattr(sys.modules.get(name), "__file__", None)
        is_other = imported is not None and Path(imported) != file.absolute()
        if (imported is not None and not is_other and changed) or (is_other and Path(str(imported)) in _loaded):
            del sys.modules[name]  # changed, or of another plugin that was loaded before
    _loaded.update(digests)
