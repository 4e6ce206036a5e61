"""Checkpoints: read without running their code, renamed as laid out, and refused with what does not fit."""

import argparse
import hashlib
import re
import shlex

import numpy as np
import pytest
import torch
from torch import nn

from robharness import UserError
from robharness.checkpoints import Layout, fill, load, read, state

PLAIN = Layout(name="plain")
NESTED = Layout(
    name="nested",
    inside=("model",),
    prefixes=("module.", "encoder."),
    rename=((r"^shortcut\.", "downsample."), (r"^linear\.", "fc.")),
    drop=(r"head\.",),
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.downsample = nn.ModuleList([nn.BatchNorm2d(2)])
        self.fc = nn.Linear(2, 3)
        self.register_buffer("mean", torch.tensor([0.5]), persistent=True)

    def forward(self, x):
        return self.fc(self.downsample[0](self.conv(x - self.mean)).mean((2, 3)))


def meta():
    with torch.device("meta"):
        return Net()


def values():
    draws = np.random.default_rng(0)
    return {
        "conv.weight": draws.normal(size=(2, 1, 3, 3)), "conv.bias": draws.normal(size=2),
        "downsample.0.weight": draws.normal(size=2), "downsample.0.bias": draws.normal(size=2),
        "downsample.0.running_mean": draws.normal(size=2), "downsample.0.running_var": draws.random(2) + 0.5,
        "fc.weight": draws.normal(size=(3, 2)), "fc.bias": draws.normal(size=3), "mean": np.array([0.25]),
    }  # fmt: skip


def tensors():
    return {name: torch.from_numpy(value).float() for name, value in values().items()}


def published():
    """Return the state as a training script with DataParallel saves it, under its own names."""
    names = {name: name.replace("downsample.", "shortcut.").replace("fc.", "linear.") for name in values()}
    renamed = {f"module.encoder.{names[name]}": value for name, value in tensors().items()}
    return {"model": {**renamed, "module.head.0.weight": torch.ones(4)}, "epoch": 7}


def assert_filled(net):
    x = torch.from_numpy(np.random.default_rng(1).random((2, 1, 5, 5))).float()
    plain = Net()
    plain.load_state_dict({**plain.state_dict(), **tensors()})
    torch.testing.assert_close(net.eval()(x), plain.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("make", [Net, meta])
def test_the_matching_layout_is_found(tmp_path, make):
    torch.save(published(), tmp_path / "net.pth")
    net = make()
    assert load(net, tmp_path / "net.pth", [PLAIN, NESTED]).name == "nested"
    assert_filled(net)


def test_only_counters_may_be_missing(tmp_path):
    net = meta()
    assert load(net, tensors(), [PLAIN]) is PLAIN  # without num_batches_tracked
    assert net.downsample[0].num_batches_tracked == 0
    assert_filled(net)
    torch.save({name: value for name, value in tensors().items() if name != "fc.bias"}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth does not fit Net.*1 keys are missing: fc\.bias"):
        load(meta(), tmp_path / "net.pth", [PLAIN])


def test_mismatches_are_listed_by_the_closest_layout(tmp_path):
    wrong = published()
    wrong["model"]["module.encoder.extra"] = torch.ones(1)
    wrong["model"]["module.encoder.linear.weight"] = torch.ones(5, 2)
    torch.save(wrong, tmp_path / "net.pth")
    with pytest.raises(UserError) as caught:
        load(meta(), tmp_path / "net.pth", [PLAIN, NESTED])
    message = str(caught.value)
    assert "by the closest layout, 'nested', " in message
    assert "1 keys are unexpected: extra" in message
    assert "1 keys are of another shape: fc.weight (5, 2) instead of (3, 2)" in message
    assert "Layouts that were tried: plain, nested." in message


def test_a_key_that_matches_nothing_is_named():
    with pytest.raises(UserError, match=r"it has no 'model', .* it has 'state_dict', 'epoch'"):
        state({"state_dict": {}, "epoch": 1}, NESTED)
    with pytest.raises(UserError, match="one name, 'conv'"):
        state({"model": {"module.conv": torch.ones(1), "encoder.conv": torch.ones(1)}}, NESTED)


def test_a_layout_without_matches_is_never_the_closest():
    few = Layout(name="few", inside=("nowhere",))
    with pytest.raises(UserError, match=r"by the closest layout, 'plain', 9 keys are missing"):
        load(meta(), {"other": torch.ones(1)}, [few, PLAIN])


def test_a_buffer_outside_the_state_dict_is_refused_on_the_meta_device():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("index", torch.arange(4), persistent=False)

    with torch.device("meta"):
        net = Positions()
    state = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    with pytest.raises(ValueError, match="index is not part of the state; build Positions off the meta device"):
        load(net, state, [PLAIN])
    load(net := Positions(), state, [PLAIN])
    assert net.index.tolist() == [0, 1, 2, 3]


def test_the_versions_of_modules_are_kept():
    """Some modules look them up, and refuse what seems to be an old file."""

    class Picky(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state, prefix, local, *others):
            if local.get("version", 1) < 2:
                raise AssertionError("too old")
            super()._load_from_state_dict(state, prefix, local, *others)

    load(Picky(2, 2), {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, [PLAIN])


def test_safetensors_are_recognised_by_their_suffix(tmp_path):
    from safetensors.torch import save_file

    save_file(tensors(), tmp_path / "net.safetensors")
    net = meta()
    load(net, tmp_path / "net.safetensors", [NESTED, PLAIN])
    assert_filled(net)


class Mine:
    """An object that some training scripts store beside the weights."""


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_an_argparse_namespace_is_allowed_on_request(tmp_path):
    torch.save({"opt": argparse.Namespace(epochs=3), "model": tensors()}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"needs argparse\.Namespace"):
        read(tmp_path / "net.pth")
    assert read(tmp_path / "net.pth", [argparse.Namespace])["opt"].epochs == 3


def test_a_pickle_that_runs_code_is_refused_unless_it_is_trusted_by_its_sha256(tmp_path, monkeypatch):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"model": tensors(), "more": Evil(trace)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError) as caught:
        read(path)
    assert not trace.exists()
    assert f"sha256 {digest}, add: --trust {digest}" in str(caught.value) and "evil.pth" in str(caught.value)
    monkeypatch.setenv("ROBHARNESS_TRUST", "0" * 64)
    with pytest.raises(UserError):
        read(path)
    monkeypatch.setenv("ROBHARNESS_TRUST", f"{'0' * 64},{digest}")
    assert set(read(path)) == {"model", "more"} and trace.exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_checkpoint_is_reported_as_such(tmp_path, content):
    """A page that a server gave instead, a pointer of Git LFS: nobody is told to trust them."""
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.pth is no checkpoint: ") as caught:
        load(meta(), tmp_path / "net.pth", [PLAIN])
    assert "--trust" not in str(caught.value) and "weights_only" not in str(caught.value)


TYPES = {
    "half": (torch.float16, "float16 where the network has float32 (mean, conv.weight, conv.bias"),
    "bfloat16": (torch.bfloat16, "bfloat16 where the network has float32"),
    "double": (torch.float64, "float64 where the network has float32"),
    "int8": (torch.int8, "int8 where the network has float32"),
    "complex": (torch.complex64, "complex64 where the network has float32"),
    "bool": (torch.bool, "bool where the network has float32"),
}


@pytest.mark.parametrize("make", [Net, meta])
@pytest.mark.parametrize("name", TYPES)
def test_numbers_of_another_type_are_refused_with_the_conversion_and_not_cast(name, make, tmp_path, monkeypatch):
    kind, sentence = TYPES[name]
    path = tmp_path / "it's a net.pt"
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"model": {key: value.to(kind) for key, value in tensors().items()}, "epoch": 7}, path)
    layouts = (Layout(name="nested", inside=("model",)),)
    net = make()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        load(net, path, layouts)
    assert str(caught.value).startswith(f"{path} has numbers of another type: ")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items() if not value.is_meta)
    _, _, command = str(caught.value).partition("try: ")
    if kind in (torch.float16, torch.bfloat16, torch.float64):
        exec(shlex.split(command)[2], {})
        load(net, path.with_name("it's a net-float32.pt"), layouts)
        assert torch.equal(net.state_dict()["fc.bias"], tensors()["fc.bias"].to(kind).float())
    else:
        assert str(caught.value).endswith("Save it with the types of the network")


@pytest.mark.parametrize("kind", [torch.int32, torch.float32])
def test_counters_of_batches_may_have_any_type(kind):
    net = Net()
    load(net, {**tensors(), "downsample.0.num_batches_tracked": torch.tensor(9).to(kind)}, [PLAIN])
    assert net.state_dict()["downsample.0.num_batches_tracked"] == 9


def test_filling_refuses_numbers_of_another_type():
    with pytest.raises(
        UserError, match=r"^the state has numbers of another type: float64 where the network has float32"
    ):
        fill(Net(), {name: torch.from_numpy(value) for name, value in values().items()})
