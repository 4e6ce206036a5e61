"""Resources that a plan misses, with the published files that provide them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robharness.errors import MissingResource, MissingResources, UserError
from robharness.findings import named_examples
from robharness.planning.cells import Plan
from robharness.planning.weights import locate
from robharness.specs.published import Archive, Conversion, Download, Page, Published


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A published file that is not on this machine.

    source: its record.
    place: where it is expected; for an archive, the data root.
    """

    source: Download | Archive
    place: Path


@dataclass(frozen=True, kw_only=True)
class Need:
    """A resource that is missing.

    what: the resource in words.
    source: the record of the published files, or the page where a person gets them; None if there is neither.
    place: where it is expected; for an archive, the data root.
    where: the same in words.
    hint: how a person gets it.
    licence: of the files; empty if it is not known.
    files: published files to download, those that are there left out; empty without a source, and for a page.
    since: time at which it was missing, in seconds since 1970.
    """

    what: str
    source: Published | Page | None
    place: Path | None
    where: str
    hint: str
    licence: str = ""
    files: tuple[RemoteFile, ...] = ()
    since: float = field(default_factory=time.time, compare=False)

    @property
    def can_be_fetched(self) -> bool:
        """Whether robharness gets it."""
        return isinstance(self.source, Published)

    @property
    def key(self) -> Any:
        """The key that equal needs share: their published files and their place, or else their text."""
        urls = tuple(file.source.url for file in self.files)
        return (self.place, urls) if urls else (self.what, self.hint)


def needs(planned: Plan) -> list[Need]:
    """Return what a plan misses, each published file once.

    Errors that name no resource, such as that of a damaged file, are not among them.
    """
    found: dict[Any, Need] = {}
    for error in resources(by_hint(planned.missing)):
        need = _need(error, planned.data_root)
        found.setdefault(need.key, need)
    return list(found.values())


def resources(errors: Iterable[Exception]) -> Iterator[MissingResource]:
    """Yield the missing resources among errors of a plan."""
    for error in errors:
        if isinstance(error, MissingResource):
            yield error
        elif isinstance(error, MissingResources):
            yield from error.errors


def by_hint(errors: Iterable[UserError]) -> list[UserError]:
    """Return errors of a plan in their order, each missing resource as an error of its own.

    Published resources that are got in the same way, such as by one archive, are one error that names all of them, and
    so is a file that several have. A resource that several models need is named once.
    """
    groups: dict[Any, dict[Any, UserError]] = {}
    for error in errors:
        for each in error.errors if isinstance(error, MissingResources) else [error]:
            if not isinstance(each, MissingResource):
                groups[each] = {each: each}
                continue
            is_published = each.source is not None and each.place is not None
            group = (each.hint, each.place if is_published else each.where)
            groups.setdefault(group, {}).setdefault((each.what, each.where), each)
    return [_joined(list(group.values())) for group in groups.values()]


def _joined(errors: Sequence[Any]) -> UserError:
    """Return one error as it is, and several missing resources of one hint as one."""
    first: UserError = errors[0]
    if len(errors) == 1:
        return first
    assert isinstance(first, MissingResource)
    *others, last = dict.fromkeys(each.description for each in errors)
    return MissingResource(
        f"{', '.join(others)} and {last}" if others else last,
        where=named_examples(list(dict.fromkeys(each.where for each in errors))),
        get=first.get,
        source=first.source,
        place=first.place,
        licence="; ".join(filter(None, dict.fromkeys(each.licence for each in errors))),
    )


def can_be_fetched(error: Exception) -> bool:
    """Return whether an error is that of a resource, or of several, of which robharness gets at least one."""
    return any(isinstance(each.source, Published) and each.place is not None for each in resources([error]))


def _need(error: MissingResource, root: Path) -> Need:
    source: Any = error.source if error.place is not None else None
    return Need(
        what=error.description,
        source=source,
        place=error.place,
        where=error.where,
        hint=error.hint,
        licence=error.licence,
        files=() if error.place is None else tuple(_files(source, error.place, root)),
    )


def _files(source: Any, place: Path, root: Path) -> Iterator[RemoteFile]:
    if isinstance(source, Download | Archive):
        yield RemoteFile(source=source, place=place)
    elif isinstance(source, Conversion):
        for each in source.sources.values():
            path = locate(each, root)
            if path is not None and not path.is_file():
                yield RemoteFile(source=each, place=path)
