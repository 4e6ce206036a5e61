"""State of the process that a plugin's code changes is put back after the block, and what was changed is named."""

import io
import locale
import os
import re
import signal
import sys
import threading
import types
import warnings

import pytest

from robharness.errors import PluginError
from robharness.evaluation.snapshots import NamespaceSnapshot
from robharness.plugins.calls import plugin_code
from robharness.plugins.process import kept_process


def _state():
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "folder": os.getcwd(), "umask": mask, "locale": locale.setlocale(locale.LC_ALL), "path": list(sys.path),
        "streams": (getattr(sys, "stdin", None), sys.stdout, sys.stderr), "environment": dict(os.environ),
        "objects": (id(os.environ), id(sys.path)), "errors": [f for f in warnings.filters if f[0] == "error"],
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }  # fmt: skip


def _change_variables():
    os.environ["TEST_OF_PROCESS"] = "after"
    os.environ.pop("ROBHARNESS_GONE")


CHANGES = {
    "the working directory": lambda folder: os.chdir(folder),
    "the umask": lambda folder: os.umask(0o177),
    "the locale": lambda folder: locale.setlocale(locale.LC_ALL, "C"),
    "sys.stdout": lambda folder: setattr(sys, "stdout", io.StringIO()),
    "sys.stderr": lambda folder: setattr(sys, "stderr", None),
    "sys.stdin": lambda folder: delattr(sys, "stdin"),
    "the handler of SIGINT": lambda folder: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "the handler of SIGTERM": lambda folder: signal.signal(signal.SIGTERM, lambda number, frame: None),
    "the filters of warnings": lambda folder: warnings.simplefilter("error"),
    "os.environ['ROBHARNESS_GONE'] and os.environ['TEST_OF_PROCESS']": lambda folder: _change_variables(),
    "sys.path": lambda folder: sys.path.insert(0, str(folder)),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Another folder; variables and a locale that the changes change."""
    monkeypatch.setenv("TEST_OF_PROCESS", "before")
    monkeypatch.setenv("ROBHARNESS_GONE", "here")
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    yield tmp_path
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_put_back_and_named(name, folder):
    before = _state()
    with kept_process() as changed:
        CHANGES[name](folder)
        assert _state() != before
    assert _state() == before
    assert " and ".join(changed) == name


def test_a_change_before_an_exception_is_put_back(folder):
    before, names = _state(), []

    def call():
        nonlocal names
        with plugin_code() as names:
            os.chdir(folder)
            sys.path.append("x")
            sys.exit(0)

    with pytest.raises(PluginError, match=re.escape("SystemExit: 0")):
        call()
    assert (_state(), names) == (before, ["the working directory", "sys.path"])


def test_replaced_objects_are_put_back(folder):
    before = _state()
    with kept_process() as changed:
        os.environ, sys.path = {"A": "b"}, ()
    assert (_state(), changed) == (before, ["sys.path"])


def test_a_block_that_changes_nothing_names_nothing(folder):
    with kept_process() as changed:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
        os.chdir(os.getcwd())
        os.environ["TEST_OF_PROCESS"] = "before"
    assert changed == []


def test_filters_that_hide_warnings_stay():
    """A library may set them when it is imported or first used; no result depends on them."""
    with warnings.catch_warnings(), kept_process() as changed:
        warnings.filterwarnings("ignore", "a text of this test")
        warnings.filterwarnings("error", "a text of this test")
        with pytest.raises(UserWarning):
            warnings.warn("a text of this test", stacklevel=1)
    assert changed == ["the filters of warnings"]


def test_removed_filters_raise_no_longer():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with kept_process():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning):
                warnings.warn("once", stacklevel=1)
        warnings.warn("twice", stacklevel=1)
    assert [str(each.message) for each in seen] == ["twice"]


@pytest.mark.parametrize("options", [{"importing": True}, {}])
def test_a_block_that_imports_keeps_the_changes_that_libraries_make(options, folder, monkeypatch):
    """OpenCV, for instance, sets variables that its own windows need later."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    with kept_process(**options) as changed:
        if not options:
            monkeypatch.setitem(sys.modules, "robharness_test_of_imports", types.ModuleType("x"))
        os.environ["TEST_OF_PROCESS"] = "of a library"
        sys.path.append("/of/a/library")
        os.chdir(folder)
    assert os.environ["TEST_OF_PROCESS"] == "of a library" and sys.path[-1] == "/of/a/library"
    assert changed == ["the working directory"]


def test_in_another_thread_signals_are_left_alone(folder):
    found = []

    def work():
        with plugin_code() as changed:
            os.chdir(folder)
        found.extend(changed)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["the working directory"]


def test_a_removed_working_directory_does_not_matter(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with kept_process() as changed:
        os.environ["TEST_OF_PROCESS"] = "x"
    assert changed == ["os.environ['TEST_OF_PROCESS']"]


def test_what_a_module_of_python_gains_is_no_change_of_a_model():
    """Torch imports some of its modules when they are first used, amid the first gradient of an attack."""
    module = types.ModuleType("lazy")
    module.known = 1
    snapshot = NamespaceSnapshot("lazy", module)
    module.part = types.ModuleType("lazy.part")
    assert snapshot.is_same() and snapshot.restore() == []
    module.known = 2
    assert not snapshot.is_same() and snapshot.restore() == ["lazy.known"]
    assert (module.known, snapshot.is_same()) == (1, True)
