"""Publishers' ResNets: files as their code writes them, and outputs as their evaluation computes them."""

from __future__ import annotations

from argparse import Namespace

import pytest
import ssl_publishers
import torch
from ssl_publishers import ResNet, drawn, mlp, normal, parallel
from torch import nn

from robharness import UserError
from robharness.checkpoints import StateChoice, choosing

SWAV = {"std": (0.228, 0.224, 0.225)}


def training(state):
    """Return the checkpoint of main_moco.py, main_simsiam.py and main_lincls.py."""
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": [{}]}}


class MoCoV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder_q, self.encoder_k = (
            ResNet(nn.Sequential(nn.Linear(2048, 32), nn.ReLU(), nn.Linear(32, 16))) for _ in range(2)
        )
        self.register_buffer("queue", torch.zeros(16, 64))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


class MoCoV3(nn.Module):
    def __init__(self):
        super().__init__()
        self.base_encoder, self.momentum_encoder = (ResNet(mlp(2048, 32, 16, bias=False)) for _ in range(2))
        self.predictor = mlp(16, 32, 16, bias=False)


class SimSiam(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = ResNet(nn.Sequential(*mlp(2048, 32, 16), nn.BatchNorm1d(16, affine=False)))
        self.predictor = mlp(16, 8, 16)


class Twins(nn.Module):
    """Barlow Twins and VICReg: a backbone and a projector."""

    def __init__(self, padded):
        super().__init__()
        self.backbone = ResNet(padded=padded)
        self.projector = mlp(2048, 32, 16, bias=False)
        if not padded:
            self.bn = nn.BatchNorm1d(16, affine=False)


class DeepCluster(ResNet):
    def __init__(self):
        super().__init__(padded=True)
        self.projection_head = mlp(2048, 32, 16)
        self.prototypes = nn.ModuleDict({f"prototypes{n}": nn.Linear(16, 30, bias=False) for n in range(3)})


def moco_v2():
    net = drawn(MoCoV2())
    return training(parallel(net)), net.encoder_q


def moco_v3():
    net = drawn(MoCoV3())
    return {**training(parallel(net)), "scaler": {"scale": 65536.0}}, net.base_encoder


def simsiam():
    net = drawn(SimSiam())
    return training(parallel(net)), net.encoder


def barlow():
    net = drawn(Twins(padded=False))
    return net.backbone.state_dict(), net.backbone


def barlow_checkpoint():
    net = drawn(Twins(padded=False))
    return {"epoch": 1000, "model": parallel(net), "optimizer": {}}, net.backbone


def vicreg():
    net = drawn(Twins(padded=True))
    return net.backbone.state_dict(), net.backbone


def vicreg_checkpoint():
    net = drawn(Twins(padded=True))
    return {"epoch": 1000, "model": parallel(net), "optimizer": {}}, net.backbone


def deepcluster():
    net = drawn(DeepCluster())
    return parallel(net), net


def deepcluster_checkpoint():
    net = drawn(DeepCluster())
    return {"epoch": 800, "state_dict": parallel(net), "optimizer": {}}, net


def dino():
    net = drawn(ResNet())
    return net.state_dict(), net


def dino_checkpoint():
    """A full checkpoint: with BatchNorm, teacher and student are both wrapped for several processes."""
    student, teacher = nn.Module(), nn.Module()
    for seed, net in enumerate((student, teacher)):
        net.backbone, net.head = ResNet(), ssl_publishers.DINOHead(2048)
        drawn(net, seed)
    content = {"student": parallel(student), "teacher": parallel(teacher), "optimizer": {}, "epoch": 800,
               "args": Namespace(arch="resnet50", out_dim=20), "dino_loss": {"center": torch.zeros(1, 20)}}  # fmt: skip
    return content, teacher.backbone


FILES = [
    ("moco-v2-resnet50", moco_v2), ("moco-v3-resnet50", moco_v3), ("simsiam-resnet50", simsiam),
    ("barlowtwins-resnet50", barlow), ("barlowtwins-resnet50", barlow_checkpoint), ("vicreg-resnet50", vicreg),
    ("vicreg-resnet50", vicreg_checkpoint), ("deepcluster-v2-resnet50", deepcluster),
    ("deepcluster-v2-resnet50", deepcluster_checkpoint), ("dino-resnet50", dino), ("dino-resnet50", dino_checkpoint),
]  # fmt: skip


@pytest.fixture(scope="module", params=FILES, ids=lambda each: f"{each[0]}-{each[1].__name__}")
def written(request, tmp_path_factory, x):
    """Return (name, content, path, publisher's representation, the same with another deviation of red)."""
    name, make = request.param
    content, net = make()
    path = tmp_path_factory.mktemp("files") / "weights.pth.tar"
    torch.save(content, path)
    options, other = (SWAV, {}) if name.startswith("deepcluster") else ({}, SWAV)
    with torch.inference_mode():
        return name, content, path, net.features(normal(x, **options)), net.features(normal(x, **other))


def test_a_published_file_gives_the_publishers_representation(written, small, x, agree):
    name, _, path, expected, other_deviation = written
    outputs = small(name, path, x)
    assert outputs.shape == (2, 2048)
    agree(outputs, expected)
    assert float((outputs - other_deviation).abs().max()) > 100 * float((outputs - expected).abs().max())


def state_in(content):
    """Return the mapping of a file in which the encoder's weights are."""
    return next((content[key] for key in ("state_dict", "model", "teacher") if key in content), content)


def test_a_key_too_few_or_too_many_is_refused(written, small, x, tmp_path):
    name, content, _, _, _ = written
    state = state_in(content)
    key = next(key for key in state if key.endswith("layer2.0.bn3.bias") and "_k." not in key and "momentum" not in key)
    value = state.pop(key)
    torch.save(content, tmp_path / "few.pth")
    state[key] = value
    state[key.replace("bn3", "bn9")] = value
    torch.save(content, tmp_path / "many.pth")
    del state[key.replace("bn3", "bn9")]
    with pytest.raises(UserError, match=r"few\.pth does not fit ResNet.*layer2\.0\.bn3\.bias"):
        small(name, tmp_path / "few.pth", x)
    with pytest.raises(UserError, match=r"many\.pth does not fit ResNet.*layer2\.0\.bn9\.bias"):
        small(name, tmp_path / "many.pth", x)


@pytest.mark.parametrize(
    ("name", "make", "choice"),
    [
        ("moco-v2-resnet50", moco_v2, StateChoice(inside="state_dict", strip="module.encoder_k.")),
        ("moco-v3-resnet50", moco_v3, StateChoice(inside="state_dict", strip="module.momentum_encoder.")),
        ("dino-resnet50", dino_checkpoint, StateChoice(inside="student")),
    ],
)
def test_the_other_branch_is_another_encoder(small, x, agree, tmp_path, name, make, choice):
    content, net = make()
    torch.save(content, tmp_path / "weights.pth")
    with torch.inference_mode():
        expected = net.features(normal(x))
    with choosing({tmp_path / "weights.pth": choice}):
        agree(small(name, tmp_path / "weights.pth", x), expected, is_same=False)


@pytest.mark.parametrize("name", ["moco-v3-resnet50", "simsiam-resnet50"])
def test_the_file_of_the_linear_evaluation_gives_the_logits(small, x, agree, tmp_path, name):
    net = drawn(ResNet(nn.Linear(2048, 1000)))
    torch.save({**training(parallel(net)), "best_acc1": torch.tensor(74.6)}, tmp_path / "linear.pth.tar")
    with torch.inference_mode():
        agree(small(f"{name}-linear", tmp_path / "linear.pth.tar", x), net(normal(x)))
    with pytest.raises(UserError, match="does not fit ResNet"):
        small(name, tmp_path / "linear.pth.tar", x)
    content, _ = moco_v3() if "moco" in name else simsiam()
    torch.save(content, tmp_path / "pretrain.pth.tar")
    with pytest.raises(UserError, match=r"does not fit Classifier: .*head\.weight"):
        small(f"{name}-linear", tmp_path / "pretrain.pth.tar", x)
    with pytest.raises(UserError, match=r"takes one file, not encoder, head\. Try: set `weights: \./FILE`"):
        small(f"{name}-linear", {"encoder": tmp_path / "a", "head": tmp_path / "b"}, x)


def test_dinos_linear_weights_give_the_logits(small, x, agree, tmp_path):
    net, head = drawn(ResNet()), drawn(nn.ModuleDict({"linear": nn.Linear(2048, 1000)}), 1)
    torch.save(net.state_dict(), tmp_path / "pretrain.pth")
    torch.save({"epoch": 100, "state_dict": parallel(head), "best_acc": 75.3}, tmp_path / "linear.pth")
    weights = {"encoder": tmp_path / "pretrain.pth", "head": tmp_path / "linear.pth"}
    with torch.inference_mode():
        agree(small("dino-resnet50-linear", weights, x), head["linear"](net.features(normal(x))))
    with pytest.raises(UserError, match=r"takes an encoder and a head, not one file\. Try: set `weights: \{encoder: "):
        small("dino-resnet50-linear", tmp_path / "pretrain.pth", x)
    torch.save({"state_dict": {"module.linear.weight": torch.zeros(10, 2048)}}, tmp_path / "ten.pth")
    with pytest.raises(UserError, match=r"ten\.pth does not fit Linear: .*missing: bias.*\(10, 2048\)"):
        small("dino-resnet50-linear", {**weights, "head": tmp_path / "ten.pth"}, x)


def test_a_projection_of_one_layer_is_not_taken_for_moco_v2(small, x, tmp_path):
    """MoCo v1 has the same container and prefixes, and `fc` of one layer."""
    content, _ = moco_v2()
    state = {name: value for name, value in content["state_dict"].items() if ".fc." not in name}
    state["module.encoder_q.fc.weight"], state["module.encoder_q.fc.bias"] = torch.zeros(128, 2048), torch.zeros(128)
    torch.save(training(state), tmp_path / "moco_v1.pth.tar")
    with pytest.raises(UserError, match=r"does not fit ResNet: .*2 keys are unexpected: fc\.weight, fc\.bias"):
        small("moco-v2-resnet50", tmp_path / "moco_v1.pth.tar", x)
