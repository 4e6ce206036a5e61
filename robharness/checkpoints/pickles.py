"""Inspection of a pickle without running its code: its bounds, the classes it needs, the networks it holds."""

from __future__ import annotations

import pickle
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from robharness.checkpoints import archives, rebuilding
from robharness.checkpoints.bounds import NAME, PICKLE, STEPS, TEXT, Damaged, Unfit, require_tree
from robharness.checkpoints.formats import Kind

_READABLE = (
    "torch._utils.", "torch._tensor.", "torch.nn.parameter.", "torch.storage.", "torch.serialization.", "torch.Size",
    "collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.bytearray", "builtins.set",
    "builtins.complex",
)  # fmt: skip
"""Beginnings of names that torch's safe reader knows; it also knows types of torch itself, e.g. torch.FloatStorage."""
_MAX_NAMES = 10_000
"""Classes and functions of one pickle."""
_OBJECT_STEPS, _TUPLE_STEPS = 3, 300
"""Steps that an object counts, for its memory, and a tuple as a key, since tuples of one hash are easy to make."""


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection.

    protocol: of the pickle; 0 for the protocols 0 and 1, which a pickle does not tell apart.
    has_lost_tensors: whether the references to the tensors are texts, as by protocol 0, which torch cannot read.
    needed: name of a class or function that the safe reader does not know; "" if there is none.
    network: class of the whole network that the pickle holds, e.g. "models.ResNet"; "" if it holds none.
    """

    protocol: int = 0
    has_lost_tensors: bool = False
    needed: str = ""
    network: str = ""


def inspect(path: Path, kind: Kind, allow: Collection[str] = ()) -> Inspection:
    """Inspect a torch archive before it is read: its records, its pickle, and the sizes of its tensors.

    Every class of the pickle is replaced by a class without any behaviour, so that no code of the pickle runs.
    allow: names of classes that are allowed beside tensors.
    Raises Damaged if the archive is not intact, Unfit if it is larger, deeper or less dense than states are.
    """
    try:
        if kind == "legacy":
            with path.open("rb") as file:
                return _legacy(file, path.stat().st_size, allow)
        with archives.opened(path) as archive:
            records = archives.require_sound(path, archive, is_script=False)
            with archive.open(f"{archives.root(archive)}/data.pkl") as stream:
                inspector = _Inspector(cast(IO[bytes], BufferedReader(cast(Any, stream), 2**16)))
                inspection = _inspect(inspector, allow)
            for each in inspector.storages.values():
                if records.get(f"data/{each.key}", -1) != (each.bytes or records.get(f"data/{each.key}", 0)):
                    raise Damaged(f"the values of tensor {each.key[:NAME]} are missing or have another size")
            archives.require_checksums(archive)
            return inspection
    except (Unfit, OSError):
        raise
    except EOFError:
        raise Damaged("its pickle ends too early") from None
    except zipfile.BadZipFile as error:
        raise Damaged(str(error).rstrip(".")) from error
    except Exception as error:  # a damaged pickle may do anything
        raise Damaged("its pickle is not valid") from error


def _legacy(file: IO[bytes], size: int, allow: Collection[str]) -> Inspection:
    """Inspect a file of torch.save before torch 1.6: five pickles, and the values of each tensor after their number."""
    for _ in range(3):  # magic number, version, and sizes of the machine
        _Inspector(file).load()
    inspector = _Inspector(file)
    inspection = _inspect(inspector, allow)
    if inspection.has_lost_tensors:
        return inspection
    keys = _Inspector(file).load()
    if not isinstance(keys, list) or {str(key) for key in keys} != inspector.storages.keys():
        raise Damaged("the values of some tensors are missing")
    at = file.tell()
    for key in keys:
        values = inspector.storages[str(key)]
        file.seek(at)
        if values.bytes is None:
            break
        if int.from_bytes(file.read(8), "little") != values.count:
            raise Damaged(f"the values of tensor {values.key[:NAME]} have another size")
        at += 8 + values.bytes
        if at > size:
            raise Damaged("the values of its tensors end too early")
    return inspection


def _inspect(inspector: _Inspector, allow: Collection[str]) -> Inspection:
    content = inspector.load()
    require_tree(content, _children)
    unknown = [name for name in inspector.names if not _is_readable(name)] + inspector.unknown
    unknown = [name for name in unknown if name not in allow]
    if not unknown and inspector.reader.bytes > PICKLE:
        raise Unfit(f"its pickle has more than {PICKLE / 2**20:.0f} MiB without its tensors")
    return Inspection(
        protocol=getattr(inspector, "proto", 0),
        has_lost_tensors=inspector.has_lost_tensors,
        needed=unknown[0] if unknown else "",
        network=_network(content, 3),
    )


def _children(content: Any) -> Iterable[Any]:
    """Return the values in a container of a pickle, stubs among them."""
    if isinstance(content, _Stub):
        return [*content.values(), *content.arguments]
    if isinstance(content, dict):
        return content.values()
    return content if isinstance(content, list | tuple) else ()


def _is_readable(name: str) -> bool:
    is_own = name.startswith("torch.") and name.count(".") == 1
    return is_own or name.startswith(_READABLE) or rebuilding.is_factory(name)


class _Stub(dict[Any, Any]):
    """An instance of a class that is not imported. It accepts whatever a pickle does with its objects."""

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> _Stub:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = args

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __call__(self, *args: Any) -> _Stub:
        return _Stub(*args)

    def append(self, item: Any) -> None:
        """Accept an item."""

    add = extend = append


class _Long(str):
    """A text that is longer than TEXT, without its content."""


class _Reader:
    """Reader of the parts of a pickle, which counts its steps and keeps no long text."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left, self.bytes = file, STEPS, 0

    def spend(self, steps: int) -> None:
        """Count steps. Raises Unfit if there are too many."""
        self._left -= steps
        if self._left < 0:
            raise Unfit("its pickle has more operations than a state needs")

    def read(self, size: int) -> bytes:
        """Return the next bytes; none of them if there are more than TEXT. Raises EOFError if the file has fewer."""
        self.spend(1)
        self.bytes += size
        if size > TEXT:
            while size > 0:
                if not (part := self._file.read(min(size, 2**20))):
                    raise EOFError
                size -= len(part)
            return b""
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def readline(self) -> bytes:
        """Return the next line. Raises EOFError if it is not whole, or too long to be a name."""
        self.spend(1)
        line = self._file.readline(TEXT)
        self.bytes += len(line)
        if not line.endswith(b"\n"):
            raise EOFError
        return line


class _Inspector(pickle._Unpickler):
    """Unpickler that replaces every class and function by a stub, checks its calls, and collects their names."""

    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, file: IO[bytes]) -> None:
        self.reader: Any = _Reader(file)
        super().__init__(self.reader, encoding="latin1")
        self.names: dict[str, Any] = {}
        self.unknown: list[str] = []
        self.storages: dict[str, rebuilding.Storage] = {}
        self.has_lost_tensors = False

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in self.names:
            if len(self.names) == _MAX_NAMES:
                raise Unfit(f"its pickle names more than {_MAX_NAMES:,} classes and functions")
            self.names[full] = type("Stub", (_Stub,), {"name": full})
        return self.names[full]

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage of a tensor, or the class that older files wrap together with its source."""
        if isinstance(pid, tuple) and pid[:1] == ("module",) and len(pid) > 1:
            return pid[1]
        if not isinstance(pid, tuple):
            self.has_lost_tensors |= isinstance(pid, str)
            return _Stub()
        found = rebuilding.storage(pid)
        if self.storages.setdefault(found.key, found) != found:
            raise Damaged(f"the values of tensor {found.key[:NAME]} have two sizes")
        return found

    def get_extension(self, code: int) -> None:
        self.unknown.append("a registered extension of pickle")
        self.stack.append(_Stub())

    def call(self, function: Any, arguments: Any) -> Any:
        """Return a stub of a function's result, after a check of its arguments."""
        self.reader.spend(_OBJECT_STEPS)
        name = str(getattr(function, "name", ""))
        if not rebuilding.require_known(name, arguments) and _is_readable(name):
            self.unknown.append(name)
        return function(*arguments)

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Raise Unfit for keys that take long to compare, before they are compared."""
        keys = list(keys)
        if any(isinstance(key, _Long) for key in keys):
            raise Unfit(f"a key in it has more than {NAME:,} characters")
        self.reader.spend(_TUPLE_STEPS * rebuilding.require_keys(keys))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def load_build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if rebuilding.is_tensor(str(getattr(built, "name", ""))):
            rebuilding.require_view(state)
        built.state = state

    def load_text(self, size: int) -> None:
        data = self.reader.read(size)
        self.stack.append(_Long() if size > TEXT else str(data, "utf-8", "surrogatepass"))

    def load_frame(self) -> None:
        self.reader.read(8)  # operations are read one by one, whatever length a frame claims

    def load_empty_set(self) -> None:
        self.reader.spend(_OBJECT_STEPS)
        self.stack.append(_Stub())

    dispatch.update({
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_reduce, pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build, pickle.FRAME[0]: load_frame, pickle.EMPTY_SET[0]: load_empty_set,
        pickle.BINUNICODE[0]: lambda self: self.load_text(_number(self, 4)),
        pickle.BINUNICODE8[0]: lambda self: self.load_text(_number(self, 8)),
        pickle.BYTEARRAY8[0]: lambda self: self.stack.append(self.reader.read(_number(self, 8))),
    })  # fmt: skip


def _number(inspector: _Inspector, size: int) -> int:
    return int.from_bytes(inspector.reader.read(size), "little")


def _checking(operation: bytes, keys: Callable[[list[Any]], Iterable[Any]]) -> None:
    """Check the keys of a dictionary or a set before an operation adds them."""
    add = pickle._Unpickler.dispatch[operation[0]]

    def load(inspector: _Inspector) -> None:
        inspector.check_keys(keys(inspector.stack))
        add(cast(Any, inspector))

    _Inspector.dispatch[operation[0]] = load


_checking(pickle.SETITEM, lambda stack: stack[-2:-1])
_checking(pickle.SETITEMS, lambda stack: stack[::2])
_checking(pickle.DICT, lambda stack: stack[::2])
_checking(pickle.ADDITEMS, lambda stack: stack)
_checking(pickle.FROZENSET, lambda stack: stack)


def _network(content: Any, depth: int) -> str:
    """Return the class of the first network in a content, or an empty text."""
    state = getattr(content, "state", None)
    if isinstance(content, _Stub) and isinstance(state, dict) and {"_modules", "_parameters"} <= state.keys():
        if type(content).name.startswith(("copyreg.", "copy_reg.")) and content.arguments:
            return str(getattr(content.arguments[0], "name", ""))
        return type(content).name
    values = list(content.values()) if isinstance(content, dict) else content if isinstance(content, list) else []
    return next((name for value in values if depth and (name := _network(value, depth - 1))), "")
