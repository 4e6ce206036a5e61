"""A small data set that a network learns in seconds, and recipes for it."""

from __future__ import annotations

import numpy as np

SHAPE, CLASSES = (1, 16, 16), 4


class Bars:
    """Bright bars on noise, at one of four angles: the class."""

    def __init__(self, count=160, seed=0):
        draws = np.random.default_rng(seed)
        self.labels = [index % CLASSES for index in range(count)]
        self.ids = [f"bar-{index:03}" for index in range(count)]
        y, x = np.mgrid[0:16, 0:16] - 7.5
        self._images = []
        for label in self.labels:
            angle, shift = np.pi * label / CLASSES + draws.normal(0, 0.1), draws.normal(0, 1.5)
            bar = 200 * (abs(x * np.sin(angle) - y * np.cos(angle) - shift) < 1.6)
            self._images.append((bar + draws.integers(0, 50, (16, 16))).astype(np.uint8)[..., None])

    def read(self, index):
        return self._images[index]


def of_bars(**changed):
    """Return the options of a recipe for this data set."""
    return {"data": "bars/bars", "input": SHAPE, "labels": "bars", "classes": CLASSES, "epochs": 3, "batch": 32,
            "augmentation": "digits", **changed}  # fmt: skip
