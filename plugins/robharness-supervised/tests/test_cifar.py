"""CIFAR ResNets: logits of each publisher's network, rebuilt with its names and saved in its layout, against ours."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from robharness import UserError
from robharness.checkpoints import StateChoice, choosing
from robharness_supervised import Cifar, robharness_models

SPECS = {spec.name: spec for spec in robharness_models() if spec.name.startswith("cifar")}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


# --- the publishers' modules ------------------------------------------------------------------------------------------


class Dual(nn.Module):
    """ACL's BatchNorms for clean ("normal", 0) and attacked images ("pgd", 1); `branch` is the index in use."""

    def __init__(self, width, branch):
        super().__init__()
        self.bn_list = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        self.branch = branch

    def forward(self, x):
        return self.bn_list[self.branch](x)


class DualDownsample(nn.Module):
    def __init__(self, conv, bn):
        super().__init__()
        self.conv, self.bn = conv, bn

    def forward(self, x):
        return self.bn(self.conv(x))


class Block(nn.Module):
    """Basic (two 3x3) for ResNet-18, bottleneck (1x1, 3x3, 1x1) for ResNet-50; `shortcut` names the projection."""

    def __init__(self, inner, width, stride, deep, shortcut, norm):
        super().__init__()
        outer = 4 * width if deep else width
        sizes = [(inner, width, 1, 1), (width, width, 3, stride), (width, outer, 1, 1)]
        if not deep:
            sizes = [(inner, width, 3, stride), (width, width, 3, 1)]
        self.depth = len(sizes)
        for i, (a, b, kernel, step) in enumerate(sizes, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", norm(b))
        self.shortcut_name = shortcut
        if stride != 1 or inner != outer:
            conv = nn.Conv2d(inner, outer, 1, stride, bias=False)
            dual = isinstance(norm(1), Dual)
            setattr(self, shortcut, DualDownsample(conv, norm(outer)) if dual else nn.Sequential(conv, norm(outer)))
        elif shortcut == "shortcut":
            self.shortcut = nn.Sequential()

    def forward(self, x):
        out = x
        for i in range(1, self.depth + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            out = F.relu(out) if i < self.depth else out
        project = getattr(self, self.shortcut_name, None)
        return F.relu(out + (x if project is None else project(x)))


class ResNet(nn.Module):
    """An encoder with a 3x3 stem.

    head: name and module of a layer that is applied to the pooled features.
    """

    def __init__(
        self, deep=False, shortcut="shortcut", norm=nn.BatchNorm2d, padding=1, pool="average", normalize=None, **head
    ):
        super().__init__()
        if normalize is not None:
            self.normalize = normalize
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False), norm(64)
        inner = 64
        for i, (width, blocks) in enumerate(
            zip((64, 128, 256, 512), (3, 4, 6, 3) if deep else (2, 2, 2, 2), strict=True)
        ):
            layers = []
            for j in range(blocks):
                layers.append(Block(inner, width, 2 if i and not j else 1, deep, shortcut, norm))
                inner = 4 * width if deep else width
            setattr(self, f"layer{i + 1}", nn.Sequential(*layers))
        self.pool, self.head_name = pool, next(iter(head), None)
        for name, module in head.items():
            setattr(self, name, module)

    def forward(self, x):
        x = self.normalize(x) if hasattr(self, "normalize") else x
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = F.avg_pool2d(x, 4) if self.pool == "of 4" else F.adaptive_avg_pool2d(x, 1)
        x = x.flatten(1)
        return x if self.head_name is None else getattr(self, self.head_name)(x)


class ByChannel(nn.Module):
    """ACL's normalisation, with buffers that the file contains."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    def forward(self, x):
        return x.sub(self.mean[None, :, None, None]).div(self.std[None, :, None, None])


class Composed(nn.Module):
    """A module with the given named submodules."""

    def __init__(self, **parts):
        super().__init__()
        for name, module in parts.items():
            setattr(self, name, module)


def width(deep):
    return 2048 if deep else 512


def made(make, seed=0):
    """Return a module on the CPU with weights and BatchNorm statistics from a seeded generator."""
    with torch.device("meta"):
        net = make()
    net.to_empty(device="cpu").eval()
    rng = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        last = name.rpartition(".")[2]
        if not value.is_floating_point():
            value.fill_(7)
        elif last == "running_var" or (last == "weight" and value.ndim == 1):
            value.uniform_(0.5, 1.5, generator=rng)
        elif value.ndim == 1:
            value.normal_(0, 0.3, generator=rng)
        else:
            value.normal_(0, math.sqrt(0.7 / value[0].numel()), generator=rng)
        if "normalize." in name:
            value.copy_(torch.tensor(IMAGENET[last == "std"]))
    return net


@pytest.fixture(scope="module")
def x():
    return torch.empty(2, 3, 32, 32).uniform_(generator=torch.Generator().manual_seed(1))


def normalised(x, mean_std):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in mean_std)
    return (x - mean) / std


def ours(x, weights, name="cifar10-resnet18", **params):
    net = SPECS[name].build(Cifar(**params), weights).eval()
    with torch.inference_mode():
        return net(x)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def differ(ours, theirs):
    assert (ours - theirs).abs().max() > 0.005 * (theirs.max() - theirs.min())  # 50 times the tolerance of `same`


# --- SupContrast ------------------------------------------------------------------------------------------------------


def supcontrast_file(path, model):
    torch.save(
        {"opt": Namespace(model="resnet18", lr=0.1), "model": model.state_dict(), "optimizer": {}, "epoch": 500}, path
    )
    return path


@pytest.mark.parametrize(
    ("name", "deep", "classes", "mean_std"),
    [
        ("cifar10-resnet18", False, 10, CIFAR10),
        ("cifar10-resnet50", True, 10, CIFAR10),
        ("cifar100-resnet18", False, 100, CIFAR100),
        ("cifar100-resnet50", True, 100, CIFAR100),
    ],
)
def test_supcontrast_cross_entropy(tmp_path, x, name, deep, classes, mean_std):
    theirs = made(lambda: Composed(encoder=ResNet(deep), fc=nn.Linear(width(deep), classes)))
    file = supcontrast_file(tmp_path / "last.pth", theirs)
    with torch.inference_mode():
        logits = theirs.fc(theirs.encoder(normalised(x, mean_std)))
    found = ours(x, file, name)
    assert found.shape == (2, classes)
    same(found, logits)
    differ(ours(x, file, name, normalize="none"), logits)
    differ(ours(x, file, name, normalize="imagenet"), logits)
    differ(ours(x, file, name, stem_padding=2), logits)


@pytest.mark.parametrize("parallel", ["none", "all", "encoder"])
@pytest.mark.parametrize("nested", [True, False])
def test_prefixes_of_several_devices_plain_or_nested(tmp_path, x, parallel, nested):
    theirs = made(lambda: Composed(encoder=ResNet(), fc=nn.Linear(512, 10)))
    with torch.inference_mode():
        logits = theirs.fc(theirs.encoder(normalised(x, CIFAR10)))
    if parallel == "encoder":
        theirs.encoder = nn.DataParallel(theirs.encoder)
    model = nn.DataParallel(theirs) if parallel == "all" else theirs
    first = {"none": "encoder.", "all": "module.encoder.", "encoder": "encoder.module."}[parallel]
    assert next(iter(model.state_dict())).startswith(first)
    file = tmp_path / "a.pth"
    torch.save({"model": model.state_dict()} if nested else model.state_dict(), file)
    same(ours(x, file), logits)


def test_supcontrast_encoder_with_a_separate_head(tmp_path, x):
    def supcon():
        return Composed(
            encoder=nn.DataParallel(ResNet()), head=nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
        )

    theirs, probe = made(supcon), made(lambda: Composed(fc=nn.Linear(512, 10)), seed=5)
    files = {"encoder": supcontrast_file(tmp_path / "a.pth", theirs), "head": tmp_path / "b.pth"}
    torch.save({"model": probe.state_dict()}, files["head"])
    with torch.inference_mode():
        logits = probe.fc(theirs.encoder.module(normalised(x, CIFAR10)))
    same(ours(x, files), logits)
    with pytest.raises(UserError, match=r"a\.pth.*2 keys are missing: fc\.weight, fc\.bias.*head: \./head\.pth"):
        ours(x, files["encoder"])
    with pytest.raises(UserError, match=r"takes an encoder and a head, not backbone"):
        ours(x, {"backbone": files["encoder"]})


# --- RoCL -------------------------------------------------------------------------------------------------------------


def rocl_file(path, model):
    wrapped = nn.DataParallel(model).state_dict()
    state = torch.Generator().get_state()
    torch.save({"epoch": 150, "acc": 83.7, "model": wrapped, "optimizer_state": {}, "rng_state": state}, path)
    return path


@pytest.mark.parametrize(
    ("name", "deep", "classes"), [("cifar10-resnet18", False, 10), ("cifar100-resnet50", True, 100)]
)
def test_rocl_encoder_and_linear_file(tmp_path, x, name, deep, classes):
    encoder = made(lambda: ResNet(deep, pool="of 4"))
    linear = made(lambda: nn.Sequential(nn.Linear(width(deep), classes)), seed=3)
    files = {
        "encoder": rocl_file(tmp_path / "ckpt.t7rocl_0", encoder),
        "head": rocl_file(tmp_path / "ckpt.t7rocl_0_linear", linear),
    }
    assert list(torch.load(files["head"], weights_only=True)["model"]) == ["module.0.weight", "module.0.bias"]
    with torch.inference_mode():
        logits = linear(encoder(x))
        unbiased = F.linear(encoder(x), linear[0].weight)
    found = ours(x, files, name)
    same(found, logits)
    differ(unbiased, logits)
    differ(ours(x, files, name, normalize="cifar"), logits)


def test_a_head_without_its_bias_is_refused(tmp_path, x):
    encoder, linear = made(partial(ResNet, pool="of 4")), made(lambda: nn.Sequential(nn.Linear(512, 10, bias=False)))
    files = {"encoder": rocl_file(tmp_path / "a", encoder), "head": rocl_file(tmp_path / "b", linear)}
    with pytest.raises(UserError, match=r"/b does not fit .*1 keys are missing: bias"):
        ours(x, files)


# --- ACL --------------------------------------------------------------------------------------------------------------


class Projection(nn.Module):
    """Projection head with three layers and dual BatchNorms, named like a classifier."""

    def __init__(self, ch):
        super().__init__()
        for i in (1, 2, 3):
            setattr(self, f"fc{i}", nn.Linear(ch, ch, bias=i == 1))
            norm = Dual(ch, 0)
            norm.bn_list = nn.ModuleList([nn.BatchNorm1d(ch), nn.BatchNorm1d(ch)])
            setattr(self, f"bn{i}", norm)


def acl_file(path, model):
    torch.save({"epoch": 1000, "state_dict": model.state_dict(), "optim": {}}, path)
    return path


@pytest.mark.parametrize(
    ("name", "deep", "classes"), [("cifar10-resnet18", False, 10), ("cifar100-resnet50", True, 100)]
)
def test_acl_pretrained_with_two_batchnorms(tmp_path, x, name, deep, classes):
    def pretrained(branch):
        norm = partial(Dual, branch=branch)
        return ResNet(deep, "downsample", norm, normalize=ByChannel(), fc=Projection(width(deep)))

    probe = made(lambda: nn.Linear(width(deep), classes), seed=3)
    logits = {}
    for index, branch in enumerate(("normal", "pgd")):
        theirs = made(lambda: pretrained(index))  # noqa: B023
        state = theirs.state_dict()
        theirs.head_name = None
        with torch.inference_mode():
            logits[branch] = probe(theirs(x))
    assert {
        "bn1.bn_list.1.weight",
        "layer2.0.downsample.bn.bn_list.0.weight",
        "normalize.mean",
        "fc.fc3.weight",
    } <= set(state)
    files = {"encoder": acl_file(tmp_path / "a.pt", theirs), "head": tmp_path / "b.pt"}
    torch.save(probe.state_dict(), files["head"])
    same(ours(x, files, name), logits["pgd"])
    same(ours(x, files, name, branch="normal"), logits["normal"])
    differ(logits["normal"], logits["pgd"])
    differ(ours(x, files, name, normalize="cifar"), logits["pgd"])
    differ(ours(x, files, name, normalize="none"), logits["pgd"])


def test_acl_fine_tuned(tmp_path, x):
    theirs = made(lambda: ResNet(shortcut="downsample", normalize=ByChannel(), fc=nn.Linear(512, 10)))
    theirs.normalize.mean += 0.05  # the file's constants differ from ImageNet's
    with torch.inference_mode():
        logits = theirs(x)
    file = acl_file(tmp_path / "best_model.pt", theirs)
    same(ours(x, file), logits)
    same(ours(x, file, branch="normal"), logits)
    differ(ours(x, file, normalize="none"), logits)


# --- kuangliu, torchvision, solo-learn --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False])
def test_kuangliu(tmp_path, x, wrapped):
    theirs = made(lambda: ResNet(pool="of 4", linear=nn.Linear(512, 10)))
    model = nn.DataParallel(theirs) if wrapped else theirs
    torch.save({"net": model.state_dict(), "acc": 95.47, "epoch": 199}, tmp_path / "ckpt.pth")
    with torch.inference_mode():
        same(ours(x, tmp_path / "ckpt.pth"), theirs(normalised(x, CIFAR10)))
        same(ours(x, tmp_path / "ckpt.pth", normalize="none"), theirs(x))


def torchvision_style(padding=1, **head):
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False)
    net.maxpool = nn.Identity()
    for name, module in head.items():
        setattr(net, name, module)
    return net


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_torchvision_naming(tmp_path, x, container):
    theirs = made(torchvision_style)
    torch.save({container: theirs.state_dict()} if container else theirs.state_dict(), tmp_path / "a.pth")
    with torch.inference_mode():
        same(ours(x, tmp_path / "a.pth"), theirs(normalised(x, CIFAR10)))
        same(ours(x, tmp_path / "a.pth", normalize="imagenet"), theirs(normalised(x, IMAGENET)))


@pytest.mark.parametrize("prefix", ["module.", "encoder.", "encoder.module."])
def test_torchvision_names_with_prefixes_are_recognised(tmp_path, x, prefix):
    theirs = made(torchvision_style)
    state = {f"{prefix * (not name.startswith('fc.'))}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with torch.inference_mode():
        same(ours(x, tmp_path / "a.pth"), theirs(normalised(x, CIFAR10)))
    torch.save({"state_dict": state | {f"{prefix}extra.weight": torch.ones(1)}}, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"1 keys are unexpected: extra\.weight"):
        ours(x, tmp_path / "b.pth")


@pytest.mark.parametrize("backbone", ["backbone", "encoder"])
def test_solo_learn(tmp_path, x, backbone):
    def linear():
        parts = {backbone: torchvision_style(padding=2, fc=nn.Identity()), "classifier": nn.Linear(512, 10)}
        return Composed(**parts, projector=nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 8)))

    theirs = made(linear)
    file = tmp_path / "last.ckpt"
    torch.save({"epoch": 99, "state_dict": theirs.state_dict(), "optimizer_states": []}, file)
    own = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    with torch.inference_mode():
        logits = theirs.classifier(getattr(theirs, backbone)(normalised(x, own)))
    same(ours(x, file), logits)
    differ(ours(x, file, stem_padding=1), logits)
    differ(ours(x, file, normalize="cifar"), logits)


# --- mismatching checkpoints ------------------------------------------------------------------------------------------


def test_a_file_of_another_layout_is_refused_with_a_list_and_the_layout_that_fits(tmp_path, x):
    theirs = made(lambda: Composed(encoder=ResNet(), fc=nn.Linear(512, 10)))
    file = supcontrast_file(tmp_path / "last.pth", theirs)
    with pytest.raises(UserError) as caught:
        ours(x, file, layout="rocl")
    message = str(caught.value)
    assert str(file) in message
    assert "keys are missing: conv1.weight" in message
    assert "keys are unexpected: encoder.conv1.weight" in message
    assert message.endswith("Try: set `layout: supcontrast` in the suite")


@pytest.mark.parametrize(
    ("wrap", "choice"),
    [
        (lambda state: {f"_orig_mod.{key}": value for key, value in state.items()}, "`strip: _orig_mod.`"),
        (lambda state: {"net": {f"model.{key}": value for key, value in state.items()}}, "`strip: model.`"),
        (lambda state: {"model_state": state, "epoch": 3}, "`inside: model_state`"),
        (lambda state: {"ema": {"weights": state}}, "`inside: ema.weights`"),
    ],
)
def test_a_prefix_or_a_nested_state_is_not_taken_for_a_missing_classifier(tmp_path, x, wrap, choice):
    theirs = made(lambda: ResNet(pool="of 4", linear=nn.Linear(512, 10)))
    torch.save(wrap(theirs.state_dict()), tmp_path / "a.pth")
    with pytest.raises(UserError) as caught:
        ours(x, tmp_path / "a.pth", layout="kuangliu")
    message = str(caught.value)
    assert "Only the classifier" not in message and "another layout" not in message
    assert message.endswith(f"With {choice}, its state fits. Try: set {choice} beside `weights:` in the suite")
    keys = dict(re.findall(r"`(inside|strip): ([^`]+)`", choice))
    with choosing({tmp_path / "a.pth": StateChoice(**keys)}), torch.inference_mode():
        same(ours(x, tmp_path / "a.pth", layout="kuangliu"), theirs(normalised(x, CIFAR10)))


def test_a_classifier_under_another_name_is_not_said_to_be_missing(tmp_path, x):
    state = made(lambda: ResNet(pool="of 4", linear=nn.Linear(512, 10))).state_dict()
    renamed = {key.replace("linear.", "output."): value for key, value in state.items()}
    torch.save(renamed, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"2 keys are unexpected: output\.weight, output\.bias") as caught:
        ours(x, tmp_path / "a.pth", layout="kuangliu")
    assert "Only the classifier" not in str(caught.value)


def test_another_layout_is_named_only_if_it_fits(tmp_path, x):
    torch.save({"conv1.weight": torch.ones(1), "layer1.0.shortcut.0.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="keys are missing") as caught:
        ours(x, tmp_path / "a.pth", layout="torchvision")
    assert "another layout" not in str(caught.value)


def test_the_layout_of_a_file_is_recognised_by_its_own_keys_whatever_is_stripped(tmp_path, x):
    """solo-learn's padding and normalisation, and RoCL's normalisation, are not those of the default layout."""
    theirs = made(lambda: ResNet(pool="of 4", linear=nn.Linear(512, 10)))
    file = rocl_file(tmp_path / "rocl.t7", theirs)
    expected = ours(x, file)
    for keys in ({"inside": "model"}, {"strip": "module."}, {"inside": "model", "strip": "module."}):
        with choosing({file: StateChoice(**keys)}):
            same(ours(x, file), expected)
    backbone = made(lambda: ResNet(pool="of 4")).state_dict()
    state = {f"backbone.{key.replace('shortcut', 'downsample')}": value for key, value in backbone.items()}
    state |= {"classifier.weight": torch.ones(10, 512), "classifier.bias": torch.zeros(10)}
    torch.save({"state_dict": state}, tmp_path / "solo.ckpt")
    torch.save({"weight": torch.ones(10, 512), "bias": torch.zeros(10)}, tmp_path / "head.pth")
    expected = ours(x, tmp_path / "solo.ckpt")
    files = {"encoder": tmp_path / "solo.ckpt", "head": tmp_path / "head.pth"}
    with choosing({files["encoder"]: StateChoice(strip="backbone.")}):
        same(ours(x, files), expected)


def test_a_file_of_another_depth_or_number_of_classes_is_refused_with_the_shapes(tmp_path, x):
    theirs = made(lambda: Composed(encoder=ResNet(), fc=nn.Linear(512, 10)))
    file = supcontrast_file(tmp_path / "last.pth", theirs)
    with pytest.raises(UserError, match=r"fc\.weight \(10, 512\) instead of \(100, 512\)"):
        ours(x, file, "cifar100-resnet18")
    with pytest.raises(UserError, match=r"layer1\.0\.conv3\.weight.*of another shape"):
        ours(x, file, "cifar10-resnet50")


def test_a_pickle_with_other_classes_is_refused_with_its_sha256(tmp_path, x):
    torch.save({"model": {}, "opt": torch.utils.data.RandomSampler([0])}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"--trust [0-9a-f]{64}"):
        ours(x, tmp_path / "a.pth")


def test_building_keeps_the_random_state_and_features_are_the_classifiers_input(tmp_path, x):
    theirs = made(lambda: ResNet(pool="of 4", linear=nn.Linear(512, 10)))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    before, seen = torch.get_rng_state(), []
    spec = SPECS["cifar10-resnet18"]
    net = spec.build(Cifar(), tmp_path / "a.pth").eval()
    assert torch.equal(torch.get_rng_state(), before)
    net.get_submodule(spec.features).register_forward_hook(lambda module, given, output: seen.append(output.flatten(1)))
    with torch.inference_mode():
        logits = net(x)
        torch.testing.assert_close(F.linear(seen[0], theirs.linear.weight, theirs.linear.bias), logits)


def test_every_alternative_is_an_option():
    for spec in SPECS.values():
        for keys in spec.alternatives.values():
            Cifar(**keys)
        assert (spec.input.shape, spec.preprocessing) == ((3, 32, 32), None)
    assert {spec.labels for spec in SPECS.values()} == {"cifar-10", "cifar-100"}
