"""`reference/*` gives the library's own images, with random numbers per example."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import imagecorruptions
import numpy as np
import pytest
import torch

from robharness import Batch, ExampleRNG, UserError
from robharness_corruptions import robharness_corruptions

SPECS = {spec.name.rpartition("/")[2]: spec for spec in robharness_corruptions() if spec.name.startswith("reference/")}
RANDOM = [name for name, spec in SPECS.items() if spec.randomness == "example"]
FIXED = [name for name, spec in SPECS.items() if spec.randomness == "none"]
IDS = ("hill", "lake", "wood")


def photo(seed, height=48, width=40):
    """Return an image with edges, gradients and texture."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + c) + seed) * 40 + np.cos(y / (5 - c)) * 40 + 120 for c in range(3)]
    noisy = np.stack(waves, -1) + generator.normal(0, 8, (height, width, 3)) + 60 * (x > y)[..., None]
    return np.clip(noisy, 0, 255).astype(np.uint8)


PHOTOS = {name: photo(seed) for seed, name in enumerate(IDS)}


def batch_of(canvas, ids):
    x, labels = torch.zeros(len(ids), 3, 8, 8), torch.zeros(len(ids), dtype=torch.int64)
    return Batch(ids, x, labels, torch.from_numpy(canvas))


def corrupt(name, ids=IDS, severity=1, seed=0):
    batch = batch_of(np.stack([PHOTOS[example] for example in ids]), ids)
    before = batch.canvas.clone()
    streams = None if name in FIXED else ExampleRNG(seed, f"corruptions/{name}", ids)
    corrupted = SPECS[name].build(None).perturb(None, batch, severity, streams)
    assert torch.equal(batch.canvas, before), "the batch's images must not change"
    assert corrupted.dtype == torch.uint8
    assert corrupted.shape == batch.canvas.shape
    return corrupted.numpy()


def state():
    kind, keys, *rest = np.random.get_state()
    return kind, keys.tolist(), *rest


@pytest.fixture
def global_state():
    """NumPy's global generator in a used state, with a cached Gaussian number."""
    kept = np.random.get_state()
    np.random.seed(4321)  # noqa: TID251 (the generator under test)
    np.random.normal()
    yield state()
    np.random.set_state(kept)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", SPECS)
def test_images_are_the_librarys_own(name, severity):
    ours = corrupt(name, severity=severity)
    streams = ExampleRNG(0, f"corruptions/{name}", IDS)
    for row, example in enumerate(IDS[:2]):
        seed = streams.integer("corruption", row)
        np.random.seed(seed)  # noqa: TID251 (how the library is seeded by hand)
        extra = {"seed": seed} if name in ("impulse_noise", "glass_blur") else {}
        theirs = imagecorruptions.corrupt(PHOTOS[example], severity, name, **extra)
        np.testing.assert_array_equal(ours[row], theirs)
        assert not np.array_equal(ours[row], PHOTOS[example])


@pytest.mark.parametrize("name", SPECS)
def test_an_example_is_the_same_whatever_its_batch_order_and_neighbours(name):
    together = dict(zip(IDS, corrupt(name), strict=True))
    for ids in (IDS[::-1], IDS[1:], ("wood",), ("lake", "hill", "lake")):
        for example, image in zip(ids, corrupt(name, ids), strict=True):
            np.testing.assert_array_equal(image, together[example])


@pytest.mark.parametrize("name", RANDOM)
def test_random_ones_depend_on_the_seed_and_on_the_id(name, monkeypatch):
    first = corrupt(name)
    assert not np.array_equal(first, corrupt(name, seed=1))
    monkeypatch.setitem(PHOTOS, "for_model", PHOTOS["hill"])
    hill, twin = corrupt(name, ("hill", "for_model"))
    assert not np.array_equal(hill, twin)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_ones_draw_nothing(name, global_state):
    np.testing.assert_array_equal(corrupt(name), corrupt(name, seed=1))
    imagecorruptions.corrupt(PHOTOS["hill"], 1, name)
    assert state() == global_state, "declared as drawing nothing"


@pytest.mark.parametrize("name", SPECS)
def test_the_global_generator_is_not_changed(name, global_state):
    corrupt(name)
    assert state() == global_state


def test_the_global_generator_is_restored_after_an_error(global_state):
    with pytest.raises(AttributeError):
        corrupt("gaussian_noise", severity=6)
    assert state() == global_state


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "impulse_noise", "snow"])
def test_severities_differ_and_grow(name):
    change = [np.abs(corrupt(name, severity=s).astype(int) - np.stack([*PHOTOS.values()])).mean() for s in (1, 5)]
    assert change[0] < change[1]


def test_another_process_renders_the_same_bytes():
    script = f"""
import hashlib, importlib.util
spec = importlib.util.spec_from_file_location("again", {__file__!r})
again = importlib.util.module_from_spec(spec)
spec.loader.exec_module(again)
for name in ("snow", "glass_blur", "impulse_noise"):
    print(hashlib.sha256(again.corrupt(name).tobytes()).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    here = [hashlib.sha256(corrupt(name).tobytes()).hexdigest() for name in ("snow", "glass_blur", "impulse_noise")]
    assert done.stdout.split() == here, done.stderr


def test_images_that_the_library_cannot_take_are_refused():
    corruption, streams = SPECS["fog"].build(None), ExampleRNG(0, "corruptions/fog", ["a"])
    with pytest.raises(ValueError, match=r"at least 32 x 32 pixels, but the canvas has 40 x 31. .* canvas: 224"):
        corruption.perturb(None, batch_of(np.zeros((1, 40, 31, 3), np.uint8), ["a"]), 1, streams)
    with pytest.raises(ValueError, match="needs images with 3 channels"):
        corruption.perturb(None, batch_of(np.zeros((1, 40, 40, 1), np.uint8), ["a"]), 1, streams)


def test_an_empty_batch_stays_empty():
    empty = batch_of(np.zeros((0, 40, 40, 3), np.uint8), [])
    corrupted = SPECS["fog"].build(None).perturb(None, empty, 1, ExampleRNG(0, "corruptions/fog", []))
    assert corrupted.shape == (0, 40, 40, 3)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (
            "raise ImportError('libGL.so.1: cannot open shared object file', name='cv2')",
            "apt-get install -y libgl1 libglib2.0-0",
        ),
        ("import a_package_that_is_not_there", 'pip install "imagecorruptions-imaug>=1.1.5"'),
    ],
)
def test_an_opencv_that_cannot_be_imported_ends_with_the_command(source, remedy, monkeypatch, tmp_path):
    (tmp_path / "cv2.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.split(".")[0] in ("cv2", "imagecorruptions")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UserError) as caught:
        SPECS["fog"].build(None)
    assert str(caught.value).endswith(f"Try: {remedy}")


def test_a_library_that_cannot_be_seeded_is_refused(monkeypatch):
    monkeypatch.setitem(imagecorruptions.corruption_dict, "impulse_noise", lambda x, severity=1: x)
    with pytest.raises(UserError, match="cannot seed impulse_noise"):
        SPECS["impulse_noise"].build(None)
