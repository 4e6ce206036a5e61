"""The facts of the table, and real sizes: numbers of parameters, lengths of the representation, light imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robharness_ssl import LayeredRepresentation, Layers, adversarial, branches, networks, robharness_models, table

README = Path(__file__).parents[1] / "README.md"
ALL = {spec.name: spec for spec in robharness_models()}
ADVERSARIAL = {entry.name: entry for entry in adversarial.ENCODERS}
"""Encoders for CIFAR-10."""
SPECS = {name: spec for name, spec in ALL.items() if name not in ADVERSARIAL}
ENTRIES = {entry.name: entry for entry in (*table.ENCODERS, *table.FINETUNED)}

NAMES = [
    "moco-v2-resnet50", "moco-v3-resnet50", "moco-v3-resnet50-linear", "moco-v3-vits16", "moco-v3-vits16-linear",
    "moco-v3-vitb16", "moco-v3-vitb16-linear", "simsiam-resnet50", "simsiam-resnet50-linear", "byol-resnet50",
    "byol-resnet50-linear", "barlowtwins-resnet50", "vicreg-resnet50", "deepcluster-v2-resnet50", "dino-resnet50",
    "dino-resnet50-linear", "dino-vits16", "dino-vits16-linear", "dino-vits8", "dino-vits8-linear", "dino-vitb16",
    "dino-vitb16-linear", "dino-vitb8", "dino-vitb8-linear", "dinov2-vits14", "dinov2-vits14-linear",
    "dinov2-vitb14", "dinov2-vitb14-linear", "dinov2-vitl14", "dinov2-vitl14-linear", "dinov2-vits14-reg",
    "dinov2-vits14-reg-linear", "dinov2-vitb14-reg", "dinov2-vitb14-reg-linear", "dinov2-vitl14-reg",
    "dinov2-vitl14-reg-linear", "ibot-vits16", "ibot-vitb16", "mae-vitb16", "mae-vitl16", "mae-vitb16-finetuned",
    "mae-vitl16-finetuned",
]  # fmt: skip
WIDTHS = {
    "moco-v2-resnet50": 2048, "moco-v3-vits16": 384, "dino-vits16": 4 * 384, "dino-vitb16": 2 * 768,
    "dinov2-vits14": 5 * 384, "dinov2-vitl14-reg": 5 * 1024, "ibot-vits16": 4 * 384, "ibot-vitb16": 2 * 768,
    "mae-vitl16": 1024,
}  # fmt: skip
"""Inputs of the publishers' linear classifiers."""


def test_the_models_are_those_of_the_readme_and_each_has_its_facts():
    assert list(SPECS) == NAMES
    assert list(ADVERSARIAL) == [f"{name}-resnet18" for name in ("rocl", "acl", "dynacl", "advcl", "deacl")]
    for name, spec in SPECS.items():
        is_classifier = name.endswith(("-linear", "-finetuned"))
        assert spec.labels == ("imagenet-1k" if is_classifier else "none")
        assert spec.features == ("1.encoder" if is_classifier else "")
        assert bool(spec.expected) == is_classifier
        assert spec.preprocessing.size == spec.input.shape[1:] == (224, 224)
        assert spec.preprocessing.resize == 256
        assert spec.licence and spec.paper.startswith("https://arxiv.org/abs/")


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_encoders_have_inputs_of_cifar_and_no_classes(name):
    spec = ALL[name]
    assert spec.input.shape == (3, 32, 32) and spec.preprocessing is None
    assert spec.labels == "none" and spec.features == "" and not spec.expected
    assert spec.licence and spec.paper.startswith("https://arxiv.org/abs/")
    assert spec.weights.sha256 is None and Path(spec.weights.path).stem == name
    assert "https://" in spec.weights.hint(Path(spec.weights.path))


def test_adversarial_encoders_have_the_size_of_a_resnet18_for_cifar():
    """11.17 million parameters: kuangliu's and torchvision's ResNet-18 with a 3 x 3 stem, without a classifier."""
    before = torch.get_rng_state()
    with torch.device("meta"):
        net = branches.ResNet18(padding=2, is_normalized=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(value.numel() for value in net.parameters()) == 11_168_832
    assert net(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 512)


def test_files_have_different_names_and_no_invented_digest():
    sources = {}
    for spec in SPECS.values():
        files = spec.weights.values() if isinstance(spec.weights, dict) else [spec.weights]
        for file in files:
            name = file.name or file.url.rpartition("/")[2]
            assert sources.setdefault(name, file.url) == file.url
            assert file.sha256 is None


def test_interpolation_is_bicubic_where_the_publishers_evaluation_is():
    bicubic = {name for name, spec in SPECS.items() if spec.preprocessing.interpolation == "bicubic"}
    assert bicubic == {name for name in SPECS if name.startswith(("dino", "ibot", "mae", "byol"))}
    assert {name for name, spec in SPECS.items() if not spec.preprocessing.antialias} == {
        "byol-resnet50", "byol-resnet50-linear"
    }  # fmt: skip


def test_published_deviations_heads_and_patches():
    assert {name for name, entry in ENTRIES.items() if entry.normalization == table.SWAV} == {"deepcluster-v2-resnet50"}
    vits = {name: (entry.network.patch, entry.network.depth, entry.network.heads)
            for name, entry in ENTRIES.items() if isinstance(entry.network, table.ViT)}  # fmt: skip
    assert vits["moco-v3-vits16"] == (16, 12, 12)  # 12 heads, where DINO's has 6
    assert vits["dino-vits16"] == (16, 12, 6)
    assert vits["dino-vitb8"] == (8, 12, 12)
    assert vits["dinov2-vitl14"] == (14, 24, 16)


def test_one_layer_of_dinov2_has_a_file_of_its_own():
    spec = SPECS["dinov2-vits14-reg-linear"]
    folder = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4"
    heads = [spec.given(Layers(layers=layers))["weights"]["head"].url for layers in (1, 4)]
    assert heads == [f"{folder}_linear_head.pth", f"{folder}_linear4_head.pth"]
    assert spec.weights["encoder"].url == f"{folder}_pretrain.pth"
    assert LayeredRepresentation().layers == 4 and LayeredRepresentation().representation == "linear"


@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_a_classifier_takes_the_publishers_number_of_features(name, width):
    assert networks.head(ENTRIES[name]).in_features == width


@pytest.mark.parametrize(
    ("name", "millions"), [("byol-resnet50", 23.5), ("dino-vits16", 21.7), ("dinov2-vits14-reg", 21.6)]
)
def test_networks_have_the_published_size_and_building_keeps_the_random_state(name, millions):
    """Numbers of parameters as in the publishers' tables; the position embedding of DINOv2 is that of 224 px."""
    before = torch.get_rng_state()
    net = networks.build(ENTRIES[name].network)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(value.numel() for value in net.parameters()) == pytest.approx(millions * 1e6, rel=0.005)


def test_listing_imports_neither_torch_nor_timm():
    script = """
import sys
import robharness_ssl
list(robharness_ssl.robharness_models())
heavy = {"torch", "torchvision", "timm", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_every_model_with_its_files_and_its_published_accuracy():
    rows = re.findall(r"^\| `ssl/(\S+)` \| (.*) \|$", README.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == [*ENTRIES, *ADVERSARIAL]
    for name, row in rows[len(ENTRIES) :]:
        assert re.findall(r"https://[^\s)]+", ALL[name].weights.hint(Path("x")))[0] in row
    for name, row in rows[: len(ENTRIES)]:
        entry = ENTRIES[name]
        files = [entry.file] if isinstance(entry, table.Finetuned) else [entry.encoder, entry.head]
        assert all(file is None or file.url in row for file in files)
        assert row.endswith(f"| {entry.top1}")
        if isinstance(entry, table.Encoder) and entry.linear:
            assert str(networks.head(entry).in_features) in row
