"""Recognition of a file by its content: formats that can be read, and those that are often saved under their names."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robharness.checkpoints.contents import some
from robharness.errors import for_shell
from robharness.text import printable

HEAD = 4096
"""Number of bytes from which a file is recognised."""
MAGIC_NUMBER = (b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"119547037146038801333356")
"""The first object in a file of torch.save before torch 1.6: by pickle protocols from 2, and by protocols 0 and 1."""

LIST_MODELS = "robharness list models"
Kind = Literal["zip", "torchscript", "legacy", "tar", "safetensors", "unknown"]
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gzip -dc"),
    b"BZh": ("bzip2", "bzip2 -dc"),
    b"\xfd7zXZ\x00": ("xz", "xz -dc"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "zstd -dc"),
}
FORMATS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras and h5py write it",
    b"\x93NUMPY": "an array of NumPy",
    b"GGUF": "a GGUF file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}
SUFFIXES = {
    ".onnx": "an ONNX network",
    ".tflite": "a TensorFlow Lite network",
    ".pb": "a network of TensorFlow",
    ".msgpack": "a checkpoint of Flax",
    ".h5": "an HDF5 file",
}
TABLE_FOOTER = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
"""Last bytes of the index of a TensorFlow checkpoint."""


@dataclass(frozen=True)
class Format:
    """The format of a file.

    kind: how it is read; "unknown" if nothing is recognised.
    refusal: why it is no checkpoint, and the command to type next; empty for a file that can be read.
    """

    kind: Kind
    refusal: str = ""


def recognise(path: Path) -> Format:
    """Return the format of a file. Raises OSError if the file cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - HEAD))
        tail = file.read(HEAD)
    if not size:
        return _refused("it is empty, since a download or a copy was interrupted", _look(path))
    if not head.strip(b"\0"):
        return Format("unknown", _binary(path, head, tail) or _zeros(path))
    if _is_safetensors(path, head, size):
        return Format("safetensors")
    if head.startswith(b"PK"):
        return _zip(path, size)
    if head[:1] == b"\x80" or head[:1] == b"L":
        return _pickle(path, head, tail)
    if tarfile.is_tarfile(path):
        return _tar(path)
    refusal = _binary(path, head, tail) or _text(path, head)
    return Format("unknown", refusal)


def _refused(reason: str, command: str) -> Format:
    return Format("unknown", f"{reason}. Try: {command}")


def _look(path: Path) -> str:
    return f"ls -l {for_shell(path)}"


def _zeros(path: Path) -> str:
    return f"it begins with zeros, since a download was interrupted; download it again. Try: {_look(path)}"


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    if size < 10 or head[8:9] != b"{" or not 2 <= length <= size - 8:
        return False
    with path.open("rb") as file:
        try:
            header = json.loads(file.read(8 + length)[8:])
        except ValueError:
            return False
    return isinstance(header, dict)


def _zip(path: Path, size: int) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return _refused(
            f"it is a zip archive, as torch.save writes it, that is cut off or damaged ({size} bytes); download or "
            "copy it again",
            _look(path),
        )
    if any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in names):
        is_script = any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in names)
        return Format("torchscript" if is_script else "zip")
    unpack = f"unzip {for_shell(path)} -d {for_shell(path.with_name(f'{path.stem}-files'))}"
    if names and all(name.endswith(".npy") for name in names):
        return _refused(f"it is an archive of NumPy arrays ({some(names)})", LIST_MODELS)
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return _refused("it is a network of Keras", LIST_MODELS)
    if any(re.search(r"(^|/)(models/model\.json|serialized_exported_program\.json)$", name) for name in names):
        return _refused("it is a program of torch.export, not a state", LIST_MODELS)
    return _refused(f"it is a zip archive of {some(names) or 'no files'}; name a file in it instead", unpack)


def _tar(path: Path) -> Format:
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member in archive]
    except (tarfile.TarError, OSError, EOFError):
        return _refused("it is a tar archive that is cut off or damaged; download or copy it again", _look(path))
    if {"sys_info", "pickle", "storages", "tensors"} <= {name.removeprefix("./") for name in names}:
        return Format("tar")
    folder = for_shell(path.parent)
    unpack = f"tar -xf {for_shell(path)} -C {folder}"
    return _refused(f"it is a tar archive of {some(names) or 'no files'}; name a file in it instead", unpack)


def _pickle(path: Path, head: bytes, tail: bytes) -> Format:
    if any(number in head[:64] for number in MAGIC_NUMBER):
        return Format("legacy")
    if head[:1] != b"\x80" or not 2 <= head[1] <= 5:
        return Format("unknown", _text(path, head))
    new = str(path.with_suffix("")) + "-torch.pth"
    if not tail.endswith(b"."):  # the last operation of a pickle
        return _refused("it is a Python pickle that is cut off or damaged; download or copy it again", _look(path))
    code = f"import pickle, torch; torch.save(pickle.load(open({str(path)!r}, 'rb')), {new!r})"
    return _refused(
        "it is a Python pickle that torch.save did not write, and reading it can run any code; if you trust its "
        "authors, save its content by torch.save",
        f"python -c {for_shell(code)}",
    )


def _binary(path: Path, head: bytes, tail: bytes) -> str:
    """Return the refusal of a binary file that is recognised by its first or last bytes, or by its name."""
    for magic, (name, command) in COMPRESSED.items():
        if head.startswith(magic):
            out = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz", ".zst") else Path(f"{path}-unpacked")
            unpack = f"{command} {for_shell(path)} > {for_shell(out)}"
            return f"it is compressed with {name}; unpack it and name that file instead. Try: {unpack}"
    kind = next((kind for magic, kind in FORMATS.items() if head.startswith(magic)), "")
    if tail.endswith(TABLE_FOOTER) or re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
        kind = "a part of a TensorFlow checkpoint"
    if head[4:8] == b"TFL3":
        kind = SUFFIXES[".tflite"]
    if head[:1] == b"\x08" and head[2:3] == b"\x12" and re.match(rb"[\w.-]+", head[4:5]):
        kind = SUFFIXES[".onnx"]
    kind = kind or SUFFIXES.get(path.suffix, "")
    return f"it is {kind}, not a state of PyTorch. Try: {LIST_MODELS}" if kind else ""


def _text(path: Path, head: bytes) -> str:
    """Return the refusal of a text file: a pointer, a page, an error message; empty if the file is no text."""
    try:
        text = head[: HEAD - 4].decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return ""
    if any(ord(character) < 32 and character not in "\t\n\r\f" for character in text):
        return ""
    start, folder, name = text.lower(), for_shell(path.parent), for_shell(Path(path.name))
    show = f"head -c 400 {for_shell(path)}"
    if start.startswith("version https://git-lfs.github.com/spec/"):
        return f"it is a Git LFS pointer, whose content is not downloaded. Try: (cd {folder} && git lfs pull)"
    if "annex/objects/" in start.partition("\n")[0]:
        return f"it is a git-annex pointer, whose content is not downloaded. Try: (cd {folder} && git annex get {name})"
    if re.search(r"<!doctype html|<html[\s>]|<head[\s>]|<body[\s>]", start):
        return f"it is an HTML page, which a server sent instead of the file; download the file again. Try: {show}"
    if start.startswith("<?xml") or re.match(r"<error[\s>]", start):
        return f"it is an XML text, probably a server's error message; download the file again. Try: {show}"
    if re.match(r"\{|\[", start):
        if '"weight_map"' in start:
            return f"it is an index of several files, not a state; merge the files that it names. Try: {show}"
        return f"it is JSON, perhaps a server's error message, not a state; download the file again. Try: {show}"
    line = printable(" ".join(text.splitlines()[:1])[:40])
    return f"it is a text that begins with '{line}'; download the file again. Try: {show}"
