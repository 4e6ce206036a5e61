"""Texts on the progress of trainings."""

from __future__ import annotations

from robharness import specs


def format_progress(progress: specs.Progress) -> str:
    """Return "epoch 3 of 10, loss 2.31 (4.16 at first, at least 1.05), 512 images/s, 40 s left"."""
    rate = f"{progress.rate:.0f}" if progress.rate >= 10 else f"{progress.rate:.2g}"
    least = "" if progress.floor is None else f", at least {progress.floor:.4g}"
    first = "" if progress.start is None else f" ({progress.start:.4g} at first{least})"
    loss = "" if progress.loss is None else f", loss {progress.loss:.4g}{first}"
    done = f"{progress.unit} {progress.epoch} of {progress.epochs}"
    return f"{done}{loss}, {rate} images/s, {progress.left:.0f} s left"
