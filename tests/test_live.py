"""Live networks: identified by all that determines their behaviour, and measured as in a fresh process."""

from __future__ import annotations

import collections
import enum
import functools
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from robharness import ModelSpec, api
from robharness.errors import UserError
from robharness.evaluation.digest import Unidentified, network_digest
from robharness.report import build
from robharness.specs import InputSpec

TOYS = str(Path(__file__).parent / "toys.py")
SIDE = 8


def linear(seed=0):
    """A network of 8 x 8 pixels and 3 classes with weights drawn from a generator of its own."""
    layer = torch.nn.utils.skip_init(nn.Linear, SIDE * SIDE, 3)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(seed))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


class Scaled(nn.Module):
    """The logits of `linear`, times a plain attribute; dimmer images for another function."""

    def __init__(self, scale=1.0, function=None, members=()):
        super().__init__()
        self.net, self.scale, self.function, self.members = linear(), scale, function, members

    def forward(self, x):
        x = self.function(x) if self.function else x
        return self.scale * self.net(x) + sum(member(x) for member in self.members)


def times(factor):
    return lambda x: x * factor


FACTOR = 1


def times_factor(x):
    return x * FACTOR


def hooked(factor):
    net = linear()
    net.register_forward_hook(lambda module, inputs, output: output * factor)
    return net


def scripted(seed):
    return torch.jit.freeze(torch.jit.script(linear(seed)).eval())


def quantised(seed):
    return torch.ao.quantization.quantize_dynamic(linear(seed), {nn.Linear})


DIFFERENT = {
    "attribute": (lambda: Scaled(1.0), lambda: Scaled(2.0)),
    "type of an attribute": (lambda: Scaled(1), lambda: Scaled(1.0)),
    "closure": (lambda: Scaled(1, times(1)), lambda: Scaled(1, times(2))),
    "code": (lambda: Scaled(1, lambda x: x + 1), lambda: Scaled(1, lambda x: x - 1)),
    "partial": (
        lambda: Scaled(1, functools.partial(torch.mul, other=1)),
        lambda: Scaled(1, functools.partial(torch.mul, other=2)),
    ),
    "list": (lambda: Scaled(1, members=[linear(1)]), lambda: Scaled(1, members=[linear(2)])),
    "mode of a part": (lambda: Scaled(1, members=[linear(1)]), lambda: Scaled(1, members=[linear(1).eval()])),
    "hook": (lambda: hooked(1), lambda: hooked(2)),
    "constants of TorchScript": (lambda: scripted(1), lambda: scripted(2)),
    "packed weights": (lambda: quantised(1), lambda: quantised(2)),
    "weights": (lambda: linear(1), lambda: linear(2)),
    "bound method": (lambda: Scaled(1, Scaled(1).net.forward), lambda: Scaled(1, hooked(2).forward)),
    "tensor": (lambda: Scaled(torch.ones(3)), lambda: Scaled(torch.zeros(3))),
    "object": (lambda: Scaled(1, Times(1)), lambda: Scaled(1, Times(2))),
    "value of an enum": (lambda: Scaled(One.A), lambda: Scaled(Other.A)),
    "cached function": (lambda: Scaled(1, functools.cache(times(1))), lambda: Scaled(1, functools.cache(times(2)))),
    "attribute of a list": (lambda: Scaled(Named(1)), lambda: Scaled(Named(2))),
    "attribute of a number": (lambda: Scaled(Number(1)), lambda: Scaled(Number(2))),
    "default of a mapping": (
        lambda: Scaled(collections.defaultdict(times(1))),
        lambda: Scaled(collections.defaultdict(times(2))),
    ),
    "beside _orig_mod": (lambda: wrapping(1), lambda: wrapping(2)),
    "slot": (lambda: Slotted(1), lambda: Slotted(2)),
    "function of a graph": (lambda: traced_by_fx(times(1)), lambda: traced_by_fx(times(2))),
    "forward of the instance": (lambda: replaced(1), lambda: replaced(2)),
}


class One(enum.Enum):
    A = 1


class Other(enum.Enum):
    A = 2


One.__qualname__ = Other.__qualname__ = "Mode"


class Named(list):
    def __init__(self, name):
        self.name = name


class Number(float):
    def __init__(self, value):
        self.doubled = 2 * value

    def __new__(cls, value):
        return super().__new__(cls, 1.0)


class Slotted(nn.Module):
    __slots__ = ("factor",)

    def __init__(self, factor):
        super().__init__()
        self.factor = factor


def wrapping(scale):
    net = Scaled(scale)
    net._orig_mod = linear()
    return net


def traced_by_fx(function):
    graph = torch.fx.Graph()
    graph.output(graph.call_function(function, (graph.placeholder("x"),)))
    return torch.fx.GraphModule(nn.Module(), graph)


def replaced(factor):
    net = linear()
    net.forward = lambda x: x * factor
    return net


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", DIFFERENT)
def test_networks_that_behave_differently_have_different_digests(what):
    one, other = DIFFERENT[what]
    assert network_digest(one()) == network_digest(one())
    assert network_digest(one()) != network_digest(other())


def test_a_global_that_a_function_uses_is_part_of_the_digest(monkeypatch):
    before = network_digest(Scaled(1, times_factor))
    monkeypatch.setitem(times_factor.__globals__, "FACTOR", 2)
    assert network_digest(Scaled(1, times_factor)) != before


def test_training_mode_gradients_and_copies_do_not_count():
    net = Scaled(1, times(2), nn.ModuleList([nn.BatchNorm2d(1)]))
    before = network_digest(net)
    net.eval().requires_grad_(False)
    assert network_digest(net) == before


def test_a_method_of_an_installed_class_that_was_replaced_is_part_of_the_digest(monkeypatch):
    before = network_digest(linear())
    monkeypatch.setattr(nn.Flatten, "forward", lambda self, x: x.flatten(1) * 2)
    assert network_digest(linear()) != before


step = 0
train = (number for number in range(3))


class Trained(nn.Module):
    """Its attributes have the names of globals that change."""

    def forward(self, x):
        self.step = 1
        return self.train().step * x


def test_attributes_with_the_names_of_globals_do_not_count(monkeypatch):
    before = network_digest(Trained())
    monkeypatch.setitem(Trained.forward.__globals__, "step", 5)
    assert network_digest(Trained()) == before


def test_a_digest_is_the_same_in_another_process():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_live as t; print(t.network_digest(t.Scaled(3)))"
    words = [sys.executable, "-c", code, str(Path(__file__).parent)]
    found = {subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 1


@pytest.mark.parametrize("make", [lambda: (i for i in range(3)), lambda: sys.stderr])
def test_an_object_without_readable_content_is_named(make):
    with pytest.raises(Unidentified, match=r"'function', of the type \w+, cannot be read: TypeError: cannot pickle"):
        network_digest(Scaled(1, make()))


@pytest.fixture
def accuracy(suite, tmp_path):
    """The clean accuracy of live networks in one store."""

    def measure(net, store="store", **options):
        found = api.run(suite(models=[], attacks=[]), store=tmp_path / store, plugins=[TOYS], models={"net": net},
                        **options)  # fmt: skip
        return found.clean("net").accuracy, found

    return measure


def darkened(x):
    return x * 0


def test_another_network_under_one_label_is_measured_itself(accuracy):
    plain, _ = accuracy(Scaled(1, times(1)))
    black, _ = accuracy(Scaled(1, darkened))
    assert plain != black
    assert accuracy(Scaled(1, darkened), "other")[0] == black
    assert accuracy(Scaled(1, times(1)))[0] == plain


def test_a_network_that_cannot_be_identified_is_never_taken_from_the_store(accuracy):
    source = itertools.cycle([1.0])
    locks = (scale for scale in source)  # has no readable content
    net = Scaled(1)
    net.unused = locks
    net.__class__.__deepcopy__ = lambda self, memo: self
    try:
        _, first = accuracy(net)
        _, second = accuracy(net)
    finally:
        del net.__class__.__deepcopy__
    keys = [{cell.key for cell in found.plan.cells} for found in (first, second)]
    assert not keys[0] & keys[1]
    [found] = [each for each in build(second).findings if each.code == "live-not-identified"]
    assert found.subject == "net" and "'unused', of the type generator" in found.message


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda x: x,
            r"the live model 'net' is a function, not a torch.nn.Module. Try: a torch.nn.Module whose forward",
        ),
        (nn.Flatten, r"the live model 'net' is the class Flatten, .*Try: an instance"),
        ("net.pt", r"the live model 'net' is a str, "),
    ],
)
def test_anything_else_is_refused_in_a_sentence(accuracy, wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        accuracy(wrong)


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_copied_fails_with_a_remedy(suite, tmp_path, toys):
    net = linear()
    nn.utils.weight_norm(net[1])
    net(torch.zeros(1, 1, SIDE, SIDE)).sum().backward()
    net[1].weight = net[1].weight * 1
    found = api.run(suite(models=[], attacks=[]), store=tmp_path, plugins=[toys], models={"net": net})
    [failure] = found.cells[0].failures
    assert "the live network cannot be copied" in str(failure)
    assert "torch.nn.utils.parametrizations" in str(failure)


def test_a_copy_that_calls_the_original_is_refused(suite, tmp_path, toys):
    net = nn.Sequential(nn.BatchNorm2d(1), linear())
    old = net.forward
    net.forward = lambda x: old(x)
    before = net[0].num_batches_tracked.item()
    found = api.run(suite(models=[], attacks=[]), store=tmp_path, plugins=[toys], models={"net": net})
    assert "a copy of the live network calls the original" in str(found.cells[0].failures[0])
    assert net[0].num_batches_tracked.item() == before


def test_a_live_spec_is_identified_by_what_its_build_reaches(accuracy):
    def spec(seed):
        return ModelSpec(name="mine", summary="", input=InputSpec(shape=(1, SIDE, SIDE)), labels="toys",
                         build=lambda params, weights: Scaled(1, darkened if seed else None))  # fmt: skip

    plain, _ = accuracy(spec(0))
    black, _ = accuracy(spec(1))
    assert black == accuracy(spec(1), "other")[0] != plain


def test_a_call_within_mixed_precision_training_has_the_outcomes_of_a_fresh_process(suite, tmp_path, toys):
    expected = api.run(suite(), store=tmp_path / "fresh", plugins=[toys])
    torch.nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    try:
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.device("meta"):
            found = api.run(suite(), store=tmp_path / "ambient", plugins=[toys])
            assert torch.is_autocast_enabled("cpu") and torch.empty(0).is_meta and torch.is_inference_mode_enabled()
    finally:
        torch.nn.modules.module._global_forward_pre_hooks.clear()
        torch.set_default_dtype(torch.float32)
    assert all(cell.is_complete for cell in found.cells)
    for ours, theirs in zip(found.cells, expected.cells, strict=True):
        for name in ("prediction", "margin", "size"):
            assert ours.columns[name].tobytes() == theirs.columns[name].tobytes()


def test_a_network_that_was_made_in_inference_mode_is_measured(accuracy, tmp_path):
    with torch.inference_mode():
        net = linear()
        found, _ = accuracy(net)
    assert found == accuracy(linear(), "other")[0]


@pytest.mark.parametrize("models", [[linear()], linear(), {1: linear()}])
def test_models_are_given_by_label(suite, tmp_path, toys, models):
    with pytest.raises(UserError, match=r"mapping of labels to networks"):
        api.run(suite(), store=tmp_path, plugins=[toys], models=models)


@pytest.mark.parametrize("label", ["", "  ", "a\nb", "x" * 201])
def test_a_label_that_is_blank_or_no_line_is_refused(suite, toys, label):
    with pytest.raises(UserError, match=r"is not one line of at most 200 visible characters\. Try: another label"):
        api.plan(suite(models=[], attacks=[]), plugins=[toys], models={label: nn.Flatten()})
