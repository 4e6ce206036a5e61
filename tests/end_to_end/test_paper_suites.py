"""The paper's suites: their numbers are the paper's, and each runs on a miniature that is laid out as what users have.

Networks of full size on two cores are slow: what takes minutes is marked so, and what runs here always is a part of it.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import yaml

from robharness import discover
from robharness import suite as suites

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "suites"
TABLES = yaml.safe_load((ROOT / "tests/paper/tables.yaml").read_text())
MINIATURE = runpy.run_path(str(Path(__file__).parent / "miniature.py"))
OF_TABLE = {
    "imagenet_weak": "table1", "paper/table1": "table1", "ucf101_weak": "table2", "paper/table2": "table2",
    "paper/table6": "table6", "paper/table7": "table7",
}  # fmt: skip
PUBLISHED = {  # of Table 6: what the paper calls ImageNet-C's files
    "Impulse": "impulse_noise", "Shot": "shot_noise", "Gaussian": "gaussian_noise", "Brightness": "brightness",
    "Contrast": "contrast", "Pixelate": "pixelate", "Elastic": "elastic_transform", "JPEG": "jpeg_compression",
    "Defocus": "defocus_blur", "Motion": "motion_blur", "Glass": "glass_blur", "Zoom": "zoom_blur", "Fog": "fog",
    "Frost": "frost", "Snow": "snow",
}  # fmt: skip


@pytest.fixture(scope="module")
def registry():
    return discover()


def the_papers(table):
    """label -> [accuracies], in the table's order."""
    if table != "table6":
        return {label: row["acc"] for label, row in TABLES[table]["rows"].items()}
    rows = TABLES[table]["rows"].values()
    return {label: [row["acc"][place] for row in rows] for place, label in enumerate(TABLES[table]["columns"])}


def cells_of(column):
    """Return the beginning of the cell names for this column of a table, up to the first option."""
    if column["attack"] == "none":
        return "clean"
    return f"{column['attack'].lower()}({column['norm']}, {column['eps']}"


@pytest.mark.parametrize(("name", "table"), OF_TABLE.items())
def test_expected_numbers_are_the_papers(registry, name, table):
    loaded = suites.load(SUITES / f"{name}.yaml", registry)
    (published,) = loaded.expected
    assert {label: list(cells.values()) for label, cells in published.numbers.items()} == the_papers(table)
    for cells in published.numbers.values():
        if table == "table6":
            named = [f"imagenet-c/{PUBLISHED[row]}(1)" if row != "clean" else row for row in TABLES[table]["rows"]]
            assert list(cells) == named
            continue
        for cell, column in zip(cells, TABLES[table]["columns"], strict=True):
            assert cell.startswith(cells_of(column))
            if "steps" in column:
                assert f"steps={column['steps']}, rel_step=2.5/{column['steps']}, keep=last" in cell
    names = {"clean", *[perturbation.name for perturbation in loaded.perturbations]}
    assert all(set(cells) == names for cells in published.numbers.values())


def test_groups_are_the_papers(registry):
    loaded = suites.load(SUITES / "paper/table6.yaml", registry)
    groups = {p.entry.spec.name.rpartition("/")[2]: p.entry.spec.group for p in loaded.perturbations}
    rows = {PUBLISHED[name]: row["group"].lower() for name, row in TABLES["table6"]["rows"].items() if row["group"]}
    assert groups == rows


@pytest.mark.parametrize("name", ["imagenet_c", "imagenet_c_full", "cifar10_c", "ucf101_corruptions"])
def test_suites_of_corruptions_have_all_fifteen_at_all_severities(registry, name):
    loaded = suites.load(SUITES / f"{name}.yaml", registry)
    document = {(p.entry.spec.name.rpartition("/")[2], p.severity) for p in loaded.perturbations}
    assert document == {(kind, severity) for kind in suites.BASELINES["alexnet"].errors for severity in range(1, 6)}
    assert len(loaded.perturbations) == 75
    baselines = {"cifar10_c": "Standard", "ucf101_corruptions": None}
    assert loaded.baseline == baselines.get(name, suites.BASELINES["alexnet"])
    assert (loaded.compat == "imagenet-c") is (name == "imagenet_c_full")
    assert all(p.is_stored for p in loaded.perturbations) is (name in ("imagenet_c", "cifar10_c"))
    assert loaded.canvas == (32 if name == "cifar10_c" else 224)


@pytest.mark.parametrize("name", [*OF_TABLE, "imagenet_c", "imagenet_c_full", "cifar10_c", "ucf101_corruptions"])
def test_missing_data_and_weights_are_reported_before_the_run(shell, tmp_path, name):
    done = shell("run", SUITES / f"{name}.yaml", "--store", tmp_path / "store", "--data-root", tmp_path / "nothing")
    assert done.returncode == 2 and not done.stdout
    assert "Traceback" not in done.stderr
    document = yaml.safe_load((SUITES / f"{name}.yaml").read_text())
    for model in document["models"]:
        assert f"the weights of {model['model']}" in done.stderr
    assert "To get it: " in done.stderr or "Published at " in done.stderr


# --- on miniatures ---


@pytest.fixture(scope="module")
def image_data(registry, tmp_path_factory):
    """Return a data root with ImageNet, ImageNet-C and encoders, and the `weights` of suites."""
    root = tmp_path_factory.mktemp("imagenet")
    import robharness_datasets.imagenet as published

    MINIATURE["imagenet"](root, list(published.wnids()))
    return root, MINIATURE["encoders"](root)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("ucf101")
    MINIATURE["ucf101"](root)
    return root, MINIATURE["films"](root)


@pytest.fixture
def run(shell, tmp_path):
    """Run a suite of the repository on a miniature; give the JSON that `robharness run` prints, and its progress."""

    def call(name, miniature, *words, models=None):
        root, weights = miniature
        document = yaml.safe_load((SUITES / f"{name}.yaml").read_text())
        for model in document["models"]:
            given = weights[model["label"]]
            model["weights"] = {k: str(v) for k, v in given.items()} if isinstance(given, dict) else str(given)
        document["models"] = [model for model in document["models"] if models is None or model["label"] in models]
        document["expected"] = {label: cells for label, cells in document.get("expected", {}).items()
                             if label in ("source", *[model["label"] for model in document["models"]])}  # fmt: skip
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        done = shell("run", path, "--store", tmp_path / "store", "--data-root", root, "--json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return call


ONE = ("--limit", "1", "--batch-size", "1")


def computed(report):
    return {(cell["model"], cell["perturbation"]) for cell in report["cells"] if cell["complete"]}


def test_a_part_of_table_1(run, image_data):
    part = (*ONE, "--only", "fgsm*")
    report, _ = run("imagenet_weak", image_data, *part)
    assert len([cell for cell in computed(report) if cell[1].startswith("fgsm")]) == 9
    assert all(cell["expected"] is not None for cell in report["cells"])
    again, progress = run("paper/table1", image_data, *part)
    assert "computed nothing again" in progress  # the same cells
    assert computed(again) == computed(report)


def test_the_published_files_of_imagenet_c(run, image_data):
    report, _ = run("paper/table6", image_data, *ONE, "--only", "*noise*", models=["Supervised", "SimCLR"])
    assert len([cell for cell in computed(report) if "noise" in cell[1]]) == 6
    assert {(cell["group"], cell["severity"]) for cell in report["cells"] if "noise" in cell["perturbation"]} == {
        ("noise", 1)
    }


def test_a_part_of_imagenet_c_without_its_files(run, image_data):
    report, _ = run("imagenet_c_full", image_data, *ONE, "--only", "gaussian_noise*", models=["Supervised"])
    assert len(computed(report)) == 5 and report["compat"] == "imagenet-c"
    mean = next(mean for mean in report["corruption_means"] if mean["group"] is None and mean["severity"] is None)
    assert (mean["corruptions"], mean["asked"]) == (5, 75)
    assert {errors["name"] for errors in report["corruption_errors"]} == {"mean corruption error"}
    assert any("no mCE of corruptions for Supervised" in line for line in report["warnings"])


@pytest.mark.parametrize(
    ("only", "kinds"),
    [("fog*", ["fog"]), pytest.param("[fg]*o*", ["fog", "frost", "gaussian_noise"], marks=pytest.mark.slow)],
)
def test_a_part_of_corrupted_videos(run, films, only, kinds):
    report, _ = run("ucf101_corruptions", films, *ONE, "--only", only, models=["Supervised"])
    assert {name for _, name in computed(report)} == {
        f"{kind}({severity})" for kind in kinds for severity in range(1, 6)
    }
    assert not report["problems"]


def test_a_part_of_table_2(run, films):
    part = (*ONE, "--only", "fgsm*")
    report, _ = run("ucf101_weak", films, *part, models=["TCLR"])
    assert len([cell for cell in computed(report) if cell[1].startswith("fgsm")]) == 3
    _, progress = run("paper/table2", films, *part, models=["TCLR"])
    assert "computed nothing again" in progress


@pytest.mark.slow
@pytest.mark.parametrize(("name", "same"), [("imagenet_weak", "paper/table1"), ("imagenet_c", "paper/table6")])
def test_whole_suites_of_images(run, image_data, name, same):
    report, _ = run(name, image_data, *ONE)
    assert report["complete"] and not report["problems"]
    report, progress = run(same, image_data, *ONE)
    assert report["complete"] and "computed nothing again" in progress


@pytest.mark.slow
def test_whole_suites_of_videos(run, films):
    report, _ = run("ucf101_weak", films, *ONE)
    assert report["complete"] and not report["problems"]
    report, progress = run("paper/table2", films, *ONE)
    assert report["complete"] and "computed nothing again" in progress
    report, _ = run("paper/table7", films, *ONE)
    assert report["complete"] and not report["problems"]
