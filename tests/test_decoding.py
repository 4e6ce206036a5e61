"""Decoding of image files: pixels of PIL and torchvision, and a reason for each file that is not decoded."""

from __future__ import annotations

import errno
import os
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import pil_loader

from robharness import UnreadableExample, read_image
from robharness.evaluation.decoding import as_unreadable

DRAWS = np.random.default_rng(0)
GREY, GREY_ALPHA, RGB, RGB_ALPHA = 0, 4, 2, 6
"""Colour types of PNG."""


def png(pixels, colour, depth, size=None):
    """Return a PNG file of unsigned integers, (H, W, C).

    size: width and height that the header states instead.
    """
    height, width, _ = pixels.shape
    kind = ">u2" if depth == 16 else ">u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in pixels)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image, kind, **options):
    content = BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def pixels(channels, most=256):
    return DRAWS.integers(0, most, (5, 6, channels))


@pytest.mark.parametrize("colour", [GREY, GREY_ALPHA, RGB, RGB_ALPHA])
def test_eight_bits_of_a_png_are_the_written_colours_and_16_are_refused(colour):
    channels = {GREY: 1, GREY_ALPHA: 2, RGB: 3, RGB_ALPHA: 4}[colour]
    written = pixels(channels)
    colours = written[..., :3] if channels >= 3 else written[..., :1].repeat(3, -1)  # without transparency
    found = read_image(png(written, colour, 8))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, colours)
    with pytest.raises(UnreadableExample, match=r"^it has 16 bits per channel; convert it to 8 bits$"):
        read_image(png(written * 257, colour, 16))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved(Image.fromarray(np.full((4, 4), 3e-3, np.float32)), "TIFF"), "floating-point values; convert it"),
        (saved(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "it has 32 bits per channel; convert it"),
        (png(pixels(3), RGB, 8, size=(12_000, 12_000)), "12,000 x 12,000 px, more than the limit of .*; scale it down"),
        (png(pixels(3), RGB, 8, size=(60_000, 60_000)), "more pixels than the limit of .*; scale it down"),
        (png(pixels(3), RGB, 8, size=(0, 5)), "broken|not an image"),
        (png(pixels(3), RGB, 8)[:-30], "broken or truncated"),
        (b"", "the file is empty"),
        (b"<html>404</html>", "not an image of a known format"),
        (saved(Image.new("RGB", (4, 4)), "ICO"), "of the format ICO; convert it to PNG or JPEG"),
    ],
    ids=["float", "32 bits", "large", "bomb", "no width", "truncated", "empty", "html", "icon"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_that_is_not_decoded_has_a_reason(content, reason, tmp_path):
    (tmp_path / "one.png").write_bytes(content)
    for source in (content, tmp_path / "one.png", str(tmp_path / "one.png")):
        with pytest.raises(UnreadableExample, match=reason) as caught:
            read_image(source)
        assert len(str(caught.value)) < 150 and "\n" not in str(caught.value)


def test_a_warning_of_pil_as_an_error_is_unreadable_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableExample, match="more pixels than the limit"):
            read_image(png(pixels(3), RGB, 8, size=(12_000, 12_000)))


FILES = {
    "png": saved(Image.fromarray(pixels(3).astype(np.uint8)), "PNG"),
    "jpeg": saved(Image.fromarray(pixels(3).astype(np.uint8)), "JPEG"),
    "tiff": saved(Image.fromarray(pixels(3).astype(np.uint8)), "TIFF", compression="tiff_lzw"),
    "gif": saved(Image.fromarray(pixels(1)[..., 0].astype(np.uint8)), "GIF"),
    "webp": saved(Image.fromarray(pixels(3).astype(np.uint8)), "WEBP", lossless=True),
    "bmp": saved(Image.fromarray(pixels(3).astype(np.uint8)), "BMP"),
    "ppm": saved(Image.fromarray(pixels(3).astype(np.uint8)), "PPM"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore:::PIL")
def test_files_with_any_bit_flipped_or_any_end_cut_off_are_images_or_unreadable(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # so that flipped sides take no memory
    content, unreadable = FILES[kind], 0
    flipped = [bytearray(content) for _ in range(8 * min(len(content), 120))]
    for bit, damaged in enumerate(flipped):
        damaged[bit // 8] ^= 1 << bit % 8
    for damaged in [*map(bytes, flipped), *(content[:end] for end in range(len(content)))]:
        try:
            found = read_image(damaged)
            assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[-1] == 3
        except UnreadableExample:
            unreadable += 1
    assert unreadable > 50


def test_cmyk_palette_and_bilevel_images_are_those_of_torchvision(tmp_path):
    colours = Image.fromarray(pixels(3).astype(np.uint8))
    seen = {
        "cmyk.jpg": colours.convert("CMYK"),
        "palette.png": colours.quantize(16),
        "bilevel.png": colours.convert("1"),
        "transparent.png": colours.convert("RGBA"),
        "see-through.gif": colours.quantize(16),
    }
    seen["transparent.png"].putalpha(7)
    for name, image in seen.items():
        image.save(tmp_path / name, **({"transparency": 3} if name == "see-through.gif" else {}))
        np.testing.assert_array_equal(read_image(tmp_path / name), np.asarray(pil_loader(tmp_path / name)))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(kind):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read_image(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert found.shape == (5, 6, 3)
    np.testing.assert_array_equal(found.reshape(-1, 3), [[255, 0, 0]] * 30)


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.new("RGB", (6, 5)), "JPEG", exif=exif)
    assert read_image(content).shape == (5, 6, 3)


def test_files_that_cannot_be_opened_have_a_reason(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "holes.png").touch()
    os.truncate(tmp_path / "holes.png", 2**40)
    reasons = {
        "holes.png": "has 1100 GB, more than an image can have",
        "none.png": "No such file",
        "loop.png": "symbolic link",
        "folder.png": "Is a directory",
        "pipe.png": "not a regular file",
        "x" * 300: "name too long",
        "null\0.png": "null",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableExample, match=reason):
            read_image(tmp_path / name)


def test_errors_of_the_machine_are_none_of_an_example():
    for number in (errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM):
        assert as_unreadable(OSError(number, os.strerror(number))) is None
    for error in (MemoryError(), ValueError("x"), KeyError("x"), RuntimeError("x")):
        assert as_unreadable(error) is None
    assert (
        str(as_unreadable(OSError(errno.EACCES, "Permission denied")))
        == "the file cannot be opened (Permission denied)"
    )
    assert str(as_unreadable(OSError("it ends early"))) == "it is broken or truncated (it ends early)"
    with pytest.raises(ValueError, match="wrong mode") as caught:
        Image.new("RGB", (2, 2)).convert("NONE")
    assert as_unreadable(caught.value) is not None  # raised by PIL itself
