"""A user without a home directory, and without a line in the password file, as in many containers."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

USER = ("setpriv", "--reuid=12345", "--clear-groups")
MAY_READ = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""The interpreter of the tests may lie in the home directory of root."""


@pytest.fixture
def homeless(tmp_path, suite, toys):
    """Run `robharness WORDS` with a suite of the toys, without $HOME; as an unknown user if the tests run as root."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    trained = {"model": "learner/net", "label": "Taught"}
    learner = os.path.join(os.path.dirname(__file__), "learner.py")
    (folder / "toys.yaml").write_text(yaml.safe_dump(suite()))
    (folder / "taught.yaml").write_text(yaml.safe_dump(
        suite(data={"name": "learner/shades", "split": "test"}, models=[trained], attacks=[])))  # fmt: skip
    is_root = os.geteuid() == 0 and shutil.which("setpriv") is not None
    prefix = (*USER, *MAY_READ) if is_root else ()
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "USER")}
    environment |= {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

    def run(*words, **variables):
        command = [*prefix, sys.executable, "-m", "robharness", *words, "-p", toys, "-p", learner]
        return subprocess.run(command, cwd=folder, env=environment | variables, capture_output=True, text=True,
                              timeout=240, check=False)  # fmt: skip

    return run


def works(homeless, words):
    done = homeless(*words)
    assert (done.returncode, "bug of ours" in done.stderr) == (0, False), (words, done.stderr)


def test_a_run_with_a_worker_and_a_training_work(homeless):
    works(homeless, ("run", "toys.yaml", "--workers", "1", "--store", "other"))
    works(homeless, ("train", "taught.yaml"))


@pytest.mark.slow
def test_the_other_verbs_work(homeless):
    for words in (
        ("list", "models"),
        ("plan", "toys.yaml"),
        ("run", "toys.yaml"),
        ("report", "toys.yaml"),
        ("verify", "toys/net"),
    ):
        works(homeless, words)


def test_a_tilde_is_one_sentence(homeless):
    """`~name` is unknown to every user, also where the tests do not run as root."""
    done = homeless("plan", "toys.yaml", ROBHARNESS_DATA="~nobody-of-this-name/data")
    assert done.returncode == 2
    assert done.stderr == (
        "robharness: ~nobody-of-this-name/data: the home directory is unknown. Try: an absolute path\n"
    )
