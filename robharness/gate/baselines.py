"""The baseline that a check compares with: a file, a store, or a model of the suite itself."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from robharness.comparison.baseline import AbsentBaseline, DamagedBaseline, read_baseline
from robharness.comparison.records import Side
from robharness.comparison.sides import side_of
from robharness.errors import BaselineError, UserError, as_path, did_you_mean, for_shell
from robharness.locations import Location, location, resolved, store_location
from robharness.planning.cells import Plan
from robharness.store.results import Results
from robharness.store.store import Store
from robharness.store.suites import find_suite
from robharness.text import printable

SUFFIX = ".baseline.json"
"""The end of the name of a baseline beside its suite."""


@dataclass(frozen=True, kw_only=True)
class CheckBaseline:
    """The baseline of a check.

    path: of the file, as it was given; None for a store and for a model.
    side: its outcomes; None for a file that is to be written, and for a model, whose outcomes are not computed yet.
    label: of the model that all others are compared with; empty for a file and for a store.
    update: the command that writes the file; empty for a store and for a model.
    """

    path: Path | None = None
    side: Side | None = None
    label: str = ""
    update: str = ""

    def sides(self, results: Results) -> tuple[Side, Side, list[tuple[str, str]] | None]:
        """Return the baseline, the present results, and the pairs of labels to compare, None for equal labels."""
        after = side_of(results, "the present results")
        if self.label:
            others = [(self.label, label) for label in after.labels if label != self.label]
            return side_of(results, self.label, [self.label]), after, others
        empty = Side(name=str(self.path), suite=after.suite, cells=(), order=after.order, n=after.n)
        return self.side or empty, after, None


def find_baseline(
    given: str | Path | None, plan: Plan, *, update: bool = False, benchmark: str | Path | None = None
) -> CheckBaseline:
    """Find the baseline of a check, and read a file or the record of a store, before anything is computed.

    given: the label of a model of the suite; or a folder of results; or the path of a file, which ends in .json if the
        file does not exist yet. None for the file beside the suite.
    update: whether the file is to be written, so that it may be absent or damaged.
    benchmark: the file of benchmarks that are compared as well; a file alone has some to compare with.
    Raises BaselineError, or UserError for an update of anything else than a file.
    """
    found = _find(given, plan, update)
    if benchmark is None:
        return found
    words = f"--benchmark {for_shell(benchmark)}"
    if found.path is None:
        raise UserError(
            f"'{printable(given)}' is no file, and a file alone has benchmarks. "
            f"Try: {plan.command('check', words)}, which compares with the file beside the suite"
        )
    return replace(found, update=f"{found.update} {words}")


def _find(given: str | Path | None, plan: Plan, update: bool) -> CheckBaseline:
    suite = plan.suite
    if given is None:
        if not suite.has_command:
            raise UserError(
                'a suite that is no file has no baseline beside it. Try: robharness.check(suite, "suite.baseline.json")'
            )
        return _file(suite.as_given(suite.path.with_name(suite.path.stem + SUFFIX)), plan, update)
    labels = [model.label for model in suite.models]
    path = location(as_path(given, "`baseline` is a path or a label", 'baseline="suite.baseline.json"'))
    if isinstance(given, str) and given in labels:
        if update:
            raise _no_update(f"'{printable(given)}' is a model of the suite", plan)
        if len(labels) == 1:
            raise UserError(
                f"'{printable(given)}' is the only model of the suite, so that there is none to compare with it. "
                f"Try: {plan.command('check')}"
            )
        return CheckBaseline(label=given)
    mode = _mode(path) if isinstance(path, Path) else stat.S_IFDIR
    if stat.S_ISDIR(mode):
        if update:
            raise _no_update(f"{printable(path)} is a folder", plan)
        return CheckBaseline(side=_stored(path, plan))
    assert isinstance(path, Path)
    if mode or path.suffix == ".json" or path.is_symlink():
        return _file(path, plan, update)
    near = did_you_mean(str(given), labels) or ", nor the label of a model."
    raise BaselineError(
        f"the baseline '{printable(given)}' is neither a file nor a folder{near} Labels: "
        f"{', '.join(map(printable, labels))}. Try: {plan.command('check')}"
    )


def _mode(path: Path) -> int:
    """Return `st_mode` of what is at a path; 0 if there is nothing, or nothing that can be looked at."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _file(path: Path, plan: Plan, update: bool) -> CheckBaseline:
    """Return the baseline in a file. For an update it is read if it can be; what may not be replaced is an error."""
    command = plan.command("check", "--baseline", for_shell(path), "--update")
    try:
        side = read_baseline(path, plan.suite.name, command, _elsewhere(path, plan))
    except (AbsentBaseline, DamagedBaseline):
        if not update:
            raise
        side = None
    return CheckBaseline(path=path, side=side, update=command)


def _elsewhere(path: Path, plan: Plan) -> str:
    """Return the command that leaves a file alone: with the one beside the suite, or if it is that, with a new one."""
    suite = plan.suite
    beside = suite.path.with_name(suite.path.stem + SUFFIX)
    if suite.has_command and os.path.realpath(path) != os.path.realpath(beside):
        return plan.command("check")
    return plan.command("check", "--baseline", for_shell(path.with_name(f"{path.stem}-2.json")), "--update")


def _stored(path: Location, plan: Plan) -> Side:
    """Return the outcomes of the suite of the same name that was run last on another store."""
    if resolved(path) == resolved(plan.store):
        raise UserError(
            f"{printable(path)} is the store of the present results, which would be compared with themselves. "
            f"Try: {plan.command('check', '--store', 'another-store')}"
        )
    store = Store(store_location(path))
    found = find_suite(store, plan.suite.name)
    if found is None:
        raise BaselineError(
            f"the store {printable(path)} has no record of a suite '{printable(plan.suite.name)}'. "
            f"Try: robharness report --store {for_shell(path)}"
        )
    side = side_of(found.results(plan.n), f"{found.address} in {path}")
    return replace(side, n=max((cell.n for cell in side.cells), default=0))


def _no_update(reason: str, plan: Plan) -> UserError:
    return UserError(
        f"{reason}, and an update writes a file. Try: {plan.command('check', '--update')}, which writes the file "
        f"beside the suite"
    )
