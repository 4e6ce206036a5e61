"""The library `imagecorruptions` with the random numbers that a kernel draws."""

from __future__ import annotations

import imagecorruptions
import imagecorruptions.corruptions as library
import numpy as np
import pytest
from numba import njit

from robharness import ExampleRNG
from robharness_corruptions.constants import IMAGENET


@pytest.fixture(scope="session")
def _compiled():
    """Compile with numba before NumPy's generators are replaced, since numba reads their types then."""
    imagecorruptions.corrupt(np.zeros((32, 32, 3), np.uint8), 1, "glass_blur", seed=0)


@pytest.fixture
def theirs(monkeypatch, _compiled):
    """(name, images, severity, ids, seed) -> what `imagecorruptions` makes of the numbers that the examples draw.

    All but Poisson numbers, which are made in another way: of these, what it draws itself.
    """

    def corrupted(name, images, severity, ids, seed=0):
        found = []
        for image, example in zip(images, ids, strict=True):
            rng = ExampleRNG(seed, f"corruptions/{name}", [example])
            with monkeypatch.context() as patched:
                extra = {}
                if name == "shot_noise":
                    np.random.seed(rng.integer("library", 0))  # noqa: TID251 (how the library is seeded by hand)
                elif name == "impulse_noise":
                    extra["seed"] = _Impulses(rng.uniform("noise", image.shape)[0].numpy(), severity)
                else:
                    _feed(patched, name, image.shape, rng)
                found.append(imagecorruptions.corrupt(image, severity, name, **extra))
        return np.stack(found)

    return corrupted


@pytest.fixture(scope="session")
def swapped():
    """A function (x, steps, reach) -> x after the library's loop of a glass blur with these steps."""
    return _swapped


class _Impulses(np.random.Generator):
    """A generator that derives both of the library's draws, replaced and white values, from one number per value."""

    def __init__(self, uniforms, severity):
        super().__init__(np.random.PCG64(0))
        self.answers = iter((uniforms, uniforms / IMAGENET["impulse_noise"][severity - 1]))

    def random(self, shape):
        return next(self.answers)


def _feed(patched, name, shape, rng):
    """Make the library's generators return our draws for the one example of rng, in the library's order."""
    height, width = shape[:2]

    def uniform(draw, sides):
        return rng.uniform(draw, sides)[0].numpy().astype(np.float64)

    def normal(draw, sides):
        return rng.normal(draw, sides)[0].numpy().astype(np.float64)

    def sweeps(d0, d1, x, c, seed):
        for sweep in range(c[2]):
            uniforms = rng.uniform(f"sweep {sweep}", (2, d0 * d1))[0].numpy() * np.float32(2 * c[1])
            _swapped(x, uniforms.astype(int).reshape(2, d0, d1) - c[1], c[1])
        return x

    numbers = {
        "gaussian_noise": lambda: [normal("noise", shape)],
        "speckle_noise": lambda: [normal("noise", shape)],
        "snow": lambda: [normal("flakes", (1, height, width))[0], uniform("angle", ())],
        "spatter": lambda: [normal("drops", (1, height, width))[0]],
        "motion_blur": lambda: [uniform("angle", ())],
        "frost": lambda: uniform("ice", (3,)),
        "elastic_transform": lambda: uniform("field", (2, height, width)),
        "fog": lambda: _clouds(uniform, max(height, width)),
    }
    left = iter(numbers.get(name, list)())
    patched.setattr(np.random, "normal", lambda loc=0, scale=1, size=None: loc + scale * next(left))
    patched.setattr(np.random, "uniform", lambda low, high, size=None: low + (high - low) * next(left))
    patched.setattr(np.random, "randint", lambda *ends, size=None: int(next(left) * (ends[-1] - sum(ends[:-1]))))
    patched.setattr(library, "_shuffle_pixels_njit_glass_blur", sweeps)


def _clouds(uniform, side):
    size = 1 << (side - 1).bit_length()
    draws, n = uniform("cloud", (size * size - 1,)), 1
    while n < size:
        for _ in range(3):
            yield draws[: n * n].reshape(n, n)
            draws = draws[n * n :]
        n *= 2


@njit
def _swapped(x, steps, reach):
    for h in range(x.shape[0] - reach, reach, -1):
        for w in range(x.shape[1] - reach, reach, -1):
            h_near, w_near = h + steps[1, h, w], w + steps[0, h, w]
            x[h, w], x[h_near, w_near] = x[h_near, w_near], x[h, w]
    return x
