"""For every test of the repository: nothing is skipped in silence."""

import pytest

_SKIPPED = []


def pytest_runtest_logreport(report):
    if report.skipped and "gpu" not in report.keywords:
        _SKIPPED.append(report.nodeid)


def pytest_collectreport(report):
    if report.skipped:
        _SKIPPED.append(report.nodeid)


def pytest_sessionfinish(session, exitstatus):
    if _SKIPPED and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if _SKIPPED:
        terminalreporter.section("skipped outside the gpu marker, which fails the run", red=True)
        for nodeid in _SKIPPED:
            terminalreporter.line(nodeid)
