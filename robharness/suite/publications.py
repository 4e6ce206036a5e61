"""Reading of `expected`: the published numbers of one source, or of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robharness.errors import did_you_mean
from robharness.plugins import Entry
from robharness.suite import yaml
from robharness.suite.checks import Models, Perturbations
from robharness.suite.fields import FieldReader
from robharness.suite.records import Publication
from robharness.suite.unresolved import Unresolved
from robharness.text import is_printable, printable

Publications = Sequence[tuple[yaml.Path, Publication]]
"""Each source of published numbers with its path in the suite."""
_MAPPING = "a mapping of labels to mappings of cells to percentages, and of metrics to numbers"


def publications(
    reader: FieldReader,
    suite: dict[str, Any],
    models: Models,
    perturbations: Perturbations,
    metrics: list[Entry],
    unresolved: Unresolved,
) -> Publications:
    """Check the published numbers, a mapping for one source or a list of them, and return them by source.

    Numbers of models and cells that the suite lost by another file or a setting are left out.
    """
    raw = suite.get("expected")
    if raw is not None and not isinstance(raw, dict | list):
        reader.error(("expected",), f"'expected' is {_MAPPING}, or a list of such mappings")
    found = [_Known(reader, models, perturbations, metrics, unresolved).publication(*each) for each in _listed(raw)]
    if isinstance(raw, list):
        _check_sources(reader, raw)
    return [each for each in found if each is not None]


def _listed(raw: Any) -> Iterator[tuple[yaml.Path, Any]]:
    """Yield each mapping with its path."""
    if isinstance(raw, dict):
        yield ("expected",), raw
    elif isinstance(raw, list):
        for at, item in enumerate(raw):
            yield ("expected", at), item


def _check_sources(reader: FieldReader, items: list[Any]) -> None:
    """Check that each mapping of a list names its source, and no other's."""
    seen: dict[str, int] = {}
    for at, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        path, source = ("expected", at, "source"), item.get("source")
        if "source" not in item:
            reader.missing(path[:-1], "source", "each mapping of the list names where its numbers stand")
        elif not isinstance(source, str) or not source.strip() or not is_printable(source):
            reader.error(path, f"the name of a source is one line of text; got {printable(repr(source))}")
        elif source in seen:
            line = reader.line(("expected", seen[source], "source"), path)
            reader.error(path, f"the source '{printable(source)}' is already in {line}; join the two mappings")
        else:
            seen[source] = at


@dataclass(frozen=True)
class _Known:
    """The models, cells and metrics that published numbers can be of."""

    reader: FieldReader
    models: Models
    perturbations: Perturbations
    metrics: list[Entry]
    unresolved: Unresolved

    def publication(self, path: yaml.Path, raw: Any) -> tuple[yaml.Path, Publication] | None:
        """Return the numbers of one source, or None after adding an error."""
        reader = self.reader
        if not isinstance(raw, dict):
            reader.error(path, f"one of 'expected' is {_MAPPING}; got {printable(repr(raw))}")
            return None
        numbers = {label: raw[label] for label in raw if label != "source"}
        for label in [*self._lost_labels(path, numbers)]:
            del numbers[label]
        lost = {*self._lost_names(path, numbers)}
        right = {
            label: {name: each for name, each in inner.items() if (label, name) not in lost}
            if isinstance(inner, dict)
            else inner
            for label, inner in numbers.items()
            if not reader.has_error((*path, label))
        }
        wanted = reader.record(dict[str, dict[str, float]], right, path)
        return path, Publication(source=str(raw.get("source") or ""), numbers=wanted or {})

    def _lost_labels(self, path: yaml.Path, numbers: dict[str, Any]) -> Iterator[str]:
        """Yield the labels that the suite lost, after adding an error for each other one that no model has."""
        labels = {name: None for _, model in self.models for name in (model.label, model.run_of) if name is not None}
        for label, inner in numbers.items():
            if self.unresolved.has_label(label, labels):
                continue
            if self.reader.is_changed((*path, label)):
                yield label
                continue
            hint = did_you_mean(label, [*labels, *self.unresolved.labels, *(["source"] * isinstance(inner, str))])
            self.reader.error((*path, label), f"no model has the label '{printable(label)}'{hint}", at_key=True)

    def _lost_names(self, path: yaml.Path, numbers: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield labels with names that the suite lost, after adding an error for each other unknown name."""
        names = ["clean", *[perturbation.name for _, perturbation in self.perturbations]]
        cells, known = set(names), [*names, *[entry.name for entry in self.metrics]]
        for label, inner in numbers.items():
            for name in inner if isinstance(inner, dict) else ():
                if self.unresolved.has_number(name, cells, self.metrics):
                    continue
                if self.reader.is_changed((*path, label, name)):
                    yield label, name
                    continue
                sentence = f"no cell and no metric is called '{printable(name)}'{did_you_mean(name, known)}"
                self.reader.error((*path, label, name), sentence, at_key=True)
