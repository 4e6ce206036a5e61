"""A ViT that was trained in a project of its own, in a package outside the tree: from its file to a report of heads."""

import json
import subprocess
import sys
import sysconfig
import venv

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robharness_samples import robharness_datasets

NETWORK = '''
"""A vision transformer for grey images of 8 x 8 pixels."""

import torch
from torch import nn


class ViT(nn.Module):
    def __init__(self, width=24, depth=2, heads=3):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, width))
        shape = {"dim_feedforward": 2 * width, "dropout": 0.1, "batch_first": True, "norm_first": True}
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(width, heads, **shape) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, images):
        tokens = self.patches(2 * images - 1).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], 1) + self.pos_embed
        return self.norm(self.blocks(tokens))[:, 0]
'''
PLUGIN = """
from robharness import File, InputSpec, ModelSpec, hookimpl


def build(params, weights):
    from own_vit.network import ViT
    from robharness import checkpoints

    net = ViT()
    checkpoints.load(net, weights, [checkpoints.Layout(name="our ViT")])
    return net


@hookimpl
def robharness_models():
    yield ModelSpec(
        name="vit", summary="Our ViT", input=InputSpec(shape=(1, 8, 8)), labels="none", features="", build=build,
        weights=File(path="vit.pth", get="train.py"),
    )
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "own-vit"
version = "0.3"
dependencies = ["robharness"]
[project.entry-points.robharness]
own = "own_vit.plugin"
[tool.setuptools]
packages = ["own_vit"]
"""
ENCODER = "{model: own/vit, weights: ./run/last.pth, inside: state_dict, strip: module.encoder.}"
SUITE = f"""
robharness: 1
name: own-encoder
data: {{name: samples/digits, split: test, limit: 60}}
models:
  - {{model: probe/linear, encoder: {ENCODER}, data: samples/digits, label: Linear, reference: true}}
  - {{model: probe/knn, encoder: {ENCODER}, data: samples/digits, label: kNN}}
  - {{model: probe/centroid, encoder: {ENCODER}, data: samples/digits, label: Means}}
  - model: probe/finetune
    encoder: {ENCODER}
    data: {{name: samples/digits, limit: 400}}
    optimizer: adamw
    lr: 0.002
    epochs: 1
    flip: 0
    label: Tuned
  - model: probe/adversarial
    encoder: {ENCODER}
    data: {{name: samples/digits, limit: 400}}
    epochs: 1
    steps: 1
    flip: 0
    label: Robust
attacks:
  - {{attack: attacks/fgsm, norm: linf, eps: 0.1}}
"""
HEADS = ("Linear", "kNN", "Means", "Tuned", "Robust")


def train(folder, network):
    """Train the ViT as an own project does, and save it as it does: wrapped, beside the optimiser's state."""
    digits = next(spec for spec in robharness_datasets() if spec.name == "digits").open(folder, "train")
    x = torch.from_numpy(np.stack([digits.read(index) for index in range(600)])).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor(digits.labels[:600])
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (as an own project does)
        net = torch.nn.ModuleDict({"encoder": network.ViT(), "head": torch.nn.Linear(24, 10)})
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
        for epoch in range(10):
            for rows in torch.from_numpy(np.random.default_rng(epoch).permutation(600)).split(50):
                loss = F.cross_entropy(net["head"](net["encoder"](x[rows])), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    (folder / "run").mkdir()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"epoch": 10, "optimizer": optimizer.state_dict(), "state_dict": state}, folder / "run/last.pth")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The folder of the user, with the package, the trained file and the suite."""
    folder = tmp_path_factory.mktemp("own")
    package = folder / "package/own_vit"
    package.mkdir(parents=True)
    for name, text in {"__init__": "", "network": NETWORK, "plugin": PLUGIN}.items():
        (package / f"{name}.py").write_text(text)
    (folder / "package/pyproject.toml").write_text(PROJECT)
    (folder / "suite.yaml").write_text(SUITE)
    namespace = type(sys)("own_network")
    exec(NETWORK, namespace.__dict__)
    train(folder, namespace)
    return folder


@pytest.fixture(scope="module")
def robharness(project):
    """The command line in a fresh environment with the package; all else comes from the running one."""
    venv.create(project / "venv", with_pip=False, symlinks=True)
    site = next((project / "venv").glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = project / "venv/bin/python"
    build = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", str(project / "package")]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *build], check=True)

    def run(*words):
        command = [str(python), "-m", "robharness", *words]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_from_a_file_to_a_report_of_five_heads(robharness, project):
    assert "own/vit" in robharness("list", "models", "own/*")
    printed = robharness("run", "suite.yaml")
    assert all(label in printed for label in HEADS) and "Incomplete" not in printed
    for file in ("report.json", "report.html"):
        robharness("report", "suite.yaml", "-o", file)
    assert all(label in (project / "report.html").read_text() for label in HEADS)
    report = json.loads((project / "report.json").read_text())
    cells = {(cell["model"], cell["kind"]): cell["accuracy"] for cell in report["cells"]}
    assert {model for model, _ in cells} == set(HEADS)
    assert min(cells[label, "clean"] for label in HEADS[:4]) > 0.6
    assert all(cells[label, "attack"] < cells[label, "clean"] for label in HEADS[:4])
    artefacts = [path for path in (project / ".robharness/artefacts").iterdir() if path.is_dir()]
    assert len([path for path in artefacts if (path / "features.npy").is_file()]) == 1  # one pass for three heads
    assert len([path for path in artefacts if (path / "weights.safetensors").is_file()]) == 5


def test_a_forgotten_strip_is_named_with_what_to_write(project, robharness):
    text = SUITE[: SUITE.index("  - {model: probe/knn")].replace(", strip: module.encoder.", "")
    (project / "forgotten.yaml").write_text(text)
    command = [project / "venv/bin/python", "-m", "robharness", "train", "forgotten.yaml"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "Try: set `inside: state_dict` and `strip: module.encoder.` beside `weights:`" in done.stdout + done.stderr
