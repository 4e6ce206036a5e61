"""Corrupted copies of a data set as files, in the layouts of ImageNet-C and CIFAR-C, rendered as a run would.

A picture depends on the suite's seed, the canvas, the corruption and the example's id alone, so what is read from these
files later is what a run renders. Files appear whole: those that are there already are left as they are. An array of
CIFAR-C grows beside its place, with a count of the pictures in it, and takes its name when it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch

from robharness.errors import ContractViolation, UserError
from robharness.evaluation import images, perturb
from robharness.evaluation.reader import Reader
from robharness.evaluation.rng import global_seed
from robharness.planning.cells import BLOCK, PlannedData
from robharness.planning.identity import corruption_identity, draw_address
from robharness.planning.planner import plan_data
from robharness.store.files import FileSystem
from robharness.suite import Perturbation, Suite

Layout = Literal["imagenet-c", "cifar-c"]
MANIFEST = "robharness.json"
"""Says what is in the folder; a folder whose manifest says something else is refused."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What is to be rendered. corruptions: the folder or array of each -> the corruption at each of its severities."""

    suite: Suite
    data: PlannedData
    corruptions: Mapping[str, Sequence[Perturbation]]
    layout: Layout
    folder: Path

    @property
    def work(self) -> int:
        """Pictures in all."""
        return self.data.n * sum(map(len, self.corruptions.values()))


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Pictures of one corruption at one severity that are there now. made: of these n, by this call; unreadable:
    examples that are broken, which have no picture."""

    perturbation: Perturbation
    n: int
    made: int
    unreadable: int


def plan_rendering(
    suite: Suite, data_root: Path, folder: Path, *, layout: Layout, limit: int | None = None
) -> Rendering:
    """What a suite's corruptions make of its data. limit: examples, a prefix of the fixed order.

    Raises UserError where the suite has nothing to render, where two corruptions would share a place, and where data
    are not there.
    """
    rendered = [p for p in suite.perturbations if p.kind == "corruption" and not p.is_stored]
    if suite.dataset.spec.kind != "image":
        raise UserError(f"{suite.dataset.name} holds {suite.dataset.spec.kind}s, and what is written are pictures")
    if not rendered:
        stored = any(p.is_stored for p in suite.perturbations)
        why = "all its corruptions are files already" if stored else "it has no corruptions"
        raise UserError(f"{suite.path.name} has nothing to render: {why}. See: robharness list corruptions")
    corruptions: dict[str, list[Perturbation]] = {}
    for perturbation in rendered:
        name = perturbation.entry.spec.name.rpartition("/")[2]
        same = corruptions.setdefault(name, [])
        if same and draw_address(same[0]) != draw_address(perturbation):
            raise UserError(
                f"{same[0].entry.name} and {perturbation.entry.name} (or two ways of one) would both be written to "
                f"'{name}'; leave one out of the suite"
            )
        if suite.dataset.spec.kind not in perturbation.entry.spec.inputs:
            raise UserError(
                f"{perturbation.entry.name} does not take the {suite.dataset.spec.kind}s of {suite.dataset.name}. "
                f"See: robharness list corruptions"
            )
        same.append(perturbation)
    for same in corruptions.values():
        same.sort(key=lambda perturbation: int(perturbation.strength or 0))
    if layout == "cifar-c" and len({tuple(p.strength for p in same) for same in corruptions.values()}) > 1:
        raise UserError("one labels.npy serves all arrays of CIFAR-C; ask for all corruptions at the same severities")
    if layout == "cifar-c" and suite.compat != "none":
        raise UserError("an array of CIFAR-C holds pixels, not files; take `compat` out of the suite")
    data = plan_data(suite, data_root, limit)
    if layout == "cifar-c" and data.n < len(data.order):
        raise UserError("an array of CIFAR-C holds the whole split; leave out --limit and the suite's `limit`")
    if layout == "imagenet-c":
        _file_names(data, suite)  # raises before anything is written
    return Rendering(suite=suite, data=data, corruptions=corruptions, layout=layout, folder=folder)


def render(rendering: Rendering, progress: Callable[[int, str], None] = lambda done, name: None) -> Iterator[Rendered]:
    """Write what is not there yet, a corruption at a severity after the other.

    progress: called with the number of pictures that are done, or were before, and the corruption's name. Raises
    UserError for a folder that holds something else, and ContractViolation for a corruption that breaks a rule.
    """
    _describe(rendering)
    reader = Reader(data=rendering.data, canvas=rendering.suite.canvas, model=None, device=torch.device("cpu"))
    try:
        if rendering.layout == "cifar-c":
            _write_whole(rendering.folder / "labels.npy", _labels(rendering))
        for name, severities in rendering.corruptions.items():
            files = _Folders(rendering, name) if rendering.layout == "imagenet-c" else _Array(rendering, name)
            for perturbation in severities:
                yield _rendered(rendering, reader, perturbation, files, progress)
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
    n, made, unreadable = rendering.data.n, 0, 0
    try:
        built = perturbation.entry.spec.build(perturbation.params)
    except Exception as error:
        raise ContractViolation(
            f"{perturbation.entry.name} cannot be built: {type(error).__name__}: {error}"
        ) from error
    for start in range(0, n, BLOCK):  # whole blocks, since what draws from global generators is seeded for these
        positions = range(start, min(start + BLOCK, n))
        if not files.has(perturbation, positions):
            pictures, broken = _block(rendering, reader, perturbation, built, start)
            wanted = {position: picture for position, picture in pictures.items() if position in positions}
            made += files.write(perturbation, positions, wanted)
            unreadable += len(broken & set(positions))
        progress(len(positions), perturbation.name)
    return Rendered(perturbation=perturbation, n=n - unreadable, made=made, unreadable=unreadable)


def _block(
    rendering: Rendering, reader: Reader, perturbation: Perturbation, built: Any, start: int
) -> tuple[dict[int, np.ndarray], set[int]]:
    """The corrupted pictures of a block by position, uint8 (H, W, C); and the positions that cannot be read."""
    data = rendering.data
    try:
        read = reader.pictures(start, min(start + BLOCK, len(data.order)))
        batches = reader.batches(read)
    except ContractViolation:
        raise
    except Exception as error:  # a data set may raise anything
        raise ContractViolation(f"{data.entry.name}: {type(error).__name__}: {error}", by="data") from error
    seed = perturb.block_seed(rendering.suite.seed, draw_address(perturbation), start)
    pictures: dict[int, np.ndarray] = {}
    for positions, batch in batches:
        with global_seed(seed) if perturbation.entry.spec.randomness == "global" else nullcontext():
            try:
                x, _, _ = perturb.perturb_checked(perturbation, ("", built), batch, rendering.suite.seed)
            except ContractViolation as error:
                raise ContractViolation(f"{perturbation.entry.name} of {perturbation.entry.origin}: {error}") from error
        pictures |= dict(zip(positions.tolist(), x.numpy(), strict=True))
    return pictures, set(read.unreadable)


class _Folders:
    """`<folder>/<corruption>/<severity>/<class>/<name>.png`, without loss, or the .JPEG that was published."""

    def __init__(self, rendering: Rendering, name: str) -> None:
        self._data, self._top = rendering.data, rendering.folder / name
        self._names = _file_names(rendering.data, rendering.suite)
        self._encoded = images.encode_jpeg85 if rendering.suite.compat == "imagenet-c" else images.encode_png

    def has(self, perturbation: Perturbation, positions: range) -> bool:
        return all(self._file(perturbation, position).exists() for position in positions)

    def write(self, perturbation: Perturbation, positions: range, pictures: Mapping[int, np.ndarray]) -> int:
        """Those that are not there; returns how many."""
        missing = [position for position in pictures if not self._file(perturbation, position).exists()]
        for position in missing:
            _write_whole(self._file(perturbation, position), self._encoded(pictures[position]))
        return len(missing)

    def finish(self) -> None: ...

    def _file(self, perturbation: Perturbation, position: int) -> Path:
        return self._top / str(perturbation.strength) / self._names[self._data.order[position]]


class _Array:
    """`<folder>/<corruption>.npy`, uint8 (severities * N, H, W, C), each severity in the data's own order.

    Until it is whole it is `<corruption>.npy.part`, and `<corruption>.npy.count` says how many of its blocks are done.
    """

    def __init__(self, rendering: Rendering, name: str) -> None:
        self._data, self._severities = rendering.data, [p.strength for p in rendering.corruptions[name]]
        self._path = rendering.folder / f"{name}.npy"
        self._part, self._count = (self._path.with_suffix(f".npy.{end}") for end in ("part", "count"))
        self._array: np.ndarray | None = None
        self._done = 0
        if self._part.exists() and self._count.exists():
            with _translate_os_errors(self._part):
                self._array = np.lib.format.open_memmap(self._part, mode="r+")
                self._done = int(self._count.read_text())

    def has(self, perturbation: Perturbation, positions: range) -> bool:
        return self._path.exists() or self._block(perturbation, positions) < self._done

    def write(self, perturbation: Perturbation, positions: range, pictures: Mapping[int, np.ndarray]) -> int:
        if len(pictures) < len(positions):
            broken = next(position for position in positions if position not in pictures)
            name = self._data.ids(broken, broken + 1)[0]
            raise UserError(f"'{name}' cannot be read, and an array has no gaps. Try: --layout imagenet-c")
        n = len(self._data.order)
        with _translate_os_errors(self._part):
            if self._array is None:
                shape = (len(self._severities) * n, *pictures[positions[0]].shape)
                self._array = np.lib.format.open_memmap(self._part, mode="w+", dtype=np.uint8, shape=shape)
            first = self._severities.index(perturbation.strength) * n
            for position, picture in pictures.items():
                self._array[first + self._data.order[position]] = picture
            self._array.flush()  # type: ignore[attr-defined]  # a memmap: first the pictures, then the count of them
        self._done = self._block(perturbation, positions) + 1
        _write_whole(self._count, str(self._done).encode())
        return len(pictures)

    def finish(self) -> None:
        if not self._path.exists():
            os.replace(self._part, self._path)
        self._count.unlink(missing_ok=True)

    def _block(self, perturbation: Perturbation, positions: range) -> int:
        """The number of this block of this severity, in the order in which they are made."""
        blocks = -(-len(self._data.order) // BLOCK)
        return self._severities.index(perturbation.strength) * blocks + positions[0] // BLOCK


_Files = _Folders | _Array


SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of ids that are those of files; that of what is written stands for them."""


def _file_names(data: PlannedData, suite: Suite) -> list[str]:
    """`<class>/<name>.png` of every example: its id, below the number of its class where it is not in a folder."""
    ending, kept = ("JPEG", (".jpg", ".jpeg")) if suite.compat == "imagenet-c" else ("png", (".png",))
    names, width = [], len(str(max(map(int, data.dataset.labels))))
    for id, label in zip(data.dataset.ids, data.dataset.labels, strict=True):
        path = PurePosixPath(id)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"the id '{id}' of {data.entry.name} is no path below a folder. Try: --layout cifar-c")
        name = str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path) + f".{ending}"
        folder = "" if len(path.parts) > 1 else f"{int(label):0{width}}/"
        names.append(folder + (id if path.suffix.lower() in kept else name))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two examples of {data.entry.name} would both be written to '{twice}'. Try: --layout cifar-c")
    return names


def _labels(rendering: Rendering) -> bytes:
    """labels.npy of CIFAR-C: those of the whole split, once per severity."""
    labels = [int(label) for label in rendering.data.dataset.labels]
    severities = len(next(iter(rendering.corruptions.values())))
    content = BytesIO()
    np.save(content, np.array(severities * labels, np.uint8 if max(labels) < 256 else np.int64))
    return content.getvalue()


def _describe(rendering: Rendering) -> None:
    """Write the manifest, or check that what the folder holds goes together with this. Raises UserError."""
    path, suite = rendering.folder / MANIFEST, rendering.suite
    about = {"layout": rendering.layout, "seed": suite.seed, "data": rendering.data.identity}
    asked = {
        name: {**corruption_identity(several[0]), "revision": several[0].entry.spec.revision}
        | ({"severities": [p.strength for p in several]} if rendering.layout == "cifar-c" else {})
        for name, several in rendering.corruptions.items()
    }
    there: dict[str, Any] = {}
    if path.exists():
        with _translate_os_errors(path):
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                there = dict(known["corruptions"])
                differ = [key for key, value in about.items() if known[key] != value]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} is no manifest of ours; write to another folder: -o FOLDER") from None
        differ = differ or [name for name in asked if there.get(name, asked[name]) != asked[name]]
        if differ:
            raise UserError(
                f"{rendering.folder} holds pictures with another {', '.join(differ)}; write to another folder: "
                f"-o {rendering.folder}-2"
            )
    made_by = {name: version(name) for name in ("robharness", "numpy", "pillow")}
    written = {
        "suite": suite.name,
        "title": suite.title,
        **about,
        "corruptions": {**there, **asked},
        "made by": made_by,
    }
    _write_whole(path, (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, without fsync, since files are many: a power cut may damage the last ones."""
    with _translate_os_errors(path):
        FileSystem().write(path, content, durable=False)


@contextmanager
def _translate_os_errors(path: Path) -> Iterator[None]:
    """What goes wrong with a file, as a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}. See: df {path.parent}") from None
