"""Files of safetensors: their header, checked before its tensors are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from robharness.checkpoints.bounds import HEADER, NAME, Damaged, Unfit

WHAT = "it is a safetensors file that"
PREFIX = 8
"""Bytes of the length of the header, which stand in front of it."""


def is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Return whether a file is one of safetensors.

    head: its first bytes.
    size: in bytes.
    Raises Damaged or Unfit for such a file with a header that is not valid, or too large.
    """
    length = int.from_bytes(head[:PREFIX], "little")
    is_named = path.suffix == ".safetensors"
    if head[PREFIX : PREFIX + 1] != b"{" or not (is_named or 2 <= length <= size - PREFIX):
        return False
    if length > size - PREFIX:
        raise Damaged(f"its header has {length:,} bytes, and the file {size:,}", WHAT)
    if length > HEADER:
        raise Unfit(f"its header is larger than {HEADER / 2**20:.0f} MiB")
    with path.open("rb") as file:
        file.seek(PREFIX)
        _require_header(file.read(length))
    return True


def _require_header(text: bytes) -> None:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Damaged("its header is no JSON", WHAT) from None
    if any(len(name) > NAME for name in header):
        raise Unfit(f"a key in it has more than {NAME:,} characters")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Damaged(f"{len(pairs) - len(found)} keys in its header are there twice", WHAT)
    return found


def read(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name. Raises Damaged, or ImportError without the package safetensors."""
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(lines[0].rstrip("."), WHAT) from error
