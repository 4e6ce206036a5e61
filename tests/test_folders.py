"""Working directory: plugins that change it, wherever they do, misplace no file."""

import json
import os
import subprocess
import sys

import pytest
import yaml

import robharness

MOVES = """
import os, tempfile
from pathlib import Path
from robharness import InputSpec, ModelSpec, Train, DataRef, hookimpl

def move():
    os.chdir(tempfile.mkdtemp(dir=os.environ["ELSEWHERE"]))

move()

def build(params, weights):
    import torch
    move()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((torch.arange(parameter.numel()) % 3 - 1).view_as(parameter) / 8)
    return net

def train(job):
    import torch
    from safetensors.torch import save_file
    move()
    save_file({"x": torch.zeros(1)}, job.folder / "weights.safetensors")

@hookimpl
def robharness_models():
    spec = {"summary": "Moves", "input": InputSpec(shape=(1, 8, 8)), "labels": "toys", "build": build}
    yield ModelSpec(name="one", **spec)
    yield ModelSpec(name="two", **spec)
    data = lambda params: {"train": DataRef(name="toys/pixels", split="test")}
    yield ModelSpec(name="trained", weights=Train(data=data, train=train), **spec)

@hookimpl
def robharness_figures(results, folder):
    move()
    (folder / "figure.svg").write_text("<svg/>")
    return [folder / "figure.svg"]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with a suite and a plugin that changes the working directory; another is $ELSEWHERE."""
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(folder)
    (folder / "moves.py").write_text(MOVES)
    suite = {"robharness": 1, "name": "s", "data": {"name": "toys/pixels", "split": "test"},
             "models": [{"model": f"moves/{name}"} for name in ("trained", "one", "two")],
             "attacks": [{"attack": "toys/climb", "eps": ["1/8"]}]}  # fmt: skip
    (folder / "s.yaml").write_text(yaml.safe_dump(suite))
    return folder


@pytest.fixture
def moving(here, toys, run_process):
    """Run `robharness WORDS` in the working directory, with relative paths of the plugin."""

    def run(*words, plugins=True):
        options = ["-p", "./moves.py", "-p", toys] if plugins else []
        done = run_process(*words, *options, cwd=here, environment={"PYTHONPATH": _python_path()})
        assert not list(here.parent.glob("elsewhere/*/*")), "a file was written into another folder"
        return done

    return run


def _python_path():
    return os.pathsep.join([os.path.dirname(os.path.dirname(robharness.__file__)), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("options", [pytest.param([], marks=pytest.mark.slow), ["--workers", "2"]])
def test_no_file_is_misplaced(here, moving, options):
    done = moving("run", "s.yaml", "--store", "st", *options)
    assert done.returncode == 0, done.stderr
    assert "its training begins in st/artefacts/" in done.stderr
    assert "results in st\n" in done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["moves.py", "s.yaml", "st"]
    assert len(list(here.glob("st/cells/*/*/*.parquet"))) == 6
    again = moving("run", "s.yaml", "--store", "st", *options)
    assert "nothing to compute" in again.stderr
    assert again.stdout == done.stdout


def test_other_verbs(here, moving):
    assert moving("run", "s.yaml").returncode == 0
    assert "wrote out/r.json" in moving("report", "s.yaml", "-o", "out/r.json", "--figures", "out").stderr
    assert json.loads((here / "out" / "r.json").read_text())["complete"] is True
    assert (here / "out" / "figure.svg").exists()
    exported = moving("export-adversarial", "s.yaml", "-o", "adversarial")
    assert "\nadversarial/moves_two/climb(linf, 1_8): 40 images; 0 of 40 stored" in exported.stdout
    assert len(list(here.glob("adversarial/*/*/*.npz"))) >= 3
    assert "6 done, 0 partial" in moving("plan", "s.yaml").stdout
    assert moving("verify", "moves/one", "--data", "toys/pixels/test").returncode == 0
    assert "copied" in moving("merge", "into", ".robharness", plugins=False).stdout
    assert len(list(here.glob("into/cells/*/*/cell.json"))) == 6


def test_a_hinted_command_names_the_suite_from_the_folder_of_the_user(moving):
    assert "To train only: robharness train s.yaml" in moving("plan", "s.yaml").stdout


def test_from_python(here, toys):
    program = f"""
import robharness
plugins = ["./moves.py", {toys!r}]
assert robharness.run("s.yaml", store="st", data="data", plugins=plugins).is_complete
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": _python_path()})
    assert len(list(here.glob("st/cells/*/*/*.parquet"))) == 6
    assert not list(here.parent.glob("elsewhere/*/*"))
