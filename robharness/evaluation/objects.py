"""Objects that a network reaches, watched for changes: attributes, hooks, lists, arrays, closures, classes.

A copy of each container is compared with it by the identity of its items, which takes microseconds per module; tensors
and arrays are compared by value. Parameters and buffers belong to the guard, which knows them by name.
"""

from __future__ import annotations

import copy
import sys
import types
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import _lru_cache_wrapper, partial
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robharness.evaluation.batch import Batch, LentBatch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.code import global_names, is_installed
from robharness.evaluation.digest import NO_BEHAVIOUR
from robharness.evaluation.rng import ExampleRNG
from robharness.evaluation.tensors import other_than_plain, same_values

MOST_CONTAINERS = 20_000
"""Number of containers that are watched at most; ResNet-50 has 2,400."""
_ALWAYS = {"training", "_is_full_backward_hook"}
"""Attributes of modules that others restore, or that do not change outputs."""
_HOLDERS: tuple[tuple[str, Any], ...] = (
    ("torch", torch), ("torch.nn.functional", nn.functional), ("torch.Tensor", Tensor), ("torch.linalg", torch.linalg),
    ("torch.fft", torch.fft), ("torch.special", torch.special), ("torch.autograd", torch.autograd), ("numpy", np),
    ("Batch", Batch), ("LentBatch", LentBatch), ("Classifier", Classifier), ("ExampleRNG", ExampleRNG),
)  # fmt: skip
"""Modules and classes whose functions compute outcomes, or serve plugins."""
_MISSING = object()


class Watched:
    """Objects that networks reach, and their contents at the moment of creation.

    modules: by their places in the network.
    known: tensors that others watch.
    """

    def __init__(self, modules: Mapping[str, nn.Module], known: Iterable[Tensor]) -> None:
        self._dicts: list[_Dict] = []
        self._others: list[_Other] = []
        self._values: list[tuple[str, Any, Any]] = []
        known = list(known)
        self._seen = {id(tensor) for tensor in known}
        self._read: set[tuple[Any, ...]] = set()
        self._caches: list[Any] = []
        self._imported = len(sys.modules)
        for place, module in modules.items():
            self._add(module, place)
        for tensor in known:
            self._dicts.append(_Dict("parameters.", vars(tensor)))
        classes = {kind for module in modules.values() for kind in type(module).__mro__ if kind is not object}
        self._namespaces = [_Namespace(f"the class {kind.__qualname__}", kind) for kind in classes]
        self._namespaces += [_Namespace(name, holder) for name, holder in _HOLDERS]
        for kind in classes:
            if not is_installed(kind.__module__):
                for name, item in list(vars(kind).items()):
                    self._add(item, f"{kind.__qualname__}.{name}")

    def is_same(self) -> bool:
        """Return whether all objects have their contents of creation.

        Caches of functions are emptied, since their values cannot be compared.
        """
        self._accept_imports()
        for cache in self._caches:
            cache.cache_clear()
        return (
            all(each.is_same() for each in self._dicts)
            and all(each.is_same() for each in self._others)
            and all(each.is_same() for each in self._namespaces)
            and all(_same(value, before) for _, value, before in self._values)
        )

    def _accept_imports(self) -> None:
        """Take over what modules of torch that were imported meanwhile, such as its compiler, change in torch."""
        if len(sys.modules) == self._imported:
            return
        new = list(sys.modules)[self._imported :]
        self._imported = len(sys.modules)
        if any(name.startswith("torch.") for name in new):
            for namespace in self._namespaces:
                if namespace.is_of_torch:
                    namespace.release()

    def restore(self) -> list[str]:
        """Put all objects back to their contents at creation; return the names of those that were changed."""
        if self.is_same():
            return []
        changed = []
        for watched in self._dicts:
            if not watched.is_same():
                changed += watched.restore()
        for other in self._others:
            if not other.is_same():
                changed.append(f"the model's '{other.place}'")
                other.restore()
        for place, value, before in self._values:
            if not _same(value, before):
                changed.append(f"the model's '{place}'")
                _overwrite(value, before)
        for namespace in self._namespaces:
            if not namespace.is_same():
                changed += namespace.restore()
        return list(dict.fromkeys(changed))

    def release(self) -> set[str]:
        """Stop watching what differs from its contents at creation; return its names."""
        names: set[str] = set()
        for watched in self._dicts:
            names |= set() if watched.is_same() else watched.release()
        names |= {f"the model's '{other.place}'" for other in self._others if not other.is_same()}
        self._others = [other for other in self._others if other.is_same()]
        names |= {f"the model's '{place}'" for place, value, before in self._values if not _same(value, before)}
        self._values = [item for item in self._values if _same(item[1], item[2])]
        for namespace in self._namespaces:
            names |= set() if namespace.is_same() else namespace.release()
        return names

    def _add(self, value: Any, place: str) -> None:
        """Watch a value and what it reaches.

        place: of the value in the network.
        """
        pending = deque([(value, place)])
        while pending and len(self._dicts) + len(self._others) < MOST_CONTAINERS:
            value, place = pending.popleft()
            if id(value) in self._seen or isinstance(value, _PLAIN):
                continue
            self._seen.add(id(value))
            if isinstance(value, Tensor):
                if other_than_plain(value.detach()) is None and not value.is_meta:  # others cannot be compared
                    self._values.append((place, value, value.detach().clone()))
            elif isinstance(value, np.ndarray | bytearray | array):
                self._values.append((place, value, copy.copy(value)))
            else:
                pending.extend(self._watch(value, place))

    def _watch(self, value: Any, place: str) -> Iterator[tuple[Any, str]]:
        """Watch a container; yield its items with their places."""
        if isinstance(value, nn.Module):
            self._dicts.append(_Dict(f"{place}." if place else "", vars(value), is_module=True))
            self._others.append(_Other(f"{place}.__class__" if place else "__class__", value, ("__class__",)))
            yield from self._slots(value, place)
            for name, item in vars(value).items():
                inner = f"{place}.{name}" if place else name
                if isinstance(item, dict) and name.startswith("_"):  # of hooks, parts, parameters or buffers
                    self._seen.add(id(item))
                    self._dicts.append(_Dict(f"{place}." if place else "", item, table=name))
                    is_parts = name in ("_modules", "_parameters", "_buffers")
                    prefix = f"{place}." if place and is_parts else "" if is_parts else f"{inner}."
                    yield from ((each, f"{prefix}{key}") for key, each in item.items())
                elif name not in _ALWAYS:
                    yield item, inner
        elif isinstance(value, dict):
            self._dicts.append(_Dict(f"{place}.", value))
            yield from ((item, f"{place}.{key}") for key, item in value.items())
        elif isinstance(value, list | set | deque):
            self._others.append(_Other(place, value))
            yield from ((item, f"{place}[{index}]") for index, item in enumerate(value))
        elif isinstance(value, tuple | frozenset):
            yield from ((item, f"{place}[{index}]") for index, item in enumerate(value))
        elif isinstance(value, types.FunctionType):
            self._others.append(_Other(place, value, ("__code__", "__defaults__", "__kwdefaults__")))
            yield from ((item, place) for item in (value.__defaults__, value.__kwdefaults__))
            for cell in value.__closure__ or ():
                self._others.append(_Other(place, cell))
                yield from ((item, place) for item in _contents(cell))
            if not is_installed(value.__module__ or ""):
                yield from self._globals(value)
        elif isinstance(value, _lru_cache_wrapper):
            self._caches.append(value)
            yield value.__wrapped__, place
        elif isinstance(value, property | staticmethod | classmethod):
            names = ("fget", "fset", "__func__")
            yield from ((getattr(value, name, None), place) for name in names)
        elif isinstance(value, types.MethodType):
            yield from ((value.__func__, place), (value.__self__, place))
        elif isinstance(value, partial):
            yield from ((value.func, place), (value.args, place), (value.keywords, place))
        elif isinstance(getattr(value, "__dict__", None), dict):
            self._dicts.append(_Dict(f"{place}.", vars(value)))
            yield from ((item, f"{place}.{key}") for key, item in vars(value).items())
            yield from self._slots(value, place)
        else:
            yield from self._slots(value, place)

    def _slots(self, value: Any, place: str) -> Iterator[tuple[Any, str]]:
        """Watch the attributes of an object that lie in slots of its class, unless the class is of a library."""
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            if slots and not is_installed(kind.__module__):
                names = (slots,) if isinstance(slots, str) else tuple(slots)
                self._others.append(_Other(place or kind.__name__, value, names))
                yield from ((getattr(value, name, None), f"{place}.{name}") for name in names)

    def _globals(self, function: types.FunctionType) -> Iterator[tuple[Any, str]]:
        """Watch the global names that a function's code reads, if its module is no library."""
        names = [name for name in global_names(function.__code__) if name in function.__globals__]
        if names and (id(function.__globals__), *names) not in self._read:
            self._read.add((id(function.__globals__), *names))
            self._dicts.append(_Dict("", function.__globals__, names=names))
            yield from ((function.__globals__[name], name) for name in names)


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, types.BuiltinFunctionType,
          torch.dtype, torch.device, torch.Size, *NO_BEHAVIOUR)  # fmt: skip


class _Dict:
    """A dictionary, often of attributes, and its items.

    prefix: of the names of its keys in messages.
    is_module: whether the keys are attributes of a module.
    table: the name of a module's own table, such as "_forward_hooks".
    names: the keys that are watched; all if None.
    """

    def __init__(
        self,
        prefix: str,
        owner: dict[Any, Any],
        *,
        is_module: bool = False,
        table: str = "",
        names: Sequence[str] | None = None,
    ) -> None:
        self.prefix, self.owner, self.table, self.names = prefix, owner, table, names
        self.ignored = set(_ALWAYS) if is_module else set()
        watched = owner if names is None else names
        self.saved = {key: owner[key] for key in watched if key not in self.ignored}
        self._keys, self._items = list(owner), list(owner.values())

    def is_same(self) -> bool:
        owner = self.owner
        if self.names is not None or len(owner) != len(self._items):
            return not self._differing()
        if all(map(is_, owner.values(), self._items)) and list(owner) == self._keys:
            return True
        return not self._differing()

    def _differing(self) -> list[Any]:
        keys = dict.fromkeys([*self.saved, *self.owner] if self.names is None else self.saved)
        return [key for key in keys if key not in self.ignored
                and self.owner.get(key, _MISSING) is not self.saved.get(key, _MISSING)]  # fmt: skip

    def restore(self) -> list[str]:
        keys = self._differing()
        if self.names is None:
            others = {key: self.owner[key] for key in self.ignored if key in self.owner}
            self.owner.clear()
            self.owner.update(self.saved | others)
        else:
            self.owner.update({key: self.saved[key] for key in keys})
        return self._names(keys)

    def release(self) -> set[str]:
        keys = self._differing()
        self.ignored |= set(keys)
        return set(self._names(keys))

    def _names(self, keys: list[Any]) -> list[str]:
        place = f" below '{self.prefix[:-1]}'" if self.prefix else ""
        if self.table == "_modules":
            return [f"the parts of the model{place}"] * bool(keys)
        if self.table.endswith("_hooks"):
            return [f"the hooks of the model{place}"] * bool(keys)
        return [f"the model's '{self.prefix}{key}'" for key in keys]


class _Other:
    """A list, a set, a deque, a cell of a closure, or some attributes of an object, and the contents.

    names: of the attributes; empty for a container.
    """

    def __init__(self, place: str, owner: Any, names: tuple[str, ...] = ()) -> None:
        self.place, self.owner, self.names = place, owner, names
        self.saved = self._contents()

    def _contents(self) -> tuple[Any, ...]:
        if self.names:
            return tuple(getattr(self.owner, name, _MISSING) for name in self.names)
        return _contents(self.owner)

    def is_same(self) -> bool:
        now = self._contents()
        return len(now) == len(self.saved) and all(map(is_, now, self.saved))

    def restore(self) -> None:
        owner, saved = self.owner, self.saved
        if self.names:
            for name, value in zip(self.names, saved, strict=True):
                if value is not _MISSING:
                    object.__setattr__(owner, name, value)
        elif isinstance(owner, types.CellType):
            if saved:
                owner.cell_contents = saved[0]
            else:
                del owner.cell_contents
        elif isinstance(owner, list):
            owner[:] = saved
        else:
            owner.clear()
            (owner.update if isinstance(owner, set) else owner.extend)(saved)


class _Namespace:
    """A class or a module of Python, and its attributes.

    Attributes that are added to a module of Python stay, such as sub-modules that are imported meanwhile.
    """

    def __init__(self, name: str, holder: Any) -> None:
        self.name, self.holder = name, holder
        self.saved = dict(vars(holder))
        self.is_of_torch = getattr(holder, "__module__", holder.__name__).partition(".")[0] == "torch"

    def is_same(self) -> bool:
        try:
            return bool(vars(self.holder) == self.saved)  # compares identities first
        except Exception:  # attributes that differ, and whose class cannot compare them
            return False

    def _differing(self) -> list[str]:
        now = vars(self.holder)
        names = [name for name, value in self.saved.items() if now.get(name, _MISSING) is not value]
        if isinstance(self.holder, type):
            names += [name for name in now if name not in self.saved and name not in _OF_CLASSES]
        return names

    def restore(self) -> list[str]:
        names = self._differing()
        for name in names:
            if name in self.saved:
                setattr(self.holder, name, self.saved[name])
            else:
                delattr(self.holder, name)
        self.saved = dict(vars(self.holder))
        return [f"{self.name}.{name}" for name in names]

    def release(self) -> set[str]:
        names = self._differing()
        self.saved = dict(vars(self.holder))
        return {f"{self.name}.{name}" for name in names}


_OF_CLASSES = {"__annotations__", "__slotnames__", "__abstractmethods__", "_abc_impl", "__doc__"}
"""Attributes that Python adds to a class when they are read."""


def _contents(owner: Any) -> tuple[Any, ...]:
    if isinstance(owner, types.CellType):
        try:
            return (owner.cell_contents,)
        except ValueError:  # an empty cell
            return ()
    return tuple(owner)


def _same(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return same_values(value.detach(), before)
    if not isinstance(value, np.ndarray):
        return bool(value == before)
    if value.shape != before.shape or value.dtype != before.dtype:
        return False
    return bool(value.tobytes() == before.tobytes())  # also of arrays of objects, by identity


def _overwrite(value: Any, before: Any) -> None:
    if isinstance(value, Tensor):
        value.data = before.clone()
    elif isinstance(value, np.ndarray):
        value[...] = before
    else:
        value[:] = before
