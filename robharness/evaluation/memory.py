"""Handling of memory that is too small."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether host or device ran out of memory, here or in what this error came from.

    torch says so of the host in a plain RuntimeError of its allocator.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs):
        return True
    return error is not None and is_out_of_memory(error.__cause__)


def smaller_batch_size(rows: int) -> int:
    """Half the rows, in the multiples of 4 that `pass_rows` explains for as long as there are any."""
    return max(1, rows // 2 // 4 * 4 or rows // 2)


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
