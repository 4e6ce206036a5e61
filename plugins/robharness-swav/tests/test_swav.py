"""SwAV: logits of files in the publisher's layout, compared with the publisher's evaluation, rebuilt here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import normalize

from robharness import UserError
from robharness.checkpoints import StateChoice, choosing
from robharness_swav import SwAVParams, robharness_models

(SPEC,) = robharness_models()


def convolution(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, inplanes, planes, stride, projects):
        super().__init__()
        self.conv1, self.bn1 = convolution(inplanes, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = convolution(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = convolution(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if projects:
            self.downsample = nn.Sequential(convolution(inplanes, 4 * planes, 1, stride), nn.BatchNorm2d(4 * planes))

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn3(self.conv3(self.bn2(self.conv2(out)).relu()))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class Encoder(nn.Module):
    """The encoder of pre-training, with its own padding before the first convolution and a projection head."""

    def __init__(self):
        super().__init__()
        self.padding = nn.ConstantPad2d(1, 0.0)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=2, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        taken = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            layers = []
            for place in range(blocks):
                layers.append(Bottleneck(taken, 64 << stage, 2 if stage and not place else 1, not place))
                taken = 256 << stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.projection_head = nn.Sequential(
            nn.Linear(2048, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 128)
        )
        self.prototypes = nn.Linear(128, 3000, bias=False)

    def forward(self, x):
        """Return the feature maps of the last stage, the classifier's input in `eval_mode`."""
        x = self.maxpool(self.bn1(self.conv1(self.padding(x))).relu())
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class RegLog(nn.Module):
    def __init__(self):
        super().__init__()
        self.av_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.linear = nn.Linear(2048, 1000)

    def forward(self, x):
        return self.linear(self.av_pool(x).flatten(1))


def drawn(net, generator):
    """Fill a network from the meta device with random weights that keep the scale of activations."""
    net = net.to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("num_batches_tracked"):
                value.fill_(7)
            elif name.endswith(("running_var", "weight")):
                value.uniform_(0.3, 0.9, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return net


def parallel(net):
    """Return the state dict with the names of DistributedDataParallel."""
    return {f"module.{name}": value for name, value in net.state_dict().items()}


def built(weights, **params):
    return SPEC.build(SwAVParams(**params), weights).eval()


def logits(net, x):
    with torch.inference_mode():
        return net(x)


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))


def assert_differ(ours, theirs):
    """Assert a difference of at least 100 times the tolerance of `assert_same`."""
    assert float((ours - theirs).abs().max()) > 2e-4 * float(theirs.abs().max())


@pytest.fixture(scope="module")
def x():
    return torch.empty(2, 3, 64, 64).uniform_(generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def published():
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        encoder, head = Encoder(), RegLog()
    return drawn(encoder, generator), drawn(head, generator)


@pytest.fixture(scope="module")
def expected(published, x):
    """The logits, computed like eval_linear.py."""
    encoder, head = published
    normal = normalize(x, mean=[0.485, 0.456, 0.406], std=[0.228, 0.224, 0.225])
    return logits(head, logits(encoder, normal))


@pytest.fixture(scope="module")
def files(published, tmp_path_factory):
    """Files in the released layouts: a state dict of the encoder, and a training checkpoint of the head."""
    folder = tmp_path_factory.mktemp("swav")
    encoder, head = published
    torch.save(parallel(encoder), folder / "swav_800ep_pretrain.pth.tar")
    training = {
        "epoch": 100,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.3}]},
        "scheduler": {},
        "best_acc": 75.3,
    }
    torch.save({**training, "state_dict": parallel(head)}, folder / "swav_800ep_eval_linear.pth.tar")
    return {"backbone": folder / "swav_800ep_pretrain.pth.tar", "head": folder / "swav_800ep_eval_linear.pth.tar"}


def test_the_released_files_give_the_publishers_logits(files, expected, x):
    assert_same(logits(built(files), x), expected)


def test_a_nested_encoder_and_a_head_without_container_load(published, expected, x, tmp_path):
    encoder, head = published
    training = {"epoch": 800, "optimizer": {}, "amp": {"loss_scaler0": {"loss_scale": 1024.0}}}
    torch.save({**training, "state_dict": parallel(encoder)}, tmp_path / "ckp-799.pth")
    torch.save(head.state_dict(), tmp_path / "head.pth")
    assert_same(logits(built({"backbone": tmp_path / "ckp-799.pth", "head": tmp_path / "head.pth"}), x), expected)


def test_several_sets_of_prototypes_are_dropped(published, expected, files, x, tmp_path):
    state = parallel(published[0])
    prototypes = state.pop("module.prototypes.weight")
    state["module.prototypes.prototypes0.weight"] = state["module.prototypes.prototypes1.weight"] = prototypes
    torch.save(state, tmp_path / "deepcluster.pth.tar")
    assert_same(logits(built({**files, "backbone": tmp_path / "deepcluster.pth.tar"}), x), expected)


def test_one_file_with_both_parts_loads(published, expected, x, tmp_path):
    encoder, head = published
    names = {name: value for name, value in encoder.state_dict().items() if not name.startswith(("proj", "proto"))}
    torch.save({**names, "fc.weight": head.linear.weight, "fc.bias": head.linear.bias}, tmp_path / "merged.pth")
    assert_same(logits(built(tmp_path / "merged.pth"), x), expected)


@pytest.mark.parametrize("normalization", ["imagenet", "none"])
def test_another_normalisation_changes_the_logits(files, expected, x, normalization):
    assert_differ(logits(built(files, normalization=normalization), x), expected)


def test_a_lost_bias_or_another_padding_changes_the_logits(files, expected, x):
    net = built(files)
    nn.init.zeros_(net[1].fc.bias)
    assert_differ(logits(net, x), expected)
    net = built(files)
    net[1].conv1.padding = (2, 2)
    assert_differ(logits(net, x), expected)


def test_an_encoder_alone_is_refused(files):
    with pytest.raises(
        UserError, match=r"pretrain\.pth\.tar contains no linear classifier.*weights: \{backbone: .*head: "
    ):
        built(files["backbone"])
    with pytest.raises(UserError, match=r"contains no linear classifier"):
        built({"backbone": files["backbone"], "head": files["backbone"]})


@pytest.mark.parametrize(
    ("wrap", "choice"),
    [
        (lambda state: {f"model.{key}": value for key, value in state.items()}, "`strip: {backbone: model.}`"),
        (lambda state: {"teacher": state, "epoch": 1}, "`inside: {backbone: teacher}`"),
    ],
)
def test_an_encoder_with_a_prefix_or_nested_is_named_with_its_remedy(
    files, published, tmp_path, x, expected, wrap, choice
):
    encoder, _ = published
    paths = {**files, "backbone": tmp_path / "own.pth"}
    torch.save(wrap(encoder.state_dict()), paths["backbone"])
    with choosing({}, names=paths), pytest.raises(UserError) as caught:
        built(paths)
    message = str(caught.value)
    assert "linear classifier" not in message and str(paths["backbone"]) in message
    assert f"{choice}, its state fits. Try: set {choice} beside `weights:` in the suite" in message
    keys = dict(re.findall(r"(inside|strip): \{backbone: ([^}]+)\}", choice))
    with choosing({paths["backbone"]: StateChoice(**keys)}):
        assert_same(logits(built(paths), x), expected)


def test_a_head_with_a_prefix_is_not_said_to_be_missing(files, published, tmp_path):
    head = {f"_orig_mod.{key}": value for key, value in published[1].state_dict().items()}
    torch.save(head, tmp_path / "head.pth")
    with pytest.raises(UserError) as caught:
        built({**files, "head": tmp_path / "head.pth"})
    message = str(caught.value)
    assert "no linear classifier" not in message
    assert "head.pth does not fit" in message and "With `strip: _orig_mod.`, its state fits" in message


def test_a_head_alone_is_refused_with_the_missing_keys(files):
    with pytest.raises(UserError, match=r"eval_linear\.pth\.tar does not fit .*265 keys are missing: conv1\.weight"):
        built(files["head"])


def test_two_files_with_the_same_part_are_refused(published, files, tmp_path):
    encoder, head = published
    torch.save(
        {**encoder.state_dict(), "fc.weight": head.linear.weight, "fc.bias": head.linear.bias}, tmp_path / "all.pth"
    )
    with pytest.raises(UserError, match=r"both contain bn1\.bias\. Try: set `weights: "):
        built({**files, "head": tmp_path / "all.pth"})


def test_other_names_are_refused(files):
    with pytest.raises(UserError, match=r"are a backbone and a head, not encoder, head\. Try: set `weights: "):
        built({"encoder": files["backbone"], "head": files["head"]})


def test_a_file_of_something_else_is_named(files, tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth cannot be read as a checkpoint of SwAV: it holds no tensors"):
        built({**files, "head": tmp_path / "list.pth"})
    torch.save({"state_dict": {"module.linear.weight": torch.zeros(10, 2048)}}, tmp_path / "ten.pth")
    with pytest.raises(UserError, match=r"pretrain\.pth\.tar with .*ten\.pth: .*missing: fc\.bias.*\(10, 2048\)"):
        built({**files, "head": tmp_path / "ten.pth"})


def test_building_keeps_the_random_state_and_features_are_the_classifiers_input(files, expected, x):
    before = torch.get_rng_state()
    net = built(files)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.device.type == "cpu" and value.is_contiguous() for value in net.state_dict().values())
    seen = []
    net.get_submodule(SPEC.features).register_forward_hook(lambda module, inputs, out: seen.append(out.flatten(1)))
    logits(net, x)
    assert_same(logits(net[1].fc, seen[0]), expected)


def test_the_spec_and_light_imports():
    assert SPEC.preprocessing.size == SPEC.input.shape[1:] == (224, 224)
    assert SPEC.preprocessing.resize == 256
    assert SPEC.preprocessing.interpolation == "bilinear"
    assert SPEC.expected == {"clean": 0.753}
    assert {SwAVParams(**keys).normalization for keys in SPEC.alternatives.values()} == {"imagenet", "none"}
    script = """
import sys
import robharness_swav
list(robharness_swav.robharness_models())
heavy = {"torch", "torchvision", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
