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

    def go(text):
        Path("s.yaml").write_text(text, encoding="utf-8")
        return load("s.yaml", REGISTRY)

    return go


@pytest.fixture
def errors(read):
    """The lines that are said of a suite with this text, its last line (what to type next) checked and left out."""

    def go(text):
        with pytest.raises(SuiteError) as caught:
            read(text)
        lines = str(caught.value).splitlines()
        assert lines[:-1] == caught.value.errors
        assert lines[-1] == "Mend the suite, then type: robharness plan s.yaml"
        return lines[:-1]

    return go
