"""Encoders of adversarial contrastive training: files as the publishers' code writes them, and their traps."""

from __future__ import annotations

import pytest
import torch
from adversarial_publishers import (
    DeACL,
    DynACL,
    Network,
    Projection,
    acl,
    acl_file,
    advcl,
    advcl_file,
    deacl_file,
    finetuned,
    made,
    multiple,
    rocl,
    rocl_file,
)  # fmt: skip
from ssl_publishers import parallel
from torch import nn

from robharness import UserError, discover
from robharness.checkpoints import StateChoice, choosing
from robharness_ssl import robharness_models

SPECS = {spec.name: spec for spec in robharness_models()}
BRANCHES = {"adversarial": 1, "clean": 0}


@pytest.fixture(scope="module")
def x():
    return torch.empty(2, 3, 32, 32).uniform_(generator=torch.Generator().manual_seed(7))


@pytest.fixture
def features(x, tmp_path):
    """Return a function of a publisher's name, the content of a file and options that returns the features."""

    def compute(name, content, **options):
        file = tmp_path / "weights.pt"
        torch.save(content, file)
        spec = SPECS[f"{name}-resnet18"]
        net = spec.build(spec.params(**options) if spec.params else None, file).eval()
        with torch.inference_mode():
            return net(x)

    return compute


def expected(net, x):
    with torch.inference_mode():
        return net.features(x)


# --- each publisher's file --------------------------------------------------------------------------------------------


def test_rocls_encoder(features, agree, x):
    net = rocl()
    content = rocl_file(net)
    assert "module.layer2.0.shortcut.1.running_mean" in content["model"]
    agree(features("rocl", content), expected(net, x))
    projector = nn.Sequential(nn.Linear(512, 2048), nn.Linear(2048, 128))
    with pytest.raises(UserError, match=r"weights\.pt does not fit ResNet18: .*missing: conv1\.weight"):
        features("rocl", rocl_file(projector))


@pytest.mark.parametrize(("branch", "used"), BRANCHES.items())
def test_each_of_acls_branches(features, agree, x, branch, used):
    content = acl_file(acl())
    assert {"layer2.0.downsample.bn.bn_list.0.weight", "fc.bn3.bn_list.1.running_var", "normalize.std"} <= set(
        content["state_dict"]
    )
    agree(features("acl", content, branch=branch), expected(acl(used), x))
    agree(features("acl", content, branch=branch), expected(acl(1 - used), x), is_same=False)


def test_the_default_branch_is_the_adversarial_one(features, x):
    for name, content in (("acl", acl_file(acl())), ("dynacl", acl_file(acl())), ("advcl", advcl_file(advcl()))):
        torch.testing.assert_close(
            features(name, content), features(name, content, branch="adversarial"), rtol=0, atol=0
        )


def test_acls_head_may_have_two_layers_and_its_constants_are_the_files(features, agree, x):
    net = multiple(1, fc=Projection(layers=2))
    agree(features("acl", acl_file(net)), expected(net, x))
    net.normalize.mean += 0.1
    agree(features("acl", net.state_dict()), expected(net, x))
    state = {key: value for key, value in net.state_dict().items() if not key.startswith("normalize.")}
    with pytest.raises(UserError, match=r"2 keys are missing: normalize\.mean, normalize\.std"):
        features("acl", state)


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize(("branch", "used"), BRANCHES.items())
def test_each_of_dynacls_encoders(features, agree, x, momentum, branch, used):
    content, both = acl_file(DynACL(1)), DynACL(used)
    wanted, other = (both.encoder_k, both.encoder_q) if momentum else (both.encoder_q, both.encoder_k)
    found = features("dynacl", content, momentum=momentum, branch=branch)
    agree(found, expected(wanted, x))
    agree(found, expected(other, x), is_same=False)


def test_dynacls_momentum_encoder_is_the_default_and_may_be_alone(features, agree, x):
    both = DynACL(1)
    momentum = expected(both.encoder_k, x)
    agree(features("dynacl", acl_file(both)), momentum)
    alone = {"epoch": 1000, "state_dict": both.encoder_k.state_dict()}
    agree(features("dynacl", alone), momentum)
    with pytest.raises(UserError, match=r"has one encoder, without .* Try: leave `momentum: false` out"):
        features("dynacl", alone, momentum=False)


@pytest.mark.parametrize("momentum", [True, False])
def test_the_other_of_dynacls_encoders_alone_is_refused(features, agree, x, momentum):
    wanted, other = ("encoder_k.", "encoder_q.") if momentum else ("encoder_q.", "encoder_k.")
    both = DynACL(1)
    state = {key: value for key, value in both.state_dict().items() if key.startswith(other)}
    hint = str(not momentum).lower()
    with pytest.raises(UserError, match=rf"has `{other}` alone, .* takes `{wanted}`\. Try: set `momentum: {hint}`"):
        features("dynacl", state, momentum=momentum)
    net = both.encoder_q if momentum else both.encoder_k
    agree(features("dynacl", state, momentum=not momentum), expected(net, x))


@pytest.mark.parametrize(("branch", "used"), {**BRANCHES, "pseudo-labels": 2}.items())
def test_each_of_advcls_three_branches(features, agree, x, branch, used):
    content = advcl_file(advcl())
    assert {"module.fc_002.weight", "module.head_ce.1.running_mean", "module.bn1.bn_list.2.weight"} <= set(
        content["model"]
    )
    agree(features("advcl", content, branch=branch), expected(advcl(used), x))


def test_deacls_student_and_not_its_teacher(features, agree, x):
    """The files hold both, with equal shapes; adv_finetune.py reads `backbone.`."""
    net = DeACL()
    assert "momentum_backbone.conv1.weight" in net.state_dict()
    agree(features("deacl", deacl_file(net)), expected(net.backbone, x))
    agree(features("deacl", deacl_file(net)), expected(net.momentum_backbone, x), is_same=False)


def test_deacls_padding_of_2_cannot_be_seen_in_shapes_and_gives_other_features(features, agree, x):
    net, narrow = DeACL(), DeACL(padding=1)
    narrow.load_state_dict(net.state_dict(), strict=True)
    found = features("deacl", deacl_file(net))
    agree(found, expected(net.backbone, x))
    agree(found, expected(narrow.backbone, x), is_same=False)
    agree(features("deacl", deacl_file(net), padding=1), expected(narrow.backbone, x))


# --- traps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rocl", "acl", "dynacl", "advcl", "deacl"])
def test_dataparallels_prefix_may_be_there_or_not(features, name):
    content = {
        "rocl": lambda: rocl_file(rocl()),
        "acl": lambda: acl_file(acl()),
        "dynacl": lambda: acl_file(DynACL(1)),
        "advcl": lambda: advcl_file(advcl()),
        "deacl": lambda: deacl_file(DeACL()),
    }[name]()
    key = "model" if "model" in content else "state_dict"
    bare = {key.removeprefix("module."): value for key, value in content[key].items()}
    wrapped = {f"module.{key}": value for key, value in bare.items()}
    found = [features(name, {**content, key: state}) for state in (bare, wrapped)]
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "make", "model"),
    [
        ("rocl", lambda: {"model": acl().state_dict()}, "ssl/acl-resnet18"),
        ("rocl", lambda: advcl_file(advcl()), "ssl/advcl-resnet18"),
        ("deacl", lambda: {"state_dict": {f"backbone.{key}": v for key, v in acl().state_dict().items()}}, "ssl/acl"),
    ],
)
def test_several_batchnorms_are_not_read_as_one(features, name, make, model):
    with pytest.raises(UserError, match=rf"several BatchNorms per layer \(bn_list\.0, .*`model: {model}.*`branch: adv"):
        features(name, make())


@pytest.mark.parametrize("name", ["acl", "dynacl", "advcl"])
def test_a_fine_tuned_network_is_not_read_as_a_pretrained_encoder(features, name):
    """Without its classifier, too: its keys would fit after renaming."""
    state = finetuned().state_dict()
    bare = {key: value for key, value in state.items() if not key.startswith("fc.")}
    for each in (state, bare):
        with pytest.raises(
            UserError, match=r"has one BatchNorm per layer, .* Try: `model: supervised/cifar10-resnet18`"
        ):
            features(name, {"epoch": 100, "state_dict": each})


def test_a_network_of_two_branches_with_a_classifier_is_fine_tuned(features):
    """The file is as DynACL's test_AFF.py and LPAFT_AFF.py write it."""
    net = multiple(1, fc=nn.Linear(512, 10))
    with pytest.raises(UserError, match=r"has a classifier of one layer, `fc`, .*supervised/cifar10-resnet18"):
        features("dynacl", acl_file(net))


def test_the_model_of_that_advice_reads_fine_tuned_networks_and_refuses_pretrained_ones(agree, x, tmp_path):
    models = discover().models
    spec = next(entry.spec for name, entry in models.items() if name == "supervised/cifar10-resnet18")
    torch.save(acl_file(finetuned()), tmp_path / "tuned.pt")
    torch.save(acl_file(acl()), tmp_path / "pretrained.pt")
    net = finetuned()
    with torch.inference_mode():
        found = spec.build(spec.params(), tmp_path / "tuned.pt").eval()(x)
        agree(found, net.fc(net.features(x)))
    with pytest.raises(UserError, match=r"pretrained\.pt does not fit .*missing: fc\.weight, fc\.bias"):
        spec.build(spec.params(), tmp_path / "pretrained.pt")


def test_a_branch_that_the_file_lacks_is_named_with_those_that_it_has(features, agree, x):
    """train_simCLR.py without --ACL_DS has the branch "normal" alone."""
    net = acl(0, count=1)
    with pytest.raises(UserError, match=r"no BatchNorms of the branch 'adversarial' \(bn_list\.1\).*`branch: clean`"):
        features("acl", acl_file(net))
    agree(features("acl", acl_file(net), branch="clean"), expected(net, x))


@pytest.mark.parametrize("name", ["acl", "dynacl", "advcl"])
@pytest.mark.parametrize(("branch", "used"), BRANCHES.items())
def test_a_branch_that_was_never_trained_is_refused(features, name, branch, used):
    net = advcl() if name == "advcl" else acl()
    for module in net.modules():
        if hasattr(module, "bn_list"):
            module.bn_list[used].reset_running_stats()
    content = advcl_file(net) if name == "advcl" else acl_file(net)
    other = "clean" if used else "adversarial"
    with pytest.raises(UserError, match=rf"branch '{branch}' in .*was never trained: .*bn1 is 0.*`branch: {other}`"):
        features(name, content, branch=branch)
    assert features(name, content, branch=other).isfinite().all()


@pytest.mark.parametrize("name", ["rocl", "deacl"])
def test_an_encoder_that_was_never_trained_is_refused(features, name):
    net = rocl() if name == "rocl" else DeACL()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    with pytest.raises(UserError, match=r"weights\.pt was never trained: .* Try: give the file of a trained encoder"):
        features(name, rocl_file(net) if name == "rocl" else deacl_file(net))


@pytest.mark.parametrize(
    ("name", "make", "key"),
    [
        ("rocl", lambda: rocl_file(rocl()), "module.layer2.0.shortcut.1.bias"),
        ("acl", lambda: acl_file(acl()), "layer2.0.downsample.bn.bn_list.1.bias"),
        ("dynacl", lambda: acl_file(DynACL(1)), "encoder_k.layer2.0.downsample.bn.bn_list.1.bias"),
        ("advcl", lambda: advcl_file(advcl()), "module.layer2.0.downsample.bn.bn_list.1.bias"),
        ("deacl", lambda: deacl_file(DeACL()), "backbone.layer2.0.downsample.1.bias"),
    ],
)
def test_a_key_too_few_and_a_key_too_many_are_refused(features, name, make, key):
    content = make()
    state = content["model" if "model" in content else "state_dict"]
    state[key.replace("bias", "other")] = state[key]
    with pytest.raises(UserError, match=r"1 keys are unexpected: layer2\.0\.downsample\.1\.other"):
        features(name, content)
    del state[key.replace("bias", "other")], state[key]
    with pytest.raises(UserError, match=r"1 keys are missing: layer2\.0\.downsample\.1\.bias"):
        features(name, content)


def test_files_of_one_publisher_are_not_those_of_another(features):
    with pytest.raises(UserError, match=r"2 keys are missing: normalize\.mean, normalize\.std"):
        features("acl", advcl_file(advcl())["model"])
    with pytest.raises(UserError, match=r"unexpected: normalize\.mean"):
        features("advcl", acl_file(acl()))
    with pytest.raises(UserError, match=r"no keys that begin with `backbone\.`, which DeACL's encoder has"):
        features("deacl", made(Network(normalize=((0.5,) * 3, (0.5,) * 3))).state_dict())
    with pytest.raises(UserError, match="does not fit ResNet18: it has no 'model'"):
        features("rocl", {"net": parallel(rocl())})


def test_the_suites_choice_of_a_state_goes_before(features, agree, x, tmp_path):
    both = DynACL(1)
    content = {"best": both.state_dict(), "last": {}}
    with choosing({tmp_path / "weights.pt": StateChoice(inside="best")}):
        agree(features("dynacl", content, momentum=False), expected(both.encoder_q, x))
