"""Clips of videos: their samplers, TCLR's terms by explicit loops, and training on them."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torchvision.models import video as torchvisions

from robharness import Clips, UnreadableExample, UserError
from robharness.evaluation.clips import clip_frames
from robharness.evaluation.images import preprocessed
from robharness_contrastive import artefact, components, data, declared_input, loop, networks, params, probe, video
from robharness_contrastive.augment import Draws
from robharness_contrastive.known_data import Video
from robharness_contrastive.objectives import Context, Learner, TrainingStep
from robharness_contrastive.params import Probe
from robharness_contrastive.steps import Augmentation

CLASSES = 4
OF_DRIFTS = {"data": "drifts/drifts", "input": (3, 8, 16, 16), "labels": "drifts", "classes": CLASSES, "epochs": 2,
             "video": Video(stride=2, resize=18), "batch": 16, "augmentation": "digits",
             "network": "r2plus1d-narrow"}  # fmt: skip


class Lazy:
    """A video whose frames are decoded on access, by a list of numbers, as from a file."""

    def __init__(self, frames):
        self._frames = frames

    def __len__(self):
        return len(self._frames)

    def __getitem__(self, numbers):
        assert isinstance(numbers, list) and all(0 <= number < len(self._frames) for number in numbers)
        return self._frames[numbers]


class Drifts:
    """Red or blue squares on noise that drift left or right, in 16 to 22 frames of 20 x 24 px."""

    def __init__(self, count=40, seed=0):
        draws = np.random.default_rng(seed)
        self.labels = [index % CLASSES for index in range(count)]
        self.ids = [f"drift-{index:02}" for index in range(count)]
        self.videos = []
        for label in self.labels:
            frames = draws.integers(0, 60, (int(draws.integers(16, 23)), 20, 24, 3)).astype(np.uint8)
            path = np.linspace(2, 14, len(frames)).astype(int)
            top = int(draws.integers(3, 9))
            for frame, left in zip(frames, path[:: 1 if label < 2 else -1], strict=True):
                frame[top : top + 7, left : left + 7, 0 if label % 2 else 2] = 230
            self.videos.append(frames)

    def read(self, index):
        return Lazy(self.videos[index])


@pytest.fixture(scope="session")
def drifts():
    return Drifts()


@pytest.fixture(scope="session")
def source(drifts):
    return video.load(drifts, params.CVRL(**OF_DRIFTS), "cpu")


def shares(numbers, count):
    return torch.bincount(numbers.flatten(), minlength=count) / numbers.numel()


def assert_as_drawn(found, expected, draws):
    """Within five standard deviations of a multinomial's."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / draws).sqrt() + 1e-12).all(), (found, expected)


# --- clip samplers ---


def test_one_clip_is_uniform_in_the_video():
    draws = Draws(1, np.arange(20_000))
    frames = video.random_clips(4, 3)(draws, torch.full((20_000,), 16), 1)
    assert frames.shape == (1, 20_000, 4)
    assert (frames.diff(dim=2) == 3).all() and frames.min() == 0 and frames.max() == 13
    assert_as_drawn(shares(frames[0, :, 0], 5), [0.2] * 5, 20_000)


def test_probability_of_two_clips_falls_with_their_distance():
    room, n = 4, 40_000
    frames = video.random_clips(4, 3)(Draws(2, np.arange(n)), torch.full((n,), 12 + room), 2)
    first, second = frames[:, :, 0]
    apart = second - first
    share = [((room + 1 - k) ** 2 - (room - k) ** 2) / (room + 1) ** 2 for k in range(room + 1)]
    assert_as_drawn(shares(apart, room + 1), share, n)
    assert share == pytest.approx([9 / 25, 7 / 25, 5 / 25, 3 / 25, 1 / 25])
    for k in range(room):
        starts = first[apart == k]
        assert_as_drawn(shares(starts, room + 1 - k), [1 / (room + 1 - k)] * (room + 1 - k), len(starts))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 16, 40])
def test_short_videos_are_reflected_as_in_the_harness(n):
    clips = Clips(length=8, stride=2)
    [expected] = clip_frames(n, clips)
    found = video.reflect(torch.arange(0, 16, 2)[None, None] + max(0, n - 16) // 2, torch.tensor([n]))
    assert found.flatten().tolist() == expected


def test_local_clips_lie_along_the_global_one_as_tclrs():
    counts = torch.tensor([64, 70, 200])
    frames = video.global_and_local_clips(16, 4, 4, 1)(Draws(0, np.arange(3)), counts, 10)
    assert frames.shape == (10, 3, 16) and torch.equal(frames[:5], frames[5:])
    assert (frames < counts[:, None]).all() and frames[0, 2, 0] > 0
    for row in range(3):
        whole = frames[0, row].tolist()
        assert whole == list(range(whole[0], whole[0] + 64, 4))
        for chunk in range(4):
            assert frames[1 + chunk, row].tolist() == list(range(whole[4 * chunk], whole[4 * chunk] + 16))


def test_a_local_clip_that_ends_after_the_global_one_stays_in_the_video():
    frames = video.global_and_local_clips(8, 4, 3, 1)(Draws(0, np.arange(500)), torch.full((500,), 27), 10)
    assert frames.max() == 26 and set(frames[0, :, 0].tolist()) == {0, 1}


def test_a_view_is_drawn_by_its_video_and_step_alone(source):
    rows = (source.counts > 18).nonzero()[:, 0][[3, 1, 5, 2]]  # videos longer than their clips
    for count, sample_clips in ((1, None), (2, None), (10, video.global_and_local_clips(8, 4, 2, 1))):
        views = data.augmented_views(source, Augmentation(), count, 5, sample_clips)
        together = views(rows, 4)
        assert [view.shape for view in together] == [(4, 3, 8, 16, 16)] * count
        assert all(view.min() >= 0 and view.max() <= 1 for view in together)
        for place, row in enumerate(rows):
            for view, alone in zip(together, views(row[None], 4), strict=True):
                torch.testing.assert_close(view[place], alone[0], rtol=0, atol=1e-6)
        assert not any(torch.equal(a, b) for a, b in zip(together, views(rows, 5), strict=True))
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(together, 2))


def test_frames_of_a_clip_share_one_augmentation(source):
    still = Drifts(1)
    still.videos = [np.repeat(still.videos[0][:1], 20, 0)]
    views = data.augmented_views(video.load(still, params.CVRL(**OF_DRIFTS), "cpu"), Augmentation(), 2, 0)
    first, second = views(torch.tensor([0]), 0)
    assert torch.equal(first, first[:, :, :1].expand_as(first)) and not torch.equal(first, second)


# --- frames ---


def test_evaluation_clips_are_those_that_the_harness_attacks(drifts, source):
    recipe = params.CVRL(**OF_DRIFTS)
    judged = torch.cat(list(source.evaluation_batches()))
    assert judged.shape == (40, 3, 8, 16, 16)
    for frames, found in zip(drifts.videos, judged, strict=True):
        [wanted] = clip_frames(len(frames), recipe.preprocessing.clips)
        expected = preprocessed(frames[wanted], recipe.preprocessing)
        assert np.array_equal(np.moveaxis(expected, -1, 0), (found * 255).round().byte().numpy())


def test_frames_that_do_not_fit_the_memory_are_decoded_again_and_are_the_same(drifts, source):
    decoded = video.load(drifts, params.CVRL(**OF_DRIFTS), "cpu", max_bytes=1000)
    rows, sample_clips = torch.tensor([5, 0, 39]), video.global_and_local_clips(8, 4, 3, 1)
    for a, b in zip(*(each.raw_views(rows, 10, 3, sample_clips) for each in (source, decoded)), strict=True):
        assert a.dtype == torch.uint8 and torch.equal(a, b)
    assert all(
        torch.equal(a, b) for a, b in zip(source.evaluation_batches(), decoded.evaluation_batches(), strict=True)
    )
    part = decoded.subset(torch.tensor([9, 4]))
    first = next(source.evaluation_batches())
    assert torch.equal(next(part.evaluation_batches()), first[[9, 4]]) and part.labels.tolist() == [1, 0]


@pytest.mark.parametrize(("resize", "why"), [
    (8, r"'drift-00' are 8 x 9 x 3 after their resize, but the recipe says 16 x 16 x 3. Try: `video: {resize: 16}`"),
    (18, r"'drift-03' are 18 x 24 x 3 .* those of 'drift-00' are 18 x 21 x 3. Try: `video: {resize: \[18, 21\]}`"),
])  # fmt: skip
def test_frames_of_a_wrong_size_are_an_error(resize, why):
    odd = Drifts(8)
    odd.videos[3] = np.zeros((16, 18, 24, 3), np.uint8)
    with pytest.raises(UserError, match=why):
        video.load(odd, params.CVRL(**{**OF_DRIFTS, "video": Video(resize=resize)}), "cpu")


class Torn(Drifts):
    """Drifts of which some cannot be opened, and others not be decoded."""

    def __init__(self, unopened, undecoded):
        super().__init__(12)
        self.unopened, self.undecoded = unopened, undecoded

    def read(self, index):
        if index in self.unopened:
            raise UnreadableExample("it ends too soon")
        return Undecoded(self.videos[index]) if index in self.undecoded else super().read(index)


class Undecoded:
    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, wanted):
        raise OSError("its frames are broken")


@pytest.mark.parametrize(("unopened", "undecoded"), [({0, 5}, ()), ((), {0, 5}), ({5}, {0})])
def test_unreadable_videos_are_left_out_and_named(unopened, undecoded):
    said = []
    found = video.load(Torn(unopened, undecoded), params.CVRL(**OF_DRIFTS), "cpu", message=said.append)
    whole = video.load(Drifts(12), params.CVRL(**OF_DRIFTS), "cpu")
    rows = [row for row in range(12) if row not in (0, 5)]
    assert found.labels.tolist() == whole.labels[rows].tolist() and found.counts.tolist() == whole.counts[rows].tolist()
    for ours, theirs in zip(found.raw_views(torch.tensor([1, 9]), 2, 3),
                            whole.raw_views(torch.tensor([2, 11]), 2, 3), strict=True):  # fmt: skip
        assert ours.shape == theirs.shape
    a, b = (torch.cat(list(each.evaluation_batches())) for each in (found, whole))
    assert torch.equal(a, b[rows])
    assert "drift-00" in " ".join(said) and "drift-05" in " ".join(said)


def test_a_video_that_breaks_in_training_is_named():
    lazily = video.load(Torn((), {4}), params.CVRL(**OF_DRIFTS), "cpu", max_bytes=1000)
    with pytest.raises(UserError, match="the training video 'drift-04' cannot be read: its frames are broken"):
        lazily.raw_views(torch.tensor([4]), 1, 0)


# --- TCLR's terms by explicit loops ---


def unit_rows(*shape, seed=0):
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, 6))), dim=-1)


def nt_xent(a, b, temperature):
    """NT-Xent of two views, each (n, d), by explicit sums."""
    rows, n = torch.cat([a, b]), len(a)
    total = 0.0
    for i in range(2 * n):
        scores = {j: float(rows[i] @ rows[j]) / temperature for j in range(2 * n) if j != i}
        total -= scores[(i + n) % (2 * n)] - math.log(sum(math.exp(score) for score in scores.values()))
    return total / (2 * n)


def test_videos_are_contrasted_by_every_pair_of_views():
    """The authors' sum goes over all ordered pairs of the 8 local clips, over 4: 14 times the mean of pairs."""
    z = unit_rows(8, 5)
    ordered = [nt_xent(z[a], z[b], 0.1) for a in range(8) for b in range(8) if a != b]
    assert float(video.instance(z, 0.1)) == pytest.approx(sum(ordered) / 4 / 14)
    assert float(video.instance(z[:2], 0.1)) == pytest.approx(nt_xent(z[0], z[1], 0.1))


def test_clips_of_one_video_are_contrasted():
    """The authors' sum goes over videos: as many times the mean."""
    z = unit_rows(2, 4, 5)
    each = [nt_xent(z[0, :, row], z[1, :, row], 0.1) for row in range(5)]
    assert float(video.local_local(z, 0.1)) == pytest.approx(sum(each) / 5)


def test_steps_of_global_clips_find_local_clips_and_back():
    """The authors' sum goes over the 4 pairs of augmentations and the 4 steps, halved over both ways: 16 means."""
    steps, local = unit_rows(2, 5, 4), unit_rows(2, 5, 4, seed=1)
    total, count = 0.0, 0
    for a, b, row, at in itertools.product(range(2), range(2), range(5), range(4)):
        for anchor, others in ((steps[a, row, at], local[b, row]), (local[b, row, at], steps[a, row])):
            scores = [float(anchor @ other) / 0.1 for other in others]
            total -= scores[at] - math.log(sum(math.exp(score) for score in scores))
            count += 1
    assert count == 4 * 5 * 8
    assert float(video.global_local(steps, local, 0.1)) == pytest.approx(total / count)


def tclr(**changed):
    recipe = params.TCLR(**{**OF_DRIFTS, "batch": 5, **changed})
    context = Context(examples=40, classes=CLASSES, batch=5, epochs=1, shape=recipe.shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (initial weights)
        trunk = networks.OverTime(a=nn.Conv3d(3, 6, (2, 4, 4), stride=(2, 4, 4)), b=nn.Tanh())
        return Learner(networks.Encoder(trunk, 6, None), video.TCLRObjective(recipe, 6, context)).double()


def training_step():
    return TrainingStep(epoch=0, epochs=1, step=0, steps=1, batch=5)


def test_tclr_is_the_weighted_sum_of_its_terms():
    weights = (0.5, 14.0, 5.0, 16.0)
    learner = tclr(terms=weights)
    clips = torch.from_numpy(np.random.default_rng(0).random((2, 5, 5, 3, 8, 16, 16)))
    loss = learner(list(clips.flatten(0, 1)), torch.arange(5), training_step())
    encode, project = learner.encoder, lambda h: F.normalize(learner.objective.projection(h), dim=-1)
    whole = torch.stack([project(encode(clips[a, 0])) for a in range(2)])
    local = torch.stack([torch.stack([project(encode(clips[a, 1 + j])) for j in range(4)]) for a in range(2)])
    steps = torch.stack(
        [torch.stack([project(encode.over_time(clips[a, 0])[:, :, j]) for j in range(4)], 1) for a in range(2)]
    )
    terms = [video.instance(whole, 0.1), video.instance(local.flatten(0, 1), 0.1), video.local_local(local, 0.1),
             video.global_local(steps, local.transpose(1, 2), 0.1)]  # fmt: skip
    torch.testing.assert_close(loss.value, sum(w * term for w, term in zip(weights, terms, strict=True)))
    noted = [loss.notes[name] for name in ("instance_global", "instance_local", "local_local", "global_local")]
    torch.testing.assert_close(torch.stack(noted), torch.stack(terms).detach())
    loss.value.backward()
    assert all(value.grad.abs().max() > 0 for name, value in learner.named_parameters() if "2.bias" not in name)


def test_tclrs_start_is_the_loss_of_equal_clips():
    learner = tclr()
    clips = [torch.full((5, 3, 8, 16, 16), 0.5, dtype=torch.float64)] * 10
    value = learner(clips, torch.arange(5), training_step()).value
    assert (
        float(value)
        == pytest.approx(learner.objective.start)
        == pytest.approx(2 * math.log(9) + math.log(7) + math.log(4))
    )
    assert 0 < learner.objective.floor < 0.1


def test_too_few_time_steps_are_an_error(drifts, job):
    recipe = params.TCLR(**{**OF_DRIFTS, "chunks": 8})
    with pytest.raises(UserError, match=r"features have 4 time steps, fewer than TCLR's 8 chunks. Try: .*`chunks: 4`"):
        loop.train(job(recipe, dataset=drifts))


# --- networks ---


def test_features_of_r2plus1d_18_are_torchvisions():
    ours = networks.encoder("r2plus1d-18", "drifts/drifts", (3, 4, 32, 32)).eval()
    theirs = torchvisions.r2plus1d_18(weights=None).eval()
    theirs.load_state_dict(
        {name.removeprefix("trunk.layers."): value for name, value in ours.state_dict().items()}, strict=False
    )
    theirs.fc = nn.Identity()
    clips = torch.from_numpy(np.random.default_rng(0).random((1, 3, 4, 32, 32), np.float32))
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), theirs(clips))
    with torch.device("meta"):
        dilated = networks.encoder("r2plus1d-18-dilated", "", (3, 16, 112, 112))
        assert dilated.over_time(torch.zeros(2, 3, 16, 112, 112)).shape == (2, 512, 4)
    assert {n: v.shape for n, v in dilated.state_dict().items()} == {n: v.shape for n, v in ours.state_dict().items()}


def test_the_narrow_network_is_small_and_keeps_four_steps_of_eight():
    net = networks.encoder("r2plus1d-narrow", "", (3, 8, 32, 32))
    assert 10_000 < sum(value.numel() for value in net.parameters()) < 100_000
    clips = torch.from_numpy(np.random.default_rng(0).random((2, 3, 8, 32, 32), np.float32))
    steps = net.eval().over_time(clips)
    assert steps.shape == (2, net.width, 4)
    torch.testing.assert_close(net(clips), steps.mean(2))


# --- in the loop ---

RECIPES = {
    "cross-entropy": params.Supervised(**OF_DRIFTS),
    "cvrl": params.CVRL(**OF_DRIFTS),
    "tclr": params.TCLR(**{**OF_DRIFTS, "video": Video(resize=(16, 16))}),
    "finetune": params.CVRL(**{**OF_DRIFTS, "probe": {"kind": "finetune", "epochs": 2, "lr": 0.05, "batch": 16}}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_objective_gives_a_network_whose_gradient_reaches_all_frames(job, drifts, name):
    training = job(RECIPES[name], dataset=drifts)
    loop.train(training)
    net = loop.build(RECIPES[name], training.folder / artefact.WEIGHTS).eval()
    clips = next(video.load(drifts, RECIPES[name], "cpu").evaluation_batches())[:6].requires_grad_(True)
    logits = net(clips)
    assert logits.shape == (6, CLASSES) and logits.isfinite().all()
    F.cross_entropy(logits, torch.tensor(drifts.labels[:6])).backward()
    assert (clips.grad.abs().amax((1, 3, 4)) > 0).all()
    noted = [json.loads(line) for line in (training.folder / artefact.METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in noted] == [1, 2]


def test_probes_use_the_clips_of_evaluation(source):
    net = networks.encoder("r2plus1d-narrow", "", (3, 8, 16, 16))
    found = probe.features(net, source)
    with torch.no_grad():
        torch.testing.assert_close(found, net(torch.cat(list(source.evaluation_batches()))))
    classifier = probe.fit(components.read("probe", {"l2": 1e-4}, Probe, "lbfgs"), net, source, CLASSES, None, 0)
    assert probe.accuracy(classifier, source) > 0.9


@pytest.mark.parametrize("name", ["cvrl", "tclr"])
def test_stopped_after_an_epoch_it_comes_to_the_same_weights(job, drifts, name):
    whole, again = job(RECIPES[name], "whole", dataset=drifts), job(RECIPES[name], "again", dataset=drifts)
    loop.train(whole)

    def save_and_stop(*words):
        artefact.save_checkpoint(*words)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(again, save=save_and_stop)
    loop.train(again)
    expected, found = (load_file(job.folder / artefact.WEIGHTS) for job in (whole, again))
    assert expected.keys() == found.keys() and all(torch.equal(value, found[key]) for key, value in expected.items())
    assert (whole.folder / artefact.METRICS).read_text() == (again.folder / artefact.METRICS).read_text()


# --- options in a suite ---


def test_clips_in_training_are_those_of_the_model():
    images, clips = declared_input(params.SimCLR()), declared_input(params.CVRL())
    assert (images["input"].kind, images["preprocessing"]) == ("image", None)
    assert (clips["input"].kind, clips["input"].shape) == ("video", (3, 8, 32, 32))
    assert clips["preprocessing"].clips == Clips(length=8, stride=3)
    found = declared_input(params.Supervised(data="datasets/ucf101", network="r2plus1d-18"))
    assert (found["input"].kind, found["input"].shape, found["labels"]) == ("video", (3, 16, 112, 112), "ucf-101")
    steps = found["preprocessing"]
    assert (steps.resize, steps.crop, steps.size) == ((128, 171), (112, 112), (112, 112))
    assert steps.clips == Clips(length=16, stride=2)


@pytest.mark.parametrize(("changed", "why"), [
    ({"data": "datasets/cifar-10"}, "TCLR compares clips of videos, but 'datasets/cifar-10' has images"),
    ({"chunks": 3}, "cannot divide clips of 8 frames into 3 chunks of equal length. Try: `chunks: 2`"),
    ({"local_stride": 0}, "local_stride=0 must be above 0"),
])  # fmt: skip
def test_invalid_recipes_are_refused(changed, why):
    with pytest.raises(ValueError, match=why):
        params.TCLR(**changed)


def test_networks_are_of_videos_or_of_images():
    with pytest.raises(UserError, match="the network small does not take videos"):
        networks.encoder("small", "", (3, 8, 32, 32))
    with pytest.raises(UserError, match="the network r2plus1d-18 does not take images"):
        networks.encoder("r2plus1d-18", "", (3, 32, 32))
