"""The tables, compared with the installed torchvision and timm."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from robharness_supervised import Timm, robharness_models, tables

SPECS = {spec.name: spec for spec in robharness_models()}


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[1] / "tables" / "make_tables.py"
    spec = importlib.util.spec_from_file_location("make_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_listing_and_planning_import_neither_torch_nor_the_libraries():
    code = (
        "import sys; from robharness_supervised import robharness_models; specs = list(robharness_models());"
        "spec = next(s for s in specs if s.name == 'timm'); spec.given(spec.params(name='resnet50d'));"
        "print([m for m in ('torch', 'torchvision', 'timm', 'numpy', 'safetensors') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_table_of_torchvision_is_up_to_date(script):
    now, kept = script.torchvision_table(), tables.torchvision()
    known = now.keys() & kept.keys()
    assert len(known) >= 100
    assert {name: now[name] for name in known} == {name: dict(kept[name]) for name in known}


def test_the_table_of_timm_is_up_to_date(script):
    now, kept = script.timm_table(), tables.timm()
    known = now.keys() & kept.keys()
    assert len(known) >= 1000
    assert {name: now[name] for name in known} == {
        name: {key: value for key, value in kept[name].items() if key != "top1"} for name in known
    }
    names = tables.timm_names()
    assert all(names[short] == f"{short}.{tag}" for short, tag in script.timm_defaults().items())


def test_the_writer_reproduces_the_tables(script, tmp_path):
    for name in ("torchvision", "timm"):
        content = tables._read(name)
        script.write(tmp_path / "again.json", content)
        own = Path(tables.__file__).with_name(f"{name}.json")
        assert (tmp_path / "again.json").read_text() == own.read_text()


def test_every_timm_model_is_preprocessed_as_timm_does_it():
    """Compare the preprocessing with timm's pipeline for each of its configurations."""
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg, is_model_pretrained

    names = [name for name in tables.timm() if is_model_pretrained(name)]
    assert len(names) >= 1000
    for name in names:
        config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
        resize, crop, _, normalize = create_transform(**config).transforms
        given, entry = SPECS["timm"].given(Timm(name=name)), tables.timm()[name]
        steps = given["preprocessing"]
        assert steps.resize == (tuple(resize.size) if isinstance(resize.size, tuple | list) else resize.size), name
        assert (steps.crop, steps.crop) == tuple(crop.size), name
        assert steps.interpolation == resize.interpolation.value, name
        assert given["input"].shape == (3, *crop.size), name
        assert entry["mean"] == pytest.approx(normalize.mean.tolist()), name
        assert entry["std"] == pytest.approx(normalize.std.tolist()), name


@pytest.mark.parametrize("name", ["resnet50", "resnet50-v2", "efficientnet_b0", "vit_b_16-swag-e2e"])
def test_preprocessing_is_torchvisions(name):
    from torchvision import models

    builder, _, variant = name.partition("-")
    weights = {"": "V1", "v2": "V2", "swag-e2e": "SWAG_E2E_V1"}[variant]
    theirs = models.get_model_weights(builder)[f"IMAGENET1K_{weights}"].transforms()
    spec, size = SPECS[name], theirs.crop_size[0]
    assert theirs(Image.new("RGB", (700, 600))).shape == spec.input.shape == (3, size, size)
    steps = spec.preprocessing
    assert [steps.resize, steps.crop, steps.interpolation, steps.antialias] == [
        theirs.resize_size[0],
        size,
        theirs.interpolation.value,
        theirs.antialias,
    ]


def test_published_files_and_accuracies():
    first, second = SPECS["resnet50"], SPECS["resnet50-v2"]
    assert (first.weights.sha256, first.expected) == ("0676ba61", {"clean": 0.7613})
    assert (second.weights.sha256, second.expected) == ("11ad3fa6", {"clean": 0.80858})
    assert (first.preprocessing.resize, second.preprocessing.resize) == (256, 232)
    for name in tables.torchvision():
        spec = SPECS[name]
        assert re.fullmatch(r"[0-9a-f]{8,64}", spec.weights.sha256)
        assert spec.weights.sha256 in spec.weights.url
        assert 0.5 < spec.expected["clean"] < 0.9
        assert spec.licence and spec.labels == "imagenet-1k"


def test_timm_fields_follow_the_name():
    given = SPECS["timm"].given(Timm(name="resnet50d"))
    assert given == SPECS["timm"].given(Timm(name="resnet50d.ra2_in1k"))
    assert given["weights"].url == "https://huggingface.co/timm/resnet50d.ra2_in1k/resolve/main/model.safetensors"
    assert given["weights"].name == "timm-resnet50d.ra2_in1k.safetensors"
    assert (given["preprocessing"].resize, given["preprocessing"].crop) == (256, 224)
    assert 0.78 < given["expected"]["clean"] < 0.82
    squashed = SPECS["timm"].given(Timm(name="vit_large_patch14_clip_336.openai_ft_in12k_in1k"))
    assert squashed["preprocessing"].resize == (336, 336)
    assert len({SPECS["timm"].given(Timm(name=name))["weights"].name for name in tables.timm()}) == len(tables.timm())


@pytest.mark.parametrize(
    ("name", "meant"), [("resnet50dd", "resnet50d"), ("convnext_tiny.fb_in1", "convnext_tiny.fb_in1k"), ("?", None)]
)
def test_an_unknown_timm_name_is_refused_with_the_nearest(name, meant):
    hint = f"; did you mean '{meant}'?" if meant else ""
    sentence = f"timm has no '{name}' with weights for ImageNet's 1000 classes{hint}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Timm(name=name)
