"""Files that are damaged, or that ask for more memory or time than they have bytes, are refused in one sentence.

Each file is read in a process of its own, which shows a crash, the CPU time and the memory. torch, safetensors and
zipfile write the files; pickles that torch never writes are put together from their operations.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import signal
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from robharness import UserError
from robharness.checkpoints import Layout, StateChoice, choosing, load, read

pytestmark = pytest.mark.filterwarnings("ignore")
WALKS, MEBIBYTES = 6, 200
"""The largest CPU time of a reading, in walks over a million numbers of a pickle on this machine, and its memory."""
TRUST, DAMAGED, DENSE = (
    "--trust",
    "is no checkpoint: it is cut off or damaged, ",
    "networks are filled with dense tensors",
)
LOADED = "loaded"


# --- files ------------------------------------------------------------------------------------------------------------


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def name(full):
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count, key="0", device="cpu"):
    return b"(" + text("storage") + name("torch.FloatStorage") + text(key) + text(device) + number(count) + b"tQ"


def tensor(size, stride, count=4, offset=0, key="0", device="cpu"):
    """A tensor as torch writes it, of a storage that has 4 values in the file."""
    arguments = [storage(count, key, device), number(offset), numbers(size), numbers(stride), b"\x89"]
    hooks = name("collections.OrderedDict") + b")R"
    return name("torch._utils._rebuild_tensor_v2") + b"(" + b"".join(arguments) + hooks + b"tR"


GOOD = tensor((2, 2), (2, 1))


def call(function, *arguments):
    return name(function) + b"(" + b"".join(arguments) + b"tR"


def state(value, key="w"):
    return b"}" + text(key) + value + b"s"


def archive(pickled, values=bytes(16), extra=(), compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        out.writestr("a/byteorder", "little")
        out.writestr("a/data/0", values)
        out.writestr("a/version", "3\n")
        for path, content in extra:
            out.writestr(path, content)
    return file.getvalue()


def legacy(pickled, count=4, values=bytes(16), keys=("0",)):
    head = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {})]
    body = b"\x80\x02" + pickled.replace(b"tQ", b"NtQ") + b"."
    return b"".join([*head, body, pickle.dumps(list(keys), 2), struct.pack("<q", count), values])


def saved(content, is_zip=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def header(content, data=b"", length=None):
    """A file of safetensors."""
    written = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(written) if length is None else length) + written + data


def entry(start, stop, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


# --- reading in a process of its own ----------------------------------------------------------------------------------


def forked(function):
    """Return the message of a UserError, or LOADED; the CPU seconds; the memory of the process in MiB."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)
        message = LOADED
        try:
            function()
        except UserError as error:
            message = str(error)
        except BaseException as error:
            message = f"crash: {error!r}"
        os.write(writing, message.encode(errors="replace")[:8000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        message = file.read().decode()
    _, status, usage = os.wait4(child, 0)
    assert status == 0, f"the process ended with {status}"
    return message, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


@pytest.fixture(scope="module")
def own_memory():
    torch.load(io.BytesIO(saved({"w": torch.ones(3)})), weights_only=True)
    return forked(lambda: None)[2]


@pytest.fixture(scope="module")
def walk():
    """The CPU seconds of a walk over a million numbers of a pickle."""
    content = pickle.dumps(list(range(1_000_000)), 2)
    return forked(lambda: sum(1 for _ in pickletools.genops(content)))[1]


@pytest.fixture
def outcome(tmp_path, own_memory, walk):
    def read_bounded(content, file="net.pth"):
        path = content if isinstance(content, Path) else tmp_path / file
        if not isinstance(content, Path):
            path.write_bytes(content)
        message, seconds, memory = forked(lambda: read(path))
        assert seconds < WALKS * walk and memory < own_memory + MEBIBYTES, (message, seconds, memory - own_memory)
        assert "\n" not in message and len(message) < 600 + 2 * len(str(path)), message
        return message

    return read_bounded


def refused(message, sentence):
    assert sentence in message and TRUST not in message and "Try: " in message, message


# --- zip archives -----------------------------------------------------------------------------------------------------

WHOLE = archive(state(GOOD))


def changed(at, content):
    return WHOLE[:at] + content + WHOLE[at + len(content) :]


IN_DIRECTORY = WHOLE.rindex(b"a/data/0") - 46  # the record of the tensor's values
ARCHIVES = {
    "a flipped bit in the values": (changed(WHOLE.index(bytes(16), WHOLE.index(b"a/data/0")), b"\1"), "Bad CRC-32"),
    "a damaged directory": (changed(WHOLE.index(b"PK\1\2") + 4, b"\xff" * 16), "that is cut off or damaged"),
    "a directory of 2 GB": (changed(len(WHOLE) - 10, struct.pack("<I", 2**31)), "that is cut off or damaged"),
    "a record of 2 GB": (changed(IN_DIRECTORY + 20, struct.pack("<II", 2**31, 2**31)), "records that the file does"),
    "a record that grows": (changed(IN_DIRECTORY + 24, struct.pack("<I", 2**31)), "records that the file does not"),
    "cut off": (WHOLE[:-30], "that is cut off or damaged"),
    "more behind it": (WHOLE + b"more", "other bytes follow its directory"),
    "no values": (archive(state(tensor((2, 2), (2, 1), key="7"))), "the values of tensor 7 are missing"),
    "fewer values": (archive(state(GOOD), bytes(12)), "the values of tensor 0 are missing or have another size"),
    "more values": (archive(state(tensor((2, 2), (2, 1), count=2**40))), "the values of tensor 0 are missing or have"),
    "two records of one name": (archive(state(GOOD), extra=[("a/data/0", b"1" * 16)]), "have the name of another one"),
    "two in other cases": (archive(state(GOOD), extra=[("a/DATA/0", b"1" * 16)]), "have the name of another one"),
    "a path to elsewhere": (archive(state(GOOD), extra=[("../../etc/x", b"1")]), "not all of its records are in the"),
    "deflated": (archive(state(GOOD), compression=zipfile.ZIP_DEFLATED), "records are compressed, which torch.save"),
    "a zip bomb": (archive(state(tensor((2**22,), (1,), 2**22)), bytes(2**24), (), 8), "records are compressed"),
    "a long directory": (archive(state(GOOD), extra=[(f"a/{'x' * 9000}{n}", b"") for n in range(1000)]), "is larger"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_damaged_archive_is_refused_before_its_records_are_read(outcome, case):
    content, sentence = ARCHIVES[case]
    refused(outcome(content), sentence)


def test_records_that_overlap_are_refused(outcome):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/data.pkl", b"\x80\x02" + state(GOOD) + b".")
        out.writestr("a/data/0", bytes(1000))
        for copy in range(100):
            record = zipfile.ZipInfo(f"a/data/{copy + 1}")
            first = out.getinfo("a/data/0")
            record.header_offset, record.CRC = first.header_offset, first.CRC
            record.file_size = record.compress_size = 1000
            out.filelist.append(record)
            out.NameToInfo[record.filename] = record
    refused(outcome(file.getvalue()), "its records overlap")


def test_archives_of_many_records_and_of_no_checksums_are_read(outcome):
    assert outcome(archive(state(GOOD), extra=[(f"a/{n}", b"") for n in range(5000)])) == LOADED
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        content = saved({"w": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(before)
    assert outcome(content) == LOADED


# --- sizes of tensors -------------------------------------------------------------------------------------------------

BEYOND, INVALID = "a tensor in it reaches beyond its values", "a tensor in it has no valid size"
TENSORS = {
    "beyond its values": (tensor((5,), (1,)), BEYOND),
    "beyond by its offset": (tensor((2,), (1,), offset=3), BEYOND),
    "beyond by its stride": (tensor((2,), (2**62,)), BEYOND),
    "negative size": (tensor((-1,), (1,)), INVALID),
    "negative stride": (tensor((2,), (-1,), offset=2), INVALID),
    "negative offset": (tensor((2,), (1,), offset=-1), INVALID),
    "fewer strides": (tensor((1, 1), (1,)), INVALID),
    "a size of 300 bits": (tensor((2**300,), (0,)), INVALID),
    "an overflow": (tensor((2**33, 2**33), (0, 0)), "more elements than 64 bits can count"),
    "an overflow beside 0": (tensor((2**62, 0, 2**62), (0, 0, 0)), "more elements than 64 bits can count"),
    "4 TB of 16 bytes": (tensor((2**20, 2**20), (0, 0)), "a tensor in it repeats its 16 bytes up to 4,398,046,511,104"),
    "1000 dimensions": (tensor((1,) * 1000, (1,) * 1000), "more than 64 dimensions"),
    "negative count": (tensor((1,), (1,), count=-1), "its pickle refers to no values"),
    "set": (name("torch.FloatTensor") + b")\x81(" + storage(4) + number(0) + 2 * numbers((2**40,)) + b"tb", BEYOND),
}  # fmt: skip


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("case", TENSORS)
def test_a_tensor_that_its_values_do_not_fill_is_refused(outcome, case, write):
    content, sentence = TENSORS[case]
    refused(outcome(write(state(content))), sentence)


@pytest.mark.parametrize("write", [archive, legacy])
def test_tensors_without_elements_without_dimensions_and_from_other_devices_are_read(outcome, write):
    small = [tensor((0, 7), (7, 1)), tensor((), ()), tensor((9,), (0,)), tensor((2, 2), (1, 2))]
    other = [tensor((4,), (1,), device=device) for device in ("cuda:0", "mps", "xla:0", "meta", "unheard of")]
    assert outcome(write(b"](" + b"".join(small + other) + b"e")) == LOADED


def test_legacy_files_that_lack_values_are_refused(outcome):
    refused(outcome(legacy(state(tensor((1,), (1,), count=2**38)), 2**38)), DAMAGED)
    refused(outcome(legacy(state(GOOD), count=3)), "the values of tensor 0 have another size")
    refused(outcome(legacy(state(GOOD), keys=())), "the values of some tensors are missing")
    refused(outcome(legacy(state(GOOD))[:-1]), "the values of its tensors end too early")


# --- pickles ----------------------------------------------------------------------------------------------------------


def repeated(opening, levels, fill):
    """A container of which each level holds the one before several times."""
    content = opening + b"q\0"
    for level in range(levels):
        content += b"0" + fill(b"h%c" % level) + b"q%c" % (level + 1)
    return content


LISTS = repeated(b"]", 40, lambda inner: b"](" + 2 * inner + b"e")
TUPLES = repeated(b")", 40, lambda inner: 2 * inner + b"\x86")
WIDE = repeated(b"](" + b"K\1" * 900 + b"e", 5, lambda inner: b"](" + 900 * inner + b"e")
DICTS = repeated(b"}", 40, lambda inner: b"}" + text("a") + inner + b"s" + text("b") + inner + b"s")
REPEATED, NESTED, CALLS = (
    "its containers repeat one another",
    "hold themselves, or are more than 50 deep",
    "its pickle calls ",
)
STEPS, KEY = "its pickle has more operations than a state needs", "a key in it "
PICKLES = {
    "lists of one list": (state(LISTS), REPEATED),
    "wide lists": (state(WIDE), REPEATED),
    "tuples of one tuple": (state(TUPLES), REPEATED),
    "mappings of one mapping": (state(DICTS), REPEATED),
    "a key that is hashed for years": (b"}" + TUPLES + b"K\1s", KEY + "is a nested tuple"),
    "a set that is hashed for years": (state(call("builtins.set", b"](" + TUPLES + b"e")), KEY + "is a nested tuple"),
    "a mapping of itself": (b"}q\0" + text("a") + b"h\0s", NESTED),
    "a list of itself": (state(b"]q\0h\0a"), NESTED),
    "100,000 levels": (b"}" + (text("a") + b"}") * 100_000 + b"s" * 100_000, NESTED),
    "memory by a storage": (state(call("torch.FloatStorage", number(2**40))), CALLS + "torch.FloatStorage with"),
    "memory by a tensor": (state(call("torch.Tensor", number(2**36))), CALLS + "torch.Tensor with arguments"),
    "memory by a bytearray": (state(call("builtins.bytearray", number(2**40))), CALLS + "bytearray with a number"),
    "a slow encoding": (state(call("_codecs.encode", text("a" * 9999), text("idna"))), "encodes a text in another way"),
    "a million mappings": (b"}" * 1_100_000, STEPS),
    "a million keys": (lambda: b"}(" + b"".join(text(f"k{n}") + b"N" for n in range(1_000_000)) + b"u", STEPS),
    "many tensors": (lambda: b"}(" + b"".join(text(f"k{n}") + GOOD for n in range(20_000)) + b"u", STEPS),
    "many names": (b"](" + b"".join(name(f"m.n{n}") for n in range(20_000)) + b"e", "names more than 10,000 classes"),
    "a text of 100 MB": (
        lambda: state(text(bytes(100_000_000))),
        "its pickle has more than 64 MiB without its tensors",
    ),
    "a key of 100 MB": (lambda: b"}" + text(bytes(100_000_000)) + GOOD + b"s", KEY + "has more than 4,096 characters"),
    "a key of 5,000 characters": (state(GOOD, "k" * 5000), KEY + "has more than 4,096 characters"),
    "a key of 2000 bits": (b"}\x8a\xfa" + b"\1" * 250 + GOOD + b"s", KEY + "is a number of more than 64 bits"),
    "a text of 4 GB that is not there": (b"}X\xff\xff\xff\xffabc", "its pickle ends too early"),
    "bytes of 1 TB that are not there": (b"\x96" + struct.pack("<Q", 2**40), "its pickle ends too early"),
    "nothing on the stack": (b"s", "its pickle is not valid"),
    "a call of a number": (b"K\1)R", "its pickle is not valid"),
    "a jagged tensor": (state(call("torch.nested._internal.nested_tensor._rebuild_njt")), "it holds a nested tensor"),
    # what torch alone would refuse, or what would need trust: the first reason counts
    "a class and a bomb": (b"](" + name("evil.f") + WIDE + b"e", REPEATED),
    "a class and damage": (b"](" + name("evil.f") + tensor((9,), (1,)) + b"e", BEYOND),
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_that_asks_for_too_much_is_refused(outcome, case):
    content, sentence = PICKLES[case]
    refused(outcome(archive(content() if callable(content) else content)), sentence)


def test_a_frame_and_a_place_in_the_memo_cost_what_they_hold(outcome):
    refused(
        outcome(archive(b"\x95" + struct.pack("<Q", 2**62) + state(GOOD))), "torch does not read it, Unsupported op"
    )
    assert outcome(archive(state(GOOD) + b"r\xff\xff\xff\xff")) == LOADED


def test_keys_that_are_no_texts_and_attributes_that_hide_methods(tmp_path):
    hidden = b"}(" + b"".join(text(key) + b"K\1" for key in ("items", "values", "keys", "_metadata")) + b"ub"
    mapping = (
        name("collections.OrderedDict") + b")R" + text("a\x1b[2J\nb") + GOOD + b"sK\1" + GOOD + b"sN" + GOOD + b"s"
    )
    path = tmp_path / "net.pth"
    path.write_bytes(archive(mapping + hidden))
    content = read(path)
    assert list(content) == ["a\x1b[2J\nb", 1, None] and type(content) is dict
    with pytest.raises(UserError, match="does not fit Linear"):
        load(nn.Linear(2, 2), path, [Layout(name="mine")])
    for choice in (StateChoice(inside="x"), StateChoice(strip="x."), StateChoice(inside="1")):
        with choosing({path: choice}), pytest.raises(UserError, match="Try: "):
            read(path)


def test_prefixes_of_very_many_keys_are_not_all_compared(tmp_path, walk):
    path = tmp_path / "net.pth"
    path.write_bytes(archive(b"}(" + b"".join(text(f"k{n}.a{n}.b{n}.w") + GOOD for n in range(4_000)) + b"u"))
    message, seconds, _ = forked(lambda: load(nn.Linear(2, 2), path, [Layout(name="mine")]))
    assert "4000 keys are unexpected" in message and seconds < 2 * WALKS * walk, (message, seconds)


# --- tensors that are not dense ---------------------------------------------------------------------------------------

EYE = torch.eye(3)
OTHERS = {
    "sparse": lambda: EYE.to_sparse(),
    "compressed sparse": lambda: EYE.to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(EYE, 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([EYE, EYE]),
    "without values": lambda: EYE.to("meta"),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_tensors_are_named_and_trust_is_not_advised(tmp_path, monkeypatch, kind, is_zip):
    path, word = tmp_path / "net.pth", "sparse" if "sparse" in kind else kind
    for content in ({"w": OTHERS[kind]()}, {"w": OTHERS[kind](), "args": argparse.Namespace()}):
        path.write_bytes(saved(content, is_zip))
        for trust in ("", hashlib.sha256(path.read_bytes()).hexdigest()):
            monkeypatch.setenv("ROBHARNESS_TRUST", trust)
            with pytest.raises(UserError) as caught:
                read(path)
            refused(str(caught.value), DENSE)
            assert f"tensor {word}" in str(caught.value) or f"a {word} tensor" in str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_dense_tensors_of_all_kinds_lose_what_is_attached_to_them(tmp_path, is_zip):
    noted, hooked = nn.Parameter(EYE.clone()), EYE.clone().requires_grad_()
    noted.note, hooked.note, hooked.numel = "text", "text", 3
    content = OrderedDict(
        transposed=torch.arange(12.0).reshape(3, 4).t(), parameter=nn.Parameter(EYE), buffer=nn.Buffer(EYE),
        noted=noted, hooked=hooked, conjugate=(EYE * 1j).conj(), truth=EYE.bool(), brain=EYE.bfloat16(),
        expanded=torch.ones(1).expand(7),
    )  # fmt: skip
    if is_zip:  # torch does not read the older format of these
        content.update(eight=EYE.to(torch.float8_e4m3fn), sixteen=EYE.to(torch.uint16))
    path = tmp_path / "net.pth"
    path.write_bytes(saved(content, is_zip))
    found = read(path)
    assert all(type(value) is torch.Tensor and not value.requires_grad and not vars(value) for value in found.values())
    for key, value in content.items():
        assert torch.equal(found[key].to(torch.complex64), value.detach().to(torch.complex64))


def test_a_trusted_file_with_a_bomb_or_damage_is_one_sentence(tmp_path, monkeypatch):
    contents = {
        REPEATED: archive(b"](" + name("argparse.Namespace") + b")R" + WIDE + b"e"),
        "Bad CRC-32": changed(WHOLE.index(bytes(16), WHOLE.index(b"a/data/0")), b"\1"),
        "records are compressed": archive(state(GOOD), compression=zipfile.ZIP_DEFLATED),
        BEYOND: legacy(b"](" + name("argparse.Namespace") + b")R" + tensor((9,), (1,)) + b"e"),
    }
    for sentence, content in contents.items():
        path = tmp_path / "net.pth"
        path.write_bytes(content)
        monkeypatch.setenv("ROBHARNESS_TRUST", hashlib.sha256(content).hexdigest())
        with pytest.raises(UserError) as caught:
            read(path)
        refused(str(caught.value), sentence)


class Loop(list):
    """An object that a class builds, so that an inspection without its code does not see what it holds."""

    def __reduce__(self):
        return exec_loop, ()


def exec_loop():
    loop = []
    loop.append(loop)
    return {"loop": loop}


def test_a_trusted_file_whose_code_makes_a_loop_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    path.write_bytes(saved({"a": Loop()}))
    monkeypatch.setenv("ROBHARNESS_TRUST", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError) as caught:
        read(path)
    refused(str(caught.value), NESTED)


# --- safetensors ------------------------------------------------------------------------------------------------------

TWICE = b'{"a":%b,"a":%b}' % (2 * (json.dumps(entry(0, 8)).encode(),))
SAFETENSORS = {
    "a header longer than the file": (header({"a": entry(0, 8)}, bytes(8), 2**40), "its header has 1,099,511,627,776"),
    "a header of 100 MB": (lambda: header(b"{" + b" " * 100_000_000 + b"}"), "its header is larger than 4 MiB"),
    "a header of 100,000 levels": (header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "its header is no JSON"),
    "many entries": (lambda: header({f"k{n}": entry(0, 0) for n in range(100_000)}), "its header is larger than 4 MiB"),
    "a number of 100,000 digits": (header(b'{"a":' + b"9" * 100_000 + b"}"), "its header is no JSON"),
    "no JSON": (header(b'{"a": nope}'), "its header is no JSON"),
    "a key twice": (header(TWICE, bytes(8)), "1 keys in its header are there twice"),
    "tensors that overlap": (header({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "invalid offset"),
    "a hole": (header({"a": entry(0, 8), "b": entry(12, 16)}, bytes(16)), "invalid offset"),
    "a tensor backwards": (header({"a": {**entry(0, 8), "data_offsets": [8, 0]}}, bytes(8)), "invalid offset"),
    "an unknown type": (header({"a": entry(0, 8, dtype="X9")}, bytes(8)), "unknown variant"),
    "a negative size": (header({"a": entry(0, 8, [-2])}, bytes(8)), "invalid value"),
    "an overflow": (header({"a": entry(0, 8, [2**62, 2**62])}, bytes(8)), "overflow"),
    "a long key": (header({"k" * 5000: entry(0, 8)}, bytes(8)), KEY + "has more than 4,096 characters"),
    "strange metadata": (header({"__metadata__": {"a": 3}, "a": entry(0, 8)}, bytes(8)), "invalid type"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_a_header_of_safetensors_that_is_not_valid_is_refused(outcome, case):
    content, sentence = SAFETENSORS[case]
    refused(outcome(content() if callable(content) else content, "net.safetensors"), sentence)


# --- files that are none ----------------------------------------------------------------------------------------------


def test_files_that_never_end_and_files_of_holes_are_refused(outcome, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(outcome(tmp_path / "pipe"), "it is a named pipe or a device, not a file")
    refused(outcome(Path("/dev/zero")), "it is a named pipe or a device, not a file")
    for number, content in enumerate([b"", WHOLE[:300], legacy(state(GOOD)), header({"a": entry(0, 8)})]):
        path = tmp_path / f"holes{number}"
        path.write_bytes(content)
        os.truncate(path, 2**40)
        refused(outcome(path), "it has 1,100 GB, more than the memory of this machine")
        os.truncate(path, 2**32)
        assert outcome(path) == LOADED if number == 2 else TRUST not in outcome(path)


READERS = {
    "robharness/checkpoints/files.py", "robharness/checkpoints/safetensor_files.py",
    "robharness/checkpoints/formats.py",  # a command that a refusal advises
    "robharness/evaluation/features.py",  # its own artefacts, whose sha256 is compared before
    "robharness/export/adversarial.py",  # its own parts
    "robharness/engine/executors/processes.py",  # from the process that started it, by their pipe
    "plugins/robharness-ray/src/robharness_ray/actor.py",  # from the process that made the actor, by Ray
    "robharness/testing/fresh.py",  # from its own subprocess
}  # fmt: skip


def test_nothing_else_reads_weights_or_pickles():
    """Shipped loaders read foreign files by robharness.checkpoints, or by readers with bounds of their own."""
    calls = (
        r"torch\.(load|jit\.load|hub)\b",
        r"\b(load_file|safe_open)\(",
        r"\b(np|numpy)\.load\(",
        r"pickle\.loads?\(",
    )
    direct = re.compile("|".join(calls))
    root = Path(__file__).parent.parent
    sources = [*root.glob("robharness/**/*.py"), *root.glob("plugins/*/src/**/*.py")]
    assert len(sources) > 200
    assert {str(file.relative_to(root)) for file in sources if direct.search(file.read_text("utf-8"))} == READERS
