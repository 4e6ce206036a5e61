"""Encoders in the layouts of adversarial contrastive training: read by these publishers' rules, and by `ssl/...`."""

from __future__ import annotations

import itertools

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from robharness import UserError, discover
from robharness_contrastive import networks
from robharness_contrastive.export import in_layout, main

LAYOUTS = ["rocl", "acl", "dynacl", "advcl", "deacl"]
BRANCHES = {"adversarial": 1, "clean": 0}


class Dual(nn.Module):
    """Two BatchNorms under `bn_list`, of which one is in use."""

    def __init__(self, width):
        super().__init__()
        self.bn_list, self.used = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)]), 1

    def forward(self, x):
        return self.bn_list[self.used](x)


def made(*, is_dual=False, is_normalized=True):
    """Return an encoder of this plugin with random weights, and statistics that are not those of a new network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (initial weights)
        net = networks.encoder("resnet18", "datasets/cifar-10" if is_normalized else "datasets/images", (3, 32, 32))
        if is_dual:
            for name, layer in list(net.named_modules()):
                if isinstance(layer, nn.BatchNorm2d):
                    net.set_submodule(name, Dual(layer.num_features))
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                (
                    layer.running_mean.normal_(0, 0.1),
                    layer.running_var.uniform_(0.5, 2),
                    layer.weight.data.uniform_(0.5, 2),
                )
                layer.bias.data.normal_(0, 0.1), layer.num_batches_tracked.fill_(7)
    return net.eval()


def use(net, branch):
    for layer in net.modules():
        if isinstance(layer, Dual):
            layer.used = BRANCHES[branch]
    return net


def artefact(net):
    """Return the weights of an artefact, with a projection head and a classifier."""
    others = {
        "projection.0.weight": torch.eye(512),
        "head.weight": torch.arange(5120.0).view(10, 512),
        "head.bias": torch.ones(10),
    }
    return {**{f"encoder.{key}": value for key, value in net.state_dict().items()}, **others}


def fitting(layout):
    """Return an encoder that the layout has a place for."""
    return made(is_dual=layout in ("acl", "dynacl", "advcl"), is_normalized=layout not in ("rocl", "advcl"))


def read(layout, content, file, **options):
    """Return the network that `ssl/...` reads from a content."""
    torch.save(content, file)
    models = discover().models
    spec = next(entry.spec for name, entry in models.items() if name == f"ssl/{layout}-resnet18")
    return spec.build(spec.params(**options) if spec.params else None, file).eval()


@pytest.fixture(scope="module")
def x():
    return torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def outputs(net, x):
    with torch.no_grad():
        return net(x)


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_exported_encoder_has_the_same_features_to_the_bit(layout, x, tmp_path):
    net = fitting(layout)
    content, _ = in_layout(artefact(net), layout)
    padding = {"padding": 1} if layout == "deacl" else {}  # the network of this plugin pads by 1
    if layout in ("rocl", "deacl"):
        same(outputs(read(layout, content, tmp_path / "w.pt", **padding), x), outputs(net, x))
        return
    found = {}
    for branch in BRANCHES:
        found[branch] = outputs(read(layout, content, tmp_path / "w.pt", branch=branch), x)
        same(found[branch], outputs(use(net, branch), x))
    assert not torch.equal(*found.values())


@pytest.mark.parametrize(("layout", "branch"), list(itertools.product(["rocl", "advcl", "deacl"], BRANCHES)))
def test_a_layout_with_one_branch_gets_the_chosen_one(layout, branch, x, tmp_path):
    net = use(made(is_dual=True, is_normalized=layout == "deacl"), branch)
    content, _ = in_layout(artefact(net), layout, branch)
    options = {"rocl": {}, "advcl": {"branch": branch}, "deacl": {"padding": 1}}[layout]
    same(outputs(read(layout, content, tmp_path / "w.pt", **options), x), outputs(net, x))


def test_one_batchnorm_becomes_the_branch_that_advcl_evaluates(x, tmp_path):
    net = made(is_normalized=False)
    content, _ = in_layout(artefact(net), "advcl")
    same(outputs(read("advcl", content, tmp_path / "w.pt"), x), outputs(net, x))
    with pytest.raises(UserError, match="no BatchNorms of the branch 'clean'"):
        read("advcl", content, tmp_path / "w.pt", branch="clean")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_was_read_goes_out_again_with_the_same_tensors(layout, tmp_path):
    content, _ = in_layout(artefact(fitting(layout)), layout)
    state = {}
    branches = [] if layout in ("rocl", "deacl") else BRANCHES
    for branch in branches or [None]:
        net = read(layout, content, tmp_path / "w.pt", **({"branch": branch} if branch else {}))
        for name, value in net.state_dict().items():
            place, _, last = name.rpartition(".")
            is_norm = isinstance(net.get_submodule(place), nn.BatchNorm2d) and branch
            key = f"{place}.bn_list.{BRANCHES[branch]}.{last}" if is_norm else name
            is_constant = name.startswith("normalize.")
            state[f"encoder.normalize.0.{last}" if is_constant else f"encoder.trunk.{key}"] = value
    again, _ = in_layout(state, layout)
    (first,), (second,) = content.values(), again.values()
    assert first.keys() == second.keys()
    for key in first:
        same(second[key], first[key])


# --- the publishers' readers, from their descriptions -----------------------------------------------------------------


def by_rocl(content):
    """src/linear_eval.py at b6d5185: `model`, seven characters cut, strictly into a network with `shortcut`."""
    state = {key[7:]: value for key, value in content["model"].items()}
    assert not any("downsample" in key for key in state)
    return {key.replace("shortcut", "downsample"): value for key, value in state.items()}


def by_acl(content):
    """train_trades.py at 399eabd, --cvt_state_dict --bnNameCnt 1: every key with "bn" has "bn_list"."""
    state = dict(content["state_dict"])
    assert all("bn_list" in key for key in state if "bn" in key)
    state |= {key.replace(".bn_list.1", ""): value for key, value in state.items() if "bn_list.1" in key}
    state = {key: value for key, value in state.items() if "bn_list" not in key and "fc" not in key}
    return {key.replace("downsample.conv", "downsample.0").replace("downsample.bn", "downsample.1"): value
            for key, value in state.items()}  # fmt: skip


def by_advcl(content):
    """utils.py at 24cb7a6, into a network in DataParallel; the other branches are left out."""
    state = {}
    for key, value in content["model"].items():
        assert key.startswith("module.")
        new = key.replace("downsample", "shortcut").replace("shortcut.bn.bn_list.1", "shortcut.1")
        new = new.replace(".bn_list.1", "").replace("shortcut.conv", "shortcut.0").removeprefix("module.")
        if "bn_list" not in new:
            state[new.replace("shortcut", "downsample")] = value
    return state


def by_deacl(content):
    """adv_finetune.py at 3fb81e3: the keys with `backbone.`, strictly."""
    return {key.replace("backbone.", ""): v for key, v in content["state_dict"].items() if key.startswith("backbone.")}


READERS = {"rocl": by_rocl, "acl": by_acl, "dynacl": by_acl, "advcl": by_advcl, "deacl": by_deacl}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_publishers_reader_takes_the_file_from_the_command(layout, x, tmp_path):
    net = use(fitting(layout), "adversarial")
    save_file({key: value.contiguous() for key, value in artefact(net).items()}, tmp_path / "weights.safetensors")
    done = CliRunner().invoke(main, [str(tmp_path), str(tmp_path / "w.pt"), "--layout", layout])
    assert done.exit_code == 0, done.output
    state = READERS[layout](torch.load(tmp_path / "w.pt", weights_only=True))
    constants = [state.pop(f"normalize.{name}", None) for name in ("mean", "std")]
    assert (constants[0] is None) == (layout in ("rocl", "advcl"))
    theirs = resnet18()
    theirs.conv1, theirs.maxpool, theirs.fc = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity(), nn.Identity()
    theirs.load_state_dict(state, strict=True)
    given = x if constants[0] is None else (x - constants[0].view(3, 1, 1)) / constants[1].view(3, 1, 1)
    same(outputs(theirs.eval(), given), outputs(net, x))
    if layout == "deacl":  # whose network pads by 2: weights alone do not make the same encoder
        assert "padding: 1" in done.output
        theirs.conv1.padding = (2, 2)
        assert not torch.allclose(outputs(theirs, given), outputs(net, x), rtol=1e-2)


def test_rocls_classifier_is_a_file_of_its_own(tmp_path):
    """robustness_test.py reads FILE_linear into a sequence of one layer."""
    weights = artefact(made(is_normalized=False))
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "weights.safetensors")
    done = CliRunner().invoke(main, [str(tmp_path), str(tmp_path / "ckpt.t7"), "--layout", "rocl"])
    assert done.exit_code == 0 and "ckpt.t7_linear" in done.output
    linear = torch.load(tmp_path / "ckpt.t7_linear", weights_only=True)["model"]
    same(
        {key[7:]: value for key, value in linear.items()}, {f"0.{k}": weights[f"head.{k}"] for k in ("weight", "bias")}
    )


# --- what a layout cannot hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "options", "branch", "message"),
    [
        ("acl", {}, None, "has two BatchNorms per layer, .*and the encoder has one"),
        ("dynacl", {}, None, "has two BatchNorms per layer, .*and the encoder has one"),
        ("acl", {"is_dual": True}, "clean", "has both branches. Try: leave --branch out"),
        ("deacl", {}, "clean", "has one BatchNorm per layer. Try: leave --branch out"),
        ("rocl", {"is_normalized": False, "is_dual": True}, None, "layout rocl one. Try: --branch adversarial, or"),
        ("deacl", {"is_dual": True}, None, "layout deacl one. Try: --branch adversarial, or"),
        ("torchvision", {"is_dual": True}, None, "layout torchvision one. Try: --branch adversarial, or"),
        ("supcontrast", {"is_dual": True}, None, "layout supcontrast one. Try: --branch adversarial, or"),
        ("rocl", {}, None, r"normalises its inputs \(mean \[0\.4914, .*never do"),
        ("advcl", {"is_dual": True}, None, r"normalises its inputs \(mean \[0\.4914, .*never do"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(layout, options, branch, message):
    with pytest.raises(UserError, match=message):
        in_layout(artefact(made(**options)), layout, branch)


def test_one_branch_alone_and_another_stem_are_refused(tmp_path):
    weights = artefact(made(is_dual=True))
    clean = {key: value for key, value in weights.items() if ".bn_list.1." not in key}
    with pytest.raises(UserError, match=r"has BatchNorms \[0\], not 0 and 1"):
        in_layout(clean, "acl")
    stem = {**weights, "encoder.trunk.conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(UserError, match=r"\(64, 3, 7, 7\), and the layout acl that of CIFAR's stem"):
        in_layout(stem, "acl")
    save_file({key: value.contiguous() for key, value in clean.items()}, tmp_path / "weights.safetensors")
    done = CliRunner().invoke(main, [str(tmp_path), str(tmp_path / "w.pt"), "--layout", "acl"])
    assert done.exit_code == 1 and "Try: " in done.output and not (tmp_path / "w.pt").exists()
    done = CliRunner().invoke(main, [str(tmp_path), str(tmp_path / "no" / "w.pt"), "--layout", "acl"])
    assert done.exit_code == 1 and f"Try: mkdir -p {tmp_path / 'no'}" in done.output


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("layout", ["torchvision", "supcontrast"])
def test_the_other_layouts_take_a_branch(layout, branch):
    net = made(is_dual=True)
    content, _ = in_layout(artefact(net), layout, branch)
    state = content if layout == "torchvision" else content["model"]
    key = (
        "layer2.0.downsample.1.running_mean" if layout == "torchvision" else "encoder.layer2.0.shortcut.1.running_mean"
    )
    same(state[key], net.trunk.layer2[0].downsample[1].bn_list[BRANCHES[branch]].running_mean)
    assert not any("bn_list" in name for name in state)
