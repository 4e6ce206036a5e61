"""Fixtures of the tests of suites."""

from pathlib import Path

import pytest

from robharness.errors import SuiteError
from robharness.suite import load
from toy_suites import REGISTRY


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load a suite from this text, in the file s.yaml of the working directory."""
    monkeypatch.chdir(tmp_path)

    def call(text):
        Path("s.yaml").write_text(text, encoding="utf-8")
        return load("s.yaml", REGISTRY)

    return call


@pytest.fixture
def errors(read):
    """Return the error lines for a suite with this text; its last line (the next command) is checked and left out."""

    def call(text):
        with pytest.raises(SuiteError) as caught:
            read(text)
        lines = str(caught.value).splitlines()
        assert lines[:-1] == caught.value.errors
        assert lines[-1] == "Correct the suite. Try: robharness plan s.yaml"
        return lines[:-1]

    return call
