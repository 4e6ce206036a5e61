"""Publishers' vision transformers: files as their code writes them, and outputs as their evaluation computes them."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from ssl_publishers import MAE, DINOv2, FinetunedMAE, MoCoViT, MultiCropWrapper, ViT, drawn, mlp, normal, parallel
from torch import nn

from robharness import UserError
from robharness.checkpoints import StateChoice, choosing


def outputs_of(function, *arguments):
    with torch.inference_mode():
        return function(*arguments)


def four_classes(net, x):
    return torch.cat([layer[:, 0] for layer in net.get_intermediate_layers(x, 4)], dim=-1)


def interleaved(net, x):
    """Return DINO's input of ViT-B's classifier, by the publisher's steps."""
    layers = net.get_intermediate_layers(x, 1)
    output = torch.cat([layer[:, 0] for layer in layers], dim=-1)
    mean = torch.mean(layers[-1][:, 1:], dim=1)
    output = torch.cat((output.unsqueeze(-1), mean.unsqueeze(-1)), dim=-1)
    return output.reshape(output.shape[0], -1)


def class_and_mean(net, x):
    layers = net.get_intermediate_layers(x, 1)
    return torch.cat([layers[0][:, 0], layers[0][:, 1:].mean(dim=1)], dim=-1)


def full(net, second=False):
    """Return a full checkpoint of DINO or iBOT, in which `net` is the teacher's backbone.

    Without BatchNorm the publisher wraps the student alone for several processes.
    """
    student = drawn(MultiCropWrapper(ViT(), second), 1)
    teacher = drawn(MultiCropWrapper(net, second))
    if second:
        student.backbone.masked_embed = nn.Parameter(torch.zeros(1, 48))
    return {"student": parallel(student), "teacher": teacher.state_dict(), "optimizer": {}, "epoch": 800,
            "args": Namespace(arch="vit_small", patch_size=16), "fp16_scaler": {"scale": 65536.0}}  # fmt: skip


class MoCoV3(nn.Module):
    def __init__(self):
        super().__init__()
        self.base_encoder, self.momentum_encoder = (MoCoViT(head=mlp(48, 32, 32, 16, bias=False)) for _ in range(2))
        self.predictor = mlp(16, 32, 16, bias=False)


def moco_v3():
    net = drawn_moco()
    return {"epoch": 300, "arch": "vit_small", "state_dict": parallel(net), "optimizer": {}}, net.base_encoder


def drawn_moco():
    """Draw all weights but the position embedding, which is fixed."""
    net = MoCoV3()
    fixed = net.base_encoder.pos_embed.detach().clone()
    drawn(net)
    with torch.no_grad():
        net.base_encoder.pos_embed.copy_(fixed)
        net.momentum_encoder.pos_embed.copy_(fixed)
    return net


def moco_v3_for_deit():
    content, net = moco_v3()
    prefix = "module.base_encoder."
    state = {
        name.removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if name.startswith(prefix) and ".head" not in name
    }
    return {"model": state}, net


def dino():
    net = drawn(ViT())
    return net.state_dict(), net


def dino_checkpoint():
    net = ViT()
    return full(net), net


def dino_patches_of_8():
    net = drawn(ViT(patch=8, grid=28))
    return net.state_dict(), net


def ibot():
    net = drawn(ViT())
    return {"state_dict": net.state_dict()}, net


def ibot_checkpoint():
    net = ViT()
    return full(net, second=True), net


def mae():
    net = drawn(ViT())
    return {"model": net.state_dict()}, net


def mae_checkpoint():
    net = drawn(MAE())
    return {"model": net.state_dict(), "optimizer": {}, "epoch": 799, "scaler": {}, "args": Namespace(blr=1e-4)}, net


def dinov2():
    net = drawn(DINOv2())
    return net.state_dict(), net


def dinov2_teacher():
    """A teacher checkpoint of the training: the backbone in chunks of blocks, and the projection heads."""
    net = drawn(DINOv2())
    state = {}
    for name, value in net.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            name = ".".join(["blocks", str(int(parts[1]) // 3), *parts[1:]])
        state[f"backbone.{name}"] = value
    state["dino_head.mlp.0.weight"] = state["ibot_head.last_layer.weight_v"] = torch.zeros(3, 3)
    return {"teacher": state}, net


def dinov2_registers():
    net = drawn(DINOv2(registers=4, offset=0.0, antialias=True))
    return net.state_dict(), net


def features(net, x):
    return net.features(x)


def linear4(net, x):
    return net.linear_input(x, 4)


def linear1(net, x):
    return net.linear_input(x, 1)


KNN, ONE = {"representation": "knn"}, {"layers": 1}
FILES = [
    ("moco-v3-vits16", moco_v3, features, {}), ("moco-v3-vitb16", moco_v3, features, {}),
    ("moco-v3-vits16", moco_v3_for_deit, features, {}),
    ("dino-vits16", dino, four_classes, {}), ("dino-vits16", dino, features, KNN),
    ("dino-vits16", dino_checkpoint, four_classes, {}), ("dino-vits8", dino_patches_of_8, four_classes, {}),
    ("dino-vitb16", dino, interleaved, {}), ("dino-vitb16", dino_checkpoint, features, KNN),
    ("dino-vitb8", dino_patches_of_8, interleaved, {}),
    ("ibot-vits16", ibot, four_classes, {}), ("ibot-vitb16", ibot, class_and_mean, {}),
    ("ibot-vitb16", ibot_checkpoint, features, KNN),
    ("mae-vitb16", mae, features, {}), ("mae-vitl16", mae_checkpoint, features, {}),
    ("dinov2-vits14", dinov2, linear4, {}), ("dinov2-vitb14", dinov2, linear1, ONE),
    ("dinov2-vitl14", dinov2_teacher, features, KNN),
    ("dinov2-vits14-reg", dinov2_registers, linear4, {}), ("dinov2-vitb14-reg", dinov2_registers, linear1, ONE),
    ("dinov2-vitl14-reg", dinov2_registers, features, KNN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "make", "represent", "params"), FILES, ids=lambda each: getattr(each, "__name__", None)
)
def test_a_published_file_gives_the_publishers_representation(small, x, agree, tmp_path, name, make, represent, params):
    content, net = make()
    torch.save(content, tmp_path / "weights.pth")
    outputs = small(name, tmp_path / "weights.pth", x, **params)
    expected = outputs_of(represent, net, normal(x))
    agree(outputs, expected)
    other = outputs_of(represent, net, normal(x, std=(0.228, 0.224, 0.225)))
    assert float((outputs - other).abs().max()) > 100 * float((outputs - expected).abs().max())


@pytest.mark.parametrize(
    ("name", "make"),
    [("moco-v3-vits16", moco_v3), ("dino-vits16", dino), ("dino-vits16", dino_checkpoint), ("ibot-vits16", ibot),
     ("mae-vitb16", mae_checkpoint), ("dinov2-vits14", dinov2), ("dinov2-vits14-reg", dinov2_registers)],
)  # fmt: skip
def test_a_key_too_few_or_too_many_is_refused(small, x, tmp_path, name, make):
    content, _ = make()
    state = next((content[key] for key in ("state_dict", "model", "teacher") if key in content), content)
    for ending in ("blocks.1.attn.proj.bias", "pos_embed", "cls_token"):
        key = next(key for key in state if key.endswith(ending) and "momentum" not in key and "decoder" not in key)
        value = state.pop(key)
        torch.save(content, tmp_path / "few.pth")
        with pytest.raises(UserError, match=rf"few\.pth does not fit VisionTransformer.*1 keys are missing: {ending}"):
            small(name, tmp_path / "few.pth", x)
        state[key] = value
    state[key.replace("cls_token", "dist_token")] = value
    torch.save(content, tmp_path / "many.pth")
    with pytest.raises(UserError, match=r"many\.pth does not fit VisionTransformer.*1 keys are unexpected: dist_token"):
        small(name, tmp_path / "many.pth", x)


@pytest.mark.parametrize(
    ("name", "make", "choice"),
    [
        ("moco-v3-vits16", moco_v3, StateChoice(inside="state_dict", strip="module.momentum_encoder.")),
        ("dino-vits16", dino_checkpoint, StateChoice(inside="student")),
        ("ibot-vits16", ibot_checkpoint, StateChoice(inside="student")),
    ],
)
def test_the_student_or_the_average_is_another_encoder(small, x, agree, tmp_path, name, make, choice):
    content, net = make()
    torch.save(content, tmp_path / "weights.pth")
    expected = outputs_of(features if "moco" in name else four_classes, net, normal(x))
    with choosing({tmp_path / "weights.pth": choice}):
        agree(small(name, tmp_path / "weights.pth", x), expected, is_same=False)


def test_swapped_teacher_and_student_give_other_outputs(small, x, agree, tmp_path):
    content, net = dino_checkpoint()
    content["teacher"], content["student"] = content["student"], content["teacher"]
    torch.save(content, tmp_path / "weights.pth")
    agree(small("dino-vits16", tmp_path / "weights.pth", x), outputs_of(four_classes, net, normal(x)), is_same=False)


def test_a_fine_tuned_file_is_refused_by_the_encoder_and_the_other_way_round(small, x, agree, tmp_path):
    net = drawn(FinetunedMAE(head=nn.Linear(48, 1000)))
    torch.save({"model": net.state_dict(), "epoch": 99, "args": Namespace(global_pool=True)}, tmp_path / "tuned.pth")
    agree(small("mae-vitb16-finetuned", tmp_path / "tuned.pth", x), outputs_of(net, normal(x)))
    with pytest.raises(UserError, match=r"missing: norm\.weight.*unexpected: .*fc_norm\.weight"):
        small("mae-vitb16", tmp_path / "tuned.pth", x)
    torch.save({"model": drawn(ViT(head=nn.Linear(48, 1000))).state_dict()}, tmp_path / "token.pth")
    with pytest.raises(UserError, match=r"missing: encoder\.fc_norm\.weight.*unexpected: encoder\.norm\.weight"):
        small("mae-vitb16-finetuned", tmp_path / "token.pth", x)


def test_a_supervised_network_is_not_taken_for_dinos(small, x, tmp_path):
    torch.save(drawn(ViT(head=nn.Linear(48, 1000))).state_dict(), tmp_path / "deit.pth")
    with pytest.raises(UserError, match=r"2 keys are unexpected: head\.weight, head\.bias"):
        small("dino-vits16", tmp_path / "deit.pth", x)


def test_the_file_of_moco_v3s_linear_evaluation_gives_the_logits(small, x, agree, tmp_path):
    net = drawn(MoCoViT(head=nn.Linear(48, 1000)))
    torch.save({"epoch": 90, "arch": "vit_small", "state_dict": parallel(net)}, tmp_path / "linear.pth.tar")
    agree(small("moco-v3-vits16-linear", tmp_path / "linear.pth.tar", x), outputs_of(net, normal(x)))


HEADS = [
    ("dino-vits16", dino, four_classes, {}), ("dino-vitb16", dino, interleaved, {}),
    ("dinov2-vits14", dinov2, linear4, {}), ("dinov2-vits14", dinov2, linear1, ONE),
    ("dinov2-vitb14-reg", dinov2_registers, linear4, {}), ("dinov2-vitb14-reg", dinov2_registers, linear1, ONE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "make", "represent", "params"), HEADS, ids=lambda each: getattr(each, "__name__", None)
)
def test_the_published_linear_head_gives_the_logits(small, x, agree, tmp_path, name, make, represent, params):
    content, net = make()
    inputs = outputs_of(represent, net, normal(x))
    head = drawn(nn.Linear(inputs.shape[1], 1000), 3)
    torch.save(content, tmp_path / "pretrain.pth")
    parts = parallel(nn.ModuleDict({"linear": head}))
    torch.save(
        {"epoch": 100, "state_dict": parts} if "dinov2" not in name else head.state_dict(), tmp_path / "head.pth"
    )
    weights = {"encoder": tmp_path / "pretrain.pth", "head": tmp_path / "head.pth"}
    agree(small(f"{name}-linear", weights, x, **params), outputs_of(head, inputs))
    if params:
        with pytest.raises(UserError, match=r"head\.pth does not fit Linear: .*of another shape"):
            small(f"{name}-linear", weights, x)


def test_the_mean_behind_the_class_token_is_not_dinos_input(small, x, agree, tmp_path):
    """A classifier of DINO's ViT-B on tokens that are not interleaved has other logits."""
    content, net = dino()
    torch.save(content, tmp_path / "weights.pth")
    agree(small("dino-vitb16", tmp_path / "weights.pth", x), outputs_of(class_and_mean, net, normal(x)), is_same=False)


@pytest.mark.parametrize(("make", "offset", "antialias"), [(dinov2, 0.0, False), (dinov2, 0.1, True)])
def test_dinov2s_positions_depend_on_offset_and_antialias(small, x, agree, tmp_path, make, offset, antialias):
    content, net = make()
    torch.save(content, tmp_path / "weights.pth")
    net.offset, net.antialias = offset, antialias
    outputs = small("dinov2-vits14", tmp_path / "weights.pth", x)
    expected = outputs_of(linear4, net, normal(x))
    assert float((outputs - expected).abs().max()) > 1e-3 * float(expected.abs().max())
