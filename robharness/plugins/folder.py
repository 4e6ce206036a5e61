"""The working directory of the process, which a plugin may change and another program may remove."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def current_folder() -> Path:
    """Return the working directory, or the root folder if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path("/")


@contextmanager
def kept_folder() -> Iterator[None]:
    """Return to the working directory after a block, if the block leaves it and it still exists."""
    try:
        folder = os.getcwd()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            if not os.path.exists(".") or os.getcwd() != folder:
                os.chdir(folder)
