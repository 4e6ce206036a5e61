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


def never(holder):
    raise AssertionError("nobody holds the lock")


def test_the_record_is_read_without_the_lock_and_goes_with_it(path):
    lock = LockFile.acquire(path, FileSystem(), never)
    assert json.loads(path.read_text())["job"] == "not yet"
    lock.record("a long name of a job")
    lock.record("job")
    assert json.loads(path.read_text()) == {"process": os.getpid(), "machine": os.uname().nodename, "job": "job"}
    lock.release()
    assert not path.exists()


def test_who_waits_is_told_once_by_whom_it_is_held_and_then_gets_it(path):
    first = LockFile.acquire(path, FileSystem(), never)
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


def test_a_file_that_its_holder_removed_before_it_was_locked_is_not_taken(path):
    class Removed(FileSystem):
        locked = 0

        def lock(self, descriptor):
            self.locked += 1
            if self.locked == 1:
                path.unlink()  # as its holder does when it is done
            return super().lock(descriptor)

    files = Removed()
    lock = LockFile.acquire(path, files, never)
    assert files.locked == 2 and path.exists()
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_without_locks_the_file_says_all_the_same_who_works(path, code):
    class Without(FileSystem):
        def lock(self, descriptor):
            raise OSError(code, os.strerror(code))

    lock = LockFile.acquire(path, Without(), never)
    assert not lock.is_supported and json.loads(path.read_text())["process"] == os.getpid()
    lock.release()
    assert not path.exists()


def test_a_lock_that_fails_in_another_way_is_an_error_of_the_store(tmp_path):
    class Broken(FileSystem):
        def lock(self, descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = Store(tmp_path, Broken())
    artefact = Artefact(folder=tmp_path / "artefacts" / "0123", training_spec={}, datasets={})
    lock = ArtefactStore(store).lock(artefact, never)
    with pytest.raises(StoreError, match="cannot be written: Input/output error"), lock:
        pass
