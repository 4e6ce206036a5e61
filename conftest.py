"""For every test of the repository: one thread each, and nothing is skipped in silence."""

import gc

import pytest

from robharness import imports

imports.request_exact_products()  # as the command line does, before torch is imported

import torch  # noqa: E402

_SKIPPED = []


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Two threads a test on two busy cores wait for each other, and take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_finish(session):
    """Leave out what is imported when garbage is collected, which each model of a run does when it is closed."""
    gc.freeze()


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
