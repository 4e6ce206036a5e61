"""Random numbers that belong to an example: the same for every model, batch, order, shard and device.

A draw is addressed by (seed, perturbation without its strength, draw name, example id). Its generator is NumPy's
Philox, keyed with the address's SHA-256: counter based, so streams of different addresses do not overlap in practice.
Trade-off: one small generator per example and draw, on the CPU, costs about 20 microseconds; a device-side generator
would be faster for large batches and would give other numbers on every kind of device.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from robharness.errors import Violation

if TYPE_CHECKING:
    import numpy as np
    import torch

_Fill = Callable[["np.random.Generator", "np.ndarray"], Any]


class ExampleRNG:
    """Streams of random numbers, one per example of a batch and per named draw.

    seed: the suite's. address: canonical text of the perturbation, without eps, severity and restarts.
    ids: the examples' ids, in the order of the batch's rows.
    """

    def __init__(self, seed: int, address: str, ids: Sequence[str], device: torch.device | None = None) -> None:
        self._seed, self._address, self._device = seed, address, device
        self.ids = tuple(ids)

    def generator(self, name: str, row: int) -> np.random.Generator:
        """NumPy generator of the draw `name` for the example in this row; the same at every call."""
        import numpy as np

        return np.random.Generator(np.random.Philox(key=self.integer(name, row, bits=128)))

    def integer(self, name: str, row: int, bits: int = 32) -> int:
        """An integer in [0, 2**bits), for libraries that want a seed; bits up to 256."""
        text = "\x1f".join((str(self._seed), self._address, name, self.ids[row]))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()) >> (256 - bits)

    def uniform(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Uniform in [0, 1), float32, (len(ids), *shape), on the batch's device."""
        return self._filled(name, shape, lambda generator, out: generator.random(out=out, dtype="float32"))

    def normal(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal, float32, (len(ids), *shape), on the batch's device."""
        return self._filled(name, shape, lambda generator, out: generator.standard_normal(out=out, dtype="float32"))

    def select(self, rows: Sequence[int] | torch.Tensor) -> ExampleRNG:
        """The streams of these rows alone; rows: indices."""
        indices = rows if isinstance(rows, Sequence) else rows.tolist()
        return ExampleRNG(self._seed, self._address, [self.ids[row] for row in indices], self._device)

    def _filled(self, name: str, shape: Sequence[int], fill: _Fill) -> torch.Tensor:
        """Every row by its own generator; many numbers by several threads, since filling lets go of Python's lock."""
        import numpy as np
        import torch

        values = np.empty((len(self.ids), *shape), np.float32)

        def row(index: int) -> None:
            fill(self.generator(name, index), values[index, ...])

        if values.size < MANY:
            for index in range(len(self.ids)):
                row(index)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(row, range(len(self.ids))))
        on_device: torch.Tensor = torch.from_numpy(values).to(self._device)
        return on_device


MANY = 1_000_000
"""Numbers from which on threads are worth starting: a thousandth of a second against several."""


class NoDraws(ExampleRNG):
    """What a perturbation gets that declares randomness "none" or "global"."""

    def integer(self, name: str, row: int, bits: int = 32) -> int:
        raise Violation(f"it draws '{name}' from the examples' streams, but does not declare randomness='example'")

    def select(self, rows: Sequence[int] | torch.Tensor) -> ExampleRNG:
        return self


@contextmanager
def global_seed(value: int) -> Iterator[None]:
    """Seed every global generator (random, NumPy, torch) inside the block and put them back as they were."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.manual_seed(value)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


@contextmanager
def global_draws() -> Iterator[list[str]]:
    """Collects the names of the global generators (random, NumPy, torch) that the block drew from."""
    import numpy as np
    import torch

    drawn: list[str] = []
    before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    yield drawn
    after = np.random.get_state(legacy=False)
    if random.getstate() != before[0]:
        drawn.append("random")
    if not _same_state(before[1], after):
        drawn.append("numpy.random")
    now_on_gpu = torch.cuda.get_rng_state_all() if on_gpu else []
    if not all(map(torch.equal, [torch.get_rng_state(), *now_on_gpu], [before[2], *on_gpu])):
        drawn.append("torch")


def _same_state(a: Any, b: Any) -> bool:
    import numpy as np

    same_key = bool(np.array_equal(a["state"]["key"], b["state"]["key"]))
    return same_key and a["state"]["pos"] == b["state"]["pos"] and a["has_gauss"] == b["has_gauss"]
