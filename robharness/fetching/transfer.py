"""One file from a server or a folder: resumed where it broke off, and whole and checked, or refused.

pooch checks the digest and moves the file into place; its own downloaders begin again after each interruption, so the
one that it gets here goes on from the bytes that are there. It asks for the rest by `Range`, on condition that the file
is still the same (`If-Range`), so that two files are never joined.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from robharness.planning.weights import file_digest
from robharness.reading import read_regular
from robharness.specs.published import Archive, Download

if TYPE_CHECKING:
    import requests

CHUNK = 2**16
"""Bytes that are written at once."""
TIMEOUT = (15, 60)
"""Seconds without an answer, and between two packets, after which a connection counts as broken."""
LATER = (408, 425, 429, 500, 502, 503, 504)
"""Status codes of a server that may answer later."""
PART, STATE = "part", "part.json"

Progress = Callable[[int, int | None], None]
"""Is called with the number of bytes that are there, and of all bytes if it is known."""
Login = tuple[str, str]
"""The name and the password of a user."""


class Refused(Exception):
    """A file that cannot be had: its text says why. What was downloaded is kept only if it can be resumed."""


class _Broken(Exception):
    """A connection that broke off; the file may be resumed."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Number of attempts without a new byte after which a transfer fails, and the pauses between them.

    attempts: the number.
    pause: seconds before the second attempt; each further pause is twice as long.
    """

    attempts: int = 5
    pause: float = 0.5


def transfer(
    source: Download | Archive,
    url: str,
    folder: Path,
    progress: Progress,
    patience: Patience | None = None,
    login: Login | None = None,
) -> Path:
    """Download a file into a folder of its own, and return its path there.

    source: the record, with the digests and the size to check.
    url: address from which the file is read, which may be that of a mirror, or `file://`.
    folder: for this file alone; what an interrupted transfer left there is resumed.
    login: for the server; it is in no message and no file.
    Raises Refused if the file cannot be had or is another one, and OSError if it cannot be written.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")
    known, name = _known_hash(source), Path(source.file_name).name
    try:
        urlsplit(url)
    except ValueError as error:
        raise Refused(f"{url} cannot be read: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("tmp*"):  # of pooch in a process that was killed
        left_over.unlink()
    while True:
        downloader = Downloader(source, folder, progress, patience or Patience(), login)
        try:
            path = Path(pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=downloader))
            _check_digits(source, path)
            return path
        except ValueError as error:  # pooch has removed the file
            if downloader.has_resumed_another_run:  # perhaps the bytes of that run are at fault
                continue
            published = f"its {known.replace(':', ' is not ')}" if known else ""
            raise Refused(f"{url} is another file: {error if isinstance(error, _OtherFile) else published}") from None


class _OtherFile(ValueError):
    """A file whose digest does not begin with the published digits."""


def _known_hash(source: Download | Archive) -> str | None:
    """Return the published digest as pooch takes it; None without a whole one."""
    if source.sha256 is not None and len(source.sha256) == 64:
        return f"sha256:{source.sha256}"
    return None if source.md5 is None else f"md5:{source.md5}"


def _check_digits(source: Download | Archive, path: Path) -> None:
    """Remove the file, and raise _OtherFile, if its sha256 does not begin with the published digits."""
    if source.sha256 is not None and not (found := file_digest(path)).startswith(source.sha256):
        path.unlink()
        raise _OtherFile(f"its sha256 is {found}, and the published one begins with {source.sha256}")


def checked_by(source: Download | Archive) -> str:
    """Return how a file is checked after its download, in words; empty if no digest is published."""
    if source.sha256 is not None and len(source.sha256) < 64:
        digits = f"the first {len(source.sha256)} digits of its sha256"
        return f"{digits} and its md5" if source.md5 else digits
    return "its sha256" if source.sha256 else "its md5" if source.md5 else ""


class Downloader:
    """A downloader of pooch that resumes.

    source, folder, progress, patience, login: as `transfer` takes them.
    """

    def __init__(
        self,
        source: Download | Archive,
        folder: Path,
        progress: Progress,
        patience: Patience,
        login: Login | None = None,
    ) -> None:
        self._source, self._progress, self._patience, self._login = source, progress, patience, login
        self._part, self._state = folder / PART, folder / STATE
        self._most = self._begun_with = self._there
        self.has_resumed_another_run = False

    @property
    def _there(self) -> int:
        """The number of bytes that are there."""
        return self._part.stat().st_size if self._part.is_file() else 0

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Write the whole file to a path. Raises Refused."""
        if urlsplit(url).scheme == "file":
            self._copy(Path(url2pathname(urlsplit(url).path)))
        else:
            self._download(url)
        size = self._source.size
        if size is not None and self._there != size:
            found = self._there
            self._begin_again()
            raise Refused(f"{url} has {found:,} bytes, and the published file {size:,}")
        os.replace(self._part, output_file)
        self._state.unlink(missing_ok=True)

    def _copy(self, path: Path) -> None:
        try:
            total = path.stat().st_size
            with path.open("rb") as content:
                self._write(iter(lambda: content.read(CHUNK), b""), total, is_appended=False)
        except (FileNotFoundError, IsADirectoryError, PermissionError, NotADirectoryError) as error:
            raise Refused(f"{path}: {error.strerror}") from None

    def _download(self, url: str) -> None:
        import requests

        pauses, failures = self._patience.pause, 0
        with requests.Session() as session:
            session.auth = self._login
            while True:
                before = self._most
                try:
                    self._attempt(session, url)
                    return
                except _Broken as error:
                    self._most = max(self._most, self._there)
                    failures = 1 if self._most > before else failures + 1
                    if failures >= self._patience.attempts:
                        raise Refused(f"{error}, {failures} times; the bytes that came are kept") from None
                    time.sleep(min(60.0, pauses * 2 ** (failures - 1)))

    def _attempt(self, session: requests.Session, url: str) -> None:
        """Read the file, or the rest of it, in one request. Raises _Broken if the file is not whole afterwards."""
        there, state = self._there, self._read_state()
        headers = {"Accept-Encoding": "identity"}
        validator = state.get("validator") if state.get("url") == url else None
        if there and (validator or _known_hash(self._source)):
            headers["Range"] = f"bytes={there}-"
            headers |= {"If-Range": validator} if validator else {}
        with _network(url), session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416 and "Range" in headers:
                if response.headers.get("Content-Range", "").rpartition("/")[2] == str(there):
                    self._note_origin()
                    return  # all bytes are there
                self._begin_again()
                raise _Broken(f"{url} has less than {there:,} bytes")
            _check_status(response, url)
            begin, total = _extent(response)
            is_appended = response.status_code == 206 and begin == there
            if response.status_code == 206 and not is_appended:
                self._begin_again()
                raise _Broken(f"{url} sent other bytes than those that were requested")
            if self._source.size is not None and total not in (None, self._source.size):
                raise Refused(f"{url} has {total:,} bytes, and the published file {self._source.size:,}")
            if not checked_by(self._source) and "text/html" in response.headers.get("Content-Type", ""):
                raise Refused(f"{url} is a web page, and not the file")
            if is_appended:
                self._note_origin()
            else:
                self._begun_with = 0
                self._write_state(url, _validator(response))
            self._write(response.raw.stream(CHUNK, decode_content=False), total, is_appended=is_appended)
        if total is not None and self._there != total:
            raise _Broken(f"{url} broke off after {self._there:,} of {total:,} bytes")

    def _write(self, chunks: Iterator[bytes], total: int | None, *, is_appended: bool) -> None:
        with _disk():
            part = self._part.open("ab" if is_appended else "wb")
        with part as file:
            done = file.tell()
            self._progress(done, total)
            for chunk in chunks:
                with _disk():
                    file.write(chunk)
                    file.flush()  # a process that is killed keeps what has come
                done += len(chunk)
                if self._source.size is not None and done > self._source.size:
                    raise Refused(f"the server sends more than the {self._source.size:,} bytes of the published file")
                self._progress(done, total)
            with _disk():
                os.fsync(file.fileno())

    def _note_origin(self) -> None:
        """Note that the part, which is kept, may begin with bytes of an earlier process."""
        self.has_resumed_another_run = self.has_resumed_another_run or self._begun_with > 0

    def _begin_again(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
        self._begun_with = 0

    def _read_state(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found = json.loads(read_regular(self._state, 2**16))
            return found if isinstance(found, dict) else {}
        return {}

    def _write_state(self, url: str, validator: str | None) -> None:
        """Record from where the part comes, before its first byte."""
        self._part.unlink(missing_ok=True)
        self._state.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


class DiskFull(OSError):
    """An error of the disk, which is told apart from one of the network."""


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskFull(error.errno, error.strerror) from error


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Raise _Broken for an error of the connection, and Refused for one that stays."""
    import requests
    import urllib3

    lasting = (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects, ValueError)
    try:
        yield
    except (Refused, _Broken, DiskFull):
        raise
    except lasting as error:
        raise Refused(f"{url} cannot be read: {_cause(error)}") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _Broken(f"{url} cannot be read: {_cause(error)}") from None


def _cause(error: BaseException) -> str:
    """Return the innermost reason of an error of the network, in one line."""
    seen = error
    while (inner := getattr(seen, "reason", None) or next(iter(getattr(seen, "args", ())), None)) is not None:
        if not isinstance(inner, BaseException):
            break
        seen = inner
    text = str(seen).partition("\n")[0]
    return text.rpartition(">: ")[2] or type(seen).__name__


def _check_status(response: requests.Response, url: str) -> None:
    if response.status_code in LATER:
        raise _Broken(f"{url}: the server answers {response.status_code} {response.reason}")
    if response.status_code not in (200, 206):
        raise Refused(f"{url}: the server answers {response.status_code} {response.reason}")


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Return the position of the first byte of an answer, and the size of the whole file if it is known."""
    if response.status_code == 206:
        place, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        begin = place.partition("-")[0].strip()
        return int(begin) if begin.isdecimal() else -1, int(total) if total.isdecimal() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _validator(response: requests.Response) -> str | None:
    """Return what tells whether a file is still the same: its strong ETag, or the time of its last change."""
    tag = response.headers.get("ETag", "")
    found: str | None = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    return found


def split_login(url: str) -> tuple[str, Login | None]:
    """Return an address without the name and the password in it, and these; None if it has none."""
    match = re.match(r"(https?://)([^/?#]*)@", url, re.IGNORECASE)
    if match is None:
        return url, None
    name, _, password = match[2].partition(":")
    return match[1] + url[match.end() :], (unquote(name), unquote(password))


def size_of(url: str, login: Login | None = None) -> int | None:
    """Ask a server, or the file system, for the size of a file; None if it does not answer."""
    import requests

    headers = {"Accept-Encoding": "identity"}
    with suppress(requests.RequestException, OSError, ValueError):
        if urlsplit(url).scheme == "file":
            path = Path(url2pathname(urlsplit(url).path))
            return path.stat().st_size if path.is_file() else None
        response = requests.head(url, headers=headers, auth=login, allow_redirects=True, timeout=(5, 10))
        length = response.headers.get("Content-Length", "")
        if response.status_code == 200 and length.isdecimal() and int(length):
            return int(length)
    return None
