"""`compat: imagenet-c`: clean and corrupted pictures go one way to the model, encoded as the published files were."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from robharness import discover
from robharness.errors import SuiteError
from robharness.evaluation.images import on_canvas
from robharness.evaluation.reader import Reader
from robharness.report import build
from robharness.report.renderers import json as report_json
from robharness.report.renderers import markdown, terminal
from robharness.session import Session

PLUGIN = '''
from dataclasses import dataclass
import numpy as np, torch
from torch import nn
from robharness import AttackSpec, CorruptionSpec, Cost, DatasetSpec, InputSpec, ModelSpec, ThreatModel, hookimpl

class Scenes:
    """Coloured pictures with edges and noise, which JPEG changes; larger than the canvas."""
    ids, labels = [f"{n:02}" for n in range(12)], [n % 2 for n in range(12)]
    def read(self, index):
        draws = np.random.default_rng(index)
        picture = np.kron(draws.integers(0, 256, (6, 8, 3)), np.ones((50, 40, 1))) + draws.normal(0, 12, (300, 320, 3))
        return picture.clip(0, 255).astype(np.uint8)

class Sums(nn.Module):
    """Its logits tell much of the input: sums with two patterns, exact in float64."""
    def forward(self, x):
        ramp = torch.arange(x[0].numel(), dtype=torch.float64).view(x.shape[1:])
        levels = (x.double() * 255).round()
        return torch.stack([(levels * (ramp % 97)).sum((1, 2, 3)), (levels * (ramp % 89)).sum((1, 2, 3))], 1).float()

@dataclass(frozen=True, kw_only=True)
class Quirk:
    compat: str = "none"

class Nothing:
    def perturb(self, model, batch, severity, rng):
        return batch.canvas.clone()

class Noise:
    def __init__(self, params):
        self.quirk = params is not None and params.compat == "imagenet-c"
    def perturb(self, model, batch, severity, rng):
        noise = (25 * severity * rng.normal("noise", batch.canvas.shape[1:])).round()
        return (batch.canvas.float() + noise + 9 * self.quirk).clamp(0, 255).to(torch.uint8)

class Still:
    def perturb(self, model, batch, eps, rng):
        return batch.x.clone()

@dataclass(frozen=True, kw_only=True)
class Norm:
    norm: str = "linf"

@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="scenes", summary="Scenes", labels="two", splits=("test",), open=lambda r, s: Scenes())

@hookimpl
def robharness_models():
    yield ModelSpec(name="sums", summary="Sums", input=InputSpec(shape=(3, 224, 224)), labels="two",
                    build=lambda params, weights: Sums())

@hookimpl
def robharness_attacks():
    yield AttackSpec(name="still", summary="Adds nothing", access="decision", params=Norm, build=lambda p: Still(),
                     threat=lambda p: ThreatModel(norm="linf"), cost=lambda p: Cost(), randomness="none")

@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="nothing", summary="As it is", group="none", build=lambda p: Nothing(), randomness="none")
    yield CorruptionSpec(name="noise", summary="Noise", group="noise", build=Noise)
    yield CorruptionSpec(name="quirky", summary="Noise", group="noise", build=Noise, params=Quirk)
    yield CorruptionSpec(name="files/noise", summary="Files", group="noise", open=lambda p, root: Nothing(), canvas=224,
                         randomness="none")
'''


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "scenes.py").write_text(PLUGIN)
    return str(tmp_path / "scenes.py")


@pytest.fixture
def run(plugin, tmp_path):
    def call(store="store", registry=None, **changes):
        base = {"robharness": 1, "name": "scenes", "data": {"name": "scenes/scenes", "split": "test"}, "canvas": 224,
                "models": [{"model": "scenes/sums", "label": "Sums", "reference": True}],
                "corruptions": [{"corruption": "scenes/nothing", "severity": 1}]}  # fmt: skip
        session = Session.open(base | changes, store=tmp_path / store, registry=registry or discover([plugin]))
        session.compute()
        return session.results()

    return call


def by_hand(image):
    """As make_imagenet_c.py saves a picture, and as a reader of the files then finds it."""
    file = io.BytesIO()
    Image.fromarray(np.uint8(image)).save(file, format="JPEG", quality=85, optimize=True)
    return np.asarray(Image.open(file).convert("RGB"))


def outcomes(results, name):
    found = next(r for r in results.cells if r.cell.short_name == name)
    return {column: found.columns[column].tolist() for column in ("example", "prediction", "margin", "logit_range")}


def test_the_model_input_is_the_published_encoding_of_the_canvas(run):
    results = run(compat="imagenet-c")
    data, canvas = results.plan.data, 224
    spec = results.plan.models[0].entry.spec
    reader = Reader(data=data, canvas=canvas, compat="imagenet-c", model=spec, device=torch.device("cpu"))
    x = reader.read(0, data.n).x
    for row, index in enumerate(data.order):
        expected = by_hand(on_canvas(data.dataset.read(index), canvas))
        np.testing.assert_array_equal((x[row] * 255).round().permute(1, 2, 0).numpy(), expected)
    reader.threads.close()


@pytest.mark.parametrize("compat", ["none", "imagenet-c"])
def test_clean_and_corrupted_images_have_the_same_encoding(run, compat):
    """What a corruption leaves alone gives the clean outcomes, bit for bit, with the encoding and without."""
    results = run(compat=compat)
    assert outcomes(results, "nothing(1)") == outcomes(results, "clean")


def test_the_encoding_changes_outcomes_and_cell_keys(run):
    plain, encoded = run(), run(compat="imagenet-c")
    assert outcomes(plain, "clean") != outcomes(encoded, "clean")
    assert {r.cell.key for r in plain.cells}.isdisjoint(r.cell.key for r in encoded.cells)


def test_corrupted_images_are_encoded_after_the_corruption(run, plugin, recorded):
    registry = discover([plugin])
    made = recorded(registry)
    results = run(compat="imagenet-c", corruptions=[{"corruption": "scenes/noise", "severity": 2}], registry=registry)
    net = results.plan.models[0].entry.spec.build(None, None)
    found = outcomes(results, "noise(2)")
    for example, margin, label in zip(
        found["example"], found["margin"], results.cells[1].columns["label"], strict=True
    ):
        x = torch.from_numpy(by_hand(made["noise", 2, example]).copy()).permute(2, 0, 1)[None].float() / 255
        logits = net(x)[0]
        assert margin == float(logits[label] - logits[1 - label])


def test_stored_corrupted_images_are_not_encoded_again_but_clean_images_are(run):
    files = [{"corruption": "scenes/files/noise", "severity": 1}]
    plain, encoded = run(corruptions=files), run(corruptions=files, compat="imagenet-c")
    assert outcomes(encoded, "files/noise(1)") == outcomes(plain, "files/noise(1)") == outcomes(plain, "clean")
    assert outcomes(encoded, "clean") != outcomes(plain, "clean")


def test_attacks_start_from_the_encoded_image(run):
    results = run(compat="imagenet-c", attacks=[{"attack": "scenes/still", "eps": "1/255"}])
    assert outcomes(results, "still(linf, 1/255)") == outcomes(results, "clean")


def test_compat_is_passed_to_corruptions_with_quirks_by_default(run):
    quirky = {"corruption": "scenes/quirky", "severity": 1}
    assert run(corruptions=[quirky]).plan.cells[1].short_name == "quirky(1)"
    results = run(compat="imagenet-c", corruptions=[{"corruption": "scenes/*y", "severity": 1}])
    assert results.plan.cells[1].perturbation.params.compat == "imagenet-c"
    assert results.plan.cells[1].short_name == "quirky(1, compat=imagenet-c)"
    own = run(compat="imagenet-c", corruptions=[quirky | {"compat": "none"}])
    assert own.plan.cells[1].short_name == "quirky(1)"


@pytest.mark.parametrize(("canvas", "found"), [(32, "the suite has 32"), ("none", "the suite has none")])
def test_another_canvas_is_refused(run, canvas, found):
    changes = {} if canvas == 32 else {"corruptions": []}
    with pytest.raises(SuiteError, match=f"compat: ImageNet-C has a canvas of 224, {found}; write `canvas: 224`"):
        run(compat="imagenet-c", canvas=canvas, **changes)


def test_the_report_states_the_encoding(run):
    note = "encoded as the files of ImageNet-C (JPEG 85)"
    for compat in ("none", "imagenet-c"):
        report, stream = build(run(compat=compat)), io.StringIO()
        terminal.show(report, Console(file=stream, width=160))
        assert report_json.as_data(report)["compat"] == compat
        for text in (stream.getvalue(), markdown.render(report)):
            assert (note in text) is (compat == "imagenet-c")
