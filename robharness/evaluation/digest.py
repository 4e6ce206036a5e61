"""Digests of networks: of their state, and of all that determines their behaviour.

A network's behaviour may lie in plain attributes, closures, lists of modules and code, none of which is in its state.
`network_digest` walks all objects that the network can reach. Code of installed packages counts by its name, other code
by its bytes. An object that has no readable content, such as a generator, makes the network impossible to identify.
"""

from __future__ import annotations

import copy
import enum
import functools
import hashlib
import io
import logging
import pickletools
import re
import threading
import types
import weakref
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

from robharness.errors import describe
from robharness.evaluation.code import all_names, global_names, is_installed


class Unidentified(Exception):
    """An object whose content cannot be read. The message says which one it is, and where it is."""


def state_digest(net: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers: names, types, shapes and bytes.

    Packed weights of quantised layers and constants of TorchScript, which are neither, count as well.
    """
    digest = hashlib.sha256()
    named = dict([*net.named_parameters(), *net.named_buffers()])
    for name, value in sorted(named.items(), key=lambda item: item[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(_bytes(value))
    for place, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            if not place:
                digest.update(_scripted(module))
        elif type(module).__module__.startswith("torch.ao.nn"):
            digest.update(_digest({name: value for name, value in module.state_dict().items() if name not in named}))
    return digest.hexdigest()


def network_digest(*values: Any) -> str:
    """Return the sha256 of networks, functions and other objects, and of all that they reach.

    The device, the training mode of registered modules and whether parameters require gradients do not count.
    Raises Unidentified.
    """
    return _digest(list(values)).hex()


def shared_objects(net: nn.Module, other: nn.Module) -> bool:
    """Return whether a network reaches a module or a tensor of another one, e.g. by a closure. Raises Unidentified."""
    walk = _Walk()
    walk.add(net, "")
    return any(id(each) in walk.numbers for each in (*other.modules(), *other.parameters(), *other.buffers()))


def _digest(value: Any) -> bytes:
    try:
        walk = _Walk()
        walk.add(value, "")
        return walk.digest.digest()
    except RecursionError:
        raise Unidentified("its objects are nested too deeply to be read") from None


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range, slice)
_BY_TEXT = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, np.dtype)
_BOOKKEEPING = {*vars(nn.Module()), "_compiled_call_impl"} - {
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
}
"""Attributes of every module that do not change its outputs or input gradients, hooks of gradients apart."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType,
             types.MethodWrapperType, types.ClassMethodDescriptorType, types.GetSetDescriptorType,
             types.MemberDescriptorType)  # fmt: skip
NO_BEHAVIOUR = (type(threading.Lock()), type(threading.RLock()), logging.Logger, torch.Stream, torch.Event)
"""Types whose objects do not change what a network computes."""


class _Walk:
    """A walk over objects that feeds a digest. Each object is read once; later ones refer to its number."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []  # so that no identity is used twice
        self.registered: set[int] = set()

    def tag(self, *words: Any) -> None:
        self.digest.update(repr(words).encode("utf-8", "surrogatepass"))

    def add(self, value: Any, place: str) -> None:
        """Feed a value.

        place: of the value in the network, for errors.
        """
        if type(value) in _PLAIN:
            return self.tag(type(value).__name__, value)
        if isinstance(value, _BY_TEXT):
            return self.tag(type(value).__name__, str(value))
        if id(value) in self.numbers:
            return self.tag("seen", self.numbers[id(value)])
        self.numbers[id(value)] = len(self.numbers)
        self.alive.append(value)
        try:
            self.add_object(value, place)
        except (Unidentified, RecursionError):
            raise
        except Exception as error:  # code of the object's class may raise anything
            raise Unidentified(f"{_named(value, place)} cannot be read: {describe(error)}") from error
        return None

    def add_object(self, value: Any, place: str) -> None:
        if isinstance(value, torch.Tensor):
            self.tag("tensor", str(value.dtype), tuple(value.shape))
            self.add(type(value), place)
            self.digest.update(_bytes(value))
            self.add(dict(getattr(value, "__dict__", {})), place)
        elif isinstance(value, np.ndarray | np.generic):
            self.tag("array", type(value).__qualname__, str(value.dtype), value.shape)
            self.add(value.tolist(), place) if value.dtype.hasobject else self.digest.update(value.tobytes())
        elif isinstance(value, nn.Module):
            self.add_network(value, place)
        elif isinstance(value, type):
            self.add_class(value, place)
        elif isinstance(value, types.FunctionType):
            self.add_function(value, place)
        elif isinstance(value, types.MethodType):
            self.tag("method")
            self.add(value.__func__, place)
            self.add(value.__self__, place)
        elif isinstance(value, _BUILT_IN):
            self.tag("built-in", getattr(value, "__module__", ""), value.__qualname__)
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType | type):
                self.add(owner, place)
        elif isinstance(value, types.ModuleType):
            self.tag("module", value.__name__)
            if not is_installed(value.__name__):
                plain = {name: item for name, item in vars(value).items() if not name.startswith("__")}
                self.add({name: item for name, item in plain.items() if _is_plain(item)}, value.__name__)
        elif isinstance(value, Mapping):
            self.tag("mapping", len(value))
            self.add_subclass(value, place)
            self.add(getattr(value, "default_factory", None), place)
            for key, item in value.items():
                self.add(key, place)
                self.add(item, f"{place}[{key!r}]" if isinstance(key, str | int) else place)
        elif isinstance(value, list | tuple):
            self.tag("sequence", type(value).__qualname__, len(value))
            self.add_subclass(value, place)
            for index, item in enumerate(value):
                self.add(item, f"{place}[{index}]" if place else "")
        elif isinstance(value, set | frozenset):
            self.tag("set", sorted(_digest(item).hex() for item in value))
        elif isinstance(value, functools._lru_cache_wrapper):
            self.tag("cached function")
            self.add(value.__wrapped__, place)
        elif isinstance(value, functools.partial):
            self.tag("partial")
            self.add([value.func, value.args, value.keywords], place)
        elif isinstance(value, property | staticmethod | classmethod | functools.cached_property):
            self.tag(type(value).__name__)
            names = ("__func__", "fget", "fset", "fdel", "func")
            self.add([getattr(value, name, None) for name in names], place)
        elif isinstance(value, types.CodeType):
            self.add_code(value, place)
        elif isinstance(value, weakref.ref):
            self.add(value(), place)
        elif isinstance(value, PurePath):
            self.add_path(value)
        elif isinstance(value, enum.Enum):
            self.tag("enum", type(value).__qualname__, value.name)
            self.add(value.value, place)
        elif isinstance(value, torch.Generator):
            self.add(value.get_state(), place)
        elif isinstance(value, NO_BEHAVIOUR):
            self.tag("no behaviour", type(value).__name__)
        else:
            self.add_other(value, place)

    def add_subclass(self, value: Any, place: str) -> None:
        """Feed the class and the attributes of a container whose class is not Python's own."""
        if type(value).__module__ != "builtins":
            self.add(type(value), place)
        if own := getattr(value, "__dict__", None):
            self.add(dict(own), place)

    def add_network(self, net: nn.Module, place: str) -> None:
        if isinstance(net, torch.jit.ScriptModule):
            return self.digest.update(_scripted(net))
        if type(net).__module__.startswith("torch._dynamo") and isinstance(net._orig_mod, nn.Module):
            return self.add(net._orig_mod, place)  # of torch.compile, which keeps its results
        if id(net) not in self.registered:
            self.registered |= {id(module) for module in net.modules()}
            self.tag("training", net.training if place else False)
        self.tag("network", type(net).__qualname__)
        generated = isinstance(net, torch.fx.GraphModule)
        self.add(net.code if generated else type(net), place)
        if generated:  # functions that the code calls by name
            graph: Any = net.graph
            self.add([node.target for node in graph.nodes if node.op == "call_function"], place)
        slots = [name for cls in type(net).__mro__ for name in vars(cls).get("__slots__", ()) if name != "__dict__"]
        attributes = vars(net) | {name: getattr(net, name) for name in slots if hasattr(net, name)}
        for name, value in sorted(attributes.items()):
            where = f"{place}.{name}" if place else name
            if name in _HOOKS:
                self.add([name, *value.values()], where)
            elif name in ("_parameters", "_buffers", "_modules"):
                for key, item in value.items():
                    self.tag(name, key)
                    self.add(item, f"{place}.{key}" if place else key)
            elif name not in _BOOKKEEPING and not (generated and name in ("_graph", "_tracer_cls", "meta")):
                self.tag("attribute", name)
                self.add(value, where)
        if type(net).__module__.startswith("torch.ao.nn"):  # packed weights are no attributes
            self.add(dict(net.state_dict()), place)
        return None

    def add_class(self, cls: type, place: str) -> None:
        self.tag("class", cls.__module__, cls.__qualname__)
        if is_installed(cls.__module__):
            patched = [value for value in vars(cls).values() if isinstance(value, types.FunctionType)
                       and not is_installed(value.__module__ or "")]  # fmt: skip
            self.add(patched, place)
            return
        self.add(list(cls.__bases__), place)
        for name, value in sorted(vars(cls).items()):
            if name not in _OF_CLASSES:
                self.tag(name)
                self.add(value, f"{place}.{name}" if place else name)

    def add_function(self, function: types.FunctionType, place: str) -> None:
        self.tag("function", function.__module__, function.__qualname__)
        code = function.__code__
        if not is_installed(function.__module__ or ""):
            self.add(code, place)
            for name in global_names(code):
                if name in function.__globals__:
                    self.tag("global", name)
                    value = function.__globals__[name]
                    self.add(value, f"{name} in {function.__qualname__}")
                    if isinstance(value, types.ModuleType) and not is_installed(value.__name__):
                        used = {key: vars(value)[key] for key in all_names(code) if key in vars(value)}
                        self.add(used, name)
        self.add([function.__defaults__, function.__kwdefaults__], place)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # it is not filled yet
                continue
            self.tag("closure", name)
            self.add(content, f"{name} in {function.__qualname__}")
        if vars(function):
            self.add(dict(vars(function)), place)

    def add_code(self, code: types.CodeType, place: str) -> None:
        self.tag("code", code.co_code, code.co_names, code.co_varnames, code.co_argcount, code.co_kwonlyargcount)
        self.add(list(code.co_consts), place)

    def add_path(self, path: PurePath) -> None:
        self.tag("path", str(path))
        if isinstance(path, Path) and path.is_file():
            with path.open("rb") as file:
                self.digest.update(hashlib.file_digest(file, "sha256").digest())

    def add_other(self, value: Any, place: str) -> None:
        """Feed an object as `copy` and `pickle` take it apart. Raises Unidentified if they cannot."""
        try:
            parts = value.__getstate__() if isinstance(value, torch.ScriptObject) else value.__reduce_ex__(4)
        except Exception as error:
            raise Unidentified(f"{_named(value, place)} cannot be read: {describe(error)}") from error
        self.tag("object", type(value).__module__, type(value).__qualname__)
        if isinstance(parts, tuple) and callable(parts[0]) and len(parts) > 1:
            self.add(type(value), place)
            function, arguments, *more = parts
            self.add(getattr(function, "__qualname__", ""), place)
            self.add([item for item in arguments if item is not type(value)], place)
            state, *iterators = more or [None]
            if isinstance(state, dict):
                for name, item in state.items():
                    self.tag("attribute", str(name))
                    self.add(item, f"{place}.{name}" if place else str(name))
            else:
                self.add(state, place)
            self.add([list(items) for items in iterators if items is not None], place)
        else:
            self.add(parts, place)


_OF_CLASSES = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__",
               "__static_attributes__", "__match_args__", "__dataclass_fields__", "__dataclass_params__",
               "__abstractmethods__", "_abc_impl", "__parameters__", "__qualname__", "__slots__")  # fmt: skip


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return type(value) in _PLAIN


def _bytes(tensor: torch.Tensor) -> bytes:
    """Return the content of a tensor; that of a meta tensor is empty."""
    tensor = tensor.detach()
    if tensor.is_meta:
        return b""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    scale = b""
    if tensor.is_quantized:
        per_tensor = tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        facts: Iterable[Any] = (tensor.q_scale(), tensor.q_zero_point()) if per_tensor else (
            tensor.q_per_channel_scales().tolist(), tensor.q_per_channel_zero_points().tolist()
        )  # fmt: skip
        scale, tensor = repr(tuple(facts)).encode(), tensor.int_repr()
    content: bytes = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return scale + content


def _scripted(net: torch.jit.ScriptModule) -> bytes:
    """Return a digest of a TorchScript module: its code, constants, attributes and state.

    TorchScript numbers the classes of a process, as in `___torch_mangle_3`; these numbers do not count.
    """
    with torch.no_grad():  # else parameters of the copy would be results of an operation
        file, net = io.BytesIO(), copy.deepcopy(net).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    torch.jit.save(net, file)
    digest = hashlib.sha256()
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            inside, content = name.partition("/")[2], archive.read(name)
            if inside.startswith((".data", "version", "byteorder")) or name.endswith(".debug_pkl"):
                continue
            if name.endswith(".pkl"):
                steps = [(step.name, argument) for step, argument, _ in pickletools.genops(content)]
                content = "\n".join(f"{step} {_without_numbers(str(argument))}" for step, argument in steps).encode()
            elif name.endswith(".py"):
                content = _without_numbers(content.decode()).encode()
            digest.update(f"{_without_numbers(inside)} {len(content)}\n".encode() + content)
    return digest.digest()


def _without_numbers(text: str) -> str:
    return re.sub(r"[./]?___torch_mangle_[0-9]+", "", text)


def _named(value: Any, place: str) -> str:
    kind = type(value).__name__
    return f"'{place}', of the type {kind}," if place else f"an object of the type {kind}"
