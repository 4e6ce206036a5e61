"""Hints of all first-party plugins on weights and data that are missing, pasted into a shell as they are printed."""

import gzip
import io
import os
import re
import shlex
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

import file_server
from robharness import Archive, Conversion, Download, File, MissingResource, discover
from robharness.errors import UserError

ROOT = "my data; it's here"
"""A data root that breaks a command that does not quote it."""
SUITE_WORDS = ("set `", "correct ", "store ", "mount ")
"""Beginnings of hints on a suite or on a person's own files, which no shell reads."""

DOWNLOADERS = {"curl", "wget", "gdown", "git"}
INTERPRETERS = {"bash", "sh", "zsh", "eval", "source", "chmod", "make", "python", "python3", "perl"}


class Hints:
    """Hints by the name of what is missing, and the records behind those that have one."""

    def __init__(self, root):
        registry = discover()
        self.texts, self.sources = {}, {}
        for name, entry in registry.models.items():
            for part, weights in weights_of(entry.spec):
                if isinstance(weights, File | Download):
                    path = root / (weights.path if isinstance(weights, File) else f"weights/{weights.file_name}")
                    self._add(f"{name} {part}".strip(), weights.hint(path), weights, path)
        for entry in (*registry.datasets.values(), *registry.corruptions.values()):
            if entry.spec.params is None and entry.spec.open is not None:
                splits = getattr(entry.spec, "splits", None)
                for split in [None] if splits is None else splits or ("a split",):
                    self._open(entry, root, split)

    def _open(self, entry, root, split):
        try:
            entry.spec.open(None, root) if split is None else entry.spec.open(root, split)
        except MissingResource as error:
            self._add(f"{entry.name} {split or ''}".strip(), error.hint, error.source, error.place)
        except UserError:
            pass

    def _add(self, name, text, source, place):
        self.texts[name] = text
        self.sources[name] = source, place


FAMILIES = ({}, {"name": "resnet50"}, {"name": "ViT-B-32", "pretrained": "openai"}, {"name": "Standard"},
            {"name": "Chen2020Adversarial"}, {"name": "Standard_R50"})  # fmt: skip
"""Options with which a family, such as all models of a library, declares files."""


def weights_of(spec):
    """The declared files, each with its name among several, also those that depend on options."""
    found = [spec.weights]
    for options in FAMILIES if spec.given is not None else ():
        with suppress(TypeError, ValueError):  # of another family
            found.append(spec.given(spec.params(**options)).get("weights"))
    for each in found:
        yield from each.items() if isinstance(each, Mapping) else [("", each)]


@pytest.fixture(scope="module")
def hints(tmp_path_factory):
    """The hints for a data root whose path has blanks and quotes, below the working directory."""
    folder, before = tmp_path_factory.mktemp("hints"), Path.cwd()
    os.chdir(folder)
    try:
        yield Hints(Path(ROOT))
    finally:
        os.chdir(before)


def commands(hints):
    """The part of each hint that a person pastes into a shell."""
    found = {}
    for name, text in hints.texts.items():
        command = re.split(r"(?:^|\. )(?:To get it|Then type): ", text)[-1]
        is_page = command == text or text.startswith("`robharness fetch`")
        if not is_page and not command.startswith(SUITE_WORDS):
            found[name] = command
    return found


def test_every_kind_of_plugin_is_walked_over(hints):
    found = commands(hints)
    assert {"supervised/resnet50", "swav/resnet50 head", "datasets/cifar-10 test", "datasets/imagenet val",
            "datasets/cifar-100-c/fog", "datasets/imagenet-c/fog", "datasets/ucf101 test1"} <= found.keys()  # fmt: skip
    assert len(found) > 150
    named = [text for text in hints.texts.values() if "convert.py" in text]
    assert not named


def test_all_commands_are_read_by_a_shell_and_leave_it_where_it_was(hints):
    for name, command in commands(hints).items():
        read = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert read.returncode == 0, (name, command, read.stderr)
        outside = re.sub(r"\([^()]*\)", "()", command)
        assert not re.search(r"(?:^|[;&|]\s*)(?:cd|pushd|exec|exit)\b", outside), (name, command)
        assert not re.search(r"\bSUITE\b|\bFILE\b", command), (name, command)


def test_no_hint_executes_what_it_downloads(hints):
    """A hint either downloads or runs a program, so that what was downloaded can be looked at before it is run."""
    for name, text in hints.texts.items():
        words = set(re.split(r"[\s;&|()`<>$\"']+", text))
        assert not (words & DOWNLOADERS and words & INTERPRETERS), (name, text)


STUB = """#!/bin/bash
# a program that is not run in a test: it writes what it was asked for into the file after -O, or after the last word
for word in "$@"; do [ "$before" = -O ] && target=$word; before=$word; done
[ -n "$target" ] && printf stub > "$target"
exit 0
"""
CURL = """#!/bin/bash
# the real curl, for a server on the loopback that has each file under its name
words=()
for word in "$@"; do
  case $word in https://*) word=%s/${word##*/} ;; esac
  words+=("$word")
done
exec /usr/bin/curl --noproxy '*' -sS "${words[@]}"
"""


@pytest.fixture
def programs(tmp_path):
    """A folder of programs before all others: `curl` reaches the loopback alone; nothing is installed or cloned."""
    with file_server.running_server() as server:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("gdown", "unrar", "git", "pip", "bash", "python"):
            (folder / name).write_text(STUB)
        (folder / "curl").write_text(CURL % server.url)
        for program in folder.iterdir():
            program.chmod(0o755)
        yield server, folder


def archive_of(name):
    content = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("unpacked/file", b"content")
        return content.getvalue()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo("unpacked/file")
        entry.size = 7
        archive.addfile(entry, io.BytesIO(b"content"))
    return gzip.compress(content.getvalue()) if name.endswith("gz") else content.getvalue()


def test_pasted_commands_put_files_where_they_are_expected(hints, programs, tmp_path):
    """One command of each program is typed; after it, the shell is where it was, and no other file is there."""
    server, folder = programs
    typed = {}
    for name, command in commands(hints).items():
        source, place = hints.sources[name]
        kind = (type(source).__name__, command.split()[0], "zip" in command, command.count("&&"))
        typed.setdefault(kind, (name, command, source, place))
    assert {kind[0] for kind in typed} >= {"Download", "Archive", "File"}
    for name, command, source, place in typed.values():
        if not isinstance(source, Download | Archive):
            continue
        work = tmp_path / str(len(list(tmp_path.iterdir())))
        work.mkdir()
        file = source.url.rpartition("/")[2]
        server.serve(file, archive_of(file) if isinstance(source, Archive) else b"weights")
        done = subprocess.run(
            ["/bin/bash", "-c", f"{command}\ncode=$?; pwd; exit $code"], cwd=work, capture_output=True, text=True,
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (name, command, done.stderr)
        assert done.stdout.splitlines()[-1] == str(work)
        files = {path for path in (work / ROOT).rglob("*") if path.is_file()}
        if isinstance(source, Archive):
            assert files == {work / ROOT / source.into / "unpacked" / "file"}, (name, files)
        else:
            assert files == {work / place}, (name, files)
        assert {path.name for path in work.iterdir()} == {ROOT}


def test_conversions_name_published_files(hints):
    found = [name for name, (source, _) in hints.sources.items()
             if isinstance(getattr(source, "origin", None), Conversion)]  # fmt: skip
    assert len(found) == 16
    assert all("https://storage.googleapis.com/" in hints.texts[name] for name in found)
    assert all(shlex.split(hints.texts[name].replace("`", "")) for name in found)
