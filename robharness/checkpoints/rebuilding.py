"""The calls in a pickle by which torch rebuilds tensors, checked before one of them is run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from robharness.checkpoints.bounds import DENSE, DIMENSIONS, NAME, SAVE, VIEW, Damaged, Unfit

_UTILS = "torch._utils._rebuild_"
_VIEWS = {f"{_UTILS}tensor", f"{_UTILS}tensor_v2", f"{_UTILS}tensor_v3"}
_TYPED = "torch._tensor._rebuild_from_type_v2"
_OTHERS = {
    f"{_UTILS}sparse_tensor": "a sparse tensor",
    f"{_UTILS}qtensor": "a quantised tensor",
    f"{_UTILS}nested_tensor": "a nested tensor",
    f"{_UTILS}meta_tensor_no_storage": "a tensor without values, on the meta device",
    f"{_UTILS}wrapper_subclass": "a tensor subclass without values of its own",
    f"{_UTILS}device_tensor_from_numpy": "a tensor of another device",
    f"{_UTILS}device_tensor_from_cpu_tensor": "a tensor of another device",
}
_OTHER_MODULES = (
    (re.compile(r"torch\.nested\."), "a nested tensor"),
    (re.compile(r"torch\.distributed\.(_?tensor|_shard)\."), "a tensor that is spread over processes"),
    (re.compile(r"torch\.(cuda\.)?sparse\.\w+Tensor"), "a sparse tensor"),
)
_FACTORY = re.compile(r"torch\.((cuda|storage|_tensor)\.)?\w*(Storage|Tensor)")
"""Classes that take memory, as much as their arguments say, when they are called."""
_HASHING = {"collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.frozenset"}
_HARMLESS = {
    *_HASHING, f"{_UTILS}parameter", f"{_UTILS}parameter_with_state", "torch.Size", "torch.device",
    "torch.serialization._get_layout", "torch.nn.parameter.Parameter", "builtins.complex",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """The values of a tensor, as a pickle refers to them.

    key: name of the values in the file.
    count: number of elements.
    item: bytes of an element; None if the type is not known.
    """

    key: str
    count: int
    item: int | None

    @property
    def bytes(self) -> int | None:
        """The number of bytes."""
        return None if self.item is None else self.count * self.item


def storage(pid: tuple[Any, ...]) -> Storage:
    """Return the values that a reference means: ("storage", class, key, device, number of elements). Raises Damaged."""
    if len(pid) < 5 or not isinstance(pid[4], int) or not 0 <= pid[4] < 2**63:
        raise Damaged("its pickle refers to no values of a tensor")
    name = str(getattr(pid[1], "name", "")).rpartition(".")[2].removesuffix("Storage")
    types = {"Half": "half", "BFloat16": "bfloat16", "Byte": "uint8", "Char": "int8", "ComplexFloat": "complex64",
             "ComplexDouble": "complex128", "Untyped": "uint8"}  # fmt: skip
    dtype = getattr(torch, types.get(name, name.lower()), None)
    return Storage(str(pid[2]), pid[4], dtype.itemsize if isinstance(dtype, torch.dtype) else None)


def require_known(name: str, arguments: Any) -> bool:
    """Return whether a call is one of those by which torch.save stores states.

    name: of the function or class.
    arguments: a tuple, in which stubs stand for objects.
    Raises Unfit or Damaged for a call that takes more memory than the file has, or makes no dense tensor.
    """
    if not isinstance(arguments, tuple):
        raise Damaged("its pickle calls a function without arguments")
    if name in _VIEWS:
        dtype = getattr(torch, str(getattr(arguments[6], "name", "")).rpartition(".")[2], None) if (
            name.endswith("v3") and len(arguments) > 6) else None  # fmt: skip
        require_view(arguments, dtype.itemsize if isinstance(dtype, torch.dtype) else None)
    elif name == _TYPED:
        return len(arguments) > 2 and require_known(str(getattr(arguments[0], "name", "")), arguments[2])
    elif kind := _other(name):
        raise Unfit(f"it holds {kind}, and {DENSE}", SAVE)
    elif is_factory(name):
        if arguments:
            raise Unfit(f"its pickle calls {name} with arguments, which torch.save never does")
    elif name in _HASHING:
        require_keys(_keys(name, arguments))
    elif name == "builtins.bytearray":
        if any(isinstance(each, int) for each in arguments):
            raise Unfit("its pickle calls bytearray with a number, which torch.save never does")
    elif name == "_codecs.encode":
        if len(arguments) != 2 or arguments[1] not in ("latin1", "latin-1"):
            raise Unfit("its pickle encodes a text in another way than torch.save does")
    else:
        return name in _HARMLESS
    return True


def _other(name: str) -> str:
    return _OTHERS.get(name) or next((kind for pattern, kind in _OTHER_MODULES if pattern.match(name)), "")


def is_tensor(name: str) -> bool:
    """Return whether a class is one of torch's own classes of dense tensors."""
    return name.endswith("Tensor") and is_factory(name)


def is_factory(name: str) -> bool:
    """Return whether a class is one of torch's own classes of dense tensors or of their values."""
    return _FACTORY.fullmatch(name) is not None


def _keys(name: str, arguments: tuple[Any, ...]) -> Iterable[Any]:
    items = arguments[0] if arguments and isinstance(arguments[0], list | tuple) else ()
    if name == "collections.OrderedDict":
        return [each[0] for each in items if isinstance(each, list | tuple) and each]
    return items


def require_keys(keys: Iterable[Any]) -> int:
    """Return the number of keys that are tuples. Raises Unfit for keys that take long to compare, or to show."""
    tuples = 0
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        tuples += isinstance(key, tuple)
        for part in parts:
            if isinstance(part, tuple):
                raise Unfit("a key in it is a nested tuple")
            if isinstance(part, str | bytes) and len(part) > NAME:
                raise Unfit(f"a key in it has more than {NAME:,} characters")
            if isinstance(part, int) and abs(part) >= 2**64:
                raise Unfit("a key in it is a number of more than 64 bits")
        if len(parts) > NAME:
            raise Unfit(f"a key in it has more than {NAME:,} parts")
    return tuples


def require_view(view: Any, item: int | None = None) -> None:
    """Raise Damaged or Unfit for a tensor that reaches beyond its values, or is far larger than they are.

    view: the values, the position of the first element in them, the size and the stride of each dimension.
    item: bytes of an element, if its type is not that of the values.
    """
    if not isinstance(view, tuple) or len(view) < 4:
        raise Damaged("a tensor in it has no size")
    values, offset, size, stride = view[:4]
    if not isinstance(values, Storage):
        return
    size, stride = (each.arguments[0] if getattr(each, "arguments", ()) else each for each in (size, stride))
    numbers = [offset, *(size if isinstance(size, list | tuple) else [None]),
               *(stride if isinstance(stride, list | tuple) else [None])]  # fmt: skip
    if not all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers) or len(size) != len(stride):
        raise Damaged("a tensor in it has no valid size")
    if len(size) > DIMENSIONS:
        raise Unfit(f"a tensor in it has more than {DIMENSIONS} dimensions")
    if math.prod(length for length in size if length) >= 2**63:
        raise Damaged("a tensor in it has more elements than 64 bits can count")
    item = item or values.item or 1
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    is_empty = 0 in size
    available = values.bytes if values.bytes is not None else values.count * item
    if (offset if is_empty else last + 1) * item > available:
        raise Damaged("a tensor in it reaches beyond its values")
    needed = math.prod(size) * item
    if needed > VIEW and needed > available:
        raise Unfit(f"a tensor in it repeats its {available:,} bytes up to {needed:,} bytes", SAVE)
