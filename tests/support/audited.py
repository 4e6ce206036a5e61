"""Small networks for audits: honest ones, and the same networks with a defect of a given strength.

python tests/support/audited.py            # the matrix of defects and checks, as the page docs/explanation/audit.md
python tests/support/audited.py --short    # one network, one seed
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robharness.audit.records import CHECKS, ModelAudit

SUITE: dict[str, Any] = {
    "robharness": 1,
    "name": "audited",
    "data": {"name": "samples/digits", "split": "test", "limit": 100},
    "attacks": [
        {"attack": "attacks/fgsm", "norm": "linf", "eps": ["0.05", "0.1"]},
        {"attack": "attacks/pgd", "norm": "linf", "eps": ["0.05", "0.1"], "steps": 10},
    ],
    "audit": True,
}


# --- data and training ----------------------------------------------------------------------------------------------


@cache
def digits() -> tuple[Tensor, Tensor]:
    """The training examples of the data set samples/digits: inputs (N, 1, 8, 8) in [0, 1], and labels."""
    import numpy as np

    from robharness_samples.digits import open_digits

    table = open_digits(Path(), "train")
    images = np.stack([table.read(index) for index in range(len(table.ids))])
    return torch.from_numpy(images).movedim(-1, 1).float() / 255, torch.tensor(table.labels)


def trained(net: nn.Module, seed: int, *, epochs: int = 12, eps: float = 0.0, decay: float = 1e-4) -> nn.Module:
    """Train a network on the digits; with eps on the examples of a three-step attack (Madry et al., 2018)."""
    x, labels = digits()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=decay)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):  # noqa: TID251
            batch = _attacked(net, x[rows], labels[rows], eps) if eps else x[rows]
            optimizer.zero_grad()
            functional.cross_entropy(net(batch), labels[rows]).backward()
            optimizer.step()
    return net.eval()


def _attacked(net: nn.Module, x: Tensor, labels: Tensor, eps: float) -> Tensor:
    moved = x
    for _ in range(3):
        moved = moved.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(net(moved), labels), moved)
        moved = (moved + eps / 2 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return moved.detach()


# --- architectures --------------------------------------------------------------------------------------------------


def mlp(width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def convolutional(activation: type[nn.Module] = nn.ReLU, channels: int = 12) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), activation(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.BatchNorm2d(2 * channels), activation(),
        nn.Flatten(), nn.Linear(2 * channels * 16, 10),
    )  # fmt: skip


class SmallViT(nn.Module):
    """A vision transformer of two layers on patches of 2 x 2 pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.arange(16 * width).sin().view(1, 16, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.encoder(tokens)).mean(1))


class Residual(nn.Module):
    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.body = nn.Sequential(
            nn.GroupNorm(3, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(3, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(functional.avg_pool2d(x + self.body(x), 2).flatten(1))


HONEST: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {"epochs": 30}),
    "mlp": (lambda: mlp(128), {}),
    "mlp, long training without weight decay": (lambda: mlp(128), {"epochs": 60, "decay": 0.0}),
    "mlp, adversarially trained": (lambda: mlp(128), {"epochs": 25, "eps": 0.1}),
    "convolutional": (lambda: convolutional(channels=16), {}),
    "convolutional, adversarially trained": (lambda: convolutional(channels=16), {"epochs": 15, "eps": 0.1}),
    "convolutional, GELU": (lambda: convolutional(nn.GELU, 16), {}),
    "convolutional, tanh": (lambda: convolutional(nn.Tanh, 16), {}),
    "residual, GroupNorm, SiLU": (Residual, {}),
    "small ViT": (SmallViT, {"epochs": 15}),
}


def built(build: Callable[[], nn.Module], seed: int, **options: Any) -> nn.Module:
    """Build and train a network from a seed, and restore the global generator."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)  # noqa: TID251 (initial weights)
        net = build()
    return trained(net, seed, **options)


# --- defects --------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Logits times a constant."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.factor


class Quantised(nn.Module):
    """Inputs rounded to a number of levels."""

    def __init__(self, net: nn.Module, levels: int) -> None:
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, x: Tensor) -> Tensor:
        rounded = (x * (self.levels - 1)).round() / (self.levels - 1)
        return self.net(rounded)


class Staircase(nn.Module):
    """Inputs on a number of steps that are sigmoids, so that gradients have the right signs and vanish on plateaus."""

    def __init__(self, net: nn.Module, steepness: float, levels: int = 8) -> None:
        super().__init__()
        self.net, self.steepness, self.levels = net, steepness, levels

    def forward(self, x: Tensor) -> Tensor:
        level = x * self.levels
        return self.net((level.floor() + (self.steepness * (level - level.floor() - 0.5)).sigmoid()) / self.levels)


class Noisy(nn.Module):
    """Inputs with normal noise from the global generator."""

    def __init__(self, net: nn.Module, deviation: float) -> None:
        super().__init__()
        self.net, self.deviation = net, deviation

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.deviation * torch.empty_like(x).normal_())


class BatchStatistics(nn.Module):
    """A BatchNorm in training mode behind the input; `share` of it is mixed with the input as it is."""

    def __init__(self, net: nn.Module, share: float) -> None:
        super().__init__()
        self.net, self.share = net, share

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.batch_norm(x, None, None, training=True) * 0.3 + 0.3
        return self.net((1 - self.share) * x + self.share * normed)


class BatchDependent(nn.Module):
    """Logits that have a share of the mean logits of the pass added."""

    def __init__(self, net: nn.Module, share: float) -> None:
        super().__init__()
        self.net, self.share = net, share

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return logits + self.share * logits.mean(0, keepdim=True)


class Steps(nn.Module):
    """Features before the last layer rounded to multiples of a width: a step function whose gradient is 0."""

    def __init__(self, net: nn.Sequential, width: float) -> None:
        super().__init__()
        self.body, self.head, self.width = net[:-1], net[-1], width

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.body(x) / self.width).round() * self.width)


DEFECTS: dict[str, tuple[Callable[[nn.Module, float], nn.Module], tuple[float, float, float]]] = {
    "saturated logits": (Scaled, (30, 100, 1000)),
    "quantised input": (lambda net, levels: Quantised(net, int(levels)), (256, 32, 8)),
    "random noise layer": (Noisy, (0.001, 0.01, 0.1)),
    "train-mode BatchNorm": (BatchStatistics, (0.01, 0.1, 1)),
    "batch-dependent output": (BatchDependent, (0.001, 0.01, 0.1)),
    "exploding logit scale": (Scaled, (1e4, 1e8, 1e20)),
    "step function": (Steps, (0.01, 0.1, 1)),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "convolutional": convolutional}
SEEDS = (0, 1, 2)


def defective(network: str, seed: int) -> dict[tuple[str, float], nn.Module]:
    """Return a trained network with each defect at each strength, by defect and strength."""
    net = built(NETWORKS[network], seed)
    return {
        (defect, strength): spoil(copy.deepcopy(net), strength).eval()
        for defect, (spoil, strengths) in DEFECTS.items()
        for strength in strengths
    }


def audited(
    nets: Mapping[Any, nn.Module], store: Path, limit: int = 100, attacks: Sequence[Mapping[str, Any]] = ()
) -> dict[Any, ModelAudit]:
    """Return the audits of networks, by the keys of the networks; with other attacks than those of `SUITE` if given."""
    import robharness

    labels = {f"net {number}": key for number, key in enumerate(nets)}
    models = {label: nets[key] for label, key in labels.items()}
    suite = SUITE | ({"attacks": list(attacks)} if attacks else {})
    report = robharness.run(suite, models=models, store=store, limit=limit).report()
    return {labels[audit.model]: audit for audit in report.audits}


def table(failed: Mapping[tuple[str, float], Sequence[Sequence[str]]]) -> str:
    """Return the matrix as a Markdown table.

    failed: codes of the failed checks of each audit, by defect and strength.
    """
    rows = [["defect", "strength", "caught", "by"], ["---"] * 4]
    for (defect, strength), audits in failed.items():
        codes = [code for code in CHECKS if any(code in each for each in audits)]
        caught = f"{sum(map(bool, audits))} of {len(audits)}"
        rows.append([defect, f"{strength:g}", caught, ", ".join(f"`{code}`" for code in codes)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _main() -> None:
    """Print the failed checks of honest networks, and the matrix of defects."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    short = "--short" in sys.argv
    failed: dict[tuple[str, float], list[list[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS[:1] if short else SEEDS:
            honest = audited({name: built(build, seed, **more) for name, (build, more) in HONEST.items()}, Path(folder))
            for name, audit in honest.items():
                print(f"honest: {name}, seed {seed}: {[check.code for check in audit.failed]}", flush=True)
            for network in NETWORKS:
                for key, audit in audited(defective(network, seed), Path(folder), limit=50).items():
                    failed.setdefault(key, []).append([check.code for check in audit.failed])
                print(table(failed), flush=True)


if __name__ == "__main__":
    _main()
