"""A plugin with a trunk, and a model that puts random classes on the features of an encoder."""

from dataclasses import dataclass

from robharness import Encoder, File, InputSpec, ModelSpec, hookimpl

SHAPE = (1, 8, 8)


def trunk(params, weights):
    from torch import nn

    from robharness.checkpoints import Layout, load_trunk

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    load_trunk(net, weights, [Layout(name="bare")], network="flat")
    return net


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Parameters of a probe.

    encoder: gives the features.
    """

    encoder: Encoder


def probe(params, weights):
    import torch
    from torch import nn

    head = nn.Linear(5, 3)
    head.weight = nn.Parameter(torch.eye(3, 5))
    return nn.Sequential(params.encoder.load(), nn.Tanh(), head)


@hookimpl
def robharness_models():
    yield ModelSpec(name="flat", summary="One layer", input=InputSpec(shape=SHAPE), labels="none", build=trunk,
                    trunk=trunk, weights=File(path="flat.pt"), features="")  # fmt: skip
    yield ModelSpec(name="probe", summary="Three classes", input=InputSpec(shape=SHAPE), labels="toys", build=probe,
                    params=Probe)  # fmt: skip
