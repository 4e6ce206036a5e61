"""A loose plugin of models in unusual forms and models that fail, for `-p tests/odd_models.py`.

All of them compute the logits of the exact network of `toys.py`, unless their docstring says otherwise.
"""

from robharness import InputSpec, ModelSpec, hookimpl

SIDE = 8


def exact():
    from toys import NetParams, build

    return build(NetParams(), None)


def around(function):
    """A network whose forward is `function(exact network, x)`."""
    from torch import nn

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = exact()

        def forward(self, x):
            return function(self.net, x)

    return Around()


def halved(net, x):
    """Logits of half the image; writes into its input by an operation that autograd records."""
    return net(x.mul_(0.5))


def halved_by_data(net, x):
    """Logits of half the image; writes into its input past autograd."""
    x.data.mul_(0.5)
    return net(x)


def without_gradients(net, x):
    import torch

    with torch.no_grad():
        return net(x)


def by_numpy(net, x):
    import torch

    return torch.from_numpy(net(x).numpy())


def backward_fails(net, x):
    y = x.sigmoid()
    y.mul_(2)
    return net(y) * 0 + net(x)


def other_function_with_gradients(net, x):
    import torch

    return net(1 - x) if torch.is_grad_enabled() else net(x)


def softmax_over_batch(net, x):
    return net(x).softmax(0)


def number_of_rows(net, x):
    return net(x) / len(x)


def complex_logits(net, x):
    import torch

    return torch.complex(net(x), net(x))


def no_classes(net, x):
    return net(x)[:, :0]


def on_meta(net, x):
    return net(x).to("meta")


def brightest(net, x):
    return net(x / x.amax())


def last_bits(net, x):
    """Logits that depend on the other examples by the last bits of float32."""
    return net(x) * (1 + 4e-6 * x.mean())


def more_outputs(net, x):
    """Two more logits than the data have classes; they are never the largest."""
    import torch

    return torch.cat([net(x), torch.full((len(x), 2), -100.0)], 1)


def too_large(net, x):
    return net(x).double() * 1e300


def not_numbers(net, x):
    return net(x) * float("nan")


def in_half(net, x):
    return net.half()(x.half())


def gradient_of_neighbours(net, x):
    import torch

    class Mixed(torch.autograd.Function):
        @staticmethod
        def forward(context, z):
            return z.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient.cumsum(0)

    return net(Mixed.apply(x))


def scripted():
    import torch

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            net = exact()
            self.convolution, self.head = net.convolution, net.head

        def forward(self, x):
            return self.head(torch.relu(self.convolution(x)).flatten(1))

    return torch.jit.script(Plain())


def frozen():
    import torch

    return torch.jit.freeze(scripted().eval())


def traced():
    import torch

    return torch.jit.trace(around(lambda net, x: net(x)), torch.zeros(2, 1, SIDE, SIDE), check_trace=False)


def quantised():
    import torch

    return torch.ao.quantization.quantize_dynamic(exact(), {torch.nn.Linear})


def old_weight_norm():
    import torch

    net = exact()
    torch.nn.utils.weight_norm(net.head)
    return net


def batch_statistics():
    from torch import nn

    return nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), exact())


def hidden(part):
    """A network that keeps its parts in a plain list, which `eval()` does not reach."""
    from torch import nn

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.members = [nn.Sequential(part(), exact())]

        def forward(self, x):
            return self.members[0](x)

    return Hidden()


def hidden_norm():
    from torch import nn

    return hidden(lambda: nn.BatchNorm2d(1))


def hidden_dropout():
    from torch import nn

    return hidden(lambda: nn.Dropout(0.5))


def counting():
    from torch import nn

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = exact(), 0

        def forward(self, x):
            self.calls += 1
            return self.net(x) * self.calls

    return Counting()


def exits(net, x):
    raise SystemExit(0)


def sets_autocast(net, x):
    import torch

    torch.set_autocast_enabled("cpu", True)
    return net(x)


def sets_default_dtype(net, x):
    import torch

    logits = net(x)
    torch.set_default_dtype(torch.float64)
    return logits


def clamps(net, x):
    """Writes into its input, and changes no value of it."""
    return net(x.clamp_(0, 1))


def trains(net, x):
    net.train()
    return net(x)


def averaged_gradient():
    """A linear network whose gradients are averaged over the batch."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Flatten(), torch.nn.utils.skip_init(nn.Linear, SIDE * SIDE, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(-1, 1, 3 * SIDE * SIDE).view(3, -1).sin())
        net[1].bias.zero_()
    net[1].register_full_backward_hook(
        lambda module, inputs, outputs: (inputs[0].mean(0, keepdim=True).expand_as(inputs[0]),)
    )
    return net


def refusing(name):
    """The exact network, of which one method fails."""
    net = exact()

    def fail(*words, **named):
        raise RuntimeError(f"no {name}\nand more")

    setattr(type(net), name, fail)
    return net


def modes_changed():
    """It leaves torch in other modes, and the process in another folder."""
    import os
    import tempfile

    import torch

    net = exact()
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 0)
    os.chdir(tempfile.gettempdir())
    return net


FORMS = (scripted, frozen, traced, quantised, old_weight_norm, batch_statistics, hidden_norm, hidden_dropout, counting,
         modes_changed, averaged_gradient)  # fmt: skip
FUNCTIONS = (halved, halved_by_data, without_gradients, by_numpy, backward_fails, other_function_with_gradients,
             softmax_over_batch, brightest, number_of_rows, complex_logits, no_classes, on_meta, last_bits,
             more_outputs, exits, sets_autocast, sets_default_dtype, clamps, trains, too_large, not_numbers, in_half,
             gradient_of_neighbours)  # fmt: skip
METHODS = ("to", "eval", "__deepcopy__", "named_parameters", "forward", "named_modules")


@hookimpl
def robharness_models():
    made = {form.__name__: form for form in FORMS}
    made |= {function.__name__: lambda function=function: around(function) for function in FUNCTIONS}
    made |= {f"no-{name.strip('_')}": lambda name=name: refusing(name) for name in METHODS}
    for name, make in {"exact": exact, **made}.items():
        shape = InputSpec(shape=(1, SIDE, SIDE))
        yield ModelSpec(name=name.replace("_", "-"), summary=name, input=shape, labels="toys",
                        build=lambda params, weights, make=make: make())  # fmt: skip
