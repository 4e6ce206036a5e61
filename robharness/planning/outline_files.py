"""Files of outlines: JSON that names the suite and the digest of its content, and that is checked when it is read.

A file may come from another machine, so that nothing in it is trusted: each field has its type and its bounds, every
number of a model or a perturbation is of one that exists, and each model has one cell of clean examples.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robharness.locations import Location, absolute
from robharness.planning.commands import plan_options
from robharness.planning.files import json_object
from robharness.planning.identity import key_of
from robharness.planning.outline import Pixels, PlanOutline, RunOutline, SuiteOutline
from robharness.specs.budget import Budget
from robharness.text import printable, quoted_commands

SCHEMA, LARGEST_SCHEMA = 1, 1000
"""The schema of a file, and a number above that of every version."""
LARGEST_OUTLINE = 2**24
"""Size, in bytes, of the largest file of an outline; one of 2,000 cells has less than 1 MiB."""
DIGEST_LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class OutlineFile:
    """The content of a file.

    time: when the suite was run last, in ISO format with its time zone.
    """

    schema: int
    time: str
    suite: SuiteOutline
    run: RunOutline
    pixels: Pixels

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.time)

    def outline(self, store: Location) -> PlanOutline:
        """Return the outline of the plan.

        store: the folder of results that holds the file, as it was given.
        """
        options = plan_options(Path.cwd(), store=store, limit=self.run.limit)
        findings = tuple(
            replace(
                each,
                subject=quoted_commands(each.subject),
                message=quoted_commands(each.message),
                hint=quoted_commands(each.hint),
            )
            for each in self.run.findings
        )
        run = replace(self.run, findings=findings)
        return PlanOutline(suite=self.suite, run=run, options=options, store=absolute(store), stored_pixels=self.pixels)


def as_record(outline: PlanOutline, time: datetime) -> dict[str, Any]:
    """Return the content of the file of an outline as plain data."""
    parts = {"suite": _plain(outline.suite), "run": _plain(outline.run), "pixels": _plain(outline.pixels)}
    return {"schema": SCHEMA, "time": time.isoformat(timespec="seconds"), **parts}


def digest_of(record: Mapping[str, Any]) -> str:
    """Return the digest of a suite's content: of all that determines its cells, their labels and its tables."""
    return key_of(record["suite"])[:DIGEST_LENGTH]


def stem_of(record: Mapping[str, Any]) -> str:
    """Return the name of the file of a record without its suffix."""
    return f"{record['suite']['name']}-{digest_of(record)}"


def parse(content: bytes, stem: str) -> OutlineFile:
    """Return the content of a file.

    stem: the name of the file without its suffix.
    Raises ValueError, with the reason, for anything else than an outline of this name.
    """
    record = json_object(content)
    schema = record.get("schema")
    if type(schema) is not int or not 0 < schema < LARGEST_SCHEMA:
        raise ValueError("it has no schema")
    if schema > SCHEMA:
        raise ValueError(
            f"it has schema {schema}, and this version of robharness reads schema {SCHEMA}; a later version is needed"
        )
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("one of its texts is not valid") from None
    try:
        found = _adapter().validate_json(_with_publications(content, record), strict=True)
        _check(found)
        if stem_of(record) != stem:
            raise ValueError("its content is not that of its name")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{printable(place)}: {printable(first['msg'])}") from None
    return found


def _with_publications(content: bytes, record: Mapping[str, Any]) -> bytes:
    """Return the content with the published numbers as a list of sources; earlier versions wrote one source alone."""
    suite = record.get("suite")
    if not isinstance(suite, dict) or not isinstance(suite.get("expected"), dict):
        return content
    publication = {"source": suite.get("expected_source"), "numbers": suite["expected"]}
    return json.dumps({**record, "suite": {**suite, "expected": [publication]}}).encode()


@cache
def _adapter() -> TypeAdapter[OutlineFile]:
    return TypeAdapter(OutlineFile)


def _check(file: OutlineFile) -> None:
    """Raise ValueError, with the reason, for fields that contradict each other."""
    suite = file.suite
    try:
        has_zone = file.moment.tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone:
        raise ValueError("time: it is no time with a time zone")
    if file.run.n > suite.data.size:
        raise ValueError(f"run.n: the data have {suite.data.size} examples")
    labels = Counter(model.label for model in suite.models)
    if any(count > 1 for count in labels.values()):
        raise ValueError("models: two of them have one label")
    for number, perturbation in enumerate(suite.perturbations):
        is_corruption = perturbation.kind == "corruption"
        if is_corruption != (perturbation.severity is not None) or (is_corruption and perturbation.eps is not None):
            raise ValueError(f"perturbations.{number}: an attack has no severity, and a corruption has no eps")
    for entry in (*suite.cells, *suite.pending_cells):
        last = -1 if entry.perturbation is None else entry.perturbation
        if entry.model >= len(suite.models) or last >= len(suite.perturbations):
            raise ValueError("cells: one of them is of a model or a perturbation that does not exist")
    if not all(entry.key for entry in suite.cells) or any(entry.key for entry in suite.pending_cells):
        raise ValueError("cells: one of them has no key, or a cell that waits for a training has one")
    conditions = Counter((entry.model, entry.perturbation, entry.with_features) for entry in suite.cells)
    if any(count > 1 for count in conditions.values()):
        raise ValueError("cells: two of them are of one model and one perturbation")
    if lacking := {entry.model for entry in suite.cells} - {m for m, p, feat in conditions if p is None and not feat}:
        raise ValueError(f"cells: {printable(suite.models[min(lacking)].label)} has none of clean examples")


def _plain(value: Any) -> Any:
    """Return a record of the outline as plain data, without fields that are at their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        public = next(each for each in type(value).mro() if each.__name__[0] != "_")  # without what a plan adds
        values = {item.name: getattr(value, item.name) for item in fields(public) if not _is_default(value, item)}
        return {name: _plain(each) for name, each in values.items()}
    if isinstance(value, Budget):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(_plain, value))
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _is_default(record: Any, item: Field[Any]) -> bool:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return default is not MISSING and bool(getattr(record, item.name) == default)
