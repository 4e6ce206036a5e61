"""Operands of a comparison: a store, a suite of which the store has a record, a suite's file, or a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from robharness.comparison.baseline import read_baseline
from robharness.comparison.labels import known_labels
from robharness.comparison.records import Side
from robharness.comparison.requests import Request
from robharness.comparison.sides import side_of
from robharness.errors import UserError, did_you_mean, exists, for_shell, nearest_existing, nearest_word
from robharness.findings import named_examples
from robharness.locations import Location, ObjectPath, location, resolved
from robharness.store.folder import StoreFolder
from robharness.store.results import Results
from robharness.store.suites import StoredSuite, find_suite, named_suite, no_suites, stored_suites
from robharness.text import printable

Given = Results | str | Location
"""An operand as it was given."""
OpenSuite = Callable[[Path], Results]
"""A function that loads the stored results of a suite's file."""


@dataclass(frozen=True, kw_only=True)
class Operand:
    """An operand that exists.

    load: the function that returns a value that is equal for operands of the same results, and the side; its argument
        is the name of the suite in a store.
    store: the path, if it is a store in which a suite must be chosen.
    suites: the names of the suites of the store that can be read.
    suite: the name of the suite, if it is known without loading.
    """

    load: Callable[[str], tuple[object, Side]]
    store: Location | None = None
    suites: tuple[str, ...] = ()
    suite: str = ""


def open_sides(
    given: Sequence[Given], request: Request, *, store: Location, limit: int | None, open_suite: OpenSuite
) -> tuple[Side, Side]:
    """Return the sides of a comparison; one object twice if there is one operand.

    given: one or two operands, the side before first.
    request: the same operands in words, and the other words of the comparison.
    store: the folder of results of operands that are names.
    limit: the number of examples, a prefix of the fixed order; None for all.
    Raises UserError if an operand does not exist, if it is not clear which suite is meant, or if both are the same.
    """
    found = [
        _operand(each, at, request, store=store, limit=limit, open_suite=open_suite) for at, each in enumerate(given)
    ]
    name = _suite(found, request)
    places, sides = zip(*(each.load(name) for each in found), strict=True)
    is_same = places[0] == places[-1]
    if is_same and request.models is None:
        raise _nothing_else(sides[0], request, is_repeated=len(found) > 1)
    return sides[0], sides[0] if is_same else sides[1]


def _nothing_else(side: Side, request: Request, *, is_repeated: bool) -> UserError:
    """Return the error for one side alone, or for the same results twice."""
    what = "both operands are the same results" if is_repeated else "one operand alone has no other side"
    labels = known_labels(side)
    if len(labels) < 2:
        return UserError(f"{what}, and {printable(side.name)} has one model. Try: {request.help}")
    again = request.again(operands=request.operands[:1], models=(labels[0], labels[1]))
    return UserError(f"{what}; two of its models can be compared. Try: {again}")


def _operand(
    given: Given, at: int, request: Request, *, store: Location, limit: int | None, open_suite: OpenSuite
) -> Operand:
    """Return an operand; `at` is its place among the operands of the request. Raises UserError if it does not exist."""
    if isinstance(given, Results):
        name = f"{given.outline.suite.name} in {given.outline.store}"
        load = lambda _: (_place(given), _limited(side_of(given, name), limit))  # noqa: E731
        return Operand(suite=given.outline.suite.name, load=load)
    path = location(given)
    if isinstance(path, ObjectPath):
        return _folder(path, limit)
    if path.is_dir() and _is_store(path):
        return _folder(path, limit)
    if path.suffix == ".json":
        if not exists(path):
            raise _absent(path, at, request)
        side = _limited(read_baseline(path), limit)
        return Operand(suite=side.suite, load=lambda _: (path.resolve(), side))
    folder = StoreFolder(store)
    if path.is_dir() and str(given).partition("@")[0] not in {each.name for each in stored_suites(folder)}:
        raise UserError(no_suites(StoreFolder(path)))
    try:
        stored = named_suite(given, folder)
    except UserError as error:
        raise (_absent(path, at, request) if _neighbour(path) else error) from None
    if stored is not None:
        return Operand(suite=stored.name, load=lambda _: _stored(stored, limit))
    if not exists(path) and (path.suffix not in (".yaml", ".yml") or _neighbour(path)):
        raise _absent(path, at, request)
    results = open_suite(path)
    name = f"{path} in {store}"
    return Operand(suite=results.outline.suite.name, load=lambda _: (_place(results), side_of(results, name)))


def _stored(stored: StoredSuite, limit: int | None) -> tuple[object, Side]:
    results = stored.results(limit)
    return _place(results), side_of(results, f"{stored.address} in {stored.store}")


def _place(results: Results) -> object:
    """Return a value that is equal for the same cells of one store."""
    return resolved(results.outline.store), tuple(result.cell.key for result in results.cells)


def _is_store(path: Path) -> bool:
    return any((path / name).is_dir() for name in ("cells", "suites"))


def _neighbour(path: Path) -> str | None:
    """Return the store, the baseline or the suite's file in the same folder whose name is nearest; None if none is."""
    try:
        found = [each for each in sorted(islice(path.parent.iterdir(), 300))
                 if each.suffix in (".json", ".yaml", ".yml") or (each.is_dir() and _is_store(each))]  # fmt: skip
    except (OSError, ValueError):
        return None
    nearest = nearest_word(path.stem, [each.stem for each in found])
    same = sorted((each for each in found if each.stem == nearest), key=lambda each: each.suffix != path.suffix)
    return same[0].name if same else None


def _absent(path: Path, at: int, request: Request) -> UserError:
    near = _neighbour(path)
    if near is not None:
        place = path.with_name(near)
        operands = list(request.operands)
        operands[at] = repr(str(place)) if request.is_call else str(place)
        again = request.again(operands=operands)
        return UserError(
            f"{path}: there is no such file, store or stored suite; did you mean '{printable(place)}'? Try: {again}"
        )
    nearest = nearest_existing(path)
    folder = nearest if nearest.is_dir() else nearest.parent
    return UserError(f"{path}: there is no such file, and no store. Try: ls {for_shell(folder)}")


def _folder(path: Location, limit: int | None) -> Operand:
    """Return a store as an operand. Raises UserError if it has no record of a suite."""
    folder = StoreFolder(path)
    suites = stored_suites(folder)
    if not suites:
        raise UserError(no_suites(folder))
    names = dict.fromkeys(each.name for each in suites if not each.problem)
    if not names:
        raise UserError(suites[0].problem)

    def load(name: str) -> tuple[object, Side]:
        stored = find_suite(folder, name)
        if stored is None:
            raise UserError(
                f"{path} has no suite '{printable(name)}'. Try: robharness report --store {for_shell(str(path))}"
            )
        return _stored(stored, limit)

    return Operand(store=path, suites=tuple(names), load=load)


def _suite(found: Sequence[Operand], request: Request) -> str:
    """Return the name of the suite that operands which are stores are read for; empty if none is one.

    Raises UserError if there is no such suite, or if there are several.
    """
    stores = [each for each in found if each.store is not None]
    if not stores:
        if request.suite:
            again = replace(request, suite=None).again()
            raise UserError(
                f"no operand is a store, in which '{printable(request.suite)}' could be chosen. Try: {again}"
            )
        return ""
    common = [name for name in stores[0].suites if all(name in each.suites for each in stores)]
    if request.suite:
        name = request.suite.partition("@")[0]
        for each in stores:
            if name not in each.suites:
                nearest = nearest_word(name, each.suites) or each.suites[0]
                hint = did_you_mean(name, each.suites) or f"; it has {named_examples(each.suites)}."
                raise UserError(
                    f"{each.store} has no suite '{printable(name)}'{hint} Try: {request.again(suite=nearest)}"
                )
        return request.suite
    others = {each.suite for each in found if each.suite}
    common = [name for name in common if name in others] or common if others else common
    if len(common) == 1:
        return common[0]
    if not common:
        listed = ", ".join(f"{each.store} has {named_examples(each.suites)}" for each in stores)
        raise UserError(
            f"no suite is in both stores: {listed}. Try: robharness report --store {for_shell(str(stores[-1].store))}"
        )
    raise UserError(f"several suites can be meant: {named_examples(common)}. Try: {request.again(suite=common[0])}")


def _limited(side: Side, limit: int | None) -> Side:
    """Return a side with the first examples of the fixed order alone."""
    if limit is None or limit >= side.n:
        return side
    cells = tuple(
        replace(cell, n_expected=min(limit, cell.n_expected), positions=cell.positions[cell.positions < limit],
                right=cell.right[cell.positions < limit])
        for cell in side.cells
    )  # fmt: skip
    return replace(side, cells=cells, ids=side.ids[:limit], n=limit)
