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
import importlib.machinery
import io
import pickletools
import re
import sys
import sysconfig
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


def _digest(value: Any) -> bytes:
    try:
        walk = _Walk()
        walk.add(value, "")
        return walk.digest.digest()
    except RecursionError:
        raise Unidentified("its objects are nested too deeply to be read") from None


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range, slice)
_BY_TEXT = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, np.dtype)
_BOOKKEEPING = set(vars(nn.Module())) - {"_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"}
"""Attributes of every module that do not change its outputs or input gradients, hooks of gradients apart."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType,
             types.MethodWrapperType, types.ClassMethodDescriptorType, types.GetSetDescriptorType,
             types.MemberDescriptorType)  # fmt: skip
_NO_BEHAVIOUR = ("lock", "RLock", "Stream", "Event", "Logger")
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
        if isinstance(value, _PLAIN):
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
            self.tag("tensor", type(value).__name__, str(value.dtype), tuple(value.shape))
            self.digest.update(_bytes(value))
        elif isinstance(value, np.ndarray | np.generic):
            self.tag("array", str(value.dtype), value.shape)
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
        elif isinstance(value, Mapping):
            self.tag("mapping", type(value).__qualname__, len(value))
            for key, item in value.items():
                self.add(key, place)
                self.add(item, f"{place}[{key!r}]" if isinstance(key, str | int) else place)
        elif isinstance(value, list | tuple):
            self.tag("sequence", type(value).__qualname__, len(value))
            for index, item in enumerate(value):
                self.add(item, f"{place}[{index}]" if place else "")
        elif isinstance(value, set | frozenset):
            self.tag("set", sorted(_digest(item).hex() for item in value))
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
        elif isinstance(value, torch.Generator):
            self.add(value.get_state(), place)
        elif type(value).__name__ in _NO_BEHAVIOUR:
            self.tag("no behaviour", type(value).__name__)
        else:
            self.add_other(value, place)

    def add_network(self, net: nn.Module, place: str) -> None:
        if isinstance(net, torch.jit.ScriptModule):
            return self.digest.update(_scripted(net))
        if isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):  # of torch.compile, which keeps its results
            return self.add(inner, place)
        if id(net) not in self.registered:
            self.registered |= {id(module) for module in net.modules()}
            self.tag("training", net.training if place else False)
        self.tag("network", type(net).__qualname__)
        generated = isinstance(net, torch.fx.GraphModule)
        self.add(net.code if generated else type(net), place)
        for name, value in sorted(vars(net).items()):
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
        if _is_installed(cls.__module__):
            return
        self.add(list(cls.__bases__), place)
        for name, value in sorted(vars(cls).items()):
            if name not in _OF_CLASSES:
                self.tag(name)
                self.add(value, f"{place}.{name}" if place else name)

    def add_function(self, function: types.FunctionType, place: str) -> None:
        self.tag("function", function.__module__, function.__qualname__)
        code = function.__code__
        if not _is_installed(function.__module__ or ""):
            self.add(code, place)
            for name in _global_names(code):
                if name in function.__globals__:
                    self.tag("global", name)
                    value = function.__globals__[name]
                    self.add(value, f"{name} in {function.__qualname__}")
                    if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
                        used = {key: vars(value)[key] for key in _global_names(code) if key in vars(value)}
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


def _global_names(code: types.CodeType) -> list[str]:
    """Return the names that a function and the functions inside it may look up, sorted."""
    names, pending = set(code.co_names), [code]
    while pending:
        inner = [const for const in pending.pop().co_consts if isinstance(const, types.CodeType)]
        names.update(name for each in inner for name in each.co_names)
        pending += inner
    return sorted(names)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@functools.cache
def _is_installed(module: str) -> bool:
    """Return whether a module is of Python, of an installed package or of robharness: a version identifies its code."""
    if module.partition(".")[0] in (*sys.builtin_module_names, "builtins", "robharness"):
        return True
    if module in ("__main__", "__mp_main__", ""):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # a module of C, or one that a notebook or a loader made
        spec = getattr(sys.modules.get(module), "__spec__", None)
        return getattr(spec, "loader", None) is importlib.machinery.BuiltinImporter or module in sys.stdlib_module_names
    return any(Path(file).is_relative_to(folder) for folder in _installed_folders())


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
