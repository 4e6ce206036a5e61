"""From a declared File or Download to a path and its sha256, once, before anything runs."""

from __future__ import annotations

import hashlib
import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path

from robharness.errors import Missing, UserError
from robharness.plugins import Entry
from robharness.specs import Download, File


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of weights that is there. sha256: of its bytes, in hexadecimal."""

    path: Path
    sha256: str


def resolve(entry: Entry, override: Path | None, data_root: Path) -> Weights | None:
    """The weights of a model: the suite's own file, or else what its spec declares; None where it declares none.

    Raises Missing where the file is not there, UserError where its sha256 is not the declared one.
    """
    declared = entry.spec.weights
    if override is not None:
        if not override.is_file():
            raise Missing(f"the weights of {entry.name}", where=str(override), get="mend `weights:` in the suite")
        return Weights(path=override, sha256=file_digest(override))
    if declared is None:
        return None
    path, get = _locate(declared, data_root)
    if path is None or not path.is_file():
        raise Missing(f"the weights of {entry.name}", where=_where(declared, path), get=get or f"see {entry.source}")
    digest = file_digest(path)
    if declared.sha256 is not None and digest != declared.sha256:
        raise UserError(
            f"the weights of {entry.name} at {path} have sha256 {digest}, {entry.source} declares {declared.sha256}. "
            f"To get the right file: {get or f'see {entry.source}'}"
        )
    return Weights(path=path, sha256=digest)


def _locate(declared: File | Download, data_root: Path) -> tuple[Path | None, str]:
    if isinstance(declared, Download):
        path = data_root / "weights" / (declared.name or declared.url.rpartition("/")[2])
        return path, shlex.join(["curl", "--create-dirs", "-fL", "-o", str(path), declared.url])
    if declared.package is None:
        return data_root / Path(declared.path).expanduser(), declared.get
    try:
        found = importlib.util.find_spec(declared.package)
    except (ImportError, ValueError):
        found = None
    folders = list(found.submodule_search_locations or []) if found else []
    return (Path(folders[0]) / declared.path if folders else None), declared.get


def _where(declared: File | Download, path: Path | None) -> str:
    if path is None and isinstance(declared, File):
        return f"the Python package '{declared.package}', which is not installed"
    return str(path)


def file_digest(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"the weights {path} cannot be read: {error.strerror}. See: ls -l {path}") from None
