"""Configuration of a worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How a process computes. device: as torch names it. rows: examples per pass; threads: of the CPU; None: chosen."""

    device: str = "cpu"
    rows: int | None = None
    threads: int | None = None
