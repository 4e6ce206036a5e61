"""A plugin whose weights and data a server at $LIBRARY serves, loaded with `-p tests/fetching/library.py`."""

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from robharness import (
    Archive,
    Conversion,
    CorruptionSpec,
    DatasetSpec,
    Download,
    File,
    InputSpec,
    MissingResource,
    ModelSpec,
    Page,
    hookimpl,
)

URL = os.environ.get("LIBRARY", "http://127.0.0.1:1")
EXAMPLES, SIDE, CLASSES = 12, 8, 3


def rows(name, count):
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(count), np.uint8)


WEIGHTS = rows("weights", CLASSES * SIDE * SIDE).tobytes()
IMAGES = rows("images", EXAMPLES * SIDE * SIDE).reshape(EXAMPLES, SIDE, SIDE, 1)


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tarred(files):
    """An archive of files by name, the same bytes each time."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, each in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(each)
            archive.addfile(entry, io.BytesIO(each))
    return gzip.compress(content.getvalue(), mtime=0)


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, each in files.items():
            archive.writestr(zipfile.ZipInfo(name), each)
    return content.getvalue()


PIXELS = tarred({"pixels/test.npy": saved(IMAGES), "pixels/readme": b"test images"})
RAIN = zipped({"rain/rain.npy": saved(IMAGES // 2), "rain/hail.npy": saved(IMAGES // 3)})
SERVED = {"net.bin": WEIGHTS, "original.bin": WEIGHTS[::-1], "pixels.tar.gz": PIXELS, "rain.zip": RAIN}
"""All files that a server has to have."""


def digest(content):
    return hashlib.sha256(content).hexdigest()


OF_PIXELS = Archive(url=f"{URL}/pixels.tar.gz", md5=hashlib.md5(PIXELS).hexdigest(), unpacked=10_000)
OF_RAIN = Archive(url=f"{URL}/rain.zip", size=len(RAIN), into="weather")


class Pixels:
    def __init__(self, images):
        self.ids, self.labels, self._images = [str(row) for row in range(len(images))], [0] * len(images), images

    def read(self, index):
        return self._images[index]


def open_pixels(root, split):
    file = root / "pixels" / f"{split}.npy"
    if not file.is_file():
        raise MissingResource("the pixels", where=str(file), source=OF_PIXELS, place=root)
    return Pixels(np.load(file))


def open_closed(root, split):
    folder = root / "closed"
    if not folder.is_dir():
        page = Page(url="https://example.org/closed", reason="it asks for a registration", then=f"mkdir {folder}")
        raise MissingResource("the closed images", where=str(folder), source=page, place=folder)
    return Pixels(IMAGES)


class Rain:
    def __init__(self, images):
        self._images = images

    def perturb(self, model, batch, severity, rng):
        import torch

        return torch.from_numpy(self._images[[int(id) for id in batch.ids]])


def open_rain(name, params, root):
    file = root / "weather" / "rain" / f"{name}.npy"
    if not file.is_file():
        raise MissingResource(f"the {name}", where=str(file), source=OF_RAIN, place=root)
    return Rain(np.load(file))


def build(params, weights):
    import torch

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, CLASSES, bias=False))
    values = np.frombuffer(Path(weights).read_bytes(), np.uint8).reshape(CLASSES, -1)
    net[1].weight.data = torch.from_numpy(values.astype(np.float32)) - 128
    return net


def convert(sources, path):
    if os.environ.get("LIBRARY_FAILS"):
        raise RuntimeError("the original has another form")
    path.write_bytes(sources["original"].read_bytes()[::-1])


@hookimpl
def robharness_models():
    original = Download(url=f"{URL}/original.bin", sha256=digest(WEIGHTS[::-1]), name="originals/original.bin")
    for name, weights in {
        "net": Download(url=f"{URL}/net.bin", sha256=digest(WEIGHTS)[:8]),
        "converted": File(path="weights/converted.bin",
                          origin=Conversion(sources={"original": original}, convert=convert)),
        "undigested": Download(url=f"{URL}/net.bin", name="undigested.bin"),
        "asked": File(path="weights/asked.bin", origin=Page(url="https://example.org/x", reason="a drive has it")),
    }.items():  # fmt: skip
        yield ModelSpec(name=name, summary=name, input=InputSpec(shape=(1, SIDE, SIDE)), labels="shades", build=build,
                        weights=weights, licence="CC0")  # fmt: skip


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="pixels", summary="Pixels", labels="shades", splits=("test",), open=open_pixels,
                      examples={"test": EXAMPLES}, licence="public domain")  # fmt: skip
    yield DatasetSpec(name="closed", summary="Closed", labels="shades", splits=("test",), open=open_closed)


@hookimpl
def robharness_corruptions():
    for name in ("rain", "hail"):
        yield CorruptionSpec(name=name, summary=name, group="weather", open=partial(open_rain, name), canvas=SIDE,
                             randomness="none", severities=(1,))  # fmt: skip
