"""Files that are no checkpoint are named by their content; pickles that need code lead to --trust, and to nothing else.

All files are real: torch, safetensors, NumPy, tarfile and gzip write them, pointers are as Git LFS writes them.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import pickle
import shlex
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robharness import UserError
from robharness.checkpoints import Layout, load, read

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3, 4, 5])
CONTAINERS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -1.0])}
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 102530333\n"
)


class Probe(nn.Module):
    """A network of a user, whose class is in this module."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)


def save(content, path, protocol=2, is_zip=True):
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(path):
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and "weights_only" not in message
    return message


def trust(path, monkeypatch):
    monkeypatch.setenv("ROBHARNESS_TRUST", digest(path))
    return read(path)


def command(message):
    """The words of the command that a refusal ends with."""
    return shlex.split(message.partition("Try: ")[2])


@PROTOCOLS
@CONTAINERS
def test_a_class_that_is_needed_leads_to_trust(tmp_path, monkeypatch, protocol, is_zip):
    content = {"model": STATE, "args": argparse.Namespace(epochs=3)}
    path = save(content, tmp_path / "net.pth", protocol, is_zip)
    assert refusal(path) == (
        f"{path} contains more than tensors (it needs argparse.Namespace), and such a pickle can run any code. If you "
        f"trust the authors of the file with sha256 {digest(path)}, add: --trust {digest(path)}"
    )
    assert trust(path, monkeypatch)["args"].epochs == 3


@PROTOCOLS
@CONTAINERS
def test_tensors_alone_are_read_or_lead_to_trust(tmp_path, monkeypatch, protocol, is_zip):
    path = save(STATE, tmp_path / "net.pth", protocol, is_zip)
    if protocol > 3:
        message = refusal(path)
        assert f"is a pickle of protocol {protocol}, which torch reads only with its code" in message
        assert message.endswith(f"add: --trust {digest(path)}") and "more than tensors" not in message
        monkeypatch.setenv("ROBHARNESS_TRUST", digest(path))
    torch.testing.assert_close(read(path), STATE)


@CONTAINERS
def test_tensors_of_protocol_1_lead_to_trust_without_other_classes(tmp_path, monkeypatch, is_zip):
    path = save(STATE, tmp_path / "net.pth", 1, is_zip)
    message = refusal(path)
    assert "is a pickle of protocol 0 or 1, which torch reads only with its code, and such a pickle can" in message
    torch.testing.assert_close(trust(path, monkeypatch), STATE)


@CONTAINERS
def test_tensors_of_protocol_0_are_refused_since_torch_cannot_read_them(tmp_path, monkeypatch, is_zip):
    path = save(STATE, tmp_path / "net.pth", 0, is_zip)
    with pytest.raises(AssertionError, match="saved_id must be a tuple"):
        torch.load(path, weights_only=False)
    monkeypatch.setenv("ROBHARNESS_TRUST", digest(path))
    assert refusal(path) == (
        f"{path} is a pickle of protocol 0, in which torch.save writes tensors so that torch cannot read them. "
        f"Try: save the content again where it is in memory, torch.save(net.state_dict(), FILE)"
    )


@CONTAINERS
def test_a_trusted_state_of_arrays_is_read_as_tensors(tmp_path, monkeypatch, is_zip):
    arrays = {name: value.numpy() for name, value in STATE.items()}
    odd = {"big endian": np.arange(3, dtype=">f4"), "reversed": np.arange(3)[::-1], "scalar": np.array(2.0)}
    path = save({"net": arrays, "odd": odd, "names": np.array(["a"])}, tmp_path / "net.pth", is_zip=is_zip)
    assert "contains more than tensors" in refusal(path)
    content = trust(path, monkeypatch)
    torch.testing.assert_close(content["net"], STATE)
    expected = {"big endian": torch.arange(3.0), "reversed": torch.tensor([2, 1, 0])}
    torch.testing.assert_close(content["odd"], {**expected, "scalar": torch.tensor(2.0, dtype=torch.float64)})
    assert content["names"].tolist() == ["a"]
    filled = nn.Linear(3, 2)
    load(filled, path, [Layout(name="mine", inside=("net",))])
    torch.testing.assert_close(dict(filled.state_dict()), STATE)


@PROTOCOLS
@CONTAINERS
@pytest.mark.parametrize("inner", [False, True], ids=["itself", "in a mapping"])
def test_a_whole_network_is_named_and_its_state_is_used_if_it_is_trusted(
    tmp_path, monkeypatch, protocol, is_zip, inner
):
    net = Probe()
    path = save({"net": net, "epoch": 3} if inner else net, tmp_path / "net.pth", protocol, is_zip)
    message = refusal(path)
    assert f"net.pth holds a whole network ({Probe.__module__}.Probe) instead of its state" in message
    assert "Try: save the state alone where its code is, torch.save(net.state_dict(), FILE)." in message
    assert message.endswith(f"add: --trust {digest(path)}")
    content = trust(path, monkeypatch)
    found = content["net"] if inner else content
    torch.testing.assert_close(dict(found), dict(net.state_dict()), rtol=0, atol=0)
    filled = Probe()
    layout = Layout(name="mine", inside=("net",) if inner else ())
    load(filled, path, [layout])
    torch.testing.assert_close(filled.state_dict(), net.state_dict(), rtol=0, atol=0)


def test_a_trusted_network_whose_class_is_gone_is_one_sentence(tmp_path, monkeypatch):
    script = "import torch\nclass Gone(torch.nn.Linear): pass\ntorch.save(Gone(2, 2), 'net.pth')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    path = tmp_path / "net.pth"
    assert "holds a whole network (__main__.Gone) instead of its state" in refusal(path)
    monkeypatch.setenv("ROBHARNESS_TRUST", digest(path))
    message = refusal(path)
    assert "net.pth is trusted, but it cannot be read: AttributeError: " in message and "Gone" in message
    assert "--trust" not in message and "Try: save the state alone where that code is" in message


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@PROTOCOLS
@CONTAINERS
def test_no_code_runs_while_a_refusal_is_written(tmp_path, protocol, is_zip):
    path = save({"model": STATE, "more": Evil(tmp_path / "trace")}, tmp_path / "net.pth", protocol, is_zip)
    message = refusal(path)
    assert not (tmp_path / "trace").exists()
    assert "open" in message and "--trust" in message  # io.open, or _io.open


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_program_leads_to_trust(tmp_path, monkeypatch):
    net, path = Probe().head, tmp_path / "net.pt"
    torch.jit.trace(net, torch.ones(1, 3)).save(str(path))
    message = refusal(path)
    assert "net.pt holds a TorchScript program instead of a state, and such a program can run any code." in message
    assert message.endswith(f"add: --trust {digest(path)}")
    torch.testing.assert_close(dict(trust(path, monkeypatch)), dict(net.state_dict()), rtol=0, atol=0)


def test_the_tar_format_of_early_torch_leads_to_trust(tmp_path):
    path = tmp_path / "net.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    message = refusal(path)
    assert "is a tar archive of an early version of torch" in message
    assert message.endswith(f"--trust {digest(path)}")


@PROTOCOLS
@CONTAINERS
@pytest.mark.parametrize("share", [0.003, 0.01, 0.03, 0.5, 0.999])
@pytest.mark.parametrize("other", [0, argparse.Namespace()], ids=["tensors", "class"])
def test_a_file_that_is_cut_off_is_said_to_be_so(tmp_path, protocol, is_zip, share, other):
    path = save({"state": {"weight": torch.ones(5000)}, "other": other}, tmp_path / "a.pth", protocol, is_zip)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refusal(path)
    assert "--trust" not in message
    assert "a.pth is no checkpoint: it is " in message and "cut off or damaged" in message
    assert command(message)[:2] == ["ls", "-l"]


# --- other names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "pytorch_model.bin", "net"])
def test_safetensors_are_read_under_any_name(tmp_path, name):
    save_file(STATE, tmp_path / name)
    torch.testing.assert_close(read(tmp_path / name), STATE)


@CONTAINERS
def test_a_torch_archive_is_read_under_the_name_of_safetensors(tmp_path, is_zip):
    path = save({"state_dict": STATE}, tmp_path / "net.safetensors", is_zip=is_zip)
    torch.testing.assert_close(read(path), {"state_dict": STATE})


def test_safetensors_that_are_cut_off(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-4])
    assert "is no checkpoint: it is a safetensors file that is cut off or damaged" in refusal(path)


# --- other content ----------------------------------------------------------------------------------------------------


def written(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


PAGE = "<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan warning</title></head><body></body></html>"
TEXTS = {
    "lfs": (POINTER, "it is a Git LFS pointer, whose content is not downloaded"),
    "annex": ("/annex/objects/SHA256E-s1--ab.pth\n", "it is a git-annex pointer, whose content is not downloaded"),
    "html": (PAGE, "it is an HTML page, which a server sent instead of the file; download the file again"),
    "html, bare": ("<html>404</html>", "it is an HTML page"),
    "html, after blanks and a mark": ("\ufeff\n\n<HTML lang='en'>", "it is an HTML page"),
    "xml": ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is an XML text"),
    "json": (json.dumps({"message": "Not Found"}), "it is JSON, perhaps a server's error message"),
    "index": (json.dumps({"metadata": {}, "weight_map": {"a": "b"}}), "it is an index of several files"),
    "json, after a mark": ("\ufeff" + json.dumps({"message": "Not Found"}), "it is JSON, perhaps a server's error"),
    "text": ("Access denied\nNo such user", "it is a text that begins with 'Access denied'"),
    "text with L": ("Login required", "it is a text that begins with 'Login required'"),
    "empty": ("", "it is empty, since a download or a copy was interrupted"),
}


@pytest.mark.parametrize("content", TEXTS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_text_in_place_of_a_file_is_named(tmp_path, content, suffix):
    text, sentence = TEXTS[content]
    path = written(tmp_path / f"net{suffix}", text)
    message = refusal(path)
    assert message.startswith(f"{path} is no checkpoint: {sentence}")
    assert "--trust" not in message and "Try: " in message


def test_the_command_for_a_pointer_pulls_in_its_folder(tmp_path):
    folder = tmp_path / "my nets"
    folder.mkdir()
    message = refusal(written(folder / "net.pth", POINTER))
    assert message.endswith(f"Try: (cd '{folder}' && git lfs pull)")


def as_bytes(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def tar_of_a_checkpoint(mode):
    file, data = io.BytesIO(), as_bytes(lambda file: torch.save(STATE, file))
    with tarfile.open(fileobj=file, mode=mode) as archive:
        member = tarfile.TarInfo("run/net.pth")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def zip_of(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


BINARIES = {
    "npz": (
        as_bytes(lambda file: np.savez(file, a=np.ones(2))),
        "it is an archive of NumPy arrays (a.npy)",
        "robharness",
    ),
    "npy": (as_bytes(lambda file: np.save(file, np.ones(2))), "it is an array of NumPy", "robharness"),
    "gzip": (gzip.compress(as_bytes(lambda file: torch.save(STATE, file))), "it is compressed with gzip", "gzip"),
    "tar": (tar_of_a_checkpoint("w"), "it is a tar archive of run/net.pth; name a file in it instead", "tar"),
    "tar.gz": (tar_of_a_checkpoint("w:gz"), "it is a tar archive of run/net.pth", "tar"),
    "zip": (zip_of("a/net.pth", "README"), "it is a zip archive of a/net.pth, README; name a file in it", "unzip"),
    "keras": (zip_of("metadata.json", "config.json", "model.weights.h5"), "it is a network of Keras", "robharness"),
    "export": (zip_of("net/models/model.json"), "it is a program of torch.export, not a state", "robharness"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "it is an HDF5 file, as Keras and h5py write it", "robharness"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(40), "it is an ONNX network", "robharness"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "it is a TensorFlow Lite network", "robharness"),
    "index": (bytes(60) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "it is a part of a TensorFlow checkpoint", "robharness"),
    "pickle": (pickle.dumps({"a": [1, 2]}), "it is a Python pickle that torch.save did not write", "python"),
    "pickle, protocol 2": (pickle.dumps({"a": 1}, 2), "it is a Python pickle that torch.save did not write", "python"),
    "pickled tensors": (pickle.dumps(STATE), "it is a Python pickle that torch.save did not write", "python"),
}


@pytest.mark.parametrize("content", BINARIES)
def test_a_file_of_another_kind_is_named(tmp_path, content):
    data, sentence, first = BINARIES[content]
    path = written(tmp_path / "net.pth", data)
    message = refusal(path)
    assert message.startswith(f"{path} is no checkpoint: {sentence}")
    assert "--trust" not in message and command(message)[0] == first


@pytest.mark.parametrize("content", ["gzip", "tar", "zip", "pickled tensors"])
def test_the_command_for_an_archive_gives_a_file_that_is_read(tmp_path, content):
    folder = tmp_path / "my nets"
    folder.mkdir()
    data = zip_of_a_checkpoint() if content == "zip" else BINARIES[content][0]
    path = written(folder / "net.pth", data)
    line = refusal(path).partition("Try: ")[2].replace("python -c", f"{shlex.quote(sys.executable)} -c")
    subprocess.run(["bash", "-c", line], check=True, capture_output=True, env=os.environ)
    made = [each for each in folder.rglob("*") if each.is_file() and each != path]
    torch.testing.assert_close(read(made[0]), STATE)


def zip_of_a_checkpoint():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("run/net.pth", as_bytes(lambda file: torch.save(STATE, file)))
    return file.getvalue()


def test_a_plain_pickle_that_is_cut_off(tmp_path):
    path = written(tmp_path / "net.pth", pickle.dumps({"a": [1, 2]})[:-1])
    assert "it is a Python pickle that is cut off or damaged; download or copy it again. Try: ls -l" in refusal(path)


def test_bytes_that_nothing_recognises(tmp_path):
    path = written(tmp_path / "net.pth", bytes(range(200, 256)) * 10)
    message = refusal(path)
    assert message.startswith(f"{path} is no checkpoint: ") and message.endswith(f"Try: ls -l {path}")
    assert "--trust" not in message


@pytest.mark.parametrize("size", [1, 600, 5000, 100_000])
@pytest.mark.parametrize("end", [b"", b"x"], ids=["to the end", "at the beginning"])
def test_zeros_are_an_interrupted_download(tmp_path, size, end):
    path = written(tmp_path / "net.pth", bytes(size + 4096 * len(end)) + end)
    assert refusal(path) == (
        f"{path} is no checkpoint: it begins with zeros, since a download was interrupted; download it again. "
        f"Try: ls -l {path}"
    )


def test_a_file_that_is_absent_and_a_folder(tmp_path):
    assert "no.pth is no checkpoint: No such file or directory. Try: ls -l " in refusal(tmp_path / "no.pth")
    assert " is no checkpoint: Is a directory. Try: ls -l " in refusal(tmp_path)
