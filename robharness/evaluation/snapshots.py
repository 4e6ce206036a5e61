"""Snapshots of dictionaries, other containers, attributes and classes: compared by identity of items, and restored."""

from __future__ import annotations

import types
import weakref
from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor

from robharness.evaluation.tensors import same_values

_MISSING = object()
UNCHANGING = {"training", "_is_full_backward_hook"}
"""Attributes of modules that others restore, or that do not change outputs."""


def _is_of_compiler(key: Any) -> bool:
    """Return whether an attribute is one of those that torch.compile sets, which change no output."""
    return isinstance(key, str) and (key.startswith("_dynamo") or key == "_is_torch_compile")


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two items are one object, equal plain values, or lists of such, as LSTM makes anew when moved."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    if isinstance(one, weakref.ref):
        return one() is other()
    return isinstance(one, bool | int | float | str | bytes) and one == other


class DictSnapshot:
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
        self.ignored = set(UNCHANGING) if is_module else set()
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
        return [key for key in keys if key not in self.ignored and not _is_of_compiler(key)
                and not _are_equal(self.owner.get(key, _MISSING), self.saved.get(key, _MISSING))]  # fmt: skip

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


class OtherSnapshot:
    """A list, a set, a deque, a cell of a closure, or some attributes of an object, and the contents.

    names: of the attributes; empty for a container.
    """

    def __init__(self, place: str, owner: Any, names: tuple[str, ...] = ()) -> None:
        self.place, self.owner, self.names = place, owner, names
        self.saved = self._contents()

    def _contents(self) -> tuple[Any, ...]:
        if self.names:
            return tuple(getattr(self.owner, name, _MISSING) for name in self.names)
        return contents_of(self.owner)

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


class NamespaceSnapshot:
    """A class or a module of Python, and its attributes.

    Attributes that are added to a module of Python stay, such as sub-modules that are imported meanwhile.
    """

    def __init__(self, name: str, holder: Any) -> None:
        self.name, self.holder = name, holder
        self.saved = dict(vars(holder))
        self.is_of_torch = getattr(holder, "__module__", holder.__name__).partition(".")[0] == "torch"

    def is_same(self) -> bool:
        now = vars(self.holder)
        if len(now) == len(self.saved) and all(map(is_, now.values(), self.saved.values())):
            return True
        if self._differing():
            return False
        self.saved = dict(now)  # with what was added
        return True

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


def contents_of(owner: Any) -> tuple[Any, ...]:
    if isinstance(owner, types.CellType):
        try:
            return (owner.cell_contents,)
        except ValueError:  # an empty cell
            return ()
    return tuple(owner)


def same_content(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return same_values(value.detach(), before)
    if not isinstance(value, np.ndarray):
        return bool(value == before)
    if value.shape != before.shape or value.dtype != before.dtype:
        return False
    return bool(value.tobytes() == before.tobytes())  # also of arrays of objects, by identity


def overwrite(value: Any, before: Any) -> None:
    if isinstance(value, Tensor):
        value.data = before.clone()
    elif isinstance(value, np.ndarray):
        value[...] = before
    else:
        value[:] = before
