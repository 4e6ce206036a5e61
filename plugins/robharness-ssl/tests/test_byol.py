"""BYOL's checkpoint: a pickle as the publisher's training writes it, and outputs computed with Haiku's names."""

from __future__ import annotations

import os
import pickle
import sys
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ssl_publishers import normal, same_padding
from torch.nn import functional

from robharness import UserError
from robharness_ssl import haiku


class FlatMapping(dict):
    """Haiku's immutable mapping, which pickles as a call with a dict."""

    def __reduce__(self):
        return FlatMapping, (dict(self),)


class _ByolExperimentState(NamedTuple):
    online_params: object
    target_params: object
    online_state: object
    target_state: object
    opt_state: object


@pytest.fixture
def as_published(monkeypatch):
    """Give the classes the modules of the publisher's, for as long as a file is written."""
    for name, each in (("haiku._src.data_structures", FlatMapping), ("byol.byol_experiment", _ByolExperimentState)):
        package = name.split(".")
        for length in range(1, len(package) + 1):
            module = ModuleType(".".join(package[:length]))
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(each, "__module__", name)
        setattr(module, each.__name__, each)
    return monkeypatch


def layers():
    """Return (module, height and width, in, out) of the convolutions of a ResNet with one block per stage."""
    found, taken = [("res_net50/~/initial_conv", 7, 3, 64)], 64
    for stage in range(4):
        given, place = 256 << stage, f"res_net50/~/block_group_{stage}/~/block_0/~/"
        width = given // 64
        found += [(f"{place}shortcut_conv", 1, taken, given), (f"{place}conv_0", 1, taken, width),
                  (f"{place}conv_1", 3, width, width), (f"{place}conv_2", 1, width, given)]  # fmt: skip
        taken = given
    return found


def network(seed):
    """Return (params, state) of Haiku with random values: the encoder, the classifier and the projector."""
    draws = np.random.default_rng(seed)
    params, state = {}, {}
    for module, size, taken, given in layers():
        scale = (1.5 / (size * size * taken)) ** 0.5
        params[module] = {"w": draws.normal(0, scale, (size, size, taken, given)).astype(np.float32)}
        norm, shape = module.replace("conv", "batchnorm"), (1, 1, 1, given)
        params[norm] = {"scale": draws.uniform(0.4, 1.2, shape).astype(np.float32),
                        "offset": draws.normal(0, 0.3, shape).astype(np.float32)}  # fmt: skip
        for kind, values in (("mean_ema", draws.normal(0, 0.3, shape)), ("var_ema", draws.uniform(0.4, 1.2, shape))):
            average = values.astype(np.float32)
            state[f"{norm}/~/{kind}"] = {"hidden": average, "average": average, "counter": np.array(9, dtype=np.int32)}
    params["classifier"] = {"w": draws.normal(0, 0.02, (2048, 1000)).astype(np.float32),
                            "b": draws.normal(0, 0.3, 1000).astype(np.float32)}  # fmt: skip
    params["projector/linear"] = {"w": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32)}
    state["projector/batch_norm/~/mean_ema"] = {"average": np.ones((1, 4), np.float32)}
    return params, state


def write(path, online, target, **others):
    """Write a checkpoint as checkpointing.py does, by protocol 2."""
    flat = [FlatMapping({name: FlatMapping(values) for name, values in each.items()}) for each in (*online, *target)]
    experiment = _ByolExperimentState(flat[0], flat[2], flat[1], flat[3], [np.ones(3, np.float32)])
    content = {"experiment_state": experiment, "step": 312500, "rng": np.array([0, 1], dtype=np.uint32), **others}
    path.write_bytes(pickle.dumps(content, protocol=2))


def convolved(x, params, module, stride):
    kernel = torch.from_numpy(params[module]["w"]).permute(3, 2, 0, 1)
    ends = same_padding(x.shape[-1], kernel.shape[-1], stride)
    return functional.conv2d(functional.pad(x, (*ends, *ends)), kernel, stride=stride)


def normalised(x, params, state, module):
    scale, offset = (torch.from_numpy(params[module][key].reshape(-1, 1, 1)) for key in ("scale", "offset"))
    mean, var = (
        torch.from_numpy(state[f"{module}/~/{key}"]["average"].reshape(-1, 1, 1)) for key in ("mean_ema", "var_ema")
    )
    return (x - mean) * (scale * torch.rsqrt(var + 1e-5)) + offset


def embedding(x, params, state):
    """Return the mean features of the publisher's network."""
    x = convolved(x, params, "res_net50/~/initial_conv", 2)
    x = normalised(x, params, state, "res_net50/~/initial_batchnorm").relu()
    ends = same_padding(x.shape[-1], 3, 2)
    x = functional.max_pool2d(functional.pad(x, (*ends, *ends), value=-torch.inf), 3, 2)
    for stage in range(4):
        place, stride = f"res_net50/~/block_group_{stage}/~/block_0/~/", 2 if stage else 1
        shortcut = convolved(x, params, f"{place}shortcut_conv", stride)
        shortcut = normalised(shortcut, params, state, f"{place}shortcut_batchnorm")
        for index, step in enumerate((1, stride, 1)):
            x = normalised(
                convolved(x, params, f"{place}conv_{index}", step), params, state, f"{place}batchnorm_{index}"
            )
            x = x if index == 2 else x.relu()
        x = (x + shortcut).relu()
    return x.mean((2, 3))


def logits(features, params):
    return features @ torch.from_numpy(params["classifier"]["w"]) + torch.from_numpy(params["classifier"]["b"])


@pytest.fixture
def published(as_published, tmp_path):
    """Return (path, online network): a checkpoint whose classes are gone when it is read."""
    online, target = network(0), network(1)
    write(tmp_path / "pretrain_res50x1.pkl", online, target)
    for name in ("haiku._src.data_structures", "byol.byol_experiment"):
        as_published.delitem(sys.modules, name)
    return tmp_path / "pretrain_res50x1.pkl", online


def test_the_published_pickle_gives_the_publishers_outputs(published, small, x, agree):
    path, online = published
    expected = embedding(normal(x), *online)
    agree(small("byol-resnet50", path, x), expected)
    agree(small("byol-resnet50-linear", path, x), logits(expected, online[0]))


def test_the_target_network_and_torchs_padding_give_others(published, small, x, agree):
    path, _ = published
    agree(small("byol-resnet50", path, x), embedding(normal(x), *network(1)), is_same=False)
    torch.save(haiku.read(path), path.with_name("converted.pth"))
    agree(small("byol-resnet50", path, x), small("simsiam-resnet50", as_simsiam(path), x), is_same=False)


def as_simsiam(path):
    """Write the same weights for a network with torch's padding."""
    state = {f"module.encoder.{name}": value for name, value in haiku.read(path).items() if not name.startswith("fc.")}
    torch.save({"state_dict": state}, path.with_name("padded.pth.tar"))
    return path.with_name("padded.pth.tar")


def test_a_converted_file_with_torchvisions_names_loads(published, small, x, agree):
    """The layout of byol-convert: all of the encoder and the classifier, without counters of batches."""
    path, online = published
    state = haiku.read(path)
    assert {"conv1.weight", "bn1.running_mean", "layer4.0.downsample.1.running_var", "fc.bias"} < state.keys()
    torch.save(state, path.with_name("pretrain_res50x1.pth.tar"))
    expected = embedding(normal(x), *online)
    agree(small("byol-resnet50", path.with_name("pretrain_res50x1.pth.tar"), x), expected)
    agree(small("byol-resnet50-linear", path.with_name("pretrain_res50x1.pth.tar"), x), logits(expected, online[0]))


def test_a_key_too_few_or_too_many_is_refused(as_published, small, x, tmp_path):
    online, path = network(0), tmp_path / "own.pkl"
    lost = online[1].pop("res_net50/~/block_group_1/~/block_0/~/batchnorm_2/~/var_ema")
    write(path, online, network(1))
    with pytest.raises(UserError, match=r"own\.pkl does not fit ResNet: .*missing: layer2\.0\.bn3\.running_var"):
        small("byol-resnet50", path, x)
    online[1]["res_net50/~/block_group_1/~/block_0/~/batchnorm_2/~/var_ema"] = lost
    online[0]["res_net50/~/final_batchnorm"] = {"scale": np.ones((1, 1, 1, 4), np.float32)}
    write(path, online, network(1))
    with pytest.raises(UserError, match=r"unexpected: res_net50/~/final_batchnorm\.weight"):
        small("byol-resnet50", path, x)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_code_of_a_pickle_runs(as_published, small, x, agree, tmp_path):
    online = network(0)
    write(tmp_path / "own.pkl", online, network(1), extra=Malicious(tmp_path / "made"))
    agree(small("byol-resnet50", tmp_path / "own.pkl", x), embedding(normal(x), *online))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps({"step": 1}), pickle.dumps([1]), b"\x80\x02cos\nsystem\n."]
)
def test_another_pickle_is_refused(small, x, tmp_path, content):
    (tmp_path / "own.pkl").write_bytes(content)
    with pytest.raises(
        UserError, match=r"own\.pkl is no checkpoint of BYOL, as pretrain_res50x1\.pkl is: .* Try: ls -l"
    ):
        small("byol-resnet50", tmp_path / "own.pkl", x)
    with pytest.raises(UserError, match=r"lost\.pkl is no checkpoint: No such file.* Try: ls -l"):
        small("byol-resnet50", tmp_path / "lost.pkl", x)
