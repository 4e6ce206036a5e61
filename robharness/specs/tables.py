"""Tables of the fields of records, as the page docs/reference/plugins.md shows them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from robharness.specs import audits, inputs, measures, protocols, published, records, sources

RECORDS = (
    records.ModelSpec,
    inputs.InputSpec,
    inputs.Preprocessing,
    inputs.Clips,
    sources.File,
    published.Download,
    published.Archive,
    published.Page,
    published.Conversion,
    sources.Train,
    sources.TrainingJob,
    sources.FeatureBank,
    sources.Progress,
    sources.DataRef,
    records.AttackSpec,
    records.ThreatModel,
    measures.Measure,
    records.Cost,
    audits.AuditSpec,
    audits.AuditTarget,
    records.CorruptionSpec,
    protocols.Perturbed,
    records.DatasetSpec,
    records.ComponentSpec,
    records.MetricSpec,
    records.MetricResult,
)
"""Public records, in the order of the page."""
WITH_IDENTITY = (
    records.ModelSpec,
    records.AttackSpec,
    records.CorruptionSpec,
    records.DatasetSpec,
    inputs.InputSpec,
    inputs.Preprocessing,
    inputs.Clips,
    sources.Train,
    sources.DataRef,
)
"""Records whose fields, unless they are runtime fields, are part of a cell's identity or of a training spec."""


def meanings(record: type) -> dict[str, str]:
    """Return the meaning of each field, from the lines `name: meaning` of the record's docstring."""
    found: dict[str, str] = {}
    names = "|".join(item.name for item in dataclasses.fields(record))
    name = None
    for line in (inspect.getdoc(record) or "").splitlines():
        start = re.match(rf"({names}): (.*)", line)
        if start:
            name, found[start[1]] = start[1], start[2]
        elif name and line.startswith("    "):
            found[name] += f" {line.strip()}"
        else:
            name = None
    return found


def table(record: Any) -> str:
    """Return the Markdown table of a record: field, type, default, identity and meaning."""
    has_identity, descriptions = record in WITH_IDENTITY, meanings(record)
    heads = ["field", "type", "default", *(["identity"] if has_identity else []), "meaning"]
    rows = [heads, ["---"] * len(heads)]
    for item in dataclasses.fields(record):
        identity = ["no" if item.metadata.get("runtime") else "yes"] if has_identity else []
        rows.append([f"`{item.name}`", f"`{item.type}`", _default(item), *identity, descriptions.get(item.name, "")])
    return "".join(f"| {' | '.join(cell.replace('|', _BAR) for cell in row)} |\n" for row in rows)


_BAR = "\\|"


def _default(item: Any) -> str:
    if item.default_factory is not dataclasses.MISSING:
        return f"`{item.default_factory()!r}`"
    if item.default is dataclasses.MISSING:
        return "required"
    if isinstance(item.default, frozenset):
        return f"`{{{', '.join(map(repr, sorted(item.default)))}}}`"
    return f"`{item.default!r}`"


def page() -> str:
    """Return all tables, each under the name of its record."""
    return "\n".join(f"### {record.__name__}\n\n{table(record)}" for record in RECORDS)
