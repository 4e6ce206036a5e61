"""Isolation of our computations from the modes of torch and NumPy that a caller or a plugin has set.

Torch keeps modes per process or per thread: autocast, inference mode, the default type and device, global hooks, the
precision of products, and more. A caller may be in the middle of mixed-precision training, and a plugin may leave a
mode changed. `neutral_modes` gives a block the modes of a fresh process; it and `kept_modes` put the earlier ones back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules import module as modules
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils import _device, _python_dispatch

from robharness.errors import UserError
from robharness.evaluation.rng import global_kept
from robharness.plugins.calls import plugin_code
from robharness.plugins.process import kept_folder


class _Mode(NamedTuple):
    """A mode: its name in messages, how it is read and written, and its value in a fresh process."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    neutral: Any = None


class Modes:
    """The modes at one moment, which can be compared with later ones and put back.

    changed: the names of the modes that a block of `kept_modes` changed, filled at its end.
    """

    def __init__(self) -> None:
        self.changed: list[str] = []
        self._groups = [
            [(mode, value) for mode in group if (value := _read(mode)) is not _UNREADABLE] for group in _groups()
        ]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Run a block in these modes, e.g. while a plugin's own modes are set, which come back after it."""
        with torch.inference_mode(False):
            now = Modes()
            self.restore()
            try:
                yield
            finally:
                now.restore()

    def restore(self) -> list[str]:
        """Put these modes back. Returns the names of those that had other values."""
        names = []
        for values in self._groups:
            differing = [mode.name for mode, value in values if not _has(mode, value)]
            if differing:
                names += differing
                _write(values)
        return list(dict.fromkeys(names))

    def neutralise(self) -> None:
        """Set all modes to their values in a fresh process; threads stay as they are."""
        for values in self._groups:
            neutral = [(mode, mode.neutral) for mode, _ in values if mode.neutral is not None]
            if not all(_has(mode, value) for mode, value in neutral):
                _write(neutral)


@contextmanager
def neutral_modes(threads: int | None = None) -> Iterator[int]:
    """Run a block in the modes of a fresh process; restore the caller's modes and the working directory after it.

    threads: of the CPU, inside the block; unchanged if None.
    Yields the number of threads in use. Global random generators are restored, too.
    Raises UserError within a transform of torch.func.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise UserError("within torch.func (grad, vmap, jvp ...) nothing can be measured. Try: the call outside of it")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(kept_folder())
        modes = stack.enter_context(_kept())
        modes.neutralise()
        stack.enter_context(global_kept())
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            stack.enter_context(saved_tensors_hooks(_unchanged, _unchanged))  # only the innermost hooks are called
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def kept_modes() -> Iterator[Modes]:
    """Run a block of a plugin's code as `plugin_code` does, and restore the modes after it.

    Yields the modes before the block; their `changed` names what the block changed, of the process as well.
    """
    with plugin_code() as process, _kept() as modes:
        yield modes
    modes.changed += process


@contextmanager
def _kept() -> Iterator[Modes]:
    is_inference = torch.is_inference_mode_enabled()
    with torch.inference_mode(is_inference):
        modes = Modes()
        try:
            yield modes
        finally:
            modes.changed += ["inference mode"] * (torch.is_inference_mode_enabled() != is_inference)
            modes.changed += modes.restore()


_UNREADABLE = object()


def _read(mode: _Mode) -> Any:
    try:
        return mode.read()
    except (AttributeError, RuntimeError, AssertionError):  # precisions that contradict each other cannot be read
        return _UNREADABLE


def _has(mode: _Mode, value: Any) -> bool:
    return bool(_read(mode) == value)


def _write(values: Iterable[tuple[_Mode, Any]]) -> None:
    for mode, value in values:
        with suppress(AttributeError, RuntimeError, AssertionError):
            mode.write(value)


@cache
def _groups() -> list[list[_Mode]]:
    """Return the modes that this torch has, in groups that are restored one after the other.

    A group is written as a whole if one of its modes differs: precisions change each other. Any other mode is a group
    of its own, because some writes are slow: that of "deterministic algorithms" imports torch's compiler.
    """
    groups = []
    for group in (*([mode] for mode in (*_thread_modes(), *_settings())), list(_precisions())):
        found = []
        for mode in group:
            with suppress(AttributeError, AssertionError):  # e.g. a backend that this torch lacks
                with suppress(RuntimeError):  # the precisions contradict each other at the moment
                    mode.read()
                found.append(mode)
        groups.append(found)
    return groups


def _thread_modes() -> Iterator[_Mode]:
    """Yield the modes that torch and NumPy keep by thread, or in tables of hooks."""
    yield _Mode("functions that intercept torch, or the default device", _read_stacks, _write_stacks, _NO_STACKS)
    yield _Mode("hooks of all modules", _read_hooks, _write_hooks, tuple({} for _ in _hook_tables()))
    yield _Mode("hooks of saved tensors", _top_hooks, _pop_hooks)
    yield _Mode("the number of threads", torch.get_num_threads, _set_threads)
    yield _Mode("whether gradients are recorded", torch.is_grad_enabled, torch.set_grad_enabled, True)
    yield _Mode("NumPy's handling of errors", np.geterr, lambda value: np.seterr(**value), _NUMPY_ERRORS)


_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


def _settings() -> Iterator[_Mode]:
    """Yield the settings that do not depend on each other."""
    backends: Any = torch.backends
    yield _Mode("the default dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    for device, dtype in (("cpu", torch.bfloat16), ("cuda", torch.float16)):
        for name, what, fresh in (("enabled", "autocast", False), ("dtype", "the dtype of autocast", dtype)):
            reads = torch.is_autocast_enabled if name == "enabled" else torch.get_autocast_dtype
            yield _Mode(what, partial(reads, device), partial(getattr(torch, f"set_autocast_{name}"), device), fresh)
    yield _Mode("the cache of autocast", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, True)
    yield _Mode(
        "anomaly detection",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        (False, True),
    )
    yield _Mode(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        (False, False),
    )
    yield _Mode("denormal numbers", _flushes_denormal, torch.set_flush_denormal, False)
    for holder, place, name, neutral in (
        (backends.cudnn, "torch.backends.cudnn", "enabled", True),
        (backends.cudnn, "torch.backends.cudnn", "benchmark", False),
        (backends.cudnn, "torch.backends.cudnn", "deterministic", False),
        (backends.mkldnn, "torch.backends.mkldnn", "enabled", True),
        (backends.cuda.matmul, "torch.backends.cuda.matmul", "allow_fp16_reduced_precision_reduction", True),
        (backends.cuda.matmul, "torch.backends.cuda.matmul", "allow_bf16_reduced_precision_reduction", True),
        (Image, "PIL.Image", "MAX_IMAGE_PIXELS", _MAX_IMAGE_PIXELS),
        (ImageFile, "PIL.ImageFile", "LOAD_TRUNCATED_IMAGES", False),
    ):
        yield _attribute(holder, name, neutral, f"{place}.{name}")
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        read, write = (getattr(backends.cuda, name) for name in (f"{kernel}_sdp_enabled", f"enable_{kernel}_sdp"))
        yield _Mode(f"{kernel} attention", read, write, True)


def _precisions() -> Iterator[_Mode]:
    """Yield the settings of the precision of products, which change each other.

    Those of all versions of torch come first, then `fp32_precision` of recent ones, outer before inner.
    """
    read, write = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    yield _Mode(_PRECISION, read, write, "highest")
    yield _attribute(torch.backends.cudnn, "allow_tf32", True, _PRECISION)
    for path in ("", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn", "mkldnn", "mkldnn.matmul", "mkldnn.conv"):
        holder: Any = torch.backends
        for name in path.split(".") if path else ():
            holder = getattr(holder, name, None)
        if hasattr(holder, "fp32_precision"):
            yield _attribute(holder, "fp32_precision", _FRESH_PRECISIONS.get(path, "none"), _PRECISION)


_PRECISION = "the precision of products"
_MAX_IMAGE_PIXELS = 89_478_485
"""PIL's own limit; twice as many pixels are an error."""
_FRESH_PRECISIONS = {"cudnn.conv": "tf32", "cudnn.rnn": "tf32"}
"""The values of `fp32_precision` in a fresh process that are not "none", by backend."""


def _attribute(holder: Any, attribute: str, neutral: Any, name: str) -> _Mode:
    return _Mode(name, lambda: getattr(holder, attribute), lambda value: setattr(holder, attribute, value), neutral)


def _flushes_denormal() -> bool:
    """Whether the CPU replaces denormal numbers by 0; torch has no function that says so."""
    return bool(_DENORMAL * np.float32(1) == 0)


_DENORMAL = np.float32(1e-40)


def _read_stacks() -> tuple[Any, ...]:
    """Return the stacks of modes that intercept torch's functions, such as `with torch.device("cuda")`."""
    functions = tuple(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]
    dispatch = tuple(_python_dispatch._get_current_dispatch_mode_stack())
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return functions, dispatch, default, getattr(_device, "CURRENT_DEVICE", None)


def _write_stacks(stacks: tuple[Any, ...]) -> None:
    functions, dispatch, default, current = stacks
    for _ in range(torch._C._len_torch_function_stack()):
        _pop_mode()  # type: ignore[no-untyped-call]
    for _ in range(torch._C._len_torch_dispatch_stack()):
        _python_dispatch._pop_mode()
    for mode in dispatch:
        _python_dispatch._push_mode(mode)
    for mode in functions:
        _push_mode(mode)  # type: ignore[no-untyped-call]
    torch._GLOBAL_DEVICE_CONTEXT.device_context = default
    _device.CURRENT_DEVICE = current


_NO_STACKS = ((), (), None, None)


@cache
def _hook_tables() -> list[dict[Any, Any]]:
    """Return the tables of the hooks that are registered for all modules."""
    return [value for name, value in vars(modules).items() if name.startswith("_global_") and isinstance(value, dict)]


def _read_hooks() -> tuple[dict[Any, Any], ...]:
    return tuple(dict(table) for table in _hook_tables())


def _write_hooks(values: tuple[dict[Any, Any], ...]) -> None:
    for table, kept in zip(_hook_tables(), values, strict=True):
        table.clear()
        table.update(kept)


def _top_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def _pop_hooks(top: Any) -> None:
    while (now := _top_hooks()) is not None and now != top:
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _unchanged(tensor: Any) -> Any:
    return tensor


def _set_threads(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def read_modes() -> tuple[Any, ...]:
    """Return the modes that a network's own code changes most often, to compare them before and after a pass."""
    return tuple(read() for read, _ in _READABLE)


def write_modes(values: tuple[Any, ...]) -> None:
    """Restore the modes that `read_modes` returned."""
    for (_, write), value in zip(_READABLE, values, strict=True):
        write(value)


_READABLE: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (partial(torch.is_autocast_enabled, "cpu"), partial(torch.set_autocast_enabled, "cpu")),
    (partial(torch.is_autocast_enabled, "cuda"), partial(torch.set_autocast_enabled, "cuda")),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.get_num_threads, _set_threads),
)
