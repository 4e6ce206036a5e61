"""Kills runs and merges with SIGKILL at named points, lets them end, and compares with a run that nobody disturbed.

    OMP_NUM_THREADS=1 python tests/chaos.py suite.yaml --plugin tests/toys.py --folder /tmp/chaos

Everything heavy is imported and the plan is made once; each run is a fork of this process, which computes nothing
itself. A fork sees the calls that the store makes of its file system and may kill itself just before one or just after
it, or when half of the bytes of a file are written. After every kill, in this order: no file under a final name
is damaged and nothing that was stored is gone; the same command runs to the end and computes what is missing and no
more; all outcomes are bit-equal to the undisturbed ones, in one file per cell. That is looked at in a copy of the
store, so that the next kill may hit the same store again, as in life: in chains of one, two, three and more kills.

Prints a table to stderr and JSON to stdout: hits by point, the places that they hit, and what was found. Exit code 1
if anything was found, or a point was hit too seldom.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import stat
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import robharness.engine.worker  # noqa: F401 (so that no fork has to)
from robharness import api
from robharness.engine import listeners, units
from robharness.engine.run import run_plan
from robharness.planning.cells import Plan
from robharness.store import FileSystem, Store, merge, results, uncovered
from robharness.store.results import Results

Spans = dict[str, list[tuple[int, int]]]
"""Of positions, by the key of a cell."""
PART = re.compile(r"(\d+)-(\d+)\.([0-9a-f]{8})\.parquet")


@dataclass(frozen=True)
class Moment:
    """Just before or after a call, or amid it. path: the file, or the latest one where a folder is synced.

    begun: the store has a part; joining: parts of a cell become one file.
    """

    what: str
    path: Path
    begun: bool
    joining: bool

    @property
    def is_part(self) -> bool:
        """Whether it is about outcomes, under a final name or a temporary one."""
        return ".parquet" in self.path.name

    def __str__(self) -> str:
        if self.is_part:
            name = "part" if not self.joining else "old part" if self.what.startswith("unlink") else "joined part"
        else:
            name = "run record" if self.path.parent.name == "runs" else "description"
        return f"{self.what} {name}"


POINTS: dict[str, Callable[[Moment], bool]] = {
    "before the first part": lambda m: not m.begun and m.what == "open",
    "between parts": lambda m: m.begun and m.is_part and m.what == "open" and not m.joining,
    "temporary file half written": lambda m: m.what == "half written",
    "before rename": lambda m: m.what == "rename",
    "after rename": lambda m: m.what == "renamed",
    "before the folder's fsync": lambda m: m.what == "fsync folder of",
    "during join": lambda m: m.joining,
    "during merge": lambda m: True,
}


class Violation(Exception):
    """A state of the store that must never occur."""


# --- in a fork -------------------------------------------------------------------------------------------------------


class Trap(FileSystem):
    """The file system of a store in a fork, which ends at the count-th moment of a point.

    say: takes the last words. whole: spans of the parts that got their final name.
    """

    def __init__(self, root: Path, point: str, count: int, send: Callable[[Any], None]) -> None:
        super().__init__()
        self.root, self.point, self.count, self.send = root, point, count, send
        self.reached, self.whole, self.joining, self.latest = 0, Spans(), False, root

    def reach(self, what: str, path: Path) -> None:
        if not path.is_relative_to(self.root):
            return
        self.latest = path
        if what == "renamed" and (match := PART.fullmatch(path.name)):
            self.whole.setdefault(path.parent.name, []).append((int(match[1]), int(match[2])))
        moment = Moment(what, path, any(self.root.glob("cells/*/*/*.parquet")), self.joining)
        if POINTS[self.point](moment):
            self.reached += 1
            if self.reached == self.count:
                self.send({"moment": str(moment), "file": str(path.relative_to(self.root)), "whole": self.whole})
                os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path: Path) -> BinaryIO:
        self.reach("open", path)
        return Halves(self, path)

    def fsync(self, descriptor: int) -> None:
        kind = "folder of" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        self.reach(f"fsync {kind}", self.latest)
        super().fsync(descriptor)
        self.reach(f"fsynced {kind}", self.latest)

    def rename(self, source: Path, target: Path) -> None:
        self.reach("rename", target)
        super().rename(source, target)
        self.reach("renamed", target)

    def unlink(self, path: Path) -> None:
        if not os.path.lexists(path):  # no moment: it changes nothing
            return
        self.reach("unlink", path)
        super().unlink(path)
        self.reach("unlinked", path)


class PlainTrap(Trap):
    """A mutant: files appear by no rename, for the test of this test."""

    @contextmanager
    def replacing(self, path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.open(path) as file:
            yield file
            file.flush()
            self.fsync(file.fileno())


class TrappedStore(Store):
    """A store on such a file system, which knows when parts are joined."""

    files: Trap

    def join(self, key: str, stop: int, start: int = 0) -> None:
        self.files.joining = True
        super().join(key, stop, start)
        self.files.joining = False


class Halves(io.BufferedWriter):
    """A file opened for writing, whose bytes arrive in two halves."""

    def __init__(self, trap: Trap, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self._trap, self._path = trap, path

    def write(self, content: Any) -> int:
        half = len(content) // 2
        super().write(content[:half])
        self.flush()
        self._trap.reach("half written", self._path)
        return half + super().write(content[half:])


def forked(work: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """The exit code of a fork that does this, -9 for SIGKILL, and what it said: to `say`, its last argument, or at
    its end by returning it."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read_end)
            with os.fdopen(write_end, "w") as pipe:

                def send(words: Any) -> None:
                    json.dump(words, pipe)
                    pipe.flush()

                try:
                    send(work(*arguments, send))
                    code = 0
                except Violation as found:
                    send(str(found))
                except Exception:
                    send(traceback.format_exc())
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        sent = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, json.loads(sent) if sent else None


class Count(listeners.Silent):
    """Counts outcomes: those that a run finds missing, and those that it computes."""

    missing = computed = 0

    def started(self, work: int, cells: int) -> None:
        self.missing = work

    def cell_done(self, cell: Any, span: Any, failure: Any) -> None:
        self.computed += span[1] - span[0]


@dataclass(frozen=True)
class Scene:
    """The run under test. rows: the batch size; shards: stores of two halves of the examples, which are merged.

    trap: the file system of runs that are killed.
    """

    plan: Plan
    rows: int
    shards: tuple[Path, ...] = ()
    trap: type[Trap] = Trap

    def run(self, store: Store, listener: Any = None, part: tuple[int, int] = (1, 1)) -> Results:
        run_plan(self.plan.shard(*part), store, listener or listeners.Silent(), batch_size=self.rows)
        return results.load(self.plan, Store(store.root))

    def merge(self, store: Store) -> None:
        for shard in self.shards:
            merged = merge.merge(store, Store(shard))
            if merged.problems or merged.differing:
                raise Violation(f"merging {shard.name}: {merged.differing} outcomes differ; {merged.problems}")


def undisturbed(scene: Scene, root: Path, send: Any) -> Any:
    return outcomes(scene.run(Store(root)))


def shard(scene: Scene, root: Path, index: int, send: Any) -> None:
    scene.run(Store(root), part=(index, 2))


def trapped(scene: Scene, root: Path, point: str, count: int, send: Any) -> int:
    """Return how often the point was reached in a run or merge that finished."""
    trap = scene.trap(root, point, count, send)
    store = TrappedStore(root, trap)
    if point == "during merge":
        scene.merge(store)
    else:
        scene.run(store)
    return trap.reached


def judge(scene: Scene, root: Path, point: str, whole: Spans, right: Any, send: Any) -> None:
    """Raise Violation for damage by a kill. whole: spans stored before; right: the outcomes."""
    check_files(root)
    kept, n, keys = Store(root), scene.plan.n, [cell.key for cell in scene.plan.cells]
    for key in keys:
        kept.verify(key, n)
    if kept.notes or list(root.rglob("*.damaged")):
        raise Violation(f"the store sets parts aside: {kept.notes}")
    for key, spans in whole.items():
        for span in spans:
            if gaps := uncovered(kept.spans(key), span):
                raise Violation(f"{key}: {gaps} of what was stored as {span} is gone")
    if point == "during merge":
        scene.merge(Store(root))
    missing = sum(stop - start for key in keys for start, stop in kept.missing(key, n))
    if point == "during merge" and missing:
        raise Violation(f"both shards are merged and {missing} outcomes are missing")
    count = Count()
    found = scene.run(Store(root), count)
    if not missing == count.missing == count.computed:
        raise Violation(f"{missing} outcomes were missing, the run saw {count.missing} and computed {count.computed}")
    check_files(root)
    if found.notes or not found.is_complete or any(cell.failures for cell in found.cells):
        raise Violation(f"the end of the run: complete: {found.is_complete}; {found.notes}")
    for key in keys:
        names = sorted(path.name for path in kept.folder(key).glob("[!.]*"))
        if len(names) != 2 or kept.spans(key) != [(0, n)]:
            raise Violation(f"{key} is not joined: {names}")
    for name, columns in outcomes(found).items():
        if wrong := [column for column in right[name] if columns.get(column) != right[name][column]]:
            raise Violation(f"{name} has another {', '.join(wrong)} than without kills")
        if columns != right[name]:
            raise Violation(f"{name} has the columns {list(columns)}")


def check_files(root: Path) -> None:
    """Raises Found for a file under a final name that is not whole, without asking the store."""
    for path in sorted(root.rglob("*")):
        if path.name.startswith(".") or path.is_dir():
            continue
        content, name = path.read_bytes(), path.relative_to(root)
        if match := PART.fullmatch(path.name):
            if f"{zlib.crc32(content):08x}" != match[3]:
                raise Violation(f"{name} is damaged: its {len(content)} bytes have another checksum")
            rows = pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows
            if rows != int(match[2]) - int(match[1]):
                raise Violation(f"{name} is damaged: it has {rows} rows")
        elif path.suffix == ".json":
            try:
                json.loads(content)
            except ValueError as error:
                raise Violation(f"{name} is damaged: {error}") from None
        else:
            raise Violation(f"{name} is no name of the store's")


def outcomes(found: Results) -> Any:
    """{cell: {column: its bytes, hashed}}, positions and provenance beside them."""
    return {
        result.cell.name: {
            "positions": digest(result.positions),
            "provenance": json.dumps(result.provenance, sort_keys=True),
            **{name: digest(column) for name, column in result.columns.items()},
        }
        for result in found.cells
    }


def digest(column: np.ndarray) -> str:
    content = repr(column.tolist()).encode() if column.dtype == object else column.tobytes()
    return f"{column.dtype} {column.shape} {hashlib.sha256(content).hexdigest()}"


# --- in the parent ---------------------------------------------------------------------------------------------------


@dataclass
class Chaos:
    """The kills. hits: by point; places: by point, what was about to happen or had happened to what."""

    scene: Scene
    folder: Path
    kills: int
    right: Any = None
    hits: Counter[str] = field(default_factory=Counter)
    places: dict[str, Counter[str]] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    folders: Any = field(default_factory=itertools.count)

    def prepare(self) -> None:
        """The undisturbed outcomes; shards to merge."""
        code, self.right = forked(undisturbed, self.scene, self.folder / "undisturbed")
        shards = tuple(self.folder / f"shard {index}" for index in (1, 2))
        codes = [forked(shard, self.scene, root, index) for index, root in enumerate(shards, 1)]
        if code or any(code for code, _ in codes):
            raise SystemExit(f"without any kill: {self.right} {codes}")
        self.scene = replace(self.scene, shards=shards)

    def copy(self, root: Path | None) -> Path:
        """A store of its own with the same files; an empty one for None."""
        path = self.folder / str(next(self.folders))
        if root is not None and root.exists():  # a kill may come before it
            shutil.copytree(root, path)
        return path

    def starts(self, point: str) -> list[Path | None]:
        """Stores where the chains of a point begin, in turn; None for an empty one."""
        if point == "before the first part":  # empty, or with the descriptions of all cells
            return [None, self.hit(None, point, len(self.scene.plan.cells) + 1)[0]]
        if point == "during join":  # all is computed
            return [self.hit(None, point, 1)[0]]
        if point == "during merge":  # empty, or with parts that are cut in another way
            return [None, self.hit(None, "between parts", 9)[0]]
        return [None]

    def hit(self, root: Path | None, point: str, count: int) -> tuple[Path, Any]:
        """A copy of the store after a run that was killed, and its last words; the times that the point was reached
        in their place where it came to its end."""
        whole = (
            Spans() if root is None else {path.name: Store(root).spans(path.name) for path in root.glob("cells/*/*")}
        )
        path = self.copy(root)
        code, sent = forked(trapped, self.scene, path, point, count)
        if code == -signal.SIGKILL and sent:
            for key, spans in sent["whole"].items():
                whole[key] = [*whole.get(key, []), *map(tuple, spans)]
            return path, sent | {"whole": whole}
        if code:
            raise Violation(f"a run after a kill, or the first one, ended with exit code {code}: {sent}")
        return path, sent

    def kill(self, point: str) -> None:
        """Kill at the point in chains of one, two, three and more kills. Raises Found.

        The moments are spread over all that a run has: the golden section gives fractions that keep apart.
        """
        starts, lengths = self.starts(point), itertools.count(1)
        fractions = ((turn * 0.6180339887 + 0.5) % 1 for turn in itertools.count())
        known: dict[Path | None, int] = {}
        while self.hits[point] < self.kills:
            length = next(lengths)
            start = root = starts[length % len(starts)]
            left = known.get(start, 0)
            links = 0
            while links < length:
                # Without knowing how many moments are left, no kill: the run comes to its end and tells.
                count = math.ceil(next(fractions) * left / (length - links)) if left else 0
                path, sent = self.hit(root, point, count)
                if isinstance(sent, int):  # the first time, or the work is cut in another way than before the kill
                    left = sent
                    known.setdefault(root, left)
                    if left:
                        continue
                    if root is start:
                        raise Violation("never reached")
                    break
                root, left, links = path, left - count, links + 1
                self.hits[point] += 1
                self.places.setdefault(point, Counter())[sent["moment"]] += 1
                copy = self.copy(root)
                code, problem = forked(judge, self.scene, copy, point, sent["whole"], self.right)
                if code:
                    kill = "kill" if links == 1 else f"kill {links} of one store"
                    raise Violation(f"{kill}, at '{sent['moment']}' of {sent['file']}: {problem}")
                shutil.rmtree(copy)

    def run(self) -> None:
        self.prepare()
        before = self.shards()
        for point in POINTS:
            try:
                self.kill(point)
                if self.shards() != before:
                    raise Violation("the shards that were merged have changed")
            except Violation as found:
                self.found[point] = str(found)

    def shards(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for root in self.scene.shards for path in root.rglob("*") if path.is_file()}

    def table(self) -> str:
        lines = []
        for point in POINTS:
            places = ", ".join(f"{count} {place}" for place, count in self.places.get(point, Counter()).most_common())
            lines.append(f"{point:28} {self.hits[point]:3} kills   {places}")
            if point in self.found:
                lines.append(f"    FOUND: {self.found[point]}")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--folder", required=True, type=Path, help="new, for the stores")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rows", type=int, default=4, help="examples per pass")
    parser.add_argument("--kills", type=int, default=10, help="at each point, at least")
    parser.add_argument("--plain-write", action="store_true", help="a mutant: files appear by no rename")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    units.UNIT_SECONDS = 0  # as many parts as can be
    pa.table({"x": np.zeros(1)})  # imports pandas, where it is there
    gc.freeze()  # each fork would go through all that is imported
    plan = api.plan(arguments.suite, plugins=[arguments.plugin], limit=arguments.limit)
    chaos = Chaos(
        Scene(plan, arguments.rows, trap=PlainTrap if arguments.plain_write else Trap),
        arguments.folder,
        arguments.kills,
    )
    chaos.run()
    print(chaos.table(), file=sys.stderr)
    print(json.dumps({"hits": {point: chaos.hits[point] for point in POINTS}, "places": chaos.places,
                      "found": chaos.found, "seconds": round(time.perf_counter() - begun, 1)}, indent=1))  # fmt: skip
    sys.exit(bool(chaos.found) or any(chaos.hits[point] < arguments.kills for point in POINTS))


if __name__ == "__main__":
    main()
