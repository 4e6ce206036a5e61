"""Handling of exhausted memory."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that memory of the host or the device is exhausted.

    For the host, torch's allocator raises a plain RuntimeError, which is recognised by its message.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs):
        return True
    return error is not None and is_out_of_memory(error.__cause__)


def smaller_batch_size(batch_size: int) -> int:
    """Return half the batch size, rounded down to a multiple of 4 if it is at least 4; never less than 1.

    `batch_sizes.batch_size_candidates` gives the reason why multiples of 4 are preferred.
    """
    return max(1, batch_size // 2 // 4 * 4 or batch_size // 2)


def free_memory() -> None:
    """Collect garbage and release the unused memory that torch holds on GPUs."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
