"""The table of RobustBench's models, compared with a regenerated one: names, files, preprocessing, accuracies."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from robharness import Download, File, Preprocessing
from robharness_robustbench import generate, robharness_models, zoo

SPECS = {spec.name: spec for spec in robharness_models()}
TABLE = json.loads(zoo.TABLE.read_text())
NAMES = [(name, model) for name, models in TABLE.items() for model in models]

# Files of RobustBench's repository (model_info, commit 78fcc9e), reduced to the used keys, and their accuracies.
INFO = {
    ("cifar10-linf", "Standard"): (
        {
            "link": "https://github.com/RobustBench/robustbench/",
            "eps": "8/255",
            "clean_acc": "94.78",
            "autoattack_acc": "0.0",
        },
        {"clean": 0.9478, "autoattack(linf, 8/255)": 0.0},
    ),
    ("cifar10-linf", "Zhang2019Theoretically"): (
        {"link": "https://arxiv.org/abs/1901.08573", "eps": "0.031", "clean_acc": "84.92", "autoattack_acc": "53.08"},
        {"clean": 0.8492, "autoattack(linf, 0.031)": 0.5308},
    ),
    ("cifar10-l2", "Amini2024MeanSparse_S-WRN-70-16"): (
        {
            "link": "https://arxiv.org/abs/2406.05927",
            "eps": "0.5",
            "clean_acc": "95.51",
            "autoattack_acc": "87.28",
            "external": "84.33",
        },
        {"clean": 0.9551, "autoattack(l2, 0.5)": 0.8728, "best known attack(l2, 0.5)": 0.8433},
    ),
    ("imagenet-corruptions", "Standard_R50"): (
        {
            "link": "https://github.com/RobustBench/robustbench/",
            "eps": None,
            "clean_acc": "76.72",
            "corruptions_acc": "39.48",
            "corruptions_mce": "76.38",
            "corruptions_acc_3d": "47.12",
            "corruptions_mce_3d": "73.16",
        },
        {"clean": 0.7672, "corruptions": 0.3948, "mCE": 0.7638, "3d corruptions": 0.4712, "3d mCE": 0.7316},
    ),
}


def given(name, model):
    spec = SPECS[name]
    return dataclasses.replace(spec, **spec.given(spec.params(name=model)))


def test_seven_families():
    assert {name: (spec.labels, spec.input.shape[1]) for name, spec in SPECS.items()} == {
        "cifar10-linf": ("cifar-10", 32),
        "cifar10-l2": ("cifar-10", 32),
        "cifar10-corruptions": ("cifar-10", 32),
        "cifar100-linf": ("cifar-100", 32),
        "cifar100-corruptions": ("cifar-100", 32),
        "imagenet-linf": ("imagenet-1k", 224),
        "imagenet-corruptions": ("imagenet-1k", 224),
    }
    assert len(NAMES) == 206


def test_the_table_matches_the_installed_robustbench():
    for found in zoo.ZOOS:
        stored = {
            name: {key: value for key, value in row.items() if key not in ("expected", "paper")}
            for name, row in TABLE[found.name].items()
        }
        assert stored == generate.rows(found)


@pytest.mark.parametrize(("name", "model"), INFO)
def test_accuracies_are_those_of_robustbenchs_files(tmp_path, name, model):
    entry, expected = INFO[name, model]
    (found,) = (each for each in zoo.ZOOS if each.name == name)
    file = tmp_path / found.dataset / found.threat / f"{model}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(entry))
    assert generate.published(tmp_path, found, model) == {"expected": expected, "paper": entry["link"]}
    assert given(name, model).expected == expected
    assert given(name, model).paper == entry["link"]


def test_the_stored_table_is_as_the_script_writes_it():
    assert generate.text(TABLE) == zoo.TABLE.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_every_model_has_files_accuracies_and_a_paper(name):
    for model in TABLE[name]:
        spec = given(name, model)
        assert 0.4 < spec.expected["clean"] < 1
        assert all(0 <= value <= 1.1 for value in spec.expected.values())
        assert any("(" in key or "corruptions" in key for key in spec.expected)
        assert spec.paper.startswith("https://")
        assert spec.weights
        assert (spec.preprocessing is None) == name.startswith("cifar")


def test_files_lie_where_robustbench_looks_for_them():
    file = given("cifar10-linf", "Carmon2019Unlabeled").weights
    assert isinstance(file, File)
    assert file.path == "weights/robustbench/cifar10/Linf/Carmon2019Unlabeled.pt"
    assert "gdown 15tUx-gkZMYx7BfEOw1GY5OKC-jECIsPQ -O" in file.get
    ensemble = given("cifar10-linf", "Chen2020Adversarial").weights
    assert {part: file.path.rpartition("/")[2] for part, file in ensemble.items()} == {
        f"m{i}": f"Chen2020Adversarial.pt_m{i}.pt" for i in range(3)
    }


def test_the_command_fetches_into_the_data_root(tmp_path):
    """Run the command in a shell, with a fake `gdown` that writes its id into the file."""
    (tmp_path / "gdown").write_text('#!/bin/sh\nprintf "$1" > "$3"\n')
    (tmp_path / "gdown").chmod(0o755)
    file = given("cifar10-linf", "Standard").weights
    path = tmp_path / "my data" / file.path
    command = file.hint(path).removeprefix("To get it: ")
    subprocess.run(["sh", "-c", command], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert path.read_text() == "1t98aEuzeTL8P7Kpd5DIrCoCL21BNZUhC"


def test_weights_with_a_url_have_the_sha256_digits_of_their_file_name():
    torchvisions = Download(url="https://download.pytorch.org/models/resnet50-0676ba61.pth", sha256="0676ba61")
    assert given("imagenet-linf", "Standard_R50").weights == torchvisions
    xcit = given("cifar10-linf", "Debenedetti2022Light_XCiT-S12").weights
    assert xcit.url.endswith("/v1.1/debenedetti2022light-xcit-s-cifar10-linf.pth.tar")
    assert xcit.sha256 is None


_BICUBIC = {"crop": 224, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("name", "model", "preprocessing", "side"),
    [
        ("imagenet-linf", "Salman2020Do_R50", Preprocessing(resize=256, crop=224), 224),
        ("imagenet-linf", "Wong2020Fast", Preprocessing(crop=288), 288),
        ("imagenet-linf", "Mo2022When_ViT-B", Preprocessing(resize=(224, 224)), 224),
        ("imagenet-linf", "Liu2023Comprehensive_Swin-B", Preprocessing(resize=256, **_BICUBIC), 224),
        ("imagenet-linf", "Debenedetti2022Light_XCiT-S12", Preprocessing(resize=224, **_BICUBIC), 224),
        ("imagenet-corruptions", "Tian2022Deeper_DeiT-S", Preprocessing(resize=248, **_BICUBIC), 224),
        ("cifar100-linf", "Wang2023Better_WRN-28-10", None, 32),
    ],
)
def test_preprocessing_and_input_of_each_kind(name, model, preprocessing, side):
    spec = given(name, model)
    assert spec.preprocessing == preprocessing
    assert spec.input.shape == (3, side, side)


@pytest.mark.parametrize(
    ("name", "model", "hint"),
    [
        ("cifar10-linf", "Carmon2019Unlabelled", r"did you mean 'Carmon2019Unlabeled'"),
        ("cifar10-linf", "standard", r"did you mean 'Standard'"),
        ("cifar10-linf", "Salman2020Do_R50", r"it is in imagenet-linf$"),
        ("cifar100-corruptions", "xyz", r"it has Addepalli2021Towards_PARN18, "),
    ],
)
def test_unknown_names_are_refused_with_similar_names(name, model, hint):
    with pytest.raises(ValueError, match=f"no model '{model}' in {name}; {hint}"):
        SPECS[name].params(name=model)


def test_declaring_and_planning_import_nothing_heavy():
    script = """
import sys
from robharness_robustbench import robharness_models
for spec in robharness_models():
    if spec.name == "imagenet-linf":
        spec.given(spec.params(name="Salman2020Do_R50"))
heavy = {"torch", "torchvision", "numpy", "timm", "robustbench", "robharness_robustbench.networks"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
