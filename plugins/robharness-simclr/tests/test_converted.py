"""Converted SimCLR checkpoints: v1 with torchvision's names, v2 with those of SimCLRv2-Pytorch, rebuilt here."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
import torchvision
from torch import nn

from robharness import UserError, checkpoints
from robharness_simclr import robharness_models
from robharness_simclr.loading import LAYOUTS, LostBias
from robharness_simclr.networks import ResNet

SPECS = {spec.name: spec for spec in robharness_models()}
BLOCKS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


def drawn(net, seed=0):
    """Fill a network from the meta device with random weights that keep the scale of activations."""
    generator = torch.Generator().manual_seed(seed)
    net = net.to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("num_batches_tracked"):
                value.fill_(225206)
            elif name.endswith("running_var") or name.endswith("weight"):
                value.uniform_(0.3, 0.9, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return net


def built(spec, file, **params):
    return spec.build(spec.params(**params), file).eval()


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


# v1: simclr-converter's network has torchvision's names and, with width 1, torchvision's architecture


@pytest.fixture(scope="module")
def first():
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    return drawn(net)


@pytest.fixture(scope="module")
def first_file(first, tmp_path_factory):
    file = tmp_path_factory.mktemp("v1") / "resnet50-1x.pth"
    torch.save({"state_dict": first.state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def first_logits(first, x):
    return logits(first, x)


def test_the_converted_file_gives_the_converters_logits(first_file, first_logits, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the bias was not lost
        net = built(SPECS["resnet50"], first_file)
    assert_same(logits(net, x), first_logits)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_without_container_loads(first, first_logits, x, tmp_path, prefix):
    torch.save({prefix + name: value for name, value in first.state_dict().items()}, tmp_path / "bare.pth")
    assert_same(logits(built(SPECS["resnet50"], tmp_path / "bare.pth"), x), first_logits)


def test_pooling_like_tensorflow_changes_the_logits(first_file, first_logits, x):
    assert_differ(logits(built(SPECS["resnet50"], first_file, padding="same"), x), first_logits)


def test_a_normalisation_would_change_the_logits(first_file, first_logits, x):
    net = built(SPECS["resnet50"], first_file)
    assert_differ(logits(net, (x - 0.45) / 0.225), first_logits)


def test_pooling_same_pads_the_end_of_even_sides_and_both_ends_of_odd_ones(first_file):
    pool = built(SPECS["resnet50"], first_file, padding="same").maxpool
    line = torch.tensor([5.0, 1, 2, 0, -3, -1, -4])
    for length, expected in ((6, [5, 2, -1]), (7, [5, 2, 0, -1])):
        grid = line[:length].expand(1, 1, length, length)
        assert pool(grid)[0, 0, 0].tolist() == expected


def test_a_lost_bias_is_kept_with_a_warning_or_zero(first, x, tmp_path):
    """The converter keeps the random initial `fc.bias` of nn.Linear."""
    state = dict(first.state_dict())
    state["fc.bias"] = torch.empty(1000).uniform_(-(2048**-0.5), 2048**-0.5, generator=torch.Generator().manual_seed(1))
    torch.save({"state_dict": state}, tmp_path / "lost.pth")
    with pytest.warns(LostBias, match=r"lost\.pth.*bias: zero"):
        kept = built(SPECS["resnet50"], tmp_path / "lost.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zero = built(SPECS["resnet50"], tmp_path / "lost.pth", bias="zero")
    expected = logits(first, x) - first.fc.bias.detach()
    assert_same(logits(zero, x), expected)
    assert_same(logits(kept, x), expected + state["fc.bias"])
    assert_differ(logits(kept, x), expected)
    assert_differ(logits(kept, x), logits(first, x))


@pytest.mark.parametrize("bias", [torch.zeros(1000), torch.linspace(-1, 1, 1000) ** 3 / 45.5])
def test_other_small_biases_are_not_taken_for_lost(first, tmp_path, bias):
    torch.save({"state_dict": {**first.state_dict(), "fc.bias": bias}}, tmp_path / "small.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(SPECS["resnet50"], tmp_path / "small.pth")


@pytest.mark.parametrize("width", [1, 2, 4])
def test_wide_networks_have_torchvisions_shapes_times_the_width(width):
    with torch.device("meta"):
        theirs, ours = torchvision.models.resnet50(), ResNet(*network_of(f"resnet50-{width}x".replace("-1x", "")))
    expected = {}
    for name, value in theirs.state_dict().items():
        sizes = list(value.shape)
        sizes[0:1] = [size * (1 if name.startswith("fc") else width) for size in sizes[0:1]]
        sizes[1:2] = [size * (1 if name == "conv1.weight" else width) for size in sizes[1:2]]
        expected[name] = torch.Size(sizes)
    assert {name: value.shape for name, value in ours.state_dict().items()} == expected


def network_of(name):
    depth, width, selective = SPECS[name].build.args
    assert not selective
    return depth, width


def test_a_file_of_another_width_is_refused_with_the_shapes(first_file):
    with pytest.raises(UserError, match=r"resnet50-1x\.pth.*conv1\.weight \(64, 3, 7, 7\) instead of \(128, 3, 7, 7\)"):
        built(SPECS["resnet50-2x"], first_file)


def test_several_files_are_refused(first_file):
    with pytest.raises(
        UserError, match=r"one file, not several \(backbone, head\)\. Try: set `weights: \./FILE` in the suite$"
    ):
        built(SPECS["resnet50"], {"backbone": first_file, "head": first_file})


def test_building_keeps_the_random_state_and_features_are_the_classifiers_input(first_file, x):
    before = torch.get_rng_state()
    net = built(SPECS["resnet50"], first_file)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in net.state_dict().values())
    seen = []
    net.get_submodule(SPECS["resnet50"].features).register_forward_hook(lambda *call: seen.append(call[2].flatten(1)))
    out = logits(net, x)
    assert seen[0].shape == (2, 2048)
    assert_same(logits(net.fc, seen[0]), out)


# v2: the publisher's network, rebuilt with its names


def norm(channels, relu=True):
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU() if relu else nn.Identity())


def conv(inputs, outputs, kernel=3, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)


class Kernels(nn.Module):
    def __init__(self, width, stride):
        super().__init__()
        middle = max(width // 16, 32)
        self.main_conv = nn.Sequential(conv(width, 2 * width, 3, stride), norm(2 * width))
        self.mixing_conv = nn.Sequential(conv(width, middle, 1), norm(middle), conv(middle, 2 * width, 1))

    def forward(self, x):
        a, b = self.main_conv(x).chunk(2, dim=1)
        share = torch.sigmoid(torch.sub(*self.mixing_conv((a + b).mean([2, 3], keepdim=True)).chunk(2, dim=1)))
        return share * a + (1 - share) * b


class Projection(nn.Module):
    def __init__(self, taken, given, stride, sk):
        super().__init__()
        deep = [nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride), conv(taken, given, 1)]
        self.shortcut = nn.Sequential(*deep) if sk else conv(taken, given, 1, stride)
        self.bn = norm(given, relu=False)

    def forward(self, x):
        return self.bn(self.shortcut(x))


class Block(nn.Module):
    def __init__(self, taken, width, stride, sk, projects):
        super().__init__()
        self.projection = Projection(taken, 4 * width, stride, sk) if projects else nn.Identity()
        middle = [Kernels(width, stride)] if sk else [conv(width, width, 3, stride), norm(width)]
        last = [conv(width, 4 * width, 1), norm(4 * width, relu=False)]
        self.net = nn.Sequential(conv(taken, width, 1), norm(width), *middle, *last)

    def forward(self, x):
        return (self.projection(x) + self.net(x)).relu()


class Blocks(nn.Module):
    def __init__(self, count, taken, width, stride, sk):
        super().__init__()
        self.blocks = nn.ModuleList([Block(taken, width, stride, sk, True)])
        self.blocks.extend(Block(4 * width, width, 1, sk, False) for _ in range(count - 1))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Second(nn.Module):
    def __init__(self, depth, width, sk):
        super().__init__()
        c = 64 * width
        deep = [conv(3, c // 2, 3, 2), norm(c // 2), conv(c // 2, c // 2), norm(c // 2), conv(c // 2, c)]
        stem = nn.Sequential(*(deep if sk else [conv(3, c, 7, 2)]), norm(c), nn.MaxPool2d(3, 2, 1))
        counts = BLOCKS[depth]
        rest = [Blocks(n, c if i == 0 else c * 2 ** (i + 1), c * 2**i, 1 + (i > 0), sk) for i, n in enumerate(counts)]
        self.net = nn.Sequential(stem, *rest)
        self.fc = nn.Linear(32 * c, 1000)

    def forward(self, x):
        return self.fc(self.net(x).mean(dim=[2, 3]))


@pytest.mark.parametrize("sk", [0, 1])
def test_the_converted_file_of_v2_gives_the_publishers_logits(sk, x, tmp_path):
    with torch.device("meta"):
        theirs = Second(50, 1, sk)
    drawn(theirs)
    file = tmp_path / f"r50_1x_sk{sk}.pth"
    head = nn.Linear(4, 2, device="meta").to_empty(device="cpu")
    torch.save({"resnet": theirs.state_dict(), "head": head.state_dict()}, file)
    spec = SPECS["v2-resnet50" + "-sk" * sk]
    assert_same(logits(built(spec, file), x), logits(theirs, x))
    same = built(spec, file, padding="same")
    assert_differ(logits(same, x), logits(theirs, x))
    theirs.net[0][-1] = same.maxpool
    if sk:
        assert float((logits(same, x) - logits(theirs, x)).abs().max()) > 2e-4 * float(logits(theirs, x).abs().max()), (
            "the mean of the first shortcut also differs"
        )
    else:
        assert_same(logits(same, x), logits(theirs, x))


@pytest.mark.parametrize("name", [name for name in SPECS if name.startswith("v2-")])
def test_every_member_of_v2_has_the_publishers_shapes(name):
    depth, width, selective = SPECS[name].build.args
    assert f"r{depth}_{width}x_sk{int(selective)}.pth" == SPECS[name].weights.path.removeprefix("weights/")
    with torch.device("meta"):
        theirs, ours = Second(depth, width, selective), ResNet(depth, width, selective=selective)
    (layout,) = (
        layout for layout in LAYOUTS if layout.name.endswith("kernels") == selective and layout.name[-1] in "hs"
    )
    found = checkpoints.state({"resnet": theirs.state_dict()}, layout)
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert {key: value.shape for key, value in found.items()} == shapes


def test_selective_kernels_in_a_network_without_are_refused_by_name(x, tmp_path):
    with torch.device("meta"):
        theirs = Second(50, 1, 1)
    torch.save({"resnet": drawn(theirs).state_dict()}, tmp_path / "r50_1x_sk1.pth")
    with pytest.raises(UserError, match=r"r50_1x_sk1\.pth does not fit ResNet: "):
        built(SPECS["v2-resnet50"], tmp_path / "r50_1x_sk1.pth")


# the specs


def test_nineteen_models_with_the_published_accuracies():
    assert len(SPECS) == 19
    first = {name: (spec.expected["clean"], spec.input.shape) for name, spec in SPECS.items() if "v2" not in name}
    assert first == {
        "resnet50": (0.689, (3, 256, 256)),
        "resnet50-tf": (0.691, (3, 224, 224)),
        "resnet50-2x": (0.741, (3, 256, 256)),
        "resnet50-2x-tf": (0.742, (3, 224, 224)),
        "resnet50-4x": (0.764, (3, 256, 256)),
        "resnet50-4x-tf": (0.766, (3, 224, 224)),
    }
    assert SPECS["v2-resnet152-3x-sk"].expected == {"clean": 0.798}
    for spec in SPECS.values():
        assert spec.preprocessing.size == spec.input.shape[1:]
        assert spec.labels == "imagenet-1k"
        for keys in spec.alternatives.values():
            spec.params(**{key: value for key, value in keys.items() if key != "preprocessing"})


def test_declaring_imports_nothing_heavy():
    script = """
import sys
import robharness_simclr
assert len(list(robharness_simclr.robharness_models())) == 19
heavy = {"torch", "torchvision", "numpy", "google_crc32c"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
