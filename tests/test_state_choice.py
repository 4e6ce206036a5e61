"""`inside` and `strip` from the suite to the network: identity, loading, plugins that do not ask, verify."""

import hashlib
import json

import pytest
import torch

from robharness import UserError, discover
from robharness.cli import main
from robharness.evaluation.building import build_network
from robharness.planning.planner import plan
from robharness.suite import load

PLUGIN = '''
from pathlib import Path

import numpy as np
import torch

from robharness import DatasetSpec, File, InputSpec, ModelSpec, hookimpl
from robharness.checkpoints import Layout, load, read, state


class Patches:
    ids = [f"{index}" for index in range(12)]
    labels = [index % 3 for index in range(12)]

    def read(self, index):
        picture = np.zeros((4, 4, 3), np.uint8)
        picture[..., index % 3] = 255
        return picture


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


LAYOUTS = [Layout(name="nested", inside=("state_dict",)), Layout(name="plain")]


def by_load(params, weights):
    load(net := Net(), weights, LAYOUTS)
    return net


def by_read(params, weights):
    """Reads by itself what is nested where, as plugins with several layouts do."""
    content = read(weights)
    inside = ("state_dict",) if "state_dict" in content else ()
    net = Net()
    net.load_state_dict(state(content, Layout(name="mine", inside=inside)))
    return net


def by_torch(params, weights):
    net = Net()
    content = torch.load(weights, weights_only=True)
    net.load_state_dict(content.get("state_dict", content))
    return net


def by_parts(params, weights):
    load(net := Net(), {"fc.weight": read(weights["a"])["weight"], "fc.bias": read(weights["b"])["bias"]}, LAYOUTS)
    return net


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="patches", summary="s", labels="channels", splits=("test",),
                      open=lambda root, split: Patches())


@hookimpl
def robharness_models():
    for build in (by_load, by_read, by_torch, by_parts):
        yield ModelSpec(name=build.__name__, summary="s", input=InputSpec(shape=(3, 4, 4)), labels="channels",
                        build=build)
    for name, digest in (("filed", None), ("pinned", "DIGEST")):
        yield ModelSpec(name=name, summary="s", input=InputSpec(shape=(3, 4, 4)), labels="channels", build=by_load,
                        weights=File(path="net.pth", sha256=digest))
'''
RIGHT = {"fc.weight": 9 * torch.eye(3), "fc.bias": torch.zeros(3)}
WRONG = {"fc.weight": -9 * torch.eye(3), "fc.bias": torch.zeros(3)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": WRONG, "state_dict_ema": RIGHT,
               "wrapped": {"net": {f"module.{key}": value for key, value in RIGHT.items()}}}  # fmt: skip
    torch.save(content, tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    (tmp_path / "toy.py").write_text(PLUGIN.replace("DIGEST", digest))
    return tmp_path


@pytest.fixture
def planned(folder):
    registry = discover([str(folder / "toy.py")])

    def call(model, **keys):
        one = {"model": f"toy/{model}", "label": "Net", **({"weights": "net.pth"} | keys)}
        one = {key: value for key, value in one.items() if value is not None}
        suite = {"robharness": 1, "name": "s", "data": {"name": "toy/patches", "split": "test"}, "models": [one]}
        found = plan(load(suite, registry), folder, store=folder / "store")
        assert not found.missing
        return found

    return call


def weight(planned):
    return build_network(planned.models[0]).fc.weight[0, 0].item()


@pytest.mark.parametrize("model", ["by_load", "by_read"])
def test_the_chosen_state_is_read(planned, model):
    assert weight(planned(model, inside="state_dict")) == -9
    assert weight(planned(model, inside="state_dict_ema")) == 9
    assert weight(planned(model, inside="wrapped.net", strip="module.")) == 9


def test_the_choice_holds_for_one_model_alone(planned):
    assert weight(planned("by_load", inside="state_dict_ema")) == 9
    assert weight(planned("by_torch")) == -9
    with pytest.raises(UserError, match="is ambiguous"):
        weight(planned("by_load"))


def test_a_published_file_that_is_known_by_its_sha256_is_read_as_published(planned):
    assert weight(planned("pinned", weights=None)) == -9
    for model, weights in (("filed", None), ("pinned", "net.pth")):
        with pytest.raises(UserError, match=r"net\.pth is ambiguous: .*`inside: state_dict` or `inside: "):
            weight(planned(model, weights=weights))


@pytest.mark.parametrize(("keys", "text"), [({"inside": "state_dict"}, "`inside: state_dict` has no effect on "),
                                            ({"strip": "fc."}, "`strip: fc.` has no effect on ")])  # fmt: skip
def test_a_plugin_that_reads_by_itself_is_refused(planned, folder, keys, text):
    with pytest.raises(UserError) as caught:
        weight(planned("by_torch", **keys))
    assert str(caught.value).startswith(f"{text}{folder / 'net.pth'}, since the plugin does not read it by ")


def test_choices_by_the_names_of_several_files(planned, folder):
    torch.save({"best": {"weight": torch.eye(3)}, "last": {"weight": 5 * torch.eye(3)}}, folder / "a.pth")
    torch.save({"m.bias": torch.ones(3)}, folder / "b.pth")
    files = {"a": "a.pth", "b": "b.pth"}
    net = build_network(planned("by_parts", weights=files, inside={"a": "last"}, strip={"b": "m."}).models[0])
    assert net.fc.weight[0, 0] == 5 and net.fc.bias[0] == 1


def test_the_choice_is_identity_when_it_is_given(planned):
    def identity(**keys):
        found = planned("by_load", **keys)
        return found.models[0].identity, found.cells[0].key

    bare, key = identity()
    assert not {"inside", "strip"} & bare.keys()
    keys = [key]
    for choice in ({"inside": "state_dict"}, {"inside": "state_dict_ema"}, {"strip": "fc."}):
        found, key = identity(**choice)
        assert found == bare | choice
        keys.append(key)
    assert len(set(keys)) == 4


def test_run_and_verify_use_the_choice(folder, capsys):
    lines = [f"{{model: toy/by_load, label: {label}, weights: net.pth, inside: {inside}}}"
             for label, inside in (("Raw", "state_dict"), ("EMA", "state_dict_ema"))]  # fmt: skip
    (folder / "s.yaml").write_text(
        "robharness: 1\nname: s\ndata: {name: toy/patches, split: test}\nmodels:\n  - " + "\n  - ".join(lines) + "\n"
    )
    assert main(["run", "s.yaml", "-p", "toy.py"]) == 0
    capsys.readouterr()
    assert main(["report", "s.yaml", "-p", "toy.py", "--json"]) == 0
    cells = {cell["model"]: cell["accuracy"] for cell in json.loads(capsys.readouterr().out)["cells"]}
    assert cells == {"Raw": 0, "EMA": 1}
    command = ["verify", "toy/by_load", "-p", "toy.py", "weights=net.pth", "--json"]
    assert main([*command, "inside=wrapped.net", "strip=module."]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ways"][0]["accuracy"] == 1
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "is ambiguous: it holds two states that fit" in message
    assert message.count("Try: ") == 1  # the command that mends it, and no other


def test_an_untrained_run_names_the_two_lines(folder, capsys):
    (folder / "s.yaml").write_text(
        "robharness: 1\nname: s\ndata: {name: toy/patches, split: test}\n"
        "models: [{model: toy/by_load, label: Net, weights: net.pth}]\n"
    )
    assert main(["run", "s.yaml", "-p", "toy.py"]) == 3
    out = capsys.readouterr()
    text = " ".join((out.out + out.err).split())
    assert "Try: set `inside: state_dict` or `inside: state_dict_ema` beside `weights:` in the suite" in text
