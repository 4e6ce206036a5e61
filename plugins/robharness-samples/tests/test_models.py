"""EfficientNet-Lite: equality with the publisher's network, weights and published accuracies."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from robharness import UserError, normalized
from robharness_samples import robharness_datasets, robharness_models

SPECS = {spec.name: spec for spec in robharness_models()}
OTHERS = {  # other normalisations that the weights might have been trained with
    "ImageNet's usual": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0,) * 3, (1.0,) * 3),
}


def weights_of(spec):
    package = importlib.util.find_spec(spec.weights.package)
    return Path(package.submodule_search_locations[0]) / spec.weights.path


@pytest.fixture(scope="module", params=list(SPECS))
def spec(request):
    return SPECS[request.param]


@pytest.fixture(scope="module")
def net(spec):
    return spec.build(None, weights_of(spec)).eval()


@pytest.fixture(scope="module")
def photos():
    (spec,) = (spec for spec in robharness_datasets() if spec.name == "imagenet-photos")
    return spec.open(Path(), "val")


@pytest.fixture(scope="module")
def x(spec, photos):
    """The photos after the spec's preprocessing: resize of the shorter side, then central crop."""
    crops = []
    for index in range(len(photos.ids)):
        image = Image.fromarray(photos.read(index))
        scale = spec.preprocessing.resize / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = ((length - spec.preprocessing.crop) // 2 for length in image.size)
        crops.append(np.array(image)[top : top + spec.preprocessing.crop, left : left + spec.preprocessing.crop])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def score(net, x, labels):
    """Return the mean log-probability of the true class and the top-1 accuracy."""
    with torch.inference_mode():
        logits = torch.cat([net(part) for part in x.split(4)])  # batches of 4 are faster than one of 20
    log_probability = -torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    return log_probability, (logits.argmax(1) == torch.tensor(labels)).float().mean().item()


def test_three_models_with_the_published_sizes_and_accuracies():
    sizes = {name: (spec.input.shape, spec.expected) for name, spec in SPECS.items()}
    assert sizes == {
        "efficientnet-lite0": ((3, 224, 224), {"clean": 0.751}),
        "efficientnet-lite1": ((3, 240, 240), {"clean": 0.767}),
        "efficientnet-lite2": ((3, 260, 260), {"clean": 0.776}),
    }
    for spec in SPECS.values():
        assert (spec.preprocessing.resize, spec.preprocessing.crop) == (spec.input.shape[1] + 32, spec.input.shape[1])
        assert spec.preprocessing.interpolation == "bicubic"
        assert spec.labels == "imagenet-1k"


def test_the_package_carries_the_declared_file(spec):
    assert hashlib.sha256(weights_of(spec).read_bytes()).hexdigest() == spec.weights.sha256


def test_logits_equal_the_publishers_own_loader(spec, net, x):
    theirs = EfficientNet.from_pretrained(spec.name, weights_path=str(weights_of(spec))).eval()
    mean, std = (torch.full((1, 3, 1, 1), value / 255) for value in (127, 128))
    with torch.inference_mode():
        torch.testing.assert_close(net(x[:2]), theirs((x[:2] - mean) / std), rtol=0, atol=1e-6)


def test_other_normalisations_lower_the_log_probability(net, x, photos):
    own, accuracy = score(net, x, photos.labels)
    for name, (mean, std) in OTHERS.items():
        other, _ = score(normalized(net[1], mean, std).eval(), x, photos.labels)
        assert own > other + 0.02, f"{name}: {other:.3f} against {own:.3f}"
    assert accuracy >= 0.75, "the publisher's classes are in the same order as the photos'"


def test_features_are_the_input_of_the_last_layer(spec, net, x):
    seen = []
    net.get_submodule(spec.features).register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        logits = net(x[:2])
        torch.testing.assert_close(net[1]._fc(seen[0].flatten(1)), logits)
    assert seen[0].flatten(1).shape == (2, 1280)


def test_building_is_silent_and_draws_nothing(spec, capfd):
    before = torch.get_rng_state()
    net = spec.build(None, weights_of(spec))
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    tensors = [*net.parameters(), *net.buffers()]
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors)


def test_weights_of_another_variant_are_refused():
    with pytest.raises(
        UserError, match=r"does not fit EfficientNet: by the closest layout, 'EfficientNet-Lite', \d+ keys"
    ):
        SPECS["efficientnet-lite0"].build(None, weights_of(SPECS["efficientnet-lite1"]))


def test_a_damaged_file_is_refused_without_advice_to_trust_it(tmp_path):
    spec = SPECS["efficientnet-lite0"]
    path = tmp_path / "net.pth"
    path.write_bytes(weights_of(spec).read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"net\.pth is no checkpoint: it is cut off or damaged") as caught:
        spec.build(None, path)
    assert "--trust" not in str(caught.value)
