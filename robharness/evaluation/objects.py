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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import _lru_cache_wrapper, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robharness.evaluation.batch import Batch, LentBatch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.code import global_names, is_installed
from robharness.evaluation.digest import NO_BEHAVIOUR
from robharness.evaluation.rng import ExampleRNG
from robharness.evaluation.snapshots import (
    UNCHANGING,
    DictSnapshot,
    NamespaceSnapshot,
    OtherSnapshot,
    contents_of,
    overwrite,
    same_content,
)
from robharness.evaluation.tensors import other_than_plain
from robharness.plugins.calls import plugin_errors

MOST_CONTAINERS = 20_000
"""Number of containers that are watched at most; ResNet-50 has 2,400."""
_HOLDERS: tuple[tuple[str, Any], ...] = (
    ("torch", torch), ("torch.nn.functional", nn.functional), ("torch.Tensor", Tensor), ("torch.linalg", torch.linalg),
    ("torch.fft", torch.fft), ("torch.special", torch.special), ("torch.autograd", torch.autograd), ("numpy", np),
    ("Batch", Batch), ("LentBatch", LentBatch), ("Classifier", Classifier), ("ExampleRNG", ExampleRNG),
)  # fmt: skip
"""Modules and classes whose functions compute outcomes, or serve plugins."""


class Watched:
    """Objects that networks reach, and their contents at the moment of creation.

    modules: by their places in the network.
    known: tensors that others watch.
    """

    def __init__(self, modules: Mapping[str, nn.Module], known: Iterable[Tensor]) -> None:
        self._dicts: list[DictSnapshot] = []
        self._others: list[OtherSnapshot] = []
        self._values: list[tuple[str, Any, Any]] = []
        known = list(known)
        self._seen = {id(tensor) for tensor in known}
        self._read: set[tuple[Any, ...]] = set()
        self._caches: list[Any] = []
        self._imported = len(sys.modules)
        for place, module in modules.items():
            self._add(module, place)
        for tensor in known:
            self._dicts.append(DictSnapshot("parameters.", vars(tensor)))
        classes = {kind for module in modules.values() for kind in type(module).__mro__ if kind is not object}
        self._namespaces = [NamespaceSnapshot(f"the class {kind.__qualname__}", kind) for kind in classes]
        self._namespaces += [NamespaceSnapshot(name, holder) for name, holder in _HOLDERS]
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
            and all(same_content(value, before) for _, value, before in self._values)
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
            if not same_content(value, before):
                changed.append(f"the model's '{place}'")
                overwrite(value, before)
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
        names |= {f"the model's '{place}'" for place, value, before in self._values if not same_content(value, before)}
        self._values = [item for item in self._values if same_content(item[1], item[2])]
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
            with suppress(Exception), plugin_errors():  # of an object whose own class fails; it is not watched
                if id(value) not in self._seen and not isinstance(value, _PLAIN):
                    self._seen.add(id(value))
                    pending.extend(self._watch(value, place))

    def _watch(self, value: Any, place: str) -> Iterator[tuple[Any, str]]:
        """Watch a value; yield its items with their places."""
        if isinstance(value, Tensor):
            if other_than_plain(value.detach()) is None and not value.is_meta:  # others cannot be compared
                self._values.append((place, value, value.detach().clone()))
        elif isinstance(value, np.ndarray | bytearray | array):
            self._values.append((place, value, copy.copy(value)))
        elif isinstance(value, nn.Module):
            self._dicts.append(DictSnapshot(f"{place}." if place else "", vars(value), is_module=True))
            self._others.append(OtherSnapshot(f"{place}.__class__" if place else "__class__", value, ("__class__",)))
            yield from self._slots(value, place)
            for name, item in vars(value).items():
                inner = f"{place}.{name}" if place else name
                if isinstance(item, dict) and name.startswith("_"):  # of hooks, parts, parameters or buffers
                    self._seen.add(id(item))
                    self._dicts.append(DictSnapshot(f"{place}." if place else "", item, table=name))
                    is_parts = name in ("_modules", "_parameters", "_buffers")
                    prefix = f"{place}." if place and is_parts else "" if is_parts else f"{inner}."
                    yield from ((each, f"{prefix}{key}") for key, each in item.items())
                elif name not in UNCHANGING:
                    yield item, inner
        elif isinstance(value, dict):
            self._dicts.append(DictSnapshot(f"{place}.", value))
            yield from ((item, f"{place}.{key}") for key, item in value.items())
        elif isinstance(value, list | set | deque):
            self._others.append(OtherSnapshot(place, value))
            yield from ((item, f"{place}[{index}]") for index, item in enumerate(value))
        elif isinstance(value, tuple | frozenset):
            yield from ((item, f"{place}[{index}]") for index, item in enumerate(value))
        elif isinstance(value, types.FunctionType):
            self._others.append(OtherSnapshot(place, value, ("__code__", "__defaults__", "__kwdefaults__")))
            yield from ((item, place) for item in (value.__defaults__, value.__kwdefaults__))
            for cell in value.__closure__ or ():
                self._others.append(OtherSnapshot(place, cell))
                yield from ((item, place) for item in contents_of(cell))
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
            self._dicts.append(DictSnapshot(f"{place}.", vars(value)))
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
                self._others.append(OtherSnapshot(place or kind.__name__, value, names))
                yield from ((getattr(value, name, None), f"{place}.{name}") for name in names)

    def _globals(self, function: types.FunctionType) -> Iterator[tuple[Any, str]]:
        """Watch the global names that a function's code reads, if its module is no library."""
        names = [name for name in global_names(function.__code__) if name in function.__globals__]
        if names and (id(function.__globals__), *names) not in self._read:
            self._read.add((id(function.__globals__), *names))
            self._dicts.append(DictSnapshot("", function.__globals__, names=names))
            yield from ((function.__globals__[name], name) for name in names)


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, types.BuiltinFunctionType,
          torch.dtype, torch.device, torch.Size, *NO_BEHAVIOUR)  # fmt: skip
