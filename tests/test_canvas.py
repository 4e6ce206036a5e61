"""The canvas: corruptions change no clean accuracy, and the way of a pixel is told."""

from __future__ import annotations

import textwrap

import pytest
import yaml

from robharness import api, discover
from robharness.cli import main
from robharness.planning.pixels import ImageSizes, canvas_of, image_sizes, pixel_path
from robharness.report import build
from robharness.specs import Clips, InputSpec, ModelSpec, Preprocessing
from robharness.suite import load

PLUGIN = """
    import numpy as np

    from robharness import (
        CorruptionSpec, DatasetSpec, InputSpec, ModelSpec, Preprocessing, UnreadableExample, hookimpl,
    )

    SPLITS = {
        "small": lambda i: (12, 12),
        "wide": lambda i: (12, 20),
        "mixed": lambda i: (12, 12 + i % 2),
        "late": lambda i: (12, 12 if i < 70 else 13),
        "large": lambda i: (224, 224),
        "torn": lambda i: None if i < 3 else (12, 12),
    }


    class Images:
        def __init__(self, split):
            self.ids = [f"{split}-{i:03}" for i in range(80)]
            self.labels = [i % 3 for i in range(80)]
            self.size = SPLITS[split]

        def read(self, index):
            size = self.size(index)
            if size is None:
                raise UnreadableExample("it is torn")
            return np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)


    class Negative:
        def perturb(self, model, batch, severity, rng):
            return 255 - batch.canvas


    def net(params, weights):
        import torch

        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 3))
        with torch.no_grad():
            net[2].weight.copy_(torch.linspace(-1, 1, 144).view(3, 48).sin())
            net[2].bias.zero_()
        return net


    @hookimpl
    def robharness_datasets():
        yield DatasetSpec(name="images", summary="", labels="three", splits=tuple(SPLITS),
                          open=lambda root, split: Images(split))


    @hookimpl
    def robharness_corruptions():
        common = {"summary": "", "group": "light", "severities": (1,), "randomness": "none"}
        yield CorruptionSpec(name="negative", build=lambda params: Negative(), **common)
        yield CorruptionSpec(name="big", build=lambda params: Negative(), smallest=32, **common)
        yield CorruptionSpec(name="grey", build=lambda params: Negative(), channels=frozenset({1}), **common)
        yield CorruptionSpec(name="stored12", open=lambda params, root: Negative(), canvas=12, **common)


    @hookimpl
    def robharness_models():
        yield ModelSpec(name="plain", summary="", input=InputSpec(shape=(3, 12, 12)), labels="three", build=net)
        yield ModelSpec(name="cropping", summary="", input=InputSpec(shape=(3, 8, 8)), labels="three", build=net,
                        preprocessing=Preprocessing(resize=10, crop=8))
        yield ModelSpec(name="same", summary="", input=InputSpec(shape=(3, 12, 12)), labels="three", build=net,
                        preprocessing=Preprocessing(resize=16, crop=12))
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "canvases.py"
    path.write_text(textwrap.dedent(PLUGIN))
    return str(path)


def suite(split, model="plain", corruptions=("negative",), **changes):
    items = [{"corruption": f"canvases/{name}", "severity": 1} for name in corruptions]
    return {
        "robharness": 1,
        "name": "canvas",
        "data": {"name": "canvases/images", "split": split},
        "models": [{"model": f"canvases/{model}", "label": "Net"}],
        "attacks": [],
        **({"corruptions": items} if items else {}),
        **changes,
    }


@pytest.mark.parametrize("model", ["plain", "cropping", "same"])
@pytest.mark.parametrize("split", ["small", "torn"])
def test_corruptions_change_no_clean_outcome(split, model, plugin, tmp_path):
    without = api.run(suite(split, model, ()), store=tmp_path / "a", plugins=[plugin])
    both = api.run(suite(split, model), store=tmp_path / "b", plugins=[plugin])
    assert both.is_complete
    clean, corrupted = both.cells
    assert clean.cell.key == without.cells[0].cell.key
    assert clean.columns["margin"].tobytes() == without.cells[0].columns["margin"].tobytes()
    again = api.run(suite(split, model, ("negative", "stored12")), store=tmp_path / "c", plugins=[plugin])
    assert again.cells[0].cell.key == clean.cell.key
    assert again.cells[2].columns["margin"].tobytes() == corrupted.columns["margin"].tobytes()


def test_corrupted_images_take_the_models_own_preprocessing(plugin, tmp_path):
    """A corruption of a corruption of all images is the clean image: 255 - (255 - x)."""
    found = api.run(suite("small", "same"), store=tmp_path / "a", plugins=[plugin])
    clean, corrupted = (cell.columns["margin"] for cell in found.cells)
    assert abs(clean - corrupted).max() > 0.01
    bias = api.run(suite("small", "same", canvas=12), store=tmp_path / "b", plugins=[plugin])
    assert abs(bias.cells[1].columns["margin"] - corrupted).max() > 0.001  # there the crop of the model is left out


PATHS = [
    ("small", "plain", {}, "12x12 -> canvas 12 -> model 12"),
    ("small", "cropping", {}, "12x12 -> canvas 12 -> resize 10 -> crop 8 -> model 8"),
    ("small", "cropping", {"canvas": 16}, "12x12 -> canvas 16 -> model 8"),
    ("wide", "cropping", {}, "20x12 -> canvas 20x12 -> resize 10 -> crop 8 -> model 8"),
    ("mixed", "plain", {}, "12x12, 13x12 and others -> canvas 224 -> model 12"),
    ("late", "plain", {}, "12x12 -> canvas 12 -> model 12"),
    ("large", "plain", {}, "224x224 -> canvas 224 -> model 12"),
    ("torn", "plain", {}, "12x12 -> canvas 12 -> model 12"),
    ("small", "plain", {"corruptions": []}, "12x12 -> model 12"),
]


@pytest.mark.parametrize(("split", "model", "changes", "path"), PATHS)
def test_the_way_of_a_pixel_is_in_plan_and_report(split, model, changes, path, plugin, tmp_path, capsys):
    if split == "late":  # the size that differs is beyond the sample, in the data's order
        registry = discover([plugin])
        dataset = registry.datasets["canvases/images"].spec.open(None, "late")
        assert image_sizes(dataset, range(80), "image").shared == (12, 12)
        return
    source = suite(split, model) | changes
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(source))
    planned = api.plan(source, plugins=[plugin], limit=4)
    assert planned.pixels == {"Net": path}
    assert main(["plan", str(tmp_path / "s.yaml"), "-p", plugin, "--store", str(tmp_path / "s")]) == 0
    assert f"pixels: {path}\n" in capsys.readouterr().out
    if split in ("small", "torn"):
        found = api.run(source, store=tmp_path / "s", plugins=[plugin], limit=4)
        assert build(found).pixels == {"Net": path}


def test_models_with_several_ways_are_named(plugin, tmp_path, capsys):
    source = suite("small")
    source["models"].append({"model": "canvases/cropping", "label": "Other"})
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(source))
    assert main(["plan", str(tmp_path / "s.yaml"), "-p", plugin, "--store", str(tmp_path / "s")]) == 0
    out = capsys.readouterr().out
    assert "pixels of Net: 12x12 -> canvas 12 -> model 12\n" in out
    assert "pixels of Other: 12x12 -> canvas 12 -> resize 10" in out


@pytest.mark.parametrize(
    ("split", "model", "changes", "sentences"),
    [
        ("small", "plain", {}, []),
        ("small", "plain", {"canvas": 12}, []),
        ("small", "plain", {"canvas": 32}, ["images of 12x12 are enlarged to a canvas of 32; canvas: auto leaves",
                                            "Net: images are reduced from the canvas, 32, to 12 pixels, corrupted"]),
        ("small", "cropping", {}, ["Net: images are reduced from the canvas, 12, to 10 pixels"]),
        ("small", "same", {}, ["Net: images are enlarged from the canvas, 12, to 16 pixels"]),
        ("mixed", "plain", {}, ["images of 12x12, 13x12 and others are enlarged to a canvas of 224", "Net: images"]),
        ("large", "plain", {"canvas": 224}, ["Net: images are reduced from the canvas, 224, to 12 pixels"]),
    ],
)  # fmt: skip
def test_a_change_of_scale_is_a_finding_of_the_plan(split, model, changes, sentences, plugin):
    planned = api.plan(suite(split, model) | changes, plugins=[plugin])
    found = [str(each) for each in planned.findings if each.code == "canvas-rescales"]
    assert len(found) == len(sentences)
    for each, sentence in zip(found, sentences, strict=True):
        assert each.startswith(sentence)


def test_a_corruption_that_does_not_fit_is_named_by_the_plan_and_costs_its_cells_alone(plugin):
    planned = api.plan(suite("small", corruptions=("negative", "big", "grey")), plugins=[plugin])
    found = [str(each) for each in planned.findings if each.code == "corruption-does-not-fit"]
    assert found == [
        "big(1): it takes images of at least 32 pixels, and the canvas has 12, so that its cells will fail; leave it "
        "out of the suite",
        "grey(1): it takes images of 1 channels, and those of the data have 3, so that its cells will fail; leave it "
        "out of the suite",
    ]
    assert len(planned.cells) == 4


def test_a_canvas_of_the_suite_is_in_the_keys_and_the_data_s_own_size_is_not(plugin):
    own = api.plan(suite("small"), plugins=[plugin]).cells[0]
    fixed = api.plan(suite("small", canvas=12), plugins=[plugin]).cells[0]
    differing = api.plan(suite("mixed"), plugins=[plugin]).cells[0]
    assert "canvas" not in own.identity["data"]
    assert fixed.identity["data"]["canvas"] == 12 and differing.identity["data"]["canvas"] == 224


def test_videos_and_clips_have_a_way_too():
    spec = ModelSpec(name="v", summary="", labels="x", build=lambda params, weights: None,
                     input=InputSpec(kind="video", shape=(3, 4, 112, 112)),
                     preprocessing=Preprocessing(resize=128, crop=112, clips=Clips(length=4)))  # fmt: skip
    sizes = ImageSizes(sizes=((240, 320),), channels=frozenset({3}))
    assert pixel_path(spec, sizes, None) == "320x240 -> resize 128 -> crop 112 -> model 112"


def test_compat_and_stored_images_determine_an_automatic_canvas(plugin):
    registry = discover([plugin])
    sizes = ImageSizes(sizes=((12, 12),), channels=frozenset({3}))
    assert canvas_of(load(suite("small", compat="imagenet-c"), registry), sizes) == 224
    assert canvas_of(load(suite("small", corruptions=("stored12",)), registry), sizes) == "own"
    other = ImageSizes(sizes=((13, 12),), channels=frozenset({3}))
    assert canvas_of(load(suite("small", corruptions=("stored12",)), registry), other) == 12
