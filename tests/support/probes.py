"""Encoders and probes on them, loaded with `-p tests/support/probes.py`: data, fixed networks, heads.

`probes/trunk` is an encoder alone, `probes/classifier` a network with a head behind its features, `probes/recipe` an
encoder that a suite trains. `probes/linear` trains on features, `probes/retrieval` needs no training of its own.

$PROBES_MISTAKE: what the passes of a network do wrong: "batch", "noise", "state" or "memory", or how it uses
its input, "writes" or "halves".
$PROBES_LOG: a file that gets a line per pass of a network: the number of its rows.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robharness import (
    DataRef,
    DatasetSpec,
    Encoder,
    InputSpec,
    ModelSpec,
    Train,
    UnreadableExample,
    hookimpl,
)

SIDE, CLASSES, WIDTH = 8, 3, 12
CALLS: list[object] = []


class Shades:
    """Noise, and in one of three places a square that is brighter than that; every `broken`-th cannot be read."""

    def __init__(self, split, size, broken=0):
        self.ids = [f"{split}-{index}" for index in range(size)]
        self.labels = [index % CLASSES for index in range(size)]
        self.split, self.broken, self.side = split, broken, 2 * SIDE if split == "large" else SIDE

    def read(self, index):
        if self.broken and index % self.broken == 1 % self.broken:
            raise UnreadableExample("half of a file")
        draws = np.random.default_rng([index, self.split == "test"])
        image = draws.integers(0, 128, (self.side, self.side, 1))
        at = 2 * self.labels[index]
        image[at : at + 3, at : at + 3] += 60
        return image.astype(np.uint8)


def open_shades(root, split):
    return Shades(
        split,
        {"train": 90, "test": 48, "torn": 60, "large": 9, "lost": 5}[split],
        broken={"torn": 7, "lost": 1}.get(split, 0),
    )


def log_pass(rows):
    if "PROBES_LOG" in os.environ:
        with Path(os.environ["PROBES_LOG"]).open("a") as log:
            log.write(f"{rows}\n")
    time.sleep(float(os.environ.get("PROBES_PAUSE", "0")))


def mistaken(x):
    """Return the input, or what $PROBES_MISTAKE makes of it."""
    import torch

    match os.environ.get("PROBES_MISTAKE"):
        case "batch":
            return torch.nn.functional.batch_norm(x, None, None, training=True)
        case "noise":
            return x + torch.rand_like(x)  # noqa: TID251 (the mistake itself)
        case "memory" if len(x) > 16:
            raise torch.OutOfMemoryError("out of memory")
        case "writes":
            return x.mul_(0.5)
        case "halves":
            return x * 0.5
        case "state":
            CALLS.append(x)
            return x / len(CALLS)
    return x


def trunk_network():
    import torch
    from torch import nn

    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.utils.skip_init(nn.Conv2d, 1, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.flat = torch.nn.utils.skip_init(nn.Linear, 4 * 16, WIDTH)

        def forward(self, x):
            log_pass(len(x))
            x = mistaken(x)
            x = nn.functional.avg_pool2d(self.norm(self.conv(x)).relu(), 2)
            return self.flat(x.flatten(1)).relu()

    return Trunk()


def classifier_network():
    import torch
    from torch import nn

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = trunk_network()
            self.head = torch.nn.utils.skip_init(nn.Linear, WIDTH, CLASSES)

        def forward(self, x):
            return self.head(self.trunk(x))

    return Whole()


def filled(net, seed):
    """Fill the parameters of a network with numbers that the seed determines."""
    import torch

    draws = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data.copy_(torch.empty(parameter.shape).uniform_(-0.5, 0.5, generator=draws))
    return net


def read_into(net, weights):
    from robharness.checkpoints import Layout, load

    load(net, weights, [Layout(name="plain")])
    return net


def train_recipe(job):
    from safetensors.torch import save_file

    assert job.features == {}
    if job.params.epochs < 0:
        raise ValueError(f"{job.params.epochs} epochs")
    save_file(filled(trunk_network(), job.seed + job.params.epochs).state_dict(), job.folder / "weights.safetensors")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    epochs: int = 1


@dataclass(frozen=True, kw_only=True)
class Probe:
    """encoder: whose features are classified. train: split to learn from. ridge: penalty. note: nothing."""

    encoder: Encoder
    train: str = "train"
    ridge: float = 1.0
    note: str = field(default="", metadata={"runtime": True})


def given(params):
    return {"input": params.encoder.input, "preprocessing": params.encoder.preprocessing}


def train_probe(job):
    """Ridge regression on the features of `train`."""
    import torch
    from safetensors.torch import save_file

    bank = job.features["train"]
    assert list(bank.ids) == [id for id in job.datasets["train"].ids if id in set(bank.ids)]
    x, y = torch.from_numpy(np.array(bank.features, np.float64)), torch.from_numpy(bank.labels)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    targets = torch.nn.functional.one_hot(y, CLASSES).double()
    solved = torch.linalg.solve(
        x.T @ x + job.params.ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ targets
    ).float()
    head = {"weight": solved[:-1].T.contiguous(), "bias": solved[-1].contiguous()}
    save_file(head, job.folder / "weights.safetensors")


def build_probe(params, weights):
    from collections import OrderedDict

    from safetensors.torch import load_file
    from torch import nn

    encoder, state = params.encoder.load(), load_file(weights)
    head = nn.Linear(state["weight"].shape[1], CLASSES)
    head.load_state_dict(state)
    return nn.Sequential(OrderedDict(encoder=encoder, head=head))


def build_first(params, weights):
    """The first features of an encoder as logits: no training of its own."""
    import torch
    from torch import nn

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = params.encoder.load()

        def forward(self, x):
            return torch.stack(self.encoder(x)[:, :CLASSES].unbind(1), 1)

    return First()


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="shades", summary="Three places for a bright square", labels="shades",
                      splits=("train", "test", "torn", "large", "lost"), open=open_shades)  # fmt: skip


@hookimpl
def robharness_models():
    shape = {"input": InputSpec(shape=(1, SIDE, SIDE))}
    yield ModelSpec(name="trunk", summary="An encoder alone", labels="none", features="",
                    build=lambda params, weights: read_into(trunk_network(), weights), **shape)  # fmt: skip
    yield ModelSpec(
        name="classifier", summary="A network with a head", labels="shades", features="trunk",
        build=lambda params, weights: read_into(classifier_network(), weights), **shape,
    )  # fmt: skip
    yield ModelSpec(
        name="headless", summary="A classifier whose files may lack a head", labels="shades", features="trunk",
        build=lambda params, weights: read_into(classifier_network(), weights),
        trunk=lambda params, weights: read_into(trunk_network(), weights), **shape,
    )  # fmt: skip
    yield ModelSpec(name="film", summary="An encoder of videos", labels="none", features="",
                    input=InputSpec(kind="video", shape=(1, 4, SIDE, SIDE)),
                    build=lambda params, weights: None)  # fmt: skip
    yield ModelSpec(name="wide", summary="An encoder of larger images", labels="none", features="",
                    input=InputSpec(shape=(3, 2 * SIDE, 2 * SIDE)), build=lambda params, weights: None)  # fmt: skip
    yield ModelSpec(
        name="recipe", summary="An encoder that a suite trains", labels="none", features="", params=Recipe,
        build=lambda params, weights: read_into(trunk_network(), weights),
        weights=Train(data=lambda params: {"train": DataRef(name="probes/shades", split="train")}, train=train_recipe),
        **shape,
    )  # fmt: skip
    yield ModelSpec(
        name="linear", summary="A linear probe", labels="shades", params=Probe, given=given, features="encoder",
        build=build_probe,
        weights=Train(data=lambda params: {"train": DataRef(name="probes/shades", split=params.train)},
                      features=lambda params: params.encoder, train=train_probe),
        **shape,
    )  # fmt: skip
    yield ModelSpec(
        name="first", summary="The first features as logits", labels="shades", params=Probe, given=given,
        build=build_first, **shape,
    )  # fmt: skip
