"""Imports of large packages, in processes of our own, without passes of the garbage collector over their objects.

The import of torch makes about a million objects, which all live as long as the process. Python's collector goes
through them several times during the import, and again when the process ends. Trade-off: what is garbage at the end of
such an import is never freed, so a process that is a user's own keeps the collector as the user set it.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager

TYPE_CHECKING = False  # see robharness/__init__.py
if TYPE_CHECKING:
    from collections.abc import Iterator

MKL_MODE = "MKL_CBWR"
"""The environment variable of MKL's conditional numerical reproducibility, which MKL reads once."""

_is_own_process = False


def declare_own_process() -> None:
    """Declare that this process runs nothing but a command or a worker of ours."""
    global _is_own_process
    _is_own_process = True


def request_exact_products() -> None:
    """Ask MKL, before it is loaded, for matrix products whose rows do not depend on their position, unless it is set.

    Without it, products of 4 to 12 rows with two or three outputs depend on it on processors with AVX-512, and products
    of 8, 20, 32, 44 or 56 rows on those with AVX2 alone (MKL 2024.2). Subprocesses inherit it. It cost no time.
    """
    os.environ.setdefault(MKL_MODE, "AUTO,STRICT")


@contextmanager
def large_import(package: str) -> Iterator[None]:
    """Pause the collector in a block that imports a package, and keep all objects of then from its later passes.

    package: its name. Nothing is changed if it is imported already, or if the process is a user's own.
    """
    if not _is_own_process or package in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
