"""Logits of torchvision's and timm's networks with random weights, compared with those of the loaded checkpoints."""

from __future__ import annotations

import math
import re
from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver
from torch import nn
from torchvision import models
from torchvision.transforms.v2 import functional as F

from robharness import UserError
from robharness_supervised import Timm, Torchvision, robharness_models, tables

SPECS = {spec.name: spec for spec in robharness_models()}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def filled(make, seed=0):
    """Return a network in eval mode with weights and BatchNorm statistics from a seeded generator."""
    with torch.random.fork_rng(devices=[]):
        net = make().eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim > 1:
                value.normal_(0, math.sqrt(1 / value[0].numel()), generator=rng)
            elif name.endswith("weight"):
                value.uniform_(0.5, 1.5, generator=rng)
            else:
                value.normal_(0, 0.2, generator=rng)
        for name, value in net.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=rng)
            elif name.endswith("running_mean"):
                value.normal_(0, 0.2, generator=rng)
    return net


def images(size, n=2):
    return torch.empty(n, 3, size, size).uniform_(generator=torch.Generator().manual_seed(1))


def logits(net, x):
    with torch.inference_mode():
        return net(x)


def features_of(net, name):
    """Return a list that will receive the submodule's output, or None if the spec names no submodule."""
    seen = []
    if name is not None:
        net.get_submodule(name).register_forward_hook(lambda module, given, output: seen.append(output))
    return seen if name is not None else None


def same(ours, theirs):
    scale = float(theirs.max() - theirs.min())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * scale)


def differ(ours, theirs):
    assert (ours - theirs).abs().max() > 2e-4 * (theirs.max() - theirs.min())  # 100 times the tolerance of `same`


# --- torchvision ------------------------------------------------------------------------------------------------------


def torchvision_net(builder, **options):
    """Build the network like torchvision does before it loads weights."""
    if builder in ("googlenet", "inception_v3"):
        options = {"aux_logits": True, "transform_input": True, "init_weights": False}
    return filled(lambda: models.get_model(builder, weights=None, **options))


def old_names(key):
    """Rename layers of DenseNets and vision transformers like in torchvision's published files."""
    key = re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key)
    return re.sub(r"(encoder_layer_\d+\.mlp\.)([03])\.", lambda m: f"{m[1]}linear_{1 if m[2] == '0' else 2}.", key)


SIZES = {"inception_v3": 96, "maxvit_t": 224, "swin_t": 224, "swin_v2_t": 256, "vit_b_16": 224}
"""Input size in pixels; the other networks accept any size and are tested with 64."""


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet50-v2", "squeezenet1_1", "densenet121", "googlenet", "inception_v3", "shufflenet_v2_x0_5"),
        *("mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "mnasnet1_0", "efficientnet_b0", "regnet_y_400mf"),
        *("convnext_tiny", "swin_t", "swin_v2_t", "maxvit_t", "vit_b_16"),
    ],
)
def test_torchvision_files_give_torchvision_logits(tmp_path, name):
    builder = name.partition("-")[0]
    net = torchvision_net(builder)
    torch.save({old_names(key): value for key, value in net.state_dict().items()}, tmp_path / "a.pth")
    x = images(SIZES.get(builder, 64), n=1)
    spec, preset = SPECS[name], models.get_model_weights(builder).DEFAULT.transforms()
    theirs = logits(net, F.normalize(x, preset.mean, preset.std))
    ours = spec.build(Torchvision(), tmp_path / "a.pth").eval()
    seen = features_of(ours, spec.features)
    same(logits(ours, x), theirs)
    if seen is not None:
        with torch.inference_mode():
            same(net.get_submodule(tables.torchvision()[name]["classifier"])(seen[0]), theirs)


def test_other_means_stds_and_orders_of_channels_give_other_logits(tmp_path):
    net = torchvision_net("resnet18")
    torch.save(net.state_dict(), tmp_path / "a.pth")
    x = images(64)
    ours = SPECS["resnet18"].build(Torchvision(), tmp_path / "a.pth").eval()
    theirs = logits(net, F.normalize(x, MEAN, STD))
    same(logits(ours, x), theirs)
    differ(logits(net, F.normalize(x, MEAN, (0.228, 0.224, 0.225))), theirs)
    differ(logits(net, F.normalize(x, (0.5,) * 3, STD)), theirs)
    differ(logits(ours, x.flip(1)), theirs)


def test_a_vision_transformer_for_larger_images_loads_its_own_positions(tmp_path):
    with torch.device("meta"):
        net = models.vit_b_16(image_size=384)
    state = {key: torch.ones(()).expand(value.shape) for key, value in net.state_dict().items()}  # a file of a few kB
    torch.save(state, tmp_path / "a.pth")
    ours = SPECS["vit_b_16-swag-e2e"].build(Torchvision(), tmp_path / "a.pth")
    assert torch.equal(ours[1].encoder.pos_embedding, torch.ones(1, 577, 768))
    with pytest.raises(UserError, match=r"pos_embedding \(1, 577, 768\) instead of \(1, 197, 768\)"):
        SPECS["vit_b_16"].build(Torchvision(), tmp_path / "a.pth")


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
@pytest.mark.parametrize("parallel", [True, False])
def test_an_own_checkpoint_may_be_a_state_dict_or_nested(tmp_path, container, parallel):
    net = torchvision_net("resnet18")
    state = (nn.DataParallel(net) if parallel else net).state_dict()
    args = Namespace(arch="resnet18")
    torch.save({container: state, "epoch": 90, "args": args} if container else state, tmp_path / "my.pt")
    x = images(64)
    ours = SPECS["resnet18"].build(Torchvision(), tmp_path / "my.pt").eval()
    same(logits(ours, x), logits(net, F.normalize(x, MEAN, STD)))


def test_mismatching_keys_are_listed(tmp_path):
    state = torchvision_net("resnet18").state_dict()
    del state["fc.bias"]
    state["fc.weight"] = state["fc.weight"][:10]
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError) as caught:
        SPECS["resnet18"].build(Torchvision(), tmp_path / "a.pth")
    assert str(tmp_path / "a.pth") in str(caught.value)
    assert "1 keys are missing: fc.bias; 1 keys are unexpected: extra" in str(caught.value)
    assert "fc.weight (10, 512) instead of (1000, 512)" in str(caught.value)
    with pytest.raises(
        UserError, match=r"^supervised/resnet18 takes one file, not backbone, head\. Try: set `weights:"
    ):
        SPECS["resnet18"].build(Torchvision(), {"backbone": tmp_path / "a.pth", "head": tmp_path / "a.pth"})


# --- timm -------------------------------------------------------------------------------------------------------------


def timm_net(name):
    return filled(lambda: timm.create_model(name))


def timm_theirs(net, x):
    """Return the logits with the mean and std of timm's configuration."""
    return logits(net, F.normalize(x, net.pretrained_cfg["mean"], net.pretrained_cfg["std"]))


def built(name, path):
    return SPECS["timm"].build(Timm(name=name), path).eval()


@pytest.mark.parametrize(
    "name",
    [
        *("test_vit.r160_in1k", "test_byobnet.r160_in1k", "test_efficientnet.r160_in1k", "resnet10t", "resnet26d"),
        *("convnext_atto", "mobilenetv3_small_050", "levit_128s", "vit_tiny_patch16_224", "deit3_small_patch16_224"),
        *("regnetx_002", "tf_efficientnetv2_b0", "swin_tiny_patch4_window7_224", "dla34", "hrnet_w18_small"),
    ],
)
def test_the_hubs_file_gives_timms_logits(tmp_path, name):
    net = timm_net(tables.timm_names()[name])
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    given = SPECS["timm"].given(Timm(name=name))
    x = images(given["input"].shape[-1], n=1)
    ours, theirs = built(name, tmp_path / "model.safetensors"), timm_theirs(net, x)
    seen = features_of(ours, given["features"])
    same(logits(ours, x), theirs)
    same(logits(built(name, tmp_path / "pytorch_model.bin"), x), theirs)
    differ(logits(ours[1], x), theirs)
    if seen is not None:
        with torch.inference_mode():
            same(net.get_classifier()(seen[0]).flatten(1), theirs)


def test_a_checkpoint_of_timms_training_script(tmp_path):
    net = timm_net("test_vit.r160_in1k")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    args = Namespace(model="test_vit", lr=0.1)
    saver = CheckpointSaver(net, optimizer, args=args, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))
    saver.save_checkpoint(epoch=3, metric=40.9)
    x = images(160)
    same(logits(built("test_vit", tmp_path / "last.pth.tar"), x), timm_theirs(net, x))


def test_authors_own_names_are_converted_as_timm_converts_them(tmp_path):
    """ConvNeXt with the layer names of Facebook's files."""
    net = timm_net("convnext_atto.d2_in1k")
    state = {}
    for key, value in net.state_dict().items():
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
    assert "downsample_layers.1.0.weight" in state
    torch.save({"model": state}, tmp_path / "a.pth")
    x = images(224, n=1)
    same(logits(built("convnext_atto.d2_in1k", tmp_path / "a.pth"), x), timm_theirs(net, x))


def test_positions_for_another_size_are_refused_instead_of_resampled(tmp_path):
    state = timm_net("vit_tiny_patch16_384").state_dict()
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"pos_embed \(1, 577, 192\) instead of \(1, 197, 192\)"):
        built("vit_tiny_patch16_224", tmp_path / "a.pth")


def test_building_keeps_the_random_state_and_a_missing_bias_is_listed(tmp_path):
    state = timm_net("test_vit.r160_in1k").state_dict()
    torch.save(state, tmp_path / "a.pth")
    torchvision = torchvision_net("resnet18")
    torch.save(torchvision.state_dict(), tmp_path / "b.pth")
    before = torch.get_rng_state()
    built("test_vit", tmp_path / "a.pth")
    SPECS["resnet18"].build(Torchvision(), tmp_path / "b.pth")
    assert torch.equal(torch.get_rng_state(), before)
    torch.save({key: value for key, value in state.items() if key != "head.bias"}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"1 keys are missing: head\.bias\..*timm"):
        built("test_vit", tmp_path / "a.pth")
