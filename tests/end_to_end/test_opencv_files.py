"""Decoding of image files that OpenCV wrote: equal pixels, and files of 16 bits refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from robharness import UnreadableExample, read_image

DRAWS = np.random.default_rng(0)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm", ".pgm"])
def test_other_encoders_files_of_16_bits_are_refused_and_of_8_bits_read(suffix):
    image = DRAWS.integers(0, 256, (5, 6, 1 if suffix == ".pgm" else 3))
    found = read_image(cv2.imencode(suffix, image.astype(np.uint8))[1].tobytes())
    np.testing.assert_array_equal(found, image[..., ::-1] if image.shape[-1] == 3 else image.repeat(3, -1))
    with pytest.raises(UnreadableExample, match="it has 16 bits per channel; convert it to 8 bits"):
        read_image(cv2.imencode(suffix, (image * 257).astype(np.uint16))[1].tobytes())
