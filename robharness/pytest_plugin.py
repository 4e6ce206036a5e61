"""Fixtures for pytest: suites that run within tests, and checks against a baseline.

pytest imports this module at its start, so nothing of robharness is imported before a fixture is used.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from robharness.gate.records import CheckReport
    from robharness.locations import Location
    from robharness.report.results import Results
    from robharness.session import SuiteSource

OPTION, INI = "--robharness-store", "robharness_store"
MOST_LINES = 20
"""Most findings of one severity that a failed test shows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("robharness", "robustness of models")
    words = "folder of the results that tests compute; by default a folder of pytest's cache"
    group.addoption(OPTION, metavar="DIR", type=_absolute, help=words)
    parser.addini(INI, f"{words}; relative to the root of the tests", default=None)


@dataclass(repr=False)
class SuiteRunner:
    """The fixture `robharness_run`: computes what the store misses of a suite, and returns its results.

    store: the default folder of results.
    recent: results since the last test began.
    """

    store: Location
    recent: list[Results] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<robharness_run in {self.store}>"

    def __call__(
        self, suite: SuiteSource, *, store: str | Location | None = None, allow_incomplete: bool = False, **options: Any
    ) -> Results:
        """Run a suite and return its results.

        suite: a YAML file, or its content as a mapping.
        store: the folder of results, in place of the one that all tests share.
        allow_incomplete: whether cells without all their outcomes, or an invalid run, do not fail the test.
        options: of `robharness.run`, such as `limit` and `models`.
        """
        __tracebackhide__ = True
        from robharness.api import run
        from robharness.locations import store_location

        place = self.store if store is None else store_location(store)
        with _locked(place):
            results = run(suite, store=place, **options)
        report = results.report(details=False)
        if not (report.complete or allow_incomplete):
            pytest.fail(_described(results), pytrace=False)
        self.recent.append(results)
        return results


@dataclass(frozen=True, repr=False)
class SuiteChecker:
    """The fixture `robharness_check`: compares a suite with a baseline, and fails if anything regressed."""

    runner: SuiteRunner

    def __call__(
        self,
        suite: SuiteSource,
        baseline: str | Path | None = None,
        *,
        store: str | Location | None = None,
        **options: Any,
    ) -> CheckReport:
        """Compute what the store misses of a suite, and compare it with a baseline.

        suite: a YAML file, or its content as a mapping.
        baseline: a file, a folder of results or a label; by default the file beside the suite.
        store: the folder of results, in place of the one that all tests share.
        options: of `robharness.check`, such as `limit`, `models` and `benchmark`.
        """
        __tracebackhide__ = True
        from robharness.api import check
        from robharness.gate.outputs.tables import document_of_check
        from robharness.locations import store_location
        from robharness.report.renderers.terminal import render_document

        place = self.runner.store if store is None else store_location(store)
        with _locked(place):
            report = check(suite, baseline, store=place, **options)
        if report.exit_code:
            pytest.fail(render_document(document_of_check(report)), pytrace=False)
        return report


RUNNER: pytest.StashKey[SuiteRunner] = pytest.StashKey()


@pytest.fixture(scope="session")
def robharness_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SuiteRunner:
    """Run a suite within a test and return its results: robharness_run(suite, limit=..., models=..., store=...).

    Outcomes are stored, so running again resumes. The test fails if cells are incomplete.
    """
    return _runner(request.config, tmp_path_factory)


@pytest.fixture(scope="session")
def robharness_check(robharness_run: SuiteRunner) -> SuiteChecker:
    """Compare a suite with a baseline within a test: robharness_check(suite, baseline, limit=..., store=...).

    The test fails, with the table of the check, if a cell regressed, failed, is missing or cannot be compared.
    """
    return SuiteChecker(robharness_run)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the findings of the results that a failed test used to its report."""
    report = yield
    runner = item.config.stash.get(RUNNER, None)
    if runner is None:
        return report
    if report.failed:
        from robharness.report.results import Results

        used = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Results)]
        for results in {id(each): each for each in (*used, *runner.recent)}.values():
            report.sections.append((f"robharness: {results.outline.suite.name}", _described(results)))
    if call.when == "teardown":
        runner.recent.clear()
    return report


def _runner(config: pytest.Config, folders: pytest.TempPathFactory) -> SuiteRunner:
    if RUNNER not in config.stash:
        config.stash[RUNNER] = SuiteRunner(store=_store(config, folders))
    return config.stash[RUNNER]


def _absolute(given: str) -> str:
    return given if "://" in given else os.path.abspath(given)


def _store(config: pytest.Config, folders: pytest.TempPathFactory) -> Location:
    """Return the place of the results that all tests share, also those of other pytest-xdist workers."""
    from robharness.locations import location

    if given := config.getoption(OPTION):
        return location(given)
    if given := config.getini(INI):
        place = location(str(given))
        return config.rootpath / place if isinstance(place, Path) else place
    cache = getattr(config, "cache", None)  # None with -p no:cacheprovider
    if cache is not None:
        return Path(cache.mkdir("robharness"))
    base = folders.getbasetemp()
    return (base.parent if hasattr(config, "workerinput") else base) / "robharness"


@contextmanager
def _locked(store: Location) -> Iterator[None]:
    """Let one process at a time compute in a store: the others would only do the same work, on the same cores."""
    from robharness.locations import local_folder, store_location
    from robharness.store.files import FileSystem
    from robharness.store.folder import StoreFolder
    from robharness.store.lock import LockFile

    folder = local_folder(store_location(store))
    with StoreFolder(folder).translate_os_errors():
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = LockFile.acquire(folder.parent / f"{folder.name}.lock", FileSystem(), lambda holder: None)
    try:
        yield
    finally:
        lock.release()


def _described(results: Results) -> str:
    """Return the findings of results as text, with the command that shows all numbers."""
    from dataclasses import replace

    from robharness.report.document import document_of

    report = results.report(details=False)
    findings = tuple(each for each in report.findings if each.code != "details-left-out")
    document = document_of(replace(report, findings=findings))
    lines = [document.verdict, repr(results)]
    for heading, sentences, _ in document.sections:
        more = len(sentences) - MOST_LINES
        lines += [heading, *(f"  {each}" for each in sentences[:MOST_LINES])]
        lines += [f"  and {more} more"] if more > 0 else []
    if results.outline.run.has_command:
        lines.append(f"To see all numbers: {results.outline.command('report')}")
    return "\n".join(filter(None, lines))
