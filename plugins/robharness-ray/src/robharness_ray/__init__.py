"""The executor `ray`: workers as actors of Ray, on a cluster or on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from robharness import UserError, hookimpl


def build() -> Any:
    """Make the executor. Raises UserError if Ray is not installed."""
    try:
        from robharness_ray.executor import RayExecutor
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UserError("Ray is not installed. Try: pip install 'ray>=2.40'") from None
    return RayExecutor()


@hookimpl
def robharness_executors() -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "ray", build
