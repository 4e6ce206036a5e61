"""Kernels against `imagecorruptions`: the same random numbers give the same images."""

from __future__ import annotations

import itertools
import subprocess
import sys

import cv2
import imagecorruptions
import imagecorruptions.corruptions as library
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.ndimage import zoom as scipy_zoom
from skimage.filters import gaussian

from robharness import Batch, ExampleRNG, UserError, api, discover
from robharness.evaluation.images import on_canvas
from robharness_corruptions import blur, kernels, noise, robharness_corruptions, weather
from robharness_corruptions.constants import CIFAR, IMAGENET

EVERY = {spec.name: spec for spec in robharness_corruptions()}
SPECS = {name.removeprefix("extra/"): spec for name, spec in EVERY.items() if not name.startswith("reference/")}
IDS = ("hill", "lake", "wood")
SEVERITIES = (1, 2, 3, 4, 5)
PAIRED = [name for name in SPECS if name != "shot_noise"]
"""Corruptions whose numbers the library draws by another method, so that they are compared in distribution."""


def photo(seed, height=48, width=40):
    """Return an image with edges, gradients, texture, black, white and flat grey."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + c) + seed) * 40 + np.cos(y / (5 - c)) * 40 + 120 for c in range(3)]
    noisy = np.stack(waves, -1) + np.random.default_rng(seed).normal(0, 8, (height, width, 3)) + 60 * (x > y)[..., None]
    image = np.clip(noisy, 0, 255).astype(np.uint8)
    image[:8, :8], image[:8, 8:16], image[8:16, :8] = 0, 255, 77
    return image


def photos(height=48, width=40):
    return np.stack([photo(seed, height, width) for seed in range(len(IDS))])


@pytest.fixture(scope="module")
def real():
    """Six photos of ImageNet's classes, 224 x 224."""
    dataset = discover().datasets["samples/imagenet-photos"].spec.open(None, "val")
    return np.stack([on_canvas(dataset.read(index), 224) for index in range(0, 18, 3)])


def batch_of(canvas, ids):
    x, labels = torch.zeros(len(ids), 3, 8, 8), torch.zeros(len(ids), dtype=torch.int64)
    return Batch(ids, x, labels, torch.from_numpy(canvas))


def example_ids(images):
    return [f"example {row}" for row in range(len(images))]


def streams(name, ids=IDS, seed=0):
    return ExampleRNG(seed, f"corruptions/{name}", ids)


def corrupt(name, images, severity=1, ids=None, seed=0, constants="imagenet"):
    ids = ids or example_ids(images)
    batch = batch_of(images, ids)
    before = batch.canvas.clone()
    params = SPECS[name].params(constants=constants)
    corrupted = SPECS[name].build(params).perturb(None, batch, severity, streams(name, ids, seed))
    assert torch.equal(batch.canvas, before), "the batch's images must not change"
    assert corrupted.dtype == torch.uint8
    assert corrupted.shape == batch.canvas.shape
    return corrupted.numpy()


def assert_alike(ours, reference, equal=0.8):
    """Assert equality within one grey level for 99 % of values, exact equality for most, and no bias except in ties."""
    difference = ours.astype(int) - reference
    assert (abs(difference) <= 1).mean() >= 0.99
    assert (difference == 0).mean() >= equal
    assert abs(difference.mean()) <= 1 - equal


# --- videos ---


def video(name, frames, numbers, severity=3, ids=IDS):
    """Corrupt frames, (N, T, H, W, 3), as the suite gives them to a corruption."""
    x, labels = torch.zeros(len(ids), 3, 8, 8), torch.zeros(len(ids), dtype=torch.int64)
    batch = Batch(ids, x, labels, torch.from_numpy(frames), frames=torch.tensor(numbers).expand(len(ids), -1))
    params = SPECS[name].params(constants="imagenet")
    return SPECS[name].build(params).perturb(None, batch, severity, streams(name, ids)).numpy()


@pytest.mark.parametrize("name", SPECS)
def test_the_frames_of_a_still_video_differ_in_noise_and_flakes_alone(name):
    still = np.repeat(photos()[:, None], 4, 1)
    found = video(name, still, [0, 3, 4, 7])
    assert found.shape == still.shape
    assert not np.array_equal(found[0], found[1])
    assert (found != still).any()
    is_new = name.endswith("_noise") or name == "snow"
    for frames in found:
        assert all(np.array_equal(frame, frames[0]) is not is_new for frame in frames[1:])
    if not is_new:  # as an image of that name
        np.testing.assert_array_equal(found[:, 0], corrupt(name, photos(), 3, IDS))


@pytest.mark.parametrize("name", ["gaussian_noise", "snow", "fog"])
def test_a_frame_is_the_same_for_models_with_other_frames(name):
    still = np.repeat(photos()[:, None], 4, 1)
    sparse, dense = video(name, still[:, :2], [2, 9]), video(name, still, [7, 8, 9, 10])
    np.testing.assert_array_equal(sparse[:, 1], dense[:, 2])


# --- what the published files have of their own ---


def test_the_ice_of_the_published_files_is_of_five_photos():
    """Images differ only if they draw another photo, except in parts that are white in both."""
    grey, ids = np.full((60, 48, 48, 3), 90, np.uint8), [f"example {row}" for row in range(60)]
    drawn = streams("frost", ids).uniform("ice", (3,))[:, 0].numpy()
    six, five = (drawn * 6).astype(int), (drawn * 5).astype(int)
    params = SPECS["frost"].params
    batch = batch_of(grey, ids)
    own, published = (
        SPECS["frost"].build(params(constants="imagenet", compat=compat)).perturb(None, batch, 2, streams("frost", ids))
        for compat in ("none", "imagenet-c")
    )
    alike = (own == published).flatten(1).all(1).numpy()
    assert alike[six == five].all() and alike[six != five].mean() < 0.2
    assert set(six) == set(range(6)) and set(five) == set(range(5))


# --- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", PAIRED)
def test_real_photos_equal_the_librarys(name, severity, real, theirs):
    images = real[:: 3 if name in ("zoom_blur", "spatter") else 2]
    ours = corrupt(name, images, severity)
    reference = theirs(name, images, severity, example_ids(images))
    assert_alike(ours, reference)
    if name in ("jpeg_compression", "pixelate", "impulse_noise"):
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("size", [(32, 32), (61, 90)])
@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", PAIRED)
def test_images_of_any_size_equal_the_librarys(name, severity, size, theirs):
    images = photos(*size)
    ours, reference = corrupt(name, images, severity), theirs(name, images, severity, example_ids(images))
    if name == "spatter" and size == (32, 32):  # the library divides by 0 where no drop fell, and casts it
        drops = [not np.array_equal(image, corrupted) for image, corrupted in zip(images, ours, strict=True)]
        ours, reference = ours[drops], reference[drops]
        assert len(ours)
    assert_alike(ours, reference, equal=0.75)


def test_glass_copies_pixels_as_the_loop_does(swapped):
    """Without the blurs, equal bit for bit, with long chains of copies."""
    for reach, sweeps in ((1, 2), (2, 3), (4, 2), (4, 4)):
        images = photos(70, 53)
        ours = blur.glass_blur(torch.from_numpy(images).permute(0, 3, 1, 2), (0.01, reach, sweeps), streams("glass"))
        for row, image in enumerate(images):
            for sweep in range(sweeps):
                uniforms = streams("glass", [IDS[row]]).uniform(f"sweep {sweep}", (2, 70, 53))[0]
                swapped(image, (uniforms * (2 * reach)).long().numpy() - reach, reach)
            np.testing.assert_array_equal(ours[row].permute(1, 2, 0).to(torch.uint8).numpy(), image)


@pytest.mark.parametrize("table", [IMAGENET, CIFAR], ids=["imagenet", "cifar"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_photons_are_poisson_numbers(table, severity):
    """Compare each level's histogram with the Poisson distribution by chi-square over 200,000 draws."""
    from scipy import stats

    photons = table["shot_noise"][severity - 1]
    for level in (0, 1, 40, 128, 255):
        x = torch.full((1, 3, 258, 258), level, dtype=torch.uint8)
        found = noise.shot_noise(x, photons, streams("shot", [f"level {level}"])).flatten().numpy()
        values = np.uint8(np.clip(np.arange(photons * 3 + 30) / float(photons), 0, 1) * 255)
        chances = np.bincount(values, stats.poisson.pmf(np.arange(photons * 3 + 30), level / 255 * photons), 256)
        counts = np.bincount(found, minlength=256)
        assert counts[chances < 1e-12].sum() == 0
        order = np.flatnonzero(chances * found.size >= 8)
        rest = chances.sum() - chances[order].sum()
        expected = np.append(chances[order], rest) * found.size
        observed = np.append(counts[order], found.size - counts[order].sum())
        keep = expected >= 8
        if keep.sum() > 1:
            chi = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
            assert stats.chi2.sf(chi, keep.sum() - 1) > 1e-5, level


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulses_are_as_many_black_as_white_ones(severity):
    from scipy import stats

    share = IMAGENET["impulse_noise"][severity - 1]
    found = corrupt("impulse_noise", np.full((4, 224, 224, 3), 99, np.uint8), severity)
    for level in (0, 255):
        assert stats.binomtest(int((found == level).sum()), found.size, share / 2).pvalue > 1e-5
    assert set(np.unique(found)) == {0, 99, 255}
    black = (found == 0).astype(float)
    assert abs(np.corrcoef(black[:, :, 1:].ravel(), black[:, :, :-1].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(black[..., 0].ravel(), black[..., 1].ravel())[0, 1]) < 0.015


# --- CIFAR-10-C ------------------------------------------------------------------------------------------------------


def second_way(name, image, c, rng):
    """Return the result of CIFAR-10-C's script by SciPy, OpenCV and PIL, for steps that differ from ImageNet-C's."""
    from PIL import Image

    height, width = image.shape[:2]
    x = image.astype(np.float32) / 255
    uniform = lambda draw, sides: rng.uniform(draw, sides)[0].double().numpy()  # noqa: E731

    def zoomed(image, factor):
        crop = [int(np.ceil(side / factor)) for side in image.shape[:2]]
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        large = scipy_zoom(image[top : top + crop[0], left : left + crop[1]], (factor, factor, 1), order=1)
        y, x = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
        return large[y : y + height, x : x + width]

    if name == "zoom_blur":
        layers = [zoomed(x, factor) for factor in np.arange(1, *c)]
        return (x + sum(layers)) / (len(layers) + 1) * 255
    if name == "pixelate":
        resized = Image.fromarray(image).resize((int(width * c), int(height * c)), Image.Resampling.BOX)
        return np.asarray(resized.resize((width, height), Image.Resampling.BOX))
    if name == "fog":
        return None
    if name == "frost":
        which, down, right = uniform("ice", (3,))
        folder = weather.PHOTOS[int(which * 5)]
        ice = cv2.imread(str(library.importlib.resources.files("imagecorruptions") / "frost" / folder))[..., ::-1]
        ice = cv2.resize(np.ascontiguousarray(ice), (0, 0), fx=0.2, fy=0.2)
        y, x = int(down * (ice.shape[0] - height)), int(right * (ice.shape[1] - width))
        return np.clip(c[0] * image + c[1] * ice[y : y + height, x : x + width].astype(float), 0, 255)
    if name == "snow":
        mean, deviation, zoom, least, radius, sigma, share = c
        layer = rng.normal("flakes", (1, height, width))[0, 0].numpy() * deviation + mean
        layer = zoomed(layer[..., None], zoom)[..., 0]
        layer = np.uint8(np.clip(np.where(layer < least, 0, layer), 0, 1) * 255)
        moved = library._motion_blur(layer.astype(np.float32), radius, sigma, -135 + 90 * uniform("angle", ()))
        moved = np.round(moved)[..., None] / 255
        grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5
        return np.clip(share * x + (1 - share) * np.maximum(x, grey) + moved + np.rot90(moved, k=2), 0, 1) * 255
    reach, sigma, corner = (share * 32 for share in c)
    middle, arm = np.float32([height, width]) // 2, min(height, width) // 3
    points = np.float32([middle + arm, [middle[0] + arm, middle[1] - arm], middle - arm])
    to = points + np.float32((uniform("corners", (3, 2)) * 2 - 1) * corner)
    mapping = cv2.getAffineTransform(points, to)
    x = cv2.warpAffine(x, mapping, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    fields = [gaussian(field * 2 - 1, sigma, mode="reflect", truncate=3) * reach if sigma else field * 0
              for field in uniform("field", (2, height, width))]  # fmt: skip
    right, down = np.meshgrid(np.arange(width), np.arange(height))
    places = [down + fields[1], right + fields[0]]
    return np.stack([map_coordinates(x[..., c], places, order=1, mode="reflect") for c in range(3)], -1) * 255


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", sorted(kernels.CIFAR_KERNELS))
def test_the_steps_of_cifar_against_a_second_implementation(name, severity):
    images = photos(32, 32)
    ours = corrupt(name, images, severity, IDS, constants="cifar")
    c = CIFAR[name][severity - 1]
    other = [second_way(name, image, c, streams(name, [IDS[row]])) for row, image in enumerate(images)]
    other = np.clip(np.stack(other), 0, 255)
    # OpenCV rounds the places of a warp to 1/32 pixel, and its JPEG decoder's photos differ from PIL's by a level.
    loose = name in ("elastic_transform", "frost")
    assert (abs(ours - np.trunc(other)) <= (3 if loose else 1)).mean() >= 0.99
    assert abs((ours - np.trunc(other)).mean()) < 0.2


def test_small_images_use_cifars_constants_by_default():
    for size, table in ((32, "cifar"), (63, "cifar"), (64, "imagenet"), (96, "imagenet")):
        images = photos(size, 96)
        for name in ("gaussian_noise", "pixelate"):
            by_size, explicit = corrupt(name, images, constants=None), corrupt(name, images, constants=table)
            np.testing.assert_array_equal(by_size, explicit)
            assert not np.array_equal(
                by_size, corrupt(name, images, constants={"cifar": "imagenet"}.get(table, "cifar"))
            )


# --- what belongs to an example --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (61, 90), (224, 224)])
@pytest.mark.parametrize("name", SPECS)
def test_an_example_is_the_same_whatever_its_batch_order_and_neighbours(name, size):
    ids = [f"example {row}" for row in range(9)]
    images = np.concatenate([photos(*size)] * 3)
    together = corrupt(name, images, 2, ids)
    for rows in ([8, 7, 6, 5, 4, 3, 2, 1, 0], [4], [7, 1], [3, 0, 3]):
        found = corrupt(name, images[rows], 2, [ids[row] for row in rows])
        np.testing.assert_array_equal(found, together[rows])


@pytest.mark.parametrize("name", SPECS)
def test_they_draw_as_they_say(name):
    images = photos()
    first, again = corrupt(name, images, 3, IDS), corrupt(name, images, 3, IDS, seed=1)
    if SPECS[name].randomness == "none":
        np.testing.assert_array_equal(first, again)
        return
    assert not np.array_equal(first, again)
    hill, twin = corrupt(name, images[[0, 0]], 3, ("hill", "for_model"))
    assert not np.array_equal(hill, twin)


@pytest.mark.parametrize("constants", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", SPECS)
def test_severities_differ_and_grow(name, constants):
    size = (96, 96) if constants == "imagenet" else (32, 32)
    images = photos(*size)
    change = [abs(corrupt(name, images, s, IDS, constants=constants).astype(int) - images).mean() for s in SEVERITIES]
    assert len(set(change)) >= 4  # two of CIFAR's motion blurs differ in weights below a millionth only
    grows = name not in ("saturate", "spatter", "elastic_transform", "snow", "glass_blur", "pixelate")
    assert change[0] < change[4] or not grows


# --- the runner ------------------------------------------------------------------------------------------------------


def test_values_are_clipped_and_truncated(monkeypatch):
    values = torch.tensor([-3.0, 0.99, 254.999, 300.0])[:, None, None, None]
    monkeypatch.setitem(kernels.KERNELS, "fog", lambda x, c, rng: values.repeat(1, *x.shape[1:]))
    found = kernels.BatchedCorruption("fog", "imagenet", piece=10**9).perturb(
        None, batch_of(np.zeros((4, 32, 32, 3), np.uint8), "abcd"), 1, streams("fog", "abcd")
    )
    assert found[:, 0, 0, 0].tolist() == [0, 0, 254, 255]


def test_pieces_cover_a_batch():
    for n, size, device in itertools.product((0, 1, 7, 16), (32, 224, 500), ("cpu", "meta")):
        canvas = torch.empty(n, size, size, 3, dtype=torch.uint8, device="meta")
        cut = kernels.pieces(canvas, torch.device(device))
        assert [row for rows in cut for row in range(n)[rows]] == list(range(n))
        if device == "cpu":
            assert all(
                (rows.stop - rows.start) * size**2 <= kernels.PIECE or rows.stop - rows.start == 1 for rows in cut
            )
        else:
            assert all((rows.stop - rows.start - 1) * kernels.SHARES <= n for rows in cut)


def test_threads_share_images_and_change_nothing(monkeypatch):
    images, seen = np.concatenate([photos(224, 224)] * 2), []

    def kernel(x, c, rng):
        seen.append(torch.get_num_threads())
        return weather.fog(x, c, rng)

    monkeypatch.setitem(kernels.KERNELS, "fog", kernel)
    alone = corrupt("fog", images)
    before = torch.get_num_threads()
    for count in (2, 3):
        torch.set_num_threads(count)
        try:
            np.testing.assert_array_equal(corrupt("fog", images), alone)
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(before)
    assert seen == [1] * 18


def test_an_empty_batch_stays_empty():
    assert corrupt("fog", np.zeros((0, 40, 40, 3), np.uint8), ids=()).shape == (0, 40, 40, 3)


def test_images_that_are_too_small_or_grey_are_refused():
    with pytest.raises(ValueError, match=r"at least 32 x 32 pixels, but the canvas has 40 x 31. .* canvas: 224"):
        corrupt("fog", np.zeros((1, 40, 31, 3), np.uint8))
    with pytest.raises(ValueError, match="needs images with 3 channels"):
        corrupt("fog", np.zeros((1, 40, 40, 1), np.uint8))


def test_frost_without_its_photos_ends_with_the_command(monkeypatch):
    monkeypatch.setattr(weather.importlib.util, "find_spec", lambda name: None)
    weather._ice.cache_clear()
    with pytest.raises(UserError, match=r'Try: pip install "imagecorruptions-imaug>=1\.1\.5"'):
        corrupt("frost", photos())


# --- the plugin ------------------------------------------------------------------------------------------------------


def test_names_and_groups():
    table_6 = {
        "noise": ["Impulse", "Shot", "Gaussian"],
        "digital": ["Brightness", "Contrast", "Pixelate", "Elastic", "JPEG"],
        "blur": ["Defocus", "Motion", "Glass", "Zoom"],
        "weather": ["Fog", "Frost", "Snow"],
    }
    ours = {(spec.group, name.split("_")[0]) for name, spec in SPECS.items() if spec.group != "extra"}
    assert ours == {(group, row.lower()) for group, rows in table_6.items() for row in rows}
    common, extra = (imagecorruptions.get_corruption_names(subset) for subset in ("common", "validation"))
    names = {*common, *(f"extra/{name}" for name in extra)}
    assert {*EVERY} == names | {f"reference/{name}" for name in names}
    assert {name for name, spec in SPECS.items() if spec.group == "extra"} == {*extra}
    assert {*IMAGENET} == {*CIFAR} == {*kernels.KERNELS} == {*SPECS}


def test_a_star_matches_the_fifteen_without_extra_ones():
    suite = {"robharness": 1, "name": "s", "data": {"name": "samples/imagenet-photos", "split": "val"},
             "models": [{"model": "samples/efficientnet-lite0"}]}  # fmt: skip
    for folder, n in (("", 15), ("extra/", 4), ("reference/", 15), ("reference/extra/", 4)):
        plan = api.plan(suite | {"corruptions": [{"corruption": f"corruptions/{folder}*", "severity": 1}]})
        names = {cell.perturbation.entry.spec.name for cell in plan.cells if cell.perturbation}
        assert len(names) == n
        assert {name.rpartition("/")[0] for name in names} == {folder.rstrip("/")}


def test_kernels_import_no_opencv_and_declarations_nothing_heavy():
    script = """
import sys
import robharness_corruptions
specs = {spec.name: spec for spec in robharness_corruptions.robharness_corruptions()}
heavy = {"torch", "torchvision", "numpy", "PIL", "cv2", "numba", "scipy", "imagecorruptions"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import numpy as np, torch
from robharness import Batch, ExampleRNG
canvas = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
batch = Batch(["a"], torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long), canvas)
for name, spec in specs.items():
    if "reference/" not in name:
        for severity in (1, 5):
            spec.build(spec.params()).perturb(None, batch, severity, ExampleRNG(0, name, ["a"]))
assert not {"cv2", "numba", "scipy", "skimage", "imagecorruptions"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
