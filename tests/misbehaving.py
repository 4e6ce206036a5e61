"""A plugin whose attacks misbehave, each in one way, beside a network that can be changed in many."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType

from robharness import AttackSpec, Cost, DatasetSpec, InputSpec, ModelSpec, Perturbed, ThreatModel, hookimpl
from robharness.errors import ContractViolation

SIDE, CLASSES = 8, 3
KEPT: list[object] = []
"""Tensors and batches that attacks keep from one call to the next."""


GLOBALS: list[int] = []


def scaled(z, factors=[1.0]):  # noqa: B006, what an attack changes
    return z * factors[0] * (1 - len(GLOBALS)) + table()


@cache
def table():
    import torch

    return torch.full((CLASSES,), 0.125)


def build(params, weights):
    import numpy as np
    import torch
    from torch import nn

    class Net(nn.Module):
        """A small network with state outside of its parameters."""

        offsets = [0.5]  # noqa: RUF012, what an attack changes

        def __init__(self):
            super().__init__()
            draws = np.random.default_rng(0)
            self.first, self.last = nn.Linear(SIDE * SIDE, 16), nn.Linear(16, CLASSES)
            self.hidden = [nn.Linear(16, 16)]  # not registered
            with torch.no_grad():
                for layer in (self.first, self.last, *self.hidden):
                    for value in layer.parameters():
                        value.copy_(torch.from_numpy(draws.normal(size=tuple(value.shape)).astype("float32")))
            self.scale, self.factors, self.shift = 2.0, [1.0, 0.5], np.full(CLASSES, 0.25, "float32")
            self.memory, self.options = torch.full((16,), 0.5), {"sign": 1.0}
            self.calls, self.latest = 0, None

        def forward(self, x):
            self.calls += 1
            z = torch.nn.functional.relu(self.first(x.flatten(1) * self.scale)) * self.memory
            self.latest = z
            z = self.last(torch.tanh(self.hidden[0](z)) * self.factors[1]) * self.options["sign"]
            return scaled(z) + torch.from_numpy(self.shift) + self.offsets[0]

    return Net().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Where:
    """at: of "build", "forward", "backward", "read". how: one of `ACTS`."""

    at: str
    how: str


def build_misbehaving(params, weights):
    import torch

    net, act = build(None, None), ACTS[params.how]
    if params.at == "build":
        act()

    class Late(torch.autograd.Function):
        @staticmethod
        def forward(context, z):
            return z.clone()

        @staticmethod
        def backward(context, gradient):
            act()
            return gradient

    class Misbehaving(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.out = net, None

        def forward(self, x):
            z = self.net(x)
            if params.at == "forward":
                act()
            if params.how == "writes-sometimes" and x.mean() > 0.55:
                x.data.zero_()
            if params.how == "one-buffer" and not z.requires_grad:
                self.out = torch.empty_like(z) if self.out is None or len(self.out) != len(z) else self.out
                return self.out.copy_(z)
            return Late.apply(z) if params.at == "backward" else z

    return Misbehaving()


@hookimpl
def robharness_models():
    common = {"input": InputSpec(shape=(1, SIDE, SIDE)), "labels": "toys"}
    yield ModelSpec(name="net", summary="Can be changed", build=build, **common)
    yield ModelSpec(name="m", summary="Misbehaves", build=build_misbehaving, params=Where, **common)


class Pixels:
    """Random images; reading one misbehaves."""

    def __init__(self, how):
        self.how, self.ids, self.labels = (
            how,
            [f"pixels-{row}" for row in range(10)],
            [row % CLASSES for row in range(10)],
        )

    def read(self, index):
        import numpy as np

        ACTS[self.how]()
        image = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 1), np.uint8)
        if self.how == "one-buffer":
            self.buffer = getattr(self, "buffer", np.empty_like(image))
            self.buffer[:] = image
            return self.buffer
        return image


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="pixels", summary="Misbehaves when it is read", labels="toys", splits=(),
                      open=lambda root, split: Pixels(split))  # fmt: skip


def lead(logits, labels):
    """Return the largest other logit minus the true one, (N,)."""
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], float("-inf")).amax(1) - true


class Unprintable(Exception):
    def __str__(self):
        raise SystemExit(3)


class Wrapped:
    """A model of an attack's own, with other logits."""

    access = "gradient"

    def __init__(self, model):
        self.model = model

    def require(self, needed):
        pass

    def logits(self, x):
        return self.model.logits(x) * 0

    def gradient(self, x, condition, objective):
        found = self.model.gradient(x, condition, objective)
        return found._replace(gradient=-found.gradient, logits=found.logits * 0)


# --- calls that leave something changed -------------------------------------------------------------------------------


def masks_logits(model, batch):
    logits = batch.logits(model).numpy()
    logits[range(len(logits)), batch.labels.numpy()] = -9


def writes_data(model, batch):
    batch.logits(model).data.zero_()
    batch.gradient(model, lead).gradient.data.zero_()
    batch.gradient(model, lead).logits.numpy()[:] = 0


def writes_in_objective(model, batch):
    def objective(logits, labels):
        logits.data.zero_()
        return lead(logits, labels)

    batch.gradient(model, objective)
    model.gradient(batch.x, batch.labels, objective)


def writes_later(model, batch):
    import torch

    for tensor in KEPT:
        if isinstance(tensor, torch.Tensor):
            tensor.data.zero_()
    KEPT.extend([batch.x, batch.labels, batch.logits(model), batch.gradient(model, lead).gradient, batch])


def writes_selections(model, batch):
    import torch

    rows = torch.arange(len(batch))
    for some in (batch.select(rows), batch.select(rows[:2]), batch.for_model("Net")):
        some.x.zero_()
        some.labels.numpy()[:] = 0


def writes_into_cache(model, batch):
    value = batch.cached("mine", lambda: batch.x * 0 + 1)
    value.zero_()
    assert batch.cached("mine", lambda: batch.x * 0).min() == 1


def shares_of_a_wrapper(model, batch):
    assert not batch.logits(Wrapped(model)).any()
    batch.gradient(Wrapped(model), lead)
    other = model.with_access("gradient")
    other.batch_size = 1
    batch.logits(other)


def shares_under_autocast(model, batch):
    import torch

    with torch.autocast("cpu", torch.bfloat16):
        batch.logits(model)
    with torch.inference_mode():
        model.logits(batch.x)
        batch.logits(model)
    batch.gradient(model, lead)


def reuses_a_buffer(model, batch):
    import torch

    buffer = next((item for item in KEPT if isinstance(item, dict)), None) or {}
    KEPT.append(buffer)
    shape = batch.x.shape
    if buffer.get("x") is None or buffer["x"].shape != shape:
        buffer["x"] = torch.empty(shape)
    return buffer["x"].copy_((batch.x + 2**-4).clamp(0, 1))


def changes_for_a_while(model, batch):
    """A network that is changed and put back makes passes of the attack's own, which no cell shares."""
    hook = model.net.first.register_forward_hook(lambda module, inputs, output: output * 0)
    hidden = batch.logits(model)
    batch.gradient(model, lead)
    hook.remove()
    weights = model.net.last.weight.detach().clone()
    model.net.last.weight.data.zero_()
    batch.logits(model)
    batch.gradient(model, lead)
    model.net.last.weight.data.copy_(weights)
    assert not (hidden == batch.logits(model)).all()


def moves(model, batch):
    return (batch.x + 2**-4).clamp(0, 1)


def sets_x(model, batch):
    batch.x = batch.x * 0


def sets_labels(model, batch):
    import torch

    batch.labels = torch.zeros_like(batch.labels)


def sets_labels_of_a_selection(model, batch):
    batch.select(batch.labels == batch.labels).labels = batch.labels * 0


def writes_x(model, batch):
    batch.x.numpy()[:] = 0


def writes_labels(model, batch):
    batch.labels.data.zero_()


def adds_hook(model, batch):
    model.net.first.register_forward_hook(lambda module, inputs, output: output * 0)


def adds_hook_of_all_modules(model, batch):
    from torch.nn.modules.module import register_module_forward_hook

    register_module_forward_hook(lambda module, inputs, output: output * 0)


def replaces_forward(model, batch):
    model.net.forward = lambda x: x.flatten(1)[:, :CLASSES] * 0


def replaces_forward_of_the_class(model, batch):
    type(model.net).forward = lambda self, x: x.flatten(1)[:, :CLASSES] * 0


def replaces_forward_of_torch(model, batch):
    from torch import nn

    nn.Linear.forward = lambda self, x: x.new_zeros(len(x), self.out_features)


def replaces_a_function_of_torch(model, batch):
    from torch.nn import functional

    functional.relu = lambda x: x * 0


def sets_a_number(model, batch):
    model.net.scale = 0.0


def sets_an_item(model, batch):
    model.net.factors[1] = 0.0


def sets_a_key(model, batch):
    model.net.options["sign"] = -1.0


def writes_an_array(model, batch):
    model.net.shift[0] = 99


def writes_a_plain_tensor(model, batch):
    model.net.memory.zero_()


def writes_hidden_weights(model, batch):
    model.net.hidden[0].weight.data.numpy()[:] = 0


def replaces_a_part(model, batch):
    from torch import nn

    model.net.last = nn.Linear(16, CLASSES)


def sets_a_global(model, batch):
    GLOBALS.append(1)


def sets_a_default(model, batch):
    scaled.__defaults__[0][0] = 0.0


def sets_an_attribute_of_the_class(model, batch):
    type(model.net).offsets[0] = 5.0


def sets_an_attribute_of_a_parameter(model, batch):
    model.net.first.weight.scale = 0.0


def replaces_a_class(model, batch):
    from torch import nn

    class Nothing(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 0

    model.net.first.__class__ = Nothing


def replaces_a_method_of_the_core(model, batch):
    type(model).logits = lambda self, x: self.decisions(x)[:, None].float().expand(-1, CLASSES)


def writes_into_a_function_cache(model, batch):
    table().zero_()


def sets_the_recursion_limit(model, batch):
    sys.setrecursionlimit(200)


def ends_a_fork(model, batch):
    if os.fork() == 0:
        sys.exit(0)
    os.wait()


def sets_dtype(model, batch):
    import torch

    torch.set_default_dtype(torch.float64)


def sets_device(model, batch):
    import torch

    torch.set_default_device("meta")


def turns_autocast_on(model, batch):
    import torch

    torch.autocast("cpu", torch.bfloat16).__enter__()


def turns_gradients_off(model, batch):
    import torch

    torch.set_grad_enabled(False)


def intercepts_torch(model, batch):
    from torch.overrides import TorchFunctionMode

    class Nothing(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    Nothing().__enter__()


def changes_folder(model, batch):
    os.chdir("/")


def changes_environment(model, batch):
    os.environ["ROBHARNESS_DATA"] = "/nowhere"


def replaces_stdout(model, batch):
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def ignores_ctrl_c(model, batch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def makes_warnings_errors(model, batch):
    warnings.simplefilter("error")


# --- calls that return something else ---------------------------------------------------------------------------------


def returns_sparse(model, batch):
    return batch.x.to_sparse()


def returns_quantised(model, batch):
    import torch

    return torch.quantize_per_tensor(batch.x, 1 / 255, 0, torch.quint8)


def returns_nested(model, batch):
    import torch

    return torch.nested.nested_tensor(list(batch.x))


def returns_meta(model, batch):
    return batch.x.to("meta")


def returns_complex(model, batch):
    import torch

    return batch.x.to(torch.complex64)


def returns_a_liar(model, batch):
    """A tensor that has another shape, and says otherwise."""
    import torch

    class Liar(torch.Tensor):
        shape, dtype = batch.x.shape, batch.x.dtype

        def __len__(self):
            return len(batch)

        def detach(self):
            return self

        def is_floating_point(self):
            return False

    return torch.zeros(1).as_subclass(Liar)


def returns_a_view(model, batch):
    return batch.x.transpose(2, 3).contiguous().transpose(2, 3)


def returns_a_parameter(model, batch):
    from torch import nn

    return nn.Parameter(batch.x)


def returns_strange_notes(model, batch):
    class Strange:
        def keys(self):
            raise SystemExit(0)

    return Perturbed(x=batch.x, notes=Strange())


# --- calls that raise -------------------------------------------------------------------------------------------------


def raises(error):
    def call(model, batch):
        raise error

    return call


CALLS = {name: call for name, call in list(globals().items())
         if isinstance(call, FunctionType) and call.__code__.co_varnames[:2] == ("model", "batch")}  # fmt: skip
ERRORS = {
    "exit": SystemExit(0),
    "cancelled": asyncio.CancelledError(),
    "interrupt": KeyboardInterrupt(),
    "end_of_generator": GeneratorExit(),
    "stop": StopIteration(),
    "unprintable": Unprintable(),
    "of_data": ContractViolation("the data are broken", by="nobody"),
}
CALLS |= {f"raises_{name}": raises(error) for name, error in ERRORS.items()}
ACTS = {
    "nothing": lambda: None,
    "writes-sometimes": lambda: None,
    "one-buffer": lambda: None,
    "folder": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update(ROBHARNESS_DATA="/nowhere"),
    **{name: lambda error=error: raises(error)(None, None) for name, error in ERRORS.items()},
}
"""Misbehaviour of a model or a data set in `build`, `forward`, `backward` or `read`."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """how: one of `CALLS`."""

    how: str
    layers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Attack:
    options: Options

    def perturb(self, model, batch, eps, rng):
        self.options.layers.append("more")
        returned = CALLS[self.options.how](model, batch)
        return batch.x if returned is None else returned


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="a", summary="Misbehaves", access="gradient", params=Options, build=Attack,
                     threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost())  # fmt: skip
