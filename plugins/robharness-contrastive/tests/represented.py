"""A small classifier of digits with a linear head, made in closed form from the data: `-p represented.py`."""

from dataclasses import dataclass

import numpy as np

from robharness import CorruptionSpec, InputSpec, ModelSpec, hookimpl


@dataclass(frozen=True, kw_only=True)
class Params:
    """Options of the classifier.

    nonlinear: whether the head has an activation function.
    shift: of the pixels, for a different network.
    """

    nonlinear: bool = False
    shift: int = 0


def build(params, weights):
    """Build a network whose features are 8 linear discriminants, with a head that finds the nearest class mean."""
    import torch
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from torch import nn

    from robharness_samples.digits import open_digits

    digits = open_digits(None, "train")
    x = np.stack([digits.read(row)[:, :, 0].ravel() for row in range(len(digits.ids))]) / 255
    y = np.array(digits.labels)
    if params.shift:
        x = np.roll(x, params.shift, 1) ** 2
    found = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1, n_components=8).fit(x, y)
    features = (x @ found.scalings_)[:, :8]
    means = np.stack([features[y == digit].mean(0) for digit in range(10)])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False))
            self.activation = nn.GELU() if params.nonlinear else nn.Identity()
            self.head = nn.Linear(8, 10)
            with torch.no_grad():
                self.body[1].weight.copy_(torch.from_numpy(found.scalings_[:, :8].T.copy()))
                self.head.weight.copy_(torch.from_numpy(means))
                self.head.bias.copy_(torch.from_numpy(-(means**2).sum(1) / 2))

        def forward(self, x):
            return self.head(self.activation(self.body(x)))

    return Net()


@hookimpl
def robharness_models():
    yield ModelSpec(name="digits", summary="Discriminants of digits", input=InputSpec(shape=(1, 8, 8)), labels="digits",
                    build=build, params=Params, features="body")  # fmt: skip


class Fading:
    def perturb(self, model, batch, severity, rng):
        image = batch.canvas.clone()
        image[:, : 2 * severity] //= 2
        return image


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="fading", summary="Darker from above", group="light", severities=(1, 2),
                         build=lambda params: Fading(), randomness="none")  # fmt: skip
