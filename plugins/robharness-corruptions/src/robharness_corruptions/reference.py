"""Reference for the kernels: corruptions of the module `imagecorruptions`, with a seed per example.

The module draws from global generators, so only this file seeds NumPy's. Its code and experiments show the following
(imagecorruptions-imaug 1.1.5). gaussian_noise, shot_noise, motion_blur, snow, frost, fog, elastic_transform,
speckle_noise and spatter draw from NumPy's global generator and take no seed. impulse_noise (with a generator of
scikit-image) and glass_blur (with numba's global generator) draw from fresh entropy unless they are given `seed=`. The
other eight are deterministic.

So every example has one 32-bit seed, for NumPy's global generator and for `seed=` if the corruption takes it. Calling
`np.random.seed(s)` and `corrupt` gives the same image. The state of NumPy's generator is restored. That of numba's
cannot be restored, but no other code uses it.

Trade-off: with global state, a process computes one image at a time, and threads must not share it. The number of
OpenCV's threads changes no byte (tested with 1, 2 and 8), so it is not set.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch

from robharness import UserError
from robharness_corruptions.kernels import check_size

if TYPE_CHECKING:
    from robharness import Batch, ExampleRNG

INSTALL = 'pip install "imagecorruptions-imaug>=1.1.5"'
INSTALL_LIBRARIES = "apt-get install -y libgl1 libglib2.0-0"
"""System libraries that the wheels of opencv-python need: libGL and libxcb (libgl1), libglib and libgthread."""


class CommonCorruption:
    """A corruption computed by `imagecorruptions`.

    name: as in `imagecorruptions`.
    draws: whether the corruption is random.

    Raises UserError if the module cannot be imported, or if its version cannot seed this corruption.
    """

    def __init__(self, name: str, *, draws: bool) -> None:
        self.name, self.draws = name, draws
        self._corrupt = _imagecorruptions().corrupt
        function = _imagecorruptions().corruption_dict[name]
        self._takes_seed = "seed" in inspect.signature(function).parameters
        if name == "impulse_noise" and not self._takes_seed:
            raise UserError(
                f"the installed imagecorruptions cannot seed {name}: its function takes no seed=. Try: {INSTALL}"
            )

    def __repr__(self) -> str:
        return f"CommonCorruption({self.name!r})"

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> torch.Tensor:
        """Corrupt `batch.canvas`. Returns the same shape and type.

        batch: with a canvas, uint8 (N, H, W, 3).
        severity: 1 to 5; all severities use the same random numbers.

        Raises ValueError if images do not have 3 channels, or are smaller than 32 x 32 pixels.
        """
        images = batch.canvas.numpy()
        check_size(self.name, batch.canvas)
        corrupted = np.empty_like(images)
        for row, image in enumerate(images):
            if not self.draws:
                corrupted[row] = self._corrupt(image, severity, self.name)
                continue
            seed = rng.integer("corruption", row)
            extra = {"seed": seed} if self._takes_seed else {}
            with _seeded(seed):
                corrupted[row] = self._corrupt(image, severity, self.name, **extra)
        return torch.from_numpy(corrupted)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator inside the block, and restore its state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)  # noqa: TID251 (imagecorruptions draws from the global generator and takes no other)
    try:
        yield
    finally:
        np.random.set_state(state)


def _imagecorruptions() -> ModuleType:
    """Import the module from any distribution. Raises UserError with the command that installs what is missing."""
    try:
        import imagecorruptions
    except ImportError as error:
        lacks_library = error.name == "cv2" and not isinstance(error, ModuleNotFoundError)
        remedy = INSTALL_LIBRARIES if lacks_library else INSTALL
        raise UserError(f"imagecorruptions cannot be imported: {error}. Try: {remedy}") from error
    module: ModuleType = imagecorruptions
    return module
