"""Records of what was fetched, and the listener that shows how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from robharness.fetching.needs import Need


@runtime_checkable
class FetchListener(Protocol):
    """A listener to the progress of downloads."""

    def message(self, message: str) -> None:
        """Show a sentence."""

    def fetching(self, name: str, done: int, total: int | None) -> None:
        """Show that this many bytes of a file are there, of this many if that is known."""

    def finished(self) -> None:
        """Remove the progress display."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A need that was fetched, or could not be.

    need: the need.
    error: why it could not be fetched; empty if it was.
    size: bytes that were downloaded.
    unchecked: SHA-256 by file name of downloads for which no digest is published.
    is_elsewhere: whether another process has fetched it meanwhile.
    """

    need: Need
    error: str = ""
    size: int = 0
    unchecked: tuple[tuple[str, str], ...] = ()
    is_elsewhere: bool = False
