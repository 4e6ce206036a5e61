"""SimCLR's TensorFlow checkpoints: files written by this test, compared with a network of TensorFlow's layers."""

from __future__ import annotations

import os
import re
import shutil
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional

import robharness
from robharness import UserError
from robharness_simclr import bundle, robharness_models

SPECS = {spec.name: spec for spec in robharness_models()}
BY_TENSORFLOW = Path(__file__).parent / "written-by-tensorflow"
"""The checkpoint of `SMALL`, saved by tf.compat.v1.train.Saver of TensorFlow 2.21.0."""
SMALL = {
    **{f"base_model/conv2d{number}/kernel": np.arange(place, place + 6, dtype=np.float32).reshape(1, 2, 3, 1)
       for place, number in enumerate(["", *(f"_{place}" for place in range(1, 20))])},
    **{f"base_model/conv2d{number}/kernel/Momentum": np.zeros((1, 2, 3, 1), np.float32)
       for number in ["", *(f"_{place}" for place in range(1, 20))]},
    "head_supervised/linear_layer/dense/bias": np.float32([0.5, -2, np.pi]),
    "scalar": np.float32(7),
    "global_step": np.int64(0),
}  # fmt: skip
FLOAT, INT64 = 1, 9


# a writer of tensor bundles


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def proto(**fields):
    """Encode a protocol buffer: f1=3 is a varint in field 1, bytes are a message, f6 is a fixed32."""
    out = b""
    for key, value in fields.items():
        number = int(key[1:])
        if number == 6:
            out += bytes([number << 3 | 5]) + struct.pack("<I", value)
        elif isinstance(value, bytes):
            out += bytes([number << 3 | 2]) + varint(len(value)) + value
        elif value:
            out += bytes([number << 3]) + varint(value)
    return out


def masked(data):
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def table_block(rows):
    out, restarts, before = b"", [], b""
    for place, (key, value) in enumerate(rows):
        shared = 0
        if place % 16 == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + b"".join(struct.pack("<I", at) for at in restarts or [0]) + struct.pack("<I", len(restarts or [0]))


def write_checkpoint(prefix, variables, shards=1, changes=None):
    """Write a checkpoint.

    variables: name -> array. They alternate between shards, so that the order of offsets differs from that of names.
    changes: fields of the entry of each variable that differ from the right ones.
    """
    data = [bytearray() for _ in range(shards)]
    rows = [(b"", proto(f1=shards, f3=proto(f1=1)))]  # version: producer 1
    for place, name in enumerate(sorted(variables)):
        array, shard = variables[name], place % shards
        raw = array.tobytes()
        shape = b"".join(proto(f2=proto(f1=size)) for size in array.shape)
        kind = FLOAT if array.dtype == np.float32 else INT64
        fields = {"f1": kind, "f2": shape, "f3": shard, "f4": len(data[shard]), "f5": len(raw), "f6": masked(raw)}
        rows.append((name.encode(), proto(**{**fields, **(changes or {})})))
        data[shard] += raw
    table, index = b"", []
    for first in range(0, len(rows), 50):
        some = rows[first : first + 50]
        block = table_block(some)
        index.append((some[-1][0] + b"~", varint(len(table)) + varint(len(block))))
        table += block + b"\0" + struct.pack("<I", masked(block + b"\0"))
    handles = b""
    for block in (table_block([]), table_block(index)):
        handles += varint(len(table)) + varint(len(block))
        table += block + b"\0" + struct.pack("<I", masked(block + b"\0"))
    table += handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    Path(f"{prefix}.index").write_bytes(table)
    for shard, content in enumerate(data):
        Path(f"{prefix}.data-{shard:05}-of-{shards:05}").write_bytes(content)
    return Path(f"{prefix}.index")


# the network with TensorFlow's layers, which create their variables when the graph is built


class Graph:
    """The graph of google-research/simclr for (N, 3, H, W); variables are drawn when they are first used."""

    def __init__(self, depth_blocks, sk, seed=0):
        self.blocks, self.sk = depth_blocks, sk
        self.variables, self.rng = {}, np.random.default_rng(seed)

    def __call__(self, x):
        self.counts = {}
        with torch.inference_mode():
            return self.run(x)

    def variable(self, name, shape, low=None, high=None, scale=0.1):
        if name not in self.variables:
            array = self.rng.normal(0, scale, shape) if low is None else self.rng.uniform(low, high, shape)
            self.variables[name] = array.astype(np.float32)
        return torch.from_numpy(self.variables[name])

    def scope(self, kind):
        number = self.counts[kind] = self.counts.get(kind, -1) + 1
        return f"base_model/{kind}" + (f"_{number}" if number else "")

    def conv(self, x, filters, k, stride=1):
        kernel = self.variable(
            f"{self.scope('conv2d')}/kernel", (k, k, x.shape[1], filters), scale=(2 / k / k / x.shape[1]) ** 0.5
        )
        if stride > 1:  # fixed padding, then VALID; otherwise SAME
            begin = (k - 1) // 2
            x = functional.pad(x, (begin, k - 1 - begin, begin, k - 1 - begin))
            return functional.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)
        return functional.conv2d(x, kernel.permute(3, 2, 0, 1), padding="same")

    def norm(self, x, relu=True):
        scope, channels = self.scope("batch_normalization"), x.shape[1]
        gamma = self.variable(f"{scope}/gamma", channels, 0.3, 0.9)
        beta = self.variable(f"{scope}/beta", channels)
        mean = self.variable(f"{scope}/moving_mean", channels)
        variance = self.variable(f"{scope}/moving_variance", channels, 0.5, 1.5)
        x = functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-5)
        return x.relu() if relu else x

    def windows_same(self, x, k, stride, fill):
        """Return the windows of SAME padding, (N, C, H', W', k * k); an odd padding is larger at the end."""
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + k - size, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads, value=fill).unfold(2, k, stride).unfold(3, k, stride).flatten(4)

    def max_pool(self, x):
        return self.windows_same(x, 3, 2, -torch.inf).amax(-1)

    def average_pool(self, x, stride):
        if stride == 1:
            return self.windows_same(x, 2, 1, torch.nan).nanmean(-1)  # the mean excludes the padding
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1)), 2, stride)

    def selective(self, x, filters, stride):
        a, b = self.norm(self.conv(x, 2 * filters, 3, stride)).chunk(2, 1)
        means = self.norm(self.conv((a + b).mean((2, 3), keepdim=True), max(int(filters * 0.0625), 32), 1))
        weights = torch.stack(self.conv(means, 2 * filters, 1).chunk(2, 1)).softmax(0)
        return a * weights[0] + b * weights[1]

    def block(self, x, filters, stride, projects):
        shortcut = x
        if projects and self.sk:
            shortcut = self.norm(self.conv(self.average_pool(x, stride), 4 * filters, 1), relu=False)
        elif projects:
            shortcut = self.norm(self.conv(x, 4 * filters, 1, stride), relu=False)
        x = self.norm(self.conv(x, filters, 1))
        x = self.selective(x, filters, stride) if self.sk else self.norm(self.conv(x, filters, 3, stride))
        return (self.norm(self.conv(x, 4 * filters, 1), relu=False) + shortcut).relu()

    def run(self, x):
        if self.sk:
            x = self.norm(self.conv(x, 32, 3, 2))
            x = self.conv(self.norm(self.conv(x, 32, 3)), 64, 3)
        else:
            x = self.conv(x, 64, 7, 2)
        x = self.max_pool(self.norm(x))
        for group, blocks in enumerate(self.blocks):
            for place in range(blocks):
                x = self.block(x, 64 << group, 2 if group and not place else 1, not place)
        head = "head_supervised/linear_layer/dense"
        kernel = self.variable(f"{head}/kernel", (2048, 1000), scale=0.01)
        return x.mean((2, 3)) @ kernel + self.variable(f"{head}/bias", 1000)


def built(spec, file, **params):
    return spec.build(spec.params(**params), file).eval()


def logits(net, x):
    with torch.inference_mode():
        return net(x)


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))


def assert_differ(ours, theirs):
    """Assert a difference of at least 100 times the tolerance of `assert_same`."""
    assert float((ours - theirs).abs().max()) > 2e-4 * float(theirs.abs().max())


@pytest.fixture(scope="module")
def x():
    return torch.empty(2, 3, 64, 64).uniform_(generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def graph(x):
    graph = Graph((3, 4, 6, 3), sk=False)
    graph(x)
    return graph


@pytest.fixture(scope="module")
def index(graph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ResNet50_1x")
    variables = {**graph.variables, "global_step": np.int64(225206)}
    return write_checkpoint(folder / "model.ckpt-225206", variables)


def test_tensorflows_checkpoint_gives_tensorflows_logits(graph, index, x):
    assert_same(logits(built(SPECS["resnet50-tf"], index), x), graph(x))
    assert_same(logits(built(SPECS["resnet50"], index, padding="same"), x), graph(x))


def test_odd_sides_are_padded_as_tensorflow_pads_them(graph, index, x):
    odd = x[..., :58, :62]  # 29 x 31 before pooling
    assert_same(logits(built(SPECS["resnet50-tf"], index), odd), graph(odd))


def test_pooling_like_the_converted_network_changes_the_logits(graph, index, x):
    assert_differ(logits(built(SPECS["resnet50-tf"], index, padding="torch"), x), graph(x))


def test_a_lost_bias_changes_the_logits(graph, index, x):
    assert_differ(logits(built(SPECS["resnet50"], index, padding="same", bias="zero"), x), graph(x))


def zipped(folder, file, method):
    """Write a zip in the published layout, with a TensorFlow Hub module that has another index."""
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("ResNet50_1x/hub/variables/variables.index", b"another one")
        archive.writestr("__MACOSX/ResNet50_1x/model.ckpt-225206.index", b"a resource fork")
        for path in folder.iterdir():
            archive.write(path, f"ResNet50_1x/{path.name}")
    return file


def test_the_zip_needs_no_unpacking(graph, index, x, tmp_path):
    file = zipped(index.parent, tmp_path / "ResNet50_1x.zip", zipfile.ZIP_STORED)
    assert_same(logits(built(SPECS["resnet50-tf"], file), x), graph(x))


def test_the_second_version_with_selective_kernels(x, tmp_path):
    graph = Graph((3, 4, 6, 3), sk=True)
    expected = graph(x)
    clutter = {f"{name}/Momentum": np.ones(3, np.float32) for name in graph.variables}
    ema = {f"ema_model/{name}": np.ones_like(value) for name, value in list(graph.variables.items())[:20]}
    head = {"head_contrastive/nl_0/batch_normalization/gamma": np.ones(3, np.float32)}
    index = write_checkpoint(tmp_path / "model.ckpt-250228", {**graph.variables, **clutter, **ema, **head}, shards=3)
    spec = SPECS["v2-resnet50-sk"]
    assert_same(logits(built(spec, index, padding="same"), x), expected)
    assert_differ(logits(built(spec, index), x), expected)


def test_another_network_is_refused_with_the_mismatches(index):
    name = re.escape(str(index))
    with pytest.raises(UserError, match=rf"{name}: .*conv1\.weight \(64, 3, 7, 7\) instead of \(128, 3, 7, 7\)"):
        built(SPECS["resnet50-2x-tf"], index)
    with pytest.raises(UserError, match=rf"{name}: .*keys are missing: .*layer"):
        built(SPECS["v2-resnet101"], index)


def test_unexpected_variables_are_named(graph, tmp_path):
    more = {**graph.variables, "base_model/conv2d_53/kernel": np.ones((1, 1, 2, 2), np.float32)}
    with pytest.raises(UserError, match=r"1 keys are unexpected: base_model/conv2d_53/kernel"):
        built(SPECS["resnet50-tf"], write_checkpoint(tmp_path / "model.ckpt-1", more))


# conversion, as `robharness fetch` does it


def converted(spec, checkpoint, path):
    spec.weights.origin.convert({"checkpoint": checkpoint}, path)
    return path


def test_a_converted_file_is_what_the_converters_programs_read(graph, index, x, tmp_path):
    file = zipped(index.parent, tmp_path / "ResNet50_1x.zip", zipfile.ZIP_STORED)
    path = converted(SPECS["resnet50"], file, tmp_path / "resnet50-1x.pth")
    theirs = torchvision.models.resnet50(weights=None)
    theirs.load_state_dict(torch.load(path, weights_only=True)["state_dict"])  # as eval.py of simclr-converter does
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the bias is not lost
        ours = built(SPECS["resnet50"], path)
    assert_same(logits(ours, x), logits(theirs.eval(), x))
    assert_same(logits(built(SPECS["resnet50"], path, padding="same"), x), graph(x))
    again = converted(SPECS["resnet50"], index, tmp_path / "again.pth")
    assert path.read_bytes() == again.read_bytes()


def test_a_converted_file_of_the_second_version(x, tmp_path):
    graph = Graph((3, 4, 6, 3), sk=True)
    expected = graph(x)
    index = write_checkpoint(tmp_path / "model.ckpt-250228", graph.variables)
    path = converted(SPECS["v2-resnet50-sk"], index, tmp_path / "r50_1x_sk1.pth")
    assert_same(logits(built(SPECS["v2-resnet50-sk"], path, padding="same"), x), expected)
    assert_same(logits(built(SPECS["v2-resnet50-sk"], path), x), logits(built(SPECS["v2-resnet50-sk"], index), x))


def test_another_checkpoint_is_not_converted(index, tmp_path):
    with pytest.raises(UserError, match=r"conv1\.weight \(64, 3, 7, 7\) instead of \(128, 3, 7, 7\)"):
        converted(SPECS["resnet50-2x"], index, tmp_path / "resnet50-2x.pth")
    assert not (tmp_path / "resnet50-2x.pth").exists()


PHOTOS = """
import numpy as np
from robharness import DatasetSpec, hookimpl

class Photos:
    ids, labels = ["a"], [0]
    def read(self, index):
        return np.zeros((9, 9, 3), np.uint8)

@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="all", summary="Photos", labels="imagenet-1k", splits=("test",),
                      open=lambda root, split: Photos())
"""


def test_fetch_gets_googles_files_and_converts_them(index, tmp_path, monkeypatch):
    """A folder in place of Google's server; it has the files as that server names them."""
    monkeypatch.chdir(tmp_path)
    mirror = tmp_path / "mirror"
    (mirror / "r50_1x_sk0").mkdir(parents=True)
    zipped(index.parent, mirror / "ResNet50_1x.zip", zipfile.ZIP_STORED)
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(index.with_suffix(f".{suffix}"), mirror / "r50_1x_sk0" / f"model.ckpt-250228.{suffix}")
    (tmp_path / "photos.py").write_text(PHOTOS)
    models = [{"model": f"simclr/{name}"} for name in ("resnet50", "resnet50-tf", "v2-resnet50")]
    suite = {"robharness": 1, "name": "s", "data": {"name": "photos/all", "split": "test"}, "models": models}
    planned = robharness.plan(suite, plugins=["./photos.py"])
    assert len(planned.missing) == 3 and len(planned.pending_cells) == 3
    planned = robharness.fetch(suite, plugins=["./photos.py"], mirror="mirror")
    assert not planned.missing and not planned.pending_cells
    digests = [model.weights.sha256 for model in planned.models]
    assert len(set(digests)) == 2 and digests[0] == digests[2]  # of one checkpoint, in two formats
    assert {path.name for path in (tmp_path / "data" / "weights").iterdir()} == {
        "ResNet50_1x.zip", "resnet50-1x.pth", "r50_1x_sk0", "r50_1x_sk0.pth"
    }  # fmt: skip


# the format


def test_a_file_written_by_tensorflow_is_read():
    found = bundle.read(BY_TENSORFLOW / "model.ckpt-0.index", r"(?!global_step).*")
    assert found.keys() == SMALL.keys() - {"global_step"}
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, SMALL[name])


def test_the_writer_of_these_tests_reproduces_tensorflows_file(tmp_path):
    index = write_checkpoint(tmp_path / "model.ckpt-0", SMALL)
    for name in ("model.ckpt-0.index", "model.ckpt-0.data-00000-of-00001"):
        ours, theirs = (folder / name for folder in (tmp_path, BY_TENSORFLOW))
        # The last rows of an index hold one key that may be any between two others; TensorFlow's is the shortest.
        end = -80 if name == index.name else None
        assert ours.read_bytes()[:end] == theirs.read_bytes()[: len(ours.read_bytes()[:end])]


@pytest.fixture
def small(tmp_path):
    rng = np.random.default_rng(3)
    variables = {f"v{number:03}": rng.normal(size=(2, number % 5)).astype(np.float32) for number in range(120)}
    return write_checkpoint(tmp_path / "model.ckpt-7", variables, shards=2), variables


def test_shards_blocks_and_empty_arrays(small):
    index, variables = small
    found = bundle.read(index, r"v\d+")
    assert found.keys() == variables.keys()
    for name, array in variables.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_changed_byte_of_data_is_found(small):
    index, _ = small
    file = index.with_name("model.ckpt-7.data-00001-of-00002")
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        UserError,
        match=r"model\.ckpt-7\.index is not a complete .*the checksum of v\d+ differs from the index",
    ):
        bundle.read(index, r"v\d+")


def test_a_compressed_zip_is_read(small, tmp_path):
    index, variables = small
    found = bundle.read(zipped(index.parent, tmp_path.parent / "small.zip", zipfile.ZIP_DEFLATED), r"v\d+")
    for name, array in variables.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("place", [3, 200, -60])
def test_a_changed_byte_of_the_index_is_found(small, place):
    index, _ = small
    data = bytearray(index.read_bytes())
    data[place] ^= 1
    index.write_bytes(data)
    with pytest.raises(UserError, match=r"the checksum of the index is wrong"):
        bundle.read(index, r"v\d+")


def test_an_incomplete_download_is_found(small):
    index, _ = small
    index.with_name("model.ckpt-7.data-00000-of-00002").unlink()
    with pytest.raises(UserError, match=r"data-00000-of-00002 cannot be read.*Try: ls -l"):
        bundle.read(index, r"v\d+")
    index.write_bytes(index.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"the index has no valid footer"):
        bundle.read(index, r"v\d+")


CLAIMS = {
    "more bytes than the file": ({"f5": 2**50}, "its variables have more bytes than its files"),
    "another shape": ({"f2": proto(f2=proto(f1=2**60))}, "v has another size than its shape"),
    "a place beyond 64 bits": ({"f4": 2**80}, "the index has a number of more than 64 bits"),
    "a place beyond the file": ({"f4": 2**62}, "is not a complete TensorFlow checkpoint"),
    "a text for a number": ({"f4": b"text"}, "is not a complete TensorFlow checkpoint"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_an_index_that_claims_what_the_files_do_not_have_is_refused(tmp_path, case):
    changes, sentence = CLAIMS[case]
    index = write_checkpoint(tmp_path / "model.ckpt-1", {"v": np.ones(3, np.float32)}, changes=changes)
    with pytest.raises(UserError, match=sentence):
        bundle.read(index, "v")


def test_indices_names_and_zips_that_grow_are_refused(tmp_path):
    index = write_checkpoint(tmp_path / "model.ckpt-1", {"v" * 2000: np.ones(3, np.float32)})
    with pytest.raises(UserError, match="a name of more than 1000 characters"):
        bundle.read(index, "v+")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.ckpt-1.index", bytes(2**24))
    with pytest.raises(UserError, match="unpacked, it has more than 100 times its bytes"):
        bundle.read(tmp_path / "bomb.zip", "v")
    os.truncate(index, 2**40)
    with pytest.raises(UserError, match="its index has more than 8 MiB"):
        bundle.read(index, "v")
    index = write_checkpoint(tmp_path / "model.ckpt-2", {"v": np.ones(3, np.float32)})
    data = index.with_name("model.ckpt-2.data-00000-of-00001")
    os.truncate(data, 2**42)
    with pytest.raises(UserError, match="more than the memory of this machine"):
        bundle.read(index, "v")
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(UserError, match="data-00000-of-00001 cannot be read"):
        bundle.read(index, "v")


def test_a_zip_without_one_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme", b"")
    with pytest.raises(UserError, match=r"it contains 0 files model\.ckpt-\*\.index instead of one"):
        bundle.read(tmp_path / "empty.zip", r".*")
    (tmp_path / "no.zip").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"no\.zip is not a complete TensorFlow checkpoint"):
        bundle.read(tmp_path / "no.zip", r".*")


def test_variables_of_other_types_are_refused():
    with pytest.raises(UserError, match=r"global_step is not of type float32"):
        bundle.read(BY_TENSORFLOW / "model.ckpt-0.index", r"global_step")


def test_without_the_extra_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(UserError, match=r"pip install 'robharness-simclr\[tf\]'$"):
        bundle.read(BY_TENSORFLOW / "model.ckpt-0.index", r".*")
