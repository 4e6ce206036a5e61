"""Clips of videos: which frames, one perturbation per frame, logits of several clips, and broken videos."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from robharness import Clips, UserError, api
from robharness.cli import main
from robharness.errors import UnreadableExample
from robharness.evaluation import batch_sizes, loading
from robharness.evaluation.clips import ClipLayout, clip_frames
from robharness.evaluation.images import on_canvas
from robharness.evaluation.rng import ExampleRNG
from robharness.report import build

FILMS = str(Path(__file__).parent / "films.py")
films = runpy.run_path(FILMS)


def suite(attacks=(), clips=None, split="whole", **preprocessing):
    model = {"model": "films/net", "label": "Net"}
    changed = {**preprocessing, **({"clips": clips} if clips else {})}
    model |= {"preprocessing": changed} if changed else {}
    return {"robharness": 1, "name": "films", "data": {"name": "films/films", "split": split}, "models": [model],
            "attacks": list(attacks)}  # fmt: skip


def run(tmp_path, source, store="store", **options):
    return api.run(source, store=tmp_path / store, plugins=[FILMS], **options)


def loaded(source, rows=4):
    plan = api.plan(source, plugins=[FILMS])
    return plan, loading.load_model(plan, plan.models[0], batch_size=rows)


# --- which frames ---


def test_one_clip_is_in_the_middle():
    assert clip_frames(20, Clips(length=4, stride=2)) == [[6, 8, 10, 12]]
    assert clip_frames(8, Clips(length=4, stride=2)) == [[0, 2, 4, 6]]


def test_several_clips_start_at_equal_distances():
    """TCLR's ten: linspace(0, N - 32 - 10, 10) for 16 frames with a stride of 2."""
    found = clip_frames(120, Clips(length=16, stride=2, count=10, margin=10))
    assert [clip[0] for clip in found] == [int(start) for start in np.linspace(0, 120 - 32 - 10, 10)]
    assert all(np.diff(clip).tolist() == [2] * 15 for clip in found)


@pytest.mark.parametrize(("short", "expected"), [
    ("mirror", [0, 1, 2, 1, 0, 1, 2, 1]), ("last", [0, 1, 2, 2, 2, 2, 2, 2]), ("loop", [0, 1, 2, 0, 1, 2, 0, 1]),
])  # fmt: skip
def test_a_short_video_is_padded_as_declared(short, expected):
    assert clip_frames(3, Clips(length=8, short=short)) == [expected]
    assert clip_frames(1, Clips(length=3, short=short)) == [[0, 0, 0]]


def test_a_video_without_frames_is_broken():
    with pytest.raises(UnreadableExample, match="no frames"):
        clip_frames(0, Clips(length=2))


def test_only_the_frames_of_the_clips_are_decoded():
    plan, model = loaded(suite(clips={"count": 1}))
    model.reader.images(0, plan.n)
    for index, film in plan.data.dataset.opened.items():
        wanted = clip_frames(len(film), Clips(length=4, stride=2))[0]
        assert film.requested == [sorted(set(wanted))], index


# --- logits and gradients of several clips ---


def clips_by_hand(index, clips):
    """The clips of a film cut out one by one, (K, 3, 4, 6, 6) in [0, 1]."""
    frames = films["film"](index)[:, :, 1:7]  # the central 6 of 8 columns
    found = [frames[clip] for clip in clip_frames(len(frames), clips)]
    return torch.from_numpy(np.stack(found)).permute(0, 4, 1, 2, 3).float() / 255


@pytest.mark.parametrize("aggregation", ["probabilities", "logits"])
def test_logits_are_those_of_clips_that_are_cut_one_by_one(tmp_path, aggregation):
    found = run(tmp_path, suite(clips={"aggregation": aggregation}))
    stored = found.clean("Net").columns
    clips, net = Clips(length=4, stride=2, count=3), films["Net"]()
    columns = [stored[name] for name in ("example", "prediction", "margin", "label")]
    for example, prediction, margin, label in zip(*columns, strict=True):
        logits = net(clips_by_hand(int(example[-2:]), clips)).double()
        together = logits.softmax(1).mean(0).log() if aggregation == "probabilities" else logits.mean(0)
        others = together.clone()
        others[label] = -torch.inf
        assert prediction == together.argmax()
        assert margin == pytest.approx(float(together[label] - others.max()), abs=1e-4)


def test_a_frame_has_one_gradient_the_sum_over_its_clips():
    plan, model = loaded(suite())
    net, clips = films["Net"](), Clips(length=4, stride=2, count=3)
    shared = 0
    for positions, batch in model.reader.batches(model.reader.images(0, plan.n)):
        view = model.classifier.with_clips(batch.clip_layout, batch.x)
        found = view.gradient(batch.x, batch.labels, films["loss"])
        for row, position in enumerate(positions):
            index = plan.data.order[position]
            cut = clips_by_hand(index, clips).requires_grad_(True)
            loss = -net(cut).log_softmax(1).logsumexp(0)[batch.labels[row]] + np.log(3)
            (each,) = torch.autograd.grad(loss, cut)
            wanted = clip_frames(len(films["film"](index)), clips)
            distinct = sorted({frame for clip in wanted for frame in clip})
            place = {frame: number for number, frame in enumerate(distinct)}
            summed = torch.zeros_like(batch.x[row])
            for gradient, clip in zip(each, wanted, strict=True):
                for number, frame in enumerate(clip):
                    summed[:, place[frame]] += gradient[:, number]
            shared += len(place) < 12
            torch.testing.assert_close(found.gradient[row], summed, atol=1e-6, rtol=1e-4)
    assert shared > 10


def test_norms_count_every_frame_once(tmp_path):
    """An l2 step of length eps has length eps over the distinct frames, of which there are fewer than in the clips."""
    found = run(tmp_path, suite([{"attack": "films/step", "norm": "l2", "eps": "1/2"}]))
    [cell] = found.of("Net", "attack")
    films_of = [films["film"](int(example[-2:])) for example in cell.columns["example"]]
    distinct = [
        len({f for clip in clip_frames(len(film), Clips(length=4, stride=2, count=3)) for f in clip})
        for film in films_of
    ]
    assert cell.columns["frames"].tolist() == distinct
    assert len(set(distinct)) > 3 and max(distinct) == 12
    assert (cell.columns["size"] <= 0.5 * (1 + 1e-4)).all() and (cell.columns["size"] > 0.4).all()


def test_three_crops_are_cut_at_both_ends_and_in_the_middle():
    plan, model = loaded(suite(clips={"crops": 3, "count": 1}))
    for positions, batch in model.reader.batches(model.reader.images(0, plan.n)):
        assert batch.x.shape[-2:] == (6, 8)  # whole frames: what is perturbed is shared by the squares
        assert batch.clip_layout.corners == ((0, 0), (0, 1), (0, 2)) and batch.clip_layout.n_clips == 3
        clips = batch.clip_layout.clips(batch.x)
        for row, position in enumerate(positions):
            frames = films["film"](plan.data.order[position])
            [wanted] = clip_frames(len(frames), Clips(length=4, stride=2))
            for crop, left in enumerate((0, 1, 2)):
                expected = torch.from_numpy(frames[wanted][:, :, left : left + 6]).permute(3, 0, 1, 2).float() / 255
                assert torch.equal(clips[3 * row + crop], expected)


def test_features_are_the_mean_over_clips():
    _, model = loaded(suite())
    view = model.classifier.with_access("features")
    [(_, batch), *_] = model.reader.batches(model.reader.images(0, 8))
    found, net = view.with_clips(batch.clip_layout, batch.x).features(batch.x), films["Net"]()
    index = int(batch.ids[0][-2:])
    clips = clips_by_hand(index, Clips(length=4, stride=2, count=3))
    expected = (8 * (clips.flatten(1) - 0.5) @ net.first).tanh().mean(0)
    torch.testing.assert_close(found[0], expected)


# --- what an example gets is its own ---


STEP = {"attack": "films/step", "eps": ["1/255", "4/255"]}


def outcomes(found):
    return [{name: cell.columns[name].tolist() for name in ("example", "prediction", "correct", "margin", "size")}
            for cell in found.cells]  # fmt: skip


def test_outcomes_do_not_depend_on_batches_or_shards(tmp_path):
    """The same rows of a pass, in other company: films of other lengths, alone, in shards."""
    whole = outcomes(run(tmp_path, suite([STEP]), batch_size=4))
    for shard in (1, 2, 3):
        run(tmp_path, suite([STEP]), "shards", batch_size=4, shard=(shard, 3))
    assert str(whole) == str(outcomes(run(tmp_path, suite([STEP]), "shards", batch_size=4)))
    limited = outcomes(run(tmp_path, suite([STEP]), "limited", batch_size=4, limit=7))
    first = [{name: values[:7] for name, values in cell.items()} for cell in whole]
    assert str(first) == str(limited)


def test_clips_are_identity():
    def key(**clips):
        return api.plan(suite(clips=clips), plugins=[FILMS]).cells[0].key

    assert len({key(count=1), key(), key(short="loop"), key(aggregation="logits")}) == 4
    assert key(count=3) == key()


# --- corruptions ---


def corrupted_by_hand(index, severity, clips):
    """A film's clips, cut one by one from frames that were corrupted one by one, (K, 3, 4, 6, 6) in [0, 1]."""
    frames, address = films["film"](index), '["films/grainy", {}]'
    share = ExampleRNG(0, address, [f"film-{index:02}"]).uniform("share", ())[0].item()
    found = {}
    for number in {frame for clip in clip_frames(len(frames), clips) for frame in clip}:
        rng = ExampleRNG(0, address, [f"film-{index:02}"]).of_frames([[number]], ("grains",))
        frame = torch.from_numpy(on_canvas(frames[number], 8).copy())
        grains = 20 * severity * rng.uniform("grains", (8, 8, 3))[0]
        frame = (frame * share - grains).clamp(0, 255).to(torch.uint8) if severity else frame
        found[number] = np.asarray(Image.fromarray(frame.numpy()).resize((6, 6), Image.Resampling.BILINEAR))
    cut = [[found[number] for number in clip] for clip in clip_frames(len(frames), clips)]
    return torch.from_numpy(np.array(cut)).permute(0, 4, 1, 2, 3).float() / 255


def test_corrupted_frames_are_cut_into_clips(tmp_path):
    settings = {"canvas": 8, "corruptions": [{"corruption": "films/grainy", "severity": [1, 3]}]}
    found = run(tmp_path, suite() | settings)
    clips, net = Clips(length=4, stride=2, count=3), films["Net"]()
    for cell, severity in zip(found.cells, (0, 1, 3), strict=True):
        columns = [cell.columns[name] for name in ("example", "margin", "label")]
        for example, margin, label in zip(*columns, strict=True):
            together = net(corrupted_by_hand(int(example[-2:]), severity, clips)).double().softmax(1).mean(0).log()
            others = together.clone()
            others[label] = -torch.inf
            assert margin == pytest.approx(float(together[label] - others.max()), abs=1e-4)
    alone = run(tmp_path, suite() | settings, "alone", batch_size=4)
    assert str(outcomes(alone)) == str(outcomes(found))


def test_options_that_videos_do_not_support_are_refused(tmp_path):
    grainy = {"canvas": 8, "corruptions": [{"corruption": "films/grainy", "severity": 1}]}
    with pytest.raises(UserError, match=r"crops 3 squares of a frame, and a canvas is one square; write `prep.*1}}`"):
        api.plan(suite(clips={"crops": 3}) | grainy, plugins=[FILMS])
    with pytest.raises(UserError, match="compat: ImageNet-C has images, films/films holds videos; leave `compat` out"):
        api.plan(suite() | grainy | {"canvas": 224, "compat": "imagenet-c"}, plugins=[FILMS])
    with pytest.raises(UserError, match="films/dim does not take videos, as films/net does"):
        api.plan(suite() | {"canvas": 8, "corruptions": [{"corruption": "films/dim", "severity": 1}]}, plugins=[FILMS])
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite() | grainy))
    words = ["export-corruptions", str(tmp_path / "suite.yaml"), "-p", FILMS, "-o", str(tmp_path / "made")]
    assert main(words) == 2


def test_the_length_of_a_clip_is_that_of_the_input():
    plan = api.plan(suite(clips={"length": 2}), plugins=[FILMS])
    assert plan.models[0].entry.spec.input.shape == (3, 2, 6, 6)
    spec = plan.models[0].entry.spec
    with pytest.raises(ValueError, match="net has 2 frames in its input and 5 in a clip"):
        dataclasses.replace(spec, preprocessing=dataclasses.replace(spec.preprocessing, clips=Clips(length=5)))


def test_an_export_leaves_broken_videos_out(tmp_path, capsys):
    source = suite([{"attack": "films/step", "eps": "8/255"}], split="torn")
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(source))
    words = [str(path), "-p", FILMS, "--store", str(tmp_path / "store")]
    assert main(["export-adversarial", *words, "-o", str(tmp_path / "made")]) == 0
    assert "19 images; none stored; 1 examples cannot be read" in capsys.readouterr().out
    plan = api.plan(source, plugins=[FILMS])
    at = [plan.data.dataset.ids[index] for index in plan.data.order].index("film-03") + 1
    assert (
        main(["export-adversarial", *words, "-o", str(tmp_path / "one"), "--batch-size", "1", "--limit", str(at)]) == 0
    )


def test_exports_are_what_the_network_takes(tmp_path):
    from robharness.export.adversarial import export_adversarial
    from robharness.store import Store

    source = suite([{"attack": "films/step", "eps": "8/255"}])
    found = run(tmp_path, source)
    plan = api.plan(source, plugins=[FILMS])
    [made] = export_adversarial(plan, Store(tmp_path / "store"), tmp_path / "made", device="cpu")
    assert (made.n, made.stored, made.differing) == (20, 20, 0)
    [cell], net = found.of("Net", "attack"), films["Net"]()
    stored = dict(zip(cell.columns["example"], cell.columns["correct"], strict=True))
    for path in made.folder.glob("*.npz"):
        part = np.load(path)
        assert part["images"].shape[1:] == (3, 3, 4, 6, 6)  # clips, channels, frames
        logits = torch.stack([net(torch.from_numpy(clips)).softmax(1).mean(0) for clips in part["images"]])
        right = logits.argmax(1).numpy() == part["labels"]
        assert {id: bool(value) for id, value in zip(part["examples"], right, strict=True)} == {
            id: stored[id] for id in part["examples"].tolist()
        }


# --- broken videos ---


def test_a_broken_video_counts_as_wrong_and_is_reported_by_name(tmp_path):
    found = run(tmp_path, suite([STEP], split="torn"))
    assert found.is_complete and not any(cell.failures for cell in found.cells)
    for cell in found.cells:
        assert cell.unreadable == ["film-03"] and cell.not_numbers == 0
        row = cell.columns["example"].tolist().index("film-03")
        assert not cell.correct[row] and np.isnan(cell.columns["margin"][row]) and not cell.columns["attacked"][row]
    [warning] = [warning for warning in build(found).warnings if "film-03" in warning]
    assert warning.startswith(
        "1 example of the data cannot be read and counts as wrong everywhere: film-03 (it ends too soon); after mending"
    )
    whole = run(tmp_path, suite([STEP]), "whole")
    for torn, other in zip(outcomes(found), outcomes(whole), strict=True):
        for name in torn:
            pairs = zip(torn["example"], torn[name], other[name], strict=True)
            assert all(str(a) == str(b) for example, a, b in pairs if example != "film-03"), name


# --- preprocessing ---


def test_the_crop_may_come_first():
    """TCLR: the central 192 of 240 rows, resized to 112."""
    from robharness import Preprocessing
    from robharness.evaluation.images import preprocessed

    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    found = preprocessed(frame, Preprocessing(first="crop", crop=192, resize=(112, 112)))
    left = Image.fromarray(frame[24:216, 64:256]).resize((112, 112), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(left))
    assert Preprocessing(first="crop", crop=192, resize=(112, 112)).size == (112, 112)
    assert Preprocessing(resize=256, crop=224).size == (224, 224)
    assert Preprocessing(resize=256).size is None


def test_a_pass_takes_fewer_examples_of_several_clips():
    device = torch.device("cpu")
    one = batch_sizes.batch_size_candidates((3, 16, 112, 112), 1000, device)
    ten = batch_sizes.batch_size_candidates((3, 16, 112, 112), 1000, device, clips=10)
    assert one == [4] and ten == [2]
    assert ClipLayout.apart(Clips(length=2, count=3), (3, 2, 4, 4)).n_frames == 6


@pytest.mark.parametrize(("change", "words"), [
    ({"clips": {"counts": 2}}, r"unknown key 'counts'; did you mean 'count'"),
    ({"clips": {"count": 0}}, r"count=0 must be a whole number from 1 to 16384"),
    ({"channel_order": "gbr"}, r"channel_order='gbr' must be one of rgb, bgr"),
    ({"crops": 5}, r"unknown key 'crops'; did you mean 'crop'"),
    ({"crop": [6]}, r"crop=\(6,\) must be a length or \(height, width\)"),
    ({"crop": True}, r"crop=True must be a length or"),
    ({"clips": 5}, r"clips=5 must be a Clips"),
    ({"antialias": "no"}, r"antialias='no' must be true or false"),
    ({"first": "crop", "clips": {"crops": 3}}, r"three crops need frames whose shorter side is resized"),
    ({"resize": [6, 6], "clips": {"crops": 3}}, r"three crops need frames whose shorter side is resized"),
])  # fmt: skip
def test_an_invalid_preprocessing_change_is_reported_with_its_position(tmp_path, change, words):
    source = suite()
    source["models"][0]["preprocessing"] = change
    with pytest.raises(UserError, match=words):
        api.plan(source, plugins=[FILMS])


def test_a_live_network_declares_its_clips(tmp_path):
    from robharness import InputSpec, ModelSpec, Preprocessing

    settings = suite() | {"models": []}
    with pytest.raises(UserError, match="does not determine the frames of a video"):
        api.plan(settings, plugins=[FILMS], models={"mine": films["Net"]()})
    mine = ModelSpec(
        name="mine",
        summary="A live network",
        input=InputSpec(kind="video", shape=(3, 4, 6, 6)),
        labels="films",
        build=lambda params, weights: films["Net"](),
        preprocessing=Preprocessing(crop=6, clips=Clips(length=4, stride=2, count=3)),
    )
    found = run(tmp_path, settings, "live", models={"mine": mine})
    declared = run(tmp_path, suite(), "declared")
    pairs = zip(found.clean("mine").columns["margin"], declared.clean("Net").columns["margin"], strict=True)
    assert all(mine == theirs for mine, theirs in pairs)
