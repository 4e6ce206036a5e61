"""Noise corruptions: an independent random number per value."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from robharness import ExampleRNG


def gaussian_noise(x: Tensor, deviation: float, rng: ExampleRNG) -> Tensor:
    """Add normal noise with this standard deviation on the scale [0, 1]."""
    return x + normal(rng, "noise", x).mul_(255 * deviation)


def speckle_noise(x: Tensor, deviation: float, rng: ExampleRNG) -> Tensor:
    """Add normal noise whose standard deviation is this share of the value."""
    return normal(rng, "noise", x).mul_(deviation).add_(1).mul_(x)


def shot_noise(x: Tensor, photons: int, rng: ExampleRNG) -> Tensor:
    """Replace values by Poisson numbers of photons. photons: mean number for a white value."""
    keeps, values = (table.to(x.device) for table in _photon_tables(photons))
    columns = len(keeps) // 256
    levels = x.permute(0, 2, 3, 1)
    position = rng.uniform("noise", levels.shape[1:]).to(x.device).mul_(columns).flatten()
    column = position.int()
    entry = levels.flatten().int().mul_(columns).add_(column)
    beyond = position.sub_(column) >= keeps.index_select(0, entry)
    return values.index_select(0, entry.mul_(2).add_(beyond)).view(levels.shape).permute(0, 3, 1, 2)


def impulse_noise(x: Tensor, share: float, rng: ExampleRNG) -> Tensor:
    """Set this share of the values to black or white with equal probability."""
    u = uniform(rng, "noise", x)
    return (x * (u >= share)).add_(u < share / 2, alpha=255)


def uniform(rng: ExampleRNG, name: str, x: Tensor) -> Tensor:
    """Draw a number in [0, 1) for every value of the images x, (N, 3, H, W), in the memory layout of x."""
    return rng.uniform(name, (*x.shape[2:], x.shape[1])).to(x.device).permute(0, 3, 1, 2)


def normal(rng: ExampleRNG, name: str, x: Tensor) -> Tensor:
    """Draw a standard normal number for every value of the images x, (N, 3, H, W), in the memory layout of x."""
    return rng.normal(name, (*x.shape[2:], x.shape[1])).to(x.device).permute(0, 3, 1, 2)


@lru_cache
def _photon_tables(photons: int) -> tuple[Tensor, Tensor]:
    """Return the tables of Walker's alias method for 256 rates: keeps, (256 K,) float32, and values, (256 K 2,) uint8.

    A uniform number times K selects a column. If its fraction is below `keeps`, the column's first value is taken, else
    the second. This is exact up to the 24 bits of a uniform number, and the same on every device, unlike torch's
    samplers. K is a power of two, so products are exact. K or more photons have a probability below 2 ** -24.
    """
    columns = 1 << int(photons + 6 * photons**0.5 + 8).bit_length()
    rates = np.arange(256)[:, None] / 255.0 * photons
    counts = np.arange(columns)
    logs = np.concatenate([[0.0], np.log(counts[1:]).cumsum()])
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.exp(np.where(counts > 0, counts * np.log(rates), 0) - rates - logs)
    keeps, aliases = _aliases(weights / weights.sum(1, keepdims=True))
    value = (np.clip(counts / float(photons), 0, 1) * 255).astype(np.uint8)
    values = np.stack([np.broadcast_to(value, keeps.shape), value[aliases]], -1)
    fractions = 2**24 // columns  # per column; a probability below half of one becomes 0
    keeps = np.round(keeps * fractions) / fractions
    return torch.from_numpy(keeps.astype(np.float32).ravel()), torch.from_numpy(values.ravel())


def _aliases(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each column that it keeps, and the column of the rest. p: (R, K), probabilities per row."""
    rows, columns = p.shape
    keeps, aliases = np.ones(p.shape), np.tile(np.arange(columns), (rows, 1))
    for row in range(rows):
        room = (p[row] * columns).tolist()
        poor = [column for column, share in enumerate(room) if share < 1]
        rich = [column for column, share in enumerate(room) if share >= 1]
        while poor and rich:
            taker, giver = poor.pop(), rich[-1]
            keeps[row, taker], aliases[row, taker] = room[taker], giver
            room[giver] -= 1 - room[taker]
            if room[giver] < 1:
                poor.append(rich.pop())
    return keeps, aliases
