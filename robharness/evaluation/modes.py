"""Isolation of our computations from the modes of torch and NumPy that a caller or a plugin has set.

Torch keeps modes per process or per thread: autocast, inference mode, the default type and device, global hooks, the
precision of products, and more. A caller may be in the middle of mixed-precision training, and a plugin may leave a
mode changed. `neutral_modes` gives a block the modes of a fresh process; it and `kept_modes` put the earlier ones back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules import module as modules
from torch.overrides import _pop_mode, _push_mode
from torch.utils import _device, _python_dispatch

from robharness.errors import UserError
from robharness.evaluation.rng import global_kept
from robharness.plugins.process import kept_folder


class _Setting(NamedTuple):
    """A global setting: how it is read and written, and its value in a fresh process."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    neutral: Any


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
        stack.enter_context(torch.enable_grad())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(global_kept())
        stack.enter_context(_kept(neutral=True))
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def kept_modes() -> Iterator[None]:
    """Restore the modes and the working directory after a block, in which a plugin may change them."""
    with torch.inference_mode(torch.is_inference_mode_enabled()), np.errstate(), _kept(neutral=False):
        yield


@contextmanager
def _kept(*, neutral: bool) -> Iterator[None]:
    """Restore all modes after the block.

    neutral: whether the block begins with the modes of a fresh process.
    """
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    with ExitStack() as stack:
        stack.enter_context(kept_folder())
        stack.callback(_set_threads, threads)
        stack.callback(torch.set_grad_enabled, grad)
        stack.enter_context(_stacks_kept(neutral=neutral))
        stack.enter_context(_global_hooks_kept(neutral=neutral))
        if neutral and torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            stack.enter_context(saved_tensors_hooks(_unchanged, _unchanged))  # only the innermost hooks are called
        for group in (_settings(), _precisions()):
            stack.enter_context(_settings_kept(list(group), neutral=neutral))
        yield


@contextmanager
def _settings_kept(settings: list[_Setting], *, neutral: bool) -> Iterator[None]:
    """Restore settings after the block, in the given order."""
    before = []
    for setting in settings:
        with suppress(AttributeError, RuntimeError, AssertionError):  # e.g. a backend that this torch lacks
            before.append((setting, setting.read()))
    if neutral and any(value != setting.neutral for setting, value in before):
        _write((setting, setting.neutral) for setting, _ in before)
    try:
        yield
    finally:
        if not _are_set(before):
            _write(before)


def _are_set(values: list[tuple[_Setting, Any]]) -> bool:
    try:
        return all(setting.read() == value for setting, value in values)
    except (AttributeError, RuntimeError, AssertionError):  # precisions that contradict each other cannot be read
        return False


def _write(values: Iterable[tuple[_Setting, Any]]) -> None:
    for setting, value in values:
        with suppress(AttributeError, RuntimeError, AssertionError):
            setting.write(value)


def _settings() -> Iterator[_Setting]:
    """Yield the settings that do not depend on each other."""
    backends: Any = torch.backends
    yield _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    for device, dtype in (("cpu", torch.bfloat16), ("cuda", torch.float16)):
        yield _Setting(partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device), False)
        yield _Setting(partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device), dtype)
    yield _Setting(torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, True)
    yield _Setting(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        (False, True),
    )
    yield _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        (False, False),
    )
    yield _Setting(_flushes_denormal, torch.set_flush_denormal, False)
    for holder, name, neutral in (
        (backends.cudnn, "enabled", True),
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", False),
        (backends.mkldnn, "enabled", True),
        (backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", True),
        (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
        (Image, "MAX_IMAGE_PIXELS", _MAX_IMAGE_PIXELS),
        (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
    ):
        yield _attribute(holder, name, neutral)
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        read, write = (getattr(backends.cuda, name) for name in (f"{kernel}_sdp_enabled", f"enable_{kernel}_sdp"))
        yield _Setting(read, write, True)


def _precisions() -> Iterator[_Setting]:
    """Yield the settings of the precision of products, which change each other.

    Those of all versions of torch come first, then `fp32_precision` of recent ones, outer before inner.
    """
    yield _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
    yield _attribute(torch.backends.cudnn, "allow_tf32", True)
    for path in ("", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn", "mkldnn", "mkldnn.matmul", "mkldnn.conv"):
        holder: Any = torch.backends
        for name in path.split(".") if path else ():
            holder = getattr(holder, name, None)
        if hasattr(holder, "fp32_precision"):
            yield _attribute(holder, "fp32_precision", _FRESH_PRECISIONS.get(path, "none"))


_MAX_IMAGE_PIXELS = 89_478_485
"""PIL's own limit; twice as many pixels are an error."""
_FRESH_PRECISIONS = {"cudnn.conv": "tf32", "cudnn.rnn": "tf32"}
"""The values of `fp32_precision` in a fresh process that are not "none", by backend."""


def _attribute(holder: Any, name: str, neutral: Any) -> _Setting:
    return _Setting(lambda: getattr(holder, name), lambda value: setattr(holder, name, value), neutral)


def _flushes_denormal() -> bool:
    """Whether the CPU replaces denormal numbers by 0; torch has no function that says so."""
    return bool((torch.tensor(1e-40, dtype=torch.float32) * 1 == 0).item())


@contextmanager
def _stacks_kept(*, neutral: bool) -> Iterator[None]:
    """Restore the stacks of modes that intercept torch's functions, such as `with torch.device("cuda")`."""
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    current = getattr(_device, "CURRENT_DEVICE", None)
    functions, dispatch = _popped()
    if neutral:
        torch._GLOBAL_DEVICE_CONTEXT.device_context = None
        _device.CURRENT_DEVICE = None
    else:
        _push(functions, dispatch)
    try:
        yield
    finally:
        _popped()  # e.g. a default device that the block has set
        _push(functions, dispatch)
        torch._GLOBAL_DEVICE_CONTEXT.device_context = default
        _device.CURRENT_DEVICE = current


def _push(functions: list[Any], dispatch: list[Any]) -> None:
    for mode in reversed(dispatch):
        _python_dispatch._push_mode(mode)
    for mode in reversed(functions):
        _push_mode(mode)  # type: ignore[no-untyped-call]


def _popped() -> tuple[list[Any], list[Any]]:
    """Remove all modes from the stacks of this thread, and return them, the innermost first."""
    functions = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]  # type: ignore[no-untyped-call]
    return functions, [_python_dispatch._pop_mode() for _ in range(torch._C._len_torch_dispatch_stack())]


@contextmanager
def _global_hooks_kept(*, neutral: bool) -> Iterator[None]:
    """Restore the hooks that are registered for all modules."""
    tables = [value for name, value in vars(modules).items() if name.startswith("_global_") and isinstance(value, dict)]
    before = [dict(table) for table in tables]
    for table in tables if neutral else ():
        table.clear()
    try:
        yield
    finally:
        for table, kept in zip(tables, before, strict=True):
            table.clear()
            table.update(kept)


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
