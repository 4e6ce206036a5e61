"""The environments in which outcomes were computed, from their provenance."""

from __future__ import annotations

import json
from typing import Any

from robharness.report.details import Environment
from robharness.store.results import CellResult, Results

OF_EXAMPLES = ("unreadable",)
"""Keys of provenance that are about single examples."""


def environments(results: Results) -> tuple[Environment, ...]:
    """Return each distinct provenance of stored outcomes, with the keys of its cells, in their order."""
    facts: dict[str, dict[str, Any]] = {}
    cells: dict[str, dict[str, None]] = {}
    texts: dict[int, str] = {}  # by identity, since many cells share one record
    for result in results.every:
        for provenance in result.provenance:
            if id(provenance) not in texts:
                known = _known(provenance)
                text = texts[id(provenance)] = json.dumps(known, sort_keys=True, default=str)
                facts.setdefault(text, known)
            cells.setdefault(texts[id(provenance)], {})[result.cell.key] = None
    return tuple(Environment(facts=facts[text], cells=tuple(keys)) for text, keys in cells.items())


def environments_of(result: CellResult) -> tuple[dict[str, Any], ...]:
    """Return the provenances of one cell without what is about single examples."""
    return tuple(map(_known, result.provenance))


def _known(provenance: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in provenance.items() if name not in OF_EXAMPLES}
