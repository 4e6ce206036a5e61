"""Rules that the repository keeps for itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("how", ["pytest.skip('why')", "pytest.importorskip('no_such_module')"])
@pytest.mark.parametrize("where", ["module", "function"])
def test_a_skip_fails_the_run(tmp_path, how, where):
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    skip = how.replace("('why')", "('why', allow_module_level=True)") if where == "module" else "pass"
    body = how if where == "function" else "pass"
    (tmp_path / "test_it.py").write_text(f"import pytest\n{skip}\ndef test_a():\n    {body}\ndef test_b():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "skipped outside the gpu marker" in done.stdout


def test_a_skip_for_lack_of_a_gpu_is_allowed(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: x\n")
    text = "import pytest\n@pytest.mark.gpu\ndef test_a():\n    pytest.skip('none')\ndef test_b():\n    pass\n"
    (tmp_path / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, cwd=tmp_path, check=False).returncode == 0


def test_the_demos_run():
    for module in ("robharness.report", "robharness.cli.progress"):
        done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    assert "↓50%" in subprocess.run([sys.executable, "-m", "robharness.report"], capture_output=True, text=True).stdout
