"""Baselines: a JSON file with the outcomes of complete cells, which is committed beside a suite and compared later.

One field stands on each line, and the last lines of a cell are the same after most changes. Git can therefore merge two
branches that add and change cells. A digest per cell finds edits; the bytes stay if equal outcomes are written again.
Trade-off: the bits of the examples are no text to read, but 50,000 of them take at most 8 kB.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from robharness.comparison.ratios import Ratio, RecordedRatio, ratio_records, ratios_of
from robharness.comparison.records import Kind, MeasuredCell, Side
from robharness.errors import BaselineError, for_shell, nearest_existing
from robharness.planning.files import json_object
from robharness.planning.identity import text_key
from robharness.reading import read_regular
from robharness.specs.measures import NORMS
from robharness.store.files import FileSystem
from robharness.store.spans import span_positions
from robharness.suite.clusters import ClusterPattern
from robharness.text import is_valid, json_text, printable

FORMAT = "robharness baseline"
SCHEMA, LARGEST_SCHEMA = 1, 1000
"""The schema of a file, and a number above that of every version."""
LARGEST_FILE = 2**25
"""Size, in bytes, of the largest file that is read; one of 2,000 cells with 50,000 examples each has 18 MB."""
MOST_OUTCOMES = 2**28
"""The largest number of outcomes of all cells together."""
DIGEST_LENGTH = 16

_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A cell in a file. Fields without a line here are those of `MeasuredCell`.

    run_of: the label that runs with other seeds share with this one.
    correct: the number of examples that count as right.
    outcomes: a bit per example, the first one highest in its byte, compressed by zlib, in base85.
    digest: of the cell and of the fields of the file on which its meaning depends.
    protocol: the conditions; files keep their first name for them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str
    kind: Kind
    title: str
    norm: str | None = None
    eps: str | None = None
    severity: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    group: str | None = None
    run_of: str | None = None
    key: _Hash
    n: Annotated[int, Field(gt=0, lt=2**31)]
    correct: Annotated[int, Field(ge=0, lt=2**31)]
    outcomes: str
    digest: str
    data: str
    protocol: _Hash


@dataclass(frozen=True, kw_only=True)
class _File:
    """The content of a file. Fields without a line here are those of `Side`.

    benchmarks: by name, sorted; None without any.
    cells: by label and perturbation, sorted.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: Literal["robharness baseline"]
    schema: int
    suite: str
    title: str = ""
    n: Annotated[int, Field(gt=0, lt=2**31)]
    order: _Hash
    clusters: ClusterPattern | None = None
    benchmarks: dict[str, RecordedRatio] | None = None
    cells: Annotated[dict[str, _Cell], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class BaselineUpdate:
    """A baseline that was to be written.

    path: of the file, as it was given.
    refused: why it was not written; empty if it was.
    is_written: whether the file has other bytes than before.
    added, removed, changed: the names of cells; changed ones have other outcomes, or another key or conditions.
    benchmarks: the names of ratios of benchmarks that were added, removed or changed.
    """

    path: str
    refused: str = ""
    is_written: bool = False
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()


def read_baseline(path: Path, suite: str = "", update: str = "", elsewhere: str = "") -> Side:
    """Read a baseline.

    suite: the name of the suite that it must be of; any suite if empty.
    update: the command that writes the file, for messages.
    elsewhere: the command that takes another file, for messages on one that is not to be replaced.
    Raises BaselineError, with the reason and the next command, if there is no file, or none of this suite that is as
    `write_baseline` wrote it.
    """
    content = _content(path, update)
    if content is None:
        raise AbsentBaseline(f"there is no baseline {printable(path)}. Try: {update or 'robharness check --help'}")
    return _side(str(path), *_checked(path, content, suite, update, elsewhere))


def write_baseline(path: Path, side: Side, *, title: str = "", update: str = "", elsewhere: str = "") -> BaselineUpdate:
    """Write a side into a file, unless it has these outcomes already.

    side: with complete cells and a known order. Without benchmarks, those of the file stay.
    title: of the suite.
    update, elsewhere: see `read_baseline`.
    Raises BaselineError for a file that is no baseline, one of another suite or a newer schema, and one that cannot be
    written. A baseline that is damaged is replaced.
    """
    before, old = _content(path, update), None
    if before is not None:
        try:
            old, _ = _checked(path, before, side.suite, update, elsewhere)
        except DamagedBaseline:
            old = None
    record = as_record(side, title=title, old=old)
    content = f"{json_text(record, 1)}\n".encode()
    was: Mapping[str, _Cell] = old.cells if old is not None else {}
    now = record["cells"]
    if content != before:
        try:
            FileSystem().write(Path(os.path.realpath(path)), content)
        except OSError as error:
            place = for_shell(nearest_existing(path.parent))
            raise BaselineError(
                f"the baseline {printable(path)} cannot be written: {error.strerror}. Try: ls -ld {place}"
            ) from None
    return BaselineUpdate(
        path=str(path),
        is_written=content != before,
        added=tuple(name for name in now if name not in was),
        removed=tuple(name for name in was if name not in now),
        changed=tuple(name for name in now if name in was and now[name]["digest"] != was[name].digest),
        benchmarks=_changed(ratio_records(_benchmarks(old)), record.get("benchmarks", {})),
    )


def _benchmarks(file: _File | None) -> dict[str, Ratio]:
    """Return the ratios of a file. Raises ValueError, with the name, for one outside its spread."""
    return ratios_of(file.benchmarks) if file is not None and file.benchmarks else {}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names whose values differ, or that one of the two has alone."""
    return tuple(name for name in dict.fromkeys([*now, *before]) if before.get(name) != now.get(name))


class AbsentBaseline(BaselineError):
    """A baseline that does not exist, and that an update writes."""


class DamagedBaseline(BaselineError):
    """A baseline that was edited, cut or not merged, and that an update may replace."""


def _content(path: Path, update: str) -> bytes | None:
    """Return the content of a file; None if there is no file. Raises BaselineError if it cannot be read."""
    try:
        return read_regular(path, LARGEST_FILE)
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        reason = "it is a link to nothing"
    except OSError as error:
        reason = str(error.strerror)
    raise BaselineError(
        f"the baseline {printable(path)} cannot be read: {reason}. Try: ls -ld {for_shell(nearest_existing(path))}"
    )


def _checked(
    path: Path, content: bytes, suite: str, update: str, elsewhere: str
) -> tuple[_File, dict[str, np.ndarray]]:
    """Return the content of a file, and the outcomes of each cell, (n,) bool. Raises BaselineError; see above."""
    cannot = f"the baseline {printable(path)} cannot be read"
    if content.splitlines()[:2] != [b"{", f' "format": "{FORMAT}",'.encode()]:
        raise BaselineError(f"{cannot}: it is no baseline of robharness. Try: {elsewhere or 'robharness check --help'}")
    try:
        file, right = _parse(content)
    except _NewerSchema as error:
        raise BaselineError(f"{cannot}: {error}. Try: pip install --upgrade robharness") from None
    except ValueError as error:
        anew = f"To write it anew: {update}" if update else f"Try: git log {for_shell(path)}"
        raise DamagedBaseline(f"{cannot}: {error}. {anew}") from None
    if suite and file.suite != suite:
        raise BaselineError(
            f"the baseline {printable(path)} is of the suite '{printable(file.suite)}', not of '{printable(suite)}'. "
            f"Try: {elsewhere or 'robharness check --help'}"
        )
    return file, right


def as_record(side: Side, *, title: str = "", old: _File | None = None) -> dict[str, Any]:
    """Return the content of the file of a side as plain data.

    old: the present content of the file; equal outcomes stay compressed as they are in it.
    """
    header = {"format": FORMAT, "schema": SCHEMA, "suite": side.suite, "title": title, "n": side.n,
              "order": side.order, "clusters": side.clusters}  # fmt: skip
    header = {name: value for name, value in header.items() if value is not None and value != ""}
    ratios = ratio_records(_benchmarks(old) if side.benchmarks is None else side.benchmarks)
    cells = {}
    for cell in sorted(side.cells, key=lambda each: each.name):
        kept = old.cells.get(cell.name) if old is not None else None
        cells[cell.name] = _record(cell, side, header, kept)
    return {**header, **({"benchmarks": ratios} if ratios else {}), "cells": cells}


def _record(cell: MeasuredCell, side: Side, header: Mapping[str, Any], kept: _Cell | None) -> dict[str, Any]:
    """Return a cell as plain data, without fields that it has not. The last lines are those that change least."""
    if not cell.is_complete or cell.n != side.n:
        raise ValueError(f"{cell.name} has outcomes of {cell.n} examples, not of {side.n}")
    bits = np.packbits(cell.right).tobytes()
    fields = {
        "model": cell.model,
        "kind": cell.kind,
        "title": cell.title,
        "norm": cell.norm,
        "eps": cell.eps,
        "severity": cell.severity,
        "group": cell.group,
        "run_of": side.run_of.get(cell.model),
        "key": cell.key,
        "n": cell.n,
        "correct": int(np.count_nonzero(cell.right)),
        "outcomes": _encoded(bits, kept),
        "digest": "",
        "data": cell.data,
        "protocol": cell.conditions,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    return fields | {"digest": _digest(header, cell.name, fields, bits)}


def _encoded(bits: bytes, kept: _Cell | None) -> str:
    """Return the text of the outcomes; that of the file if it has the same bits, which another zlib may compress
    otherwise."""
    if kept is not None and 8 * len(bits) - 8 < kept.n <= 8 * len(bits) and _decoded(kept.outcomes, kept.n) == bits:
        return kept.outcomes
    return base64.b85encode(zlib.compress(bits, 9)).decode()


def _decoded(text: str, n: int) -> bytes:
    """Return the bits of n outcomes. Raises ValueError for anything else, and never takes more memory than these."""
    size = -(-n // 8)
    try:
        compressed = base64.b85decode(text)
        decompressor = zlib.decompressobj()
        bits = decompressor.decompress(compressed, size + 1)
    except (ValueError, zlib.error):
        raise ValueError("its outcomes are damaged") from None
    if len(bits) != size or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"its outcomes are not those of {n} examples")
    if n % 8 and bits[-1] & (0xFF >> n % 8):
        raise ValueError(f"its outcomes are those of more than {n} examples")
    return bits


def _digest(header: Mapping[str, Any], name: str, fields: Mapping[str, Any], bits: bytes) -> str:
    """Return the digest of a cell's fields, its decoded outcomes, and the suite, the order and the clusters."""
    common = [header.get(key) for key in ("suite", "order", "clusters")]
    others = {key: value for key, value in fields.items() if key not in ("outcomes", "digest")}
    return text_key(json.dumps([common, name, others, bits.hex()], sort_keys=True))[:DIGEST_LENGTH]


class _NewerSchema(ValueError):
    """A file that a later version wrote."""


def _parse(content: bytes) -> tuple[_File, dict[str, np.ndarray]]:
    """Return the content of a file, and the outcomes of each cell, (n,) bool.

    Raises ValueError, with the reason, for anything else than a file as it was written.
    """
    if _has_conflict(content):
        raise ValueError("it has conflict markers of git; a merge was not resolved")
    record = json_object(content)
    schema = record.get("schema")
    if type(schema) is not int or not 0 < schema < LARGEST_SCHEMA:
        raise ValueError("it has no schema")
    if schema > SCHEMA:
        raise _NewerSchema(f"it has schema {schema}, and this version of robharness reads schema {SCHEMA}")
    if not is_valid(json.dumps(record, ensure_ascii=False)):
        raise ValueError("one of its texts is not valid")
    try:
        file = _adapter().validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ": ".join(map(printable, (".".join(map(str, first["loc"])), first["msg"])))
        raise ValueError(place) from None
    if sum(cell.n for cell in file.cells.values()) > MOST_OUTCOMES:
        raise ValueError(f"it has more than {MOST_OUTCOMES} outcomes")
    _benchmarks(file)
    right = {name: _outcomes(file, record, name) for name in file.cells}
    runs = [(cell.model, cell.run_of) for cell in file.cells.values()]
    if len(set(runs)) > len({model for model, _ in runs}):
        raise ValueError("the cells of one model are runs of several")
    return file, right


def _outcomes(file: _File, record: Mapping[str, Any], name: str) -> np.ndarray:
    """Return the outcomes of a cell, (n,) bool. Raises ValueError, with the reason, if the cell was changed."""
    cell = file.cells[name]
    try:
        if not name.startswith(f"{cell.model} · ") or name == f"{cell.model} · ":
            raise ValueError("its name does not begin with its model")
        bits = _decoded(cell.outcomes, cell.n)
        if _digest(record, name, record["cells"][name], bits) != cell.digest:
            raise ValueError("its digest is not that of its fields; it was edited")
        right = np.unpackbits(np.frombuffer(bits, np.uint8), count=cell.n).astype(bool)
        if cell.n != file.n or np.count_nonzero(right) != cell.correct:
            raise ValueError("its numbers of examples contradict each other")
    except ValueError as error:
        raise ValueError(f"{printable(name)}: {error}") from None
    return right


def _has_conflict(content: bytes) -> bool:
    return any(line.startswith((b"<<<<<<< ", b">>>>>>> ")) for line in content.splitlines())


@cache
def _adapter() -> TypeAdapter[_File]:
    return TypeAdapter(_File)


def _side(name: str, file: _File, right: Mapping[str, np.ndarray]) -> Side:
    return Side(
        name=name,
        suite=file.suite,
        cells=tuple(_measured(name, cell, right[name]) for name, cell in file.cells.items()),
        order=file.order,
        n=file.n,
        run_of={cell.model: cell.run_of for cell in file.cells.values() if cell.run_of is not None},
        clusters=file.clusters,
        benchmarks=_benchmarks(file),
    )


def _measured(name: str, cell: _Cell, right: np.ndarray) -> MeasuredCell:
    return MeasuredCell(
        model=cell.model,
        data=cell.data,
        perturbation=name.removeprefix(f"{cell.model} · "),
        title=cell.title,
        kind=cell.kind,
        norm=cell.norm,
        unit=NORMS[cell.norm].unit if cell.norm in NORMS else "",
        eps=cell.eps,
        severity=cell.severity,
        group=cell.group,
        key=cell.key,
        conditions=cell.protocol,
        n_expected=cell.n,
        positions=span_positions(0, cell.n),
        right=right,
    )
