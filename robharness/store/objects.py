"""The files of a store in an object store, such as S3, through `obstore`.

A part is one request that creates an object, or finds that it exists: a request that is repeated since its answer was
lost changes nothing. Nothing is renamed, and a listing shows every write that was answered. Trade-offs: there are no
locks; and since a request takes long, parts that were read or written are kept in a folder of this machine, see
`robharness.locations.local_folder`. The checksum in its name tells whether such a copy is right.
"""

from __future__ import annotations

import errno
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, Self, TypeVar

from robharness.errors import UserError
from robharness.locations import ObjectPath, local_folder, s3_endpoint
from robharness.store.files import FileSystem, RemoteError
from robharness.store.remote_errors import NO_BUCKET, is_loopback, remote_error, remove_command, show_command
from robharness.text import printable

PARALLEL = 64
"""The number of requests at once: 2,000 objects from 100 ms away take about three seconds."""
FIRST_RETRIES = 3
"""The number of times that a request is repeated until a server has answered, so that a wrong address shows soon."""
PATIENCE = timedelta(minutes=1)
"""The time for which a request is repeated later, in pauses of at most five seconds."""
PAGE = 1000
"""The number of names in a page of a listing."""
T = TypeVar("T")


class ObjectFiles:
    """The files of a store in an object store; see `robharness.store.files.StoreFiles`.

    Raises UserError if `obstore` is not installed, and for a configuration that it refuses.
    """

    parallel = PARALLEL
    lacks_fsync = False

    def __init__(self, root: ObjectPath, *, is_read_only: bool = False) -> None:
        self._root, self._is_read_only = root, is_read_only
        self._bucket = _bucket(root.bucket, _settings())
        self._copies, self._local_files = local_folder(root) / "copies", FileSystem()
        self._listing: _Listing | None = None

    def time(self) -> float:
        return time.time()

    # --- reading -----------------------------------------------------------------------------------------------

    def read(self, path: PurePath, most: int | None = None) -> bytes:
        def request(obstore: Any, client: Any) -> bytes:
            found = obstore.get(client, _key(path))
            if most is not None and found.meta["size"] > most:
                raise OSError(errno.EFBIG, f"it has more than {most / 2**20:g} MiB", str(path))
            content: bytes = found.bytes().to_bytes()
            return content

        if self._listing is not None and not self._listing.may_have(_key(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        try:
            return self._bucket.answer(request, path)
        except FileNotFoundError:
            if self._listing is not None:
                self._listing.forget(_key(path.parent))
            raise

    def read_part(self, path: PurePath, checksum: str) -> bytes:
        with suppress(OSError):
            content = self._copy(path).read_bytes()
            if _checksum(content) == checksum:
                return content
        content = self.read(path)
        if _checksum(content) != checksum:  # it was damaged on its way, or it is in the store
            content = self.read(path)
        if _checksum(content) == checksum:
            self._keep(path, content)
        return content

    def names(self, folder: PurePath) -> list[str]:
        key = _key(folder)
        if self._listing is not None and (known := self._listing.names(key)) is not None:
            return known

        def request(obstore: Any, client: Any) -> list[str]:
            found = obstore.list_with_delimiter(client, key or None)
            return sorted(map(_name, [*found["common_prefixes"], *(each["path"] for each in found["objects"])]))

        return self._bucket.answer(request, folder)

    def sizes(self, folder: PurePath) -> dict[str, int]:
        """Return the sizes of all objects below a folder, in bytes, by their path in it, such as "a/b.json"."""
        start = len(_key(folder)) + 1 if _key(folder) else 0

        def request(obstore: Any, client: Any) -> dict[str, int]:
            found = obstore.list(client, _key(folder) or None, chunk_size=PAGE).collect()
            return {each["path"][start:]: each["size"] for each in found}

        return self._bucket.answer(request, folder)

    def is_file(self, path: PurePath) -> bool:
        return path.name in self.names(path.parent)

    def is_folder(self, path: PurePath) -> bool:
        return bool(self.names(path))

    def why_no_folder(self, path: PurePath) -> str:
        return ""

    def is_writable(self, root: PurePath) -> bool:
        return not self._is_read_only

    def listed(self, root: PurePath) -> Self:
        files = type(self)(self._root, is_read_only=self._is_read_only)
        files._listing = _Listing(_key(root))
        for name in self.sizes(root):
            files._listing.add(_key(root / name))
        return files

    def download(self, path: PurePath, target: Path) -> None:
        """Copy an object into a new file."""

        def request(obstore: Any, client: Any) -> None:
            with target.open("wb") as file:
                for chunk in obstore.get(client, _key(path)).stream():
                    file.write(chunk)

        self._bucket.answer(request, path)

    # --- writing -----------------------------------------------------------------------------------------------

    def write(self, path: PurePath, content: bytes) -> None:
        self._change(lambda obstore, client: obstore.put(client, _key(path), content), path)
        self._note(path)

    def create(self, path: PurePath, content: bytes) -> None:
        self.claim(path, content)
        self._keep(path, content)

    def claim(self, path: PurePath, content: bytes) -> bool:
        """Write an object unless there is one of this name, and return whether it was written.

        If the answer is lost and the request is repeated, the result is False, although the object is of this process.
        """

        def request(obstore: Any, client: Any) -> bool:
            from obstore.exceptions import AlreadyExistsError

            with suppress(AlreadyExistsError):
                obstore.put(client, _key(path), content, mode="create")
                return True
            return False

        is_new = self._change(request, path)
        self._note(path)
        return is_new

    def upload(self, source: Path, path: PurePath) -> None:
        """Copy a file into an object."""
        self._change(lambda obstore, client: obstore.put(client, _key(path), source), path)
        self._note(path)

    def make_room(self, path: PurePath) -> None:
        """Do nothing: an object and others whose names begin with its own do not exclude each other."""

    def set_aside(self, path: PurePath, place: PurePath) -> None:
        self._change(lambda obstore, client: obstore.copy(client, _key(path), _key(place)), path)
        self._note(place)
        self.remove([path])

    def unlink(self, path: PurePath) -> None:
        self.remove([path])

    def remove(self, paths: Iterable[PurePath]) -> None:
        paths = list(paths)
        if not paths:
            return
        keys = list(map(_key, paths))

        def request(obstore: Any, client: Any) -> None:
            try:
                obstore.delete(client, keys)
            except FileNotFoundError as error:
                if NO_BUCKET in str(error):
                    raise
                for key in keys:  # Google's servers refuse to delete what is gone, and the others may remain
                    with suppress(FileNotFoundError):
                        obstore.delete(client, key)

        self._change(request, paths[0])
        for path in paths:
            if self._listing is not None:
                self._listing.discard(_key(path))
            with suppress(OSError):
                self._local_files.unlink(self._copy(path))

    def remove_temporary(self, folder: PurePath, age: float) -> None:
        """Do nothing: an object is whole or absent, without temporary files."""

    def show_command(self, place: PurePath) -> str:
        return show_command(place)

    def remove_command(self, place: PurePath) -> str:
        return remove_command(place)

    def _change(self, request: Callable[[Any, Any], T], path: PurePath) -> T:
        if self._is_read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return self._bucket.answer(request, path)

    def _note(self, path: PurePath) -> None:
        if self._listing is not None:
            self._listing.add(_key(path))

    # --- copies on this machine --------------------------------------------------------------------------------

    def _copy(self, path: PurePath) -> Path:
        return self._copies / Path(*path.relative_to(self._root).parts)

    def _keep(self, path: PurePath, content: bytes) -> None:
        with suppress(OSError):  # a full disk costs time alone
            self._local_files.write(self._copy(path), content, durable=False)


class _Listing:
    """The names in all folders below a root, as they were listed once and as this process changed them since.

    root: its key.
    """

    def __init__(self, root: str) -> None:
        self._root, self._names = root, dict[str, set[str] | None]()

    def names(self, folder: str) -> list[str] | None:
        """Return the names in a folder, in order; None if it is to be listed again."""
        if folder != self._root and not folder.startswith(f"{self._root}/" if self._root else ""):
            return None
        found = self._names.get(folder, set())
        return None if found is None else sorted(found)

    def may_have(self, key: str) -> bool:
        """Return whether there may be an object of this name."""
        folder, _, name = key.rpartition("/")
        known = self.names(folder)
        return known is None or name in known

    def add(self, key: str) -> None:
        while key != self._root:
            folder, _, name = key.rpartition("/")
            found = self._names.setdefault(folder, set())
            if found is None or name in found:
                return
            found.add(name)
            key = folder

    def discard(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        if found := self._names.get(folder):
            found.discard(name)

    def forget(self, folder: str) -> None:
        self._names[folder] = None


class _Bucket:
    """The clients of a bucket, which repeat requests that fail on the way.

    url: of the bucket, such as "s3://bucket".
    """

    def __init__(self, url: str) -> None:
        self._url, self._process, self._has_answered = url, os.getpid(), False
        self._first, self._later = (self._client(retries) for retries in (FIRST_RETRIES, 1000))

    def answer(self, request: Callable[[Any, Any], T], path: PurePath) -> T:
        """Return the result of a request, a function of the module `obstore` and of a client.

        path: of the object, for messages.
        Raises FileNotFoundError if there is no such object, RemoteError for any other failure.
        """
        if os.getpid() != self._process:
            reason = "it was opened before this process was forked"
            raise RemoteError(errno.ENOTSUP, reason, "multiprocessing.get_context('spawn')")
        import obstore
        from obstore.exceptions import BaseError

        for is_last in (False, True):
            try:
                found = request(obstore, self._later if self._has_answered else self._first)
                self._has_answered = True
                return found
            except FileNotFoundError as error:
                if NO_BUCKET in str(error):
                    raise remote_error(error, path) from None
                self._has_answered = True
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
            except (BaseError, ValueError) as error:
                # `obstore` repeats requests, but for one whose answer breaks off; all requests here can be repeated
                if is_last or "response body" not in str(error):
                    raise remote_error(error, path) from None
        raise AssertionError

    def _client(self, retries: int) -> Any:
        from obstore.exceptions import BaseError
        from obstore.store import MemoryStore, from_url

        if self._url.startswith("memory:"):
            return _memory(MemoryStore, self._url)
        if self._url.startswith("s3:") and s3_endpoint() and not re.match(r"https?://[\w\[]", s3_endpoint()):
            address = f"the server of S3 is at '{printable(s3_endpoint())}', which is no address"
            raise UserError(
                f"the store {self._url} cannot be used: {address}. Try: export AWS_ENDPOINT_URL_S3=https://HOST"
            )
        options = {"timeout": timedelta(minutes=10), "read_timeout": timedelta(seconds=30)}
        client_options = options | ({"allow_http": True} if is_loopback() else {})
        pauses = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}
        retry_config = {"max_retries": retries, "retry_timeout": PATIENCE, "backoff": pauses}
        try:
            return from_url(self._url, client_options=client_options, retry_config=retry_config)
        except (BaseError, ValueError) as error:
            found = remote_error(error, ObjectPath(self._url))
            raise UserError(f"the store {self._url} cannot be used: {found.strerror}. Try: {found.hint}") from None


@lru_cache
def _memory(make: Callable[[], Any], url: str) -> Any:
    """Return the objects in the memory of this process that a URL names."""
    return make()


@lru_cache
def _bucket(url: str, settings: tuple[tuple[str, str], ...]) -> _Bucket:
    """Return the clients of a bucket. They share connections, as long as the settings stay."""
    try:
        import obstore  # noqa: F401
    except ImportError:
        raise UserError(
            f"the store {url} is in an object store, and obstore is not installed. Try: pip install 'robharness[s3]'"
        ) from None
    return _Bucket(url)


def _settings() -> tuple[tuple[str, str], ...]:
    """Return the environment variables that `obstore` reads."""
    return tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(("AWS_", "GOOGLE_"))))


def _key(path: PurePath) -> str:
    assert isinstance(path, ObjectPath)
    return path.object_key


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"
