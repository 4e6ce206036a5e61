"""What the kernels are held against: a corruption of the module `imagecorruptions`, with a seed per example.

The module draws from global generators, so this is the one place that seeds NumPy's. Found by reading it and by trying
(imagecorruptions-imaug 1.1.5): gaussian_noise, shot_noise, motion_blur, snow, frost, fog, elastic_transform,
speckle_noise and spatter draw from NumPy's global generator and take no seed; impulse_noise (a generator of
scikit-image's) and glass_blur (numba's own global one) draw from fresh entropy unless they are given `seed=`; the other
eight draw nothing. So every example gets one 32-bit seed, which goes to NumPy's global generator and to `seed=` where
there is one: `np.random.seed(s)` and `corrupt` give the same picture by hand. NumPy's generator is put back; numba's
cannot, and nothing else uses it.

Trade-off: global state allows one picture at a time in a process, so threads must not share it. The threads of OpenCV
change no byte (tried with 1, 2 and 8), so their number is left alone.
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
"""What the wheels of opencv-python want from the system: libGL and libxcb (libgl1), libglib and libgthread."""


class CommonCorruption:
    """A corruption by the name that `imagecorruptions` gives it. draws: whether it has anything random.

    Raises UserError where the module cannot be imported, or is so old that this corruption cannot be seeded.
    """

    def __init__(self, name: str, *, draws: bool) -> None:
        self.name, self.draws = name, draws
        self._corrupt = _imagecorruptions().corrupt
        function = _imagecorruptions().corruption_dict[name]
        self._takes_seed = "seed" in inspect.signature(function).parameters
        if name == "impulse_noise" and not self._takes_seed:
            raise UserError(f"the installed imagecorruptions cannot seed {name}, it takes no seed=. Try: {INSTALL}")

    def __repr__(self) -> str:
        return f"CommonCorruption({self.name!r})"

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> torch.Tensor:
        """`batch.canvas`, uint8 (N, H, W, 3), corrupted: the same shape and type.

        severity: 1 to 5; all draw the same random numbers. Raises ValueError for other channels and below 32 pixels.
        """
        pictures = batch.canvas.numpy()
        check_size(self.name, batch.canvas)
        corrupted = np.empty_like(pictures)
        for row, picture in enumerate(pictures):
            if not self.draws:
                corrupted[row] = self._corrupt(picture, severity, self.name)
                continue
            seed = rng.integer("corruption", row)
            extra = {"seed": seed} if self._takes_seed else {}
            with _seeded(seed):
                corrupted[row] = self._corrupt(picture, severity, self.name, **extra)
        return torch.from_numpy(corrupted)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator seeded inside the block, and as it was behind it."""
    state = np.random.get_state()
    np.random.seed(seed)  # noqa: TID251 (imagecorruptions draws from the global generator and takes no other)
    try:
        yield
    finally:
        np.random.set_state(state)


def _imagecorruptions() -> ModuleType:
    """The module, whichever distribution owns it. Raises UserError with the line that mends the import."""
    try:
        import imagecorruptions
    except ImportError as error:
        lacks_library = error.name == "cv2" and not isinstance(error, ModuleNotFoundError)
        remedy = INSTALL_LIBRARIES if lacks_library else INSTALL
        raise UserError(f"imagecorruptions cannot be imported: {error}. Try: {remedy}") from error
    module: ModuleType = imagecorruptions
    return module
