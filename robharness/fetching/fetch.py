"""Fetching of needs: the space is checked first, then each file is downloaded, unpacked or converted into its place."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from robharness.errors import UserError, describe, for_shell, nearest_existing
from robharness.fetching.needs import Need, RemoteFile, needs
from robharness.fetching.records import Fetched, FetchListener
from robharness.fetching.transfer import PART, Patience, Refused, checked_by, size_of, split_login, transfer
from robharness.fetching.unpack import move, unpack
from robharness.planning.cells import Plan
from robharness.planning.planner import refresh
from robharness.planning.weights import file_digest, locate
from robharness.plugins.calls import plugin_code
from robharness.specs.published import Archive, Conversion

WORK = ".fetching"
"""Folder below the data root with the parts of unfinished downloads, and with locks."""
RECORD = "fetched.jsonl"
"""File below the data root with a line per file that was downloaded: its address, size and sha256."""
GROWTH = 2
"""Bytes of the unpacked files per byte of a compressed archive, if the record does not say how many they are."""


def fetch_missing(planned: Plan, fetcher: Fetcher) -> tuple[Plan, list[Fetched]]:
    """Fetch what a plan misses, and plan again, until nothing is missing that can be fetched.

    What is found only after a download, such as the next part of a data set, is fetched as well.
    Returns the last plan, and what became of each need. Raises UserError as `Fetcher.fetch` does.
    """
    found: list[Fetched] = []
    tried = set()
    while todo := [need for need in needs(planned) if need.can_be_fetched and need.key not in tried]:
        for fetched in fetcher.fetch(todo):
            found.append(fetched)
            if not fetched.is_elsewhere:
                tried.add(fetched.need.key)
        planned = refresh(planned)
    return planned, found


class Fetcher:
    """Fetches needs into a data root.

    root: the data root.
    mirror: address or folder that serves all files under their own names, in place of the publishers. A name and a
        password in it are for its server alone; they are in no message and no record.
    listener: shows the progress.
    patience: attempts on a connection that breaks off.
    free_space: path of a folder -> its free bytes.
    """

    def __init__(
        self,
        root: Path,
        listener: FetchListener,
        *,
        mirror: str | None = None,
        patience: Patience | None = None,
        free_space: Callable[[Path], int] | None = None,
    ) -> None:
        self._root, self._listener = root, listener
        self._mirror, self._login = split_login(mirror or "")
        self._patience = patience or Patience()
        self._free_space = free_space or (lambda path: shutil.disk_usage(path).free)

    def url(self, file: RemoteFile) -> str:
        """Return the address from which a file is read."""
        if not self._mirror:
            return file.source.url
        mirror = self._mirror if "://" in self._mirror else Path(self._mirror).expanduser().absolute().as_uri()
        return f"{mirror.rstrip('/')}/{quote(file.source.file_name)}"

    def sizes(self, missing: Sequence[Need]) -> dict[str, int | None]:
        """Return the size of each file by its address: as published, or else as its server says, or None."""
        files = {self.url(file): file for need in missing for file in need.files}
        unknown = [url for url, file in files.items() if file.source.size is None]
        with ThreadPoolExecutor(8) as threads:
            asked = dict(zip(unknown, threads.map(partial(size_of, login=self._login), unknown), strict=True))
        return {url: asked.get(url) if file.source.size is None else file.source.size for url, file in files.items()}

    def fetch(self, missing: Sequence[Need]) -> Iterator[Fetched]:
        """Fetch needs one after the other, and yield what became of each.

        Raises UserError, before the first one, if the space is too small for all of them or the folder cannot be
        written.
        """
        self._check_space(missing)
        with _writable(self._root):
            (self._root / WORK).mkdir(parents=True, exist_ok=True)
        for need in missing:
            yield self._fetched(need)

    def _check_space(self, missing: Sequence[Need]) -> None:
        sizes = self.sizes(missing)
        needed, largest = 0, 0
        for need in missing:
            for file in need.files:
                url = self.url(file)
                size = sizes[url] or 0
                there = self._work(file) / PART
                needed += max(0, size - (there.stat().st_size if there.is_file() else 0))
                if isinstance(file.source, Archive):
                    needed += (_unpacked(file.source, size)) - size
                    largest = max(largest, size)
            needed += sum(sizes[self.url(file)] or 0 for file in need.files if isinstance(need.source, Conversion))
        needed += largest  # an archive is removed when it is unpacked
        folder = nearest_existing(self._root)
        if needed > (free := self._free_space(folder)):
            from rich.filesize import decimal

            raise UserError(
                f"the files need {decimal(needed)}, and {self._root} has {decimal(free)} of free space. "
                f"Try: df -h {for_shell(folder)}"
            )

    def _work(self, file: RemoteFile) -> Path:
        """Return the folder of the unfinished download of a file."""
        identity = f"{file.source.url}\n{file.place}"
        name = Path(file.source.file_name).name
        return self._root / WORK / f"{hashlib.sha256(identity.encode()).hexdigest()[:12]}-{name}"

    def _fetched(self, need: Need) -> Fetched:
        done: list[tuple[int, tuple[str, str] | None]] = []
        is_elsewhere = False
        try:
            for file in need.files:
                with self._locked(self._work(file)) as has_waited:
                    if has_waited or self._is_there(file, need.since):
                        is_elsewhere = True
                        continue
                    done.append(self._get(file))
            if isinstance(need.source, Conversion) and need.place is not None:
                self._convert(need.source, need.place, need)
        except Refused as error:
            return Fetched(need=need, error=str(error))
        except OSError as error:
            where = error.filename or self._root
            raise UserError(
                f"{where} cannot be written: {error.strerror}; what was downloaded is kept. Try: "
                f"df -h {for_shell(nearest_existing(self._root))}"
            ) from None
        finally:
            self._listener.finished()
        unchecked = tuple(digest for _, digest in done if digest is not None)
        return Fetched(need=need, size=sum(size for size, _ in done), unchecked=unchecked, is_elsewhere=is_elsewhere)

    def _get(self, file: RemoteFile) -> tuple[int, tuple[str, str] | None]:
        """Download a file, and unpack it if it is an archive. Returns its size, and its digest if none is published."""
        source, url, work = file.source, self.url(file), self._work(file)
        name = source.file_name
        progress = lambda done, total: self._listener.fetching(name, done, total)  # noqa: E731
        path = transfer(source, url, work, progress, self._patience, self._login)
        size, sha256 = path.stat().st_size, file_digest(path)
        if isinstance(source, Archive):
            self._listener.message(f"unpacking {name}")
            try:
                unpack(path, self._root / source.into, work / "unpacked")
            except Refused:
                if not checked_by(source):  # else it is the published one
                    path.unlink()
                raise
        else:
            _place(path, file.place)
        self._record(file, url, size, sha256)
        shutil.rmtree(work)
        return size, None if checked_by(source) else (name, sha256)

    def _convert(self, source: Conversion, place: Path, need: Need) -> None:
        """Make a file from the published ones. Raises Refused if the plugin fails."""
        work = self._root / WORK / f"{hashlib.sha256(str(place).encode()).hexdigest()[:12]}-{place.name}"
        with self._locked(work):
            if place.is_file():
                return
            work.mkdir(exist_ok=True)
            paths = {name: path for name, each in source.sources.items() if (path := locate(each, self._root))}
            self._listener.message(f"converting to {place.name}")
            try:
                with plugin_code(importing=True):
                    source.convert(paths, work / place.name)  # type: ignore[operator]
            except UserError as error:
                raise Refused(str(error)) from None
            except Exception as error:  # a plugin may raise anything
                raise Refused(f"{need.what} cannot be converted: {describe(error)}") from None
            if not (work / place.name).is_file():
                raise Refused(f"{need.what} cannot be converted: the plugin wrote no file")
            _place(work / place.name, place)
            shutil.rmtree(work)

    @contextmanager
    def _locked(self, work: Path) -> Iterator[bool]:
        """Let one process at a time work on a file. Yields whether another one had to end before."""
        from filelock import FileLock, Timeout

        lock = FileLock(f"{work}.lock")
        has_waited = False
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._listener.message(f"another process fetches {work.name.partition('-')[2]}; waiting for it")
            lock.acquire()
            has_waited = True
        try:
            yield has_waited
        finally:
            lock.release()

    def _is_there(self, file: RemoteFile, since: float) -> bool:
        """Return whether another process has fetched a file since it was missing."""
        if not isinstance(file.source, Archive):
            return file.place.is_file()
        lines = [line for line in _lines(self._root) if line.get("url") == file.source.url]
        return any(isinstance(at := line.get("at"), float) and at > since for line in lines)

    def _record(self, file: RemoteFile, url: str, size: int, sha256: str) -> None:
        """Append a line about a download; one write of a short line is never mixed with that of another process."""
        now = time.time()
        line = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            "at": now,
            "name": file.source.file_name,
            "url": file.source.url,
            **({"from": url} if url != file.source.url else {}),
            "size": size,
            "sha256": sha256,
            "checked": checked_by(file.source) or None,
        }
        with (self._root / RECORD).open("ab", buffering=0) as record:
            record.write(f"{json.dumps(line)}\n".encode())


def _lines(root: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError):
        for line in (root / RECORD).read_bytes().splitlines():
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found


def _unpacked(source: Archive, size: int) -> int:
    """Return the number of bytes of the unpacked files, as published or else estimated."""
    if source.unpacked is not None:
        return source.unpacked
    return size if source.file_name.endswith(".tar") else GROWTH * size


def _place(path: Path, place: Path) -> None:
    """Move a finished file to its place in one step."""
    place.parent.mkdir(parents=True, exist_ok=True)
    move(path, place)


@contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the folder of data {root} cannot be written: {error.strerror}. Try: "
            f"ls -ld {for_shell(nearest_existing(root))}"
        ) from None
