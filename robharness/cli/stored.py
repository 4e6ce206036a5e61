"""Suites of which a store has records: their list, and the choice of one by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness.cli.list import show_rows
from robharness.cli.output import echo, echo_json
from robharness.errors import ExitCode, UserError, for_shell
from robharness.locations import Location, store_location
from robharness.planning.commands import DEFAULT_STORE

if TYPE_CHECKING:
    from robharness.store.suites import StoredSuite
    from robharness.suite.settings import Setting


def find_stored(
    suite: str, store: Location, data_root: Path | None, settings: tuple[Setting, ...] = ()
) -> StoredSuite | None:
    """Return the stored suite that an argument names, and say which; None for the path of a file.

    Raises UserError for a folder of data, which nothing is read from, and for settings, which change a file alone.
    """
    from robharness.store import Store
    from robharness.store.suites import named_suite, stored_suites

    store_location(store)
    folder = Store(store)
    found = named_suite(suite, folder)
    if found is None or found.file is None:
        return None
    useless = "--data-root" if data_root is not None else "--set" if settings else ""
    if useless:
        raise UserError(
            f"'{suite}' is shown from the store alone, so that {useless} has no use. "
            f"Try: {found.outline.command('report')}"
        )
    others = [each for each in stored_suites(folder) if each.name == found.name and each.digest != found.digest]
    more = f"; other versions: {', '.join(map(_described, others))}" if others else ""
    echo(f"from the store alone: {_described(found)}{more}", err=True)
    return found


def note_of_stored(suite: str, store: Location) -> str:
    """Return how to show a suite from the store alone if its file cannot be; empty if the store has no record of it.

    suite: the path of its file, whose name is compared with that of the file that was run, and with suites' names.
    """
    from robharness.store import Store
    from robharness.store.suites import stored_suites

    path = Path(suite)
    try:
        every = stored_suites(Store(store))
    except UserError:  # the error that this note belongs to is the one to show
        return ""
    found = next((each for each in every if each.file and (path.name == Path(each.file.run.path).name
                                                           or path.stem == each.name)), None)  # fmt: skip
    if found is None:
        return ""
    named = f"robharness report {for_shell(found.name)}"
    shown = named if store == DEFAULT_STORE else f"{named} --store {for_shell(str(store))}"
    return f"a report of what is stored needs no data, weights or plugins. Try: {shown}"


def _described(suite: StoredSuite) -> str:
    if suite.file is None:
        return f"{suite.address} (cannot be read)"
    return f"{suite.address} (n = {suite.file.run.n}, {_when(suite)})"


def _when(suite: StoredSuite) -> str:
    return suite.file.moment.strftime("%Y-%m-%d %H:%M:%S") if suite.file else ""


def list_suites(store: Location, *, as_json: bool) -> int:
    """Print the suites of which a store has records, the one that was run last first, and return the exit code."""
    from robharness.store import Store
    from robharness.store.suites import no_suites, stored_suites

    store_location(store)
    suites = stored_suites(Store(store))
    rows = [_facts(suite) for suite in suites]
    if as_json:
        echo_json(rows)
    elif rows:
        names = set[str]()
        for row in rows:
            is_latest = row["name"] not in names and not row["problem"]
            names |= {row["name"]} if is_latest else set()
            row["name"] = row["name"] if is_latest else f"{row['name']}@{row['digest']}"
            row["models"] = ", ".join(row["models"])
            row["cells"] = "" if row["problem"] else f"{row['complete']} of {row['cells']}"
            row["last run"] = row["when"].partition("+")[0].replace("T", " ")
        hidden = ("digest", "complete", "when")
        show_rows([{key: each for key, each in row.items() if key not in hidden} for row in rows], "suites")
    else:
        echo(no_suites(Store(store)), err=True)
    return ExitCode.INCOMPLETE if any(suite.problem for suite in suites) else ExitCode.FINE


def _facts(suite: StoredSuite) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": suite.name, "digest": suite.digest, "title": "", "data": "", "models": [],
                             "cells": 0, "complete": 0, "n": None, "when": "", "problem": suite.problem}  # fmt: skip
    if suite.file is None:
        return facts
    content = suite.file.suite
    return facts | {
        "title": content.title,
        "data": content.data.name,
        "models": [model.label for model in content.models],
        "cells": suite.cells,
        "complete": suite.complete_cells,
        "n": suite.file.run.n,
        "when": suite.file.time,
    }
