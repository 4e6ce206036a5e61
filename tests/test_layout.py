"""Rules that the repository keeps for itself."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


SKIPS = {
    "a call in a module": "import pytest\npytest.skip('why', allow_module_level=True)\n",
    "an import in a module": "import pytest\npytest.importorskip('no_such_module')\n",
    "a call in a function": "import pytest\ndef test_a():\n    pytest.skip('why')\ndef test_b():\n    pass\n",
    "an import in a function": (
        "import pytest\ndef test_a():\n    pytest.importorskip('no_such_module')\ndef test_b():\n    pass\n"
    ),
}
ALLOWED = {
    "nothing": "def test_a():\n    pass\n",
    "lack of a GPU": "import pytest\n@pytest.mark.gpu\n" + SKIPS["a call in a function"].partition("\n")[2],
}
RUNS = """
import json, sys
import pytest
codes = {name: int(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", name]))
         for name in sys.argv[1:]}
print(json.dumps(codes))
"""


def test_a_skip_fails_the_run_but_for_lack_of_a_gpu(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: x\n")
    for name, text in (SKIPS | ALLOWED).items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
        (folder / "test_it.py").write_text(text)
    command = [sys.executable, "-c", RUNS, *SKIPS, *ALLOWED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    codes = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, code in codes.items() if code == 0} == set(ALLOWED)
    assert done.stdout.count("skipped outside the gpu marker") == len(SKIPS)


def test_the_demos_run():
    for module, words in (("robharness.report", "↓50%"), ("robharness.cli.progress", "")):
        done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
