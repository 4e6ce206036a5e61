"""Outputs of RobustBench's networks from files in their authors' layouts, compared with RobustBench's own loader."""

from __future__ import annotations

import dataclasses
from itertools import chain

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from robharness import UserError
from robharness_robustbench import networks, robharness_models, zoo
from robharness_robustbench.library import robustbench

SPECS = {spec.name: spec for spec in robharness_models()}


def entry_of(name, model):
    """Return RobustBench's entry of a model, whose "model" constructs the network."""
    found = zoo.find(name, model).zoo
    enums, known = robustbench("model_zoo.enums"), robustbench("model_zoo.models").model_dicts
    return known[enums.BenchmarkDataset(found.dataset)][enums.ThreatModel(found.threat)][model]


def their_network(name, model):
    """Return RobustBench's network in eval mode, with seeded random weights that keep the scale of activations."""
    with torch.random.fork_rng(devices=[]):
        return seeded(entry_of(name, model)["model"]())


def seeded(net):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (1 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator))
        for key, buffer in net.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def images(name, model, count=2):
    spec = SPECS[name]
    shape = spec.given(spec.params(name=model))["input"].shape
    return torch.empty(count, *shape).uniform_(generator=torch.Generator().manual_seed(1))


def build(name, model, weights):
    spec = SPECS[name]
    return spec.build(spec.params(name=model), weights)


def outputs(net, x):
    with torch.inference_mode():
        return net(x)


def path_of(root, name, model, suffix=""):
    """Return RobustBench's path of a model's file below a folder of models."""
    found = zoo.find(name, model).zoo
    folder = root / found.dataset / found.threat
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{model}.pt{suffix}"


def their_load(root, name, model):
    found = zoo.find(name, model).zoo
    return robustbench("utils").load_model(model, model_dir=root, dataset=found.dataset, threat_model=found.threat)


def renamed(state, old="", new=""):
    return {new + key.removeprefix(old): value for key, value in state.items()}


def without(state, *parts):
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


LAYOUTS = {
    "WideResNet-28-10, bare": ("cifar10-linf", "Standard", lambda state: state),
    "PreActResNet-18, its last beside its best": (
        "cifar10-linf",
        "Andriushchenko2020Understanding",
        lambda state: {"last": state, "best": {key: torch.zeros_like(value) for key, value in state.items()}},
    ),
    "PreActResNet-18, without its mean and std": (
        "cifar10-linf",
        "Wong2020Fast",
        lambda state: without(state, "mu", "sigma"),
    ),
    "PreActResNet-18, nested in its last, of several devices": (
        "cifar10-corruptions",
        "Kireev2021Effectiveness_RLAT",
        lambda state: {"last": {"state_dict": renamed(without(state, "mu", "sigma"), new="module.")}},
    ),
    "WideResNet-40-2, nested, of several devices": (
        "cifar10-corruptions",
        "Hendrycks2020AugMix_WRN",
        lambda state: {"epoch": 99, "state_dict": renamed(state, new="module."), "best_acc": 0.9},
    ),
    "ResNet-18 with its own mean and std in the file": (
        "cifar100-corruptions",
        "Modas2021PRIMEResNet18",
        lambda state: {**state, "mu": state["mu"] - 0.1, "sigma": state["sigma"] / 2},
    ),
    "ResNet-50 of the robustness library": (
        "imagenet-linf",
        "Engstrom2019Robustness",
        lambda state: {
            **renamed(without(state, "normalize"), "model.", "module.model."),
            **renamed(without(state, "normalize"), "model.", "module.attacker.model."),
            "module.normalizer.new_mean": torch.zeros(3, 1, 1),
            "module.normalizer.new_std": torch.ones(3, 1, 1),
        },
    ),
    "ResNet-18 of torchvision, bare": (
        "imagenet-linf",
        "Salman2020Do_R18",
        lambda state: renamed(without(state, "normalize"), "model."),
    ),
}


@pytest.mark.parametrize(("name", "model", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_outputs_equal_those_of_robustbenchs_loader(tmp_path, name, model, layout):
    net = their_network(name, model)
    file = path_of(tmp_path, name, model)
    torch.save(layout(net.state_dict()), file)
    x = images(name, model)
    ours, theirs = (outputs(loaded, x) for loaded in (build(name, model, file), their_load(tmp_path, name, model)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert ours.std() > 1e-3
    if model != "Modas2021PRIMEResNet18":
        torch.testing.assert_close(ours, outputs(net, x), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "model"), [("cifar10-linf", "Wong2020Fast"), ("imagenet-linf", "Salman2020Do_R18")])
def test_another_mean_or_std_changes_the_outputs(tmp_path, name, model):
    net = their_network(name, model)
    file = path_of(tmp_path, name, model)
    torch.save(without(net.state_dict(), "mu", "sigma", "normalize"), file)
    x = images(name, model)
    ours = outputs(build(name, model, file), x)
    constants = {key: value for key, value in net.named_buffers() if key.rpartition(".")[2] in networks.CONSTANTS}
    assert len(constants) == 2
    for constant in constants.values():
        right = constant.clone()
        constant.mul_(1.01)
        assert (ours - outputs(net, x)).abs().max() > 1e-3
        constant.copy_(right)
    torch.testing.assert_close(ours, outputs(net, x), rtol=0, atol=0)


def test_an_unknown_prefix_is_refused(tmp_path, monkeypatch):
    name, model, layout = LAYOUTS["WideResNet-40-2, nested, of several devices"]
    file = path_of(tmp_path, name, model)
    torch.save(layout(their_network(name, model).state_dict()), file)
    monkeypatch.setattr(networks, "PREFIXES", ("none.",))
    with pytest.raises(UserError, match=r"missing"):
        build(name, model, file)


def test_an_ensemble_has_its_members_in_their_order(tmp_path):
    name, model = "cifar10-linf", "Chen2020Adversarial"
    net = their_network(name, model)
    files = {}
    for i, member in enumerate(net.models):
        files[f"m{i}"] = path_of(tmp_path, name, model, f"_m{i}.pt")
        torch.save({"state_dict": renamed(member.state_dict(), new="module.")}, files[f"m{i}"])
    x = images(name, model)
    ours = outputs(build(name, model, dict(reversed(files.items()))), x)
    torch.testing.assert_close(ours, outputs(their_load(tmp_path, name, model), x), rtol=0, atol=0)
    torch.testing.assert_close(ours, outputs(net, x), rtol=0, atol=0)
    targets = networks._targets(zoo.find(name, model), net)
    assert [part for ((part, _),) in targets] == [net.branch1, net.branch2, net.branch3]


class Mixture(nn.Module):
    """A small module with the names of RobustBench's mixtures: two networks and a third that mixes them."""

    def __init__(self):
        super().__init__()
        self.std_model, self.rob_model = nn.Linear(2, 3), nn.Linear(2, 3)
        self.comp_model = nn.Module()
        self.comp_model.models = nn.ModuleList([nn.Linear(2, 3), nn.Linear(2, 3)])
        self.comp_model.policy_net, self.comp_model.bn = nn.Linear(3, 1), nn.BatchNorm1d(1, affine=False)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("Bai2024MixedNUTS", (("std_model",), ("rob_model",))),
        (
            "Bai2023Improving_edm",
            (("comp_model.models.0",), ("comp_model.models.1",), ("comp_model.policy_net", "comp_model.bn")),
        ),
    ],
)
def test_each_file_of_a_mixture_fills_its_module(tmp_path, monkeypatch, model, parts):
    """RobustBench's mixtures have 500 million weights; small modules replace them, for its loader and for ours."""
    monkeypatch.setitem(entry_of("cifar10-linf", model), "model", Mixture)
    whole, files = their_network("cifar10-linf", model), {}
    for i, places in enumerate(parts):
        states = [whole.get_submodule(place).state_dict() for place in places]
        state = states[0] if len(states) == 1 else dict(zip(("model", "bn"), states, strict=True))
        files[f"m{i}"] = path_of(tmp_path, "cifar10-linf", model, f"_m{i}.pt")
        torch.save({"state_dict": state}, files[f"m{i}"])
    ours, theirs = build("cifar10-linf", model, files), their_load(tmp_path, "cifar10-linf", model)
    for place in chain.from_iterable(parts):
        for key, value in whole.get_submodule(place).state_dict().items():
            assert torch.equal(ours.get_submodule(place).state_dict()[key], value)
            assert torch.equal(theirs.get_submodule(place).state_dict()[key], value)


@pytest.mark.parametrize(
    ("name", "model", "nest"),
    [
        ("imagenet-linf", "Standard_R50", lambda state: state),
        ("imagenet-corruptions", "Tian2022Deeper_DeiT-S", lambda state: {"model": state}),
        ("cifar10-linf", "Debenedetti2022Light_XCiT-S12", lambda state: {"model": as_its_authors_name_it(state)}),
    ],
)
def test_weights_with_a_url_load_as_in_robustbench(tmp_path, monkeypatch, name, model, nest):
    """RobustBench downloads these with torch or timm, into a folder of torch; the test stores the file there."""
    published = zoo.find(name, model)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / published.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        if model == "Standard_R50":
            inner = torchvision_models.resnet50()
        else:
            inner = robustbench("utils").timm.create_model(published.timm, num_classes=published.zoo.classes)
            inner = inner.model if isinstance(inner, nn.Sequential) else inner
    torch.save(nest(seeded(inner).state_dict()), file)
    x = images(name, model, 1)
    ours = outputs(build(name, model, file), x)
    torch.testing.assert_close(ours, outputs(their_load(tmp_path, name, model), x), rtol=0, atol=0)
    assert ours.std() > 1e-3


def as_its_authors_name_it(state):
    """Rename XCiT's state dict as in facebookresearch/xcit: one projection in the class attention, and pos_embeder."""
    state = {key.replace("pos_embed.", "pos_embeder."): value for key, value in state.items()}
    for kind in ("weight", "bias"):
        for block in {key.split(".")[1] for key in state if key.startswith("cls_attn_blocks.")}:
            parts = [state.pop(f"cls_attn_blocks.{block}.attn.{part}.{kind}", None) for part in "qkv"]
            if parts[0] is not None:
                state[f"cls_attn_blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return state


def test_a_swin_transformer_of_older_timm(tmp_path, monkeypatch):
    """Before timm 0.9 a stage ended with its downsampling, the head was bare, and masks were in the file.

    RobustBench has only two large sizes; a tiny network replaces them, for its loader and for ours.
    """
    name, model = "imagenet-linf", "RodriguezMunoz2024Characterizing_Swin-B"
    imagenet = robustbench("model_zoo.imagenet")

    def tiny():
        net = imagenet.timm.create_model("swin_tiny_patch4_window7_224")
        return imagenet.normalize_model(net, imagenet.mu, imagenet.sigma)

    monkeypatch.setitem(entry_of(name, model), "model", tiny)
    net = their_network(name, model)
    older = {}
    for key, value in renamed(without(net.state_dict(), "normalize"), "model.").items():
        words = key.split(".")
        if "downsample" in words:
            words[1] = str(int(words[1]) - 1)
        older[".".join(words).replace("head.fc.", "head.")] = value
    older["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    file = path_of(tmp_path, name, model)
    torch.save({"state_dict": renamed(older, new="module.")}, file)
    x = images(name, model, 1)
    ours = outputs(build(name, model, file), x)
    torch.testing.assert_close(ours, outputs(their_load(tmp_path, name, model), x), rtol=0, atol=0)
    torch.testing.assert_close(ours, outputs(net, x), rtol=0, atol=0)


def test_a_deeper_network_is_refused_although_robustbench_takes_it(tmp_path):
    name, model = "imagenet-linf", "Salman2020Do_R50"
    file = path_of(tmp_path, name, model)
    with torch.random.fork_rng(devices=[]):
        deeper = torchvision_models.resnet101()
    torch.save(deeper.state_dict(), file)
    their_load(tmp_path, name, model)
    with pytest.raises(UserError, match=r"unexpected: layer3\.6\."):
        build(name, model, file)


def test_a_missing_layer_is_refused_although_robustbench_draws_one(tmp_path):
    name, model = "imagenet-linf", "Salman2020Do_R18"
    file = path_of(tmp_path, name, model)
    torch.save(renamed(without(their_network(name, model).state_dict(), "normalize", "fc.bias"), "model."), file)
    their_load(tmp_path, name, model)
    with pytest.raises(UserError, match=rf"{file}.*1 keys are missing: model\.fc\.bias"):
        build(name, model, file)


def test_missing_constants_are_refused_if_robustbench_refuses_them(tmp_path):
    name, model = "cifar100-corruptions", "Modas2021PRIMEResNet18"
    file = path_of(tmp_path, name, model)
    torch.save(without(their_network(name, model).state_dict(), "mu", "sigma"), file)
    with pytest.raises(RuntimeError, match=r"mu"):
        their_load(tmp_path, name, model)
    with pytest.raises(UserError, match=r"2 keys are missing: mu, sigma"):
        build(name, model, file)


@pytest.mark.parametrize(
    ("model", "weights", "wanted"),
    [
        (
            "Chen2020Adversarial",
            "one",
            r"has 3 files\. Try: set `weights: \{m0: \./Chen2020Adversarial\.pt_m0\.pt, m1: ",
        ),
        ("Chen2020Adversarial", ["m0", "m1"], r"has 3 files\. "),
        ("Standard", ["m0"], r"has one file\. Try: set `weights: \./Standard\.pt` in the suite$"),
    ],
)
def test_the_wrong_number_of_files_is_refused_with_the_suite_line(tmp_path, model, weights, wanted):
    file = tmp_path / "some.pt"
    with pytest.raises(UserError, match=wanted):
        build("cifar10-linf", model, file if weights == "one" else dict.fromkeys(weights, file))


def test_a_robustbench_without_the_model_is_refused_with_the_version():
    published = dataclasses.replace(zoo.find("cifar10-linf", "Standard"), name="Standard2030")
    with pytest.raises(UserError, match=r"'Standard2030' in cifar10-linf\. Try: pip install robustbench==1\.1\.1$"):
        networks.network(published)


def test_building_is_silent_keeps_the_random_state_and_needs_no_gpu(tmp_path, capfd, monkeypatch):
    name, model = "cifar10-corruptions", "Hendrycks2020AugMix_WRN"
    file = path_of(tmp_path, name, model)
    torch.save(their_network(name, model).state_dict(), file)
    entry = entry_of(name, model)

    def talkative(make=entry["model"]):
        print("Parallelizing.")  # noqa: T201
        net = make()
        assert net.mu.cuda().device.type == "cpu"
        return net

    monkeypatch.setitem(entry, "model", talkative)
    before = torch.get_rng_state()
    net = build(name, model, file)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert not any(module.training for module in net.modules())


def test_a_pass_does_not_change_the_network_as_robustbenchs_does(tmp_path, monkeypatch):
    """The model has 193 million weights; a narrow network of its class replaces it, for its loader and for ours."""
    name, model = "cifar10-linf", "Pang2020Boosting"
    module = robustbench("model_zoo.architectures.boosting_wide_resnet")
    monkeypatch.setitem(entry_of(name, model), "model", lambda: module.BoostingWideResNet(depth=10, widen_factor=1))
    file = path_of(tmp_path, name, model)
    torch.save(
        {"state_dict": renamed(without(their_network(name, model).state_dict(), "mu", "sigma"), new="module.")}, file
    )
    ours, theirs, x = build(name, model, file), their_load(tmp_path, name, model), images(name, model)
    kept, changed = ours.fc.weight.clone(), theirs.fc.weight.clone()
    torch.testing.assert_close(outputs(ours, x), outputs(theirs, x), rtol=0, atol=0)
    assert torch.equal(ours.fc.weight, kept)
    assert not torch.equal(theirs.fc.weight, changed)
