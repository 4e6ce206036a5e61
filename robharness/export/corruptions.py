"""Export of corrupted copies of a data set as files, in the layouts of ImageNet-C and CIFAR-C.

A corrupted image depends only on the suite's seed, the canvas, the corruption and the example's id, so these files hold
the images that a run computes. Files appear whole, and existing files are kept. An unfinished array of CIFAR-C has
another name, with a count of its blocks beside it, and gets its own name when it is whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robharness.errors import ContractViolation, UserError, describe, for_shell
from robharness.evaluation import images as encoding
from robharness.evaluation import perturb
from robharness.evaluation.reader import Reader
from robharness.evaluation.rng import global_seed
from robharness.export.names import Layout, file_names, folder_names
from robharness.planning.cells import BLOCK
from robharness.planning.commands import command
from robharness.planning.data import plan_data
from robharness.planning.files import read_record
from robharness.planning.identity import corruption_identity, draw_address
from robharness.planning.planned import PlannedData
from robharness.plugins.calls import call_spec, plugin_code
from robharness.reading import read_regular
from robharness.store.files import FileSystem
from robharness.suite import Perturbation, Suite

MANIFEST = "robharness.json"
"""The file that describes a folder; a folder whose manifest differs is refused."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Corrupted images to be written.

    corruptions: name of a folder or an array -> the corruption at each of its severities.
    """

    suite: Suite
    data_root: Path
    data: PlannedData
    corruptions: Mapping[str, Sequence[Perturbation]]
    layout: Layout
    folder: Path

    def command(self, layout: Layout) -> str:
        """Return the command that exports the whole split in this layout to this folder."""
        words = ("-o", for_shell(self.suite.as_given(self.folder)), "--layout", layout)
        return command(self.suite, "export-corruptions", *words, root=self.data_root)

    @property
    def work(self) -> int:
        """The number of images to write."""
        return self.data.n * sum(map(len, self.corruptions.values()))


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Written images of one corruption at one severity.

    n: images that exist now.
    made: images that this call wrote.
    unreadable: ids of examples that cannot be read, and so have no image.
    error: why the other images could not be made; else empty.
    """

    perturbation: Perturbation
    n: int
    made: int
    unreadable: tuple[str, ...]
    error: str = ""


def plan_rendering(
    suite: Suite, data_root: Path, folder: Path, *, layout: Layout, limit: int | None = None
) -> Rendering:
    """Plan the export of a suite's corruptions.

    data_root: the folder of data and weights.
    folder: the folder to write to.
    limit: the number of examples, a prefix of the fixed order.
    Raises UserError if the suite has nothing to render, if two corruptions would have one name, or if data are missing.
    """
    rendered = [p for p in suite.perturbations if p.kind == "corruption" and not p.is_stored]
    if suite.data.entry.spec.kind != "image":
        raise UserError(
            f"{suite.data.entry.name} holds {suite.data.entry.spec.kind}s, and only images can be exported. "
            f"Try: robharness list datasets"
        )
    if not rendered:
        stored = any(p.is_stored for p in suite.perturbations)
        why = "all its corruptions are files already" if stored else "it has no corruptions"
        raise UserError(f"{suite.path.name} has nothing to render: {why}. Try: robharness list corruptions")
    corruptions: dict[str, list[Perturbation]] = {}
    for perturbation in rendered:
        name = next(iter(folder_names([perturbation.entry.spec.name.rpartition("/")[2]]).values()))
        same = corruptions.setdefault(name, [])
        if same and draw_address(same[0]) != draw_address(perturbation):
            raise UserError(
                f"{same[0].entry.name} and {perturbation.entry.name} (or one with two sets of options) would both be "
                f"written to '{name}'; leave one out of the suite"
            )
        if suite.data.entry.spec.kind not in perturbation.entry.spec.inputs:
            raise UserError(
                f"{perturbation.entry.name} does not take the {suite.data.entry.spec.kind}s of "
                f"{suite.data.entry.name}. Try: robharness list corruptions"
            )
        same.append(perturbation)
    for same in corruptions.values():
        same.sort(key=lambda perturbation: int(perturbation.severity or 0))
    if layout == "cifar-c" and len({tuple(p.severity for p in same) for same in corruptions.values()}) > 1:
        raise UserError("all arrays of CIFAR-C share one labels.npy; give all corruptions the same severities")
    if layout == "cifar-c" and suite.compat != "none":
        raise UserError("an array of CIFAR-C holds pixels, not files; take `compat` out of the suite")
    data = plan_data(suite, data_root, limit)
    if layout == "cifar-c" and data.n < len(data.order):
        raise UserError(
            f"an array of CIFAR-C holds the whole split, and a limit selects {data.n} of {len(data.order)} examples; "
            f"remove the limit of this call and of the suite"
        )
    folder = suite.working_directory / folder
    rendering = Rendering(
        suite=suite, data_root=data_root, data=data, corruptions=corruptions, layout=layout, folder=folder
    )
    if layout == "imagenet-c":
        file_names(data, suite.compat, rendering.command("cifar-c"))  # raises before any file is written
    return rendering


def render(rendering: Rendering, progress: Callable[[int, str], None] = lambda done, name: None) -> Iterator[Rendered]:
    """Write the missing images, and yield after each severity of each corruption. One that fails costs itself.

    progress: called with the number of images that were written or existed, and the corruption's name.
    Raises UserError for a folder with other content.
    """
    _describe(rendering)
    reader = Reader(data=rendering.data, canvas=rendering.data.canvas, model=None, device=torch.device("cpu"))
    try:
        if rendering.layout == "cifar-c":
            _write_whole(rendering.folder / "labels.npy", _labels(rendering))
        for name, severities in rendering.corruptions.items():
            files = _Folders(rendering, name) if rendering.layout == "imagenet-c" else _Array(rendering, name)
            error = ""
            for perturbation in severities:
                rendered = _rendered(rendering, reader, perturbation, files, progress)
                error = error or rendered.error
                yield rendered
            if not error:
                files.finish()
    finally:
        reader.threads.close()


def _rendered(
    rendering: Rendering,
    reader: Reader,
    perturbation: Perturbation,
    files: _Files,
    progress: Callable[[int, str], None],
) -> Rendered:
    n, made, unreadable, done = rendering.data.n, 0, list[str](), 0
    try:
        built = call_spec(perturbation.entry.spec.build, perturbation.params)
    except Exception as error:
        sentence = f"{perturbation.entry.name} cannot be built: {describe(error)}"
        return Rendered(perturbation=perturbation, n=0, made=0, unreadable=(), error=sentence)
    for start in range(0, n, BLOCK):  # whole blocks, since corruptions that draw from global generators are seeded so
        positions = range(start, min(start + BLOCK, n))
        if not files.has(perturbation, positions):
            try:
                images, broken = _block(rendering, reader, perturbation, built, start)
            except ContractViolation as error:
                return Rendered(
                    perturbation=perturbation, n=done, made=made, unreadable=tuple(unreadable), error=str(error)
                )
            wanted = {position: image for position, image in images.items() if position in positions}
            made += files.write(perturbation, positions, wanted)
            for position in sorted(broken & set(positions)):
                unreadable += rendering.data.ids(position, position + 1)
        done += len(positions)
        progress(len(positions), perturbation.name)
    return Rendered(perturbation=perturbation, n=n - len(unreadable), made=made, unreadable=tuple(unreadable))


def _block(
    rendering: Rendering, reader: Reader, perturbation: Perturbation, built: Any, start: int
) -> tuple[dict[int, np.ndarray], set[int]]:
    """Return the corrupted images of a block by position, uint8 (H, W, C), and the unreadable positions."""
    data = rendering.data
    try:
        with plugin_code():
            read = reader.images(start, min(start + BLOCK, len(data.order)))
            batches = reader.batches(read)
    except ContractViolation:
        raise
    except Exception as error:  # a data set may raise anything
        raise ContractViolation(f"{data.entry.name}: {describe(error)}", by="data") from error
    seed = perturb.block_seed(rendering.suite.seed, draw_address(perturbation), start)
    images: dict[int, np.ndarray] = {}
    member = perturb.Member("", built)
    for positions, batch in batches:
        with global_seed(seed) if perturbation.entry.spec.randomness == "global" else nullcontext():
            try:
                x, _, _ = perturb.perturb_checked(perturbation, member, batch, rendering.suite.seed)
            except ContractViolation as error:
                raise ContractViolation(f"{perturbation.entry.name} of {perturbation.entry.origin}: {error}") from error
        images |= dict(zip(positions.tolist(), x.numpy(), strict=True))
    return images, set(read.unreadable)


class _Folders:
    """Image files `<folder>/<corruption>/<severity>/<class>/<name>.png`, or .JPEG as published for ImageNet-C."""

    def __init__(self, rendering: Rendering, name: str) -> None:
        self._data, self._top = rendering.data, rendering.folder / name
        self._names = file_names(rendering.data, rendering.suite.compat, rendering.command("cifar-c"))
        self._encoded = encoding.encode_jpeg85 if rendering.suite.compat == "imagenet-c" else encoding.encode_png

    def has(self, perturbation: Perturbation, positions: range) -> bool:
        return all(self._file(perturbation, position).exists() for position in positions)

    def write(self, perturbation: Perturbation, positions: range, images: Mapping[int, np.ndarray]) -> int:
        """Write the missing images; return their number."""
        missing = [position for position in images if not self._file(perturbation, position).exists()]
        for position in missing:
            _write_whole(self._file(perturbation, position), self._encoded(images[position]))
        return len(missing)

    def finish(self) -> None: ...

    def _file(self, perturbation: Perturbation, position: int) -> Path:
        return self._top / str(perturbation.severity) / self._names[self._data.order[position]]


class _Array:
    """An array `<folder>/<corruption>.npy`, uint8 (severities * N, H, W, C), each severity in the data set's own order.

    An unfinished array is `<corruption>.npy.part`, and `<corruption>.npy.count` holds the number of finished blocks.
    """

    def __init__(self, rendering: Rendering, name: str) -> None:
        self._data, self._severities = rendering.data, [p.severity for p in rendering.corruptions[name]]
        self._path = rendering.folder / f"{name}.npy"
        self._remedy = _without_array(rendering)
        self._part, self._count = (self._path.with_suffix(f".npy.{end}") for end in ("part", "count"))
        self._array: np.ndarray | None = None
        self._done = 0
        if self._part.exists() and self._count.exists():
            with _translate_os_errors(self._part):
                self._open(len(self._severities))

    def _open(self, severities: int) -> None:
        """Open an unfinished array. Raises UserError if it is damaged."""
        n = len(self._data.order)
        try:
            count = read_regular(self._count, 20)
            if not self._part.is_file() or not re.fullmatch(rb"[0-9]+", count):
                raise ValueError("its count of blocks is no number")
            self._array, self._done = np.lib.format.open_memmap(self._part, mode="r+"), int(count)
            if self._array.dtype != np.uint8 or self._array.ndim != 4 or len(self._array) != severities * n:
                raise ValueError(f"it holds {self._array.dtype} {self._array.shape}")
            if self._done > severities * -(-n // BLOCK):
                raise ValueError("its count of blocks is too large")
        except ValueError as error:
            files = f"{for_shell(self._part)} {for_shell(self._count)}"
            raise UserError(f"{self._part} is damaged ({error}). To write it again: rm -r {files}") from None

    def has(self, perturbation: Perturbation, positions: range) -> bool:
        return self._path.exists() or self._block(perturbation, positions) < self._done

    def write(self, perturbation: Perturbation, positions: range, images: Mapping[int, np.ndarray]) -> int:
        if len(images) < len(positions):
            broken = next(position for position in positions if position not in images)
            name = self._data.ids(broken, broken + 1)[0]
            raise UserError(f"'{name}' cannot be read, and an array needs every example{self._remedy}")
        n = len(self._data.order)
        with _translate_os_errors(self._part):
            if self._array is None:
                shape = (len(self._severities) * n, *images[positions[0]].shape)
                self._array = np.lib.format.open_memmap(self._part, mode="w+", dtype=np.uint8, shape=shape)
            first = self._severities.index(perturbation.severity) * n
            for position, image in images.items():
                if image.shape != self._array.shape[1:]:
                    raise UserError(
                        f"images of {image.shape} and {self._array.shape[1:]} do not make one array{self._remedy}"
                    )
                self._array[first + self._data.order[position]] = image
            self._array.flush()  # type: ignore[attr-defined]  # a memmap: first the images, then their count
        self._done = self._block(perturbation, positions) + 1
        _write_whole(self._count, str(self._done).encode())
        return len(images)

    def finish(self) -> None:
        with _translate_os_errors(self._path):
            if not self._path.exists():
                os.replace(self._part, self._path)
            self._count.unlink(missing_ok=True)

    def _block(self, perturbation: Perturbation, positions: range) -> int:
        """Return the number of this block of this severity, in the order of writing."""
        blocks = -(-len(self._data.order) // BLOCK)
        return self._severities.index(perturbation.severity) * blocks + positions[0] // BLOCK


_Files = _Folders | _Array


def _without_array(rendering: Rendering) -> str:
    """Return the end of a sentence on an example that cannot be read: the command for files if they can be written."""
    other = replace(rendering, folder=rendering.folder.with_name(f"{rendering.folder.name}-2"))  # this has a manifest
    as_array = other.command("cifar-c")
    try:
        file_names(rendering.data, rendering.suite.compat, as_array)
    except UserError:
        return f"; mend or remove the example. Then type: {as_array}"
    return f". Try: {other.command('imagenet-c')}"


def _labels(rendering: Rendering) -> bytes:
    """Return CIFAR-C's labels.npy: the labels of the whole split, once per severity."""
    labels = rendering.data.dataset.labels
    severities = len(next(iter(rendering.corruptions.values())))
    content = BytesIO()
    np.save(content, np.array(severities * list(labels), np.uint8 if max(labels) < 256 else np.int64))
    return content.getvalue()


def _describe(rendering: Rendering) -> None:
    """Write the manifest. Raises UserError if the folder's manifest differs, since the files would not fit together."""
    path, suite = rendering.folder / MANIFEST, rendering.suite
    description = {"layout": rendering.layout, "seed": suite.seed, "data": rendering.data.identity}
    requested = {
        name: {**corruption_identity(several[0]), "revision": several[0].entry.spec.revision}
        | ({"severities": [p.severity for p in several]} if rendering.layout == "cifar-c" else {})
        for name, several in rendering.corruptions.items()
    }
    existing: dict[str, Any] = {}
    if os.path.lexists(path):
        folder = suite.as_given(rendering.folder)
        another = f"Try another folder: {for_shell(f'{folder}-2')}"
        with _translate_os_errors(path):
            try:
                known = read_record(path)
                existing = dict(known["corruptions"])
                differ = [key for key, value in description.items() if known[key] != value]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{suite.as_given(path)} is no manifest of robharness. {another}") from None
        differ = differ or [name for name in requested if existing.get(name, requested[name]) != requested[name]]
        if differ:
            raise UserError(f"{folder} holds images with another {', '.join(differ)}. {another}")
    made_by = {name: version(name) for name in ("robharness", "numpy", "pillow")}
    written = {
        "suite": suite.name,
        "title": suite.title,
        **description,
        "corruptions": {**existing, **requested},
        "made by": made_by,
    }
    _write_whole(path, (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, without fsync, since files are many: a power cut may damage the last ones."""
    with _translate_os_errors(path):
        FileSystem().write(path, content, durable=False)


@contextmanager
def _translate_os_errors(path: Path) -> Iterator[None]:
    """Raise UserError instead of OSError in the block.

    path: the file that the message names.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}. Try: df {for_shell(path.parent)}") from None
