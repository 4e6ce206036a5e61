"""The arguments of a plan, from which another process makes the same plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robharness.suite.settings import Setting


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """The arguments that make the same plan in another process.

    suite, data_root, limit: as `plan` takes them.
    options: the plugins, as `discover` takes them.
    working_directory: the folder that relative paths among these arguments are relative to.
    settings: values that are set in the suite.
    """

    suite: str | Path | Mapping[str, Any]
    data_root: Path
    limit: int | None
    options: tuple[str, ...]
    working_directory: Path
    settings: tuple[Setting, ...] = ()
