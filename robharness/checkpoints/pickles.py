"""Inspection of a pickle without running its code: the classes that it needs, and the networks that it holds."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from robharness.checkpoints.formats import Kind

_READABLE = (
    "torch._utils.", "torch._tensor.", "torch.nn.parameter.", "torch.storage.", "torch.serialization.", "torch.Size",
    "collections.OrderedDict", "collections.Counter", "_codecs.encode",
)  # fmt: skip
"""Beginnings of names that torch's safe reader knows; it also knows types of torch itself, e.g. torch.FloatStorage."""


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection.

    is_whole: whether the pickle is not cut off.
    protocol: of the pickle; 0 for the protocols 0 and 1, which a pickle does not tell apart.
    has_lost_tensors: whether the references to the tensors are texts, as by protocol 0, which torch cannot read.
    needed: name of a class or function that the safe reader does not know; "" if there is none.
    network: class of the whole network that the pickle holds, e.g. "models.ResNet"; "" if it holds none.
    """

    is_whole: bool = True
    protocol: int = 0
    has_lost_tensors: bool = False
    needed: str = ""
    network: str = ""


def inspect(path: Path, kind: Kind) -> Inspection | None:
    """Inspect the pickle in a torch archive. Returns None if the pickle cannot be followed.

    Every class of the pickle is replaced by a class without any behaviour, so that no code of the pickle runs.
    """
    try:
        if kind == "legacy":
            with path.open("rb") as file:
                for _ in range(3):  # magic number, version, and sizes of the machine
                    _Inspector(file).load()
                inspection = _inspect(file)
                _Inspector(file).load()  # keys of the tensors, whose values follow
                return inspection
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as stream:
                return _inspect(stream)
    except EOFError:
        return Inspection(is_whole=False)
    except Exception as error:  # a pickle can ask for anything
        if "truncated" in str(error) or "exhausted" in str(error):
            return Inspection(is_whole=False)
        return None


def _inspect(file: IO[bytes]) -> Inspection:
    inspector = _Inspector(file)
    content = inspector.load()
    unknown = [name for name in inspector.names if not _is_readable(name)]
    network = _network(content, 3)
    return Inspection(
        protocol=getattr(inspector, "proto", 0),
        has_lost_tensors=inspector.has_lost_tensors,
        needed=unknown[0] if unknown else "",
        network=network,
    )


def _is_readable(name: str) -> bool:
    return name.startswith(_READABLE) or (name.startswith("torch.") and name.count(".") == 1)


class _Stub(dict[Any, Any]):
    """An instance of a class that is not imported. It accepts whatever a pickle does with its objects."""

    name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Stub:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, item: Any) -> None:
        """Accept an item."""

    add = extend = append


class _Inspector(pickle._Unpickler):
    """Unpickler that replaces every class and function by a stub, and collects their names."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.names: list[str] = []
        self.has_lost_tensors = False

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        self.names.append(full)
        return type("Stub", (_Stub,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        """Return a stub of a tensor's values, or the class that older files wrap together with its source."""
        self.has_lost_tensors |= isinstance(pid, str)
        return pid[1] if isinstance(pid, tuple) and pid[0] == "module" else _Stub()

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("registered extensions are not followed")


def _network(content: Any, depth: int) -> str:
    """Return the class of the first network in a content, or an empty text."""
    state = getattr(content, "state", None)
    if isinstance(content, _Stub) and isinstance(state, dict) and {"_modules", "_parameters"} <= state.keys():
        if type(content).name.startswith(("copyreg.", "copy_reg.")) and content.arguments:
            return str(getattr(content.arguments[0], "name", ""))
        return type(content).name
    values = list(content.values()) if isinstance(content, dict) else content if isinstance(content, list) else []
    return next((name for value in values if depth and (name := _network(value, depth - 1))), "")
