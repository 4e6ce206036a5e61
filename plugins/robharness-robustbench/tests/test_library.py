"""RobustBench is imported without two modules that it needs; the substitutes are removed afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

from robharness import UserError
from robharness_robustbench import library
from robharness_robustbench.library import robustbench


def test_substitutes_are_removed_after_the_import():
    script = """
import sys, warnings
warnings.simplefilter("error")
import pyautoattack.state
before = set(sys.modules)
filters = list(warnings.filters)
from robharness_robustbench.library import robustbench
utils = robustbench("utils")
assert utils.__name__ == "robustbench.utils"
assert sys.modules["robustbench.eval"].AutoAttack is pyautoattack.AutoAttack
left = set(sys.modules) - before
assert not {name for name in left if name.partition(".")[0] in ("autoattack", "pkg_resources")}, left
assert warnings.filters == filters
assert robustbench("utils") is utils
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def test_installed_modules_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "pkg_resources.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with library._substitutes():
        assert "pkg_resources" not in sys.modules
        assert sys.modules["autoattack"].__name__ == "pyautoattack"
    assert "autoattack" not in sys.modules


def test_without_robustbench_the_error_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "robustbench", None)
    monkeypatch.delitem(sys.modules, "robustbench.utils", raising=False)
    with pytest.raises(UserError, match=r"^RobustBench cannot be imported: .*pip install robustbench==1\.1\.1$"):
        robustbench("utils")
