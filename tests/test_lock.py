"""The lock file of a training: one holder at a time, a record that others read, file systems that go wrong."""

import errno
import json
import os
import threading
import time

import pytest

from robharness.errors import StoreError
from robharness.planning.artefacts import Artefact
from robharness.store import FileSystem, Store
from robharness.store.artefacts import ArtefactStore
from robharness.store.lock import LockFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "it.lock"


def unexpected_wait(holder):
    raise AssertionError("nobody holds the lock")


def test_the_record_is_readable_without_the_lock_and_removed_with_it(path):
    lock = LockFile.acquire(path, FileSystem(), unexpected_wait)
    assert json.loads(path.read_text())["job"] == "not yet"
    lock.record("a long name of a job")
    lock.record("job")
    assert json.loads(path.read_text()) == {"process": os.getpid(), "machine": os.uname().nodename, "job": "job"}
    lock.release()
    assert not path.exists()


def test_a_waiting_process_reports_the_holder_once_and_then_gets_the_lock(path):
    first = LockFile.acquire(path, FileSystem(), unexpected_wait)
    first.record("first")
    holders, second = [], []

    def take():
        second.append(LockFile.acquire(path, FileSystem(), holders.append))

    thread = threading.Thread(target=take)
    thread.start()
    time.sleep(1.2)  # more than two tries
    assert not second
    first.release()
    thread.join(timeout=30)
    assert [holder["job"] for holder in holders] == ["first"]
    assert json.loads(path.read_text())["job"] == "not yet"  # the file is the second one's
    second[0].release()
    assert not path.exists()


def test_a_lock_file_removed_before_it_was_locked_is_created_again(path):
    class Removed(FileSystem):
        locked = 0

        def lock(self, descriptor):
            self.locked += 1
            if self.locked == 1:
                path.unlink()  # as its holder does when it is done
            return super().lock(descriptor)

    files = Removed()
    lock = LockFile.acquire(path, files, unexpected_wait)
    assert files.locked == 2 and path.exists()
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_on_a_file_system_without_locks_the_file_still_names_the_holder(path, code):
    class Without(FileSystem):
        def lock(self, descriptor):
            raise OSError(code, os.strerror(code))

    lock = LockFile.acquire(path, Without(), unexpected_wait)
    assert not lock.is_supported and json.loads(path.read_text())["process"] == os.getpid()
    lock.release()
    assert not path.exists()


def test_any_other_error_of_locking_is_a_store_error(tmp_path):
    class Broken(FileSystem):
        def lock(self, descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = Store(tmp_path, Broken())
    artefact = Artefact(folder=tmp_path / "artefacts" / "0123", training_spec={}, datasets={})
    lock = ArtefactStore(store).lock(artefact, unexpected_wait)
    with pytest.raises(StoreError, match="cannot be written: Input/output error"), lock:
        pass
