"""Noise: a random number per value, which no other value sees."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from robharness import ExampleRNG


def gaussian_noise(x: Tensor, deviation: float, rng: ExampleRNG) -> Tensor:
    """Normal noise of this standard deviation, of values in [0, 1]."""
    return x + normal(rng, "noise", x).mul_(255 * deviation)


def speckle_noise(x: Tensor, deviation: float, rng: ExampleRNG) -> Tensor:
    """Normal noise whose standard deviation is this share of the value."""
    return normal(rng, "noise", x).mul_(deviation).add_(1).mul_(x)


def shot_noise(x: Tensor, photons: int, rng: ExampleRNG) -> Tensor:
    """Poisson numbers of photons, of which a white value gets so many on average."""
    keeps, values = (table.to(x.device) for table in _photon_tables(photons))
    columns = len(keeps) // 256
    levels = x.permute(0, 2, 3, 1)
    place = rng.uniform("noise", levels.shape[1:]).to(x.device).mul_(columns).flatten()
    column = place.int()
    entry = levels.flatten().int().mul_(columns).add_(column)
    beyond = place.sub_(column) >= keeps.index_select(0, entry)
    return values.index_select(0, entry.mul_(2).add_(beyond)).view(levels.shape).permute(0, 3, 1, 2)


def impulse_noise(x: Tensor, share: float, rng: ExampleRNG) -> Tensor:
    """This share of the values set to black or to white, alike often."""
    u = uniform(rng, "noise", x)
    return (x * (u >= share)).add_(u < share / 2, alpha=255)


def uniform(rng: ExampleRNG, name: str, x: Tensor) -> Tensor:
    """A number in [0, 1) for every value of the pictures x, (N, 3, H, W), laid out as they are."""
    return rng.uniform(name, (*x.shape[2:], x.shape[1])).to(x.device).permute(0, 3, 1, 2)


def normal(rng: ExampleRNG, name: str, x: Tensor) -> Tensor:
    """A standard normal number for every value of the pictures x, (N, 3, H, W), laid out as they are."""
    return rng.normal(name, (*x.shape[2:], x.shape[1])).to(x.device).permute(0, 3, 1, 2)


@lru_cache
def _photon_tables(photons: int) -> tuple[Tensor, Tensor]:
    """Walker's alias method for the 256 rates, flat: keeps, (256 K,) float32, and values, (256 K 2,) uint8.

    A uniform number times K picks a column; its fraction below `keeps` takes the column's first value, else the second.
    Exact up to the 24 bits of a uniform number and the same on every device, which a sampler of torch's is not. K is a
    power of two, so that the products are exact, and numbers of photons from K on are rarer than 2 ** -24.
    """
    columns = 1 << int(photons + 6 * photons**0.5 + 8).bit_length()
    rates = np.arange(256)[:, None] / 255.0 * photons
    counts = np.arange(columns)
    logs = np.concatenate([[0.0], np.log(counts[1:]).cumsum()])
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.exp(np.where(counts > 0, counts * np.log(rates), 0) - rates - logs)
    keeps, other = _aliases(weights / weights.sum(1, keepdims=True))
    value = (np.clip(counts / float(photons), 0, 1) * 255).astype(np.uint8)
    values = np.stack([np.broadcast_to(value, keeps.shape), value[other]], -1)
    fractions = 2**24 // columns  # of a column, in a uniform number; what is rarer than half of one never comes
    keeps = np.round(keeps * fractions) / fractions
    return torch.from_numpy(keeps.astype(np.float32).ravel()), torch.from_numpy(values.ravel())


def _aliases(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row's probabilities, (R, K): the share of a column that is its own, and whose the rest is."""
    rows, columns = p.shape
    keeps, other = np.ones(p.shape), np.tile(np.arange(columns), (rows, 1))
    for row in range(rows):
        room = (p[row] * columns).tolist()
        poor = [column for column, share in enumerate(room) if share < 1]
        rich = [column for column, share in enumerate(room) if share >= 1]
        while poor and rich:
            taker, giver = poor.pop(), rich[-1]
            keeps[row, taker], other[row, taker] = room[taker], giver
            room[giver] -= 1 - room[taker]
            if room[giver] < 1:
                poor.append(rich.pop())
    return keeps, other
