"""Exported weights are read by the code that reads these layouts."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torchvision.models import resnet18

from robharness import UserError, discover
from robharness_contrastive import networks
from robharness_contrastive.export import in_layout, main
from robharness_probe.heads import Probed


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An artefact of a ResNet-18 on CIFAR-10, its network and the folder."""
    folder = tmp_path_factory.mktemp("artefact")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (initial weights)
        encoder = networks.encoder("resnet18", "datasets/cifar-10", (3, 32, 32))
        net = Probed(encoder, torch.nn.Linear(encoder.width, 10)).eval()
        projection = networks.mlp(encoder.width, 512, 128)
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
    state = {**net.state_dict(), **{f"projection.{key}": value for key, value in projection.state_dict().items()}}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "weights.safetensors")
    return folder, net


@pytest.fixture(scope="module")
def x():
    return torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def test_supcontrasts_layout_is_read_as_supcontrasts_files_are(exported, x, tmp_path):
    """By `supervised/cifar-10-resnet18`, which detects the layout and applies SupContrast's normalisation."""
    folder, net = exported
    done = CliRunner().invoke(main, [str(folder), str(tmp_path / "ckpt.pth")])
    assert done.exit_code == 0 and "wrote" in done.output
    content = torch.load(tmp_path / "ckpt.pth", weights_only=True)
    assert {key.split(".")[0] for key in content["model"]} == {"encoder", "head"}
    assert "encoder.layer2.0.shortcut.0.weight" in content["model"] and "head.2.weight" in content["model"]
    models = discover().models
    spec = next(models[name].spec for name in models if name.startswith("supervised/") and name.endswith("10-resnet18"))
    weights = {"encoder": tmp_path / "ckpt.pth", "head": tmp_path / "ckpt.pth.head"}
    with torch.no_grad():
        torch.testing.assert_close(spec.build(spec.params(), weights).eval()(x), net(x), rtol=1e-5, atol=1e-5)


def test_torchvisions_layout_is_loaded_by_torchvision_strictly(exported, x, tmp_path):
    folder, net = exported
    done = CliRunner().invoke(main, [str(folder), str(tmp_path / "net.pth"), "--layout", "torchvision"])
    assert done.exit_code == 0, done.output
    theirs = resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    theirs.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True), strict=True)
    with torch.no_grad():
        normal = net.encoder.normalize(x)
        torch.testing.assert_close(theirs.eval()(normal), net(x), rtol=1e-5, atol=1e-5)


def test_weights_without_such_a_layout_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"the weights are not those of a ResNet, .* Try: `network: resnet18`"):
        in_layout({"encoder.trunk.0.weight": torch.zeros(1)}, "torchvision")
    done = CliRunner().invoke(main, [str(tmp_path), str(tmp_path / "x.pth")])
    assert done.exit_code == 1 and "Try: robharness list artefacts" in done.output and "Traceback" not in done.output
