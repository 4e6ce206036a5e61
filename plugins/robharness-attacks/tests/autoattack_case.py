"""Test case of AutoAttack and its members: a network trained on MNIST, and the authors' code."""

from __future__ import annotations

import hashlib
import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT

from robharness import discover

MNIST = Path(__file__).parents[3] / "tests" / "end_to_end" / "mnist.py"
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ROWS = 250
"""Size of the authors' batches."""


class Counted(torch.nn.Module):
    """The network with a count of the rows that it evaluated."""

    def __init__(self, net):
        super().__init__()
        self.net, self.rows = net, 0

    def forward(self, x):
        self.rows += len(x)
        return self.net(x)


@dataclass
class Case:
    """A trained network and test images in the order of a suite, so that the first ones are of all classes.

    net: of 97 % accuracy.
    x: (1000, 1, 28, 28).
    labels: (1000,).
    """

    net: torch.nn.Module
    x: torch.Tensor
    labels: torch.Tensor

    def standing(self, x):
        """Return whether the network is right at x on the first examples, (len(x),) bool."""
        return torch.cat([self.net(part).argmax(1) for part in x.split(ROWS)]) == self.labels[: len(x)]

    def theirs(self, name, norm, eps, count=1000, **options):
        """What the authors' attack finds on the first `count` examples, and how many rows it passes through."""
        net = Counted(self.net)
        common = {"norm": NORMS[norm], "eps": eps, "seed": 0, "device": "cpu", **options}
        make = {
            "apgd-ce": lambda: APGDAttack(net, **common),
            "apgd-t": lambda: APGDAttack_targeted(net, **common),
            "fab-t": lambda: FABAttack_PT(net, **{"targeted": True, "n_restarts": 1, "n_iter": 100, **common}),
        }[name]
        parts = zip(self.x[:count].split(ROWS), self.labels[:count].split(ROWS), strict=True)
        return torch.cat([make().perturb(x, labels) for x, labels in parts]), net.rows


def load(folder):
    """The case, trained into this folder; the same on the same machine."""
    mnist, path = runpy.run_path(str(MNIST)), Path(folder) / "mnist.pt"
    if not path.exists():
        mnist["train"](path)
    data = discover().datasets["samples/mnist-5k"].spec.open(Path(), "test")
    rows = sorted(range(1000), key=lambda row: hashlib.sha256(data.ids[row].encode()).digest())
    x = torch.from_numpy(np.stack([data.read(row) for row in rows])).permute(0, 3, 1, 2).float().contiguous() / 255
    labels = torch.tensor([data.labels[row] for row in rows])
    return Case(mnist["build"](None, path).eval().requires_grad_(False), x, labels)
