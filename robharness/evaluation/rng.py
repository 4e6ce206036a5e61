"""Random numbers that belong to an example: the same for every model, batch, order, shard and device.

A draw is addressed by (seed, perturbation without its budget or severity, draw name, example id). Its generator is
NumPy's Philox, keyed with the address's SHA-256. Philox is counter based, so streams of different addresses do not
overlap in practice. Trade-off: one small generator per example and draw, on the CPU, costs about 20 microseconds. A
generator on the device would be faster for large batches, but would give other numbers on every kind of device.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from robharness.errors import ContractViolation

if TYPE_CHECKING:
    import numpy as np
    import torch

_Fill = Callable[["np.random.Generator", "np.ndarray"], Any]


class ExampleRNG:
    """Streams of random numbers, one per example of a batch and per named draw.

    seed: of the suite.
    address: canonical text of the perturbation, without eps, severity and restarts.
    ids: the examples' ids, in the order of the batch's rows.
    device: of the tensors that are returned.
    frames, fresh: see `of_frames`.
    """

    def __init__(
        self,
        seed: int,
        address: str,
        ids: Sequence[str],
        device: torch.device | None = None,
        *,
        frames: Sequence[int] | None = None,
        fresh: Container[str] = (),
    ) -> None:
        self._seed, self._address, self._device = seed, address, device
        self.ids, self._frames, self._fresh = tuple(ids), frames, fresh

    def generator(self, name: str, row: int) -> np.random.Generator:
        """Return the NumPy generator of the draw `name` for the example in this row; the same stream at every call."""
        return _generator(self.integer(name, row, bits=128))

    def integer(self, name: str, row: int, bits: int = 32) -> int:
        """Return an integer in [0, 2**bits), e.g. as the seed of a library; bits is at most 256."""
        text = "\x1f".join((str(self._seed), self._address, name, self.ids[row]))
        if self._frames is not None and name in self._fresh:
            text = f"{text}\x1fframe {self._frames[row]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()) >> (256 - bits)

    def uniform(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Return uniform numbers in [0, 1), float32, (len(ids), *shape), on the batch's device."""
        return self._filled(name, shape, lambda generator, out: generator.random(out=out, dtype="float32"))

    def normal(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Return standard normal numbers, float32, (len(ids), *shape), on the batch's device."""
        return self._filled(name, shape, lambda generator, out: generator.standard_normal(out=out, dtype="float32"))

    def select(self, rows: Sequence[int] | torch.Tensor) -> ExampleRNG:
        """Return the streams of these rows.

        rows: indices.
        """
        indices = rows if isinstance(rows, Sequence) else rows.tolist()
        ids, frames = [self.ids[row] for row in indices], self._frames and [self._frames[row] for row in indices]
        return ExampleRNG(self._seed, self._address, ids, self._device, frames=frames, fresh=self._fresh)

    def of_frames(self, frames: Sequence[Sequence[int]] | torch.Tensor, fresh: Container[str] = ()) -> ExampleRNG:
        """Return streams for the frames of videos, one row per frame, video by video.

        frames: (N, T), the frames' numbers in the whole video.
        fresh: names of draws that are new in every frame. They depend on the frame's number, so they are the same for
            all models, whichever frames these see. All other draws belong to the video, and its frames share them.
        """
        named = [(name, int(number)) for name, row in zip(self.ids, frames, strict=True) for number in row]
        ids, numbers = [name for name, _ in named], [number for _, number in named]
        return ExampleRNG(self._seed, self._address, ids, self._device, frames=numbers, fresh=fresh)

    def _filled(self, name: str, shape: Sequence[int], fill: _Fill) -> torch.Tensor:
        """Fill every stream by its own generator, in threads if numbers are many: NumPy releases Python's lock."""
        import numpy as np
        import torch

        addresses = [self.integer(name, row, bits=128) for row in range(len(self.ids))]
        row_of = {address: row for row, address in enumerate(dict.fromkeys(addresses))}
        values = np.empty((len(row_of), *shape), np.float32)

        def stream(address: int) -> None:
            fill(_generator(address), values[row_of[address], ...])

        if values.size < MIN_THREADED:
            for address in row_of:
                stream(address)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(stream, row_of))
        if len(row_of) < len(addresses):  # frames that share the draws of their video
            values = values[[row_of[address] for address in addresses]]
        on_device: torch.Tensor = torch.from_numpy(values).to(self._device)
        return on_device


def _generator(address: int) -> np.random.Generator:
    import numpy as np

    return np.random.Generator(np.random.Philox(key=address))


MIN_THREADED = 1_000_000
"""Smallest count of numbers that are drawn by threads: starting these takes about 1 ms, the numbers take several."""


class NoDraws(ExampleRNG):
    """The generator of a perturbation that declares randomness "none" or "global": every draw is refused."""

    def integer(self, name: str, row: int, bits: int = 32) -> int:
        raise ContractViolation(
            f"it draws '{name}' from the examples' streams, but does not declare randomness='example'"
        )

    def select(self, rows: Sequence[int] | torch.Tensor) -> ExampleRNG:
        return self

    def of_frames(self, frames: Sequence[Sequence[int]] | torch.Tensor, fresh: Container[str] = ()) -> ExampleRNG:
        return self


@contextmanager
def global_seed(value: int) -> Iterator[None]:
    """Seed every global generator (random, NumPy, torch) inside the block, and restore their states after it."""
    import numpy as np
    import torch

    with global_kept():
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.manual_seed(value)
        yield


@contextmanager
def global_kept() -> Iterator[None]:
    """Restore every global generator (random, NumPy, torch and its devices') after the block."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def global_draws() -> Iterator[list[str]]:
    """Yield a list that, after the block, names the global generators (random, NumPy, torch) that it drew from."""
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
