"""Own checkpoints without a classifier, read into torchvision's, timm's and CIFAR trunks.

The files are those that training code writes: lightly's tutorials, DINO's and MoCo v3's scripts, solo-learn.
"""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.transforms.v2 import functional as F

from robharness import UserError
from robharness.checkpoints import StateChoice, choosing, noting
from robharness.specs.conventions import NO_LABELS, NORMALIZATIONS
from robharness_supervised import Cifar, Timm, Torchvision, robharness_models

SPECS = {spec.name: spec for spec in robharness_models()}
MEAN, STD = NORMALIZATIONS["imagenet"]
VIT = {"name": "test_vit"}


def filled(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        net = make().eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim > 1:
                value.normal_(0, (1 / value[0].numel()) ** 0.5, generator=rng)
            elif name.endswith(("weight", "running_var")):
                value.uniform_(0.5, 1.5, generator=rng)
            elif value.is_floating_point():
                value.normal_(0, 0.2, generator=rng)
    return net


def images(*shape):
    return torch.empty(2, *shape).uniform_(generator=torch.Generator().manual_seed(1))


def features(net, x):
    with torch.inference_mode():
        return net.eval()(x)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(theirs.max() - theirs.min()))


def differ(ours, theirs):
    assert float((ours - theirs).abs().max()) > 2e-4 * float(theirs.max() - theirs.min())


def trunk(name, params, path, **choice):
    """Return the trunk, and the parts of the file that it leaves over."""
    with noting() as noted, choosing({path: StateChoice(**choice)} if choice else {}):
        net = SPECS[name].trunk(params, path)
    return net, [part for each in noted for part in each.parts]


def saved(tmp_path, content):
    torch.save(content, tmp_path / "my.pt")
    return tmp_path / "my.pt"


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


# --- torchvision ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet():
    """ResNet-18 without a classifier, and its features for images of 64 pixels."""
    net = filled(lambda: models.resnet18(weights=None))
    net.fc = nn.Identity()
    x = images(3, 64, 64)
    return net, x, features(net, F.normalize(x, MEAN, STD))


def test_an_encoder_by_lightly_in_a_sequence_and_by_moco(resnet, tmp_path):
    net, x, expected = resnet
    sequence = nn.Sequential(*list(net.children())[:-1])  # as lightly's tutorials do
    heads = {"projection_head.layers.0.weight": torch.ones(3, 512)}
    path = saved(tmp_path, {"state_dict": {**prefixed("backbone.", sequence.state_dict()), **heads}, "epoch": 1})
    ours, parts = trunk("resnet18", Torchvision(), path, strip="backbone.")
    same(features(ours, x), expected)
    assert parts == ["projection_head.*"]
    state = prefixed("module.encoder_q.", {**net.state_dict(), "fc.0.weight": torch.ones(512, 512)})
    path = saved(tmp_path, {"arch": "resnet18", "state_dict": {**state, "module.queue": torch.ones(128, 10)}})
    ours, parts = trunk("resnet18", Torchvision(), path, strip="module.encoder_q")
    same(features(ours, x), expected)
    assert parts == ["fc.*", "queue"]
    differ(features(ours[1], x), expected)  # without mean and std
    differ(features(trunk("resnet18", Torchvision(normalize="none"), path, strip="module.encoder_q")[0], x), expected)


def test_the_published_file_with_its_classifier_is_a_trunk_too(tmp_path):
    net = filled(lambda: models.resnet18(weights=None))
    x = images(3, 64, 64)
    ours, parts = trunk("resnet18", Torchvision(), saved(tmp_path, net.state_dict()))
    same(net.fc(features(ours, x).clone()).detach(), features(net, F.normalize(x, MEAN, STD)))
    assert parts == ["fc.*"]


def test_a_deeper_network_is_refused_with_what_is_unexpected_and_left_over(tmp_path):
    state = filled(lambda: models.resnet34(weights=None)).state_dict()
    with pytest.raises(UserError) as caught:
        trunk("resnet18", Torchvision(), saved(tmp_path, state))
    message = str(caught.value)
    assert "my.pt does not fit resnet18: by the closest layout, 'torchvision', " in message
    assert "96 keys are unexpected: layer1.2.conv1.weight" in message and "left over: fc.weight, fc.bias" in message


def test_a_trunk_of_transformers_of_another_size(tmp_path):
    net = filled(lambda: models.vit_b_32(weights=None, image_size=64))
    net.heads = nn.Identity()
    x = images(3, 64, 64)
    path = saved(tmp_path, net.state_dict())
    params = Torchvision(size=64)
    same(features(trunk("vit_b_32", params, path)[0], x), features(net, F.normalize(x, MEAN, STD)))
    assert SPECS["vit_b_32"].given(params)["input"].shape == (3, 64, 64)
    with pytest.raises(UserError, match=r"pos_embedding \(1, 5, 768\) instead of \(1, 50, 768\)"):
        trunk("vit_b_32", Torchvision(), path)


# --- timm -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit():
    """A small transformer without a classifier, and its features."""
    net = filled(lambda: timm.create_model("test_vit", num_classes=0))
    x = images(3, 160, 160)
    return net, x, features(net, F.normalize(x, MEAN, STD))


def test_the_teacher_of_dino(vit, tmp_path):
    net, x, expected = vit
    head = {"head.mlp.0.weight": torch.ones(8, 64), "head.last_layer.weight_g": torch.ones(9, 1)}
    other = prefixed("module.backbone.", filled(lambda: timm.create_model("test_vit", num_classes=0), 1).state_dict())
    teacher = {**prefixed("backbone.", net.state_dict()), **head}
    path = saved(tmp_path, {"student": {**other, **prefixed("module.", head)}, "teacher": teacher, "epoch": 3})
    ours, parts = trunk("timm", Timm(**VIT), path, inside="teacher", strip="backbone.")
    same(features(ours, x), expected)
    assert parts == ["head.*"]
    differ(features(trunk("timm", Timm(**VIT), path, inside="student", strip="module.backbone.")[0], x), expected)
    with pytest.raises(UserError) as caught:
        trunk("timm", Timm(**VIT), path)
    assert "`inside: teacher` and `strip: backbone.`" in str(caught.value)


def test_moco_v3_and_solo_learn_write_timms_names(vit, tmp_path):
    net, x, expected = vit
    heads = {"head.0.weight": torch.ones(8, 64), "head.3.weight": torch.ones(8, 8)}
    base = prefixed("module.base_encoder.", {**net.state_dict(), **heads})
    path = saved(
        tmp_path, {"epoch": 300, "arch": "vit", "state_dict": {**base, "module.predictor.0.weight": torch.ones(2)}}
    )
    ours, parts = trunk("timm", Timm(**VIT), path, strip="module.base_encoder.")
    same(features(ours, x), expected)
    assert parts == ["head.*", "predictor.*"]
    state = {**prefixed("backbone.", net.state_dict()), "classifier.weight": torch.ones(3, 64)}
    ours, parts = trunk("timm", Timm(**VIT), saved(tmp_path, {"state_dict": state}), strip="backbone.")
    same(features(ours, x), expected)
    assert parts == ["classifier.*"]


def test_mean_and_std_are_imagenets_for_own_weights_and_timms_for_its_classifier(tmp_path):
    name = "vit_tiny_patch16_224"  # whose own weights have 0.5
    net = filled(lambda: timm.create_model(name))
    x, state = images(3, 224, 224), net.state_dict()

    def expected(mean, std):
        with torch.inference_mode():
            return net.forward_head(net.forward_features(F.normalize(x, mean, std)), pre_logits=True)

    same(features(trunk("timm", Timm(name=name), saved(tmp_path, state))[0], x), expected([0.5] * 3, [0.5] * 3))
    own = saved(tmp_path, {key: value for key, value in state.items() if not key.startswith("head.")})
    same(features(trunk("timm", Timm(name=name), own)[0], x), expected(MEAN, STD))
    same(features(trunk("timm", Timm(name=name, normalize="inception"), own)[0], x), expected([0.5] * 3, [0.5] * 3))
    numbers = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    same(features(trunk("timm", Timm(name=name, normalize=numbers), own)[0], x), expected(*numbers))


def test_own_sizes_and_channels(tmp_path):
    net = filled(lambda: timm.create_model("test_vit", num_classes=0, img_size=32, in_chans=1))
    params = Timm(**VIT, size=32, channels=1, normalize=((0.1307,), (0.3081,)))
    given = SPECS["timm"].given(params)
    assert given["input"].shape == (1, 32, 32) and given["preprocessing"].resize == (32, 32)
    x, path = images(1, 32, 32), saved(tmp_path, net.state_dict())
    same(features(trunk("timm", params, path)[0], x), features(net, (x - 0.1307) / 0.3081))
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight .*instead of"):
        trunk("timm", Timm(**VIT), path)
    for name in ("resnet10t", "convnext_atto"):  # which take any size
        net = filled(lambda: timm.create_model(name, num_classes=0))  # noqa: B023
        x = images(3, 64, 64)
        ours = trunk("timm", Timm(name=name, size=64), saved(tmp_path, net.state_dict()))[0]
        same(features(ours, x), features(net, F.normalize(x, MEAN, STD)))


def test_a_classifier_inside_of_a_part_of_the_trunk_is_left_over(tmp_path):
    net = filled(lambda: timm.create_model("convnext_atto"))
    ours, parts = trunk("timm", Timm(name="convnext_atto"), saved(tmp_path, net.state_dict()))
    x = images(3, 64, 64)
    same(net.head.fc(features(ours, x).clone()).detach(), features(net, F.normalize(x, MEAN, STD)))
    assert parts == ["head.*"]


def test_a_classifier_in_its_authors_layout_is_converted_and_cut(tmp_path):
    net, state = filled(lambda: timm.create_model("convnext_atto.d2_in1k")), {}
    for key, value in net.state_dict().items():  # Facebook's names
        for pattern, theirs in (
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
            (r"conv_dw\.", "dwconv."),
            (r"mlp\.fc([12])\.", r"pwconv\1."),
            (r"^head\.norm\.", "norm."),
            (r"^head\.fc\.", "head."),
        ):
            key = re.sub(pattern, theirs, key)
        state[key] = value.flatten(1) if "pwconv" in key and value.ndim == 4 else value
    x = images(3, 64, 64)
    ours = trunk("timm", Timm(name="convnext_atto.d2_in1k"), saved(tmp_path, {"model": state}))[0]
    same(net.head.fc(features(ours, x).clone()).detach(), features(net, F.normalize(x, MEAN, STD)))
    with pytest.raises(UserError, match=r"does not fit convnext_atto\.d2_in1k: .*keys are missing"):
        trunk("timm", Timm(name="convnext_atto.d2_in1k"), saved(tmp_path, {"norm.bias": state["norm.bias"]}))


def test_an_architecture_without_weights_is_an_encoder_alone(tmp_path):
    params = Timm(name="vit_small_patch14_dinov2", size=28)
    given = SPECS["timm"].given(params)
    assert (given["labels"], given["features"], given["input"].shape) == (NO_LABELS, "", (3, 28, 28))
    net = filled(lambda: timm.create_model(params.name, num_classes=0, img_size=28))
    x = images(3, 28, 28)
    path = saved(tmp_path, {**net.state_dict(), "mask_token": torch.ones(1, 384)})
    ours, parts = trunk("timm", params, path)
    same(features(ours, x), features(net, F.normalize(x, MEAN, STD)))
    same(features(SPECS["timm"].build(params, path), x), features(ours, x))
    assert parts == ["mask_token"]


def test_more_blocks_than_the_trunk_has_are_refused(vit, tmp_path):
    state = dict(vit[0].state_dict())
    last = max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    more = {
        name.replace(f"blocks.{last}.", f"blocks.{last + 1}."): value
        for name, value in state.items()
        if f"blocks.{last}." in name
    }
    with pytest.raises(UserError, match=rf"{len(more)} keys are unexpected: blocks\.{last + 1}\."):
        trunk("timm", Timm(**VIT), saved(tmp_path, {**state, **more}))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"channels": 1}, "channels=1 need `normalize: none`"),
        ({"channels": 1, "normalize": ((0.1, 0.2), (0.3, 0.4))}, "the mean and the std of 1 channels"),
        ({"normalize": ((0.1, 0.2, 0.3), (0.4, 0.0, 0.5))}, "the mean and the std of 3 channels"),
        ({"size": 0}, "size=0 must be from 8 to 4096 pixels"),
    ],
)
def test_a_wrong_option_is_refused(given, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Timm(**VIT, **given)


# --- CIFAR ------------------------------------------------------------------------------------------------------------


def test_encoders_of_supcontrast_and_solo_learn(tmp_path):
    net = filled(lambda: models.resnet18(weights=None))
    net.conv1, net.maxpool, net.fc = (
        filled(lambda: nn.Conv2d(3, 64, 3, padding=1, bias=False)),
        nn.Identity(),
        nn.Identity(),
    )
    x = images(3, 32, 32)
    old = {name.replace(".downsample.", ".shortcut."): value for name, value in net.state_dict().items()}
    heads = {"head.0.weight": torch.ones(512, 512), "head.2.weight": torch.ones(128, 512)}
    path = saved(tmp_path, {"model": prefixed("module.", {**prefixed("encoder.", old), **heads}), "epoch": 1})
    ours, parts = trunk("cifar10-resnet18", Cifar(), path)
    same(features(ours, x), features(net, F.normalize(x, *NORMALIZATIONS["cifar-10"])))
    assert parts == ["head.*"]
    net.conv1.padding = (2, 2)
    more = {"projector.0.weight": torch.ones(2), "momentum_projector.0.weight": torch.ones(2), "queue": torch.ones(3)}
    path = saved(tmp_path, {"state_dict": {**prefixed("backbone.", net.state_dict()), **more}})
    ours, parts = trunk("cifar10-resnet18", Cifar(), path)
    same(features(ours, x), features(net, F.normalize(x, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))))
    assert parts == ["projector.*", "momentum_projector.*", "queue"]
    state = {name: value for name, value in net.state_dict().items() if name != "bn1.bias"}
    with pytest.raises(UserError, match=r"my\.pt does not fit cifar10-resnet18: .*1 keys are missing: bn1\.bias"):
        trunk("cifar10-resnet18", Cifar(), saved(tmp_path, state))
