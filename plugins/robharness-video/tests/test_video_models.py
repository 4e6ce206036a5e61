"""Video networks, loaded from files in the publishers' layouts, compared with the publishers' networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import video

from robharness import UserError
from robharness_video import robharness_models

SPECS = {spec.name: spec for spec in robharness_models()}
KINETICS = {"r2plus1d-18-kinetics": video.R2Plus1D_18_Weights, "r3d-18-kinetics": video.R3D_18_Weights}
ON_UCF101 = [name for name in SPECS if name not in KINETICS]
NETWORKS = {"r2plus1d-18": video.r2plus1d_18, "r3d-18": video.r3d_18}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def filled(net, seed=0):
    """Fill a network from the meta device with random weights and BatchNorm statistics."""
    net = net.to_empty(device="cpu")
    draw = generator(seed)
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(7)
        elif name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=draw)
        elif value.ndim == 1:
            value.normal_(0, 0.1, generator=draw)
        else:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=draw)
    return net.eval()


def stock(architecture, outputs):
    with torch.device("meta"):
        return NETWORKS[architecture](weights=None, num_classes=outputs)


def tclr_network(architecture, outputs, *, full=False):
    """Build TCLR's network: linear_eval/model.py or, with full, nn_retrieval/model.py replaces two convolutions."""
    net = stock(architecture, outputs)
    with torch.device("meta"):
        if architecture == "r3d-18" or full:
            net.layer4[0].conv1[0] = nn.Conv3d(
                256, 512, kernel_size=(3, 3, 3), stride=(1, 2, 2), padding=(2, 1, 1), dilation=(2, 1, 1), bias=False
            )
        else:
            net.layer4[0].conv1[0][3] = nn.Conv3d(
                921, 512, kernel_size=(3, 1, 1), stride=1, padding=(2, 0, 0), dilation=(2, 1, 1), bias=False
            )
        net.layer4[0].downsample[0] = nn.Conv3d(256, 512, kernel_size=1, stride=(1, 2, 2), bias=False)
    return net


class MLP(nn.Module):
    """The parameters of tclr_pretraining/mlp.py."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(512, 512)
        self.bn1 = nn.BatchNorm1d(512)
        self.bn2 = nn.BatchNorm1d(128)
        self.fc2 = nn.Linear(512, 128, bias=False)


def pretraining(net):
    """Return the state dict of Sequential(backbone, MLP), without the backbone's classifier, as in pre-training."""
    with torch.device("meta"):
        mlp = filled(MLP(), seed=5)
    backbone = {f"0.{name}": value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    return backbone | {f"1.{name}": value for name, value in mlp.state_dict().items()}


def parallel(state):
    """Return the state dict with the names of nn.DataParallel."""
    return {f"module.{name}": value for name, value in state.items()}


def saved(path, content):
    torch.save(content, path)
    return path


def build(name, weights, **params):
    spec = SPECS[name]
    return spec.build(spec.params(**params), weights).eval()


def architecture_of(name):
    return "r3d-18" if "r3d" in name else "r2plus1d-18"


CLIPS = torch.empty(1, 3, 16, 32, 32).uniform_(generator=generator(1))


def logits(net, x=CLIPS):
    with torch.inference_mode():
        return net(x)


def assert_same(found, expected):
    assert expected.std() > 0.05, "constant logits cannot reveal a difference"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def assert_differ(found, expected):
    assert (found - expected).abs().max() > 0.02 * expected.std(), "the change has no effect on the logits"


@pytest.fixture(scope="module", params=["r2plus1d-18", "r3d-18"])
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def tclr(architecture):
    """The publisher's network with its classifier of 102 outputs."""
    return filled(tclr_network(architecture, 102))


@pytest.fixture(scope="module")
def expected(tclr):
    """The logits of the classes 1 ... 101."""
    return logits(tclr)[:, 1:]


@pytest.fixture(scope="module")
def file(tclr, tmp_path_factory):
    """A checkpoint like those of linear_eval/train.py on several GPUs."""
    content = {"epoch": 12, "state_dict": parallel(tclr.state_dict()), "optimizer": {"state": {}, "param_groups": []}}
    return saved(tmp_path_factory.mktemp("weights") / "model_11_bestAcc_0.7550.pth", content)


@pytest.fixture(scope="module")
def parts(tclr, tmp_path_factory):
    """A backbone like those of tclr_pretraining, and a head."""
    folder = tmp_path_factory.mktemp("parts")
    content = {
        "epoch": 152,
        "state_dict": parallel(pretraining(tclr)),
        "optimizer": {"state": {}, "param_groups": []},
        "learning_rate": 1e-3,
        "amp_scaler": scaler_of_a_gpu(),
    }
    with pytest.MonkeyPatch.context() as patch:  # to the module of torch's version that wrote the publisher's files
        refresh = torch.amp.grad_scaler._refresh_per_optimizer_state
        patch.setattr(refresh, "__module__", "torch.cuda.amp.grad_scaler")
        patch.setattr(torch.cuda.amp.grad_scaler, refresh.__name__, refresh, raising=False)
        backbone = saved(folder / "model_best_e151_loss_0.9281.pth", content)
    return {"backbone": backbone, "head": saved(folder / "head.pth", tclr.fc.state_dict())}


def scaler_of_a_gpu():
    """Return torch.cuda.amp.GradScaler() as on a GPU after an update."""
    scaler = torch.cuda.amp.GradScaler.__new__(torch.cuda.amp.GradScaler)
    scaler.__dict__.update(vars(torch.amp.GradScaler("cpu")), _device="cuda")
    return scaler


def test_classifiers_give_the_publishers_logits_of_the_101_classes(architecture, file, expected):
    net = build(f"tclr-{architecture}", file)
    assert_same(logits(net), expected)
    assert logits(net).shape == (1, 101)


def test_backbone_and_head_give_the_publishers_logits(architecture, parts, expected):
    assert_same(logits(build(f"tclr-{architecture}", parts)), expected)


def test_every_container_and_prefix_gives_the_same(architecture, tclr, expected, tmp_path):
    state = tclr.state_dict()
    whole = [{"state_dict": state}, {"bb_state_dict": parallel(state)}, state]
    for number, content in enumerate(whole):
        path = saved(tmp_path / f"{number}.pth", content)
        assert_same(logits(build(f"tclr-{architecture}", path)), expected)
        path.unlink()
    backbone = pretraining(tclr)
    alone = {name[2:]: value for name, value in backbone.items() if name[0] == "0"}
    beside = [
        {"bb_state_dict": alone, "amp_scaler": torch.amp.GradScaler("cpu")},
        backbone,
    ]  # as saved by a newer torch
    heads = [{"state_dict": {f"module.linear.{name}": value for name, value in tclr.fc.state_dict().items()}},
             {f"fc.{name}": value for name, value in tclr.fc.state_dict().items()}]  # fmt: skip
    for number, contents in enumerate(zip(beside, heads, strict=True)):
        parts = dict(zip(("backbone", "head"), contents, strict=True))
        paths = {part: saved(tmp_path / f"{number}-{part}.pth", content) for part, content in parts.items()}
        assert_same(logits(build(f"tclr-{architecture}", paths)), expected)


def test_a_classifier_in_the_backbones_file_is_ignored(architecture, tclr, parts, expected, tmp_path):
    others = {"0.fc.weight": torch.ones(400, 512), "0.fc.bias": torch.ones(400)}
    path = saved(tmp_path / "backbone.pth", {"state_dict": pretraining(tclr) | others})
    assert_same(logits(build(f"tclr-{architecture}", parts | {"backbone": path})), expected)


def test_wrong_channels_dilation_or_normalisation_change_the_logits(architecture, tclr, file, expected, tmp_path):
    name = f"tclr-{architecture}"
    net = build(name, file)
    assert_differ(logits(net, CLIPS.flip(1)), expected)  # the other order of channels
    assert_differ(logits(build(name, file, dilation=False)), expected)
    assert_differ(logits(build(name, file, mean_std="kinetics-400")), expected)
    assert_differ(logits(tclr)[:, :-1], expected)  # classes numbered from 0


def test_without_dilation_it_is_torchvisions_own_network(architecture, tclr, file):
    plain = filled(stock(architecture, 102))
    plain.load_state_dict(tclr.state_dict())
    assert_same(logits(build(architecture, file, dilation=False)), logits(plain)[:, 1:])


def test_dilation_keeps_twice_as_many_frames(architecture, file):
    seen = {}
    for dilation in (True, False):
        net = build(f"tclr-{architecture}", file, dilation=dilation)[1]
        net.layer4.register_forward_hook(lambda module, inputs, output, key=dilation: seen.update({key: output.shape}))
        logits(net)
    assert (seen[True], seen[False]) == ((1, 512, 4, 2, 2), (1, 512, 2, 2, 2))


def test_r2plus1d_with_tclrs_full_convolution_is_recognised(tmp_path):
    theirs = filled(tclr_network("r2plus1d-18", 102, full=True))
    whole = saved(tmp_path / "whole.pth", {"state_dict": parallel(theirs.state_dict())})
    parts = {
        "backbone": saved(tmp_path / "backbone.pth", {"state_dict": parallel(pretraining(theirs))}),
        "head": saved(tmp_path / "head.pth", theirs.fc.state_dict()),
    }
    for weights in (whole, parts):
        assert_same(logits(build("tclr-r2plus1d-18", weights)), logits(theirs)[:, 1:])
    with pytest.raises(UserError, match=r"layer4\.0\.conv1\.0\.weight.*Try: set `dilation: true`"):
        build("tclr-r2plus1d-18", whole, dilation=False)


def test_a_classifier_of_101_outputs_loads_unchanged(tmp_path):
    net = filled(tclr_network("r3d-18", 101))
    assert_same(logits(build("r3d-18", saved(tmp_path / "own.pth", net.state_dict()))), logits(net))


@pytest.mark.parametrize("name", KINETICS)
def test_kinetics_is_torchvisions_network_on_torchvisions_inputs(name, tmp_path):
    theirs = filled(stock(architecture_of(name), 400))
    path = saved(tmp_path / "kinetics.pth", theirs.state_dict())
    frames = (CLIPS * 255).to(torch.uint8)
    preset = KINETICS[name].KINETICS400_V1.transforms(resize_size=(32, 32), crop_size=(32, 32))
    with torch.inference_mode():
        expected = theirs(preset(frames.transpose(1, 2).contiguous()))
    net = build(name, path)
    assert_same(logits(net, frames / 255), expected)
    assert_differ(logits(net, frames.flip(1) / 255), expected)
    assert_differ(logits(build(name, path, mean_std="none"), frames / 255), expected)


@pytest.mark.parametrize("name", KINETICS)
def test_the_specs_of_kinetics_are_torchvisions(name):
    spec, theirs = SPECS[name], KINETICS[name].KINETICS400_V1
    preset, steps = theirs.transforms(), spec.preprocessing
    assert spec.weights.url == theirs.url
    assert theirs.url.endswith(f"-{spec.weights.sha256}.pth") and len(spec.weights.sha256) == 8
    assert spec.expected["clean"] == pytest.approx(theirs.meta["_metrics"]["Kinetics-400"]["acc@1"] / 100)
    assert (list(steps.resize), [steps.crop] * 2) == (preset.resize_size, preset.crop_size)
    assert (steps.interpolation, steps.antialias) == (preset.interpolation.value, False)
    assert f"clips_per_video={steps.clips.count}`" in theirs.meta["_docs"]
    assert f"clip_len={steps.clips.length}`" in theirs.meta["_docs"]


def test_mismatching_files_are_refused_with_the_suite_line(tclr, architecture, parts, tmp_path):
    name = f"tclr-{architecture}"
    with pytest.raises(UserError, match=r"without a classifier.*weights: \{backbone: .*, head: FILE\}` in the suite$"):
        build(name, parts["backbone"])
    with pytest.raises(
        UserError, match=r"not backbone\. Try: set `weights: \{backbone: FILE, head: FILE\}` in the suite$"
    ):
        build(name, {"backbone": parts["backbone"]})
    with pytest.raises(UserError, match=r"one file, not backbone, head"):
        build(f"{architecture}-kinetics", parts)
    other = "r3d-18" if architecture == "r2plus1d-18" else "r2plus1d-18"
    with pytest.raises(UserError, match=r"e151_loss.*missing.*unexpected"):
        build(f"tclr-{other}", parts)
    kinetics = saved(tmp_path / "400.pth", filled(stock(architecture, 400)).state_dict())
    with pytest.raises(UserError, match=r"400\.pth.*fc\.weight \(400, 512\) instead of \(101, 512\)"):
        build(name, kinetics)


@pytest.mark.parametrize("name", ON_UCF101)
def test_the_papers_models_are_declared(name):
    spec = SPECS[name]
    table2 = {"r2plus1d-18": 0.594, "tclr-r2plus1d-18": 0.755, "cvrl-r2plus1d-18": 0.602}
    if "r2plus1d" in name:
        assert spec.expected == {"clean": table2[name]}
    assert (spec.labels, spec.input.kind, spec.input.shape) == ("ucf-101", "video", (3, 16, 112, 112))
    assert (spec.preprocessing.channel_order, spec.preprocessing.size) == ("bgr", (112, 112))
    assert spec.params().dilation and spec.params().mean_std == "none"
    assert spec.weights.path.startswith("weights/") and "DAVEISHAN/TCLR" in spec.weights.hint(Path("x"))


def test_features_are_the_classifiers_input(architecture, file):
    net, seen = build(architecture, file), []
    net.get_submodule(SPECS[architecture].features).register_forward_hook(lambda *made: seen.append(made[-1]))
    with torch.inference_mode():
        torch.testing.assert_close(net(CLIPS), net[1].fc(seen[0].flatten(1)))
    assert seen[0].flatten(1).shape == (1, 512)


def test_building_is_silent_keeps_the_random_state_and_fills_all_values(architecture, parts, capfd):
    before = torch.get_rng_state()
    net = build(f"tclr-{architecture}", parts)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert all(value.device.type == "cpu" for value in net.state_dict().values())
