"""The kills of `tests/chaos.py` on a network that was trained: at the level "replay", stored rows are bit-equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHAOS = Path(__file__).parents[1] / "chaos.py"


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_outcomes_of_an_undisturbed_run(mnist_suite, mnist, tmp_path, kills):
    path = tmp_path / "mnist.yaml"
    attacks = [
        {"attack": "attacks/fgsm", "norm": "linf", "eps": 0.1},
        {"attack": "attacks/pgd", "norm": "linf", "eps": 0.1, "steps": 2},
    ]
    path.write_text(yaml.safe_dump(mnist_suite(attacks=attacks)))
    words = [CHAOS, path, "--plugin", mnist, "--folder", tmp_path / "stores", "--limit", "60", "--rows", "8"]
    words += ["--kills", str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    print(done.stderr)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert len(result["hits"]) == 8
    assert min(result["hits"].values()) >= kills, done.stderr
    assert (done.returncode, result["found"]) == (0, {}), done.stderr
