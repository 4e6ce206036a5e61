"""The plugin whose outcomes lie in `store`: never change it, since its digest counts for every key."""

from dataclasses import dataclass

from robharness import (
    AttackSpec,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    InputSpec,
    ModelSpec,
    Perturbed,
    ThreatModel,
    hookimpl,
)

SIDE, CLASSES, N = 8, 4, 24


class Squares:
    """Grey squares whose corner tells the class."""

    ids = tuple(f"square-{index:02d}" for index in range(N))
    labels = tuple(index % CLASSES for index in range(N))

    def read(self, index):
        import numpy as np

        image = np.full((SIDE, SIDE, 1), 96, np.uint8)
        row, column = divmod(index % CLASSES, 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 100 + 6 * index
        return image


@dataclass(frozen=True, kw_only=True)
class NetParams:
    scale: int = 4


def build(params, weights):
    import torch

    torch_net = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(4, CLASSES))
    with torch.no_grad():
        torch_net[2].weight.copy_(params.scale * torch.eye(CLASSES))
        torch_net[2].bias.zero_()
    return torch_net


@dataclass(frozen=True, kw_only=True)
class AttackParams:
    norm: str = "linf"
    steps: int = 1


@dataclass(frozen=True)
class Sign:
    params: AttackParams

    def perturb(self, model, batch, eps, rng):
        x, start = batch.x, rng.uniform("start", (1, 1, 1)) / 64
        for _ in range(self.params.steps):
            worst = model.gradient(x, batch.labels, lambda logits, labels: -logits.gather(1, labels[:, None])[:, 0])
            x = (x + eps / self.params.steps * worst.gradient.sign() - 0 * start).clamp(0, 1)
        x = batch.x + (x - batch.x).clamp(-eps, eps)
        return Perturbed(x=x.clamp(0, 1), notes={"dead": (worst.gradient.flatten(1).abs().sum(1) == 0).int()})


class Speckle:
    def perturb(self, model, batch, severity, rng):
        noise = rng.normal("noise", batch.canvas.shape[1:]) * 24 * severity
        return (batch.canvas.float() + noise).clamp(0, 255).round().to(batch.canvas.dtype)


@hookimpl
def robharness_models():
    yield ModelSpec(
        name="net", summary="Mean of each corner", labels="corners", build=build, params=NetParams,
        input=InputSpec(shape=(1, SIDE, SIDE)), features="1",
    )  # fmt: skip


@hookimpl
def robharness_datasets():
    yield DatasetSpec(
        name="squares", summary="Squares", labels="corners", splits=("test",), open=lambda root, split: Squares()
    )


@hookimpl
def robharness_attacks():
    yield AttackSpec(
        name="sign", summary="Signs of the gradient", access="gradient", params=AttackParams,
        threat=lambda params: ThreatModel(norm=params.norm), cost=lambda params: Cost(gradients=params.steps),
        build=Sign, notes={"dead": int}, alarms=("dead",),
    )  # fmt: skip
    yield AttackSpec(
        name="rogue", summary="Leaves its budget", access="decision", params=AttackParams,
        threat=lambda params: ThreatModel(norm=params.norm), cost=lambda params: Cost(),
        build=lambda params: Rogue(), randomness="none",
    )  # fmt: skip


class Rogue:
    def perturb(self, model, batch, eps, rng):
        return (batch.x + 2 * eps).clamp(0, 1)


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="speckle", summary="Noise", group="noise", build=lambda params: Speckle())
