"""A plugin with a small network for MNIST, loaded with `-p tests/end_to_end/mnist.py`; `train` makes its weights."""

import sys
from pathlib import Path

from robharness import File, InputSpec, ModelSpec, discover, hookimpl

EPOCHS, ROWS = 12, 50


def network():
    """(N, 1, 28, 28) in [0, 1] -> logits (N, 10), by 201,744 multiply-adds; without values, which would be drawn."""
    import torch
    from torch import nn

    with torch.device("meta"):
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 6 * 6, 10),
        )


def build(params, weights):
    import torch

    net = network()
    net.load_state_dict(torch.load(weights, weights_only=True), assign=True)
    return net


def train(path):
    """Train on the train split of samples/mnist-5k and save the state_dict; the same values on the same machine."""
    import numpy as np
    import torch

    data = discover().datasets["samples/mnist-5k"].spec.open(Path(), "train")
    images = np.stack([data.read(index) for index in range(len(data.ids))])
    x, labels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.tensor(data.labels)
    draws, order = torch.Generator().manual_seed(0), np.random.default_rng(0)
    net = network().to_empty(device="cpu")
    for values in net.parameters():
        if values.ndim > 1:
            torch.nn.init.kaiming_uniform_(values, generator=draws)
        else:
            torch.nn.init.zeros_(values)
    optimizer = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * len(x) // ROWS)
    for _ in range(EPOCHS):
        for rows in torch.from_numpy(order.permutation(len(x))).split(ROWS):
            # Shifted by up to two pixels a pass, the 4,000 pictures give 97 % right; as they are, 96 %.
            shifted = x[rows].roll(order.integers(-2, 3, 2).tolist(), (2, 3))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(shifted), labels[rows]).backward()
            optimizer.step()
            rate.step()
    torch.save(net.state_dict(), path)


@hookimpl
def robharness_models():
    yield ModelSpec(
        name="net",
        summary="A small CNN for MNIST",
        input=InputSpec(shape=(1, 28, 28)),
        labels="mnist",
        build=build,
        weights=File(path="mnist.pt", get="python tests/end_to_end/mnist.py data/mnist.pt"),
    )


if __name__ == "__main__":
    Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    train(sys.argv[1])
